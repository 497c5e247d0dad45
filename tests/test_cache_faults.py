"""A cache under a full disk, kills, rivals, damage and locked doors: never wrong, never in the way, no debris"""

import contextlib
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from mirkit.core.cache import ArrayCache

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "cache"


def names(cache: ArrayCache) -> list[str]:
    "Everything in the cache's folder, hidden files included"
    return sorted(os.listdir(cache.folder))


def python(code: str, *args: object) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def wait_for(found) -> object:
    for _ in range(3000):
        if result := found():
            return result
        time.sleep(0.01)
    raise AssertionError("did not happen within half a minute")


# ---- no room ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def no_file_above(limit: int):
    "What a full disk does to a writer, without one: the kernel refuses what goes beyond `limit` bytes"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def small_disk(place: Path):
    "A file system of 1 MB; skips where one may not be mounted"
    place.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("real", [False, True], ids=["file size limit", "small disk"])
def test_full_disk_says_what_to_do_and_leaves_the_rest_alone(folder, real):
    with small_disk(folder) if real else contextlib.nullcontext():
        cache = ArrayCache("frames", folder)
        small = cache.get_or_make("small", lambda: np.arange(1000.0))
        with contextlib.nullcontext() if real else no_file_above(500_000), pytest.raises(OSError) as caught:
            cache.get_or_make("large", lambda: np.zeros(1_000_000))
        message = str(caught.value)
        assert "cannot write 8.0 MB" in message and str(cache.folder) in message and "MIRKIT_CACHE_PATH" in message
        assert ("No space left" if real else "File too large") in message and caught.value.errno
        assert names(cache) == ["small.npy"]
        again = ArrayCache("frames", folder).get("small")
        assert again is not None and (again == np.arange(1000.0)).all() and (small == again).all()
        if not real:  # room is made: the same cache goes on
            assert len(cache.get_or_make("large", lambda: np.zeros(1_000_000))) == 1_000_000
        del small, again  # a mapped file would keep the file system busy


def test_full_disk_is_not_a_bad_recording(folder, tmp_path):
    "skip_bad must not throw recordings away because there is no room for their frames"
    import soundfile as sf

    from mirkit.core.tracks import load_dataset
    from mirkit.pitch.config import make_config
    from mirkit.pitch.data import make_frames

    (tmp_path / "data").mkdir()
    sf.write(tmp_path / "data" / "a.wav", np.sin(np.arange(8000) / 10).astype(np.float32), 16000)
    tracks, config = load_dataset(str(tmp_path / "data")), make_config()
    with no_file_above(10_000), pytest.raises(OSError, match="File too large.*MIRKIT_CACHE_PATH"):
        make_frames(tracks, config, ArrayCache("hcqt", folder), skip_bad=True, progress=False)
    assert os.listdir(folder / "hcqt") == []
    assert len(make_frames(tracks, config, ArrayCache("hcqt", folder), progress=False)) == 26


# ---- kill -9 ---------------------------------------------------------------------------------------------------------

SLOW = """
import io, sys, time
import numpy as np
from mirkit.core import cache

class SlowDisk(io.FileIO):
    def write(self, data):
        time.sleep(0.3)
        return super().write(data)

cache.open = lambda path, mode: SlowDisk(path, mode) if "x" in mode else open(path, mode)
cache.ArrayCache("frames", sys.argv[1]).get_or_make("slow", lambda: np.arange(5_000_000.0))
"""


def test_kill_while_writing_leaves_nothing_that_is_read(folder):
    "The next run does not see the half file, makes the array, and a day later the debris is gone"
    cache = ArrayCache("frames", folder)
    kept = cache.get_or_make("kept", lambda: np.arange(10.0))
    child = python(SLOW, folder)
    (half,) = wait_for(lambda: [f for f in cache.folder.glob(".writing-*") if f.stat().st_size])
    child.kill()
    assert child.wait() == -9
    assert 0 < half.stat().st_size < 40_000_000 and names(cache) == sorted([half.name, "kept.npy"])

    fresh = ArrayCache("frames", folder, limit_gb=0)
    assert fresh.get("slow") is None
    calls = []
    made = fresh.get_or_make("slow", lambda: calls.append(1) or np.arange(5_000_000.0))
    assert len(calls) == 1 and (made == np.arange(5_000_000.0)).all() and (kept == np.arange(10.0)).all()
    assert fresh.evict() == 1 and names(fresh) == sorted([half.name, "slow.npy"])  # it may belong to a live process
    os.utime(half, (time.time() - 90_000,) * 2)
    assert fresh.evict() == 1 and names(fresh) == ["slow.npy"]


# ---- several processes -----------------------------------------------------------------------------------------------

RIVAL = """
import hashlib, os, sys, time
from pathlib import Path
import numpy as np
from mirkit.core.cache import ArrayCache

cache, go = ArrayCache("frames", sys.argv[1]), Path(sys.argv[2])
(go.parent / f"ready-{os.getpid()}").touch()
while not go.exists():
    time.sleep(0.001)
digest = hashlib.sha256()
for key in range(30):
    array = cache.get_or_make(f"k{key}", lambda: np.random.default_rng(key).random(20_000 + key))
    digest.update(np.ascontiguousarray(array))
    cache.evict()
print(digest.hexdigest())
"""


@pytest.mark.parametrize("limit", ["10", "0"], ids=["room for all", "everyone evicts"])
def test_four_processes_fill_one_cache(folder, tmp_path, limit, monkeypatch):
    "Everybody gets the right arrays; one file each is left; nobody trips over another's eviction"
    monkeypatch.setenv("MIRKIT_CACHE_LIMIT_GB", limit)
    children = [python(RIVAL, folder, tmp_path / "go") for _ in range(4)]
    wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 4)
    (tmp_path / "go").touch()
    answers = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0] * 4, answers
    expected = hashlib.sha256(b"".join(np.random.default_rng(k).random(20_000 + k).tobytes() for k in range(30)))
    assert {out.strip() for out, _ in answers} == {expected.hexdigest()}
    left = names(ArrayCache("frames", folder))
    assert set(left) <= {f"k{k}.npy" for k in range(30)} and (limit == "0" or len(left) == 30)


# ---- damage ----------------------------------------------------------------------------------------------------------


def flipped(whole: bytes) -> bytes:
    return whole[:500] + bytes([whole[500] ^ 4]) + whole[501:]


DAMAGE = {
    "a flipped bit": flipped,
    "a flipped bit in the header": lambda whole: whole[:30] + bytes([whole[30] ^ 1]) + whole[31:],
    "cut off": lambda whole: whole[:-100],
    "cut off in the header": lambda whole: whole[:20],
    "without its mark": lambda whole: whole[:-12],
    "too long": lambda whole: whole + b"\0" * 16,
    "empty": lambda whole: b"",
    "zeros": lambda whole: bytes(len(whole)),
    "foreign": lambda whole: b"RIFF" + b"not an array" * 100,
    "an array of objects": lambda whole: b"\x93NUMPY\x01\x00\x76\x00{'descr': '|O', 'fortran_order': False}" + whole,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_file_is_noticed_and_made_again(folder, damage):
    cache = ArrayCache("frames", folder)
    cache.get_or_make("a", lambda: np.arange(300.0))
    whole = cache.path("a").read_bytes()
    cache.path("a").write_bytes(damage(whole))
    assert cache.get("a") is None
    calls = []
    again = cache.get_or_make("a", lambda: calls.append(1) or np.arange(300.0))
    assert (again == np.arange(300.0)).all() and len(calls) == 1
    assert cache.path("a").read_bytes() == whole and names(cache) == ["a.npy"]


# ---- locked doors ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def as_nobody():
    "Without root's right to write everywhere"
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public():
    "A folder that everybody may enter, unlike pytest's"
    before = os.umask(0o022)
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
    os.umask(before)


def test_read_only_cache_serves_and_says_why_it_does_not_store(public):
    cache = ArrayCache("frames", public, limit_gb=0)
    for key in ("good", "bad", "other"):
        cache.get_or_make(key, lambda: np.arange(300.0))
    cache.path("bad").write_bytes(b"rubbish")
    cache.folder.chmod(0o555)
    try:
        with as_nobody():
            reader = ArrayCache("frames", public, limit_gb=0)
            found = reader.get("good")
            assert found is not None and (found == np.arange(300.0)).all()
            assert reader.get("bad") is None and reader.get("none") is None
            assert reader.evict() == 0
            with pytest.raises(PermissionError, match=r"Permission denied\).*MIRKIT_CACHE_PATH") as caught:
                reader.get_or_make("bad", lambda: np.arange(300.0))
            assert str(cache.folder) in str(caught.value)
    finally:
        cache.folder.chmod(0o755)
    assert names(cache) == ["bad.npy", "good.npy", "other.npy"]


def test_cache_folder_that_is_a_file(folder):
    folder.write_text("not a folder")
    cache = ArrayCache("frames", folder)
    assert cache.get("a") is None and cache.evict() == 0
    with pytest.raises(OSError, match="cannot write .* MB to the cache folder"):
        cache.get_or_make("a", lambda: np.arange(3.0))
    assert folder.read_text() == "not a folder"


# ---- the limit -------------------------------------------------------------------------------------------------------


def test_eviction_spares_what_the_run_uses(folder):
    "Even when that alone is more than the limit; the oldest of the others go first, and only as many as must"
    before = ArrayCache("frames", folder)
    for age, key in enumerate(["newest", "older", "oldest"]):
        before.get_or_make(key, lambda: np.zeros(1000))
        os.utime(before.path(key), (time.time() - 1000 * (age + 1),) * 2)
    size = before.path("oldest").stat().st_size
    run = ArrayCache("frames", folder, limit_gb=4.5 * size / 1e9)
    used = [run.get_or_make(key, lambda: np.ones(1000)) for key in ("a", "b")]
    assert run.evict() == 1 and names(run) == ["a.npy", "b.npy", "newest.npy", "older.npy"]
    run.limit = 0
    mapped = before.get("older")
    assert run.evict() == 2 and names(run) == ["a.npy", "b.npy"]
    assert all((x == 1).all() for x in used) and (mapped == 0).all()  # a mapped file outlives its removal
