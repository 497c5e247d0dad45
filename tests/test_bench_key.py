"""The page of bench/key.py from made-up measurements, and its plain network against ours"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import key as bench

from mirkit.key.chromanet import STONE12, STONE24, ChromaNet


@pytest.fixture
def results() -> dict:
    return {
        "fronts": [
            {"case": "VQT", "reference s": 3.0, "ours s": 0.1, "ratio": 30.0, "max difference": 1e-6, "floor": 20}
        ],
        "models": [
            {"case": "skey", "reference s": 3.0, "ours s": 1.0, "ratio": 3.0, "max difference": 1e-7, "floor": 5}
        ],
        "files": [{"case": "S-KEY: an hour in one file", "why": "no <network>"}],
    }


def test_missed(results):
    assert bench.missed(results) == ["skey: 3.0 instead of 5"]
    results["models"][0] |= {"ratio": 6.0, "max difference": 0.1}
    results["files"] = [{"case": "S-KEY: an hour in one file", "peak_mb": 5000.0}]
    assert bench.missed(results) == ["skey: differs by 0.1", "S-KEY: an hour in one file: 5000 MB"]


def test_page(results, tmp_path):
    docs, missed = dict.fromkeys(results, "What it is"), bench.missed(results)
    file = bench.write_page(tmp_path / "key.html", "Keys", results, bench.TITLES, docs, missed, 1)
    page = file.read_text(encoding="utf-8")
    assert "no &lt;network&gt;" in page and "1 of the floors missed" in page


@pytest.mark.parametrize("config", (STONE12, STONE24), ids=("stone12", "stone24"))
def test_plain_network_is_ours(config):
    torch.manual_seed(0)
    net, x = ChromaNet(config).eval(), torch.randn(2, 1, 84, 200)
    with torch.inference_mode():
        np.testing.assert_allclose(bench.plain_logits(net, x), net(x), atol=1e-5)
