"""The teacher of pitch models: frames that one core renders in a second, against a generator that adds up harmonics with numpy.

Both render the same clips, content and all, and differ in their oscillators only: the house's bank, or one turning complex number whose
powers are the harmonics, a multiplication each (in single precision, so that late harmonics drift). The oscillators alone are compared too. Writes
reports/bench/teacher.json; an error where a floor is missed.
"""

import argparse
from unittest.mock import patch

import numpy as np
import torch
from _common import ratio_table, save
from threadpoolctl import threadpool_limits

from mirkit.core.peer_worker import timed
from mirkit.pitch import teacher


def by_powers(f0, ratios, levels, hop, sr):
    "What `teacher._oscillate` does, with numpy"
    way, n = np.arange(hop) / hop, len(f0) - 1
    lines = f0[:-1, None] + np.diff(f0)[:, None] * way
    phase = np.cumsum(lines.ravel() / sr)
    turn = np.exp(2j * np.pi * (phase % 1)).astype(np.complex64)
    now, out, ramp = np.ones_like(turn), np.zeros(n * hop, np.float32), way.astype(np.float32)
    for h, (ratio, level) in enumerate(zip(ratios, levels.T, strict=True), 1):
        now = now * turn
        wave = now
        if ratio != h:
            wave = now * np.exp(2j * np.pi * ((ratio - h) * phase % 1).astype(np.float32)).astype(np.complex64)
        out += (level[:-1, None] + np.diff(level)[:, None] * ramp).ravel() * wave.imag
    return out


def controls(count):
    "What the oscillators are asked for in the first clips"
    with patch.object(teacher, "_oscillate", side_effect=teacher._oscillate) as asked:
        for i in range(count):
            teacher.render_clip(0, i)
    return [call.args for call in asked.call_args_list]


def turns(sides, rounds):
    "CPU seconds of each function, the best of rounds in which they take turns"
    spent = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            spent[name].append(timed(side)[1]["cpu"])
    return {name: min(s) for name, s in spent.items()}


def rendered(oscillate, clips, seconds):
    "Frames rendered with some oscillators"
    with patch.object(teacher, "_oscillate", oscillate):
        return sum(len(teacher.render_clip(1, i, seconds).f0) for i in range(clips))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=60, help="that are rendered in a round (60)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is asked (3)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    banks, rows = {"numpy": by_powers, "ours": teacher._oscillate}, []
    with threadpool_limits(1):
        asked = controls(args.clips)
        alone = turns({n: lambda f=f: [f(*x) for x in asked] for n, f in banks.items()}, args.rounds)
        rows.append({"case": "oscillators alone", **{f"{n} ms a clip": 1e3 * s / len(asked) for n, s in alone.items()}})
        rows[0]["ratio"] = alone["numpy"] / alone["ours"]
        for seconds in (2.56, 5.12):
            frames = rendered(banks["ours"], args.clips, seconds)
            spent = turns({n: lambda f=f, s=seconds: rendered(f, args.clips, s) for n, f in banks.items()}, args.rounds)
            rate = {f"{n} frames per second": frames / s for n, s in spent.items()}
            rows.append({"case": f"clips of {seconds} s", **rate, "ratio": spent["numpy"] / spent["ours"]})
    columns = list(dict.fromkeys(k for r in rows for k in r))
    table = ratio_table("Teacher, frames of 20 ms, one core", [{c: r.get(c, "–") for c in columns} for r in rows])
    save("teacher", table, (1.5, 1.1, 1.1))


if __name__ == "__main__":
    main()
