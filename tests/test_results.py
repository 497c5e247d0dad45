"""PitchTrack at its edges: nothing, silence, one frame; broken files; writers that are killed."""

import os
import signal
import subprocess
import sys
import time

import jams
import numpy as np
import pretty_midi
import pytest

from mirkit.core.results import PitchTrack, segment_notes

SR = 16_000


def _track(n: int, voiced: bool, full: bool) -> PitchTrack:
    "A track of n frames; a full one has volume, activations and audio"
    extra = {}
    if full:
        extra = {"volume": np.full(n, 0.1), "activations": np.ones((n, 384), np.float32)}
        extra |= {"audio": np.zeros(160 * n, np.float32), "sr": SR}
    return PitchTrack(np.arange(n) * 0.01, np.full(n, 220.0 * voiced), np.full(n, 0.9), **extra)


EDGES = {
    "nothing": _track(0, True, False),
    "nothing, full": _track(0, True, True),
    "one frame": _track(1, True, False),
    "one frame, full": _track(1, True, True),
    "one silent frame": _track(1, False, True),
    "silence": _track(50, False, False),
    "silence, full": _track(50, False, True),
    "all below the threshold": PitchTrack(np.arange(50) * 0.01, np.full(50, 220.0), np.full(50, 0.4), threshold=0.5),
    "two frames": _track(2, True, True),
    "starts late": PitchTrack(5 + np.arange(50) * 0.01, np.full(50, 220.0), np.ones(50)),
    "no volume at all": PitchTrack(np.arange(50) * 0.01, np.full(50, 220.0), np.ones(50), volume=np.zeros(50)),
}


@pytest.fixture(params=EDGES, ids=str)
def track(request):
    return EDGES[request.param]


@pytest.mark.filterwarnings("error")
def test_tables_round_trip(track, tmp_path):
    header = "time,frequency,confidence" + ",volume" * (track.volume is not None)
    assert track.to_csv(tmp_path / "f0.csv").read_text().splitlines()[0] == header
    read = PitchTrack.from_csv(tmp_path / "f0.csv", track.threshold)
    full = PitchTrack.from_npz(track.to_npz(tmp_path / "f0.npz"))
    for name in ("time", "frequency", "confidence", "volume", "activations", "audio", "sr", "threshold"):
        mine = getattr(track, name)
        assert np.array_equal(getattr(full, name), mine) if mine is not None else getattr(full, name) is None
    np.testing.assert_allclose(read.time, track.time, atol=5e-7)
    np.testing.assert_allclose(read.frequency, track.frequency, atol=5e-5)
    assert np.array_equal(read.voiced, track.voiced) and len(list(tmp_path.iterdir())) == 2


def test_notes_and_jams(track, tmp_path):
    track.to_midi(tmp_path / "f0.mid")
    notes = pretty_midi.PrettyMIDI(str(tmp_path / "f0.mid")).instruments
    lasting = track.voiced.sum() >= 6
    assert sum(len(i.notes) for i in notes) == lasting
    if lasting:
        assert notes[0].notes[0].pitch == 57 and abs(notes[0].notes[0].start - track.time[0]) < 1e-3
    track.to_jams(tmp_path / "f0.jams")
    read = jams.load(str(tmp_path / "f0.jams"), validate=True, strict=True)
    assert [o.value["voiced"] for o in read.annotations[0].data] == track.voiced.tolist()


@pytest.mark.filterwarnings("error")
def test_pictures_and_sound(track, tmp_path):
    assert track.to_png(tmp_path / "f0.png").read_bytes().startswith(b"\x89PNG")
    assert track.plot().to_json() and track._repr_html_().count("<svg") == 1
    assert repr(track).startswith(f"PitchTrack({len(track.time)} frame")
    tone = track.sonify(SR)
    assert tone.dtype == np.float32 and len(tone) == round(track.duration * SR) and np.isfinite(tone).all()
    assert tone.any() == (track.voiced.any() and (track.volume is None or track.volume.any()))


def test_late_start_is_silent_until_then():
    tone = EDGES["starts late"].sonify(SR)
    assert not tone[: int(4.98 * SR)].any() and tone[int(5.01 * SR) :].std() > 0.1


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e8])
def test_volume_has_no_absolute_scale(scale):
    level = np.linspace(0.1, 1, 100)
    one, other = (PitchTrack(np.arange(100) * 0.01, np.full(100, 220.0), np.ones(100), s * level) for s in (1.0, scale))
    np.testing.assert_allclose(one.sonify(SR), other.sonify(SR), atol=1e-5)
    assert one.to_midi().instruments[0].notes[0].velocity == other.to_midi().instruments[0].notes[0].velocity


def test_tensors_and_lists_are_welcome():
    torch = pytest.importorskip("torch")
    track = PitchTrack(
        torch.arange(3) * 0.01, [220, 0, 440], torch.tensor([1.0, 0.5, 0.0]), activations=torch.ones(3, 384)
    )
    assert all(isinstance(a, np.ndarray) for a in (track.time, track.frequency, track.confidence, track.activations))
    np.testing.assert_allclose(track.pitch, [57, np.nan, 69])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time": np.zeros((3, 1))}, "time has shape (3, 1)"),
        ({"time": [0, 0.01, 0.01]}, "increasing"),
        ({"time": [0, 0.01, np.nan]}, "finite"),
        ({"frequency": [220, -1, 220]}, "frequency[1] = -1.0"),
        ({"confidence": [0.5, 0.5]}, "confidence has shape (2,)"),
        ({"confidence": [0.5, 0.5, -0.1]}, "between 0 and 1"),
        ({"volume": [1, 1, np.inf]}, "volume[2] = inf"),
        ({"activations": np.ones((384, 3))}, "activations has shape (384, 3)"),
        ({"activations": np.full((3, 4), np.nan)}, "activations[0, 0] = nan"),
        ({"threshold": float("nan")}, "threshold = nan"),
        ({"sr": 16_000}, "audio is missing"),
        ({"audio": np.zeros((2, 10)), "sr": 16_000}, "audio has shape (2, 10)"),
        ({"audio": np.zeros(10), "sr": 0}, "sr = 0"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    good = {"time": [0, 0.01, 0.02], "frequency": [220, 220, 220], "confidence": [1, 1, 1]}
    with pytest.raises(ValueError) as error:
        PitchTrack(**good | changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1"),
        (b"time,f0\n0,1\n", "time,frequency,confidence[,volume]"),
        (b"time,frequency,confidence\n0,220\n", "line 2: '0,220'; it must be 3 numbers"),
        (b"time,frequency,confidence\n0,220,1\n\n", "line 3"),
        (b"time,frequency,confidence\n0,220,7\n", "confidence[0] = 7.0"),
        (b"time,frequency,confidence\n1,220,1\n0,220,1\n", "increasing"),
        (b"RIFF\xff\xfe\x00\x00WAVE" * 100, "line 1"),
    ],
)
def test_bad_csv_is_named(content, message, tmp_path):
    (tmp_path / "bad.csv").write_bytes(content)
    with pytest.raises(ValueError) as error:
        PitchTrack.from_csv(tmp_path / "bad.csv")
    assert "bad.csv" in str(error.value) and message in str(error.value) and len(str(error.value)) < 400


def test_csv_of_a_spreadsheet(tmp_path):
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbftime,frequency,confidence\r\n0, 220, 1\r\n")
    assert PitchTrack.from_csv(tmp_path / "bom.csv").frequency.tolist() == [220]


def test_bad_npz_is_named(tmp_path):
    EDGES["silence"].to_npz(tmp_path / "good.npz")
    whole = (tmp_path / "good.npz").read_bytes()
    np.savez(tmp_path / "other.npz", time=np.zeros(3))
    np.savez(tmp_path / "pickle.npz", time=np.array([object()]), frequency=np.zeros(1), confidence=np.zeros(1))
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("other.npz", "pickle.npz", "half.npz", "empty.npz", "array.npy"):
        with pytest.raises(ValueError, match=f"{name} is not the NPZ file of a PitchTrack"):
            PitchTrack.from_npz(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        PitchTrack.from_npz(tmp_path / "nowhere.npz")


@pytest.mark.parametrize("writer", ["to_csv", "to_npz", "to_png", "to_jams", "to_midi"])
def test_a_missing_folder_is_named_and_a_failure_leaves_the_old_file(writer, tmp_path, monkeypatch):
    track = EDGES["two frames"]
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        getattr(track, writer)(tmp_path / "nowhere" / "f0")
    path = tmp_path / "f0.out"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        getattr(track, writer)(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_killed_while_writing_leaves_a_whole_file(tmp_path):
    code = """if True:
        import sys, numpy as np
        from mirkit.core.results import PitchTrack
        track = PitchTrack(np.arange(200_000) * 0.01, np.full(200_000, 220.0), np.ones(200_000))
        track.to_csv(sys.argv[1])
        print("written", flush=True)
        while True:
            track.to_csv(sys.argv[1])"""
    path = tmp_path / "f0.csv"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"written\n"
    time.sleep(0.15)  # in the middle of the second time
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(PitchTrack.from_csv(path).time) == 200_000


def test_notes_of_random_pitch_are_ordered_and_long_enough():
    rng = np.random.default_rng(0)
    for _ in range(50):
        n = int(rng.integers(1, 300))
        pitch, voiced = np.cumsum(rng.normal(0, 1, n)) + 60, rng.random(n) < rng.random()
        notes = segment_notes(np.arange(n) * 0.01, np.where(voiced, pitch, np.nan), voiced)
        assert (notes[:, 1] - notes[:, 0] >= 6).all() and (notes[1:, 0] >= notes[:-1, 1]).all()
        assert all(voiced[a:b].all() for a, b, _ in notes)


def test_importing_core_is_cheap():
    names = ("results", "score", "view", "player")
    heavy = (
        "torch",
        "pandas",
        "plotly",
        "librosa",
        "scipy",
        "matplotlib",
        "mir_eval",
        "jams",
        "pretty_midi",
        "soundfile",
    )
    code = (
        f"import sys, {', '.join(f'mirkit.core.{n}' for n in names)}; print([m for m in {heavy} if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
