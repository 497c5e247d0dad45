"""One training step, in one process with one thread: of PESTO, and of the supervised models on segments of clips.

PESTO: our network against the same network of torch's own layers; a step is forward and backward of 3 × 256 frames in training
mode, dropout included. Supervised: whole optimiser steps, batch included, of 768 frames of a SalienceNet in segments of clips, against
the same number of frames one by one through PESTO's network, and against the same layers as torch would take them. Also the share of
a step that goes into making the batch: training should wait for the network, not for data.
"""

import time

import numpy as np
import torch
from _common import ratio_table, save
from torch import nn

from mirkit.pitch.config import make_config, sizes
from mirkit.pitch.data import batch_numbers
from mirkit.pitch.net import PestoEncoder
from mirkit.pitch.salience import SalienceLayer
from mirkit.pitch.supervised import (
    SupervisedTraining,
    answers,
    example_labels,
    noise_bank,
    supervised_losses,
    synthetic_bank,
)

FLOOR = [1.5, 0.95]  # least ratio for mir-1k and mir-1k_g7
TAUGHT_FLOOR = [1.5, 0.95]  # least ratio of clip-wise to frame-wise training, and of fused to plain layers
FRAMES = 768  # that a supervised step learns from


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


def supervised(preset, frames):
    "A training of a preset on a few clips, and a function that takes one optimiser step"
    config = make_config(preset, batch_size=FRAMES)
    clips, noise = synthetic_bank(config, 16, seconds=5.12, progress=False), noise_bank(config, 8, progress=False)
    module = SupervisedTraining(config, {"ours": (clips, 1.0)}, clips, noise, noise, 1000, frames=frames)
    optimiser, banks = module.configure_optimizers()["optimizer"], [clips]

    def batch(turn):
        e = module.draw(module.banks, np.random.default_rng(turn))
        return *module.hear(e, banks), *example_labels(e, banks, frames, config)

    def step(turn):
        db, steps, pitch, voiced = batch(turn)
        losses = supervised_losses(*answers(module.model, db, steps), pitch, voiced, module.notes)
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(module.model.parameters(), 5.0)
        optimiser.step()
        optimiser.zero_grad()
        module.average.update_parameters(module.model)

    return batch, step


def seconds_of(function, repeats=5):
    "CPU seconds of a call, best of several"
    times = []
    for turn in range(repeats + 1):
        start = time.process_time()
        function(turn)
        times.append(time.process_time() - start)
    return min(times[1:])


def plain_layer(self, x, offsets):
    "A SalienceLayer as torch takes it: convolution, ReLU and sum each by themselves"
    before, after = max(0, -offsets[0]), max(0, offsets[-1])
    gap = offsets[1] - offsets[0] if len(offsets) > 1 else 1
    part = x[:, :, before + offsets[0] : x.shape[2] - after + offsets[-1]]
    y = nn.functional.conv2d(part, self.weight, self.bias, padding=self.padding, dilation=(gap, 1)).relu()
    return y + x[:, :, before : x.shape[2] - after] if self.in_channels == self.out_channels else y


def taught():
    "Rows about supervised training"
    batch, step = supervised("pitch", 64)
    clipwise, fetch = seconds_of(step), seconds_of(batch)
    framewise = seconds_of(supervised("small-vqt", 1)[1])
    fused, SalienceLayer.forward = SalienceLayer.forward, plain_layer
    try:
        plain = seconds_of(step)
    finally:
        SalienceLayer.forward = fused
    names = ("frame by frame through PESTO's network -> in clips", "layers as torch takes them -> fused")
    return [
        {
            "step of 768 frames": name,
            "steps/s before": 1 / before,
            "steps/s after": 1 / clipwise,
            "ratio": before / clipwise,
            "making the batch": fetch / clipwise,
        }
        for name, before in zip(names, (framewise, plain), strict=True)
    ]


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
    taught_rows = taught()
    save("train_step", ratio_table("A training step of 3 × 256 frames, one thread", rows), FLOOR)
    save("train_supervised", ratio_table("A supervised training step, one thread", taught_rows), TAUGHT_FLOOR)


if __name__ == "__main__":
    main()
