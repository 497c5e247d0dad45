"""What the tests of several runnable notebooks do with them and with what they leave"""

import contextlib
import csv
import json
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest


def validate(notebook: Path, **values) -> dict:
    "What the notebook does before it works: its first code cells, with other parameters"
    sources = [c.source for c in nbformat.read(notebook, 4).cells if c.cell_type == "code"]
    parameters, *cells = sources[: 1 + next(i for i, s in enumerate(sources) if s.startswith("settings_now"))]
    space: dict = {}
    for source in (parameters, "\n".join(f"{k} = {v!r}" for k, v in values.items()), *cells[:-1]):
        exec(source, space)
    return space


def play(cells: list[str], until: str = "", **params) -> dict:
    "Run a notebook's cells in this process, up to the first that contains `until`; its variables"
    space: dict = {"__name__": "notebook"}
    for i, cell in enumerate(cells):
        if until and until in cell:
            break
        exec(compile(cell, f"cell {i}", "exec"), space)
        space |= params if i == 0 else {}
    return space


@contextlib.contextmanager
def own_place(tmp_path_factory, name: str, **environment: str) -> Iterator[Path]:
    "Reports and cache in a folder of this module, on the processor"
    place = tmp_path_factory.mktemp(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIRKIT_DEVICE", "cpu")
        patch.setenv("MIRKIT_REPORTS_PATH", str(place / "reports"))
        patch.setenv("MIRKIT_CACHE_PATH", str(place / "cache"))
        for variable, value in environment.items():
            patch.setenv(variable, value)
        yield place


def strict_json(path: Path) -> dict:
    "JSON as other programs read it: without NaN"

    def refuse(word: str) -> None:
        raise AssertionError(f"{path}: {word} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def history(folder: Path) -> list[dict[str, float]]:
    "history.csv without the clock"
    with open(folder / "history.csv", newline="") as f:
        return [{k: float(v) for k, v in row.items() if k != "seconds" and v} for row in csv.DictReader(f)]
