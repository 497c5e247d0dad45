"""What the pitch benchmark is measured against, and its page: the targets first, then every table."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go

from mirkit.core.view import PALETTE
from mirkit.lab.report import Report

Results = dict  # section -> {"title", "rows", "provenance"}
OURS = ("mirkit pitch", "mirkit pitch-live", "mirkit pitch-plus")
MAIN = {"g7": ("mirkit g7", "pesto-pitch 2.0.1, g7"), "mir-1k": ("mirkit mir-1k", "pesto-pitch 1.0.0, mir-1k")}


SECTIONS = {
    "offline": "Recordings",
    "startup": "From nothing",
    "streaming": "Streaming",
    "front": "Front end",
    "agreement": "The same numbers",
    "accuracy": "Accuracy on synthetic voices",
    "cuda": "On a GPU",
}


def rows(results: Results, section: str, **wanted) -> list[dict]:
    "Rows of a section that were measured and have these values"
    found = results.get(section, {}).get("rows", [])
    return [r for r in found if "why" not in r and all(r.get(k) == v for k, v in wanted.items())]


def one(results: Results, section: str, column: str, **wanted) -> float | None:
    found = rows(results, section, **wanted)
    return found[0].get(column) if found else None


def ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a and b else None


# ---- the targets: each function returns the measured value, None where it was not measured -----------------------------
def speedup(model: str) -> Callable[[Results], float | None]:
    "CPU time of the official package over ours, 44.1 kHz, the longest sound that both had"

    def measure(results: Results) -> float | None:
        mine, theirs = MAIN[model]
        for row in sorted(rows(results, "offline", system=theirs, sr=44100), key=lambda r: -r["seconds"]):
            ours = one(results, "offline", "cpu", system=mine, sr=44100, seconds=row["seconds"])
            if ours:
                return row["cpu"] / ours
        return None

    return measure


def front_end(case: str) -> Callable[[Results], float | None]:
    return lambda results: one(results, "front", "ratio", case=case)


def front_error(column: str) -> Callable[[Results], float | None]:
    return lambda results: max((r[column] for r in rows(results, "front")), default=None)


def worst(section: str, column: str, contains: str) -> Callable[[Results], float | None]:
    "The largest value over the rows whose case contains a text"

    def measure(results: Results) -> float | None:
        found = [
            r[column] for r in rows(results, section) if contains in r.get("case", "") and "against pesto" in r["case"]
        ]
        return max(found, default=None)

    return measure


def stream(column: str, system: str = "mirkit g7") -> Callable[[Results], float | None]:
    "The worse of the two hops"

    def measure(results: Results) -> float | None:
        found = [r[column] for r in rows(results, "streaming", system=system) if column in r]
        return max(found, default=None)

    return measure


def stream_speedup(results: Results) -> float | None:
    steps = {r["step_ms"] for r in rows(results, "streaming")}
    pairs = [[one(results, "streaming", "cpu_p50", system=s, step_ms=step) for s in MAIN["g7"]] for step in steps]
    return min((b / a for a, b in pairs if a and b), default=None)


def start(what: str, column: str) -> Callable[[Results], float | None]:
    return lambda results: one(results, "startup", column, what=what)


def import_mirkit(results: Results) -> float | None:
    "Seconds beyond those of an empty Python"
    a, b = (start(w, "cpu")(results) for w in ("import mirkit", "python -c pass"))
    return None if a is None or b is None else a - b


def cold(results: Results) -> float | None:
    return ratio(start("pesto short10.wav", "cpu")(results), start("mirkit pitch short10.wav (g7)", "cpu")(results))


def memory(results: Results) -> float | None:
    return one(results, "offline", "peak_mb", system="mirkit g7", sr=44100, seconds=180.0)


def growth(results: Results) -> float | None:
    hour, short = (one(results, "offline", "peak_mb", system="mirkit g7", sr=44100, seconds=s) for s in (3600.0, 180.0))
    return None if hour is None or short is None else hour - short


def hour(results: Results) -> float | None:
    cpu = one(results, "offline", "cpu", system="mirkit g7", sr=44100, seconds=3600.0)
    return None if cpu is None else cpu / 3600


def seams(results: Results) -> float | None:
    return one(results, "agreement", "max_cents", case="mirkit g7, file in blocks against its samples")


def rpa(condition: str, system: str = "mirkit g7") -> Callable[[Results], float | None]:
    return lambda results: one(results, "accuracy", "RPA", system=system, condition=condition)


def below_official(results: Results) -> float | None:
    "Points that the official package is ahead with the same weights, in the worse of two conditions"
    pairs = [[rpa(c, s)(results) for s in MAIN["g7"]] for c in ("clean", "pink 10")]
    return max((b - a for a, b in pairs if a and b), default=None)


def best_robust(results: Results) -> float | None:
    found = [rpa("pink 0", s)(results) for s in ("mirkit pesto-vqt", "mirkit pesto-cqt", *OURS)]
    return max((v for v in found if v), default=None)


def cost(column: str, system: str) -> Callable[[Results], float | None]:
    "Of the longest sound of three minutes or less, 44.1 kHz"

    def measure(results: Results) -> float | None:
        found = [r for r in rows(results, "offline", system=system, sr=44100) if r["seconds"] <= 180]
        return max(found, key=lambda r: r["seconds"])[column] if found else None

    return measure


def against_swift(results: Results) -> float | None:
    return ratio(cost("cpu_per_minute", "mirkit pitch")(results), cost("cpu_per_minute", "swift-f0")(results))


def cold_against_swift(results: Results) -> float | None:
    ours, theirs = (start(f"{w} short10.wav", "cpu")(results) for w in ("mirkit pitch", "swift-f0"))
    return ratio(ours, theirs)


def hop(column: str, system: str) -> Callable[[Results], float | None]:
    "Of hops of 10 ms"
    return lambda results: one(results, "streaming", column, system=system, step_ms=10.0)


@dataclass(frozen=True)
class Target:
    "A number that must be reached, and one that we are after"

    name: str
    text: str
    unit: str
    floor: float
    stretch: float
    measure: Callable[[Results], float | None]
    more: bool = False  # larger is better

    def reached(self, value: float, bound: float) -> bool:
        return value >= bound if self.more else value <= bound


TARGETS = [
    Target("P1", "g7, 44.1 kHz, 10 ms: CPU time of pesto-pitch 2.0.1 over ours", "×", 5, 8, speedup("g7"), True),
    Target("P2", "mir-1k, same, of pesto-pitch 1.0.0", "×", 8, 15, speedup("mir-1k"), True),
    Target("P3", "front end, mir-1k at 44.1 kHz", "×", 30, 50, front_end("mir-1k, 44.1 kHz"), True),
    Target("P3", "front end, mir-1k at 16 kHz", "×", 20, 36, front_end("mir-1k, 16 kHz"), True),
    Target("P3", "front end, g7 at 44.1 kHz", "×", 3.5, 5, front_end("mir-1k_g7, 44.1 kHz"), True),
    Target("P4", "front end: largest difference over largest value", "", 5e-6, 2e-6, front_error("max difference")),
    Target("P4", "front end: largest difference above −60 dB", "dB", 0.02, 0.012, front_error("max dB")),
    Target(
        "P5", "pitch against pesto-pitch, sure frames: 99.9 %", "cents", 0.5, 0.02, worst("agreement", "p999_cents", "")
    ),
    Target("P5", "the same, largest", "cents", 2, 0.02, worst("agreement", "max_cents", "")),
    Target("P5", "the same, noisy, largest", "cents", 0.05, 0.02, worst("agreement", "max_cents", "pink")),
    Target("P5", "confidence against pesto-pitch, largest", "", 1e-3, 1e-3, worst("agreement", "max_confidence", "")),
    Target("P6", "streaming, CPU time of a hop, median", "ms", 0.8, 0.45, stream("cpu_p50")),
    Target("P6", "the same, 99 %", "ms", 1.3, 0.7, stream("cpu_p99")),
    Target("P6", "the same: pesto-pitch over ours, median", "×", 2, 2, stream_speedup, True),
    Target(
        "P7",
        "frames streamed against frames of the whole, sure ones, largest",
        "cents",
        0.05,
        0.05,
        stream("max_cents"),
    ),
    Target("P8", "import mirkit, beyond an empty Python", "s", 0.3, 0.2, import_mirkit),
    Target("P9", "10 s from the command line: CPU time of pesto over mirkit pitch", "×", 3, 5.5, cold, True),
    Target(
        "P9",
        "the same, ours (on a free machine the wall shows the same)",
        "s",
        1.3,
        0.7,
        start("mirkit pitch short10.wav (g7)", "cpu"),
    ),
    Target("P9", "the same, peak memory", "MiB", 250, 100, start("mirkit pitch short10.wav (g7)", "peak_mb")),
    Target("P10", "peak memory, 3 minutes", "MiB", 600, 150, memory),
    Target("P10", "growth from 3 minutes to an hour", "MiB", 100, 100, growth),
    Target("P11", "an hour at 44.1 kHz: CPU time over its length", "", 0.025, 0.018, hour),
    Target("P11", "file in blocks against its samples, sure frames, largest", "cents", 0.05, 0.05, seams),
    Target("P15", "g7, synthetic voices, clean: RPA", "%", 98.5, 99, rpa("clean"), True),
    Target("P15", "the same, pink noise at 10 dB", "%", 89, 89.8, rpa("pink 10"), True),
    Target("P15", "points that pesto-pitch is ahead with the same weights", "points", 0.3, 0, below_official),
    Target("P15", "our own weights, pink noise at 0 dB: RPA", "%", 72, 95, best_robust, True),
    Target("E1", "pitch, 44.1 kHz: CPU time of a 10-ms frame", "µs", 60, 50, cost("us_per_frame", "mirkit pitch")),
    Target("E1", "pitch-plus, the same", "µs", 60, 50, cost("us_per_frame", "mirkit pitch-plus")),
    Target("E1", "pitch-live, the same", "µs", 60, 50, cost("us_per_frame", "mirkit pitch-live")),
    Target("E1", "CPU time of pitch (every 10 ms) over that of SwiftF0 (every 16 ms)", "×", 1.25, 1, against_swift),
    Target("E2", "10 s from the command line: CPU time of mirkit pitch over SwiftF0", "×", 1, 0.9, cold_against_swift),
    Target("E3", "pitch-live, CPU time of a hop of 10 ms, 99 %", "ms", 0.5, 0.3, hop("cpu_p99", "mirkit pitch-live")),
    Target("E3", "pitch, the same", "ms", 0.5, 0.3, hop("cpu_p99", "mirkit pitch")),
]


def target_table(results: Results) -> list[dict]:
    "The targets beside what was measured"
    table = []
    for t in TARGETS:
        value = t.measure(results)
        verdict = (
            "not measured"
            if value is None
            else "stretch"
            if t.reached(value, t.stretch)
            else "floor"
            if t.reached(value, t.floor)
            else "missed"
        )
        sign = "≥" if t.more else "≤"
        limits = {k: f"{sign} {v:g} {t.unit}".strip() for k, v in (("must", t.floor), ("wanted", t.stretch))}
        shown = "–" if value is None else f"{value:.3g} {t.unit}".strip()
        table.append({"": t.name, "target": t.text, **limits, "measured": shown, "reached": verdict})
    return table


def missed_floors(results: Results) -> list[str]:
    table = target_table(results)
    return [f"{r['']} {r['target']} ({r['measured']}, {r['must']})" for r in table if r["reached"] == "missed"]


# ---- the page -------------------------------------------------------------------------------------------------------
NAMES = {  # columns of the tables
    "what": "command",
    "cpu": "CPU s",
    "wall": "wall s",
    "peak_mb": "peak MiB",
    "step_ms": "hop ms",
    "cpu_p50": "CPU ms, median",
    "wall_p50": "wall ms, median",
    "cpu_p99": "CPU ms, 99 %",
    "wall_p99": "wall ms, 99 %",
    "delay_ms": "delay ms",
    "frames": "sure frames",
    "max_cents": "cents, largest",
    "p999_cents": "cents, 99.9 %",
    "max_confidence": "confidence, largest",
    "flips": "voicing flips",
    "median_cents": "median cents",
}


def whole(name: str) -> str:
    "A name that no line break divides"
    return name.replace("-", "\u2011").replace(" ", "\u00a0")


def offline_table(results: Results) -> list[dict]:
    "Per minute of sound, and the ratio to whom a system is measured against"
    table = []
    for r in rows(results, "offline"):
        base = next((theirs for mine, theirs in MAIN.values() if r["system"] in (mine, theirs)), MAIN["g7"][1])
        reference = one(results, "offline", "cpu_per_minute", system=base, sr=r["sr"], seconds=r["seconds"])
        table.append(
            {
                "system": whole(r["system"]),
                "kHz": f"{r['sr'] / 1000:g}",
                "seconds": r["seconds"],
                "CPU s per minute": r["cpu_per_minute"],
                "wall s per minute": r["wall_per_minute"],
                "µs per frame": r["us_per_frame"],
                "× official": ratio(reference, r["cpu_per_minute"]),
                "official": whole(base.partition(", ")[2]),
                "peak MiB": r["peak_mb"],
            }
        )
    return table


def plain_table(results: Results, section: str) -> list[dict]:
    "Measured rows with the same columns each"
    every = rows(results, section)
    columns = [k for k in dict.fromkeys(k for r in every for k in r) if k != "when"]
    return [{NAMES.get(k, k): whole(r[k]) if k == "system" else r.get(k) for k in columns} for r in every]


def reasons(results: Results, section: str) -> str:
    "Why the others were not measured, as a list"
    why = {r.get("system") or r.get("what") or r.get("case"): r["why"] for r in results[section]["rows"] if "why" in r}
    return "\n".join(f"- {name}: {text}" for name, text in why.items())


def bars(results: Results, seconds: float, sr: int) -> go.Figure:
    found = sorted(rows(results, "offline", seconds=seconds, sr=sr), key=lambda r: -r["cpu_per_minute"])
    colour = [PALETTE[0] if r["system"].startswith("mirkit") else PALETTE[1] for r in found]
    values = [r["cpu_per_minute"] for r in found]
    figure = go.Figure(
        go.Bar(
            x=values,
            y=[r["system"] for r in found],
            orientation="h",
            marker_color=colour,
            text=[f"{v:.2f}" for v in values],
        )
    )
    figure.update_layout(
        template="plotly_white",
        height=120 + 32 * len(found),
        title=f"CPU seconds per minute of sound, {seconds:g} s at {sr / 1000:g} kHz, one thread",
        xaxis={"type": "log", "title": "s (logarithmic)"},
        margin={"l": 190, "r": 30, "t": 60, "b": 50},
    )
    return figure


def write_report(results: Results, home: Path) -> Path:
    "The page, from whatever sections there are"
    table = target_table(results)
    count = {k: sum(r["reached"] == k for r in table) for k in ("stretch", "floor", "missed", "not measured")}
    report = Report(
        "Pitch trackers: speed side by side",
        "CPU seconds of one thread; candidates take turns, the least contended round counts",
    )
    report.verdict(
        table,
        f"Of {len(table)} targets **{count['stretch']}** reach what is wanted, {count['floor']} what must be, {count['missed']} miss it; {count['not measured']} were not measured.",
    )
    for section in [s for s in SECTIONS if s in results]:
        report.heading(SECTIONS[section])
        report.text(results[section]["title"] + ".")
        if section == "offline":
            for sr, seconds in sorted({(r["sr"], r["seconds"]) for r in rows(results, section)}):
                report.figure(bars(results, seconds, sr))
        if table := offline_table(results) if section == "offline" else plain_table(results, section):
            report.table(table)
        if text := reasons(results, section):
            report.text(f"Not measured:\n\n{text}")
        times = [r["when"] for r in results[section]["rows"] if "when" in r] or ["–"]
        facts = {"measured": f"{min(times)} to {max(times)} UTC", **results[section]["provenance"]}
        report.details("Machine and versions", facts)
    return report.save(home / "pitch.html")
