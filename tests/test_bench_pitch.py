"""The page of bench/pitch.py from made-up measurements: right ratios, and reasons where there is no measurement"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
from _pitch_report import missed_floors, target_table, write_report
from pitch import merged


def offline(system: str, seconds: float, cpu: float, peak: float) -> dict:
    minutes = seconds / 60
    return {
        "system": system,
        "sr": 44100,
        "seconds": seconds,
        "cpu": cpu,
        "frames": 100 * seconds,
        "peak_mb": peak,
        "cpu_per_minute": cpu / minutes,
        "wall_per_minute": 2 * cpu / minutes,
        "us_per_frame": 1e4 * cpu / seconds,
    }


@pytest.fixture
def results() -> dict:
    rows = [
        offline("pesto-pitch 2.0.1, g7", 10.0, 2.0, 500),
        offline("pesto-pitch 2.0.1, g7", 180.0, 30.0, 3000),
        offline("mirkit g7", 10.0, 1.0, 80),
        offline("mirkit g7", 180.0, 5.0, 120),
        offline("mirkit g7", 3600.0, 108.0, 250),
        {"system": "pesto-pitch 1.0.0, mir-1k", "sr": 44100, "why": "no network <here>"},
        offline("mirkit pitch", 10.0, 0.08, 90),
        offline("mirkit pitch", 180.0, 0.99, 90),
        offline("swift-f0", 180.0, 0.9, 90),
    ]
    starts = [{"what": f"{name} short10.wav", "cpu": cpu} for name, cpu in (("mirkit pitch", 0.38), ("swift-f0", 0.4))]
    sections = {"offline": rows, "startup": starts}
    return {k: {"title": "CPU seconds", "rows": v, "provenance": {"python": "3"}} for k, v in sections.items()}


def test_targets(results):
    table = {(r[""], r["target"]): r for r in target_table(results)}
    by_name = {name: r for (name, _), r in table.items()}
    assert (by_name["P1"]["measured"], by_name["P1"]["reached"]) == (
        "6 ×",
        "floor",
    )  # of the longest both had, not the hour
    assert (by_name["P2"]["measured"], by_name["P2"]["reached"]) == ("–", "not measured")
    memory, growth = (r for (name, _), r in table.items() if name == "P10")
    assert (memory["measured"], memory["reached"]) == ("120 MiB", "stretch")
    assert (growth["measured"], growth["reached"]) == ("130 MiB", "missed")
    assert (by_name["E2"]["measured"], by_name["E2"]["reached"]) == ("0.95 ×", "floor")
    costs = [r["measured"] for (name, _), r in table.items() if name == "E1"]
    assert costs == ["55 µs", "–", "–", "1.1 ×"]  # of three minutes, not of ten seconds
    hour = next(r for (name, text), r in table.items() if text.startswith("an hour"))
    assert (hour["measured"], hour["reached"]) == ("0.03", "missed")
    assert [m[:3] for m in missed_floors(results)] == ["P10", "P11"]


def test_page(results, tmp_path):
    page = write_report(results, tmp_path).read_text(encoding="utf-8")
    assert "no network &lt;here&gt;" in page and "CPU seconds per minute of sound" in page
    assert "2 miss it" in page


def test_a_later_run_keeps_what_it_does_not_measure():
    first = [
        {"system": "swift-f0", "sr": 44100, "seconds": 10.0, "cpu": 1.0},
        {"system": "pYIN", "sr": 44100, "why": "slow"},
    ]
    second = [{"system": "pYIN", "sr": 44100, "seconds": 10.0, "cpu": 9.0}]
    rows = merged(merged([], first), second)
    assert [(r["system"], r.get("cpu")) for r in rows] == [("swift-f0", 1.0), ("pYIN", 9.0)]  # and no reason any more
    again = merged(rows, [{"system": "pYIN", "sr": 44100, "seconds": 10.0, "cpu": 8.0}])
    assert [r["cpu"] for r in again] == [1.0, 8.0]
