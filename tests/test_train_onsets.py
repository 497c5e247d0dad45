"""Training a piano model from outside: what a run leaves behind, what stops it, how it is talked to, and how it goes on after a kill"""

import functools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import runs
from runs import history, strict_json

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "nbs" / "train_onsets.ipynb"
CELLS = [c.source for c in nbformat.read(NOTEBOOK, 4).cells if c.cell_type == "code"]
CHECKED, TRAINED = "settings_now = {", "events = read_log"  # the cells before which play may stop

TINY = {"net": {"channels": 4, "blocks": 1, "head": 16, "n_mels": 48}, "chunk_seconds": 2.0}
GIVEN = {"config": TINY, "rendering": {"count": 2, "seconds": 6.0, "held": 1}, "batch_size": 3, "steps": 4}
GIVEN |= {"steps_per_epoch": 2, "thresholds": [0.1, 0.3], "device": "cpu", "seed": 0}


play = functools.partial(runs.play, CELLS)


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    "Reports and cache in a folder of this module"
    with runs.own_place(tmp_path_factory, "train_onsets") as place:
        yield place


@pytest.fixture(scope="module")
def whole():
    "A whole run on the built-in notes"
    return play(run_id="whole", augment="strong", **GIVEN)


def test_a_run_leaves_everything_behind(whole):
    folder = whole["folder"]
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    models = (
        "model.safetensors",
        "onset.safetensors",
        "onset_velocity.safetensors",
        "README.md",
        "last.ckpt",
        "best.ckpt",
    )
    others = {"report.html", "metrics.json", "config.json", "history.csv", "log.jsonl", "control.json", "status.json"}
    assert files == {f"checkpoints/{name}" for name in models} | others
    rows = history(folder)
    assert [row["step"] for row in rows] == [2, 4] and {"train/loss", "train/onset", "F1", "F1v"} <= rows[-1].keys()
    metrics = strict_json(folder / "metrics.json")
    assert metrics["steps"] == 4 and {"F1", "F1v", "val_F1", "parameters"} <= metrics.keys()
    settings = strict_json(folder / "config.json")["settings"]
    assert settings["tracks"] == {"train": 2, "val": 1, "test": 1} and settings["config"]["augment"] == "strong"
    assert strict_json(folder / "status.json")["state"] == "finished"


def test_the_log_is_of_the_original_s_kind(whole):
    from mirkit.piano.train import read_log

    events = read_log(whole["folder"] / "log.jsonl")
    assert list(events)[:2] == ["PARAMETERS", "MODEL_INFO"] and len(events["XV_SUMMARY"]) == 2
    summary = events["XV_SUMMARY"][-1][1]
    assert summary["global_step"] == 4 and 0 <= summary["best_f1_o"] <= 1 and summary["best_f1_o_thresh"] in (0.1, 0.3)
    assert events["XV_PROCESSING"][0][1] | {"filename": ""} == {"global_step": 2, "len_xv": 1, "idx": 1, "filename": ""}


def test_its_models_transcribe(whole):
    from mirkit.piano.transcriber import PianoTranscriber

    for name in ("model", "onset", "onset_velocity"):
        found = PianoTranscriber.from_pretrained(whole["folder"] / "checkpoints" / f"{name}.safetensors")
        assert found.threshold in (0.1, 0.3) and found.mel["n_mels"] == 48 and found.shift == -0.01
        rng = np.random.default_rng(0)
        assert found(0.1 * rng.standard_normal(16000).astype(np.float32), 16000).duration == 1.0


def test_report_needs_no_network_and_can_be_heard(whole):
    page = (whole["folder"] / "report.html").read_text(encoding="utf-8")
    assert "that it has not heard" in page and "onset probability" in page and "log-mel" in page
    assert page.count('class="mirkit-player"') >= 2 or page.count("<audio") >= 2
    assert not re.search(r'<(script|link|img|audio)[^>]+(src|href)="http', page)


def test_a_run_from_stores_and_with_a_fixed_floor(whole, place):
    "HDF5 files instead of sound, absolute decibels, windows of attention, from another model's weights"
    from mirkit.piano.index import PianoDataset
    from mirkit.piano.store import prepare_store

    tracks = tuple(t for side in whole["sides"].values() for t in side)
    prepare_store(PianoDataset("synth", tracks, ""), place / "h5", whole["onsets"].store, progress=False)
    more = {"store": str(place / "h5"), "floor": -50.0, "steps": 2, "average": 0.0, "test_files": 0}
    more["start"] = str(whole["folder"] / "checkpoints" / "model.safetensors")
    run = play(run_id="stored", **GIVEN | more)
    assert run["model_about"]["floor"] == -50 and len(run["comparison"]) == 0
    assert "there are no files to score on" in (run["folder"] / "report.html").read_text(encoding="utf-8")


SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_train_onsets import GIVEN, TRAINED, play
from mirkit.piano.train import OnsetsTraining
{before}
play(TRAINED, run_id={run!r}, **GIVEN | {more!r})
"""
KILL = """
steps = OnsetsTraining.training_step
def training_step(self, batch):
    if self.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return steps(self, batch)
OnsetsTraining.training_step = training_step
"""


def script(run, before="", **more):
    "The notebook in a process of its own"
    return SCRIPT.format(tests=str(ROOT / "tests"), run=run, before=before, more=more)


def same(one, other):
    "Whether two modules hold the same bits"
    import torch

    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == again and torch.equal(a, b) for (name, a), (again, b) in pairs)


def test_a_killed_run_goes_on_to_the_same_bits(place):
    "SIGKILL in the second epoch; the other run reads with more threads"
    code = script("killed", KILL, augment="strong")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert [row["step"] for row in history(place / "reports" / "train_onsets" / "killed")] == [2]
    more = GIVEN | {"augment": "strong"}
    again = play(TRAINED, run_id="killed", **more)
    straight = play(TRAINED, run_id="straight", **more | {"threads": 3})
    assert again["result"].resumed_from == 2 and again["result"].steps == straight["result"].steps == 4
    assert same(again["module"], straight["module"]) and history(again["folder"]) == history(straight["folder"])


def test_a_running_training_is_paused_slowed_saved_and_stopped_through_its_file(place):
    "In another process; what is left of the run then goes on here, and the report is made"
    from mirkit.lab.control import Control

    control = Control(place / "reports" / "train_onsets" / "talked")
    control.write(pause=True)
    more = {"steps": 12, "steps_per_epoch": 6}
    process = subprocess.Popen([sys.executable, "-c", script("talked", **more)], cwd=ROOT, env=dict(os.environ))
    try:
        assert control.wait_for("paused", seconds=120)["step"] == 1
        control.write(lr_scale=0.5, save_now=True)
        until(lambda: not control.read().save_now)
        saved = control.folder / "checkpoints" / "step-000001.ckpt"
        assert saved.is_file() and process.poll() is None
        (control.folder / "breakpoint.json").write_text('{"inconditional": false, "step_gt": 3, "step_every": null}')
        control.write(pause=False)
        until(lambda: control.status()["step"] == 3 and control.status()["state"] == "paused")
        status = control.status()
        assert status["lr_scale"] == 0.5 and status["message"] == "step_gt 3" and status["loss"] > 0
        control.write(stop=True)
        assert process.wait(120) == 0
    finally:
        process.kill()
    assert control.status()["state"] == "stopped" and not control.read().stop
    (control.folder / "breakpoint.json").unlink()
    control.write(pause=False, lr_scale=1.0)
    run = play(TRAINED, run_id="talked", **GIVEN | more)
    assert run["result"].resumed_from == 3 and run["result"].steps == 12


def test_the_panel_follows_the_files(tmp_path):
    "Where there is an event loop, it looks again and again, and stops when it is closed"
    import asyncio

    from mirkit.lab.control import Control, control_widget

    async def watched():
        panel, control = control_widget(tmp_path, every=0.02), Control(tmp_path)
        control.write(pause=True)
        (tmp_path / "status.json").write_text(
            '{"state": "paused", "step": 7, "max_steps": 9, "loss": 0.25, "lr": 0.001}'
        )
        for _ in range(200):
            await asyncio.sleep(0.02)
            if panel.pause.value and "paused at step 7 of 9" in panel.said.value:
                break
        assert panel.pause.value and "loss 0.25" in panel.said.value
        panel.pause.value = False
        assert not control.read().pause
        panel.close()
        for _ in range(200):
            await asyncio.sleep(0.02)
            if panel.task.done():
                return
        raise AssertionError("still looking")

    asyncio.run(watched())


def until(condition, seconds=120):
    "Wait for it"
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


MISTAKES = [
    ({"data": "sinth"}, "data = 'sinth' is not known"),
    ({"recipe": "g24"}, "recipe = 'g24' is not known (did you mean"),
    ({"config": {"learning_rat": 1}}, "did you mean learning_rate?"),
    ({"config": {"net": {"chanels": 1}}}, "chanels"),
    ({"steps": 0}, "steps = 0 must be a number ≥ 1"),
    ({"augment": "stronger"}, "augment = 'stronger' is not known"),
    ({"augmentation": {"detunes": 3}}, "did you mean detune?"),
    ({"floor": "clap"}, "floor = 'clap'"),
    ({"thresholds": [0.5, 1.5]}, "must be numbers between 0 and 1"),
    ({"store": "nowhere"}, "nowhere"),
    ({"store": "nowhere", "augment": "strong"}, "has no sound to change the pitch of"),
    ({"compare": ["nothing.pt"]}, "nothing.pt"),
    ({"rendering": {"counts": 3}}, "did you mean 'count'"),
    ({"shares": {"snth": 1.0}}, "data set in shares = 'snth' is not known (did you mean 'synth'?)"),
    ({"shares": {"synth": 0}}, "must have one that is more than 0"),
    ({"augments": {"maps": "recorded"}}, "data set in augments = 'maps' is not known"),
    ({"augments": {"synth": "record"}}, "augment = 'record' is not known"),
    ({"velocity_shares": {"synth": -1}}, "velocity_shares of synth = -1"),
]


@pytest.mark.parametrize(("given", "message"), MISTAKES, ids=lambda value: str(value)[:30])
def test_wrong_values_are_refused_before_anything_is_made(place, given, message):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        play(CHECKED, **{"run_id": "refused"} | GIVEN | given)
    assert message in str(caught.value)
    assert not (place / "reports" / "train_onsets" / "refused").exists()


def test_nothing_that_is_trained_on_is_scored(place, whole, capsys):
    "A test set gives its test side, less the recordings and pieces that are heard in training or watched"
    train, val, test = (whole["sides"][side][0] for side in ("train", "val", "test"))
    rows = [(train, "again", "test"), (val, "watched", "test"), (test, "new", "test"), (test, "theirs", "train")]
    lines = ["audio,notes,split,group", *(f"{t.audio},{t.notes},{split},{group}" for t, group, split in rows)]
    (place / "other.csv").write_text("\n".join(lines[:4]) + "\n")
    run = play(CHECKED, test=str(place / "other.csv"), **GIVEN)
    assert [t.group for t in run["scored"]] == ["other/new"]
    assert "2 of 3 tracks are of pieces that are trained on or watched" in capsys.readouterr().out
    (place / "other.csv").write_text("\n".join([lines[0], lines[4]]) + "\n")
    assert not play(CHECKED, test=str(place / "other.csv"), **GIVEN)["scored"]


def test_run_id_with_other_settings_is_refused(whole):
    with pytest.raises(ValueError, match="run_id = 'whole' is a run with other settings .*steps: 4 then, 6 now"):
        play(TRAINED, run_id="whole", augment="strong", **GIVEN | {"steps": 6})
