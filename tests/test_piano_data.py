"""`mirkit data prepare` as a shell sees it, killed and continued, over processes and executors, on real recordings and odd ones"""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile as sf

from mirkit import cli
from mirkit.core.midi import find_soundfont
from mirkit.lab.batch import map_files
from mirkit.piano.index import load_piano
from mirkit.piano.notes import Notes, write_midi
from mirkit.piano.store import PianoAudio, PianoStore, StoreError, open_store, prepare_store

ROOT = Path(__file__).resolve().parents[1]


def record(folder: Path, name: str, seed: int, seconds: float = 2.0, sr: int = 16000) -> None:
    "Noise, and notes beside it"
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    sf.write(folder / f"{name}.wav", 0.1 * rng.standard_normal((round(seconds * sr), 2)), sr)
    onset = np.arange(0.1, seconds - 0.4, 0.2)
    pitch, velocity = rng.integers(40, 80, len(onset)), rng.integers(30, 110, len(onset))
    write_midi(Notes(onset=onset, offset=onset + 0.15, pitch=pitch, velocity=velocity), folder / f"{name}.mid")


@pytest.fixture
def own(tmp_path) -> Path:
    for k in range(5):
        record(tmp_path / "own", f"song{k}", k, sr=(16000, 44100)[k % 2])
    return tmp_path / "own"


@pytest.fixture
def prepare(capsys):
    "Run the command: status, what it prints, and what it says on stderr"

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main(["data", "prepare", *map(str, words)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return run


def contents(store: PianoStore) -> list:
    return [(store.metadata(i), store.mel(i).tobytes(), store.roll(i).tobytes()) for i in range(len(store))]


def test_command(own, tmp_path, prepare):
    status, out, err = prepare(own, "-o", tmp_path / "h5")
    assert status == 0 and "5 recordings made" in out and "x real time per core" in out and "preparing" in err
    store = open_store(tmp_path / "h5")
    assert [store.metadata(i).id for i in range(5)] == [f"song{k}" for k in range(5)]
    assert all(store.frames(i) == 1 + 2 * 16000 // 384 for i in range(5))
    status, out, _ = prepare(own, "-o", tmp_path / "h5")
    assert status == 0 and "0 recordings made, 5 there before" in out


def test_options(own, tmp_path, prepare):
    words = ["--float16", "--mels", 250, "--hop", 512, "--no-sustain", "--files", "song1", "song3"]
    status, _, _ = prepare(own, "-o", tmp_path / "h5", *words)
    store = open_store(tmp_path / "h5")
    assert status == 0 and len(store) == 2 and store.mel(0).shape == (250, 63)
    assert store.config.dtype == "float16" and not store.config.extend
    with h5py.File(store.paths["mel"]) as f:
        assert f["data"].dtype == np.float16 and f["data"].chunks == (250, 250)  # eight seconds of 32 ms


@pytest.mark.parametrize(
    "words, text",
    [
        (["maestro-v4"], "did you mean 'maestro-v"),
        (["own", "--years", "2004"], "option of own = 'years' is not known"),
        (["own", "--splits", "dev"], "splits = 'dev' is not known"),
        (["own", "--splits", "test"], "no recordings with notes"),
        (["own", "--files", "song9"], "files = 'song9' is not known (did you mean"),
        (["own", "--jobs", "0"], "jobs = 0"),
        (["own", "--device", "quantum"], "quantum"),
        (["maps"], "data set 'maps' is not on this machine"),
    ],
)
def test_mistakes(own, tmp_path, prepare, words, text):
    status, out, err = prepare(*words, "-o", tmp_path / "h5", "--root", tmp_path)
    assert status in (1, 2) and text in err and not out
    assert not list((tmp_path / "h5").glob("*.h5"))


def test_bad_recordings(own, tmp_path, prepare):
    (own / "song0.wav").write_bytes(b"RIFF of no use")
    (own / "song1.mid").write_bytes(b"no MIDI")
    record(own, "song2", 2, seconds=4.0)
    record(own, "song3", 3, seconds=1.0)
    sf.write(own / "song2.wav", 0.1 * np.ones(16000), 16000)  # a sound of one second, notes of four
    status, out, err = prepare(own, "-o", tmp_path / "h5")
    assert status == 1 and "song0: " in err and "song1: " in err and not out
    assert "3 recordings failed" in err and "song2: the sound ends" in err and "--allow-short" in err
    status, out, err = prepare(own, "-o", tmp_path / "h5", "--skip-failed", "--allow-short")
    assert status == 0 and "1 recordings made, 2 there before" in out  # what was finished was kept
    assert (
        "left out: song0" in err and "song2: the sound ends" in err and "of 18 notes cannot be heard, left out" in err
    )
    store = open_store(tmp_path / "h5")
    assert [store.frames(i) for i in range(3)] == [42, 42, 84]
    status, _, err = prepare(own, "-o", tmp_path / "other", "--strict", "--skip-failed")
    assert status == 0 and "left out: song2: the sound ends" in err and len(open_store(tmp_path / "other")) == 2


def test_parameters_that_cannot_be_and_others_than_before(own, tmp_path, prepare):
    "At once, before any recording is read; and the message names what differs, no more"
    status, out, err = prepare(own, "-o", tmp_path / "h5", "--fmax", "9000")
    assert status == 2 and "fmax = 9000" in err and "song0" not in err and not (tmp_path / "h5").exists()
    assert prepare(own, "-o", tmp_path / "h5")[0] == 0
    status, out, err = prepare(own, "-o", tmp_path / "h5", "--float16")
    assert status == 2 and "dtype = float32 instead of float16: write to another folder" in err and "--force" in err
    assert "StoreConfig" not in err and "n_fft" not in err.partition(" holds ")[2]


def test_nothing_to_prepare(own, tmp_path, prepare):
    for k in range(5):
        (own / f"song{k}.wav").write_bytes(b"RIFF of no use")
    status, _, err = prepare(own, "-o", tmp_path / "h5", "--skip-failed")
    assert status == 1 and "all recordings failed" in err and not list((tmp_path / "h5").glob("*.h5"))
    (own / "metadata.csv").write_text("folder,midi_performance\nsong,song0.mid\n")
    (own / "song0.wav").unlink()
    status, _, err = prepare("asap", "--root", own, "-o", tmp_path / "h5")
    assert status == 2 and "has notes only: have them played" in err


def test_missing_notes(own, tmp_path, prepare):
    (own / "song4.mid").unlink()
    status, _, err = prepare(own, "-o", tmp_path / "h5")
    assert status == 2 and "song4.mid" in err and "1 of its files are missing" in err
    status, _, err = prepare(own, "-o", tmp_path / "h5", "--skip-missing")
    assert status == 0 and len(open_store(tmp_path / "h5")) == 4 and "song4.mid" in err


def test_same_however_made(own, tmp_path):
    data = load_piano(own)
    alone = prepare_store(data, tmp_path / "alone", run=partial(map_files, jobs=1))
    threads = prepare_store(data, tmp_path / "threads", progress=False)
    many = prepare_store(data, tmp_path / "many", run=partial(map_files, jobs=2))
    with ThreadPoolExecutor(3) as pool:
        pooled = prepare_store(data, tmp_path / "pooled", run=partial(map_files, scheduler=pool))
    parts = [prepare_store(data, tmp_path / "parts", files=[f], progress=False) for f in ("song3", "song0")]
    parts.append(prepare_store(data, tmp_path / "parts", progress=False))
    assert [(p.made, p.kept) for p in parts] == [(1, 0), (1, 0), (3, 2)]
    wanted = contents(PianoStore(alone.mel, alone.roll))
    for made in (threads, many, pooled, parts[-1]):
        assert contents(PianoStore(made.mel, made.roll)) == wanted
    assert {p.name for p in (tmp_path / "many").iterdir()} == {many.mel.name, many.roll.name}  # nothing else stays


def test_killed_and_continued(tmp_path):
    for k in range(24):
        record(tmp_path / "own", f"song{k:02d}", k, seconds=20.0)
    words = [sys.executable, "-m", "mirkit", "data", "prepare", str(tmp_path / "own"), "-o", str(tmp_path / "h5")]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, cwd=ROOT)
    end = time.time() + 120
    while process.poll() is None and len(list((tmp_path / "h5").glob(".*/[!.]*.h5"))) < 3 and time.time() < end:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list((tmp_path / "h5").glob("*.h5"))
    finished = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "h5").glob(".*/[!.]*.h5")}
    assert 3 <= len(finished) < 24
    next(iter((tmp_path / "h5").glob(".*/[!.]*.h5"))).write_bytes(b"half")  # as if the disk had lost one
    again = prepare_store(load_piano(tmp_path / "own"), tmp_path / "h5", progress=False)
    assert (again.made, again.kept) == (25 - len(finished), len(finished) - 1)
    fresh = prepare_store(load_piano(tmp_path / "own"), tmp_path / "fresh", progress=False)
    assert contents(PianoStore(again.mel, again.roll)) == contents(PianoStore(fresh.mel, fresh.roll))
    assert not [p for p in (tmp_path / "h5").iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.98])
@pytest.mark.parametrize("which", ["mel", "roll"])
def test_truncated(own, tmp_path, prepare, which, keep):
    made = prepare_store(load_piano(own), tmp_path / "h5", files=["song0", "song1"], progress=False)
    path = getattr(made, which)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    with pytest.raises(StoreError, match="damaged or incomplete.*--repair"):
        open_store(tmp_path / "h5")
    status, _, err = prepare(own, "-o", tmp_path / "h5")
    assert status == 2 and "--repair" in err
    status, out, _ = prepare(own, "-o", tmp_path / "h5", "--repair")
    assert status == 0 and "5 recordings made" in out and len(open_store(tmp_path / "h5")) == 5


def test_damaged_within(own, tmp_path, prepare):
    made = prepare_store(load_piano(own), tmp_path / "h5", progress=False)
    wanted = contents(PianoStore(made.mel, made.roll))
    with h5py.File(made.mel) as f:
        chunk = f["data"].id.get_chunk_info(0)
    content = bytearray(made.mel.read_bytes())
    content[chunk.byte_offset + 40] ^= 255  # in a frame of the first recording, as noise is stored uncompressed
    made.mel.write_bytes(content)
    assert open_store(tmp_path / "h5").damaged() == ["song0"]
    status, out, _ = prepare(own, "-o", tmp_path / "h5", "--repair")
    assert status == 0 and "1 recordings made, 4 there before" in out
    assert contents(open_store(tmp_path / "h5")) == wanted and not open_store(tmp_path / "h5").damaged()


def test_unreadable_within(own, tmp_path, prepare):
    made = prepare_store(load_piano(own), tmp_path / "h5", progress=False)
    with h5py.File(made.roll) as f:
        chunk = f["data"].id.get_chunk_info(0)
    content = bytearray(made.roll.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size  # lzf cannot unpack that
    made.roll.write_bytes(content)
    with pytest.raises(StoreError, match="damaged or incomplete.*--repair"):
        open_store(tmp_path / "h5").roll(0)
    status, out, _ = prepare(own, "-o", tmp_path / "h5", "--repair")
    assert status == 0 and np.count_nonzero(open_store(tmp_path / "h5").roll(0)) > 0


def test_changed_sources(tmp_path, prepare):
    "Sounds of one length with the same notes are told apart, also when one is rendered anew"
    for name, seed in (("a", 0), ("b", 0), ("c", 0)):
        record(tmp_path / "own", name, seed)
    x, sr = sf.read(tmp_path / "own" / "b.wav")
    sf.write(tmp_path / "own" / "b.wav", 0.5 * x, sr)
    prepare(tmp_path / "own", "-o", tmp_path / "h5")
    a, b, c = (open_store(tmp_path / "h5").mel(i) for i in range(3))
    assert np.array_equal(a, c) and abs(np.median(a - b) - 6.02) < 0.1
    sf.write(tmp_path / "own" / "a.wav", 0.25 * x, sr)
    _, out, _ = prepare(tmp_path / "own", "-o", tmp_path / "h5")
    assert "1 recordings made, 2 there before" in out
    assert abs(np.median(c - open_store(tmp_path / "h5").mel(0)) - 12.04) < 0.1


def test_other_splits(own, tmp_path, prepare):
    "What is said about recordings changes without computing anything"
    (own / "a.csv").write_text("audio,notes,split\n" + "".join(f"song{k}.wav,song{k}.mid,train\n" for k in range(5)))
    prepare(own / "a.csv", "-o", tmp_path / "h5")
    prepare(own / "a.csv", "-o", tmp_path / "h5")
    before = open_store(tmp_path / "h5")
    (own / "a.csv").write_text((own / "a.csv").read_text().replace("song2.mid,train", "song2.mid,test"))
    status, out, _ = prepare(own / "a.csv", "-o", tmp_path / "h5")
    after = open_store(tmp_path / "h5")
    assert status == 0 and "0 recordings made, 5 there before" in out
    assert [after.metadata(i).split for i in range(5)] == ["train", "train", "test", "train", "train"]
    assert [c[1:] for c in contents(before)] == [c[1:] for c in contents(after)]


def test_workers_open_their_own_handles(own, tmp_path):
    from torch.utils.data import DataLoader, Dataset

    made = prepare_store(load_piano(own), tmp_path / "h5", progress=False)

    class Chunks(Dataset):
        def __init__(self, source):
            self.source = source

        def __len__(self):
            return 40

        def __getitem__(self, k):
            return self.source.mel(k % 5, k, k + 30)

    for source in (PianoStore(made.mel, made.roll), PianoAudio(load_piano(own), cache=tmp_path / "c", progress=False)):
        alone = [
            source.mel(k % 5, k, k + 30) for k in range(40)
        ]  # the parent's handles are open when workers are forked
        loader = DataLoader(Chunks(source), batch_size=None, num_workers=2)
        assert all(np.array_equal(a, b) for a, b in zip(alone, loader, strict=True))


def test_real_recordings(shared, tmp_path, prepare):
    status, out, err = prepare(
        "maps", "--root", shared / "data" / "piano", "-o", tmp_path, "--files", "MAPS_MUS-chpn-p14_ENSTDkAm"
    )
    store = open_store(tmp_path, "maps")
    assert status == 0 and store.name == "MAPS" and store.metadata(0).group == "chpn-p14"
    assert abs(store.frames(0) * 0.024 - 29.2) < 0.1 and np.count_nonzero(store.roll(0)[:128]) >= 430  # of 434 notes
    words = ("maestro-v2", "--root", shared / "data" / "piano" / "maestro", "-o", tmp_path)
    status, out, err = prepare(*words)  # two seconds of sound, notes of a whole sonata
    assert status == 1 and not out and "4195 of 4197 notes cannot be heard" in err
    status, out, err = prepare(*words, "--allow-short")
    assert status == 0 and "MAESTROv2_logmel_" in out and "notes cannot be heard" in err
    assert open_store(tmp_path, "maestro-v2").metadata(0).meta[4:] == ("Alban Berg", "Sonata Op. 1")


def test_piano_sets_are_listed_and_checked(own, tmp_path, capsys, monkeypatch):
    "Those that prepare takes are those that list and check know"
    monkeypatch.setenv("MIRKIT_DATA_PATH", str(tmp_path / "data"))
    monkeypatch.setattr("mirkit.piano.index.shared_path", lambda: None)
    maps = tmp_path / "data" / "MAPS" / "ENSTDkAm" / "MUS"
    for k, piece in enumerate(("bor_ps6", "chpn-p14")):
        record(maps, f"MAPS_MUS-{piece}_ENSTDkAm", k, seconds=9.0)
    assert cli.main(["data", "list"]) == 0
    listed = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")}
    assert {"maestro-v1", "maestro-v2", "maestro-v3", "maps", "asap"} <= set(listed)
    assert "2 tracks    0.01 h" in listed["maps"] and "not on this machine" in listed["asap"]
    (maps / "MAPS_MUS-bor_ps6_ENSTDkAm.mid").unlink()
    assert cli.main(["data", "check", "maps"]) == 0
    out = capsys.readouterr().out
    assert (
        "1 recordings of 1 pieces" in out
        and "MAPS_MUS-bor_ps6_ENSTDkAm.mid" in out
        and "unreadable or doubtful: 0" in out
    )
    (own / "song3.mid").write_bytes(b"no MIDI")
    assert cli.main(["data", "check", str(own)]) == 0
    assert "doubtful: 1\n  song3: " in capsys.readouterr().out
    for words in (["check", "asap"], ["fetch", "maestro"]):
        assert cli.main(["data", *words]) == 2 and "http" in capsys.readouterr().err


def test_performances_that_are_notes_only_are_played(tmp_path, prepare, monkeypatch):
    "As ASAP comes; without a soundfont the command says what works"
    monkeypatch.setenv("MIRKIT_CACHE_PATH", str(tmp_path / "cache"))
    asap = tmp_path / "asap-dataset"
    for k in range(2):
        record(asap, f"piece{k}", k, seconds=3.0)
        (asap / f"piece{k}.wav").unlink()
    (asap / "metadata.csv").write_text("folder,midi_performance\nA/x,piece0.mid\nA/y,piece1.mid\n")
    words = ("asap", "--root", tmp_path, "-o", tmp_path / "h5")
    status, _, err = prepare(*words)
    assert status == 2 and "--soundfont FluidR3" in err and "--audio" in err
    status, _, err = prepare(*words, "--soundfont", "nowhere.sf2")
    assert status == 2 and "apt-get install fluidsynth" in err
    try:
        find_soundfont()
    except FileNotFoundError as e:
        pytest.skip(str(e))
    status, out, err = prepare(*words, "--soundfont", "FluidR3", "--jobs", 2)
    store = open_store(tmp_path / "h5")
    assert status == 0 and "2 recordings made" in out and not err.count("warning")
    for i in range(2):  # where a note begins, the sound rises: it is these notes, in time
        onsets = np.flatnonzero(store.roll(i)[:128].any(0))
        rise = np.maximum(np.diff(store.mel(i), axis=1), 0).sum(0)
        begins = [rise[max(o - 2, 0) : o + 2].max() > 2 * rise[o + 3 : o + 6].max() for o in onsets]
        assert len(onsets) == 13 and np.mean(begins) > 0.8
    assert "0 recordings made, 2 there before" in prepare(*words, "--soundfont", "FluidR3")[1]
    (asap / "piece1.mid").write_bytes(b"no MIDI")
    status, _, err = prepare(*words, "--soundfont", "FluidR3")
    assert status == 1 and "piece1: " in err and "cannot be read as MIDI" in err
