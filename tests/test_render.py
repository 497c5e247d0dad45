"Rendered corpora: killed and taken up again, the same in every process; real corpora; a package that is not there"

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pretty_midi
import pytest

from mirkit.core.audio import load
from mirkit.core.midi import find_soundfont
from mirkit.core.settings import shared_path
from mirkit.key import render
from mirkit.key.names import mode, tonic

try:
    find_soundfont()
    PLAYS = ""
except FileNotFoundError as e:
    PLAYS = str(e)
plays = pytest.mark.skipif(bool(PLAYS), reason=PLAYS)
REAL = bool(shared_path() and (shared_path() / "data" / "key" / "POP909").is_dir())
real = pytest.mark.skipif(not REAL, reason="the folder of real corpora is not beside the project (MIRKIT_SHARED)")

RUN = "import sys; from mirkit.key.render import render_corpus; render_corpus(sys.argv[1], seconds=2, progress=False, threads=1)"


@pytest.fixture
def table(tmp_path, monkeypatch):
    "Six tunes in C, a table of them, and a cache of their own"
    for i in range(6):
        song = pretty_midi.PrettyMIDI()
        song.instruments = [pretty_midi.Instrument(0)]
        for j, pitch in enumerate((60, 64, 67, 72, 60 + i)):
            song.instruments[0].notes.append(pretty_midi.Note(90, pitch, j / 2, j / 2 + 0.5))
        song.write(str(tmp_path / f"{i}.mid"))
    (tmp_path / "tunes.csv").write_text("midi,key\n" + "".join(f"{i}.mid,C major\n" for i in range(6)))
    monkeypatch.setenv("MIRKIT_CACHE_PATH", str(tmp_path / "cache"))
    return tmp_path / "tunes.csv"


def made(table: Path) -> list[Path]:
    return sorted((table.parent / "cache" / "rendered" / "tunes").glob("*.flac"))


@plays
def test_killed_halfway_everything_there_is_whole_and_the_rest_follows(table, monkeypatch):
    child = subprocess.Popen([sys.executable, "-c", RUN, str(table)])
    deadline = time.time() + 120
    while not made(table) and time.time() < deadline:
        time.sleep(0.01)
    child.kill()
    child.wait()
    before = {f: f.stat().st_mtime_ns for f in made(table)}
    assert before and all(len(load(f)[0]) > 22050 for f in before)
    tracks = render.render_corpus(table, seconds=2, progress=False)
    assert len(tracks) == 6 and {t.audio for t in tracks} == set(made(table))
    assert all(f.stat().st_mtime_ns == stamp for f, stamp in before.items())

    monkeypatch.setenv("MIRKIT_CACHE_PATH", str(table.parent / "other"))
    again = render.render_corpus(table, seconds=2, progress=False)
    for a, b in zip(tracks, again, strict=True):
        assert (a.id, a.key, a.audio.name) == (b.id, b.key, b.audio.name) and a.audio != b.audio
        assert np.array_equal(load(a.audio)[0], load(b.audio)[0])


@plays
def test_a_file_without_notes_is_named(table):
    pretty_midi.PrettyMIDI().write(str(table.parent / "3.mid"))
    with pytest.raises(ValueError, match=r"3\.mid has no notes"):
        render.render_corpus(table, seconds=2, progress=False)


def test_without_music21_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("MIRKIT_CACHE_PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "music21", None)
    with pytest.raises(ImportError, match=r"pip install 'mirkit\[scores\]'"):
        render.list_pieces("chorales")
    assert not list(tmp_path.rglob("*chorales-midi*"))


@real
def test_the_corpora_are_read_whole():
    songs = render.list_pieces("pop909")
    assert len(songs) == 240 and {tonic(p.key) for p in songs} == set(range(12))
    assert len(render.list_pieces("wtc")) == 92
    asap = render.list_pieces("asap")
    assert len(asap) == 62 and sum(mode(p.key) == "minor" for p in asap) > 15
    for pieces in (songs, asap):
        assert len({p.id for p in pieces}) == len(pieces)


@real
def test_a_variant_depends_on_nothing_but_its_number():
    pieces = render.list_pieces("wtc")
    two, four = (render.balanced_moves("wtc", pieces, variants) for variants in (2, 4))
    assert two.items() <= four.items()
    assert render.vary("wtc", pieces[0], 1) == render.vary("wtc", pieces[0], 1) != render.vary("wtc", pieces[0], 2)
