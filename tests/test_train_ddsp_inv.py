"""Training an inverse synthesiser from outside: what a run leaves behind, how it goes on after a kill, two processes, clear mistakes"""

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
NOTEBOOK = ROOT / "nbs" / "train_ddsp_inv.ipynb"
CELLS = [c.source for c in nbformat.read(NOTEBOOK, 4).cells if c.cell_type == "code"]
CHECKED, TRAINED = '"start_hash"', "history = pd.DataFrame"  # the cells before which play may stop

TINY = {"n_frames": 16, "n_harmonics": 12, "n_noise": 17, "depth": 16, "stem": 4, "channels": 2, "neck": 16}
TINY |= {"hidden": 16, "rnn": 16, "n_mels": 40}
GIVEN = {
    "recipe": "ci",
    "config": {"net": TINY},
    "batch_size": 4,
    "steps": 4,
    "steps_per_epoch": 2,
    "val_clips": 4,
    "baseline_clips": 2,
}
GIVEN |= {"examples": 1, "watch": 3, "device": "cpu", "seed": 0}

play = functools.partial(runs.play, CELLS)


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    "Reports and cache in a folder of this module"
    with runs.own_place(tmp_path_factory, "train_ddsp_inv", OMP_NUM_THREADS="1") as place:
        yield place


@pytest.fixture(scope="module")
def own(place) -> Path:
    "A folder of sounds: two glides with labels, one without, and what is no sound"
    from mirkit.core.audio import save_audio

    folder = place / "own"
    folder.mkdir()
    rows = ["audio,annotation,split,group"]
    for i, label in enumerate(("a", "b", "")):
        t = np.arange(24000) / 16000
        f0 = 200 * (i + 1) * 1.2**t
        x = sum(np.sin(2 * np.pi * k * np.cumsum(f0) / 16000) / k for k in (1, 2, 3))
        save_audio(folder / f"{i}.wav", (0.1 * x).astype(np.float32), 16000)
        (folder / f"{i}.csv").write_text(
            "".join(f"{s:.6f},{f:.6f}\n" for s, f in zip(t[::320], f0[::320], strict=True))
        )
        rows.append(f"{i}.wav,{f'{i}.csv' if label else ''},,{label or 'c'}")
    (folder / "bad.wav").write_bytes(b"no sound")
    (folder / "tracks.csv").write_text("\n".join([*rows, "bad.wav,,,d"]) + "\n")
    return folder


@pytest.fixture(scope="module")
def whole():
    "A whole pretraining"
    return play(run_id="whole", **GIVEN)


def test_a_run_leaves_everything_behind(whole):
    folder = whole["folder"]
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    models = {f"checkpoints/{name}" for name in ("model.safetensors", "README.md", "last.ckpt", "best.ckpt")}
    assert files == models | {
        "report.html",
        "metrics.json",
        "config.json",
        "history.csv",
        "control.json",
        "status.json",
    }
    rows = history(folder)
    assert [row["step"] for row in rows] == [2, 4] and {"train/loss", "train/f0", "RPA", "RCA"} <= rows[-1].keys()
    metrics = strict_json(folder / "metrics.json")
    assert metrics["steps"] == 4 and {"RPA", "RCA", "YIN/RPA", "pYIN/RPA", "parameters"} <= metrics.keys()
    settings = strict_json(folder / "config.json")["settings"]
    assert settings["data"] == "synthetic notes" and settings["config"]["stage"] == "pretrain"


def test_report_needs_no_network_and_can_be_heard(whole):
    page = (whole["folder"] / "report.html").read_text(encoding="utf-8")
    assert "within 50 cents" in page and "What longer training buys" in page and "pYIN" in page
    for caption in ("original, and the sinusoids", "sinusoids, played", "harmonic tone, played", "over the label"):
        assert caption in page
    assert page.count("<audio") >= 3 and not re.search(r'<(script|link|img|audio)[^>]+(src|href)="http', page)


def test_fine_tuning_goes_on_from_a_run_with_a_folder_that_has_a_bad_file(whole, own):
    more = {"stage": "finetune", "start": "whole", "data": str(own), "held_out": "b"}
    run = play(run_id="tuned", **GIVEN | more)
    assert [t.group for t in run["apart"]] == ["b"] and list(run["module"].clips.bad) == ["bad"]
    page = (run["folder"] / "report.html").read_text(encoding="utf-8")
    assert "1 left out" in page and "held-out recording, window 0" in page and "train/spectral_sin" in run["history"]
    metrics = strict_json(run["folder"] / "metrics.json")
    assert metrics["bad_files"] == 1 and 0 <= metrics["real_RPA"] <= metrics["real_RCA"] <= 1
    settings = strict_json(run["folder"] / "config.json")["settings"]
    assert settings["held_out"] == ["b"] and settings["start"].endswith("whole/checkpoints/model.safetensors")


def same(one, other):
    "Whether two modules hold the same bits"
    import torch

    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == again and torch.equal(a, b) for (name, a), (again, b) in pairs)


SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_train_ddsp_inv import GIVEN, TRAINED, play
from mirkit.ddsp.train import InverseTraining
steps = InverseTraining.training_step
def training_step(self, batch):
    if self.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return steps(self, batch)
InverseTraining.training_step = training_step
play(TRAINED, run_id="killed", **GIVEN | {more!r})
"""


def test_a_killed_run_goes_on_to_the_same_bits(place, own):
    "Fine-tuning, SIGKILL in the second epoch; the other run reads with more threads"
    more = {"stage": "finetune", "data": str(own)}
    code = SCRIPT.format(tests=str(ROOT / "tests"), more=more)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert [row["step"] for row in history(place / "reports" / "train_ddsp_inv" / "killed")] == [2]
    again = play(TRAINED, run_id="killed", **GIVEN | more)
    straight = play(TRAINED, run_id="straight", **GIVEN | more | {"threads": 3})
    assert again["result"].resumed_from == 2 and again["result"].steps == straight["result"].steps == 4
    assert same(again["module"], straight["module"]) and history(again["folder"]) == history(straight["folder"])


def test_two_processes_learn_what_one_learns(own):
    "torchrun, gloo: the same curve with the same global batch, recordings included"
    more = GIVEN | {"stage": "finetune", "data": str(own), "held_out": "b"}
    one, two = (history(play(TRAINED, run_id=f"by-{n}", devices=n, **more)["folder"]) for n in (1, 2))
    assert [row["step"] for row in one] == [row["step"] for row in two] == [2, 4]
    assert {"train/loss", "RPA", "real_RPA"} <= one[0].keys() == two[0].keys()
    for row, other in zip(one, two, strict=True):
        assert row == pytest.approx(other, rel=2e-3, abs=1e-4)


MISTAKES = [
    ({"stage": "fine"}, "stage = 'fine' is not known (did you mean 'finetune'?)"),
    ({"recipe": "tinny"}, "recipe = 'tinny' is not known (did you mean 'tiny'?)"),
    ({"config": {"learning_rat": 1}}, "did you mean learning_rate?"),
    ({"config": {"net": {"chanels": 1}}}, "chanels"),
    ({"config": {"notes": {"midy": [1, 2]}}}, "midy"),
    ({"config": {"ranges": "voices"}}, "did you mean 'voice'"),
    ({"steps": 0}, "steps = 0 must be a number ≥ 1"),
    ({"steps": 2.5}, "steps = 2.5 must be a whole number"),
    ({"devices": 3}, "batch_size = 4 cannot be shared by devices = 3"),
    ({"precision": "fp16"}, "precision = 'fp16' is not known"),
    ({"stage": "finetune", "data": "nowhere"}, "nowhere"),
    ({"stage": "finetune", "held_out": ["nobody"]}, "held_out = 'nobody' is not known"),
    ({"start": "nothing.safetensors"}, "nothing.safetensors"),
    ({"start": "whole", "config": {}}, "start is another network: n_harmonics = 12 there, 30 here"),
]


@pytest.mark.parametrize(("given", "message"), MISTAKES, ids=lambda value: str(value)[:30])
def test_wrong_values_are_refused_before_anything_is_made(place, whole, given, message):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        play(CHECKED, **{"run_id": "refused"} | GIVEN | given)
    assert message in str(caught.value)
    assert not (place / "reports" / "train_ddsp_inv" / "refused").exists()


def test_run_id_with_other_settings_is_refused(whole):
    with pytest.raises(ValueError, match="run_id = 'whole' is a run with other settings .*steps: 4 then, 6 now"):
        play(TRAINED, run_id="whole", **GIVEN | {"steps": 6})
