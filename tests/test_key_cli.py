"""`mirkit key` as a shell sees it: the table, options, odd recordings, mistakes, interruption, what it costs"""

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

import mirkit as mk
from mirkit import cli
from mirkit.key.names import KEYS
from mirkit.key.result import KeyEstimate
from mirkit.key.tonal import make_tonal_config, random_weights, save_tonal

ROOT = Path(__file__).resolve().parents[1]
HEADER = "file,key,confidence"


def chords(sr: int = 22050, seconds: float = 4.0, root: int = 0) -> np.ndarray:
    "Cadences in additive tones, a chord a second"
    t = np.arange(round(sr * seconds)) / sr
    chord = t.astype(int) % 4
    x = np.zeros(len(t))
    for note in (0, 4, 7):
        hz = 220 * 2 ** ((root + np.array([0, 5, 7, 0])[chord] + note) / 12)
        phase = 2 * np.pi * np.cumsum(hz) / sr
        x += sum(np.sin(h * phase) / h for h in (1, 2, 3))
    return (0.1 * x).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    "A small model with random weights: its keys mean nothing, but are always the same"
    config = make_tonal_config(channels=(4, 4, 4, 4))
    return str(save_tonal(tmp_path_factory.mktemp("model") / "tiny.safetensors", random_weights(config), config))


@pytest.fixture
def key(model, capsys):
    "Run the command: status, what it prints, and what it says on stderr"

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main(["key", "-m", model, *map(str, words)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        lines = [line for line in err.replace("\r", "\n").splitlines() if line and not line.startswith("key:")]
        return status, out, "".join(f"{line}\n" for line in lines)  # without the progress bar

    return run


def rows(text: str | Path) -> list[dict[str, str]]:
    text = text.read_text() if isinstance(text, Path) else text
    return list(csv.DictReader(text.splitlines()))


# ---- what is written -------------------------------------------------------------------------------------------------


def test_without_a_folder_nothing_is_written(here, key):
    sf.write("song.wav", chords(), 22050)
    status, out, err = key("song.wav")
    assert status == 0 and err == "mirkit: 1 done\n" and os.listdir() == ["song.wav"]
    (row,) = rows(out)
    assert out.startswith(f"{HEADER}\n") and row["file"] == "song.wav" and row["key"] in KEYS
    assert 1 / 24 <= float(row["confidence"]) <= 1
    status, out, _ = key("song.wav", "--over-time")
    assert out.startswith("file,start,end,key,confidence\nsong.wav,0.000,") and os.listdir() == ["song.wav"]


def test_every_format(here, key):
    sf.write("song.wav", chords(), 22050)
    assert key("song.wav", "-o", "out", "-e", "csv", "npz", "json", "jams", "--over-time")[0] == 0
    assert sorted(os.listdir("out")) == [
        "keys.csv",
        "keys.json",
        *(f"song.key.{k}" for k in ("csv", "jams", "json", "npz")),
    ]
    (row,) = rows(Path("out/keys.csv"))
    assert Path("out/keys.csv").read_text().startswith(f"{HEADER}\n")
    estimate = KeyEstimate.from_npz("out/song.key.npz")
    assert (row["key"], float(row["confidence"])) == (estimate.key, pytest.approx(estimate.confidence, abs=1e-5))
    assert estimate.audio is None and json.loads(Path("out/song.key.json").read_text())["key"] == estimate.key
    segments = rows(Path("out/song.key.csv"))
    assert [s["key"] for s in segments] == [s.key for s in estimate.segments] and segments[0]["start"] == "0.000"
    jams = json.loads(Path("out/song.key.jams").read_text())
    assert jams["annotations"][0]["namespace"] == "key_mode"


def test_folders_extensions_and_patterns(here, key):
    for name in ("in/a/1.wav", "in/b/1.wav", "in/b/2.FLAC"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        sf.write(name, chords(seconds=1.5), 22050)
    Path("in/b/._1.wav").write_bytes(b"what macOS leaves")
    Path("in/notes.txt").write_text("no sound")
    assert key("in", "-o", "out")[::2] == (0, "mirkit: 3 done\n")
    assert [r["file"] for r in rows(Path("out/keys.csv"))] == ["in/a/1.wav", "in/b/1.wav", "in/b/2.FLAC"]
    for words in (["-e", "flac"], ["--ext", "flac"], ["-e", "csv", ".FLAC"], ["--extension", ".flac"]):
        status, out, _ = key("in", *words)
        assert status == 0 and [r["file"] for r in rows(out)] == ["in/b/2.FLAC"]
    assert key("-o", "glob", "-e", "json", "in/**/1.wav")[0] == 0  # the pattern is not taken for a format
    assert sorted(str(f) for f in Path("glob").rglob("*.*")) == [
        "glob/a/1.key.json",
        "glob/b/1.key.json",
        "glob/keys.json",
    ]
    status, out, err = key("in/b", "-e", "mp3")
    assert status == 1 and "no sound files in this folder (.mp3)" in err


def test_options_reach_the_estimator(here, key):
    sf.write("song.wav", np.concatenate([chords(seconds=30), chords(seconds=30, root=6)]), 22050)

    def windows(*words):
        assert key("song.wav", "-o", "out", "-e", "npz", "--force", *words)[0] == 0
        return KeyEstimate.from_npz("out/song.key.npz")

    half, none = windows(), windows("--overlap", "0")
    assert len(half.times) > len(none.times) and none.times[-1, 1] == pytest.approx(60, abs=1e-3)
    assert half.times[1, 0] == pytest.approx(half.times[0, 1] / 2, abs=0.3)
    averaged = windows("--tta")
    assert averaged.profile.sum() == pytest.approx(1, abs=1e-3) and not np.allclose(averaged.profile, half.profile)
    assert windows("--average").key == half.key
    sf.write("song.wav", NOISE, 22050)
    assert windows().reason == "no tonal content" and windows("--threshold", "0").key in KEYS


def test_nothing_is_overwritten_that_should_not_be(here, key):
    for name in ("a/1.wav", "b/1.wav"):
        Path(name).parent.mkdir(exist_ok=True)
        sf.write(name, chords(seconds=1.5), 22050)
    status, _, err = key("a/1.wav", "b/1.wav", "-o", "out", "-e", "json")
    assert status == 1 and err.count("another recording would write out/1.key.json too") == 2
    assert key("a/1.wav", "b/1.wav", "-o", "out")[0] == 0 and len(rows(Path("out/keys.csv"))) == 2
    Path("other").mkdir()
    Path("other/keys.csv").write_text("title,year\n")
    status, _, err = key("a/1.wav", "-o", "other")
    assert status == 2 and "not a table of keys" in err and Path("other/keys.csv").read_text() == "title,year\n"


# ---- odd recordings --------------------------------------------------------------------------------------------------

NOISE = np.random.default_rng(0).normal(0, 0.1, 3 * 22050).astype(np.float32)
ODD = {
    "stereo": (np.stack([chords(), 0.1 * chords()], 1), 22050, "PCM_16", ""),
    "eight channels": (np.stack([chords()] * 8, 1), 22050, "PCM_16", ""),
    "8 kHz": (chords(8000), 8000, "PCM_16", ""),
    "96 kHz": (chords(96000), 96000, "PCM_24", ""),
    "8 bit": (chords(), 22050, "PCM_U8", ""),
    "64 bit float": (chords(), 22050, "DOUBLE", ""),
    "quiet": (0.001 * chords(), 22050, "FLOAT", ""),
    "clipped": (np.sign(chords()), 22050, "PCM_16", ""),
    "one second": (chords(seconds=1.0), 22050, "PCM_16", ""),
    "silence": (np.zeros(44100, np.float32), 22050, "PCM_16", "silence"),
    "dither": (NOISE / 3e4, 22050, "PCM_16", "silence"),
    "constant": (np.full(44100, 0.5, np.float32), 22050, "PCM_16", "no tonal content"),
    "noise": (NOISE, 22050, "PCM_16", "no tonal content"),
    "one sample": (np.full(1, 0.1, np.float32), 22050, "PCM_16", "too short"),
    "0.2 s": (chords(seconds=0.2), 22050, "PCM_16", "too short"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_recordings(name, here, key):
    x, sr, subtype, reason = ODD[name]
    sf.write("odd.wav", x, sr, subtype)
    assert key("odd.wav", "-o", "o", "-e", "csv", "npz", "json", "jams", "--over-time")[::2] == (0, "mirkit: 1 done\n")
    (row,) = rows(Path("o/keys.csv"))
    estimate = KeyEstimate.from_json("o/odd.key.json")
    assert estimate.reason == reason and (row["key"] == "") == bool(reason) and np.isfinite(estimate.profile).all()
    assert float(row["confidence"]) == 0 if reason else row["key"] in KEYS
    assert estimate.duration == pytest.approx(len(x) / sr, abs=1e-3)
    segments = rows(Path("o/odd.key.csv"))
    assert segments[0]["start"] == "0.000" and float(segments[-1]["end"]) == pytest.approx(len(x) / sr, abs=2e-3)


def test_repaired_recordings_are_done_with_a_warning(here, key):
    x = chords()
    x[100:110] = np.nan
    sf.write("nan.wav", x, 22050, "FLOAT")
    sf.write("whole.wav", chords(), 22050, "PCM_16")
    Path("cut.wav").write_bytes(Path("whole.wav").read_bytes()[:90_000])
    status, out, err = key("nan.wav", "cut.wav")
    assert status == 0 and "nan.wav: 10 of 88200 samples are NaN" in err and "cut.wav: cut off" in err
    assert len(rows(out)) == 2


@pytest.mark.parametrize("jobs", [1, 2])
def test_bad_recordings_are_reported_at_the_end(here, key, jobs):
    sf.write("good.wav", chords(seconds=1.5), 22050)
    sf.write("empty.wav", np.zeros(0, np.float32), 22050)
    Path("nothing.wav").touch()
    Path("text.wav").write_text("this is no sound")
    os.mkdir("folder")
    bad = ("text.wav", "missing.wav", "empty.wav", "nothing.wav", "folder")
    status, _, err = key(*bad, "good.wav", "-o", "out", "--jobs", jobs)
    assert status == 1 and err.rstrip().splitlines()[-6] == "mirkit: 1 done, 5 failed"
    for part in ("text.wav: not a sound file", "no such file", "empty.wav:", "the file is empty", "no sound files"):
        assert part in err
    assert [r["file"] for r in rows(Path("out/keys.csv"))] == ["good.wav"]


# ---- again -----------------------------------------------------------------------------------------------------------


def test_resumes_and_forces(here, key):
    for name in ("a.wav", "b.wav"):
        sf.write(name, chords(seconds=1.5), 22050)
    skipped = "mirkit: 1 done, 1 skipped\nmirkit: skipped is what has its files already; --force makes them anew\n"
    assert key("b.wav", "-o", "out")[0] == 0
    assert key(".", "-o", "out")[::2] == (0, skipped)
    table = Path("out/keys.csv").read_text()
    assert [r["file"] for r in rows(table)] == ["a.wav", "b.wav"]
    Path("out/keys.csv").write_text(table.splitlines()[0] + "\n" + table.splitlines()[2] + "\na.w")  # killed
    assert key(".", "-o", "out")[::2] == (0, skipped) and Path("out/keys.csv").read_text() == table
    os.utime("a.wav", (time.time() + 10,) * 2)  # the recording is younger
    assert key(".", "-o", "out")[::2] == (0, skipped)
    os.utime("a.wav", (0, 0))
    assert (
        key(".", "-o", "out", "--force")[::2] == (0, "mirkit: 2 done\n") and Path("out/keys.csv").read_text() == table
    )
    assert key("b.wav", "-o", "out", "-e", "csv", "json")[2] == "mirkit: 1 done\n"  # the json is missing
    assert len(rows(Path("out/keys.csv"))) == 2 and sorted(os.listdir("out")) == ["b.key.json", "keys.csv", "keys.json"]


def test_another_model_does_not_go_on_where_one_stopped(here, key, tmp_path):
    "Rows of two models are never mixed: another model, or one trained again, is refused until it is forced"
    for name in ("a.wav", "b.wav"):
        sf.write(name, chords(seconds=1.5), 22050)
    config = make_tonal_config(channels=(4, 4, 4, 4))
    save_tonal("other.safetensors", random_weights(config, 5), config)
    assert key(".", "-o", "out", "-e", "csv", "json")[0] == 0
    before = {f: Path("out", f).read_bytes() for f in os.listdir("out")}
    for words in (["-m", "other.safetensors"], ["--overlap", "0"], ["--tta"], ["--threshold", "0.1"]):
        status, _, err = key(".", "-o", "out", *words)
        assert status == 2 and "not what would be written now" in err and "--force" in err, err
        assert err.count("\n") == 1 and {f: Path("out", f).read_bytes() for f in os.listdir("out")} == before
    assert key(".", "-o", "out", "--jobs", "2", "--overlap", "0.5")[2].startswith("mirkit: 2 skipped\n")  # the default
    again = ["-o", "out", "-e", "csv", "json", "-m", "other.safetensors"]
    assert key("b.wav", *again, "--force")[::2] == (0, "mirkit: 1 done\n")
    assert [r["file"] for r in rows(Path("out/keys.csv"))] == ["b.wav"]  # a.wav's was the other model's
    assert Path("out/keys.csv").read_text().startswith(f"{HEADER}\n")
    assert key("a.wav", "b.wav", *again)[2].startswith("mirkit: 1 done, 1 skipped\n")
    assert json.loads(Path("out/a.key.json").read_text())["key"] == rows(Path("out/keys.csv"))[0]["key"]
    save_tonal("other.safetensors", random_weights(config, 6), config)  # trained again
    status, _, err = key("a.wav", *again)
    assert status == 2 and "sha256" in err and "model =" not in err


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_leaves_what_is_finished(here, model, jobs):
    sf.write("00.wav", chords(8000, 100.0), 8000)
    for i in range(1, 60):
        os.link("00.wav", f"{i:02}.wav")
    # a shell without job control starts background jobs with SIGINT ignored, and children inherit that
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\nfrom mirkit.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "key", *(f"{i:02}.wav" for i in range(60)), "-m", model, "-o", "out"]
    words = [*command, "--tta", "--jobs", str(jobs)]
    child = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    table = here / "out/keys.csv"
    for _ in range(3000):
        if table.exists() and table.read_text().count("\n") >= 3:
            break
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=30)[1]
    assert child.returncode == 130 and said.rstrip().endswith("mirkit: interrupted") and "Traceback" not in said, said
    assert 2 <= len(rows(table)) < 60 and sorted(os.listdir("out")) == ["keys.csv", "keys.json"]


# ---- the original programs -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def official(shared):
    def find(name: str) -> Path:
        path = shared / "checkpoints" / name
        if not path.is_file():
            pytest.skip(f"no official checkpoint {name}")
        return path

    return find


def test_compat_writes_the_originals_results(here, official, capsys):
    model = official("stone/semisupervised_ks_mode.pt")
    Path("in").mkdir()
    sf.write("in/song.wav", chords(22050, 40.0, root=3), 22050)  # A = 220 Hz, three semitones up: C major
    sf.write("in/short.wav", chords(22050, 2.0), 22050)
    command = ["key", "-m", str(model), "-o", "out", "--compat", "in"]
    assert cli.main([*command, "-e", "wav"]) == 0 and sorted(os.listdir("out")) == [
        "keys.csv",
        "keys.json",
        "results.npz",
    ]
    with np.load("out/results.npz") as f:
        assert f.files == ["song"] and f["song"].shape == () and f["song"] == 22  # STONE's C major
    keys = {r["file"]: r["key"] for r in rows(Path("out/keys.csv"))}
    assert keys == {"in/song.wav": "C major", "in/short.wav": ""}
    capsys.readouterr()
    assert cli.main([*command, "--over-time", "--overlap", "0.5", "--force"]) == 0
    with np.load("out/results.npz") as f:
        assert f["song"].shape == (4, 24) and (f["song"].argmax(1) == 22).all()
    assert cli.main([*command, "--tta"]) == 2 and "crops" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["stone/semitone_ks.pt", "stone/semisupervised_ks_mode.pt", "skey/skey.pt"], ids=lambda n: n.split("/")[1]
)
def test_official_models_in_our_windows(here, official, name):
    x = chords(22050, 40.0, root=3)
    estimate = mk.estimate_key(x, 22050, model=official(name))
    assert estimate.index == 0 and estimate.times[-1, 1] == pytest.approx(40)  # the tail counts
    assert estimate.key == ("C major / A minor" if estimate.n_out == 12 else "C major")
    assert mk.estimate_key(x[:33000], 22050, model=official(name)).key  # 1.5 s: less than the network takes


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "give at least one file"),
        (["a.wav", "-o", "o", "-e", "jsn"], "format = 'jsn' is not known (did you mean 'json'?)"),
        (["a.wav", "-e", "json"], "need an output folder"),
        (["a.wav", "--ext", "wave"], "extension = '.wave' is not known (did you mean '.wav'?)"),
        (["a.wav", "--overlap", "1"], "overlap = 1.0"),
        (["a.wav", "--overlap", "nan"], "overlap = nan"),
        (["a.wav", "--threshold", "2"], "threshold = 2.0"),
        (["a.wav", "--jobs", "0"], "jobs = 0"),
        (["a.wav", "--device", "gpu"], "gpu"),
        (["a.wav", "--compat"], "compat"),
        (["a.wav", "-o", "a.wav"], "cannot make the folder a.wav"),
        (["a.wav", "-m", "nowhere.safetensors"], "nowhere.safetensors"),
        (["a.wav", "-m", "a.wav"], "a.wav"),
        (["a.wav", "-m", "cut.safetensors"], "cut.safetensors"),
        (["a.wav", "-m", "foreign.pt"], "foreign.pt"),
        (["a.wav", "-m", "key-25"], "key-25"),
    ],
)
def test_mistakes_end_at_once_with_status_2(words, message, here, key, model):
    sf.write("a.wav", chords(seconds=1.5), 22050)
    Path("cut.safetensors").write_bytes(Path(model).read_bytes()[:3000])
    Path("foreign.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    status, out, err = key(*words)
    assert status == 2 and message in err and err.startswith("mirkit: error: ") and err.count("\n") == 1 and not out
    assert not list(here.glob("**/*.csv"))


def test_mistakes_of_usage():
    for words in (["--overlap", "half", "a.wav"], ["--nosuch"], ["--average", "--over-time"], ["--compat=madmom"]):
        with pytest.raises(SystemExit) as end:
            cli.main(["key", *words])
        assert end.value.code == 2


def test_a_folder_that_cannot_be_written_to_is_named(here, key):
    sf.write("a.wav", chords(seconds=1.5), 22050)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))  # a full disk
    try:
        status, _, err = key("a.wav", "-o", "out", "-e", "json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 1 and "cannot write a.key.json to the folder out" in err and os.listdir("out") == ["keys.json"]


# ---- the model that comes with mirkit -------------------------------------------------------------------------------


def test_the_default_model_names_the_key(here):
    from mirkit.key.weights import DEFAULT, weights_names

    if DEFAULT not in weights_names():
        pytest.skip(f"no model {DEFAULT} yet")
    for root, name in ((3, "C major"), (8, "F major"), (9, "F# major")):
        sf.write(f"{name}.wav", chords(44100, 12.0, root), 44100)
    moving = np.concatenate([chords(22050, 60.0, 3), np.zeros(60 * 22050, np.float32), chords(22050, 60.0, 9)])
    sf.write("moving.wav", moving, 22050)
    assert cli.main(["key", ".", "-o", "out", "--over-time"]) == 0
    for row in rows(Path("out/keys.csv"))[:3]:
        assert row["file"] == f"{row['key']}.wav" and float(row["confidence"]) > 0.7
    segments = rows(Path("out/moving.key.csv"))
    assert [s["key"] for s in segments] == ["C major", "", "F# major"]
    assert [float(s["end"]) for s in segments] == pytest.approx([60, 120, 180], abs=10)


# ---- from Python -----------------------------------------------------------------------------------------------------


def test_key_files_gives_estimates(here, model):
    sf.write("a.wav", chords(), 22050)
    done, failed = mk.key_files(["a.wav", "b.wav"], model=model, progress=False)
    assert (done.status, failed.status) == ("done", "failed") and "no such file" in failed.error
    again = mk.estimate_key(*mk.load("a.wav"), model=model)
    assert done.value.estimate.key == again.key and again.audio is not None and os.listdir() == ["a.wav"]
    with pytest.raises(TypeError, match="overlp"):
        mk.key_files("a.wav", overlp=0.5)


def test_batches_tensors_and_integers(model):
    torch = pytest.importorskip("torch")
    x = chords()
    one = mk.estimate_key(x, 22050, model=model)
    two = mk.estimate_key(torch.from_numpy(np.stack([x, x])), 22050, model=model)
    assert isinstance(two, list) and len(two) == 2 and np.array_equal(two[1].profile, one.profile)
    whole = mk.estimate_key((32767 * x).astype(np.int16), 22050, model=model)
    np.testing.assert_allclose(whole.profile, one.profile, atol=1e-3)
    for bad, words in ((np.zeros((2, 3, 4)), "average the channels"), ([], "at least one"), ([np.inf] * 9, "infinite")):
        with pytest.raises(ValueError, match=words):
            mk.estimate_key(bad, 22050, model=model)


# ---- what it costs ---------------------------------------------------------------------------------------------------


def test_nothing_heavy_is_imported(here, model):
    "A model of ours needs none of the libraries that take a second to import"
    sf.write("a.wav", chords(), 22050)
    heavy = {"torch", "scipy", "pandas", "librosa", "matplotlib", "plotly", "tqdm", "jams", "multiprocessing"}
    code = f"import sys; from mirkit.cli import main; main(['key', 'a.wav', '-m', {model!r}, '-o', 'out', '-e', 'csv', 'json', 'npz']); print({heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.stdout == "set()\n", done.stdout + done.stderr
