"""Key estimation: our transforms and our S-KEY against nnAudio and plain PyTorch, and what a corpus and an hour cost.

    python bench/key.py                    everything (five minutes on two cores)
    python bench/key.py --seconds 60       the comparisons on less sound
    python bench/key.py --without-files    only what is compared with a reference

The first two tables: CPU seconds of one thread of this process, best of several rounds in which both sides take turns. The official
S-KEY is nnAudio's VQT and the network, layer by layer as PyTorch has them, on the whole recording at once; its weights are used where
they are at hand (../shared), random ones cost the same. Writes reports/bench/key.json and key.html; an error where a floor is missed.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from _common import ratio_table, write_page
from nnAudio.features.cqt import CQT1992v2
from nnAudio.features.vqt import VQT
from threadpoolctl import threadpool_limits
from torch.nn import functional as F

from mirkit.core.audio import load, stream_audio
from mirkit.core.files import replacing
from mirkit.core.settings import load_settings, shared_path
from mirkit.key.chromanet import ChromaNet
from mirkit.key.model import StoneModel, load_key_model, save_stone
from mirkit.key.names import KEYS
from mirkit.key.progressions import render_progression
from mirkit.key.vqt import log_vqt, scaled, vqt_plan
from mirkit.key.weights import DEFAULT, weights_names
from mirkit.lab.report import provenance
from mirkit.pitch.peer_worker import timed
from mirkit.pitch.peers import PeerError, PeerProcess
from mirkit.signal.fold import blocks, cqt_frequencies, fold_plan, transform_blocks, window_lengths

SR, GRID = 22050, {"fmin": 27.5, "n_bins": 99, "bins_per_octave": 12}


def music(seconds, sr=SR):
    "B major, out of tune by nothing, with a little noise"
    x = render_progression(11, "I-IV-V-I", seed=3, sr=sr, seconds=seconds, cents=0.0)
    return x + 1e-3 * np.random.default_rng(0).standard_normal(len(x)).astype(np.float32)


def compare(case, reference, ours, rounds, **about):
    "A row: CPU seconds of both, the best of rounds in which they take turns"
    seconds = {reference: [], ours: []}
    for _ in range(rounds + 1):
        for side in (reference, ours):
            seconds[side].append(timed(side)[1]["cpu"])
    slow, fast = min(seconds[reference][1:]), min(seconds[ours][1:])
    return {"case": case, "reference s": slow, "ours s": fast, "ratio": slow / fast, **about}


# ---- transforms -----------------------------------------------------------------------------------------------------
def fold(plan, x):
    "Magnitudes (F, T) of a signal, block by block"
    parts = []
    for block in blocks([x], plan):
        y = np.abs(transform_blocks(plan, block.samples[None], phase=False)[0])
        parts.append(y[:, block.skip :][:, : block.stop - block.start])
    return np.concatenate(parts, axis=1)


def fronts(seconds, rounds):
    "Transforms of 99 bins, hop 512: the multirate one that the models were trained with, and a constant-Q transform on the same grid"
    x = music(seconds)
    tensor, plan = torch.from_numpy(x)[None], vqt_plan()
    multirate = VQT(sr=SR, hop_length=512, **GRID, verbose=False)
    dense = CQT1992v2(sr=SR, hop_length=512, **GRID, verbose=False)
    frequencies = cqt_frequencies(99, bins_per_octave=12)
    folding = fold_plan(frequencies, window_lengths(frequencies, SR, 12), SR, 512)
    with torch.no_grad():
        a, b = multirate(tensor)[0].numpy(), 10 ** (log_vqt(x, plan) / 10)
        c, d = dense(tensor)[0].numpy(), fold(folding, x)
        errors = [float(np.abs(p - q).max() / p.max()) for p, q in ((a, b), (c, d))]
        return [
            compare(
                "VQT, octave by octave, against nnAudio VQT",
                lambda: multirate(tensor),
                lambda: log_vqt(x, plan),
                rounds,
            )
            | {"max difference": errors[0], "floor": 20},
            compare(
                "CQT by folding, against nnAudio CQT1992v2", lambda: dense(tensor), lambda: fold(folding, x), rounds
            )
            | {"max difference": errors[1], "floor": 3},
            compare("CQT by folding, against nnAudio VQT", lambda: multirate(tensor), lambda: fold(folding, x), rounds)
            | {"max difference": errors[1], "floor": 20},
        ]


# ---- models ---------------------------------------------------------------------------------------------------------
def plain_logits(net, x):
    "ChromaNet as the papers describe it, every layer by PyTorch's own function"

    def norm(layer, y):
        if not layer.per_frame:
            return F.layer_norm(y, y.shape[1:])
        return F.layer_norm(y.permute(0, 3, 2, 1), layer.weight.shape, layer.weight, layer.bias).permute(0, 3, 2, 1)

    for down, block in zip(net.time_downsampling_blocks, net.convnext_blocks, strict=True):
        x = F.gelu(down.conv(norm(down.norm, x)))
        y = norm(block.norm, block.dwconv(x)).permute(0, 2, 3, 1)
        y = block.gamma * block.pwconv2(F.gelu(block.pwconv1(y)))
        x = x + y.permute(0, 3, 1, 2)
    y = x.unflatten(2, (7, 12)).mean(2).mean(-1, keepdim=True)
    return net.batch_norm(net.classifier(y)).flatten(1)


def official(model, x):
    "Probabilities as the official program gets them: STONE in 15 s, S-KEY all at once"
    size = 15 * SR
    rows = torch.from_numpy(x[None] if model.kind == "skey" else x[: len(x) // size * size].reshape(-1, size))
    d = 10 * torch.log10(official.transform(rows).clamp(min=1e-10))
    with torch.inference_mode():
        return plain_logits(model.net, scaled(d)[:, None, :84]).softmax(-1).mean(0).numpy()


official.transform = VQT(sr=SR, hop_length=512, **GRID, verbose=False)


def ours(model, chunks):
    "The same by our path"
    d = np.concatenate(list(model.frames(chunks)), axis=1)
    n = d.shape[1] if model.kind == "skey" else model.window
    windows = [d[:, a : a + n] for a in range(0, d.shape[1] - n + 1, n)]
    return model.profiles(np.stack(windows)).mean(0)


def read_model(kind):
    "The official weights where they are at hand, else random ones"
    file = {"stone24": "stone/semisupervised_ks_mode.pt", "skey": "skey/skey.pt"}[kind]
    path = (shared_path() or Path("nowhere")) / "checkpoints" / file
    if path.is_file():
        return load_key_model(path), "official weights"
    torch.manual_seed(0)
    return StoneModel(ChromaNet(), kind), "random weights"


def models(seconds, rounds):
    "From samples to probabilities, and from a file of 44.1 kHz with the same reader on both sides"
    found, x = [], music(seconds)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.flac"
        sf.write(file, music(seconds, 44100), 44100)
        for kind in ("skey", "stone24"):
            model, weights = read_model(kind)
            p, q = official(model, x), ours(model, [x])
            same = {
                "max difference": float(np.abs(p - q).max()),
                "keys": f"{KEYS[model.order[p.argmax()]]}, {KEYS[model.order[q.argmax()]]}",
                "weights": weights,
            }
            if p.argmax() != q.argmax():
                raise SystemExit(f"key: {kind} gives two keys: {same['keys']}")
            row = compare(f"{kind}, from samples", lambda m=model: official(m, x), lambda m=model: ours(m, [x]), rounds)
            found.append(row | same | {"floor": 5 if kind == "skey" else 2.5})
            if kind == "skey":
                row = compare(
                    "skey, from a 44.1 kHz FLAC file",
                    lambda m=model: official(m, load(file, SR)[0]),
                    lambda m=model: ours(m, stream_audio(file, sr=SR)),
                    rounds,
                )
                found.append(row | same | {"floor": 5})
    return [r | {"ours, s per minute": r["ours s"] * 60 / seconds} for r in found]


# ---- files ----------------------------------------------------------------------------------------------------------
def files(folder):
    "The command line, from its start to its end: forty recordings of two minutes, and one of an hour (44.1 kHz)"
    corpus, hour = folder / "corpus", folder / "hour.wav"
    corpus.mkdir()
    for i in range(8):
        x = render_progression(3 * i, "I-IV-V-I" if i < 4 else "i-iv-v-i", seed=i, sr=44100, seconds=120)
        for copy in range(5):
            sf.write(corpus / f"{i} {copy}.flac", x, 44100)
    part = music(180, 44100)
    with sf.SoundFile(hour, "w", 44100, 1, "PCM_16") as file:
        for _ in range(20):
            file.write(part)
    known = {name: name for name in weights_names() if name == DEFAULT}
    known["S-KEY"] = str(save_stone(folder / "network.safetensors", read_model("skey")[0].net, "skey", range(24)))
    rows = [{"case": "import mirkit", **cost([sys.executable, "-c", "import mirkit"], folder)}]
    for name, model in known.items():
        for case, words, minutes in (
            ("80 minutes in 40 files, --jobs 1", [str(corpus), "--jobs", "1"], 80),
            ("80 minutes in 40 files, --jobs 2", [str(corpus), "--jobs", "2"], 80),
            ("an hour in one file", [str(hour)], 60),
        ):
            command = [sys.executable, "-m", "mirkit", "key", *words, "-m", model, "-o", str(folder / f"{name} {case}")]
            row = {"case": f"{name}: {case}", **cost(command, folder)}
            more = (
                {"cpu, s per minute": row["cpu"] / minutes, "times real time": 60 * minutes / row["wall"]}
                if "cpu" in row
                else {}
            )
            rows.append(row | more)
    return rows


def cost(command, folder):
    "Wall and CPU seconds and memory; a process that is small itself runs it, as a child's memory counts from its parent's"
    try:
        with PeerProcess() as process:
            return process.ask("command", command=command, folder=str(folder))
    except PeerError as e:
        return {"why": str(e)[-300:]}


# ---- all of it ------------------------------------------------------------------------------------------------------
TITLES = {"fronts": "Transforms", "models": "Models", "files": "Files"}
LARGEST = {
    "fronts": 5e-6,
    "models": 5e-3,
}  # difference that a table may have: of the largest magnitude, of probabilities
HOUR_MB = 600  # peak memory of an hour


def missed(results):
    "What is below its floor"
    found = []
    for section, rows in results.items():
        for row in rows:
            if "floor" in row and row["ratio"] < row["floor"]:
                found.append(f"{row['case']}: {row['ratio']:.1f} instead of {row['floor']}")
            if row.get("max difference", 0) > LARGEST.get(section, 1):
                found.append(f"{row['case']}: differs by {row['max difference']:.2g}")
            if "an hour" in row["case"] and row.get("peak_mb", 0) > HOUR_MB:
                found.append(f"{row['case']}: {row['peak_mb']:.0f} MB")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180, help="of sound that is compared (180)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is asked (3)")
    parser.add_argument("--without-files", action="store_true", help="leave the command line out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results, docs = {}, {f.__name__: f.__doc__ for f in (fronts, models, files)}
    with threadpool_limits(1):
        results["fronts"] = fronts(args.seconds, args.rounds)
        results["models"] = models(args.seconds, args.rounds)
    if not args.without_files:
        with tempfile.TemporaryDirectory() as folder:
            results["files"] = files(Path(folder))
    for section, rows in results.items():
        columns = list(dict.fromkeys(k for r in rows for k in r))
        ratio_table(TITLES[section], [{c: r.get(c, "–") for c in columns} for r in rows])
    home = load_settings().reports_path / "bench"
    home.mkdir(parents=True, exist_ok=True)
    with replacing(home / "key.json") as draft:
        draft.write_text(json.dumps(results | {"provenance": provenance()}, indent=1))
    page = write_page(
        home / "key.html", "Key estimation: speed side by side", results, TITLES, docs, missed(results), 1
    )
    print(f"report: {page}")
    if problems := missed(results):
        raise SystemExit("key: " + "; ".join(problems))


if __name__ == "__main__":
    main()
