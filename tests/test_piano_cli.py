"""`mirkit piano` as a shell sees it: files, options, odd recordings, mistakes, interruption, memory"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import mido
import numpy as np
import pytest
import soundfile as sf

import mirkit as mk
from mirkit import cli

torch = pytest.importorskip("torch")
from mirkit.piano.net import NetConfig, OnsetsAndVelocities, save_net  # noqa: E402
from mirkit.signal.mel import log_mel  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
HEADER = "onset,offset,pitch,velocity"


def melody(sr: int = 16000, seconds: float = 4.0, seed: int = 0) -> np.ndarray:
    "Decaying tones, five in a second"
    rng, t = np.random.default_rng(seed), np.arange(round(sr * seconds)) / sr
    x = 1e-4 * rng.standard_normal(len(t))
    for onset in np.arange(0.05, seconds - 0.2, 0.2):
        here = slice(round(onset * sr), round((onset + 0.6) * sr))
        after, hz = t[here] - t[here.start], 440 * 2 ** (rng.integers(-24, 15) / 12)
        x[here] += sum(0.1 / h * np.exp(-5 * h * after) * np.sin(2 * np.pi * hz * h * after) for h in (1, 2, 3))
    return x.astype(np.float32)


def random_net(seed: int = 0) -> OnsetsAndVelocities:
    "A small network with random weights, normalised on a melody: its notes mean nothing, but are always the same"
    torch.manual_seed(seed)
    net = OnsetsAndVelocities(NetConfig.narrow(channels=4, head=16, bn_momentum=1.0, dropout=0.0))
    with torch.no_grad():
        net.train()(log_mel(torch.from_numpy(melody(seconds=8)), floor=-50.0)[None])
    return net.eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_net(path, random_net(), {"threshold": 0.75, "floor": -50.0, "shift": -0.01})
    return str(path)


@pytest.fixture
def piano(model, capsys):
    "Run the command: status, what it prints, and what it says on stderr"

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main(["piano", "-m", model, *map(str, words)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        lines = [line for line in err.replace("\r", "\n").splitlines() if line and not line.startswith("piano:")]
        return status, out, "".join(f"{line}\n" for line in lines)  # without the progress bar

    return run


# ---- what is written -------------------------------------------------------------------------------------------------


def test_midi_beside_the_recording(here, piano):
    sf.write("song.wav", melody(), 16000)
    Path("song.mid").write_text("the truth")
    status, out, err = piano("song.wav")
    assert (status, out, err) == (0, "", "mirkit: 1 done\n")
    assert sorted(os.listdir()) == ["song.mid", "song.notes.mid", "song.wav"]
    assert Path("song.mid").read_text() == "the truth"
    messages = [m for track in mido.MidiFile("song.notes.mid").tracks for m in track]
    struck = [m for m in messages if m.type == "note_on" and m.velocity]
    assert struck and all(21 <= m.note <= 108 for m in struck)


def test_every_format_says_the_same(here, piano):
    sf.write("song.wav", melody(), 16000)
    assert piano("song.wav", "-o", "out", "-e", "mid,csv", "jams", "npz", "html")[0] == 0
    assert sorted(os.listdir("out")) == [f"song.notes.{k}" for k in ("csv", "html", "jams", "mid", "npz")]
    assert Path("out/song.notes.csv").read_text().startswith(f"{HEADER}\n")
    table, whole = mk.Notes.from_csv("out/song.notes.csv"), mk.Notes.from_npz("out/song.notes.npz")
    assert len(table) == len(whole) > 5 and table.pitch.tolist() == whole.pitch.tolist() and whole.audio is None
    np.testing.assert_allclose(table.onset, whole.onset, atol=1e-6)
    assert whole.duration == pytest.approx(4, abs=0.01) and whole.model == "tiny" and (whole.confidence >= 0.75).all()
    jam = json.loads(Path("out/song.notes.jams").read_text())
    assert jam["annotations"][0]["namespace"] == "note_midi"
    assert "<audio" in Path("out/song.notes.html").read_text()


def test_folders_keep_their_shape(here, piano):
    for name in ("in/a/1.wav", "in/b/1.wav", "in/b/2.FLAC"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        sf.write(name, melody(seconds=1.5), 16000)
    Path("in/b/._1.wav").write_bytes(b"what macOS leaves")
    Path("in/notes.txt").write_text("no sound")
    assert piano("in", "-o", "out", "-e", "csv")[::2] == (0, "mirkit: 3 done\n")
    found = sorted(str(f) for f in Path("out").rglob("*.*"))
    assert found == ["out/a/1.notes.csv", "out/b/1.notes.csv", "out/b/2.notes.csv"]


def test_processes_write_the_same(here, piano):
    for i in range(3):
        sf.write(f"{i}.wav", melody(seconds=3, seed=i), 16000)
    sf.write("long.wav", melody(seconds=50), 16000)
    assert piano(*(f"{i}.wav" for i in range(3)), "-o", "one", "-e", "csv")[0] == 0
    assert piano(*(f"{i}.wav" for i in range(3)), "-o", "two", "-e", "csv", "--jobs", "2")[0] == 0
    assert piano("long.wav", "-o", "one", "-e", "csv")[0] == 0  # in threads
    assert piano("long.wav", "-o", "two", "-e", "csv", "--jobs", "2")[0] == 0
    for name in ("0", "1", "2", "long"):
        a, b = (mk.Notes.from_csv(f"{d}/{name}.notes.csv") for d in ("one", "two"))
        assert a.pitch.tolist() == b.pitch.tolist() and a.onset.tolist() == b.onset.tolist()


def test_options_reach_the_transcriber(here, piano):
    sf.write("song.wav", melody(), 16000)

    def notes(*words):
        assert piano("song.wav", "-o", "out", "-e", "npz", "mid", "--force", *words)[0] == 0
        return mk.Notes.from_npz("out/song.notes.npz")

    usual = notes()
    assert len(notes("-t", "0.6")) > len(usual) > len(notes("--threshold", "0.9"))
    later = notes("--shift", "0.09")
    np.testing.assert_allclose(later.onset - 0.1, usual.onset, atol=0.011)  # the first is cut off at 0
    fixed = notes("--offsets", "fixed", "--longest", "0.1")
    assert (fixed.offset - fixed.onset).max() == pytest.approx(0.1, abs=1e-6)
    held = notes("--offsets", "next", "--longest", "2")
    assert (held.offset - held.onset).mean() > (usual.offset - usual.onset).mean() / 2
    limit = int(np.median(usual.velocity))
    assert notes("--min-velocity", limit).velocity.min() >= limit
    between = notes("--subframe")
    assert len(between) == len(usual) and 0 < np.abs(np.sort(between.onset) - np.sort(usual.onset)).max() <= 0.0121
    notes("--tempo", "60")
    tempi = [m.tempo for track in mido.MidiFile("out/song.notes.mid").tracks for m in track if m.type == "set_tempo"]
    assert tempi == [1_000_000]
    assert len(notes("--compat", "official")) > 0


# ---- odd recordings --------------------------------------------------------------------------------------------------

NOISE = np.random.default_rng(0).normal(0, 0.1, 3 * 22050).astype(np.float32)
ODD = {
    "stereo": (np.stack([melody(), 0.1 * melody()], 1), 16000, "PCM_16"),
    "eight channels": (np.stack([melody()] * 8, 1), 16000, "PCM_16"),
    "8 kHz": (melody(8000), 8000, "PCM_16"),
    "44.1 kHz": (melody(44100), 44100, "PCM_16"),
    "96 kHz": (melody(96000), 96000, "PCM_24"),
    "an odd rate": (melody(44101), 44101, "PCM_16"),
    "8 bit": (melody(), 16000, "PCM_U8"),
    "64 bit float": (melody(), 16000, "DOUBLE"),
    "quiet": (0.001 * melody(), 16000, "FLOAT"),
    "clipped": (np.sign(melody()), 16000, "PCM_16"),
    "silence": (np.zeros(44100, np.float32), 22050, "PCM_16"),
    "constant": (np.full(44100, 0.5, np.float32), 22050, "PCM_16"),
    "noise": (NOISE, 22050, "PCM_16"),
    "one sample": (np.full(1, 0.1, np.float32), 22050, "PCM_16"),
    "0.02 s": (melody(seconds=1)[:320], 16000, "PCM_16"),
    "0.2 s": (melody(seconds=1)[:3200], 16000, "PCM_16"),
}


@pytest.mark.parametrize("compat", [(), ("--compat", "official")], ids=["ours", "official"])
@pytest.mark.parametrize("name", ODD)
def test_odd_recordings(name, compat, here, piano):
    x, sr, subtype = ODD[name]
    sf.write("odd.wav", x, sr, subtype)
    status, _, err = piano("odd.wav", "-o", "o", "-e", "mid", "csv", "jams", "npz", "html", *compat)
    if compat and sr == 44101:
        assert status == 1 and "odd.wav: sr = 44101 Hz and 16000 Hz have nothing in common" in err
        return
    assert (status, err) == (0, "mirkit: 1 done\n")
    notes = mk.Notes.from_npz("o/odd.notes.npz")
    assert len(mk.Notes.from_csv("o/odd.notes.csv")) == len(notes)
    assert notes.duration == pytest.approx(len(x) / sr, abs=2e-3) and (notes.offset > notes.onset).all()


def test_repaired_recordings_are_done_with_a_warning(here, piano):
    x = melody()
    x[100:110] = np.nan
    sf.write("nan.wav", x, 16000, "FLOAT")
    sf.write("whole.wav", melody(), 16000, "PCM_16")
    Path("cut.wav").write_bytes(Path("whole.wav").read_bytes()[:90_000])
    status, _, err = piano("nan.wav", "cut.wav", "-e", "csv")
    assert status == 0 and "nan.wav: 10 of 64000 samples are NaN" in err and "cut.wav: cut off" in err
    assert mk.Notes.from_csv("cut.notes.csv").onset.max() < 2.9


@pytest.mark.parametrize("jobs", [1, 2])
def test_bad_recordings_are_reported_at_the_end(here, piano, jobs):
    sf.write("good.wav", melody(seconds=1.5), 16000)
    sf.write("empty.wav", np.zeros(0, np.float32), 16000)
    Path("nothing.wav").touch()
    Path("text.wav").write_text("this is no sound")
    os.mkdir("folder")
    bad = ("text.wav", "missing.wav", "empty.wav", "nothing.wav", "folder")
    status, _, err = piano(*bad, "good.wav", "-o", "out", "--jobs", jobs)
    assert status == 1 and err.rstrip().splitlines()[-6] == "mirkit: 1 done, 5 failed"
    for part in ("text.wav: not a sound file", "no such file", "empty.wav:", "the file is empty", "no sound files"):
        assert part in err
    assert os.listdir("out") == ["good.notes.mid"]


# ---- again -----------------------------------------------------------------------------------------------------------


def test_resumes_and_forces(here, piano):
    for name in ("a.wav", "b.wav"):
        sf.write(name, melody(seconds=1.5), 16000)
    skipped = "mirkit: 1 done, 1 skipped\nmirkit: skipped is what has its files already; --force makes them anew\n"
    assert piano("b.wav", "-o", "out")[0] == 0
    assert piano(".", "-o", "out")[::2] == (0, skipped)
    os.utime("a.wav", (time.time() + 10,) * 2)  # the recording is younger
    assert piano(".", "-o", "out")[::2] == (0, skipped)
    os.utime("a.wav", (0, 0))
    assert piano(".", "-o", "out", "--force")[::2] == (0, "mirkit: 2 done\n")
    assert piano("b.wav", "-o", "out", "-e", "mid", "csv")[2] == "mirkit: 1 done\n"  # the csv is missing
    assert sorted(os.listdir("out")) == ["a.notes.mid", "b.notes.csv", "b.notes.mid"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_leaves_what_is_finished(here, model, jobs):
    sf.write("00.wav", melody(8000, 60.0), 8000)
    for i in range(1, 40):
        os.link("00.wav", f"{i:02}.wav")
    # a shell without job control starts background jobs with SIGINT ignored, and children inherit that
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\nfrom mirkit.cli import main; sys.exit(main())"
    words = ["piano", *(f"{i:02}.wav" for i in range(40)), "-m", model, "-o", "out", "-e", "csv", "--jobs", str(jobs)]
    child = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    for _ in range(6000):
        if len(list(here.glob("out/[0-9]*.csv"))) >= 2 or child.poll() is not None:
            break
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=60)[1]
    assert child.returncode == 130 and said.rstrip().endswith("mirkit: interrupted") and "Traceback" not in said, said
    left = os.listdir("out")
    assert 2 <= len(left) < 40 and all(mk.Notes.from_csv(f"out/{f}").onset.max() > 50 for f in left)


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "give at least one file"),
        (["a.wav", "-e", "midi"], "format = 'midi' is not known (did you mean 'mid'?)"),
        (["a.wav", "--threshold", "2"], "threshold = 2.0"),
        (["a.wav", "--threshold", "nan"], "threshold = nan"),
        (["a.wav", "--shift", "5"], "shift = 5.0"),
        (["a.wav", "--longest", "0"], "longest = 0.0"),
        (["a.wav", "--min-velocity", "200"], "min_velocity = 200"),
        (["a.wav", "--tempo", "0"], "tempo = 0.0"),
        (["a.wav", "--jobs", "0"], "jobs = 0"),
        (["a.wav", "--device", "gpu"], "gpu"),
        (["a.wav", "-o", "a.wav"], "cannot make the folder a.wav"),
        (["a.wav", "-m", "nowhere.safetensors"], "nowhere.safetensors"),
        (["a.wav", "-m", "a.wav"], "a.wav"),
        (["a.wav", "-m", "cut.safetensors"], "cut.safetensors"),
        (["a.wav", "-m", "foreign.pt"], "foreign.pt"),
        (["a.wav", "-m", "piano-xx"], "piano-xx"),
    ],
)
def test_mistakes_end_at_once_with_status_2(words, message, here, piano, model):
    sf.write("a.wav", melody(seconds=1.5), 16000)
    Path("cut.safetensors").write_bytes(Path(model).read_bytes()[:3000])
    Path("foreign.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    status, out, err = piano(*words)
    assert status == 2 and message in err and err.startswith("mirkit: error: ") and err.count("\n") == 1 and not out
    assert not list(here.glob("**/*.mid"))


def test_mistakes_of_usage():
    for words in (["--threshold", "half", "a.wav"], ["--nosuch"], ["--offsets", "never"], ["--compat", "basic-pitch"]):
        with pytest.raises(SystemExit) as end:
            cli.main(["piano", *words])
        assert end.value.code == 2


def test_a_folder_that_cannot_be_written_to_is_named(here, piano):
    sf.write("a.wav", melody(seconds=1.5), 16000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))  # a full disk
    try:
        status, _, err = piano("a.wav", "-o", "out", "-e", "csv")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 1 and "cannot write a.notes.csv to the folder out" in err and not os.listdir("out")


# ---- from Python -----------------------------------------------------------------------------------------------------


def test_transcribe_takes_sound_and_paths(here, model):
    x = melody()
    sf.write("a.wav", x, 16000, "FLOAT")
    one, file = mk.transcribe(x, 16000, model=model), mk.transcribe("a.wav", model=model)
    assert one.pitch.tolist() == file.pitch.tolist() and one.audio is not None and file.audio is None
    two = mk.transcribe(torch.from_numpy(np.stack([x, x])), 16000, model=model)
    assert isinstance(two, list) and two[1].onset.tolist() == one.onset.tolist()
    whole = mk.transcribe((32767 * x).astype(np.int16), 16000, model=model)
    assert abs(len(whole) - len(one)) <= len(one) / 10  # rounded to 16 bits
    for bad, words in ((np.zeros((2, 3, 4)), "average the channels"), ([], "at least one"), ([np.inf] * 9, "infinite")):
        with pytest.raises(ValueError, match=words):
            mk.transcribe(bad, 16000, model=model)
    with pytest.raises(ValueError, match="sr = None"):
        mk.transcribe(x, model=model)
    with pytest.raises(ValueError, match="did you mean 'threshold'"):
        mk.transcribe(x, 16000, model=model, treshold=0.5)


def test_memory_does_not_grow_with_the_recording(here, model):
    "Peak memory of a fresh process: nine minutes more take the levels for the notes' ends, 5 MB, and the notes"
    minute = melody(16000, 60.0)
    for name, minutes in (("short.wav", 1), ("long.wav", 10)):
        sf.write(name, np.tile(minute, minutes), 16000)
    code = (
        "import resource, sys; from mirkit.cli import main; main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    peaks = []
    for name in ("short.wav", "long.wav"):
        words = ["piano", name, "-m", model, "-o", "out", "-e", "csv", "-t", "0.85"]
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=env, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 30, (
        peaks
    )  # MB; the samples alone would be 35 MB more, log-mels and probabilities as much


# ---- the model that comes with mirkit -------------------------------------------------------------------------------


def test_the_default_model_hears_a_piano(here, shared):
    from mirkit.piano.midi import read_tsv
    from mirkit.piano.weights import DEFAULT, weights_names

    if DEFAULT not in weights_names():
        pytest.skip(f"no model {DEFAULT} yet")
    name = "MAPS_MUS-mz_331_3_ENSTDkCl"  # held out of training
    folder = shared / "data" / "piano" / "MAPS"
    x, sr = mk.load(folder / "flac" / f"{name}.flac", duration=30.0)
    truth = read_tsv(folder / "tsv" / "matched" / f"{name}.tsv").notes
    import mir_eval

    heard = mk.transcribe(x, sr)
    played = truth.select(truth.onset < 29.5)
    ends = [np.stack([n.onset, n.onset + 0.1], 1) for n in (played, heard.select(heard.onset < 29.5))]
    pitches = [440 * 2 ** ((n.pitch - 69.0) / 12) for n in (played, heard.select(heard.onset < 29.5))]
    _, _, f1, _ = mir_eval.transcription.precision_recall_f1_overlap(
        ends[0], pitches[0], ends[1], pitches[1], offset_ratio=None
    )
    assert f1 > 0.85
