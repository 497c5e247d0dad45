"""Training a key model from outside: what a run leaves behind, what stops it, and how it goes on after a kill"""

import functools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import runs
from runs import history, strict_json

from mirkit.core.audio import save_audio
from mirkit.core.tracks import fixed_split
from mirkit.key.calibrate import KeyCalibration
from mirkit.key.model import load_key_model, published_order
from mirkit.key.progressions import render_progression

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "nbs" / "train_stone.ipynb"
CELLS = [c.source for c in nbformat.read(NOTEBOOK, 4).cells if c.cell_type == "code"]
CHECKED, TRAINED = "settings_now = {", "curves = ["  # the cells before which play may stop

TINY = {"channels": [2, 2, 4, 4, 4, 4, 3], "kernels": [3] * 7}
GIVEN = {"config": TINY, "batch_size": 3, "seconds": 3.0, "steps": 4, "steps_per_epoch": 2, "device": "cpu", "seed": 0}
TRACKS = [("C major", "train"), ("Am", "train"), ("F# minor", "train"), ("Eb", "train"), ("-1", "train")]
TRACKS += [("G:maj", "val"), ("D minor", "val"), ("Bb major", "test"), ("8A", "test")]


play = functools.partial(runs.play, CELLS)


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    "Reports in a folder of this module; same bits are asked for on CPUs only"
    place = tmp_path_factory.mktemp("train_stone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIRKIT_DEVICE", "cpu")
        patch.setenv("MIRKIT_REPORTS_PATH", str(place / "reports"))
        yield place


@pytest.fixture(scope="module")
def table(place) -> Path:
    "Nine tracks of 7 s, one of them of unknown key"
    rows = ["audio,key,split"]
    for i, (key, split) in enumerate(TRACKS):
        degrees = "I-IV-V-I" if i % 2 == 0 else "i-iv-V-i"
        x = render_progression((5 * i) % 12 + 12 * (i % 2), degrees, seed=i, seconds=7.0)
        save_audio(place / f"{i}.flac", x, 22050)
        rows.append(f"{i}.flac,{'' if key == '-1' else key},{split}")
    (place / "table.csv").write_text("\n".join(rows) + "\n")
    return place / "table.csv"


@pytest.fixture(scope="module")
def labelled(table):
    "A whole run with labels"
    more = {"variant": "stone24", "mode": "mixed", "transpose": "official", "logger": "tensorboard"}
    return play(data=str(table), run_id="labelled", **GIVEN | more)


def test_a_run_with_labels_leaves_everything_behind(labelled):
    folder = labelled["folder"]
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and "tensorboard" not in str(p)}
    checkpoints = {f"checkpoints/{f}" for f in ("model.safetensors", "model.pt", "README.md", "last.ckpt", "best.ckpt")}
    assert files == checkpoints | {"report.html", "metrics.json", "config.json", "history.csv"}
    assert list((folder / "tensorboard").glob("events*"))
    rows = history(folder)
    assert [row["step"] for row in rows] == [2, 4]
    assert {"train/loss", "train/position", "loss", "length", "entropy", "agreement on major"} <= rows[-1].keys()
    metrics = strict_json(folder / "metrics.json")
    assert metrics["steps"] == 4 and metrics["named"] and {"MIREX", "KSEA_low", "accuracy"} <= metrics.keys()
    settings = strict_json(folder / "config.json")["settings"]
    assert settings["config"]["mode"] == "mixed" and settings["tracks"] == {"train": 5, "val": 2, "test": 2}


def test_both_model_files_hold_the_same_model(labelled):
    where = labelled["folder"] / "checkpoints"
    ours, theirs = (load_key_model(where / f"model.{suffix}") for suffix in ("safetensors", "pt"))
    assert ours.kind == theirs.kind == "stone24" and np.array_equal(ours.order, published_order("stone24"))
    assert ours.about["agreement"].keys() == {"major", "minor"} and ours.about["circle"] == 7
    picture = np.random.default_rng(0).normal(-20, 5, (1, 99, 200)).astype(np.float32)
    assert np.array_equal(ours.profiles(picture), theirs.profiles(picture))


def test_report_needs_no_network(labelled):
    page = (labelled["folder"] / "report.html").read_text(encoding="utf-8")
    assert "stone24 on" in page and "On 2 tracks that it has not heard" in page
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="http', page)


def test_without_agreement_there_are_no_names_and_no_model_file(table):
    "Four steps teach nothing: the outputs cannot be named, and the run says so instead of inventing"
    run = play(data=str(table), variant="stone12", circle=1, run_id="nameless", **GIVEN)
    assert not (run["folder"] / "checkpoints" / "model.safetensors").exists()
    assert not strict_json(run["folder"] / "metrics.json")["named"]
    with pytest.raises(ValueError, match=r"model\.pt: its outputs have no names yet"):
        load_key_model(run["folder"] / "checkpoints" / "model.pt")
    assert "No names for the outputs" in (run["folder"] / "report.html").read_text(encoding="utf-8")


def test_nothing_that_is_trained_on_is_scored(table, place, capsys):
    "A test set gives its test side, or what has no side, less the pieces that are heard in training or watched"
    other, header = place / "other.csv", "audio,key,group,split\n"
    heard = "0.flac,C,again,\n5.flac,G,watched,test\n"
    other.write_text(f"{header}{heard}7.flac,Bb,theirs,train\n8.flac,Am,new,\n1.flac,Am,1,test\n")
    found = play(CHECKED, data=str(table), test=str(other), **GIVEN)
    assert [t.group for t in found["scored"]] == ["new"]
    assert "3 of 4 tracks are of pieces that are trained on or watched" in capsys.readouterr().out
    other.write_text(header + heard)
    with pytest.raises(ValueError, match="no track with a key is left that is on the test side"):
        play(CHECKED, data=str(table), test=str(other), **GIVEN)
    both = play(CHECKED, data=str(table), test=f"{table}+progressions", test_rendering={"draws": 1}, **GIVEN)
    assert {t.id for t in both["scored"]} == {"table/7", "table/8"}  # the one draw is for training


def test_sides_do_not_depend_on_what_else_is_learned(table, place):
    "A piece without a side gets one by its own set's name and group, whatever stands beside it"
    lines = ["audio,key", *(f"{i}.flac,C" for i in range(9))]
    (place / "plain.csv").write_text("\n".join(lines) + "\n")
    plain = str(place / "plain.csv")
    found = [play(CHECKED, data=names, **GIVEN)["sides"] for names in (plain, f"{plain}+{table}")]
    for side in ("train", "val", "test"):
        alone, beside = ({t.audio.name for t in sides[side] if not t.id.startswith("table")} for sides in found)
        assert alone == beside == {f"{i}.flac" for i in range(9) if fixed_split("plain", str(i)) == side}


def test_a_wheel_that_is_turned_keeps_its_names_in_both_files(table, monkeypatch):
    "Only the calibration knows how a network without labels is turned; here it is told"
    wheel = np.roll(np.arange(12), 5)
    votes = np.tile(np.arange(24), (3, 1))
    found = KeyCalibration(np.concatenate((wheel + 12, wheel)), {"major": 1.0, "minor": 1.0}, votes)
    monkeypatch.setattr("mirkit.key.calibrate.calibrate", lambda *_: found)
    run = play("def answers(", data=str(table), run_id="turned", **GIVEN)
    files = [run["folder"] / "checkpoints" / f"model.{suffix}" for suffix in ("safetensors", "pt")]
    assert all(np.array_equal(load_key_model(f).order, found.order) for f in files)
    assert not np.array_equal(found.order, published_order("skey"))


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_train_stone import GIVEN, TRAINED, play
from mirkit.key.train import StoneTraining
steps = StoneTraining.training_step
def training_step(self, batch):
    if self.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return steps(self, batch)
StoneTraining.training_step = training_step
play(TRAINED, data={table!r}, run_id="killed", **GIVEN)
"""


def test_a_killed_run_goes_on_to_the_same_bits(table, place):
    "SIGKILL in the second epoch; the other run reads with more threads"
    import torch

    code = KILLED.format(tests=str(ROOT / "tests"), table=str(table))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert [row["step"] for row in history(place / "reports" / "train_stone" / "killed")] == [2]
    again = play(TRAINED, data=str(table), run_id="killed", **GIVEN)
    straight = play(TRAINED, data=str(table), run_id="straight", **GIVEN | {"threads": 3})
    assert again["result"].resumed_from == 2 and again["result"].steps == straight["result"].steps == 4
    pairs = zip(again["module"].state_dict().items(), straight["module"].state_dict().items(), strict=True)
    assert all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)
    assert history(again["folder"]) == history(straight["folder"])


MISTAKES = [
    ({"data": "progresions"}, "did you mean 'progressions'"),
    ({"variant": "stone"}, "variant = 'stone' is not known"),
    ({"circle": 5}, "circle = 5 must be 1"),
    ({"mode": "supervised"}, "labels are learned by variant = 'stone24'"),
    ({"config": {"learning_rat": 1}}, "did you mean learning_rate?"),
    ({"steps": 0}, "steps = 0 must be a number ≥ 1"),
    ({"seconds": 1.0}, "seconds = 1.0 must be a number between 2.94"),
    ({"seconds": 8.0}, "no tracks of at least 8 s among the 5 given"),
    ({"compare": ["nothing.pt"]}, "no model file nothing.pt"),
]


@pytest.mark.parametrize(("given", "message"), MISTAKES, ids=lambda value: str(value)[:30])
@pytest.mark.filterwarnings("ignore:.*shorter than")
def test_wrong_values_are_refused_before_anything_is_made(table, place, given, message):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        play(CHECKED, **{"data": str(table), "run_id": "refused"} | GIVEN | given)
    assert message in str(caught.value)
    assert not (place / "reports" / "train_stone" / "refused").exists()


def test_a_label_that_is_no_key_is_named_with_its_line(table, place):
    (place / "wrong.csv").write_text(table.read_text().replace("F# minor", "H minor"))
    with pytest.raises(ValueError, match=r"wrong\.csv, line 4: .*'H minor'"):
        play(CHECKED, data=str(place / "wrong.csv"), **GIVEN)


def test_tracks_without_two_segments_are_named(table):
    with pytest.warns(UserWarning, match="5 tracks are shorter than two segments of 5 s; theirs overlap: 0, 1, 2"):
        play(CHECKED, data=str(table), run_id="short", **GIVEN | {"seconds": 5.0})


def test_run_id_with_other_settings_is_refused(table, labelled):
    more = {"variant": "stone24", "mode": "mixed", "transpose": "official", "steps": 6}
    with pytest.raises(ValueError, match="run_id = 'labelled' is a run with other settings .*steps: 4 then, 6 now"):
        play(TRAINED, data=str(table), run_id="labelled", **GIVEN | more)
