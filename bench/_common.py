"""What the benchmarks share: a table on the terminal and a JSON file. Ratios within one process, never bare times."""

import json
import platform

import torch

from mirkit.core.settings import load_settings
from mirkit.lab.report import Report, provenance


def ratio_table(title, rows):
    "Print rows of numbers under their names; returns what `save` stores"
    names = list(rows[0])
    print(f"\n{title}")
    widths = {n: max(len(n), *(len(_text(r[n])) for r in rows)) for n in names}
    print("  ".join(n.ljust(widths[n]) for n in names))
    for row in rows:
        print("  ".join(_text(row[n]).ljust(widths[n]) for n in names))
    return {"title": title, "rows": rows}


def _text(value):
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def write_page(path, title, results, headings, docs, missed, digits):
    "The page of a benchmark: the ratios and how many `missed` their floors, then a table for each section"
    report = Report(title, "CPU seconds of one thread; both sides take turns, the best round counts")
    ratios = [r for rows in results.values() for r in rows if "floor" in r]
    table = [{"": r["case"], "times as fast": f"{r['ratio']:.{digits}f}", "at least": r["floor"]} for r in ratios]
    report.verdict(table, f"{len(missed) or 'None'} of the floors missed.")
    for section, rows in results.items():
        report.heading(headings[section])
        report.text(docs[section] + ".")
        columns = list(dict.fromkeys(k for r in rows for k in r if k != "floor"))
        report.table([{c: _text(r.get(c, "–")) for c in columns} for r in rows])
    report.details("Machine and versions", provenance())
    return report.save(path)


def save(name, table, floor):
    "Write reports/bench/<name>.json with the machine it ran on; an error when a row's ratio is below its floor"
    folder = load_settings().reports_path / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    machine = {"torch": torch.__version__, "processor": platform.processor() or platform.machine()}
    (folder / f"{name}.json").write_text(json.dumps(table | machine, indent=1))
    for row, least in zip(table["rows"], floor, strict=True):
        if row["ratio"] < least:
            raise SystemExit(
                f"{name}: {next(iter(row.values()))} has a ratio of {row['ratio']:.2f}, below its target of {least}"
            )
