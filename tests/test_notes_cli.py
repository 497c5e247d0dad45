"""`mirkit data prepare notes` as a shell sees it: killed and continued, over processes and a cluster that loses a worker, on a full disk"""

import errno
import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")
import torch

from mirkit import cli
from mirkit.ddsp import shards
from mirkit.ddsp.notes import synthetic_notes
from mirkit.ddsp.shards import PrepareError, check_shards, load_shards, prepare_notes, read_manifest
from mirkit.lab.batch import map_files

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"n_frames": 8, "n_harmonics": 4, "n_noise": 5}
MORTAL = """
import os, time
from pathlib import Path
from mirkit.ddsp import shards

whole = shards._work

def mortal(folder, plan, thorough, k):
    "Shard 3 kills its process in the middle, the first time; and others give it the time to"
    shards._fill_whole = getattr(shards, "_fill_whole", shards._fill)
    def fill(draft, plan, k, block=256):
        sums = shards._fill_whole(draft, plan, k, block)
        if k == 3 and not Path(folder, "died").exists():
            Path(folder, "died").touch()
            os.kill(os.getpid(), 9)
        time.sleep(0.02)
        return sums
    shards._fill = fill
    return whole(folder, plan, thorough, k)
"""


@pytest.fixture
def prepare(tmp_path, capsys):
    "The command, with another folder than `notes` if wanted: status, what it printed, what it complained of"

    def run(*words, folder="notes"):
        status = cli.main(["data", "prepare", "notes", "-o", str(tmp_path / folder), *map(str, words)])
        return status, *capsys.readouterr()

    return run


def sums(folder: Path) -> dict:
    return read_manifest(folder)["shards"]


def test_command(tmp_path, prepare):
    status, out, _ = prepare("--count", "1_0", "--shards", 3, "--ranges", "voice", "--seed", 5)
    assert status == 0 and "10 examples in 3 shards; 3 to make: 422 kB, of " in out
    assert "3 shards made, 0 there before; 10 examples in" in out and "examples per second of one core" in out
    notes = load_shards(tmp_path / "notes")
    drawn = synthetic_notes(5, 0, 10, ranges=notes.plan.ranges)
    assert notes.plan.ranges.midi == (36, 84) and torch.equal(notes[:].f0_hz, drawn.f0_hz)
    status, out, _ = prepare()  # the folder knows what it is
    assert status == 0 and "0 shards made, 3 there before\n" in out


def test_damage_is_named_and_repaired(tmp_path, prepare):
    prepare("--count", 9, "--shards", 3)
    before = sums(tmp_path / "notes")
    (tmp_path / "notes/shard-00001/noise.npy").write_bytes(b"cut off")
    content = bytearray((tmp_path / "notes/shard-00002/f0_hz.npy").read_bytes())
    content[-2] ^= 1
    (tmp_path / "notes/shard-00002/f0_hz.npy").write_bytes(content)
    status, _, err = prepare()
    assert status == 1 and "shard-00001: noise.npy has 7 bytes instead of" in err and "--repair" in err
    status, out, _ = prepare("--repair")
    assert status == 0 and "2 shards made, 1 there before; 6 examples" in out
    assert sums(tmp_path / "notes") == before and not check_shards(tmp_path / "notes")
    (tmp_path / "notes/manifest.json").write_text("{")
    status, _, err = prepare()
    assert status == 2 and "manifest.json is damaged" in err and "run again" in err
    (tmp_path / "notes/manifest.json").unlink()
    status, out, _ = prepare("--count", 9, "--shards", 3)
    assert status == 0 and "0 shards made, 3 there before" in out and sums(tmp_path / "notes") == before


@pytest.mark.parametrize(
    "words, text",
    [
        ([], "count is needed"),
        (["--count", "0"], "count = 0 must be a number between 1"),
        (["--count", "4", "--shards", "5"], "shards = 5 must be a number between 1 and 4"),
        (["--count", "4", "--ranges", "voices"], "did you mean 'voice'?"),
        (["--count", "4", "--years", "2004", "--mels", "3"], "--mels --years: of recordings, not of notes"),
        (["--count", "10_000_000_000"], "needs 422 TB more, but its disk has"),
    ],
)
def test_mistakes(tmp_path, prepare, words, text):
    status, out, err = prepare(*words)
    assert status == 2 and text in err and not out and not list(tmp_path.glob("notes/shard*"))


def test_a_start_that_failed_binds_nobody(tmp_path, prepare):
    status, _, err = prepare("--count", 4, "--jobs", 0)
    assert status == 2 and "jobs = 0" in err
    status, out, _ = prepare("--count", 3)
    assert status == 0 and "1 shards made" in out and len(load_shards(tmp_path / "notes")) == 3


def test_options_of_notes_are_refused_for_recordings(capsys):
    assert cli.main(["data", "prepare", "maps", "--count", "3", "-o", "h5"]) == 2
    assert "--count: of notes, not of recordings" in capsys.readouterr().err
    assert cli.main(["data", "prepare", "maps"]) == 2
    assert "-o DIR is needed" in capsys.readouterr().err


def test_a_disk_that_fills_up_loses_nothing(tmp_path, monkeypatch):
    "What was finished stays, what was begun goes, and the message names shard and folder"

    def full(draft, plan, k, block=256, fill=shards._fill):
        if k == 2:
            (draft / "noise.npy").write_bytes(b"begun")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return fill(draft, plan, k, block)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "_fill", full)
        with pytest.raises(PrepareError, match="shard-00002: .*cannot write shard-00002 to the folder.*No space left"):
            prepare_notes(tmp_path, 20, 4, **SMALL)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", *(f"shard-0000{k}" for k in (0, 1, 3))]
    assert not read_manifest(tmp_path)["complete"]
    with pytest.raises(PrepareError, match="shard-00002: missing"):
        load_shards(tmp_path)
    assert prepare_notes(tmp_path).made == 1 and not check_shards(tmp_path)


def test_killed_and_continued(tmp_path):
    "kill -9 in the middle; the same command then makes what is missing, and the files are those of an undisturbed run"
    words = [sys.executable, "-m", "mirkit", "data", "prepare", "notes", "-o", str(tmp_path / "a"), "--count", "1500"]
    words += ["--shards", "30"]
    child = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=one_thread())
    for _ in range(12000):
        if (tmp_path / "a" / "shard-00001").exists() or child.poll() is not None:
            break
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    there = len(list((tmp_path / "a").glob("shard-*")))
    if there == 30:
        pytest.skip("the machine was faster than the test")
    result = prepare_notes(tmp_path / "a")
    assert result.kept == there and result.made == 30 - there and not list((tmp_path / "a").glob(".writing-*"))
    notes, drawn = load_shards(tmp_path / "a"), synthetic_notes(42, 700, 3)
    torch.testing.assert_close(notes[700:703].f0_hz, drawn.f0_hz, rtol=1e-5, atol=0)


def one_thread() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def mortal(tmp_path, monkeypatch):
    "A worker's function that kills its process once, in a module that workers can import"
    (tmp_path / "mortal_notes.py").write_text(MORTAL)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sys.modules.pop("mortal_notes", None)
    import mortal_notes

    monkeypatch.setattr(shards, "_work", mortal_notes.mortal)
    yield tmp_path / "notes"
    sys.modules.pop("mortal_notes", None)


def test_a_process_that_is_killed_loses_nothing(mortal):
    run = functools.partial(map_files, jobs=2, progress=False)
    assert prepare_notes(mortal, 25, 5, run=run, **SMALL).made == 5
    assert (mortal / "died").exists() and not check_shards(mortal) and not list(mortal.glob(".writing-*"))


def test_a_cluster_that_loses_a_worker_loses_nothing(mortal):
    "Two Dask workers, processes of their own; one is killed while it writes a shard, and is replaced"
    distributed = pytest.importorskip("distributed", reason="Dask is an option: pip install distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs="CRITICAL"
    ) as cluster:
        run = functools.partial(map_files, scheduler=cluster.scheduler_address, progress=False)
        assert prepare_notes(mortal, 40, 8, run=run, **SMALL).made == 8
    assert (mortal / "died").exists() and not check_shards(mortal) and not list(mortal.glob(".writing-*"))
    alone = mortal.with_name("alone")
    alone.mkdir()
    (alone / "died").touch()
    prepare_notes(alone, 40, 8, **SMALL)
    stored, made = load_shards(mortal), load_shards(alone)
    torch.testing.assert_close(stored[:].sin_amps, made[:].sin_amps, rtol=1e-5, atol=1e-7)
