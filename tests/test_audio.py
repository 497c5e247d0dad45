"""Audio files that go wrong, in every way a collection of recordings offers; what they share with the healthy is in nbs/core/03_audio."""

import io
import os
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
import soundfile as sf

from mirkit.core.audio import (
    AudioError,
    AudioWarning,
    audio_info,
    encode_audio,
    load,
    resample,
    save_audio,
    stream_audio,
)

SR = 16000
LOSSLESS, LOSSY = ("wav", "flac", "aiff"), ("ogg", "opus", "mp3")


def tone(hz=440.0, seconds=2.0, sr=SR, level=0.5):
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * sr)) / sr)).astype(np.float32)


def noise(seconds, channels=1, sr=SR):
    x = 0.1 * np.random.default_rng(0).standard_normal((channels, round(seconds * sr)))
    return x.astype(np.float32).squeeze()


def peak_hz(x, sr):
    "Frequency of the strongest partial, by a parabola through the log spectrum"
    s = np.log(np.abs(np.fft.rfft(x * np.hanning(len(x)))) + 1e-12)
    k = int(s.argmax())
    return (k + 0.5 * (s[k - 1] - s[k + 1]) / (s[k - 1] - 2 * s[k] + s[k + 1])) * sr / len(x)


def level_db(x):
    return 20 * np.log10(np.sqrt(2) * x[len(x) // 8 : -len(x) // 8].std() + 1e-12)


def joined(path, **options):
    return np.concatenate(list(stream_audio(path, **options)), axis=-1)


# --- healthy files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", LOSSLESS + LOSSY)
def test_round_trip_keeps_tone(tmp_path, suffix):
    x = np.stack([tone(440), tone(1000, level=0.25)])
    path = save_audio(tmp_path / f"tone.{suffix}", x, SR)
    y, sr = load(path, channel="all")
    assert sr == SR and y.dtype == np.float32 and y.shape == x.shape
    for ours, theirs, hz in zip(x, y, (440, 1000), strict=True):
        assert np.corrcoef(ours[:-200], theirs[:-200])[0, 1] > 0.995
        assert abs(peak_hz(theirs, sr) - hz) < 0.05
        assert abs(level_db(theirs) - level_db(ours)) < 0.5
    if suffix in LOSSLESS:
        assert np.abs(y - x).max() < 2**-23


@pytest.mark.parametrize(
    "subtype, step",
    [("PCM_U8", 2**-7), ("PCM_16", 2**-15), ("PCM_24", 2**-23), ("PCM_32", 2**-23), ("FLOAT", 0), ("DOUBLE", 0)],
)
def test_every_sample_type_is_scaled_to_one(tmp_path, subtype, step):
    x = tone(level=1.0 if step == 0 else 0.99)
    sf.write(tmp_path / "x.wav", x, SR, subtype=subtype)
    y, _ = load(tmp_path / "x.wav")
    assert np.abs(y - x).max() <= step


def test_full_scale_integer_is_one(tmp_path):
    sf.write(tmp_path / "x.wav", np.array([-32768, 0, 16384], np.int16), SR)
    assert load(tmp_path / "x.wav")[0].tolist() == [-1.0, 0.0, 0.5]


@pytest.mark.parametrize("sr", [8000, 11025, 22050, 44100, 48000, 96000, 192000])
def test_any_rate_keeps_tone_when_resampled(tmp_path, sr):
    save_audio(tmp_path / "x.wav", tone(440, sr=sr), sr)
    y, rate = load(tmp_path / "x.wav", sr=SR)
    assert rate == SR and len(y) == 2 * SR
    assert abs(peak_hz(y, SR) - 440) < 0.05 and abs(level_db(y) - level_db(tone())) < 0.02


@pytest.mark.parametrize("sr_in, sr_out", [(44100, 16000), (48000, 44100), (96000, 8000)])
@pytest.mark.parametrize("above", [1.01, 1.1, 1.5])
def test_no_alias(sr_in, sr_out, above):
    hz = sr_out / 2 * above
    if hz < sr_in / 2:
        assert level_db(resample(tone(hz, sr=sr_in, level=1.0), sr_in, sr_out)) < -80


def test_names_with_spaces_and_unicode(tmp_path):
    folder = tmp_path / "Große Töne"
    folder.mkdir()
    path = save_audio(folder / "śpiew – 歌 ♯1.flac", tone(), SR)
    assert len(load(path)[0]) == 2 * SR and audio_info(str(path)).duration == 2.0


@pytest.mark.parametrize("suffix", LOSSLESS + LOSSY)
@pytest.mark.parametrize("sr", [None, 8000, 22050])
@pytest.mark.parametrize("channel", ["mix", "right", "all"])
def test_stream_is_load(tmp_path, suffix, sr, channel):
    path = save_audio(tmp_path / f"x.{suffix}", noise(3.3, channels=2), SR)
    whole, _ = load(path, sr=sr, channel=channel)
    for seconds in (0.0371, 1.1, 60):
        y = joined(path, seconds=seconds, sr=sr, channel=channel)
        assert y.dtype == np.float32 and y.shape == whole.shape and np.abs(y - whole).max() < 1e-5


@pytest.mark.parametrize("sr", [8000, 16000, 22050, 44100])
@pytest.mark.parametrize("kind", ["tone", "clicks"])
def test_mp3_from_the_middle(tmp_path, sr, kind):
    "Sparse sound at a variable bit rate: frames that live on bits far behind them"
    x = tone(440, 12, sr) if kind == "tone" else noise(12, sr=sr) * (np.arange(12 * sr) % (2 * sr) < sr // 20)
    path = tmp_path / "x.mp3"
    sf.write(path, x, sr, compression_level=0.99, bitrate_mode="VARIABLE")
    whole, _ = load(path)
    for start in (0.3, 2.5, 7.77, 11.9):
        part, _ = load(path, start=start, duration=1.0)
        assert np.abs(part - whole[round(start * sr) :][: len(part)]).max() < 1e-5
    assert np.abs(joined(path, seconds=0.7) - whole).max() < 1e-6


def test_ten_minutes_stream_in_little_memory(tmp_path):
    path, sr, minute = tmp_path / "long.wav", 44100, (noise(60, sr=44100) * 32767).astype(np.int16)
    with sf.SoundFile(path, "w", sr, 1) as f:
        for _ in range(10):
            f.write(minute)
    total, blocks = 0, 0
    tracemalloc.start()
    for block in stream_audio(path, seconds=10, sr=SR):
        total, blocks = total + len(block), blocks + 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 600 * SR and blocks >= 60
    assert peak < 10e6, f"{peak / 1e6:.1f} MB; the file is {600 * sr * 4 / 1e6:.0f} MB as floats"


def test_core_audio_and_units_import_nothing_heavy():
    heavy = "{'torch', 'pandas', 'plotly', 'librosa', 'scipy', 'matplotlib'}"
    code = f"import sys, mirkit.core.audio, mirkit.core.units; sys.exit(', '.join({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.strip() == ""


# --- damaged files: what is there is read, and the loss is counted -------------------------------------------------


def cut(path, share=0.6):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("format", ["wav", "aiff", "w64", "au", "flac", "mp3"])
def test_cut_file_gives_what_is_there(tmp_path, format):
    path = tmp_path / f"cut.{format}"
    sf.write(path, noise(10), SR)
    whole, _ = load(path)
    cut(path)
    with pytest.warns(AudioWarning, match=r"cut\.\w+: cut off.* \d+ of \d+ (bytes|frames)"):
        y, _ = load(path)
    # an mp3's last frame lacks bits; what a FLAC loses is one block at most
    kept = len(y) - (2304 if format == "mp3" else 0)
    assert len(y) > 0.55 * len(whole) and np.abs(y[:kept] - whole[:kept]).max() < 1e-6
    with pytest.warns(AudioWarning, match="cut off"):
        assert np.abs(joined(path, seconds=0.9) - y).max() < 1e-6


@pytest.mark.parametrize("suffix", ["ogg", "opus"])
def test_cut_ogg_gives_what_is_there(tmp_path, suffix):
    "Ogg pages promise no length, so there is nothing to warn of"
    path = save_audio(tmp_path / f"cut.{suffix}", noise(20), SR)
    whole, _ = load(path)
    cut(path)
    y, _ = load(path)
    assert 0.3 * len(whole) < len(y) < 0.65 * len(whole) and np.abs(y[:-960] - whole[: len(y) - 960]).max() < 1e-5


def test_damage_in_the_middle(tmp_path):
    path = save_audio(tmp_path / "hole.flac", noise(10), SR)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    with pytest.warns(
        AudioWarning, match=r"hole\.flac: cut off or damaged, decoding stopped after \d+ of 160000 frames"
    ):
        assert 70_000 < len(load(path)[0]) < 90_000
    with pytest.raises(AudioError, match=r"hole\.flac: .*damaged; copy or download it again"):
        load(path, start=8)


def test_lengths_of_pipes_are_no_damage(tmp_path, recwarn):
    "Writers into a pipe do not know the length: 4 GB in a wav, none in a FLAC"
    wav, flac = (save_audio(tmp_path / f"pipe.{s}", tone(), SR) for s in ("wav", "flac"))
    content = bytearray(wav.read_bytes())
    for at in (4, content.find(b"data") + 4):
        content[at : at + 4] = b"\xff" * 4
    wav.write_bytes(content)
    content = bytearray(flac.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    flac.write_bytes(content)
    for path in (wav, flac):
        assert audio_info(path).frames == 2 * SR
        assert np.array_equal(load(path)[0], joined(path, seconds=0.3)) and len(load(path, start=1.5)[0]) == SR // 2
    assert not [w for w in recwarn if issubclass(w.category, AudioWarning)]


def test_nan_and_infinity_become_silence(tmp_path):
    x = tone()
    x[[5, 100, 7000]] = np.nan, np.inf, -np.inf
    sf.write(tmp_path / "x.wav", x, SR, subtype="FLOAT")
    with pytest.warns(AudioWarning, match=r"x\.wav: 3 of 32000 samples are NaN or infinite, replaced by 0"):
        y, _ = load(tmp_path / "x.wav")
    assert np.flatnonzero(y != x).tolist() == [5, 100, 7000] and (y[[5, 100, 7000]] == 0).all()
    with pytest.warns(AudioWarning, match="NaN or infinite"):
        assert np.isfinite(joined(tmp_path / "x.wav", seconds=0.1, sr=44100)).all()


# --- hopeless files and requests: an error that says what to do ------------------------------------------------------


def broken(folder):
    "One of each, by name"
    (folder / "folder.wav").mkdir()
    (folder / "empty.wav").touch()
    sf.write(folder / "silent.wav", np.zeros(0, np.float32), SR)
    for name in ("words.wav", "words.mp3", "words.flac", "words.raw", "words"):
        (folder / name).write_text("these are words\n" * 50)
    (folder / "random.ogg").write_bytes(np.random.default_rng(0).bytes(5000))
    stub = save_audio(folder / "stub.ogg", tone(), SR)
    cut(stub, 0.05)
    flac = save_audio(folder / "stub.flac", tone(), SR)
    flac.write_bytes(flac.read_bytes()[:100])


BROKEN = {
    "missing.wav": "no such file; check name and folder",
    "folder.wav": "is a folder; give one sound file",
    "empty.wav": r"empty \(0 bytes\); copy or download it again",
    "silent.wav": "holds no samples",
    "words.wav": "not a sound file .* ffmpeg -i 'words.wav'",
    "words.mp3": "not a sound file",
    "words.flac": "not a sound file",
    "words.raw": "not a sound file",
    "words": "not a sound file",
    "random.ogg": "not a sound file",
    "stub.ogg": "damaged|holds no samples",
    "stub.flac": "damaged; copy or download it again",
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("reader", [load, lambda path: next(stream_audio(path))], ids=["load", "stream"])
def test_broken_file(tmp_path, name, reader):
    broken(tmp_path)
    with pytest.raises(AudioError, match=BROKEN[name]) as e:
        reader(tmp_path / name)
    assert str(tmp_path / name) in str(e.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_file(tmp_path):
    path = save_audio(tmp_path / "x.wav", tone(), SR)
    path.chmod(0)
    with pytest.raises(AudioError, match=r"x\.wav: you may not read this file; change its permissions"):
        load(path)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(start=2.0), "start = 2 s is beyond the end at 2 s; start earlier"),
        (dict(start=99), "start = 99 s is beyond the end"),
        (dict(start=-1), "start = -1 must be a number between 0"),
        (dict(start="soon"), "start = 'soon' must be a number"),
        (dict(start=float("nan")), "start = nan must be a number"),
        (dict(duration=-0.5), "duration = -0.5 must be a number between 0"),
        (dict(duration=0), "duration = 0 s is less than one sample"),
        (dict(sr=0), "sr = 0 must be a number between 1"),
        (dict(sr=-16000), "sr = -16000 must be a number between 1"),
        (dict(sr="16k"), "sr = '16k' must be a number"),
        (dict(sr=16000.5), "sr = 16000.5 must be a whole number"),
        (
            dict(channel="voice"),
            "channel = 'voice' is not one of the file's 2; allowed: mix, all, left, right, or an index",
        ),
        (dict(channel=2), "channel = 2 is not one of the file's 2; .* from 0 to 1"),
        (dict(channel=-1), "channel = -1 is not one of"),
        (dict(channel=None), "channel = None is not one of"),
    ],
)
def test_impossible_request(tmp_path, options, message):
    path = save_audio(tmp_path / "x.wav", np.stack([tone(), tone()]), SR)
    with pytest.raises(AudioError, match=rf"x\.wav: {message}"):
        load(path, **options)
    if "start" not in options and "duration" not in options:
        with pytest.raises(AudioError, match=rf"x\.wav: {message}"):
            stream_audio(path, **options)  # at once, not at the first block


def test_right_of_mono(tmp_path):
    path = save_audio(tmp_path / "mono.wav", tone(), SR)
    with pytest.raises(AudioError, match=r"channel = 'right' is not one of the file's 1; allowed: mix, all, left, or"):
        load(path, channel="right")


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "1"])
def test_impossible_block(tmp_path, seconds):
    with pytest.raises(AudioError, match="seconds = .* must be a number between 0.001"):
        stream_audio(save_audio(tmp_path / "x.wav", tone(), SR), seconds=seconds)


@pytest.mark.parametrize("rates", [(0, 16000), (16000, -1), (16000, float("nan")), ("a", 1)])
def test_impossible_rate(rates):
    with pytest.raises(ValueError, match=r"sr_(in|out) = .* must be a number between 1"):
        resample(tone(), *rates)


# --- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, x, sr, message",
    [
        ("x.m4a", tone(), SR, "format = 'm4a' is not known.*wav, flac"),
        ("x", tone(), SR, "format = '' is not known.*wav, flac"),
        ("no/x.wav", tone(), SR, "there is no folder .*no; make it first"),
        ("x.wav", tone(), 0, "sr = 0 must be a number"),
        ("x.opus", tone(), 44100, "opus cannot store sr = 44100 Hz, only 8000, .*48000; resample first or choose wav"),
        ("x.mp3", tone(), 96000, "mp3 cannot store sr = 96000 Hz"),
        ("x.ogg", tone(), 250_000, "ogg cannot store sr = 250000 Hz, only up to 192000"),
        ("x.wav", (tone() * 32767).astype(np.int16), SR, "samples are int16; give floats in ±1"),
        ("x.wav", np.zeros(0), SR, r"shape \(0,\)"),
        ("x.wav", np.zeros((32000, 2)), SR, r"shape \(32000, 2\); give \(N,\) or \(C, N\)"),
        ("x.wav", np.float64(1), SR, r"shape \(\)"),
        ("x.wav", np.array([0, np.nan, np.inf]), SR, "2 of 3 samples are NaN or infinite"),
        ("x.mp3", np.zeros((3, 999)), SR, "3 channels at 16000 Hz cannot be encoded as mp3"),
    ],
)
def test_impossible_write(tmp_path, name, x, sr, message):
    with pytest.raises(AudioError, match=message) as e:
        save_audio(tmp_path / name, x, sr)
    assert str(tmp_path / name) in str(e.value) and not list(tmp_path.iterdir())


def test_clipping_is_said(tmp_path):
    with pytest.warns(AudioWarning, match=r"x\.wav: peak is 1.5, samples beyond ±1 were clipped"):
        save_audio(tmp_path / "x.wav", tone(level=1.5), SR)
    assert np.abs(load(tmp_path / "x.wav")[0] - tone(level=1.5).clip(-1, 1)).max() < 1e-6


@pytest.mark.parametrize("suffix", LOSSLESS + LOSSY)
def test_full_disk_keeps_the_old_file(tmp_path, suffix):
    "A limit on file size stands for the disk's; it holds in a process of its own"
    path = save_audio(tmp_path / f"x.{suffix}", tone(seconds=0.1), SR)
    old = path.read_bytes()
    code = (
        "import resource, sys, numpy as np; from mirkit.core.audio import save_audio\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "save_audio(sys.argv[1], np.random.default_rng(0).uniform(-0.5, 0.5, 160_000), 16000)"
    )
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert "AudioError" in run.stderr and "could not be written: File too large; is the disk full" in run.stderr
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]


def test_minutes_at_once():
    "libvorbis crashes the interpreter when it gets them in one piece"
    assert sf.info(io.BytesIO(encode_audio(noise(180), SR, "ogg"))).frames == 180 * SR


def test_suffix_in_capitals(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert audio_info(save_audio(tmp_path / "X.AIF", tone(), SR)).format == "AIFF/PCM_24"
