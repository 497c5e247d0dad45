"""`mirkit pitch` as a shell sees it: options, odd recordings, mistakes, interruption, what it costs"""

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mirkit import cli, track_files
from mirkit.core.results import PitchTrack

ROOT = Path(__file__).resolve().parents[1]
SKIPPED = "mirkit: 1 done, 1 skipped\nmirkit: skipped is what has its files already; --force makes them anew\n"
HEADER = "time,frequency,confidence"


def tone(sr: int = 16000, seconds: float = 0.5, hz: float = 220.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(sr * seconds)) / sr)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    "A small model with random weights"
    import torch

    from mirkit.pitch.config import make_config
    from mirkit.pitch.model import PestoModel, save_model

    torch.manual_seed(0)
    config = make_config(channels=(4, 4), prefilt_width=1.0)
    return str(save_model(PestoModel(config), tmp_path_factory.mktemp("model") / "tiny.safetensors"))


@pytest.fixture
def pitch(model, capsys):
    "Run the command: status, and what it says on stderr"

    def run(*words: object) -> tuple[int, str]:
        capsys.readouterr()
        status = cli.main(["pitch", "-m", model, *map(str, words)])
        out, err = capsys.readouterr()
        assert out == "" and "Traceback" not in err
        lines = [line for line in err.replace("\r", "\n").splitlines() if line and not line.startswith("pitch:")]
        return status, "".join(f"{line}\n" for line in lines)  # without the progress bar

    return run


def shell(*words: object, **options) -> subprocess.CompletedProcess:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mirkit", "pitch", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=env, **options)


def rows(path: Path | str) -> np.ndarray:
    assert Path(path).read_text().splitlines()[0] == HEADER
    return np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)


# ---- what is written -------------------------------------------------------------------------------------------------


def test_every_format_beside_the_recording(here, pitch):
    sf.write("voice.wav", tone(), 16000)
    content = Path("voice.wav").read_bytes()
    assert pitch("voice.wav", "-e", "csv", "npz", "png", "jams", "mid", "html") == (0, "mirkit: 1 done\n")
    kinds = ("csv", "html", "jams", "mid", "npz", "png")
    assert sorted(os.listdir()) == [f"voice.f0.{k}" for k in kinds] + ["voice.wav"]
    assert Path("voice.wav").read_bytes() == content
    table, track = rows("voice.f0.csv"), PitchTrack.from_npz("voice.f0.npz")
    np.testing.assert_allclose(table[:, 0], np.arange(51) * 0.01, atol=1e-6)
    np.testing.assert_allclose(table[:, 1], track.frequency, atol=5e-5)
    assert track.activations is None and track.audio is None and Path("voice.f0.png").read_bytes()[:4] == b"\x89PNG"


def test_options_change_what_they_should(here, pitch):
    sf.write("voice.wav", tone(), 16000)
    assert pitch("voice.wav", "-s", "5", "-o", "a")[0] == 0 and len(rows("a/voice.f0.csv")) == 101
    assert pitch("voice.wav", "-F", "-o", "a")[0] == 0
    assert pitch("voice.wav", "-o", "b", "-c", "7")[0] == 0  # the number of chunks changes nothing
    assert pitch("voice.wav", "-o", "c")[0] == 0
    hz, semitones = rows("c/voice.f0.csv"), rows("a/voice.semitones.csv")
    np.testing.assert_allclose(440 * 2 ** ((semitones[:, 1] - 69) / 12), hz[:, 1], rtol=1e-4)
    assert Path("b/voice.f0.csv").read_bytes() == Path("c/voice.f0.csv").read_bytes()
    assert pitch("voice.wav", "-o", "d", "-r", "argmax")[0] == 0
    steps = 12 * np.log2(rows("d/voice.f0.csv")[:, 1] / 440) * 3
    np.testing.assert_allclose(steps, np.rint(steps), atol=2e-3)  # thirds of a semitone
    assert pitch("voice.wav", "-o", "e", "--voicing-threshold", "1")[0] == 0
    assert (rows("e/voice.f0.csv")[:, 1] == 0).all() and (hz[:, 1] > 0).all()
    assert pitch("voice.wav", "-o", "f", "--viterbi", "-e", "npz", "--activations")[0] == 0
    assert PitchTrack.from_npz("f/voice.f0.npz").activations.shape == (51, 384)


def test_spellings_of_pesto(here, pitch):
    sf.write("voice.wav", tone(), 16000)
    words = "--output o --export_format csv npz --reduction alwa --step_size 20 --no_convert_to_freq --num_chunks 2 --gpu -1"
    assert pitch("voice.wav", *words.split())[0] == 0
    assert sorted(os.listdir("o")) == ["voice.semitones.csv", "voice.semitones.npz"]
    assert pitch("-o", "p", "-e", "csv,mid", "voice.wav")[0] == 0  # the recording is not taken for a format
    assert sorted(os.listdir("p")) == ["voice.f0.csv", "voice.f0.mid"]


def test_gpu_that_is_not_there_is_replaced_with_a_word(here, pitch):
    import torch

    if torch.cuda.device_count() > 63:
        pytest.skip("there are that many")
    sf.write("voice.wav", tone(), 16000)
    status, said = pitch("voice.wav", "--gpu", "63")
    assert status == 0 and "gpu = 63" in said and "using the CPU" in said
    status, said = pitch("voice.wav", "--device", "cuda:63", "--force")
    assert status == 2 and "device = 'cuda:63' is not on this machine" in said


def test_folders_patterns_and_sub_folders(here, pitch):
    for name in ("in/a/1.wav", "in/b/1.wav", "in/b/2.FLAC"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        sf.write(name, tone(), 16000)
    Path("in/b/._1.wav").write_bytes(b"what macOS leaves")
    Path("in/notes.txt").write_text("no sound")
    assert pitch("in", "-o", "out") == (0, "mirkit: 3 done\n")
    assert sorted(str(f) for f in Path("out").rglob("*.*")) == [f"out/{f}.f0.csv" for f in ("a/1", "b/1", "b/2")]
    assert pitch("in/**/1.wav", "-o", "glob") == (0, "mirkit: 2 done\n")
    assert sorted(str(f) for f in Path("glob").rglob("*.*")) == ["glob/a/1.f0.csv", "glob/b/1.f0.csv"]
    assert pitch("in/b", "in/b/1.wav") == (0, "mirkit: 2 done\n")


def test_nothing_is_overwritten_that_should_not_be(here, pitch):
    for name in ("a/1.wav", "b/1.wav", "b/2.wav", "b/2.flac"):
        Path(name).parent.mkdir(exist_ok=True)
        sf.write(name, tone(), 16000)
    status, said = pitch("a/1.wav", "b/1.wav", "b/2.wav", "-o", "out")
    assert (
        status == 1 and said.count("another recording would write out/1.f0.csv too") == 2 and "1 done, 2 failed" in said
    )
    assert os.listdir("out") == ["2.f0.csv"]
    status, said = pitch("b")
    assert status == 1 and said.count("another recording would write b/2.f0.csv too") == 2
    os.link("a/1.wav", "a/1.f0.csv")  # a recording with an unlucky name
    sound = Path("a/1.wav").read_bytes()
    status, said = pitch("a/1.wav", "a/1.f0.csv", "--force")
    assert status == 1 and "one of the inputs" in said and Path("a/1.f0.csv").read_bytes() == sound


def test_names_with_dots_spaces_and_brackets(here, pitch):
    for name in ("a.b.c.wav", "läng e.wav", "take[1].wav", "-dash.wav"):
        sf.write(name, tone(), 16000)
    assert pitch("a.b.c.wav", "läng e.wav", "take[1].wav", "./-dash.wav")[0] == 0
    assert {f for f in os.listdir() if f.endswith("csv")} == {
        "a.b.c.f0.csv",
        "läng e.f0.csv",
        "take[1].f0.csv",
        "-dash.f0.csv",
    }


# ---- odd recordings --------------------------------------------------------------------------------------------------

ODD = {
    "stereo": (np.stack([tone(), 0.1 * tone()], 1), 16000, "PCM_16"),
    "eight channels": (np.stack([tone()] * 8, 1), 16000, "PCM_16"),
    "8 kHz": (tone(8000), 8000, "PCM_16"),
    "22.05 kHz": (tone(22050), 22050, "PCM_16"),
    "96 kHz": (tone(96000), 96000, "PCM_24"),
    "192 kHz": (tone(192000), 192000, "FLOAT"),
    "8 bit": (tone(), 16000, "PCM_U8"),
    "32 bit": (tone(), 16000, "PCM_32"),
    "64 bit float": (tone(), 16000, "DOUBLE"),
    "silence": (np.zeros(8000, np.float32), 16000, "PCM_16"),
    "one sample": (np.full(1, 0.1, np.float32), 16000, "PCM_16"),
    "ten samples": (tone()[:10], 16000, "PCM_16"),
    "noise": (np.random.default_rng(0).normal(0, 0.2, 8000).astype(np.float32), 16000, "FLOAT"),
    "clipped": (np.sign(tone()), 16000, "PCM_16"),
    "constant": (np.full(8000, 0.5, np.float32), 16000, "PCM_16"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_recordings(name, here, pitch):
    x, sr, subtype = ODD[name]
    sf.write("odd.wav", x, sr, subtype)
    assert pitch("odd.wav", "-e", "csv", "npz", "png", "jams", "mid", "html") == (0, "mirkit: 1 done\n")
    table = rows("odd.f0.csv")
    assert len(table) == pytest.approx(100 * len(x) / sr + 1, abs=1) and np.isfinite(table).all()
    assert (table[:, 1] >= 0).all() and (table[:, 2] >= 0).all() and (table[:, 2] <= 1).all()
    if name == "silence":
        assert (table[:, 1:] == 0).all()


def test_repaired_recordings_are_done_with_a_warning(here, pitch):
    x = tone()
    x[100:110] = np.nan
    sf.write("nan.wav", x, 16000, "FLOAT")
    sf.write("whole.wav", tone(), 16000, "PCM_16")
    Path("cut.wav").write_bytes(Path("whole.wav").read_bytes()[:9000])
    status, said = pitch("nan.wav", "cut.wav")
    assert status == 0 and "nan.wav: 10 of 8000 samples are NaN" in said and "cut.wav: cut off" in said
    assert np.isfinite(rows("nan.f0.csv")).all() and 20 < len(rows("cut.f0.csv")) < 40


@pytest.mark.parametrize("jobs", [1, 2])
def test_bad_recordings_are_reported_at_the_end(here, pitch, jobs):
    sf.write("good.wav", tone(), 16000)
    sf.write("empty.wav", np.zeros(0, np.float32), 16000)
    Path("nothing.wav").touch()
    Path("text.wav").write_text("this is no sound")
    os.mkdir("folder")
    status, said = pitch("text.wav", "missing.wav", "good.wav", "empty.wav", "nothing.wav", "folder", "--jobs", jobs)
    assert status == 1 and said.rstrip().splitlines()[-6] == "mirkit: 1 done, 5 failed"
    for part in (
        "\ntext.wav: not a sound file",
        "missing.wav: no such file",
        "empty.wav:",
        "nothing.wav: the file is empty",
        "folder: no sound files in this folder",
    ):
        assert part in said
    assert [f for f in os.listdir() if f.endswith(".csv")] == ["good.f0.csv"]


# ---- again -----------------------------------------------------------------------------------------------------------


def test_resumes_and_forces(here, pitch):
    for name in ("a.wav", "b.wav"):
        sf.write(name, tone(), 16000)
    assert pitch("a.wav", "-e", "csv", "npz")[0] == 0
    old = os.stat("a.f0.csv").st_mtime_ns
    assert pitch(".", "-e", "csv", "npz") == (0, SKIPPED)
    assert os.stat("a.f0.csv").st_mtime_ns == old
    Path("a.f0.npz").unlink()  # one of its files is missing
    assert pitch(".", "-e", "csv", "npz") == (0, SKIPPED)
    os.utime("a.wav", (time.time() + 10,) * 2)  # the recording is younger
    assert pitch(".") == (0, SKIPPED)
    os.utime("a.wav", (0, 0))
    assert pitch(".", "--force") == (0, "mirkit: 2 done\n")
    assert not [f for f in os.listdir() if f.startswith(".")]


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_leaves_what_is_finished(here, model, jobs):
    for i in range(40):
        sf.write(f"{i:02}.wav", tone(16000, 20.0), 16000)
    # a shell without job control starts background jobs with SIGINT ignored, and children inherit that
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\nfrom mirkit.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "pitch", ".", "-m", model, "--jobs", str(jobs), "-s", "5"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    for _ in range(3000):
        if len(list(here.glob("[0-9]*.csv"))) >= 2:
            break
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=30)[1]
    assert child.returncode == 130 and said.rstrip().endswith("mirkit: interrupted") and "Traceback" not in said, said
    finished = list(here.glob("*.csv"))  # sees unfinished, hidden files too
    assert 2 <= len(finished) < 40 and all(len(rows(f)) == 4001 for f in finished)


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "give at least one file"),
        (["a.wav", "-e", "cvs"], "format = 'cvs' is not known (did you mean 'csv'?)"),
        (["a.wav", "-s", "0"], "step_size = 0.0"),
        (["a.wav", "-s", "nan"], "step_size = nan"),
        (["a.wav", "-r", "median"], "reduction = 'median' is not known (did you mean 'mean'?)"),
        (["a.wav", "--voicing-threshold", "2"], "threshold = 2.0"),
        (["a.wav", "-c", "0"], "num_chunks = 0"),
        (["a.wav", "--jobs", "0"], "jobs = 0"),
        (["a.wav", "--median", "-1"], "median = -1.0"),
        (["a.wav", "--device", "gpu"], "gpu"),
        (["a.wav", "-o", "a.wav"], "cannot make the folder a.wav"),
        (["a.wav", "-m", "nowhere.safetensors"], "nowhere.safetensors"),
        (["a.wav", "-m", "a.wav"], "a.wav"),
        (["a.wav", "-m", "cut.safetensors"], "cut.safetensors"),
        (["a.wav", "-m", "foreign.ckpt"], "foreign.ckpt"),
    ],
)
def test_mistakes_end_at_once_with_status_2(words, message, here, pitch, model):
    sf.write("a.wav", tone(), 16000)
    Path("cut.safetensors").write_bytes(Path(model).read_bytes()[:3000])
    Path("foreign.ckpt").write_bytes(b"PK\x03\x04 not a checkpoint")
    status, said = pitch(*words)
    assert status == 2 and message in said and said.startswith("mirkit: error: ") and said.count("\n") == 1
    assert not list(here.glob("*.csv"))


def test_unknown_model_names_are_answered_with_suggestions(here, pitch):
    from mirkit.pitch.weights import weights_names

    sf.write("a.wav", tone(), 16000)
    status, said = pitch("a.wav", "-m", "pesto-cpt")
    assert status == 2 and "pesto-cpt" in said
    if "pesto-cqt" in weights_names():
        assert "did you mean pesto-cqt?" in said


def test_mistakes_of_usage():
    for words in (["pitch", "-s", "ten", "a.wav"], ["pitch", "--nosuch"], ["pitch", "--jobs", "two"]):
        with pytest.raises(SystemExit) as end:
            cli.main(words)
        assert end.value.code == 2


@pytest.fixture
def public():
    "A folder that everybody may enter, unlike pytest's"
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_read_only_folders_are_named(public, model):
    sf.write(public / "a.wav", tone(), 16000)
    (public / "ro").mkdir()
    (public / "m.safetensors").write_bytes(Path(model).read_bytes())
    (public / "ro").chmod(0o555)
    public.chmod(0o555)
    code = """if True:
        import os, sys
        import mirkit.api, mirkit.pitch.tracker, numpy.testing, mirkit.core.files
        os.geteuid() or os.setuid(65534)
        from mirkit.cli import main
        print(main(["pitch", "a.wav", "-m", "m.safetensors", "-o", "ro"]), main(["pitch", "a.wav", "-m", "m.safetensors"]))"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=public,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    public.chmod(0o755)
    assert done.stdout == "2 1\n", done.stderr
    assert "cannot write to the folder ro: it is read-only" in done.stderr
    assert "a.wav: [Errno 13] cannot write to the folder ." in done.stderr


def test_full_disk_is_reported_and_leaves_nothing_half(here, pitch):
    sf.write("a.wav", tone(seconds=3), 16000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        status, said = pitch("a.wav")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 1 and "cannot write a.f0.csv to the folder ." in said and os.listdir() == ["a.wav"]


# ---- from Python -----------------------------------------------------------------------------------------------------


def test_track_files_says_what_became_of_each(here, model):
    sf.write("a.wav", tone(), 16000)
    done, failed = track_files(["a.wav", "b.wav"], model=model, progress=False)
    assert (done.status, failed.status) == ("done", "failed") and "no such file" in failed.error
    (skipped,) = track_files("a.wav", model=model)
    assert skipped.status == "skipped" and str(skipped.item) == "a.wav"
    with pytest.raises(TypeError, match="stepsize"):
        track_files("a.wav", stepsize=5)


# ---- what it costs ---------------------------------------------------------------------------------------------------


def test_nothing_heavy_is_imported(here, model):
    "A CSV needs none of the libraries that take a second to import"
    sf.write("a.wav", tone(), 16000)
    heavy = {
        "torch",
        "scipy",
        "pandas",
        "librosa",
        "matplotlib",
        "plotly",
        "tqdm",
        "jams",
        "pretty_midi",
        "multiprocessing",
    }
    code = f"import sys; from mirkit.cli import main; main(['pitch', 'a.wav', '-m', {model!r}]); print({heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.stdout == "set()\n", done.stderr


def test_ten_seconds_of_sound_cost_less_than_importing_torch(here, model):
    sf.write("a.wav", tone(44100, 10.0), 44100)
    took = []
    for command in (["-c", "import torch"], ["-m", "mirkit", "pitch", "a.wav", "-m", model, "--force"]):
        runs = []
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                [sys.executable, *command], check=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            runs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        took.append(min(runs))
    assert took[1] < took[0], f"{took[1]:.2f} s of processor time; importing torch takes {took[0]:.2f} s"
