"""One hop of a pitch stream against the plain way: dense kernels as one product, then the network in eager torch.

Both sides take turns, in one process with one thread. Prints CPU time per hop in milliseconds; writes reports/bench/stream.json.
"""

import time

import numpy as np
import torch
from _common import ratio_table, save

from mirkit.pitch.config import make_config
from mirkit.pitch.model import PestoModel
from mirkit.pitch.tracker import PitchTracker
from mirkit.signal.fold import cqt_kernel, kernel_start

CASES = {  # name: preset, sampling rate, ms per hop, options of the stream, least ratio
    "g7, 16 kHz, 5 ms": ("mir-1k_g7", 16000, 5, {}, 2),
    "g7, 16 kHz, 10 ms": ("mir-1k_g7", 16000, 10, {}, 2),
    "g7, 44.1 kHz, 5 ms": ("mir-1k_g7", 44100, 5, {}, 2),
    "g7, 44.1 kHz, 10 ms": ("mir-1k_g7", 44100, 10, {}, 2),
    "g7, 48 kHz, 5 ms": ("mir-1k_g7", 48000, 5, {}, 2),
    "g7, 48 kHz, 10 ms": ("mir-1k_g7", 48000, 10, {}, 2),
    "g7, 44.1 kHz, 10 ms, latency 20 ms": ("mir-1k_g7", 44100, 10, {"latency": 20}, 1.7),
    "mir-1k, 16 kHz, 10 ms": ("mir-1k", 16000, 10, {}, 3),
}


class Plain:
    "A ring of samples, kernels padded to a power of two as one matrix, and the network as torch runs it"

    def __init__(self, model, stream):
        lengths, self.model = stream.cqt.lengths, model
        self.hop, width = stream.cqt.hop_length, 1 << int(np.ceil(np.log2(lengths.max())))
        kernels = np.zeros((len(lengths), width), np.complex64)
        for k, (f, n) in enumerate(zip(stream.cqt.frequencies, lengths, strict=True)):
            at = width // 2 + kernel_start(int(n))
            kernels[k, at : at + n] = cqt_kernel(f, int(n), stream.sr)
        self.kernels = np.concatenate((kernels.real, kernels.imag))
        self.ring = np.zeros(width, np.float32)

    @torch.inference_mode()
    def push(self, chunk):
        self.ring[: -self.hop] = self.ring[self.hop :]
        self.ring[-self.hop :] = chunk
        real, imaginary = np.split(self.kernels @ self.ring, 2)
        db = 10 * np.log10(np.maximum(real**2 + imaginary**2, 1e-14))
        return self.model.predict(torch.from_numpy(db.astype(np.float32))[None, None])


def cpu_milliseconds(sides, chunk, rounds=6, hops=120):
    "Median and 99th percentile of the CPU time per hop of each side, the best of several rounds in turn: (sides, 2)"
    best = np.full((len(sides), 2), np.inf)
    for _ in range(rounds):
        for j, side in enumerate(sides):
            taken = []
            for _ in range(hops):
                start = time.thread_time_ns()
                side.push(chunk)
                taken.append((time.thread_time_ns() - start) / 1e6)
            best[j] = np.minimum(best[j], np.percentile(taken[20:], [50, 99]))  # the first ones find cold caches
    return best


def main():
    torch.set_num_threads(1)
    rows = []
    for name, (preset, sr, step, options, _) in CASES.items():
        torch.manual_seed(0)
        model = PestoModel(make_config(preset)).eval()
        stream = PitchTracker(model, step_size=step).stream(sr, **options)
        chunk = 0.1 * np.random.default_rng(0).standard_normal(stream.cqt.hop_length).astype(np.float32)
        stream.push(np.tile(chunk, 3 * sr // len(chunk)))  # until frames come
        (plain, _), (p50, p99) = cpu_milliseconds([Plain(model, stream), stream], chunk).tolist()
        row = {"case": name, "plain p50 ms": plain, "ours p50 ms": p50, "ours p99 ms": p99, "ratio": plain / p50}
        rows.append(row | {"latency ms": 1000 * stream.latency})
    save(
        "stream",
        ratio_table("CPU time of one hop of a pitch stream, one thread", rows),
        [c[-1] for c in CASES.values()],
    )


if __name__ == "__main__":
    main()
