"""Training an instrument from outside: what a run leaves behind, what stops it, what is left out, and how it goes on after a kill"""

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

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "nbs" / "train_ddsp_decoder.ipynb"
CELLS = [c.source for c in nbformat.read(NOTEBOOK, 4).cells if c.cell_type == "code"]
CHECKED, TRAINED = "settings_now = {", "history = pd.DataFrame"  # the cells before which play may stop

TINY = {"model": {"rnn": 12, "dense": 12, "reverb": 400, "n_harmonics": 20, "n_noise": 17}, "seconds": 0.5, "warm": 0.1}
GIVEN = {"config": TINY | {"sizes": [512, 128]}, "synth": {"count": 3, "seconds": 4.0}, "batch_size": 2, "steps": 4}
GIVEN |= {"steps_per_epoch": 2, "windows": 1, "longest": 4.0, "examples": 1, "device": "cpu", "seed": 0}

play = functools.partial(runs.play, CELLS)


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    "Reports and cache in a folder of this module"
    with runs.own_place(tmp_path_factory, "train_ddsp_decoder") as place:
        yield place


@pytest.fixture(scope="module")
def whole():
    "A whole run on the built-in tunes"
    return play(run_id="whole", **GIVEN)


def test_a_run_leaves_everything_behind(whole):
    folder = whole["folder"]
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    models = ("model.safetensors", "README.md", "last.ckpt", "best.ckpt")
    others = {"report.html", "metrics.json", "config.json", "history.csv", "control.json", "status.json"}
    assert files == {f"checkpoints/{name}" for name in models} | others
    rows = history(folder)
    assert [row["step"] for row in rows] == [2, 4] and {"train/loss", "distance", "loudness error"} <= rows[-1].keys()
    metrics = strict_json(folder / "metrics.json")
    assert metrics["steps"] == 4 and {"distance", "sine/distance", "random decoder/cents"} <= metrics.keys()
    assert strict_json(folder / "status.json")["state"] == "finished"


def test_what_was_held_out_was_not_learned_from(whole):
    learned, held = ({r.id for r in whole[side]} for side in ("learn", "test"))
    assert learned and held and not learned & held


def test_its_instrument_plays_and_knows_its_register(whole):
    from mirkit.ddsp.decoder import DDSPDecoder

    decoder = DDSPDecoder.from_pretrained(whole["folder"] / "checkpoints" / "model.safetensors")
    assert decoder.about["tracker"] == "pitch" and 45 < decoder.statistics.pitch_mean < 85
    sound = decoder(np.full(250, 300.0), np.full(250, -10.0)).render()
    assert sound.shape == (16000,) and np.isfinite(sound).all() and np.abs(sound).max() > 1e-4


def test_the_report_needs_no_network_and_can_be_heard(whole):
    page = (whole["folder"] / "report.html").read_text(encoding="utf-8")
    assert "that it has not heard" in page and "original" in page and "sine of the same pitch" in page
    assert page.count("<audio") >= 3
    assert not re.search(r'<(script|link|img|audio)[^>]+(src|href)="http', page)


SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_train_ddsp_decoder import GIVEN, TRAINED, play
from mirkit.ddsp.train_decoder import DecoderTraining
steps = DecoderTraining.training_step
def training_step(self, batch):
    if self.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return steps(self, batch)
DecoderTraining.training_step = training_step
play(TRAINED, run_id="killed", **GIVEN)
"""


def test_a_killed_run_goes_on_to_the_same_bits(whole, place):
    "SIGKILL in the second epoch, in a process of its own"
    import torch

    code = SCRIPT.format(tests=str(ROOT / "tests"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert [row["step"] for row in history(place / "reports" / "train_ddsp_decoder" / "killed")] == [2]
    again = play(TRAINED, run_id="killed", **GIVEN)
    straight = play(TRAINED, run_id="straight", **GIVEN)
    assert again["result"].resumed_from == 2 and straight["result"].resumed_from == 0
    pairs = zip(again["module"].state_dict().values(), straight["module"].state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs) and history(again["folder"]) == history(straight["folder"])
    with pytest.raises(ValueError, match="run with other settings .*batch_size"):
        play(TRAINED, run_id="killed", **GIVEN | {"batch_size": 1})


def test_a_folder_with_bad_recordings_names_them_and_goes_on_from_another_instrument(whole, place):
    from mirkit.core.audio import load, save_audio

    folder = place / "mine"
    folder.mkdir()
    for i, file in enumerate(whole["files"].values()):
        save_audio(folder / f"take-{i}.wav", *load(file))
    several = [load(file)[0] for file in whole["files"].values()]
    save_audio(folder / "band.wav", sum(x[:48000] for x in several) / len(several), 16000)
    save_audio(folder / "pause.wav", np.zeros(48000, np.float32), 16000)
    (folder / "broken.wav").write_text("not a sound")
    start = str(whole["folder"] / "checkpoints" / "model.safetensors")
    more = {"data": str(folder), "start": start, "config": {k: v for k, v in TINY.items() if k != "model"}, "steps": 2}
    run = play(run_id="mine", **GIVEN | more | {"held": {"take-1": 0.5}, "compare": [start]})
    assert set(run["bad"]) == {"band", "pause", "broken"} and "silent" in run["bad"]["pause"]
    assert "several instruments" in run["bad"]["band"]
    assert [r.id for r in run["test"]] == ["take-1"] and len(run["learn"]) == 3
    assert list(run["comparison"]["player"])[:4] == ["this instrument", "sine", "random decoder", "start"]
    page = (run["folder"] / "report.html").read_text(encoding="utf-8")
    assert "Recordings that will not do" in page and "broken" in page


@pytest.mark.parametrize(
    "given, message",
    [
        ({"recipe": "cello"}, "recipe = 'cello'"),
        ({"config": {"second": 1.0}}, "did you mean 'seconds'"),
        ({"tracker": "pesto-vqtt"}, "did you mean pesto-vqt"),
        ({"start": "voilin"}, "model = 'voilin' is unknown"),
        ({"held": {"tune-9": 1.0}}, "recording in held = 'tune-9'"),
        ({"steps": 0}, "steps = 0"),
        ({"share": 2.0}, "share = 2"),
        ({"synth": {"counts": 2}}, "'counts' is not known.*did you mean 'count'"),
        ({"held": {"tune-0": 2.0}}, "held of tune-0 = 2"),
        ({"threads": -1}, "threads = -1"),
        ({"start": "ddsp-inv-tiny"}, "holds no instrument of mirkit"),
        ({"compare": ["violin"], "config": TINY | {"model": {"rate": 50}}}, "violin in compare is told other things"),
        ({"data": "/nowhere/at/all"}, "there is no such folder"),
        ({"config": TINY | {"seconds": 30.0}}, "too short"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(given, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        play(CHECKED, **GIVEN | given)
