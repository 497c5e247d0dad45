"""`mirkit resynth` as a shell sees it: files, options, odd recordings, mistakes, memory; and instruments from Python"""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile as sf

import mirkit as mk
from mirkit import cli

torch = pytest.importorskip("torch")
from mirkit.ddsp.controls import Controls  # noqa: E402
from mirkit.ddsp.decoder import DecoderConfig, Instrument, save_decoder  # noqa: E402
from mirkit.ddsp.features import Features, statistics_of  # noqa: E402
from mirkit.ddsp.nets import InverseConfig, InverseNet, save_inverse  # noqa: E402
from mirkit.ddsp.spectral import spectral_distance  # noqa: E402
from mirkit.ddsp.weights import instrument_names  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
TUNE = (69, 71, 72, 74, 76)  # MIDI pitch


def melody(sr: int = 16000, seconds: float = 2.0, semitones: float = 0.0) -> np.ndarray:
    "Bowed tones with vibrato, two in a second, under a curve of loudness"
    t = np.arange(round(sr * seconds)) / sr
    note = np.array(TUNE)[(2 * t).astype(int) % len(TUNE)] + semitones + 0.15 * np.sin(2 * np.pi * 5.5 * t)
    phase = 2 * np.pi * np.cumsum(440 * 2 ** ((note - 69) / 12)) / sr
    tone = sum(np.sin(k * phase) / k * (k * 900 < sr / 2) for k in range(1, 13))
    noise = 0.002 * np.random.default_rng(0).standard_normal(len(t))
    return (0.15 * tone * (0.2 + np.sin(np.pi * (2 * t % 1)) ** 2) + noise).astype(np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    "A folder with an instrument and an inverse synthesiser that have learned nothing, the same in each run"
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    fiddle = Instrument(DecoderConfig(rnn=16, dense=16, layers=1, n_harmonics=30, n_noise=33, reverb=1600))
    with torch.no_grad():
        fiddle.net.head.weight.mul_(4)  # so that it matters what it is told
        fiddle.room.taps.add_(0.01)
    n = 2000
    usual = Features(440 * 2 ** np.linspace(-0.5, 1, n), np.ones(n), np.linspace(-40, -20, n))
    save_decoder(folder / "fiddle.safetensors", fiddle, statistics_of([usual], [np.ones(n, bool)]), {})
    save_inverse(folder / "inverse.safetensors", InverseNet(InverseConfig.preset("ci")).eval(), {})
    return folder


@pytest.fixture
def resynth(models, capsys):
    "Run the command: status, what it prints, and what it says on stderr"

    def run(*words: object, model: str = "fiddle") -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main(["resynth", "-m", str(models / f"{model}.safetensors"), *map(str, words)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        lines = [line for line in err.replace("\r", "\n").splitlines() if line and not line.startswith("resynth:")]
        return status, out, "".join(f"{line}\n" for line in lines)  # without the progress bar

    return run


def cents(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    "How far b lies above a where both are voiced (16 kHz)"
    one, two = (mk.track_pitch(x, 16000) for x in (a, b))
    n = min(len(one.time), len(two.time))
    both = one.voiced[:n] & (two.frequency[:n] > 0)
    assert both.mean() > 0.3
    return 1200 * np.log2(two.frequency[:n][both] / one.frequency[:n][both])


def period_cents(a: np.ndarray, b: np.ndarray, near: float = 0.0) -> np.ndarray:
    "The same by b's period, about `near`: what has learned nothing may put its fundamental 40 dB below its harmonics"
    one = mk.track_pitch(a, 16000, step_size=16)
    heard = one.frequency[one.voiced] * 2 ** (near / 1200)
    found, _, _ = librosa.pyin(b, fmin=heard.min() / 1.4, fmax=heard.max() * 1.4, sr=16000, hop_length=256)
    n = min(len(one.time), len(found))
    both = one.voiced[:n] & (found[:n] > 0)
    assert both.mean() > 0.3
    return 1200 * np.log2(found[:n][both] / one.frequency[:n][both])


# ---- what is written -------------------------------------------------------------------------------------------------


def test_the_file_that_was_named(here, resynth):
    x = melody()
    sf.write("song.wav", x, 16000)
    assert resynth("song.wav", "-o", "made/out.wav") == (0, "", "mirkit: 1 done\n")
    y, sr = sf.read("made/out.wav")
    assert sr == 16000 and len(y) == len(x) and os.listdir("made") == ["out.wav"] and np.abs(y).max() > 0.01
    assert np.median(np.abs(period_cents(x, y))) < 15  # the tune is kept, whatever the timbre
    again = resynth("song.wav", "-o", "made/out.wav", "--octave", "1", "-e", "npz")
    assert again[::2] == (0, "mirkit: 1 done\n") and sorted(os.listdir("made")) == ["out.npz", "out.wav"]
    assert abs(np.median(period_cents(x, sf.read("made/out.wav")[0], 1200)) - 1200) < 15
    assert resynth("song.wav", "-o", "out.flac", "--sr", "44100")[0] == 0
    assert sf.info("out.flac").samplerate == 44100 and abs(sf.info("out.flac").frames - 2 * 44100) <= 1
    assert resynth("song.wav", "-o", "only.npz")[0] == 0 and len(Controls.from_npz("only.npz")) == 500


def test_beside_recordings_and_twice(here, resynth):
    "What an earlier run has left is not taken for a recording"
    Path("in/b").mkdir(parents=True)
    for name in ("in/1.wav", "in/b/1.WAV", "in/b/2.flac"):
        sf.write(name, melody(seconds=0.6), 16000)
    assert resynth("in")[::2] == (0, "mirkit: 3 done\n")
    made = sorted(str(p) for p in Path("in").rglob("*.fiddle.*"))
    assert made == ["in/1.fiddle.wav", "in/b/1.fiddle.wav", "in/b/2.fiddle.wav"]
    assert resynth("in")[2].startswith("mirkit: 3 skipped\n") and resynth(*Path("in/b").iterdir())[2].startswith(
        "mirkit: 2 skipped\n"
    )
    assert len(list(Path("in").rglob("*.*"))) == 6
    assert resynth("in", "-o", "out", "-e", "npz", "wav")[0] == 0
    assert len(list(Path("out/b").iterdir())) == 8  # in another folder, all that lies in `in` are sounds
    assert resynth("in", "-o", "in")[2].startswith("mirkit: 3 skipped\n") and len(list(Path("in").rglob("*.*"))) == 6


def test_processes_write_the_same(here, resynth):
    for i in range(2):
        sf.write(f"{i}.wav", melody(seconds=1, semitones=i), 16000)
    for folder, jobs in (("one", 1), ("two", 2)):
        assert resynth("0.wav", "1.wav", "-o", folder, "--jobs", jobs)[0] == 0
    for name in ("0.fiddle.wav", "1.fiddle.wav"):
        assert np.abs(sf.read(f"one/{name}")[0] - sf.read(f"two/{name}")[0]).max() < 1e-4


def test_options_reach_the_instrument(here, resynth):
    sf.write("song.wav", melody(seconds=1), 16000)

    def controls(*words: object) -> Controls:
        assert resynth("song.wav", "-o", "o", "-e", "npz", "--force", *words)[0] == 0
        return Controls.from_npz("o/song.fiddle.npz")

    usual = controls()
    ratio = {words: np.median(controls(*words).f0 / usual.f0) for words in [("--octave", -1), ("--semitones", 3.5)]}
    assert ratio["--octave", -1] == pytest.approx(0.5) and ratio["--semitones", 3.5] == pytest.approx(2 ** (3.5 / 12))
    assert not np.allclose(controls("--loudness", 12).amplitude, usual.amplitude, atol=1e-3)
    np.testing.assert_allclose(controls("--noise", -6).noise, usual.noise * 10**-0.3, rtol=1e-4)
    assert not controls("--no-noise").noise.any() and controls("--no-reverb").reverb is None
    alone = controls("--harmonic-only")
    assert not alone.noise.any() and alone.reverb is None and alone.amplitude.any()
    assert not controls("--noise-only").amplitude.any() and usual.reverb is not None
    still = controls("--autotune", 1, "--scale", "chromatic").pitch
    tuning = np.angle(np.mean(np.exp(2j * np.pi * still))) / (2 * np.pi)  # of all notes, semitones
    assert np.median(np.abs(still - tuning - np.round(still - tuning))) < 0.05 < np.std(usual.pitch % 1)
    low = melody(seconds=1, semitones=-36)
    sf.write("song.wav", low, 16000)
    moved, kept = controls(), controls("--no-match")
    assert 1.9 < np.median(np.log2(moved.f0 / kept.f0)) < 3.1  # into the register


def test_an_inverse_synthesiser_plays_what_it_heard(here, resynth):
    sf.write("song.wav", melody(44100), 44100)
    assert resynth("song.wav", "-o", "out.wav", "-e", "npz", model="inverse")[::2] == (0, "mirkit: 1 done\n")
    usual = Controls.from_npz("out.npz")
    assert usual.sin_freqs is not None and len(sf.read("out.wav")[0]) == 32000
    more = ("--semitones", "2", "--no-noise", "--loudness", "-6")
    assert resynth("song.wav", "-o", "out.wav", "-e", "npz", *more, model="inverse")[0] == 0
    other = Controls.from_npz("out.npz")
    np.testing.assert_allclose(other.f0, usual.f0 * 2 ** (2 / 12), rtol=1e-5)
    np.testing.assert_allclose(other.amplitude, usual.amplitude * 10**-0.3, rtol=1e-4)
    assert not other.noise.any()
    status, _, err = resynth("song.wav", "-o", "other.wav", "--tracker", "pitch", model="inverse")
    assert status == 2 and "tracker = 'pitch' has no use" in err and not Path("other.wav").exists()


# ---- odd recordings --------------------------------------------------------------------------------------------------

ODD = {
    "stereo": (np.stack([melody(), 0.1 * melody()], 1), 16000, "PCM_16"),
    "8 kHz": (melody(8000), 8000, "PCM_16"),
    "44.1 kHz": (melody(44100), 44100, "PCM_16"),
    "96 kHz": (melody(96000, 1.0), 96000, "PCM_24"),
    "an odd rate": (melody(44101, 1.0), 44101, "PCM_16"),
    "quiet": (0.001 * melody(), 16000, "FLOAT"),
    "clipped": (np.sign(melody()), 16000, "PCM_16"),
    "constant": (np.full(22050, 0.5, np.float32), 22050, "PCM_16"),
    "noise": (np.random.default_rng(0).normal(0, 0.1, 22050).astype(np.float32), 22050, "PCM_16"),
    "silence": (np.zeros(22050, np.float32), 22050, "PCM_16"),
    "one frame": (melody()[:64], 16000, "FLOAT"),
    "0.02 s": (melody()[:320], 16000, "FLOAT"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_recordings(name, here, resynth):
    x, sr, subtype = ODD[name]
    sf.write("odd.wav", x, sr, subtype)
    status, _, err = resynth("odd.wav", "-o", "out.wav")
    y, rate = sf.read("out.wav")
    assert status == 0 and rate == 16000 and len(y) == pytest.approx(len(x) / sr * 16000, abs=1)
    assert np.isfinite(y).all() and err.endswith("mirkit: 1 done\n")
    if name == "silence":
        assert "odd.wav: no note was heard" in err


def test_bad_recordings_are_reported_at_the_end(here, resynth):
    x = melody(seconds=0.5)
    sf.write("good.wav", x, 16000)
    x[100:110] = np.nan
    sf.write("nan.wav", x, 16000, "FLOAT")
    sf.write("click.wav", x[:20], 16000)
    sf.write("empty.wav", x[:0], 16000)
    Path("nothing.wav").touch()
    Path("text.wav").write_text("this is no sound")
    os.mkdir("folder")
    bad = ("text.wav", "missing.wav", "empty.wav", "nothing.wav", "folder", "click.wav")
    status, _, err = resynth(*bad, "good.wav", "nan.wav", "-o", "out")
    assert status == 1 and "mirkit: 2 done, 6 failed" in err and "nan.wav: 10 of 8000 samples are NaN" in err
    for part in ("text.wav: not a sound file", "no such file", "empty.wav:", "the file is empty", "no sound files"):
        assert part in err
    assert "click.wav: 1.2 ms of sound, less than one frame of 4 ms" in err
    assert sorted(os.listdir("out")) == ["good.fiddle.wav", "nan.fiddle.wav"]


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "give at least one file"),
        (["a.wav", "-e", "mid"], "format = 'mid' is not known"),
        (["a.wav", "--octave", "9"], "octave = 9"),
        (["a.wav", "--semitones", "nan"], "semitones = nan"),
        (["a.wav", "--loudness", "100"], "loudness = 100.0"),
        (["a.wav", "--noise", "61"], "noise = 61.0"),
        (["a.wav", "--autotune", "2"], "autotune = 2.0"),
        (["a.wav", "--scale", "minor"], "scale = 'minor' is not known"),
        (["a.wav", "--sr", "10"], "sr = 10"),
        (["a.wav", "--jobs", "0", "-o", "out"], "jobs = 0"),
        (["a.wav", "--device", "gpu"], "gpu"),
        (["a.wav", "--tracker", "pestoo"], "pestoo"),
        (["a.wav", "-o", "out.mp3"], "format of the output file = 'mp3'"),
        (["a.wav", "-o", "a.wav"], "is the recording itself"),
        (["a.wav", "b.wav", "-o", "out.wav"], "is one file, for one recording; there are 2"),
        (["a.wav", "-o", "a.wav/out"], "cannot make the folder a.wav/out"),
        (["a.wav", "-m", "nowhere.safetensors"], "nowhere.safetensors"),
        (["a.wav", "-m", "a.wav"], "a.wav"),
        (["a.wav", "-m", "cut.safetensors"], "cut.safetensors"),
        (["a.wav", "-m", "trombone"], "model = 'trombone' is unknown"),
    ],
)
def test_mistakes_end_at_once_with_status_2(words, message, here, resynth, models):
    sf.write("a.wav", melody(seconds=0.5), 16000)
    sf.write("b.wav", melody(seconds=0.5), 16000)
    Path("cut.safetensors").write_bytes((models / "fiddle.safetensors").read_bytes()[:3000])
    before = set(here.rglob("*"))
    status, out, err = resynth(*words)
    assert status == 2 and message in err and err.startswith("mirkit: error: ") and err.count("\n") == 1 and not out
    assert {p for p in here.rglob("*") if p.is_file()} <= before


def test_mistakes_of_usage():
    for words in (["--octave", "half", "a.wav"], ["--nosuch"], ["--noise", "3", "--no-noise", "a.wav"]):
        with pytest.raises(SystemExit) as end:
            cli.main(["resynth", *words])
        assert end.value.code == 2


def test_a_full_disk_is_named(here, resynth):
    sf.write("a.wav", melody(seconds=1.5), 16000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        status, _, err = resynth("a.wav", "-o", "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 1 and "a.fiddle.wav" in err and "could not be written" in err and not os.listdir("out")


# ---- long recordings -------------------------------------------------------------------------------------------------

HOUR = """
import sys
import numpy as np
from mirkit.core.audio import audio_info
from mirkit.core.results import PitchTrack
from mirkit.ddsp.resynth import ResynthOptions, plan_resynth, resynth_file

class Tracker:
    def file(self, path):
        n = int(audio_info(path).duration * 10)
        return PitchTrack(np.arange(n) / 10, 220 + 20 * np.sin(np.arange(n) / 10), np.full(n, 0.9))

(job,) = plan_resynth([sys.argv[1]], "out.wav", (), sys.argv[2])
resynth_file(job, ResynthOptions(sys.argv[2]), Tracker)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux tells")
def test_an_hour_takes_little_more_memory_than_a_minute(here):
    "Peak memory of fresh processes, with a small instrument at a low rate; the samples alone would be 115 MB"
    torch.manual_seed(0)
    small = DecoderConfig(sr=4000, rate=50, rnn=4, dense=4, layers=1, n_harmonics=4, n_noise=5, reverb=400)
    n = 200
    usual = Features(np.full(n, 220.0), np.ones(n), np.full(n, -30.0), 50, sr=4000)
    save_decoder("small.safetensors", Instrument(small), statistics_of([usual], [np.ones(n, bool)]), {})
    minute, peaks = melody(8000, 60.0, -12), []
    # glibc must give back what is freed: otherwise the peak is that of its pools, and 44 to 103 MB were seen
    pools = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | pools
    for minutes in (1, 60):
        sf.write("in.wav", np.tile(minute, minutes), 8000)
        words = [sys.executable, "-c", HOUR, "in.wav", "small.safetensors"]
        done = subprocess.run(words, capture_output=True, text=True, env=env, check=True)
        peaks.append(int(done.stdout) // 1024)
        assert sf.info("out.wav").frames == 240_000 * minutes
    assert peaks[1] - peaks[0] < 40, peaks  # MB; 10 to 12 measured


# ---- from Python -----------------------------------------------------------------------------------------------------


def test_resynth_takes_sound_and_paths(here, models):
    x, fiddle = melody(), models / "fiddle.safetensors"
    sf.write("a.wav", x, 16000, "FLOAT")
    one, file = mk.resynth(x, 16000, fiddle), mk.resynth("a.wav", model=fiddle)
    assert len(one) == 500 and one.model == "fiddle" and np.array_equal(one.amplitude, file.amplitude)
    mk.resynth_files("a.wav", "o", model=str(fiddle), progress=False)
    np.testing.assert_allclose(sf.read("o/a.fiddle.wav")[0], one.render(), atol=2e-4)
    whole = mk.resynth(torch.from_numpy(x), 16000, fiddle, match=False, octave=1)
    assert np.median(whole.f0) == pytest.approx(2 * np.median(one.f0), rel=0.02)
    for bad, words in (([], "at least one"), ([np.inf] * 900, "infinite"), (np.zeros((2, 9000)), "mono")):
        with pytest.raises(ValueError, match=words):
            mk.resynth(bad, 16000, fiddle)
    with pytest.raises(ValueError, match="sr = None"):
        mk.resynth(x, model=fiddle)
    with pytest.raises(ValueError, match="did you mean 'semitones'"):
        mk.resynth(x, 16000, fiddle, semitone=1)
    with pytest.raises(ValueError, match="model = 'flute' is unknown"):
        mk.resynth(x, 16000, "flute")


# ---- the instrument that comes with mirkit ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def violin() -> str:
    if "violin" not in instrument_names():
        pytest.skip("no instrument violin yet")
    return "violin"


def distance(x: np.ndarray, y: np.ndarray) -> float:
    n = min(len(x), len(y))
    return float(spectral_distance(*(torch.from_numpy(np.ascontiguousarray(a[:n], np.float32))[None] for a in (x, y))))


def test_the_violin_plays_like_a_violin(violin, models, shared):
    "A recording that it has not learned from: nearer than by who has learned nothing, and in tune"
    folder = shared / "data" / "ddsp" / "bach-violin-dataset" / "bach-violin" / "audio" / "john-garner"
    path = folder / "john-garner_bwv1002_mov8.mp3"
    if not path.is_file():
        pytest.skip("no recordings of a violin")
    x, sr = mk.load(path, start=20.0, duration=8.0)
    from mirkit.core.audio import resample

    real = resample(x, sr, 16000)
    as_is = mk.resynth(x, sr, violin, match=False).render()
    assert distance(real, as_is) < 0.6 * distance(real, mk.resynth(x, sr, models / "fiddle.safetensors").render())
    off = cents(real, mk.resynth(x, sr, violin).render())  # matched: it stays in its octave
    assert np.median(np.abs(off)) < 15 and (np.abs(off) < 50).mean() > 0.9


def test_the_violin_takes_up_a_low_tune(violin):
    x = melody(seconds=3, semitones=-24)
    made = mk.resynth(x, 16000, violin)
    assert 50 < np.median(made.pitch) < 80 and made.amplitude.max() > 0.01
    steps = cents(x, made.render()) / 1200
    assert np.median(np.abs(steps - np.round(np.median(steps)))) < 0.02 and round(np.median(steps)) in (1, 2)


def test_the_violin_plays_live(violin):
    from mirkit.ddsp.decoder import DDSPDecoder
    from mirkit.ddsp.live import DecoderStream

    decoder = DDSPDecoder.from_pretrained(violin)
    t = np.arange(500) / 250
    f = Features(440 * 2 ** (np.sin(3 * t) / 4), np.ones(500), -30 + 8 * np.sin(4 * t))
    stream, began = DecoderStream(decoder), time.process_time()
    parts = [stream.push(f.f0[a : a + 16], f.loudness[a : a + 16]) for a in range(0, 500, 16)]
    live = np.concatenate([*parts, stream.finish()])
    assert time.process_time() - began < 0.5 * f.duration * torch.get_num_threads()
    assert np.abs(live - decoder.render(f)).max() < 1e-4
