"""One training step of PESTO: our network against the same network of torch's own layers, in one process with one thread.

A step is forward and backward of 3 × 256 frames in training mode, dropout included. Also the share of a step that goes into
fetching the frames: training should wait for the network, not for data.
"""

import time

import numpy as np
import torch
from _common import ratio_table, save
from torch import nn

from mirkit.pitch.config import make_config, sizes
from mirkit.pitch.data import batch_numbers
from mirkit.pitch.net import PestoEncoder

FLOOR = [1.5, 0.95]  # least ratio for mir-1k and mir-1k_g7


class Plain(nn.Module):
    "The encoder written with torch's layers as the paper describes it"

    def __init__(self, config):
        super().__init__()
        s, c = sizes(config), config.channels
        k = s.kernel_size

        def block(a, b, width):
            return nn.Sequential(nn.Conv1d(a, b, width, padding=width // 2), nn.LeakyReLU(0.3), nn.Dropout(0.2))

        self.norm = nn.LayerNorm([1, s.n_bins_in])
        self.first = block(1, c[0], k)
        self.prefilter = nn.ModuleList(
            block(c[0], c[0], k) if config.prefilt_block else nn.Conv1d(c[0], c[0], k, padding=k // 2)
            for _ in range(config.n_prefilt_layers - 1)
        )
        self.narrow = nn.Sequential(*(block(a, b, 1) for a, b in zip(c[:-1], c[1:], strict=True)))
        self.toeplitz = nn.Conv1d(1, 1, c[-1] * s.n_bins_in + s.n_out - 1, padding=s.n_out - 1, bias=False)

    def forward(self, x):
        z = self.first(self.norm(x))
        for layer in self.prefilter:
            z = z + layer(z)
        return self.toeplitz(self.narrow(z).flatten(1)[:, None])[:, 0].softmax(-1)


def step_seconds(net, x, repeats=3):
    "CPU seconds of forward and backward, best of several"
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        net(x).log().mean().backward()
        times.append(time.process_time() - start)
    return min(times[1:])


def main():
    torch.set_num_threads(1)
    rows = []
    for preset in ("mir-1k", "mir-1k_g7"):
        config = make_config(preset)
        x = torch.randn(3 * config.batch_size, 1, sizes(config).n_bins_in)
        slow, fast = step_seconds(Plain(config).train(), x), step_seconds(PestoEncoder(config).train(), x)
        frames = np.zeros((50_000, 1, sizes(config).n_bins), np.float32)
        start = time.process_time()
        for step in range(20):
            frames[batch_numbers(step, len(frames), config.batch_size, 0)]
        fetch = (time.process_time() - start) / 20
        rows.append(
            {
                "preset": preset,
                "torch layers s": slow,
                "ours s": fast,
                "ratio": slow / fast,
                "fetching frames": fetch / fast,
            }
        )
    save("train_step", ratio_table("A training step of 3 × 256 frames, one thread", rows), FLOOR)


if __name__ == "__main__":
    main()
