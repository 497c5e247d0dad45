"The synthetic data set under faults: several makers at once, kills, a full disk"

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mirkit.core import synth
from mirkit.core.synth import VOICES, render_track, synth_dataset


def _maker(cache, n=20, seconds=2.0):
    code = f"from mirkit.core.synth import synth_dataset; print(synth_dataset({n}, {seconds}, cache={str(cache)!r}))"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_several_makers_at_once(tmp_path):
    makers = [_maker(tmp_path) for _ in range(3)]
    folders = {m.communicate()[0].strip() for m in makers}
    assert all(m.returncode == 0 for m in makers) and len(folders) == 1
    assert len(list(Path(folders.pop()).glob("*.flac"))) == 20
    assert len(list((tmp_path / "synth").iterdir())) == 1  # nothing half made is left


def test_kill_9_leaves_nothing_that_is_taken_for_whole(tmp_path):
    maker, home = _maker(tmp_path, 200, 6.0), tmp_path / "synth"
    end = time.monotonic() + 30
    while not list(home.glob(".half-*/*.flac")):
        assert time.monotonic() < end
        time.sleep(0.01)
    maker.send_signal(signal.SIGKILL)
    maker.communicate()
    (half,) = home.iterdir()
    os.utime(half, (0, 0))  # as if it were of long ago
    folder = synth_dataset(10, 1.0, cache=tmp_path, progress=False)
    assert [p.name for p in home.iterdir()] == [folder.name]


def test_full_disk_says_where_and_cleans_up(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(synth.sf, "write", full)
    with pytest.raises(OSError, match="cannot be written to .*synth.*cache_path.*No space left"):
        synth_dataset(2, 1.0, cache=tmp_path, progress=False)
    assert not list((tmp_path / "synth").iterdir())


def test_sixty_tracks_are_made_in_seconds(tmp_path):
    begin = time.process_time()
    synth_dataset(cache=tmp_path, progress=False)
    assert time.process_time() - begin < 20


@pytest.mark.parametrize("sr", [8000, 22050, 44100, 96000])
def test_every_rate_is_sound(sr):
    for seed in (0, 7):
        x, times, f0 = render_track(seed, 1.0, sr)
        assert len(x) == sr and x.dtype == np.float32 and 0.01 < np.abs(x).max() <= 0.98
        assert np.all(np.diff(times) > 0) and abs(times[1] - 0.005) < 0.0011 and times[-1] < 1.0


def test_pitch_covers_the_range():
    pitch = [12 * np.log2(f[f > 0] / 440) + 69 for f in (render_track(s)[2] for s in range(60))]
    assert min(map(np.min, pitch)) < 36 and max(map(np.max, pitch)) > 84
    assert all(VOICES[v].pitch[0] - 1 < p.min() for v, p in zip(VOICES, pitch, strict=False))
