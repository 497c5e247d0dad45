"""The main job from outside: what a training leaves behind, what stops it, and how it goes on after a kill"""

import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import nbformat
import numpy as np
import pytest
import soundfile as sf
from runs import history, strict_json

from mirkit.core.audio import resample
from mirkit.core.synth import render_track
from mirkit.lab.run import run_notebook

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "nbs" / "train_pesto.ipynb"
CELLS = [c.source for c in nbformat.read(NOTEBOOK, 4).cells if c.cell_type == "code"]

# A network that learns a little within a second.
TINY = {"batch_size": 32, "channels": [8, 6, 4, 2, 1], "learning_rate": 0.03}


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    "A folder for all of this module, with a cache and a reports folder of its own; same bits are asked for on CPUs only"
    place = tmp_path_factory.mktemp("train")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIRKIT_DEVICE", "cpu")
        for name in ("cache", "reports"):
            patch.setenv(f"MIRKIT_{name.upper()}_PATH", str(place / name))
        yield place


def write_audio(path: Path, x: np.ndarray, sr: int = 16000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, x, sr)


def write_labels(path: Path, times: np.ndarray, f0: np.ndarray) -> None:
    path.write_text("time,frequency\n" + "".join(f"{t:.3f},{f:.4f}\n" for t, f in zip(times, f0, strict=True)))


def voice(seed: int, seconds: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    "A synthetic recording at 16 kHz; its pitch at the times of the model's frames, every 20 ms"
    x, t, f0 = render_track(seed, seconds)
    times = np.arange(round(seconds * 50)) * 0.02
    return x, times, f0[np.searchsorted(t, times - 1e-9)]


@pytest.fixture(scope="module")
def singers(place) -> Path:
    "Five recordings of four singers, labelled"
    for i, name in enumerate(["amy/one", "amy/two", "ben/one", "cleo/one", "dora/one"]):
        x, times, f0 = voice(i + 2, 2.0)
        write_audio(place / "singers" / f"{name}.wav", x)
        write_labels(place / "singers" / f"{name}.csv", times, f0)
    return place / "singers"


def same_tensors(a: Path, b: Path) -> bool:
    from safetensors.torch import load_file

    x, y = load_file(a), load_file(b)
    return x.keys() == y.keys() and all(x[k].equal(y[k]) for k in x)


def mirkit(*words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "mirkit", "run", "train_pesto", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def words(params: dict) -> list[str]:
    return [w for k, v in params.items() for w in ("-p", k, json.dumps(v) if isinstance(v, dict) else str(v))]


# ---- a whole run -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def params(singers) -> dict:
    given = {"data": str(singers), "config": TINY, "steps": 30, "steps_per_epoch": 10, "seed": 0, "threshold": 0.2}
    return given | {"split": "manual", "val_groups": "['amy', 'cleo']"}


@pytest.fixture(scope="module")
def whole(params):
    result = run_notebook("train_pesto", params, run_id="whole")
    assert result.status == "done", result.error
    return result


def test_a_run_leaves_everything_behind(whole):
    files = {str(p.relative_to(whole.folder)) for p in whole.folder.rglob("*") if p.is_file()}
    checkpoints = {
        f"checkpoints/{f}"
        for f in ("model.safetensors", "model-half.safetensors", "model.ckpt", "README.md", "last.ckpt", "best.ckpt")
    }
    expected = {"report.html", "metrics.json", "config.json", "history.csv", "run.json", *checkpoints}
    assert files == expected | {"executed.ipynb", "executed.html"}
    config = strict_json(whole.folder / "config.json")
    assert config["settings"]["seed"] == 0 and config["settings"]["held_out"] == ["amy", "cleo"]
    assert config["settings"]["config"]["channels"] == TINY["channels"] and len(config["settings"]["data_hash"]) == 32
    import torch

    assert config["provenance"]["torch"] == torch.__version__ and config["provenance"]["mirkit"]
    rows = history(whole.folder)
    assert [row["step"] for row in rows] == [10, 20, 30]
    assert {"train/invariance", "weight/equivariance", "loss", "shift", "spread", "RPA"} <= rows[-1].keys()
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]


def test_a_network_learns_from_its_own_answers(params):
    from mirkit.pitch.model import load_model, model_facts

    more = {"threshold": -1, "taught_steps": 20, "taught_minutes": 0.2, "rooms": 0.5, "baseline": False}
    lessons = run_notebook("train_pesto", params | more, run_id="taught")
    assert lessons.status == "done", lessons.error
    rows = history(lessons.folder / "taught")
    assert [row["step"] for row in rows] == [10, 20] and rows[-1]["train/pitch"] < rows[0]["train/pitch"]
    metrics = strict_json(lessons.folder / "metrics.json")
    files = [lessons.folder / "checkpoints" / f for f in ("model.safetensors", "model-half.safetensors")]
    assert all(model_facts(f)["threshold"] == metrics["threshold"] for f in files)
    assert metrics["all_training_seconds"] > metrics["train_seconds"] and 0 < metrics["threshold"] < 1
    whole, half = (load_model(f).encoder.fc.weight.detach() for f in files)
    assert 0 < float((whole - half).abs().max()) < 1e-3 * float(whole.abs().max())
    assert files[1].stat().st_size < files[0].stat().st_size


def answers_of(model: Path, singers: Path) -> list[np.ndarray]:
    "Label and answer in Hz and the confidence of each held-out recording, frame by frame, from files alone"
    from mirkit.pitch.tracker import PitchTracker

    tracker, columns = PitchTracker.from_pretrained(model, step_size=20.0), []
    for name in ("amy/one", "amy/two", "cleo/one"):
        label = np.loadtxt(singers / f"{name}.csv", delimiter=",", skiprows=1)
        found = tracker(*sf.read(singers / f"{name}.wav", dtype="float32"))
        assert np.allclose(found.time[: len(label)], label[:, 0])
        columns.append(np.stack([label[:, 1], found.frequency[: len(label)], found.confidence[: len(label)]]))
    return columns


def test_numbers_are_those_of_mir_eval_on_the_saved_model(whole, singers):
    "Labels from their files, answers of the model file, frames of all recordings together"
    import mir_eval

    columns = answers_of(whole.folder / "checkpoints" / "model.safetensors", singers)
    hz, found, confidence = np.concatenate(columns, axis=1)
    times = np.arange(len(hz)) * 0.02
    expected = mir_eval.melody.evaluate(times, hz, times, np.where(confidence >= 0.2, found, -found))
    metrics = strict_json(whole.folder / "metrics.json")
    names = {
        "RPA": "Raw Pitch",
        "RCA": "Raw Chroma",
        "OA": "Overall",
        "VR": "Voicing Recall",
        "VFA": "Voicing False Alarm",
    }
    for ours, theirs in names.items():
        value = next(v for k, v in expected.items() if k.startswith(theirs))
        assert metrics[ours] == pytest.approx(100 * value, abs=1e-6), ours
        assert metrics[f"{ours}_low"] <= metrics[ours] <= metrics[f"{ours}_high"]
    assert any(1 < metrics[name] < 99 for name in names)  # zeros would agree too easily
    assert metrics["pYIN/RPA"] > 60 and metrics["steps"] == 30 and metrics["peak_memory_mb"] > 50


def test_both_model_files_hold_the_same_model(whole, singers):
    ours, official = (
        answers_of(whole.folder / "checkpoints" / f"model.{suffix}", singers) for suffix in ("safetensors", "ckpt")
    )
    assert all(np.allclose(a[1], b[1]) for a, b in zip(ours, official, strict=True))
    card = (whole.folder / "checkpoints" / "README.md").read_text(encoding="utf-8")
    facts = json.loads(re.search(r"```json\n(.*?)```", card, re.S)[1])
    assert facts["metrics"]["RPA"] == whole.metrics["RPA"] and facts["held_out"] == ["amy", "cleo"]


def test_report_opens_and_says_how_it_went(page, whole):
    page.goto((whole.folder / "report.html").as_uri())
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .plot-container').length >= 8")
    said = page.inner_text("main")
    assert f"{whole.metrics['RPA']:.1f} %" in said and "pYIN" in said
    assert re.search(r"\d\.\d \(\d+\.\d–\d+\.\d\)", said)  # intervals
    for section in ("Training", "Calibration", "Errors", "Is there a pitch?", "Examples", "Recordings", "Settings"):
        assert page.locator("h2, h3", has_text=section).count(), section
    for rank in ("best", "median", "worst"):
        assert f"{rank}: " in page.content()
    assert page.evaluate("[...document.querySelectorAll('audio')].length") == 3
    page.wait_for_function("document.querySelector('audio').readyState >= 1")
    assert abs(page.evaluate("document.querySelector('audio').duration") - 2.0) < 0.1
    page.goto((whole.folder / "executed.html").as_uri())
    assert "30 steps in" in page.inner_text("body")


def test_run_id_in_use_is_refused(whole, params):
    with pytest.raises(ValueError, match=r"'whole' exists \(done\)"):
        run_notebook("train_pesto", params | {"steps": 4}, run_id="whole")
    with pytest.raises(ValueError, match="was started with"):
        run_notebook("train_pesto", params | {"seed": 4}, run_id="whole", resume=True)
    assert run_notebook("train_pesto", params, run_id="whole", resume=True).status == "skipped"


# ---- kill -9 ---------------------------------------------------------------------------------------------------------


def papermill(params: dict, *words: str) -> subprocess.CompletedProcess:
    "papermill NOTEBOOK -p ... with one path: the executed notebook goes to standard output"
    command = [sys.executable, "-m", "papermill", str(NOTEBOOK), "--no-progress-bar", *words]
    return subprocess.run(command + ["-y", json.dumps(params)], capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def killed(whole, params) -> Path:
    "The folder of the same run, whose command and kernel were killed after the first of three epochs"
    import psutil

    folder = whole.folder.with_name("killed")
    run = mirkit(*words(params), "--run-id", "killed")
    while not (folder / "checkpoints" / "last.ckpt").exists():
        assert run.poll() is None, run.communicate()
        time.sleep(0.01)
    kernel = psutil.Process(run.pid).children(recursive=True)
    for process in (run, *kernel):  # the command first: it must not see its kernel die
        process.kill()
    run.communicate()
    assert len(history(folder)) < 3 and not (folder / "report.html").exists()
    assert strict_json(folder / "run.json")["status"] == "running"
    return folder


def test_killed_training_goes_on_as_if_nothing_had_happened(killed, whole, params):
    "Here with plain papermill and the same run id: same weights to the bit, same history, same numbers, same report"
    held = {"val_groups": ["amy", "cleo"]}
    data = ["-p", "data", params["data"], "-p", "steps", "30", "-p", "run_id", "killed"]
    done = papermill({k: v for k, v in params.items() if k not in ("data", "steps")} | held, *data)
    assert done.returncode == 0, done.stderr[-2000:]
    printed = json.dumps(json.loads(done.stdout)["cells"])
    assert "resumed from step" in printed and str(killed / "report.html") in printed
    model = "checkpoints/model.safetensors"
    assert same_tensors(killed / model, whole.folder / model)
    assert history(killed) == history(whole.folder)
    clock, metrics = re.compile("second|memory"), strict_json(killed / "metrics.json")
    assert all(metrics[k] == v for k, v in whole.metrics.items() if not clock.search(k))
    assert f"{metrics['RPA']:.1f} %" in (killed / "report.html").read_text(encoding="utf-8")
    assert not [p for p in killed.rglob("*") if p.name.startswith(".")]


# ---- sweeps ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sweep(singers):
    params = {"data": str(singers), "config": TINY, "steps": 4, "baseline": False, "split": "fold", "n_folds": 2}
    return run_notebook("train_pesto", params | {"fold": "0,1"}, run_id="folds", jobs=2)


def test_folds_in_parallel_give_one_report(sweep):
    assert [r.status for r in sweep.members] == ["done", "done"], sweep.error
    values = [r.metrics["RPA"] for r in sweep.members]
    summary = strict_json(sweep.folder / "metrics.json")["RPA"]
    assert summary["mean"] == pytest.approx(np.mean(values)) and summary["std"] == pytest.approx(np.std(values, ddof=1))
    page = (sweep.folder / "report.html").read_text(encoding="utf-8")
    assert "2 of 2 runs finished" in page and " ± " in page
    links = {unquote(link) for link in re.findall(r'href="([^"#]+report\.html)"', page)}
    assert links == {"fold=0/report.html", "fold=1/report.html"}
    assert all((sweep.folder / link).is_file() for link in links)


def test_folds_hold_out_everybody_once_and_share_one_cache(sweep, place, singers):
    held = [strict_json(r.folder / "config.json")["settings"]["held_out"] for r in sweep.members]
    assert sorted(held[0] + held[1]) == ["amy", "ben", "cleo", "dora"]
    assert not [f for f in os.listdir(place / "cache" / "hcqt") if f.startswith(".")]


# ---- mistakes, on the command line -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bad_list(singers, place) -> Path:
    "A list of four good files, one that is missing and two that are no sound"
    (place / "text.wav").write_text("this is not sound")
    (place / "nothing.flac").touch()
    good = [f"singers/{name}.wav" for name in ("amy/one", "ben/one", "cleo/one", "dora/one")]
    (place / "list.txt").write_text("\n".join([*good, "gone.wav", "text.wav", "nothing.flac"]) + "\n")
    return place / "list.txt"


@pytest.mark.parametrize(
    "given, code, message",
    [
        (["stepps", "4"], 2, "no parameter 'stepps' (did you mean 'steps'?)"),
        (["steps", "many"], 2, "steps = 'many' is not of type int"),
        (["data", "mir-2k"], 1, "data = 'mir-2k' is not known (did you mean 'mir-1k'?)"),
    ],
)
def test_exit_code_and_message(place, given, code, message):
    run = mirkit("-p", *given, "--out", str(place / f"mistakes{given[1]}"))
    out, err = run.communicate()
    assert run.returncode == code and message in err, err
    assert (place / f"mistakes{given[1]}").exists() == (code == 1)  # a mistake in the command leaves nothing behind


def test_command_names_and_counts_the_bad_files(bad_list, place):
    run = mirkit("-p", "audio_files", str(bad_list), "--out", str(place / "mistakes"))
    out, err = run.communicate()
    assert run.returncode == 1 and "3 of 7 tracks cannot be used" in err and "skip_bad" in err
    assert all(
        name in err
        for name in ("gone.wav: no such file", "text.wav: not a sound file", "nothing.flac: the file is empty")
    )


# ---- mistakes and odd data, without a kernel -------------------------------------------------------------------------
# The notebook's code cells run in this process: a kernel would cost seconds each time.


def play(before: str = "\0", **params: object) -> dict:
    "Run the notebook's cells up to the first that contains `before`; returns what they define"
    space: dict = {"__name__": "__main__"}
    exec(CELLS[0], space)
    assert params.keys() <= space.keys()
    space |= {"config": TINY, "steps": 4, "steps_per_epoch": 2, "baseline": False} | params
    for cell in CELLS[1:]:
        if before in cell:
            break
        exec(cell, space)
    return space


CHECKED = "settings_now = {"  # the first cell after the checks
STARTED = "cache = ArrayCache"  # the first cell after the settings are written
READY = "module = PestoTraining"  # the cell that trains
TRAINED = "module.validate()"  # the first cell after training


@pytest.mark.parametrize(
    "given, message",
    [
        ({"data": "synht"}, "data = 'synht' is not known (did you mean 'synth'?)"),
        ({"data": "no/such/folder"}, "data = 'no/such/folder': there is no such folder"),
        ({"data": "ptdb-tug"}, "put it:"),
        ({"channel": "centre"}, "channel = 'centre' is not known"),
        ({"audio_files": "no-list.txt"}, "audio_files = 'no-list.txt': there is no such file"),
        ({"annot_files": "labels.txt"}, "annot_files = 'labels.txt' needs audio_files"),
        ({"preset": "mir-1k_g8"}, "preset = 'mir-1k_g8' is not known (did you mean 'mir-1k_g7'?)"),
        ({"recipe": "quick"}, "recipe = 'quick' is not known"),
        ({"config": {"bins": 3}}, "no parameter 'bins'"),
        ({"config": {"batch_size": "many"}}, "batch_size = 'many' must be of type int"),
        ({"config": {"dropout": 1.5}}, "dropout = 1.5 must be a number between 0 and 0.9"),
        ({"steps": 0}, "steps = 0 must be a number ≥ 1"),
        ({"steps": 2.5}, "steps = 2.5 must be a whole number"),
        ({"steps_per_epoch": 0}, "steps_per_epoch = 0 must be a number ≥ 1"),
        ({"background": "mir-3k"}, "data = 'mir-3k' is not known"),
        ({"split": "groups"}, "split = 'groups' is not known (did you mean 'group'?)"),
        ({"val": 1.5}, "val = 1.5 must be a number between"),
        ({"split": "fold", "n_folds": 50}, "n_folds = 50 must be between 2 and the number of groups, 4"),
        ({"split": "fold", "n_folds": 3, "fold": 3}, "fold = '3' is not known"),
        ({"split": "manual", "val_groups": ["bob"]}, "val_groups = 'bob' is not known"),
        ({"threshold": -2}, "threshold = -2 must be a number between 0 and 1"),
        ({"compare": ["nobody.ckpt"]}, "no model file nobody.ckpt"),
        ({"device": "gpu"}, "device = 'gpu'"),
        ({"precision": "8"}, "precision = '8' is not known"),
        ({"logger": "tensorbord"}, "logger = 'tensorbord' is not known (did you mean 'tensorboard'?)"),
        ({"patience": -1}, "patience = -1 must be a number ≥ 0"),
        ({"seed": -5}, "seed = -5 must be a number ≥ 0"),
    ],
    ids=lambda x: "-".join(f"{k}={v}" for k, v in x.items()) if isinstance(x, dict) else "",
)
def test_wrong_values_are_refused_before_anything_is_made(singers, place, given, message):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        play(CHECKED, **{"data": str(singers), "run_id": "refused"} | given)
    assert message in str(caught.value)
    assert not (place / "reports" / "train_pesto" / "refused").exists()


def test_wandb_that_is_not_installed(singers, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"logger = 'wandb' needs the package wandb: pip install mirkit\[wandb\]"):
        play(CHECKED, data=str(singers), logger="wandb")


def test_empty_list(tmp_path):
    (tmp_path / "list.txt").write_text("\n\n")
    with pytest.raises(ValueError, match="the list is empty"):
        play(CHECKED, audio_files=str(tmp_path / "list.txt"))


def test_skip_bad_goes_on_without_the_bad_files(bad_list):
    with pytest.raises(ValueError, match=r"(?s)3 of 7 tracks.*gone.*text.*nothing.*skip_bad = True goes on"):
        play(CHECKED, audio_files=str(bad_list))
    with pytest.warns(UserWarning, match=r"(?s)left out: 3 of 7 tracks.*gone.*text.*nothing"):
        run = play(TRAINED, audio_files=str(bad_list), skip_bad=True, val=0.25, run_id="skipped")
    assert len(run["train_set"].tracks) == 3 and len(run["val_set"].tracks) == 1
    assert run["result"].steps == 4 and run["dataset"].name == "list"


# ---- odd recordings --------------------------------------------------------------------------------------------------

RATES = (8000, 16000, 22050, 44100, 48000, 96000)


@pytest.fixture(scope="module")
def zoo(place) -> dict:
    "Trained and tested on one song at six rates and in stereo, with labels too long and too short, noise, and no labels"
    folder = place / "zoo"
    x, times, f0 = voice(4, 1.2)
    for sr in RATES:
        write_audio(folder / f"r{sr}.wav", resample(x, 16000, sr), sr)
        write_labels(folder / f"r{sr}.csv", times, f0)
    write_audio(folder / "stereo.wav", np.stack([x, 0 * x], 1))
    write_labels(folder / "stereo.csv", times, f0)
    for name, y in (("longer", x[:9600]), ("shorter", x), ("unlabelled", x)):
        write_audio(folder / f"{name}.wav", y)
    write_labels(folder / "longer.csv", times, f0)
    write_labels(folder / "shorter.csv", times[:30], f0[:30])
    write_audio(folder / "noise.wav", 0.1 * np.random.default_rng(0).standard_normal(16000))
    write_labels(folder / "noise.csv", np.arange(50) * 0.02, np.zeros(50))
    run = play(data=str(folder), split="naive", run_id="zoo", steps=6)
    return run | {"by_id": dict(zip([t.id for t in run["val_set"].tracks], range(11), strict=True))}


def test_every_sampling_rate_shows_the_same_picture(zoo):
    "Frames every 20 ms; up to 3 kHz the same within 0.3 dB, but for the gain of librosa's norm, the root of the rate"
    frames = zoo["val_set"]
    middle = np.s_[3:57, 0, :240]  # at the ends mirrored sound is heard, and resampling shows
    at_16k = frames.features[zoo["by_id"]["r16000"]][middle]
    loud = at_16k > at_16k.max() - 30
    for sr in RATES:
        i = zoo["by_id"][f"r{sr}"]
        assert len(frames.features[i]) in (60, 61) and np.allclose(np.diff(frames.times[i]), 0.02)
        gain = 10 * np.log10(max(sr, 16000) / 16000)
        difference = np.abs(frames.features[i][middle] - at_16k - gain)[loud]
        assert np.quantile(difference, 0.99) < 0.3, sr


def test_stereo_is_mixed_down_unless_a_channel_is_named(zoo):
    frames = zoo["val_set"]
    mono, stereo = (frames.features[zoo["by_id"][name]] for name in ("r16000", "stereo"))
    loud = mono > mono.max() - 40
    assert np.allclose(stereo[loud], mono[loud] - 20 * np.log10(2), atol=0.01)  # the other channel is silent
    left = play("train_set =", data=str(zoo["folder"].parents[2] / "zoo"), channel="left", run_id="left")
    track = next(t for t in left["tracks"] if t.id == "stereo")
    from mirkit.pitch.data import track_features

    assert np.allclose(track_features(track, left["pesto"]), mono, atol=1e-3)


def test_labels_count_by_time_however_long_they_are(zoo):
    "Beyond the last label nothing is annotated and nothing is scored; beyond the last sample there are no frames"
    labels, table = zoo["val_set"].labels, zoo["scores"]["this model"][1].set_index("id")
    _, times, f0 = voice(4, 1.2)
    midi = np.where(f0 > 0, 69 + 12 * np.log2(np.where(f0 > 0, f0, 440) / 440), 0)
    for name, frames, annotated in (("longer", 31, 31), ("shorter", 61, 30), ("r44100", 61, 60), ("r8000", 61, 60)):
        label = labels[zoo["by_id"][name]]
        assert len(label) == frames and np.allclose(label[:annotated], midi[:annotated], atol=1e-3), name
        assert np.isnan(label[annotated:]).all() and table.frames[name] == annotated


def test_without_voiced_frames_there_is_no_pitch_to_score(zoo):
    table = zoo["scores"]["this model"][1].set_index("id")
    assert table.voiced["noise"] == 0 and np.isnan(table.RPA["noise"]) and table.OA["noise"] >= 0
    assert "unlabelled" not in table.index and len(table) == 10
    assert {"shift", "RPA", "VFA"} <= strict_json(zoo["folder"] / "metrics.json").keys()


def test_only_unvoiced_recordings_held_out(zoo):
    data = str(zoo["folder"].parents[2] / "zoo")
    run = play(data=data, split="manual", val_groups=["noise"], run_id="unvoiced")
    metrics = strict_json(run["folder"] / "metrics.json")
    assert metrics["RPA"] is None and metrics["VR"] is None and 0 <= metrics["OA"] <= 100
    page = (run["folder"] / "report.html").read_text(encoding="utf-8")
    assert "no voiced labels to score with" in page and not re.search(r">nan\b", page)


def test_no_labels_at_all(place):
    "Training needs none; validation then knows the losses and the calibration, and a tensorboard shows them"
    for i in range(3):
        write_audio(place / "bare" / f"{i}.wav", voice(i, 1.0)[0])
    run = play(data=str(place / "bare"), baseline=True, logger="tensorboard", run_id="bare")
    metrics, row = strict_json(run["folder"] / "metrics.json"), history(run["folder"])[-1]
    assert {"shift", "calibration_spread", "steps"} <= metrics.keys() and "RPA" not in metrics
    assert {"loss", "invariance", "shift_entropy", "equivariance", "shift", "spread"} <= row.keys() and "RPA" not in row
    page = (run["folder"] / "report.html").read_text(encoding="utf-8")
    assert "no voiced labels to score with" in page and "Calibration tones" in page
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run["folder"] / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 3]  # the last steps of two epochs, from 0
    assert events.Scalars("loss")[-1].value == pytest.approx(row["loss"])


def test_silence_is_not_trained_on(place):
    write_audio(place / "silent" / "a.wav", np.zeros(16000))
    write_audio(place / "silent" / "b.wav", np.zeros(16000))
    with pytest.raises(ValueError, match="nothing to train on: 0 of 51 frames are not silent"):
        play(data=str(place / "silent"), run_id="silent")


OTHER = {"bins_per_semitone": 2, "harmonics": [1, 2], "span": 60}, {"bins_per_semitone": 4}


@pytest.mark.parametrize("change", OTHER, ids=str)
def test_other_resolutions_and_harmonics(singers, change):
    import torch

    run = play(TRAINED, data=str(singers), config=TINY | change, run_id=f"b{change['bins_per_semitone']}", steps=2)
    b, shape = change["bins_per_semitone"], run["train_set"].features[0].shape
    assert shape[1:] == (len(change.get("harmonics", [1])), change.get("span", 88) * b + 2 * int(5.5 * b))
    activations = run["module"].model.eval().predict(torch.tensor(run["val_set"].features[0]))[2]
    assert activations.shape == (101, 128 * b) and torch.allclose(activations.sum(1), torch.ones(101))
    assert run["result"].steps == 2 and np.isfinite(run["result"].history[-1]["loss"])


# ---- going on --------------------------------------------------------------------------------------------------------


def test_run_id_with_other_settings_data_or_labels_is_refused(place):
    x, times, f0 = voice(1, 1.0)
    for name in ("a", "b", "c"):
        write_audio(place / "changing" / f"{name}.wav", x)
        write_labels(place / "changing" / f"{name}.csv", times, f0)
    same = {"data": str(place / "changing"), "run_id": "settled"}
    config = play(STARTED, **same)["folder"] / "config.json"
    before = config.read_text()
    for change in ({"steps": 6}, {"seed": 1}, {"config": {"batch_size": 64}}, {"patience": 2}, {"preset": "mir-1k_g7"}):
        with pytest.raises(ValueError, match="run_id = 'settled' is a run with other settings.*then, .*now") as caught:
            play(STARTED, **same | change)
        assert next(iter(change)) in str(caught.value)
    write_labels(place / "changing" / "b.csv", times, 2 * f0)
    with pytest.raises(ValueError, match="data_hash"):
        play(STARTED, **same)
    assert config.read_text() == before
    write_labels(place / "changing" / "b.csv", times, f0)
    play(STARTED, **same)


def test_crash_within_an_epoch_with_losses_that_warm_up(singers, monkeypatch):
    "Weights that depend on the epoch go on where they were; the second epoch is done anew"
    from mirkit.pitch.train import PestoTraining

    given = {"data": str(singers), "config": TINY | {"weighting": "warmup", "warmup_epochs": 4}, "steps": 6}
    steps = PestoTraining.training_step

    def power_cut(self, batch):
        if self.global_step == 3:
            raise RuntimeError("power cut")
        return steps(self, batch)

    straight = play(TRAINED, **given, run_id="straight")
    monkeypatch.setattr(PestoTraining, "training_step", power_cut)
    with pytest.raises(RuntimeError, match="power cut"):
        play(TRAINED, **given, run_id="crashed")
    monkeypatch.setattr(PestoTraining, "training_step", steps)
    resumed = play(TRAINED, **given, run_id="crashed")
    assert resumed["result"].resumed_from == 2 and history(resumed["folder"]) == history(straight["folder"])
    weights = [row["weight/equivariance"] for row in straight["result"].history]
    assert weights == sorted(set(weights))  # they do rise
    a, b = (run["module"].state_dict() for run in (straight, resumed))
    assert all(a[k].equal(b[k]) for k in a)


def test_full_disk_while_training(singers):
    "Cache and checkpoints say where there was no room, leave no debris, and the run goes on when there is some"
    given = {"data": str(singers), "run_id": "full", "split": "naive"}
    run = play(READY, **given)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match="cannot write a checkpoint to .*checkpoints .File too large.; make room"):
            play(TRAINED, **given)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(run["folder"] / "checkpoints") == []
    assert play(TRAINED, **given)["result"].steps == 4
