"""Pitch trackers side by side: ours, the official PESTO, and others, each in a process of its own with one thread.

    python bench/pitch.py                         everything (half an hour on two cores)
    python bench/pitch.py --quick                 10 s of sound at 44.1 kHz, ours against the official one (three minutes)
    python bench/pitch.py --only streaming        one section; the report keeps what else was measured before
    python bench/pitch.py --systems "mirkit g7" swift-f0 --lengths 10 180 --rates 44100 --rounds 3

What counts is CPU time: user and system seconds of the process, the smallest of several rounds in which all candidates take turns.
Others are installed into environments of their own below the cache folder (mirkit.pitch.peers); one that cannot be installed keeps
its row, with the reason. Writes reports/bench/pitch.json and reports/bench/pitch.html.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from _common import ratio_table
from _pitch_report import missed_floors, write_report
from threadpoolctl import threadpool_limits

from mirkit.core.audio import resample
from mirkit.core.files import replacing
from mirkit.core.score import error_summary, score_tracks
from mirkit.core.settings import load_settings, shared_path
from mirkit.core.synth import render_track
from mirkit.lab.report import provenance
from mirkit.pitch.config import make_config
from mirkit.pitch.evaluate import disturb, mix, read_condition
from mirkit.pitch.front import front_plan
from mirkit.pitch.peer_worker import timed
from mirkit.pitch.peers import PEERS, PeerError, PeerProcess, at_frames, environment
from mirkit.pitch.tracker import PitchTracker
from mirkit.signal.cqt import CQT
from mirkit.signal.fold import FoldPlan, blocks, cqt_kernel, kernel_start, transform_blocks

VOICES = (0, 1, 3, 5, 6, 7)  # bass, tenor, soprano, breathy, hollow, string: 40…1200 Hz
STEP = 10.0  # ms, of all trackers but SwiftF0


# ---- who ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class System:
    "A candidate of the comparison"

    worker: str  # a key of peer_worker.PEERS
    packages: tuple[str, ...] = ()  # of its environment; none: mirkit's
    options: dict[str, Any] = field(default_factory=dict)
    longest: float = 180.0  # s of sound that it is asked for: memory or patience
    against: str = ""  # whose speed is its measure
    threshold: float = 0.5

    @property
    def python(self) -> Path:
        return environment(self.packages)


def peer(name: str, longest: float = 180.0) -> System:
    known = PEERS[name]
    return System(known.worker, known.packages, dict(known.options), longest, "", known.threshold)


def ours(model: str, against: str = "", **options: Any) -> System:
    return System("mirkit", (), {"model": model, **options}, 3600.0, against)


SYSTEMS = {
    "pesto-pitch 2.0.1, g7": peer("pesto-pitch"),
    "mirkit g7": ours("mir-1k_g7", "pesto-pitch 2.0.1, g7"),
    "pesto-pitch 1.0.0, mir-1k": peer("pesto-pitch-1"),
    "mirkit mir-1k": ours("mir-1k", "pesto-pitch 1.0.0, mir-1k"),
    "mirkit pesto-vqt": ours("pesto-vqt"),
    "mirkit pesto-cqt": ours("pesto-cqt"),
    "mirkit pitch": ours("pitch"),
    "mirkit pitch-live": ours("pitch-live"),
    "mirkit pitch-plus": ours("pitch-plus"),
    "swift-f0": peer("swift-f0", 3600),
    "torchcrepe tiny, Viterbi": peer("torchcrepe"),
    "torchcrepe tiny, argmax": peer("torchcrepe-argmax"),
    "pYIN": peer("pyin"),
}
SLOW = ("torchcrepe tiny, Viterbi", "torchcrepe tiny, argmax", "pYIN")
STREAMING = (
    "pesto-pitch 2.0.1, g7",
    "mirkit g7",
    "mirkit pesto-vqt",
    "mirkit pesto-cqt",
    "mirkit pitch",
    "mirkit pitch-live",
    "mirkit pitch-plus",
    "swift-f0",
)


def official(name: str) -> str:
    "An official checkpoint: pesto-pitch brings it. Raises `PeerError`."
    try:
        home = environment(PEERS["pesto-pitch"].packages).parents[1]
        return str(next(home.glob(f"lib/*/site-packages/pesto/weights/{name}.ckpt")))
    except (PeerError, StopIteration):
        beside = (shared_path() or Path("nowhere")) / "checkpoints" / "pesto" / f"{name}.ckpt"
        if beside.is_file():
            return str(beside)
        raise PeerError(f"the official weights {name} are not at hand: pesto-pitch is not installed") from None


def options_of(system: System) -> dict[str, Any]:
    "Its worker's options, the official weights as a path"
    model = system.options.get("model", "")
    known = system.worker == "mirkit" and model.startswith("mir-1k")
    return system.options | ({"model": official(model)} if known else {})


def threshold_of(name: str) -> float:
    "The confidence from which it calls a frame voiced"
    system = SYSTEMS[name]
    if system.worker != "mirkit":
        return system.threshold
    return PitchTracker.from_pretrained(options_of(system)["model"]).threshold


class Running:
    "The candidates that start, one process each; `why` tells of the others"

    def __init__(self, names: list[str], **more: Any):
        self.stack, self.process, self.load, self.why, self.last = ExitStack(), {}, {}, {}, {}
        for name in names:
            system = SYSTEMS[name]
            try:
                process = self.stack.enter_context(PeerProcess(system.python))
                words = options_of(system) | (more if system.worker in ("mirkit", "pesto") else {})
                self.load[name] = process.ask("load", peer=system.worker, step_size=STEP, options=words)
                self.process[name] = process
            except PeerError as e:
                self.why[name] = str(e)

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def turns(self, rounds: int, patience: float = 60.0) -> Iterator[str]:
        "Names in turn, as often as there are rounds; who needs more than `patience` seconds is asked once"
        for i in range(rounds):
            for name in list(self.process):
                if i == 0 or self.last.get(name, 0) < patience:
                    yield name


# ---- on what --------------------------------------------------------------------------------------------------------
def song(seed: int, seconds: float, sr: int = 48000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    "Six voices one after the other by our synthesiser: audio, times of labels, Hz"
    parts, length = [], seconds / len(VOICES)
    for i, voice in enumerate(VOICES):
        x, t, f0 = render_track(1000 * seed + voice, length, 48000)
        parts.append((x[: round(length * 48000)], t + i * length, f0))
    x, t, f0 = (np.concatenate(p) for p in zip(*parts, strict=True))
    return (x if sr == 48000 else resample(x, 48000, sr)).astype(np.float32), t, f0


def accompaniment(seed: int, seconds: float, sr: int) -> np.ndarray:
    "Three other voices at once"
    return sum(song(seed + 500 + i, seconds, sr)[0] for i in range(3))


def write_sound(folder: Path, seconds: float, sr: int) -> str:
    "A file of it: samples, or for an hour a recording that is made of the same three minutes"
    if seconds <= 180:
        np.save(folder / "x.npy", song(7, seconds, sr)[0])
        return str(folder / "x.npy")
    part, path = song(7, 180, sr)[0], folder / "x.wav"
    with sf.SoundFile(path, "w", sr, 1, "PCM_16") as file:
        for start in range(0, round(seconds), 180):
            file.write(part[: round(min(180, seconds - start) * sr)])
    return str(path)


# ---- the sections ---------------------------------------------------------------------------------------------------
def offline(args: argparse.Namespace, folder: Path) -> list[dict]:
    "CPU and wall seconds, memory; an hour at the first rate only, by those who can"
    rows = []
    for sr in args.rates:
        with Running(args.systems) as running:
            for seconds in sorted(args.lengths):
                if seconds > 180 and sr != args.rates[0]:
                    continue
                sound = write_sound(folder, seconds, sr)
                rows += offline_rows(running, sound, sr, seconds, args.rounds)
                print(f"{sr} Hz, {seconds:g} s: done", file=sys.stderr)
            rows += [{"system": n, "sr": sr, "why": why} for n, why in running.why.items()]
    return rows


def offline_rows(running: Running, sound: str, sr: int, seconds: float, rounds: int) -> list[dict]:
    "Each candidate's best round"
    best: dict[str, dict] = {}
    running.last = {}
    for name in running.turns(rounds):
        if seconds > SYSTEMS[name].longest:
            continue
        try:
            found = running.process[name].ask("track", audio=sound, sr=sr, repeats=3 if seconds <= 10 else 1)
        except PeerError as e:
            best.setdefault(name, {"why": str(e)})
            continue
        running.last[name] = found["wall"]
        before = best.get(name, found)
        best[name] = min(before, found, key=lambda r: r.get("cpu", np.inf)) | {
            "wall": min(before["wall"], found["wall"]),
            "peak_mb": found["peak_mb"],
        }
    return [{"system": n, "sr": sr, "seconds": seconds, **summary(r, seconds)} for n, r in best.items()]


def summary(row: dict, seconds: float) -> dict:
    "A measurement per minute of sound"
    if "why" in row:
        return row
    minutes = seconds / 60
    return row | {
        "cpu_per_minute": row["cpu"] / minutes,
        "wall_per_minute": row["wall"] / minutes,
        "us_per_frame": 1e6 * row["cpu"] / row["frames"],
    }


def startup(args: argparse.Namespace, folder: Path) -> list[dict]:
    "Whole processes: an import, and a recording of ten seconds from the command line to a csv"
    x, name = song(7, 10, 44100)[0], folder / "short10.wav"
    sf.write(name, x, 44100)
    detect = (
        "import swift_f0; swift_f0.export_to_csv(swift_f0.SwiftF0(threads=1).detect_file('short10.wav'), 'swift.csv')"
    )
    peers = {n: p.packages for n, p in PEERS.items()}
    mirkit = ["-m", "mirkit", "pitch", "short10.wav", "-o", "ours", "--force"]
    table: dict[str, tuple] = {"python -c pass": ((), ["-c", "pass"])}
    for package in ("numpy", "soundfile", "torch", "librosa", "mirkit"):
        table[f"import {package}"] = ((), ["-c", f"import {package}"])
    table["import mirkit.pitch.tracker"] = ((), ["-c", "import mirkit.pitch.tracker"])
    for package, home in (("pesto", "pesto-pitch"), ("swift_f0", "swift-f0"), ("torchcrepe", "torchcrepe")):
        table[f"import {package}"] = (peers[home], ["-c", f"import {package}"])
    table["pesto short10.wav"] = (peers["pesto-pitch"], ["CLI", "pesto", "short10.wav", "-o", "theirs"])
    table["mirkit pitch short10.wav (g7)"] = ((), [*mirkit, "-m", "G7"])
    table["mirkit pitch short10.wav"] = ((), mirkit)
    table["swift-f0 short10.wav"] = (peers["swift-f0"], ["-c", detect])
    return [command_row(what, packages, words, folder, args.rounds + 1) for what, (packages, words) in table.items()]


def command_row(what: str, packages: tuple, words: list[str], folder: Path, rounds: int) -> dict:
    "A command's best round: a process that is small itself runs it, as a child's memory counts from its parent's"
    try:
        python = environment(packages)
        words = [official("mir-1k_g7") if w == "G7" else w for w in words]
        command = [str(python.parent / words[1]), *words[2:]] if words[0] == "CLI" else [str(python), *words]
        with PeerProcess() as process:
            found = [process.ask("command", command=command, folder=str(folder)) for _ in range(rounds)]
    except PeerError as e:
        return {"what": what, "why": str(e)}
    return {"what": what, **{k: min(f[k] for f in found) for k in ("wall", "cpu", "peak_mb")}}


def streaming(args: argparse.Namespace, folder: Path) -> list[dict]:
    "Ten seconds hop by hop, each system alone; how far frames are from those of the whole recording"
    rows, sr = [], 48000
    np.save(folder / "x.npy", song(7, 10, sr)[0])
    for step in (5.0, 10.0):
        for name in [n for n in args.systems if n in STREAMING]:
            system = SYSTEMS[name]
            sound = {"audio": str(folder / "x.npy"), "sr": sr}
            try:
                words = {"peer": system.worker, "step_size": step, "options": options_of(system)}
                found = []
                for _ in range(args.rounds):
                    with PeerProcess(system.python) as process:
                        found.append(process.ask("stream", **words, **sound, out=str(folder / "stream.npy")))
                best = min(found, key=lambda r: r["cpu_p50"]) | {
                    k: min(f[k] for f in found) for k in ("cpu_p99", "wall_p50", "wall_p99")
                }
                if system.worker == "mirkit":
                    with PeerProcess(system.python) as process:
                        process.ask("load", **words)
                        process.ask("track", **sound, out=str(folder / "whole.npy"))
                    best |= stream_difference(np.load(folder / "stream.npy"), np.load(folder / "whole.npy"))
                rows.append({"system": name, "step_ms": step, **best})
            except PeerError as e:
                rows.append({"system": name, "step_ms": step, "why": str(e)})
    return rows


def stream_difference(stream: np.ndarray, whole: np.ndarray) -> dict[str, float]:
    "Largest difference in cents of sure frames whose windows lie inside the recording"
    inside = (stream[0] > 0.3) & (stream[0] < whole[0, -1] - 0.3)
    _, hz, confidence = at_frames(whole, stream[0])
    return differences(stream[1, inside], hz[inside], stream[2, inside], confidence[inside])


def differences(hz: np.ndarray, other: np.ndarray, confidence: np.ndarray, other_confidence: np.ndarray) -> dict:
    "In cents, of frames where the second is sure; of confidences; of voicing"
    sure = (other_confidence > 0.5) & (other > 0) & (hz > 0)
    cents = np.abs(1200 * np.log2(hz[sure] / other[sure])) if sure.any() else np.array([np.nan])
    return {
        "frames": int(sure.sum()),
        "max_cents": float(cents.max()),
        "p999_cents": float(np.percentile(cents, 99.9)),
        "max_confidence": float(np.abs(confidence - other_confidence).max()),
        "flips": int(np.sum((confidence > 0.5) != (other_confidence > 0.5))),
    }


def agreement(args: argparse.Namespace, folder: Path) -> list[dict]:
    "Our answers against those of pesto-pitch with the same weights; those for a file against those for its samples"
    x = song(7, min(180, max(args.lengths)), 44100)[0]
    rows = []
    for ours_, theirs in (("mirkit g7", "pesto-pitch 2.0.1, g7"), ("mirkit mir-1k", "pesto-pitch 1.0.0, mir-1k")):
        for condition in ("clean", "pink 10"):
            y = disturb(x[: 60 * 44100], read_condition(condition), "song")
            case = {"case": f"{ours_} against {theirs}, {condition}"}
            rows.append(case | compared(folder, ours_, theirs, y, compat="official"))
    with Running(["mirkit g7"]) as running:
        try:
            process = running.process["mirkit g7"]
            np.save(folder / "x.npy", x)
            sf.write(folder / "x.wav", x, 44100, "FLOAT")
            for form in ("npy", "wav"):
                process.ask("track", audio=str(folder / f"x.{form}"), sr=44100, out=str(folder / f"{form}_out.npy"))
            file, whole = (np.load(folder / f"{form}_out.npy") for form in ("wav", "npy"))
            if file.shape != whole.shape:
                raise PeerError(f"{file.shape[1]} frames from the file, {whole.shape[1]} from its samples")
            rows.append(
                {"case": "mirkit g7, file in blocks against its samples"}
                | differences(file[1], whole[1], file[2], whole[2])
            )
        except (PeerError, KeyError) as e:
            why = running.why.get("mirkit g7", str(e))
            rows.append({"case": "mirkit g7, file in blocks against its samples", "why": why})
    return rows


def compared(folder: Path, ours_: str, theirs: str, y: np.ndarray, **options: Any) -> dict:
    "Two systems' answers for the same samples"
    np.save(folder / "y.npy", y)
    found = []
    for name, more in ((ours_, options), (theirs, {})):
        with Running([name], **more) as running:
            if name in running.why:
                return {"why": running.why[name]}
            running.process[name].ask("track", audio=str(folder / "y.npy"), sr=44100, out=str(folder / "out.npy"))
            found.append(np.load(folder / "out.npy"))
    mine, other = found
    n = min(mine.shape[1], other.shape[1])
    if abs(mine.shape[1] - other.shape[1]) > 1:
        return {"why": f"{mine.shape[1]} frames against {other.shape[1]}"}
    return differences(mine[1, :n], other[1, :n], mine[2, :n], other[2, :n])


def accuracy(args: argparse.Namespace, folder: Path) -> list[dict]:
    "Raw pitch accuracy on synthetic voices of two seeds, clean and disturbed"
    rows, seconds = [], 10.0 if args.quick else 60.0
    sounds = {seed: (song(seed, seconds, 44100), accompaniment(seed, seconds, 44100)) for seed in (7, 1007)}
    with Running(args.systems) as running:
        for text in ("clean", "pink 10", "pink 0", "mix 0"):
            condition, items = read_condition(text), {n: [] for n in running.process}
            for seed, ((x, t, f0), other) in sounds.items():
                y = mix(x, other, condition.snr) if condition.kind == "mix" else disturb(x, condition, str(seed))
                np.save(folder / "y.npy", y)
                times = np.arange(round(100 * seconds)) / 100
                truth = f0[np.searchsorted(t, times).clip(0, len(t) - 1)]
                for name in list(items):
                    try:
                        running.process[name].ask(
                            "track", audio=str(folder / "y.npy"), sr=44100, out=str(folder / "o.npy")
                        )
                    except PeerError as e:
                        running.why[name] = str(e)
                        items.pop(name)
                        continue
                    items[name].append((str(seed), str(seed), truth, *at_frames(np.load(folder / "o.npy"), times)[1:]))
            rows += [{"system": n, "condition": text, **scores(v, threshold_of(n))} for n, v in items.items()]
    return rows + [{"system": n, "why": why} for n, why in running.why.items()]


def scores(items: list, threshold: float) -> dict[str, float]:
    "Percent, and the median error in cents"
    rates = score_tracks(items, threshold).summary.loc["pooled"]
    truth, hz = (np.concatenate([i[k] for i in items]) for k in (2, 3))
    return {k: 100 * float(rates[k]) for k in ("RPA", "RCA", "VR", "VFA", "OA")} | {
        "median_cents": float(error_summary(truth, hz)["median_cents"])
    }


def front(args: argparse.Namespace, folder: Path) -> list[dict]:
    "The front end alone, 10 s: ours against the dense convolution of the original, both in this process; error against float64"
    import torch

    torch.set_num_threads(1)
    rows = []
    for model, sr in (("mir-1k", 44100), ("mir-1k", 16000), ("mir-1k_g7", 44100), ("mir-1k_g7", 16000)):
        x, config = song(7, 10, sr)[0], make_config(model)
        plan, hop = front_plan(config, sr, sr // 100), sr // 100
        b, n_bins = config.bins_per_semitone, len(plan.frequencies)
        options = {
            "n_bins": n_bins,
            "fmin": float(plan.frequencies[0]),
            "bins_per_octave": 12 * b,
            "gamma": config.gamma,
        }
        dense = CQT(sr, hop, engine="reference", **options)
        seconds = {"dense": [], "ours": []}
        with threadpool_limits(1):
            for _ in range(args.rounds + 1):
                seconds["dense"].append(timed(dense, torch.from_numpy(x))[1]["cpu"])
                y, spent = timed(fold, plan, x)
                seconds["ours"].append(spent["cpu"])
        best = {k: min(v) for k, v in seconds.items()}
        case = {"case": f"{model}, {sr / 1000:g} kHz", "dense s": best["dense"], "ours s": best["ours"]}
        rows.append(case | {"ratio": best["dense"] / best["ours"]} | exactness(plan, x, y))
    return rows


def fold(plan: FoldPlan, x: np.ndarray) -> np.ndarray:  # complex64 (F, T)
    "The transform as a PitchTracker applies it"
    parts = []
    for block in blocks([x], plan):
        y = transform_blocks(plan, block.samples[None], phase=False)[0]
        parts.append(y[:, block.skip :][:, : block.stop - block.start])
    return np.concatenate(parts, axis=1)


def exactness(plan: FoldPlan, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    "Magnitudes of some frames against kernels evaluated in float64"
    margin = -(-int(plan.lengths.max()) // plan.hop)
    frames = np.arange(margin, y.shape[1] - margin, 10)
    exact, signal = np.zeros((len(plan.lengths), len(frames))), x.astype(np.float64)
    for k, length in enumerate(map(int, plan.lengths)):
        windows = np.lib.stride_tricks.sliding_window_view(signal, length)[frames * plan.hop + kernel_start(length)]
        exact[k] = np.abs(windows @ cqt_kernel(plan.frequencies[k], length, plan.sr))
    error, loud = np.abs(np.abs(y[:, frames]) - exact), exact > 1e-3 * exact.max()
    db = 20 * np.log10(np.abs(y[:, frames])[loud] / exact[loud])
    return {"max difference": float(error.max() / exact.max()), "max dB": float(np.abs(db).max())}


def cuda(args: argparse.Namespace, folder: Path) -> list[dict]:
    "An hour on a GPU: seconds on the wall, the file's samples already in memory"
    import torch

    if not torch.cuda.is_available():
        return [{"system": "–", "why": "there is no CUDA device on this machine"}]
    rows, part = [], song(7, 180, 44100)[0]
    for name, seconds in (
        ("pesto-pitch 2.0.1, g7", 180),
        ("mirkit g7", 3600),
        ("mirkit pesto-vqt", 3600),
        ("mirkit mir-1k", 3600),
    ):
        np.save(folder / "x.npy", np.tile(part, seconds // 180))
        with Running([name], device="cuda") as running:
            try:
                found = running.process[name].ask("track", audio=str(folder / "x.npy"), sr=44100, repeats=3)
                rows.append(
                    {
                        "system": name,
                        "seconds": seconds,
                        "device": torch.cuda.get_device_name(),
                        **summary(found, seconds),
                    }
                )
            except (PeerError, KeyError) as e:
                rows.append({"system": name, "seconds": seconds, "why": running.why.get(name, str(e))})
    return rows


SECTIONS = {f.__name__: f for f in (offline, startup, streaming, front, agreement, accuracy, cuda)}


# ---- all of it ------------------------------------------------------------------------------------------------------
def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ten seconds, 44.1 kHz, without the slow ones")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, metavar="SYSTEM", help=", ".join(SYSTEMS))
    parser.add_argument("--lengths", nargs="+", type=float, help="seconds of sound (10 180 3600)")
    parser.add_argument("--rates", nargs="+", type=int, default=None, help="Hz (44100 16000 48000)")
    parser.add_argument("--rounds", type=int, default=2, help="how often each is asked (2)")
    args = parser.parse_args()
    args.only = args.only or list(SECTIONS)
    args.systems = args.systems or [n for n in SYSTEMS if not (args.quick and n in SLOW)]
    args.lengths = args.lengths or ([10.0] if args.quick else [10.0, 180.0, 3600.0])
    args.rates = args.rates or ([44100] if args.quick else [44100, 16000, 48000])
    return args


def main() -> None:
    args = arguments()
    home = load_settings().reports_path / "bench"
    home.mkdir(parents=True, exist_ok=True)
    file = home / "pitch.json"
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            rows = SECTIONS[name](args, Path(folder))
        show(name, rows)
        results = json.loads(file.read_text()) if file.is_file() else {}  # another run may have added to it
        before = results.get(name, {}).get("rows", [])
        results[name] = {"title": SECTIONS[name].__doc__, "rows": merged(before, rows), "provenance": provenance()}
        with replacing(file) as draft:
            draft.write_text(json.dumps(results, indent=1))
    print(f"report: {write_report(results, home)}")
    if missed := missed_floors(results):
        raise SystemExit(f"below the floor of bench/_pitch_report.py: {', '.join(missed)}")


CASE = ("system", "what", "case", "sr", "seconds", "step_ms", "condition")  # what tells rows of a section apart


def merged(before: list[dict], rows: list[dict]) -> list[dict]:
    "New rows, and of earlier runs those that were not measured again"
    today = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
    rows = [row | {"when": today} for row in rows]
    new = {tuple(row.get(k) for k in CASE) for row in rows}
    tried = {row.get("system") for row in rows}
    kept = [
        row
        for row in before
        if tuple(row.get(k) for k in CASE) not in new
        and row.get("system", "–") in (*SYSTEMS, "–")
        and not ("why" in row and row.get("system") in tried)
    ]
    order = {name: i for i, name in enumerate(SYSTEMS)}
    return sorted(kept + rows, key=lambda r: (r.get("sr", 0), r.get("seconds") or 0, order.get(r.get("system", ""), 0)))


def show(name: str, rows: list[dict]) -> None:
    "On the terminal: what was measured, then why the rest was not"
    measured = [r for r in rows if "why" not in r]
    if measured:
        columns = list(dict.fromkeys(k for r in measured for k in r))
        ratio_table(name, [{k: r.get(k, "–") for k in columns} for r in measured])
    for row in rows:
        if "why" in row:
            print(f"  {row.get('system') or row.get('what') or row.get('case')}: not measured: {row['why'][-300:]}")


if __name__ == "__main__":
    main()
