"""bench/ddsp.py: what it calls missed, and that its plain banks are what ours are compared with"""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import ddsp as bench


def test_missed():
    row = {"case": "hop 64", "ratio": 12.0, "floor": 5, "max difference": 1e-6}
    assert bench.missed({"Oscillators": [row], "Memory": [{"case": "10 minutes", "peak_mb": 400.0}]}) == []
    slow, far = row | {"ratio": 3.0}, row | {"max difference": 0.1}
    assert bench.missed({"Oscillators": [slow, far]}) == ["hop 64: 3.0 instead of 5", "hop 64: max difference = 0.1"]


@pytest.mark.parametrize("high", [80, 4000])
def test_plain_banks(high):
    f0, a = bench.controls(2, 25, 30, 60, high)
    n = 25 * 64
    ours = bench.our_harmonics(f0, a, n)
    for plain in (bench.phase_each, bench.phase_once):
        torch.testing.assert_close(plain(f0, a, n), ours, atol=1e-5, rtol=0)
    f = f0 * torch.arange(1, 31) + 3
    torch.testing.assert_close(bench.phase_each(f, a, n, free=True), bench.our_sinusoids(f, a, n), atol=1e-5, rtol=0)


def test_kept():
    x = torch.ones(1000, requires_grad=True)
    assert bench.kept(lambda: (x.exp() * 2).sin()) == pytest.approx(0.008)
