"""Exported pitch models hop by hop: PyTorch as it is, TorchScript, ONNX Runtime, and the torch-free stream of the tracker.

CPU time of one stream with one thread, the candidates in turn; weights are random, as time does not depend on them. Prints
microseconds per hop (medians), the ratio of PyTorch to ONNX Runtime, and file sizes; writes reports/bench/export.json.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from _common import ratio_table, save

from mirkit.pitch.config import make_config
from mirkit.pitch.export import ExportedModel, StreamingPitch, export_model, glides
from mirkit.pitch.model import PestoModel
from mirkit.pitch.tracker import PitchTracker

PRESETS = ("pitch", "pitch-live", "small-vqt", "mir-1k_g7")
CASES = [(preset, sr, step) for preset in PRESETS for sr in (16000, 48000) for step in (5.0, 10.0)]
LEAST = 1.5  # ratio


def eager(module):
    "PyTorch as a function of one hop that keeps its state"
    state = module.initial_state()

    def push(chunk):
        nonlocal state
        with torch.inference_mode():
            *_, state = module(torch.from_numpy(chunk), state)

    return push


def microseconds(candidates, chunks, rounds=5):
    "CPU time of each hop, (hops,) for each candidate; they take turns"
    times = {name: [] for name in candidates}
    for push in candidates.values():
        for chunk in chunks[:50]:
            push(chunk)
    for some in np.array_split(np.arange(len(chunks)), rounds):
        for name, push in candidates.items():
            for i in some:
                start = time.thread_time_ns()
                push(chunks[i])
                times[name].append((time.thread_time_ns() - start) / 1000)
    return {name: np.array(t) for name, t in times.items()}


def measure(preset, sr, step, folder, hops=600):
    model = PestoModel(make_config(preset)).eval()
    module, files = StreamingPitch(model, sr, step), {}
    for name, ending in (("TorchScript", "pt"), ("ONNX", "onnx")):
        files[name] = folder / f"model.{ending}"
        export_model(model, files[name], sr, step, force=True)
    chunks = np.split(glides(1, hops * module.hop_length, sr), hops, 1)
    candidates = {"PyTorch": eager(module)} | {name: ExportedModel(path) for name, path in files.items()}
    candidates["stream"] = PitchTracker(model, step_size=step).stream(sr, batch=1).push
    times = microseconds(candidates, chunks)
    row = {"case": f"{preset}, {sr / 1000:g} kHz, {step:g} ms"}
    row |= {f"{name} µs": float(np.median(t)) for name, t in times.items()}
    row |= {"ONNX p99 µs": float(np.percentile(times["ONNX"], 99)), "ratio": row["PyTorch µs"] / row["ONNX µs"]}
    row |= {f"{name} kB": path.stat().st_size // 1000 for name, path in files.items()}
    return row | {"latency ms": 1000 * module.latency, "state": module.state_size}


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(*case, Path(folder)) for case in CASES]
    save("export", ratio_table("One hop of a stream, CPU time with one thread", rows), [LEAST] * len(rows))


if __name__ == "__main__":
    main()
