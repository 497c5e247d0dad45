"""Training a pitch model from outside: what a run leaves behind, how it goes on after a kill, two processes, clear mistakes"""

import functools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import runs
from runs import history, strict_json

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "nbs" / "train_pitch.ipynb"
CELLS = [c.source for c in nbformat.read(NOTEBOOK, 4).cells if c.cell_type == "code"]
CHECKED, TRAINED = 'settings_now["module"]', "history = pd.DataFrame"  # the cells before which play may stop

# A network that answers within a second.
TINY = {"layers": [[8, 3, [0]], [8, 1, [-20, 0, 20]]], "head": 4, "learning_rate": 0.02}
GIVEN = {"config": TINY, "batch_size": 96, "frames": 24, "steps": 4, "steps_per_epoch": 2, "clips": 4, "seconds": 1.28}
GIVEN |= {"noises": 2, "most": 2, "conditions": "clean", "baseline": False, "device": "cpu", "seed": 0, "threads": 1}

play = functools.partial(runs.play, CELLS)


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    "Reports and cache in a folder of this module"
    with runs.own_place(tmp_path_factory, "train_pitch", OMP_NUM_THREADS="1") as place:
        yield place


@pytest.fixture(scope="module")
def whole():
    "A whole run on sound of our own"
    return play(run_id="whole", **GIVEN)


@pytest.fixture(scope="module")
def voices(place) -> Path:
    "A folder of ten short voices"
    from mirkit.core.synth import synth_dataset

    return synth_dataset(n_tracks=10, seconds=1.0, progress=False)


def test_a_run_leaves_everything_behind(whole):
    folder = whole["folder"]
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    kept = {f"checkpoints/{name}" for name in ("model.safetensors", "last.ckpt", "best.ckpt")}
    assert files == kept | {"report.html", "metrics.json", "tracks.csv", "config.json", "history.csv"}
    rows = history(folder)
    assert [row["step"] for row in rows] == [2, 4] and {"loss", "RPA", "voiced", "train/pitch"} <= rows[-1].keys()
    metrics = strict_json(folder / "metrics.json")
    assert metrics["steps"] == 4 and {"RPA", "OA", "clean/this model, Viterbi/RPA", "threshold"} <= metrics.keys()
    table = pd.read_csv(folder / "tracks.csv")
    assert set(table.system) == {"this model", "this model, Viterbi"} and set(table.condition) == {"clean"}
    assert {"data", "id", "group", "frames", "voiced", "RPA"} <= set(table) and len(table) == 4


def test_report_needs_no_network_and_can_be_heard(whole):
    page = (whole["folder"] / "report.html").read_text(encoding="utf-8")
    for text in ("within 50 cents", "What a longer training buys", "A sung phrase, clean", "true pitch"):
        assert text in page, text
    assert page.count("<audio") >= 3 and not re.search(r'<(script|link|img|audio)[^>]+(src|href)="http', page)


def test_its_model_can_be_used_and_taught_by(whole, voices):
    from mirkit.pitch.tracker import PitchTracker

    file = str(whole["folder"] / "checkpoints" / "model.safetensors")
    assert PitchTracker.from_pretrained(file).threshold == pytest.approx(whole["threshold"])
    lessons = {
        "objective": "self-training",
        "teacher": "whole",
        "start": "whole",
        "data": {str(voices): 0.5},
        "sure": [0.0, 0.05],
    }
    pupil = play(TRAINED, run_id="pupil", **GIVEN | lessons)
    assert pupil["module"].names == ("ours", str(voices)) and pupil["result"].steps == 4
    with pytest.raises(ValueError, match="the teacher is sure of no frame of 10 recordings"):
        play(TRAINED, run_id="unsure", **GIVEN | lessons | {"sure": [0.0, 1.0]})


def test_shifts_alone_teach_and_are_calibrated():
    run = play(run_id="blind", objective="self-supervised", **GIVEN)
    assert {"shifted", "equivariance", "voicing"} <= set(run["history"]) and "RPA" not in run["history"]
    assert float(run["model"].shift) == pytest.approx(run["calibration"].shift)
    assert "Calibration" in (run["folder"] / "report.html").read_text(encoding="utf-8")


def same(one, other) -> bool:
    "Whether two modules hold the same bits, averaged weights included"
    import torch

    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_train_pitch import GIVEN, TRAINED, play
from mirkit.pitch.supervised import SupervisedTraining
steps = SupervisedTraining.training_step
def training_step(self, batch):
    if self.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return steps(self, batch)
SupervisedTraining.training_step = training_step
play(TRAINED, run_id="killed", **GIVEN)
"""


def test_a_killed_run_goes_on_to_the_same_bits(place, whole):
    code = SCRIPT.format(tests=str(ROOT / "tests"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert [row["step"] for row in history(place / "reports" / "train_pitch" / "killed")] == [2]
    again = play(TRAINED, run_id="killed", **GIVEN)
    assert again["result"].resumed_from == 2 and again["result"].steps == 4
    assert same(again["module"], whole["module"]) and history(again["folder"]) == history(whole["folder"])


def test_two_processes_learn_what_one_learns(whole):
    "torchrun, gloo: the same curve with the same global batch"
    two = play(TRAINED, run_id="by-two", devices=2, **GIVEN)
    for row, other in zip(history(whole["folder"]), history(two["folder"]), strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-4)


MISTAKES = [
    ({"objective": "synthetics"}, "objective = 'synthetics' is not known (did you mean 'synthetic'?)"),
    ({"data": {"synth": 0.5}}, "hears rendered sound only"),
    ({"objective": "self-training", "data": {"synth": 1.2}}, "add up to at most 1"),
    ({"objective": "self-training", "teacher": "pesto-vqt"}, "teacher: it has 3 bins per semitone, the student 2"),
    ({"objective": "self-training", "teacher": "nobody"}, "nobody"),
    ({"objective": "self-training", "held_out": ["synth/nobody"]}, "held_out = 'synth/nobody' matches none"),
    ({"preset": "mir-1k", "config": {}}, "train_pesto trains PESTO's network"),
    ({"config": {"learning_rat": 1}}, "did you mean learning_rate?"),
    ({"config": TINY | {"picture": 60.0}}, "Hz, which the model can show"),
    ({"steps": 2.5}, "steps = 2.5 must be a whole number"),
    ({"seconds": 0.1}, "seconds = 0.1 must be"),
    ({"music": 2}, "music = 2 must be"),
    ({"snr": [10, -10]}, "snr[1] = -10 must be"),
    ({"sure": [0.8, 0.2]}, "sure[1] = 0.2 must be"),
    ({"start": "nothing.safetensors"}, "nothing.safetensors"),
    ({"start": "pitch"}, "start = 'pitch' is another network: its layers is"),
    ({"conditions": "loud"}, "condition = 'loud' must be clean"),
]


@pytest.mark.parametrize(("given", "message"), MISTAKES, ids=lambda value: str(value)[:30])
def test_wrong_values_are_refused_before_anything_is_made(place, given, message):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        play(CHECKED, **{"run_id": "refused"} | GIVEN | given)
    assert message in str(caught.value)
    assert not (place / "reports" / "train_pitch" / "refused").exists()


def test_an_empty_background_is_refused(place):
    empty = place / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="holds nothing that could be heard"):
        play(TRAINED, run_id="empty", **GIVEN | {"background": [str(empty)]})


def test_run_id_with_other_settings_is_refused(whole):
    with pytest.raises(ValueError, match="run_id = 'whole' is a run with other settings .*steps: 4 then, 6 now"):
        play(TRAINED, run_id="whole", **GIVEN | {"steps": 6})
