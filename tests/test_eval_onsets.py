"""eval_onsets on a table that is small enough to score by hand: mir_eval's numbers, kept answers, settings chosen on other pieces, clear mistakes"""

import csv
import json
from pathlib import Path

import mir_eval
import nbformat
import numpy as np
import pytest
import torch
from runs import strict_json, validate

from mirkit.core.audio import load, save_audio
from mirkit.core.files import write_file
from mirkit.lab.run import run_notebook
from mirkit.piano.index import read_notes
from mirkit.piano.net import NetConfig, OnsetsAndVelocities, save_net
from mirkit.piano.render import invent
from mirkit.piano.transcriber import PianoTranscriber

NOTEBOOK = Path(__file__).resolve().parents[1] / "nbs" / "eval_onsets.ipynb"
SR, GRID = 16000, {"thresholds": [0.3, 0.5, 0.7], "shifts": [0.0, -0.02]}


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    "Two test pieces, one to choose settings on, one of training, and one without notes"
    folder = tmp_path_factory.mktemp("data")
    rows = ["audio,notes,split,group,instrument"]
    for i, (name, side) in enumerate({"one": "test", "two": "test", "choose": "val", "taught": "train"}.items()):
        notes = invent(7, i, 5.0)
        save_audio(folder / f"{name}.wav", notes.sonify(SR), SR)
        notes.to_csv(folder / f"{name}.csv")
        rows.append(f"{name}.wav,{name}.csv,{side},{name},{'grand' if name != 'two' else 'upright'}")
    save_audio(folder / "rest.wav", np.zeros(SR, np.float32), SR)
    write_file(folder / "rest.csv", "onset,offset,pitch,velocity\n")
    rows.append("rest.wav,rest.csv,test,rest,upright")
    return write_file(folder / "pieces.csv", "\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    "What a training notebook leaves, with a small network that has learnt nothing"
    folder = tmp_path_factory.mktemp("runs") / "a-run"
    (folder / "checkpoints").mkdir(parents=True)
    torch.manual_seed(3)
    about = {"threshold": 0.6, "shift": -0.01, "name": "a-run"}
    save_net(folder / "checkpoints" / "model.safetensors", OnsetsAndVelocities(NetConfig.narrow()).eval(), about)
    return folder


def theirs(reference, estimate) -> list[float]:
    "F1 of onsets, and of onsets and velocities, as the original asks mir_eval for them"
    if not len(reference) or not len(estimate):
        return [0.0, 0.0]
    sides = []
    for notes in (reference, estimate):
        sides += [np.column_stack([notes.onset, notes.onset + 1]), notes.pitch.astype(float), notes.velocity]
    r, k, v, e, q, w = sides
    options = {"onset_tolerance": 0.05, "pitch_tolerance": 0.1, "offset_ratio": None}
    onsets = mir_eval.transcription.precision_recall_f1_overlap(r, k, e, q, **options)
    loud = mir_eval.transcription_velocity.precision_recall_f1_overlap(r, k, v, e, q, w, **options)
    return [onsets[2], loud[2]]


def test_scores_are_those_of_mir_eval(table, run, settings):
    values = {"models": [str(run)], "data": [str(table)], "excerpt": 2.0, **GRID}
    result = run_notebook(NOTEBOOK, values)
    assert result.ok, result.error
    metrics = strict_json(result.folder / "metrics.json")
    chosen = metrics["a-run/pieces/threshold"], metrics["a-run/pieces/shift"]
    model = run / "checkpoints" / "model.safetensors"

    def by_hand(names, threshold, shift):
        asked, found = PianoTranscriber.from_pretrained(model, threshold=threshold, shift=shift), []
        for name in names:
            truth = read_notes(table.parent / f"{name}.csv").notes
            found.append(theirs(truth, asked(*load(table.parent / f"{name}.wav"))))
        return np.mean(found, axis=0)

    grid = {(t, s): by_hand(["choose"], t, s)[0] for s in GRID["shifts"] for t in GRID["thresholds"]}
    assert grid[chosen] == pytest.approx(max(grid.values()), abs=1e-9)
    onset, loud = by_hand(["one", "two", "rest"], *chosen)
    assert metrics["a-run/pieces/F1"] == pytest.approx(onset) and metrics["a-run/pieces/F1v"] == pytest.approx(loud)
    assert metrics["rising energy/pieces/F1"] > metrics["a-run/pieces/F1"] and metrics["a-run/pieces/rtf"] > 0
    with open(result.folder / "tables" / "pieces-a-run-onsets.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert [row["Filename"] for row in rows[:-1]] == ["one", "rest", "two"]
    assert rows[-1]["Filename"] == f"AVERAGES (t={chosen[0]:g}, s={chosen[1]:g})"
    assert float(rows[-1]["F1"]) == pytest.approx(onset) == pytest.approx(np.mean([float(r["F1"]) for r in rows[:-1]]))
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert "data:audio" in page and "black: found; blue: invented; pink: missed" in page and "AVERAGES (t=" in page
    assert str(table.parent) not in page.split("<details")[0]
    assert len(list((settings.cache_path / "piano-notes").glob("*.npy"))) == 2 * 4  # answers are kept
    assert json.loads((result.folder / "config.json").read_text())["settings"]["data"]["pieces"]["tracks"] == 3


@pytest.mark.parametrize(
    "values, texts",
    [
        ({"models": ["nobody"]}, ["models = 'nobody'"]),
        ({"data": ["nowhere"]}, ["nowhere"]),
        ({"data": []}, ["data = []"]),
        ({"data": "synth,synth"}, ["synth more than once"]),
        ({"split": "tests"}, ["split = 'tests'", "did you mean 'test'"]),
        ({"instruments": ["organ"]}, ["organ", "none for split = 'test'"]),
        ({"thresholds": "0.5,high"}, ["thresholds = '0.5,high' must be numbers"]),
        ({"thresholds": [1.5]}, ["thresholds = 1.5"]),
        ({"shifts": []}, ["shifts = []"]),
        ({"peers": ["basicpitch"]}, ["peers = 'basicpitch'", "did you mean 'basic-pitch'"]),
        ({"tolerance": 0}, ["tolerance = 0"]),
        ({"max_tracks": -1}, ["max_tracks = -1"]),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_mistakes_are_named_at_once(values, texts, table, run, settings):
    values = {"data": [str(table)], "models": [str(run)], **values}
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        validate(NOTEBOOK, **values)
    assert not [t for t in texts if t not in str(caught.value)], caught.value
    assert not settings.reports_path.exists()  # nothing was begun


def test_what_is_scored(table, run, settings):
    "Test recordings, of some pianos, drawn by the seed; settings from validation recordings of the same pianos"

    def chosen(**values) -> tuple[set[str], set[str]]:
        found = validate(NOTEBOOK, **{"data": str(table), "models": str(run), **values})["sources"]["pieces"]
        return tuple({t.id for t in part} for part in found)

    assert chosen() == ({"one", "two", "rest"}, {"choose"}) and chosen(tune=False)[1] == set()
    assert chosen(instruments="grand") == ({"one"}, {"choose"}) and chosen(instruments="up") == ({"two", "rest"}, set())
    assert chosen(split="val") == ({"choose"}, set()) and len(chosen(split="")[0]) == 5
    draws = [frozenset(chosen(max_tracks=1, seed=seed)[0]) for seed in range(5)]
    assert {len(d) for d in draws} == {1} and len(set(draws)) > 1 and draws[0] == chosen(max_tracks=1, seed=0)[0]
    found = validate(NOTEBOOK, data="synth", models=str(run), baseline=False)
    assert found["systems"] == ["a-run"] and [len(part) for part in found["sources"]["synth"]] == [4, 4]


def test_peers_are_asked_like_models(table, run, settings, monkeypatch):
    "A peer without confidences: nothing to choose, its table says so"

    class Perfect:
        key = "perfect"

        def __init__(self, name):
            self.name = name

        def timed(self, x, sr):
            names = ("one", "two", "rest", "choose")
            name = next(n for n in names if np.array_equal(load(table.parent / f"{n}.wav")[0], x))
            return read_notes(table.parent / f"{name}.csv").notes, {"cpu": 1.0, "wall": 1.0}

        def close(self):
            pass

    monkeypatch.setattr("mirkit.piano.peers.PeerTranscriber", Perfect)
    parameters, *cells = [c.source for c in nbformat.read(NOTEBOOK, 4).cells if c.cell_type == "code"]
    values = {"data": str(table), "models": str(run), "peers": "basic-pitch", "excerpt": 2.0}
    space: dict = {}
    for source in (parameters, "\n".join(f"{k} = {v!r}" for k, v in values.items()), *cells):
        exec(source, space)
    scores = space["scores"].set_index("system")
    assert scores.F1["basic-pitch"] == pytest.approx(2 / 3)  # a piece without notes scores 0
    assert scores.rtf["basic-pitch"] == pytest.approx(3 / 11) and space["used"]["basic-pitch", "pieces"] == (None, 0.0)
    assert "AVERAGES (as they come)" in (space["folder"] / "report.html").read_text(encoding="utf-8")
