"Data sets: native layouts with all that happens to folders, faults in tables and lists, labels, splits, fetching, and real data"

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import threading
import warnings
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mirkit.core import tracks as tracks_module
from mirkit.core.fetch import FetchError
from mirkit.core.labels import read_labels
from mirkit.core.settings import shared_path
from mirkit.core.tracks import (
    RECIPES,
    DatasetNotFound,
    Track,
    check_dataset,
    check_tracks,
    fetch_dataset,
    labels_at,
    list_datasets,
    load_dataset,
    read_f0,
    split_tracks,
)

REAL = shared_path() / "data" / "f0" if shared_path() else None
real = pytest.mark.skipif(
    REAL is None, reason="the folder of real recordings is not beside the project (MIRKIT_SHARED)"
)


@pytest.fixture
def data(tmp_path, monkeypatch):
    "An empty data_path, and no shared folder"
    monkeypatch.setenv("MIRKIT_DATA_PATH", str(tmp_path / "data"))
    monkeypatch.setenv("MIRKIT_CACHE_PATH", str(tmp_path / "cache"))
    monkeypatch.setenv("MIRKIT_SHARED", str(tmp_path / "nothing"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def wav(path, seconds=0.5, sr=16000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, np.full((int(seconds * sr), channels), 0.1, np.float32), sr)
    return path


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


# layouts


def test_mir_1k_as_it_unpacks_on_a_mac(data):
    top = data / "Mir 1K" / "MIR-1K"
    wav(top / "Wavfile" / "abjones_1_01.wav", channels=2)
    wav(top / "UndividedWavfile" / "abjones_1.wav", channels=2)
    text(top / "PitchLabel" / "abjones_1_01.pv", "0\n60\n")
    text(top / "Wavfile" / "._abjones_1_01.wav", "a resource fork")
    text(data / "Mir 1K" / "__MACOSX" / "MIR-1K" / "Wavfile" / "abjones_9_01.wav", "another")
    (t,) = load_dataset("MIR_1k")
    assert (t.id, t.group, t.channel, t.format) == ("abjones_1_01", "abjones", "right", "pv")
    assert np.allclose(read_f0(t)[0], [0.02, 0.04]) and np.allclose(read_f0(t)[1], [0, 261.6256])


@pytest.mark.parametrize(
    "channel,side,count", [(None, "right", 2), ("voice", "right", 2), ("accompaniment", "left", 1), ("mix", "mix", 1)]
)
def test_mir_1k_channels_and_companion_folder(data, channel, side, count):
    for folder, clip in (("MIR-1K/Wavfile/a_1.wav", "a_1"), ("MIR-1K-voice-flac/Voice/b_1.flac", "b_1")):
        wav(data / folder, channels=2 if "wav" in folder[-3:] else 1)
        text((data / folder).parent.parent / "PitchLabel" / f"{clip}.pv", "60\n60\n")
    wav(data / "MIR-1K-voice-flac" / "Voice" / "a_1.flac")  # also in the stereo set: counts once
    found = load_dataset("mir-1k", channel=channel)
    assert len(found) == count and found.tracks[0].channel == side
    assert (found.tracks[0].annotation is None) == (channel == "accompaniment")  # the labels are the voice's
    assert found.note == ("" if count == 2 else "1 of 2 clips left out: their files hold the voice only")


def test_mir_1k_wrong_channel(data):
    wav(data / "MIR-1K" / "Wavfile" / "a_1.wav", channels=2)
    with pytest.raises(ValueError, match="channel = 'vocie'.*did you mean 'voice'"):
        load_dataset("mir-1k", channel="vocie")


def test_ptdb_times_are_window_centres(data):
    base = data / "PTDB_TUG" / "SPEECH DATA" / "MALE"
    wav(base / "MIC" / "M01" / "mic_M01_sx37.wav", sr=48000)
    wav(base / "LAR" / "M01" / "lar_M01_sx37.wav", sr=48000)
    text(base / "REF" / "M01" / "ref_M01_sx37.f0", "0.0 0.0 1.5 0.1\n110.0 1.0 9.5 0.9\n112.0 1.0 9.5 0.9\n")
    (t,) = load_dataset("ptdb-tug")
    assert (t.id, t.group, t.annotation.name) == ("M01_sx37", "M01", "ref_M01_sx37.f0")
    assert np.allclose(np.stack(read_f0(t)), [[0.016, 0.026, 0.036], [0, 110, 112]])


def test_recipe_without_annotations_is_unlabelled(data):
    wav(data / "vocadito" / "Audio" / "vocadito_3.wav")
    (t,) = load_dataset("vocadito")
    assert t.annotation is None and np.isnan(labels_at(t, np.arange(3))).all()
    with pytest.raises(ValueError, match="vocadito_3 has no annotation"):
        read_f0(t)


def test_links_are_followed(data, tmp_path):
    wav(tmp_path / "disk" / "vocadito_1.wav")
    (data / "Vocadito").mkdir()
    (data / "Vocadito" / "Audio").symlink_to(tmp_path / "disk")
    assert len(load_dataset("vocadito")) == 1
    (data / "own").symlink_to(tmp_path / "disk")
    assert len(load_dataset("own")) == 1


def test_not_found_says_what_where_and_how(data):
    (data / "fda").mkdir()
    with pytest.raises(DatasetNotFound) as e:
        load_dataset("fda")
    for part in (
        "looked for",
        "rl*.wav or sb*.wav",
        str(data),
        f"found:      {data / 'fda'}, but no such",
        "cstr.ed.ac.uk",
        "licence",
        "put it",
    ):
        assert part in str(e.value), part
    with pytest.raises(DatasetNotFound, match="mirkit data fetch mdb-stem-synth.*CC BY-NC 4.0"):
        load_dataset("mdb-stem-synth")


def test_unknown_names_and_folders(data, tmp_path):
    (data / "my choir").mkdir()
    with pytest.raises(ValueError, match="data = 'vocaditto'.*did you mean 'vocadito'"):
        load_dataset("vocaditto")
    with pytest.raises(ValueError, match="did you mean 'my choir'"):
        load_dataset("my choirs")
    with pytest.raises(DatasetNotFound, match="there is no such folder"):
        load_dataset(str(tmp_path / "no" / "where"))
    with pytest.raises(ValueError, match="'my-choir'.*holds no audio files"):
        load_dataset("my-choir")


def test_data_path_comes_before_the_shared_folder(data, tmp_path, monkeypatch):
    wav(tmp_path / "shared" / "data" / "f0" / "vocadito" / "Audio" / "vocadito_1.wav")
    monkeypatch.setenv("MIRKIT_SHARED", str(tmp_path / "shared"))
    assert [t.id for t in load_dataset("vocadito")] == ["vocadito_1"]
    wav(data / "vocadito" / "Audio" / "vocadito_7.wav")
    assert [t.id for t in load_dataset("vocadito")] == ["vocadito_7"]
    assert [t.id for t in load_dataset("vocadito", root=tmp_path / "shared" / "data" / "f0" / "vocadito")] == [
        "vocadito_1"
    ]


# tables, folders and lists


def test_table_with_two_channels_of_one_file(data):
    wav(data / "duo" / "take.wav", channels=2)
    text(
        data / "duo" / "tracks.csv",
        "\ufeffaudio,annotation,split,group,channel\ntake.wav,,val,anna,left\ntake.wav,,,bert,1\n",
    )
    assert [(t.id, t.channel, t.group, t.split) for t in load_dataset("duo")] == [
        ("take [left]", "left", "anna", "val"),
        ("take [1]", 1, "bert", ""),
    ]
    assert len(check_tracks(load_dataset("duo"))) == 2


@pytest.mark.parametrize(
    "table,complaint",
    [
        ("file,group\na.wav,x\n", "no column audio"),
        ("audio,groop\na.wav,x\n", "column = 'groop'.*did you mean 'group'"),
        ("audio,split\na.wav,validation\n", "split of a = 'validation'.*train, val, test"),
        ("audio,group\n,x\n", "a line has no audio file"),
        ("audio\n", "holds no audio files"),
        ("audio\na.wav\na.wav\n", "more than one audio file for a"),
    ],
)
def test_tables_with_faults(data, table, complaint):
    text(data / "own" / "tracks.csv", table)
    with pytest.raises(ValueError, match=complaint):
        load_dataset("own")


def test_folder_of_audio(data):
    for name in ("anna/x.flac", "anna/deep/y.wav", "z.wav"):
        wav(data / "own" / name)
    text(data / "own" / "z.csv", "time,frequency\n0,100\n0.4,100\n")
    text(data / "own" / "z.f0.csv", "not a label file")
    found = load_dataset("own", channel="left")
    assert [(t.id, t.group, t.channel) for t in found] == [
        ("anna/deep/y", "anna", "left"),
        ("anna/x", "anna", "left"),
        ("z", "z", "left"),
    ]
    assert [t.annotation is None for t in found] == [True, True, False]
    wav(data / "own" / "z.flac")
    with pytest.raises(ValueError, match="more than one audio file for z"):
        load_dataset("own")


def test_lists_are_relative_to_themselves(tmp_path, monkeypatch):
    wav(tmp_path / "lists" / "audio" / "a.wav")
    far = wav(tmp_path / "far" / "b.wav")
    text(tmp_path / "lists" / "a.csv", "0.0,220\n0.01,-1\n0.02,0\n")
    text(tmp_path / "lists" / "b.csv", "0.0,220\n0.01,220\n")
    audio = text(tmp_path / "lists" / "audio.txt", f"audio/a.wav\n{far}\n\n")
    annot = text(tmp_path / "lists" / "annot.txt", "a.csv\nb.csv\n")
    monkeypatch.chdir(tmp_path)
    found = load_dataset("mine", audio_files="lists/audio.txt", annot_files=annot)
    assert found.name == "mine" and [t.group for t in found] == ["audio/a", "../far/b"]
    assert read_f0(check_tracks(found)[0])[1].tolist() == [220, 0, 0]
    assert [t.annotation for t in load_dataset("mine", audio_files=audio)] == [None, None]


def test_lists_with_faults(tmp_path):
    audio = text(tmp_path / "audio.txt", "\n".join(f"{i}.wav" for i in range(14)))
    empty = text(tmp_path / "empty.txt", "\n \n")
    with pytest.raises(ValueError, match="audio_files = .*empty.txt.*the list is empty"):
        load_dataset("x", audio_files=empty)
    with pytest.raises(ValueError, match="annot_files = .*empty.txt.*the list is empty"):
        load_dataset("x", audio_files=audio, annot_files=empty)
    with pytest.raises(FileNotFoundError, match="audio_files = .*no such file"):
        load_dataset("x", audio_files=tmp_path / "nothing.txt")
    with pytest.raises(ValueError, match="needs audio_files"):
        load_dataset("x", annot_files=audio)
    with pytest.raises(ValueError, match="names 14 files and annot_files 2"):
        load_dataset("x", audio_files=audio, annot_files=text(tmp_path / "two.txt", "a.csv\nb.csv"))


# broken files


def test_missing_files_are_named_up_to_ten_and_counted(tmp_path):
    wav(tmp_path / "0.wav")
    found = load_dataset("x", audio_files=text(tmp_path / "a.txt", "\n".join(f"{i}.wav" for i in range(14))))
    with pytest.raises(ValueError) as e:
        check_tracks(found)
    assert str(e.value).startswith("13 of 14 tracks cannot be used:\n  1: ")
    assert str(e.value).count(".wav") == 10 and "… and 3 more" in str(e.value) and "skip_bad" in str(e.value)
    with pytest.warns(UserWarning, match="left out: 13 of 14"):
        assert [t.id for t in check_tracks(found, skip_bad=True)] == ["0"]


def test_every_kind_of_broken_file_is_found(tmp_path):
    good = wav(tmp_path / "good.flac", 2.0)
    cut = tmp_path / "cut.flac"
    rng = np.random.default_rng(0)
    sf.write(cut, rng.uniform(-0.5, 0.5, 32000), 16000)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    text(tmp_path / "text.wav", "RIFF and so on")
    (tmp_path / "empty.wav").touch()
    sf.write(tmp_path / "nothing.wav", np.zeros(0), 16000)
    (tmp_path / "folder.wav").mkdir()
    labels = text(tmp_path / "bad.csv", "0,220\n0.1,A4\n")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\xd8" * 10)
    bad = [
        Track(n, tmp_path / n, None, n)
        for n in ("cut.flac", "text.wav", "empty.wav", "nothing.wav", "folder.wav", "gone.wav")
    ]
    bad += [Track("mono", good, None, "m", channel="right"), Track("labels", good, labels, "l")]
    bad += [Track("binary", good, tmp_path / "binary.csv", "b"), Track("lost", good, tmp_path / "lost.csv", "l")]
    with pytest.warns(UserWarning, match="left out: 10 of 11") as caught:
        assert [t.id for t in check_tracks([Track("good", good, None, "g"), *bad], skip_bad=True)] == ["good"]
    for t in bad:
        assert f"\n  {t.id}: " in str(caught[0].message)
    with pytest.raises(ValueError, match="10 of 10 tracks cannot be used"):
        check_tracks(bad, skip_bad=True)
    with pytest.raises(ValueError, match="no tracks to check"):
        check_tracks([])


def test_short_files_are_no_faults(tmp_path):
    t = Track("short", wav(tmp_path / "short.wav", 0.01), None, "s")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_tracks([t]) == (t,)


# labels against audio


@pytest.mark.parametrize("seconds", [0.3, 1.0, 3.0])
def test_labels_shorter_and_longer_than_the_audio(tmp_path, seconds):
    rows = "".join(f"{0.01 * i:.2f},{110 * 2 ** (0.01 * i):.6f}\n" for i in range(101))  # one octave in one second
    t = Track("x", wav(tmp_path / "x.wav", seconds), text(tmp_path / "x.csv", rows), "x")
    frames = np.arange(0, seconds, 0.0116)
    labels = labels_at(t, frames)
    assert np.array_equal(np.isnan(labels), frames > 1.005)
    np.testing.assert_allclose(labels[frames < 1], 45 + 12 * frames[frames < 1], atol=1e-4)


def test_a_shift_of_the_grid_shifts_no_label(tmp_path):
    "Counting rows would be off by half a second at the end of this file"
    times = 0.0101 * np.arange(5000)
    pitch = 60 + 5 * np.sin(times)
    rows = "".join(f"{t:.6f},{440 * 2 ** ((p - 69) / 12):.6f}\n" for t, p in zip(times, pitch, strict=True))
    frames = 0.01 * np.arange(5000)
    labels = labels_at(Track("x", tmp_path, text(tmp_path / "x.csv", rows), "x"), frames)
    np.testing.assert_allclose(labels, 60 + 5 * np.sin(frames), atol=1e-3)


@pytest.mark.parametrize(
    "rows,complaint",
    [
        ("0.1,220\n0.0,220\n", "times must rise, but label 2 is at 0 s after 0.1 s"),
        ("0,220\n0,221\n", "times must rise"),
        ("0,220\n0.1,inf\n", "label 2 has an infinite frequency"),
        ("0,220\nnan,220\n", "label 2 has no time"),
        ("0,220\n", "1 labels in it"),
        ("", "0 labels in it"),
        ("0,220\n0.1\n", "x.csv"),
        ("0,220\n0.1,\n", "could not convert"),
    ],
)
def test_labels_with_faults(tmp_path, rows, complaint):
    with pytest.raises(ValueError, match=complaint) as e:
        read_labels(text(tmp_path / "x.csv", rows))
    assert str(tmp_path / "x.csv") in str(e.value)


def test_label_formats_are_tolerant(tmp_path):
    for rows in (
        "\ufefftime,frequency\r\n0,220\r\n0.1,nan\r\n",
        "0;220\n0.1;0\n",
        "# made by hand\n0\t220\n0.1\t-5\n",
        "0,220,0.9\n\n0.1,0,0.1\n",
    ):
        times, f0 = read_labels(text(tmp_path / "x.csv", rows))
        assert times.tolist() == [0, 0.1] and f0.tolist() == [220, 0]


# splits


def crowd(seed, n_groups):
    rng = np.random.default_rng(seed)
    return [Track(f"{g}-{i}", Path("x"), None, f"g{g}") for g in range(n_groups) for i in range(rng.integers(1, 30))]


@pytest.mark.parametrize("seed", range(5))
def test_folds_are_a_partition_by_group(seed):
    tracks = crowd(seed, 13)
    folds = [split_tracks(tracks, "fold", fold=k, n_folds=5) for k in range(5)]
    assert sorted(t.id for _, val in folds for t in val) == sorted(t.id for t in tracks)
    for train, val in folds:
        assert not {t.group for t in train} & {t.group for t in val}
        assert len(train) + len(val) == len(tracks)
    sizes = [len(val) for _, val in folds]
    assert max(sizes) - min(sizes) <= 30
    shuffled = [tracks[i] for i in np.random.default_rng(1).permutation(len(tracks))]
    again = split_tracks(shuffled, "fold", fold=2, n_folds=5, seed=99)
    assert {t.id for t in again[1]} == {t.id for t in folds[2][1]}  # no matter in what order, under what seed


@pytest.mark.parametrize("val", [0.05, 0.1, 0.3, 0.5])
def test_fraction_by_group(val):
    for seed in range(20):
        tracks = crowd(seed, 15)
        train, held = split_tracks(tracks, val=val, seed=seed)
        assert not {t.group for t in train} & {t.group for t in held} and train and held
        assert len(train) + len(held) == len(tracks) and len(held) <= max(1.3 * val * len(tracks), 12)
    assert split_tracks(tracks, seed=3) == split_tracks(tracks, seed=3)
    assert len({split_tracks(tracks, seed=s) for s in range(10)}) > 3


def test_manual_splits():
    tracks = [
        Track(f"{g}{s}", Path("x"), None, g, s) for g, s in (("a", "train"), ("b", ""), ("c", "val"), ("d", "test"))
    ]
    train, val = split_tracks(tracks, "manual")
    assert [[t.group for t in side] for side in (train, val)] == [["a", "b"], ["c"]]
    train, val = split_tracks(tracks, "manual", val_groups=("a", "d"))
    assert [[t.group for t in side] for side in (train, val)] == [["b", "c"], ["a", "d"]]
    assert split_tracks(tracks, "naive") == (tuple(tracks), tuple(tracks))
    with pytest.raises(ValueError, match="a is in train and in val"):
        split_tracks([*tracks, Track("a2", Path("x"), None, "a", "val")], "manual")
    with pytest.raises(ValueError, match="needs val_groups, or tracks with split 'val'"):
        split_tracks(tracks[:2], "manual")
    with pytest.raises(ValueError, match="names all 4 groups"):
        split_tracks(tracks, "manual", val_groups="abcd")


def test_splits_that_cannot_be():
    tracks = crowd(0, 4)
    for options, complaint in (
        ({"scheme": "kfold"}, "scheme = 'kfold'"),
        ({"scheme": "fold", "n_folds": 5}, "n_folds = 5 must be between 2 and the number of groups, 4"),
        ({"scheme": "fold", "n_folds": 1}, "n_folds = 1"),
        ({"scheme": "fold", "n_folds": 4, "fold": 4}, "fold = '4'"),
        ({"scheme": "fold", "n_folds": 4, "fold": -1}, "fold = '-1'"),
        ({"val": 0}, "val = 0"),
        ({"val": 1}, "val = 1"),
        ({"scheme": "manual", "val_groups": ["g9"]}, "val_groups = 'g9'.*g0"),
        ({"val_groups": ["g0"]}, "needs scheme = 'manual'"),
    ):
        with pytest.raises(ValueError, match=complaint):
            split_tracks(tracks, **options)
    with pytest.raises(ValueError, match="all tracks are of one group"):
        split_tracks(tracks[:1])
    with pytest.raises(ValueError, match="no tracks to split"):
        split_tracks([])


# what is there, and fetching


def test_the_list_survives_a_broken_folder(data):
    wav(data / "fine" / "a.wav", 1.8)
    text(data / "broken" / "tracks.csv", "file\n")
    wav(data / ".half" / "a.wav")
    wav(data / "vocadito.part" / "Audio" / "vocadito_1.wav")
    infos = {i.name: i for i in list_datasets()}
    assert {*RECIPES, "synth", "fine", "broken"} == set(infos)
    assert (
        infos["fine"].tracks == 1
        and abs(infos["fine"].hours * 3600 - 1.8) < 1e-3
        and infos["fine"].where == data / "fine"
    )
    assert "cannot be read" in infos["broken"].what and infos["vocadito"].where is None
    assert "not on this machine" in str(infos["mir-1k"]) and "    1 tracks" in str(infos["fine"])


def test_report_of_a_half_labelled_set(data):
    wav(data / "own" / "a.wav", 1.0)
    text(data / "own" / "a.csv", "".join(f"{0.01 * i},{220 if i < 50 else 0}\n" for i in range(100)))
    wav(data / "own" / "b.wav", 1.0, sr=8000)
    text(data / "own" / "c.wav", "no sound")
    r = check_dataset("own", progress=False)
    assert (r.tracks, r.groups, r.rates, list(r.bad)) == (3, 3, {16000: 1, 8000: 1}, ["c"])
    assert abs(r.hours * 3600 - 2) < 1e-6 and abs(r.labelled - 0.5) < 0.02 and abs(r.voiced - 0.5) < 0.02
    assert "missing or unreadable: 1\n  c: " in str(r) and "labelled: 50.0% of the time" in str(r)


def test_synth_is_a_data_set(data):
    made = load_dataset("synth")
    assert len(made) == 60 and len({t.group for t in made}) >= 8
    times, f0 = read_f0(made.tracks[0])
    labels = labels_at(made.tracks[0], times)
    np.testing.assert_allclose(labels[f0 > 0], 12 * np.log2(f0[f0 > 0] / 440) + 69, atol=1e-4)


@pytest.fixture
def site(data, tmp_path, monkeypatch):
    "A publisher: vocadito's archive on a local server"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    home, take = tmp_path / "site", wav(tmp_path / "take.wav")
    home.mkdir()
    with zipfile.ZipFile(home / "vocadito.zip", "w") as z:
        z.write(take, "vocadito/Audio/vocadito_1.wav")
        z.writestr("vocadito/Annotations/F0/vocadito_1_f0.csv", "0,220\n0.1,220\n")
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(home)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/vocadito.zip?download=1"
    md5 = hashlib.md5((home / "vocadito.zip").read_bytes()).hexdigest()
    monkeypatch.setitem(tracks_module.RECIPES, "vocadito", dataclasses.replace(RECIPES["vocadito"], url=url, md5=md5))
    yield home, asked
    server.shutdown()
    server.server_close()


def test_fetch_then_load(site, data):
    home, asked = site
    fetched = fetch_dataset("vocadito", progress=False)
    assert fetched.checked and fetched.sha256 == hashlib.sha256((home / "vocadito.zip").read_bytes()).hexdigest()
    assert [t.id for t in load_dataset("vocadito")] == ["vocadito_1"] and len(
        check_tracks(load_dataset("vocadito"))
    ) == 1
    assert fetch_dataset("vocadito") == fetched and len(asked) == 1
    assert (
        os.listdir(data) == ["vocadito"]
        and json.loads((data / "vocadito" / "source.json").read_text())["url"] == fetched.url
    )
    assert "agrees with the publisher's checksum" in str(fetched)


def test_fetch_with_a_wrong_checksum_leaves_nothing(site, data, monkeypatch):
    recipe = dataclasses.replace(RECIPES["vocadito"], md5="0" * 32)
    monkeypatch.setitem(tracks_module.RECIPES, "vocadito", recipe)
    with pytest.raises(FetchError, match="md5 is .*, expected 0000"):
        fetch_dataset("vocadito", progress=False)
    assert not os.listdir(data)
    with pytest.raises(DatasetNotFound):
        load_dataset("vocadito")


def test_fetch_goes_on_after_a_kill_while_unpacking(site, data, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(tracks_module, "extract", killed)
        fetch_dataset("vocadito", progress=False)
    with pytest.raises(DatasetNotFound):  # what is half there is not there
        load_dataset("vocadito")
    _, asked = site
    fetch_dataset("vocadito", progress=False)
    assert len(asked) == 1 and len(load_dataset("vocadito")) == 1


def test_fetch_leaves_a_folder_of_the_user_alone(site, data):
    wav(data / "vocadito" / "Audio" / "mine.wav")
    with pytest.raises(FetchError, match="exists already and was not fetched; move it away"):
        fetch_dataset("vocadito", progress=False)
    assert not site[1] and len(load_dataset("vocadito")) == 1


def test_fetch_of_what_has_no_archive(data):
    with pytest.raises(ValueError, match="data = 'fda' has no public archive"):
        fetch_dataset("fda")
    with pytest.raises(ValueError, match="did you mean 'mir-1k'"):
        fetch_dataset("mir1k")


def test_import_is_light():
    code = "import sys, mirkit.core.tracks; print([m for m in ('torch', 'pandas', 'plotly', 'librosa', 'scipy', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


# real recordings


@real
def test_real_mir_1k_is_complete():
    report = check_dataset("mir-1k", root=REAL, progress=False)
    assert (report.tracks, report.groups, report.bad) == (748, 15, {})
    assert abs(report.hours * 60 - 100.8) < 0.1 and report.labelled > 0.99 and 0.6 < report.voiced < 0.8
    singers = {t.group for t in load_dataset("mir-1k", root=REAL)}
    assert {"Ani", "davidson", "jmzen"} < singers
    mix = load_dataset("mir-1k", channel="mix", root=REAL)
    assert len(mix) == 90 and mix.note.startswith("658 of 748 clips left out")


@real
@pytest.mark.parametrize("clip", ["Ani_1_02", "jmzen_1_11"])
def test_real_mir_1k_label_times_agree_with_pyin(clip):
    "The best agreement must be at no offset: labels 10 ms early or late fit worse"
    import librosa

    from mirkit.core.audio import load

    (t,) = [t for t in load_dataset("mir-1k", root=REAL) if t.id == clip]
    x, sr = load(t.audio, channel=t.channel)
    f0, voiced, _ = librosa.pyin(x[: 6 * sr], sr=sr, fmin=65, fmax=1000, frame_length=1024, hop_length=160)
    frames = 0.01 * np.arange(len(f0))
    error = []
    for offset in (-0.02, -0.01, 0.0, 0.01, 0.02):
        labels = labels_at(t, frames + offset)
        both = voiced & (labels > 0)
        error.append(np.median(np.abs(12 * np.log2(f0[both] / 440) + 69 - labels[both])))
    assert int(np.argmin(error)) == 2 and error[2] < 0.2, error


@real
def test_real_fda_and_samples():
    fda = load_dataset("fda", root=REAL)
    assert len(fda) == 50 and len({t.group for t in fda}) == 25 and all(t.annotation for t in fda)
    train, val = split_tracks(fda, "fold", n_folds=2)
    assert {t.group for t in train} != {t.group for t in val}
    assert len(check_tracks(fda, progress=False)) == 50
    assert all(
        {f"rl{g}", f"sb{g}"} <= {t.id for t in fda} for g in {t.group for t in val}
    )  # both speakers of a sentence
    (stem,) = load_dataset("mdb-stem-synth", root=REAL)
    assert stem.group == "AClassicEducation_NightOwl" and abs(np.median(np.diff(read_f0(stem)[0])) - 0.0029) < 1e-4
    assert {t.annotation for t in load_dataset("vocadito", root=REAL)} == {None}
