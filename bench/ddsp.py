"""DDSP against straightforward implementations, in one process, both sides taking turns and the best round counting.

CPU seconds of one thread, as another program on the machine then does not count. Oscillators: 100 harmonics of a minute of sound at 16 kHz,
against the formula as it stands (a phase summed up for every harmonic; and the cheaper one phase, of which harmonics are multiples),
with a fundamental that glides so that harmonics cross half the sampling rate within hops. Training: forward and backward of a decoder's and
a pre-training's batch, and the memory that is kept between the two; the same for filtered noise and spectral distance. Writes
reports/bench/ddsp.json and ddsp.html; an error where a floor is missed.
"""

import argparse
import json
import math
import sys
from functools import partial

import torch
from _common import ratio_table, write_page
from threadpoolctl import threadpool_limits

from mirkit.core.files import replacing
from mirkit.core.peer_worker import timed
from mirkit.core.peers import PeerError, PeerProcess
from mirkit.core.settings import load_settings
from mirkit.ddsp.noise import filtered_noise, noise_taps
from mirkit.ddsp.spectral import SIZES, spectral_distance
from mirkit.lab.report import provenance
from mirkit.signal.oscillators import harmonic_bank, oscillator_bank, sinusoid_bank
from mirkit.signal.upsample import upsample

SR = 16000


def controls(batch, frames, n, low, high, seed=0):
    "A fundamental (B, T, 1) that glides, trembles and leaps between two frequencies, and amplitudes (B, T, N)"
    generator = torch.Generator().manual_seed(seed)
    notes = torch.rand(batch, frames // 20 + 1, generator=generator).repeat_interleave(20, 1)[:, :frames]
    glide = 0.5 + 0.5 * torch.sin(torch.randn(batch, frames, generator=generator).cumsum(1) * 0.2)
    f0 = low * (high / low) ** (0.8 * notes + 0.2 * glide)
    return f0[..., None], torch.rand(batch, frames, n, generator=generator) / n


def phase_each(f0, a, n_samples, free=False):
    "Every frequency and amplitude brought to samples, every phase summed up; one sine after another, to spare memory"
    audio = 0
    for k in range(a.shape[-1]):
        f = upsample(f0[..., k : k + 1].double() if free else f0.double() * (k + 1), n_samples, "linear")
        audio = audio + oscillator_bank(f, upsample(a[..., k : k + 1], n_samples), SR)
    return audio


def phase_once(f0, a, n_samples):
    "One phase, of which those of the harmonics are multiples"
    f, audio = upsample(f0.double(), n_samples, "linear"), 0
    cycles = (f / SR).cumsum(1)
    for k in range(1, a.shape[-1] + 1):
        heard = torch.where(k * f < SR / 2, upsample(a[..., k - 1 : k], n_samples), 0.0)
        audio = audio + (heard * torch.sin(2 * math.pi * (k * cycles).frac()).to(a.dtype))[..., 0]
    return audio


def compare(case, reference, ours, rounds, floor, samples, **about):
    "A row: CPU seconds of both, the best of rounds in which they take turns"
    spent = {reference: [], ours: []}
    for _ in range(rounds):
        for side in (reference, ours):
            spent[side].append(timed(side)[1]["cpu"])
    slow, fast = min(spent[reference]), min(spent[ours])
    row = {"case": case, "reference ms": 1000 * slow, "ours ms": 1000 * fast, "ratio": slow / fast, "floor": floor}
    return row | {"ours ns per sample": 1e9 * fast / samples} | about


# ---- oscillators ----------------------------------------------------------------------------------------------------
def our_harmonics(f0, a, n_samples):
    "The bank that keeps its phase, without it"
    return harmonic_bank(f0, a, n_samples, SR)[0]


def our_sinusoids(f, a, n_samples):
    "The bank of free sinusoids"
    return sinusoid_bank(f, a, n_samples, SR)


@torch.inference_mode()
def oscillators(seconds, rounds):
    "From frames to samples: 100 harmonics, or 100 free sinusoids; with f0 up to 80 Hz all harmonics sound all the time"
    rows, free = [], partial(phase_each, free=True)
    for hop in (512, 64):
        n = round(seconds * SR) // hop * hop
        low, wide = (controls(1, n // hop, 100, *ends) for ends in ((50, 80), (60, 500)))
        apart = low[0] * torch.arange(1, 101) + 5 * torch.rand(
            1, n // hop, 100, generator=torch.Generator().manual_seed(1)
        )
        for about, reference, ours, x, floor in (
            ("f0 50 … 80 Hz, phase each", phase_each, our_harmonics, low, 5),
            ("f0 50 … 80 Hz, phase once", phase_once, our_harmonics, low, 3),
            ("f0 60 … 500 Hz, phase each", phase_each, our_harmonics, wide, 5),
            ("f0 60 … 500 Hz, phase once", phase_once, our_harmonics, wide, 3),
            ("free sinusoids", free, our_sinusoids, (apart, low[1]), 2),
        ):
            error = {"max difference": float((reference(*x, n) - ours(*x, n)).abs().max())}
            sides = [partial(f, *x, n) for f in (reference, ours)]
            rows.append(compare(f"hop {hop}, {about}", *sides, rounds, floor, n, **error))
    return rows


# ---- training -------------------------------------------------------------------------------------------------------
def kept(function):
    "MB of tensors that autograd keeps between forward and backward, each storage once"
    found = {}

    def note(x):
        found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        held = function()
    del held
    return sum(found.values()) / 1e6


def bank_gradients(bank, f, a, n_samples, g):
    "Of all controls, where those of the samples are g"
    return torch.autograd.grad((bank(f, a, n_samples) * g).sum(), (f, a))


def training(seconds, rounds):
    "Forward and backward with gradients to all controls"
    rows, free = [], partial(phase_each, free=True)
    for case, batch, n, hop, length in (("decoder", 4, 60, 64, 4), ("pre-training", 16, 40, 512, 2)):
        samples = length * SR // hop * hop
        f0, a = (x.requires_grad_() for x in controls(batch, samples // hop, n, 80, 800))
        f = (f0.detach() * torch.arange(1, n + 1)).requires_grad_()
        g = torch.randn(batch, samples, generator=torch.Generator().manual_seed(1))
        for name, reference, ours, x, floor in (
            ("harmonics", phase_once, our_harmonics, (f0, a, samples), 2),
            ("sinusoids", free, our_sinusoids, (f, a, samples), 1.5),
        ):
            both = [partial(bank_gradients, bank, *x, g) for bank in (reference, ours)]
            pairs = zip(both[0](), both[1](), strict=True)
            about = {"difference of gradients": max(float((p - q).abs().max() / p.abs().max()) for p, q in pairs)}
            about |= {"reference keeps MB": kept(partial(reference, *x)), "ours keeps MB": kept(partial(ours, *x))}
            title = f"{case}, {name}: {batch} × {length} s, {n} of them, hop {hop}"
            rows.append(compare(title, *both, rounds, floor, batch * samples, **about))
    return rows


# ---- noise and spectra ----------------------------------------------------------------------------------------------
def framed_noise(magnitudes, noise):
    "Frames of noise through filters, by transforms of the next power of two, folded together"
    hop, taps = noise.shape[1] // magnitudes.shape[1], noise_taps(magnitudes)
    size = 2 ** math.ceil(math.log2(hop + taps.shape[2] - 1))
    spectra = torch.fft.rfft(noise.unflatten(1, (-1, hop)), size) * torch.fft.rfft(taps, size)
    frames, length = torch.fft.irfft(spectra, size).mT, noise.shape[1] - hop + size
    y = torch.nn.functional.fold(frames, (1, length), (1, size), stride=(1, hop))[:, 0, 0]
    return y[:, taps.shape[2] // 2 :][:, : noise.shape[1]]


def spectra_apart(target, audio):
    "Magnitudes by torch's own transform, and their logarithms"
    total = 0
    for size in SIZES:
        sides, pad = [], -audio.shape[1] % (size // 4) + 3 * size // 4
        for x in (target, audio):
            x, window = torch.nn.functional.pad(x, (0, pad)), torch.hann_window(size, dtype=x.dtype)
            sides.append(torch.stft(x, size, size // 4, window=window, center=False, return_complex=True).abs())
        a, b = sides
        total = total + (a - b).abs().mean() + (a.clamp(min=1e-5).log() - b.clamp(min=1e-5).log()).abs().mean()
    return total


def gradient(function, x):
    "Of the square of what comes out, with respect to what is learned"
    return torch.autograd.grad(function(*x).square().sum(), [v for v in x if v.requires_grad])[0]


def noise_and_spectra(seconds, rounds):
    "Forward and backward: filtered noise with gradients to 65 gains, spectral distance with gradients to samples"
    rows = []
    for case, batch, hop, length, floors in (
        ("decoder", 4, 64, 4, (1.1, 1.7)),
        ("pre-training", 16, 512, 4, (1.7, 1.7)),
    ):
        generator = torch.Generator().manual_seed(0)
        samples = length * SR // hop * hop
        gains = torch.rand(batch, samples // hop, 65, generator=generator).requires_grad_()
        noise, target, audio = torch.rand(3, batch, samples, generator=generator) - 0.5
        sound = (target + 0.1 * audio).requires_grad_()
        for name, reference, ours, x, floor in (
            ("noise", framed_noise, lambda m, n: filtered_noise(m, n.shape[1], noise=n), (gains, noise), floors[0]),
            ("distance", spectra_apart, spectral_distance, (target, sound), floors[1]),
        ):
            sides = [lambda f=f, x=x: f(*x).square().sum() for f in (reference, ours)]
            both = [lambda f=f, x=x: gradient(f, x) for f in (reference, ours)]
            wide = [v.detach().double().requires_grad_(v.requires_grad) for v in x]
            p, q = (
                gradient(reference, wide),
                gradient(ours, wide),
            )  # in single, tiny bins have rounding errors as gradients
            about = {"difference of gradients": float((p - q).norm() / p.norm())}
            about |= {"reference keeps MB": kept(sides[0]), "ours keeps MB": kept(sides[1])}
            title = f"{case}, {name}: {batch} × {length} s, hop {hop}"
            rows.append(compare(title, *both, rounds, floor, batch * samples, **about))
    return rows


# ---- memory ---------------------------------------------------------------------------------------------------------
LONG = (
    "import torch; from mirkit.signal.oscillators import harmonic_bank; "
    "n = int({minutes} * 60 * 250); f0 = torch.full((1, n, 1), 70.0); "
    "harmonic_bank(f0, torch.ones(1, 1, 1).expand(1, n, 100) / 100, n * 64)"
)


def memory(seconds, rounds):
    "Processes that synthesise 100 harmonics with hop 64: the controls of ten minutes are 60 MB, a number per harmonic and sample would be 3840 MB"
    rows = []
    for minutes in (0.1, 10):
        try:
            with PeerProcess() as process:
                command = [sys.executable, "-c", LONG.format(minutes=minutes)]
                rows.append({"case": f"{minutes:g} minutes", **process.ask("command", command=command, folder=".")})
        except PeerError as e:
            rows.append({"case": f"{minutes:g} minutes", "why": str(e)[-300:]})
    return rows


# ---- all of it ------------------------------------------------------------------------------------------------------
SECTIONS = {  # a function of seconds and rounds each
    "Oscillators": oscillators,
    "Training": training,
    "Noise and spectra": noise_and_spectra,
    "Memory": memory,
}
LARGEST = {"max difference": 1e-4, "difference of gradients": 1e-3, "peak_mb": 900}


def missed(results):
    "What is below its floor, or too large"
    rows = [row for section in results.values() for row in section]
    slow = [
        f"{r['case']}: {r['ratio']:.1f} instead of {r['floor']}"
        for r in rows
        if r.get("ratio", 1e9) < r.get("floor", 0)
    ]
    large = [f"{r['case']}: {k} = {r[k]:.3g}" for r in rows for k, limit in LARGEST.items() if r.get(k, 0) > limit]
    return slow + large


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of sound that is synthesised (60)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is asked (3)")
    parser.add_argument("--only", choices=SECTIONS, nargs="+", default=list(SECTIONS), help="sections (all)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    with threadpool_limits(1):
        for name in args.only:
            results[name] = SECTIONS[name](args.seconds, args.rounds)
            columns = list(dict.fromkeys(k for r in results[name] for k in r))
            ratio_table(name, [{c: r.get(c, "–") for c in columns} for r in results[name]])
    home = load_settings().reports_path / "bench"
    home.mkdir(parents=True, exist_ok=True)
    with replacing(home / "ddsp.json") as draft:
        draft.write_text(json.dumps(results | {"provenance": provenance()}, indent=1))
    docs = {name: function.__doc__ for name, function in SECTIONS.items()}
    titles = {name: name for name in results}
    page = write_page(home / "ddsp.html", "DDSP: speed side by side", results, titles, docs, missed(results), 1)
    print(f"report: {page}")
    if problems := missed(results):
        raise SystemExit("ddsp: " + "; ".join(problems))


if __name__ == "__main__":
    main()
