"""Constant-Q front end: the fast engine against the dense convolution it equals, in one process with one thread.

Prints CPU seconds, their ratio and the largest difference; writes reports/bench/cqt.json.
"""

import time

import torch
from _common import ratio_table, save

from mirkit.signal.cqt import CQT

V1, G7 = {"fmin": 26.9756, "n_bins": 296}, {"fmin": 26.9756, "n_bins": 251, "gamma": 7.0}
CASES = {  # name: sampling rate, options of the transform (those of the two PESTO models), hop in ms, least ratio
    "mir-1k, 16 kHz, 20 ms": (16000, V1, 20, 5),
    "mir-1k, 16 kHz, 10 ms": (16000, V1, 10, 10),
    "mir-1k, 44.1 kHz, 10 ms": (44100, V1, 10, 20),
    "g7, 16 kHz, 10 ms": (16000, G7, 10, 1.5),
    "g7, 44.1 kHz, 10 ms": (44100, G7, 10, 2),
}


def cpu_seconds(function, x, repeats=3):
    "Best of several runs after a warm-up"
    function(x)
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function(x)
        times.append(time.process_time() - start)
    return min(times)


def main(seconds=10):
    torch.set_num_threads(1)
    rows = []
    for name, (sr, options, step, _) in CASES.items():
        x = torch.randn(seconds * sr, generator=torch.Generator().manual_seed(0))
        engines = {e: CQT(sr, round(step * sr / 1000), engine=e, **options) for e in ("reference", "fast")}
        slow, fast = (cpu_seconds(engines[e], x) for e in ("reference", "fast"))
        a, b = (engines[e](x) for e in ("reference", "fast"))
        error = float((a - b).abs().max() / a.abs().max())
        rows.append({"case": name, "reference s": slow, "ours s": fast, "ratio": slow / fast, "max difference": error})
    save("cqt", ratio_table("Constant-Q transform of 10 s, one thread", rows), [least for *_, least in CASES.values()])


if __name__ == "__main__":
    main()
