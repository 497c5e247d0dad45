"Downloads and archives under faults: broken lines, kills, full disks, hostile names. The server runs on 127.0.0.1."

import errno
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mirkit.core import fetch
from mirkit.core.fetch import FetchError, Interrupted, download, extract

BODY = hashlib.shake_256(b"mirkit").digest(3_000_000)
SHA = hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    "Answers as the server's attributes say, and notes the Range header of each request"

    def do_GET(self):
        how = self.server
        span, start, total = self.headers.get("Range"), 0, len(how.body)
        how.asked.append(span)
        if how.errors:
            return self.send_error(how.errors.pop(0))
        if span and how.ranges:
            start = int(span[len("bytes=") : -1])
            if start >= total:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", how.span or f"bytes {start}-{total - 1}/{total}")
        self.send_header("Last-Modified", "Sat, 21 Nov 2026 12:00:00 GMT")
        if how.length:
            self.send_header("Content-Length", str(total - start))
        self.end_headers()
        self.send(how.body[start : start + how.breaks.pop(0) if how.breaks else None])

    def send(self, data):
        for i in range(0, len(data), 100_000):
            self.wfile.write(data[i : i + 100_000])
            time.sleep(self.server.pause)

    def log_message(self, *args):
        pass

    def handle(self):
        try:
            super().handle()
        except ConnectionError:  # the client was killed
            pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    s = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    s.body, s.ranges, s.length, s.span, s.pause = BODY, True, True, None, 0
    s.breaks, s.asked, s.errors = [], [], []
    s.url = f"http://127.0.0.1:{s.server_port}/set.zip"
    threading.Thread(target=s.serve_forever, args=(0.02,), daemon=True).start()
    yield s
    s.shutdown()
    s.server_close()


def test_whole_file_then_nothing_more_is_asked(server, tmp_path):
    path = download(server.url, tmp_path / "new" / "a.zip", sha256=SHA)
    assert path.read_bytes() == BODY and os.listdir(path.parent) == ["a.zip"]
    assert download(server.url, path, sha256=SHA) == path
    assert server.asked == [None]


def test_unknown_length(server, tmp_path):
    server.length = False
    assert download(server.url, tmp_path / "a").read_bytes() == BODY


def test_interrupted_transfers_go_on(server, tmp_path):
    server.breaks = [1_000_000, 500_000]
    assert download(server.url, tmp_path / "a", sha256=SHA, wait=0.01).read_bytes() == BODY
    assert server.asked == [None, "bytes=1000000-", "bytes=1500000-"]


def test_server_without_ranges_starts_over(server, tmp_path):
    server.breaks, server.ranges = [1_000_000], False
    assert download(server.url, tmp_path / "a", sha256=SHA, wait=0.01).read_bytes() == BODY


def test_tries_are_limited_and_the_part_is_kept(server, tmp_path):
    server.breaks = [10_000, 10_000, 10_000]
    with pytest.raises(Interrupted, match="broke off after 30000 of 3000000 bytes; run it again"):
        download(server.url, tmp_path / "a", tries=3, wait=0.01)
    assert (tmp_path / "a.part").stat().st_size == 30_000 and not (tmp_path / "a").exists()


def test_part_without_a_tag_is_not_trusted(server, tmp_path):
    (tmp_path / "a.part").write_bytes(b"x" * 1000)
    assert download(server.url, tmp_path / "a", sha256=SHA).read_bytes() == BODY
    assert server.asked == [None]


def test_killed_between_the_last_byte_and_the_rename(server, tmp_path):
    (tmp_path / "a.part").write_bytes(BODY)
    (tmp_path / "a.part.tag").write_text("Sat, 21 Nov 2026 12:00:00 GMT")
    assert download(server.url, tmp_path / "a", sha256=SHA).read_bytes() == BODY
    assert server.asked == ["bytes=3000000-"]


def test_wrong_range_is_refused(server, tmp_path):
    server.breaks, server.span = [1000], "bytes 5-2999999/3000000"
    with pytest.raises(FetchError, match="asked for byte 1000 and on, got 'bytes 5-"):
        download(server.url, tmp_path / "a", wait=0.01)


@pytest.mark.parametrize("sums", [{"sha256": "0" * 64}, {"md5": "0" * 32}])
def test_wrong_checksum_says_both_and_removes_the_part(server, tmp_path, sums):
    (kind, expected), got = *sums.items(), hashlib.new(*sums, BODY).hexdigest()
    with pytest.raises(FetchError, match=f"{kind} is {got}, expected {expected}"):
        download(server.url, tmp_path / "a", **sums)
    assert not os.listdir(tmp_path)


def test_wrong_checksum_of_a_file_of_the_user_leaves_it(server, tmp_path):
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(FetchError, match="remove the file"):
        download(server.url, tmp_path / "a", sha256=SHA)
    assert (tmp_path / "a").read_bytes() == b"mine" and not server.asked


def test_status_is_named_and_a_busy_server_is_asked_again(server, tmp_path):
    server.errors = [404]
    with pytest.raises(FetchError, match="answers 404 Not Found"):
        download(server.url, tmp_path / "a")
    server.errors = [503, 500]
    assert download(server.url, tmp_path / "a", wait=0.01).read_bytes() == BODY


def test_nobody_there(tmp_path):
    with pytest.raises(FetchError, match="cannot be reached"):
        download("http://127.0.0.1:9/a", tmp_path / "a")


def test_no_room_is_said_before_the_transfer(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(10**9, 10**9, 1_000_000))
    with pytest.raises(FetchError, match="0.00 GB are free.* needs 0.00 GB"):
        download(server.url, tmp_path / "a")


def test_disk_full_on_the_way_keeps_the_part(server, tmp_path, monkeypatch):
    real, calls = fetch._bar, []

    def full(*args):
        bar = real(*args)
        bar.update = lambda n: calls.append(n) or (len(calls) > 2 and _no_space())
        return bar

    monkeypatch.setattr(fetch, "_bar", full)
    with pytest.raises(FetchError, match="the disk is full; free some space and run it again"):
        download(server.url, tmp_path / "a")
    monkeypatch.undo()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert download(server.url, tmp_path / "a", sha256=SHA).read_bytes() == BODY
    assert server.asked[1] == f"bytes={sum(calls)}-"


def _no_space():
    raise OSError(errno.ENOSPC, "No space left on device")


def _child(server, path):
    code = f"from mirkit.core.fetch import download; download({server.url!r}, {str(path)!r})"
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def _wait_for(part, size, seconds=20.0):
    end = time.monotonic() + seconds
    while not (part.exists() and part.stat().st_size >= size):
        assert time.monotonic() < end, "the child never began"
        time.sleep(0.02)


def test_kill_9_and_a_second_process(server, tmp_path):
    server.pause = 0.1
    child = _child(server, tmp_path / "a")
    _wait_for(tmp_path / "a.part", 262_144)
    with pytest.raises(FetchError, match="another process is downloading it"):
        download(server.url, tmp_path / "a")
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stderr.close()
    server.pause = 0
    assert download(server.url, tmp_path / "a", sha256=SHA).read_bytes() == BODY
    assert int(server.asked[-1].strip("bytes=-")) >= 262_144


# archives


def _tar(path, *members):
    with tarfile.open(path, "w:gz") as t:
        for name, kind in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            t.addfile(info, io.BytesIO())
    return path


def _zip(path, **files):
    with zipfile.ZipFile(path, "w") as z:
        for name, data in files.items():
            z.writestr(name, data)
    return path


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "."])
def test_names_that_lead_out_are_refused(tmp_path, name):
    for archive in (_zip(tmp_path / "e.zip", **{name: b"x"}), _tar(tmp_path / "e.tgz", (name, tarfile.REGTYPE))):
        with pytest.raises(FetchError, match="leads outside"):
            extract(archive, tmp_path / "in" / "e")
    assert not (tmp_path / "x").exists() and not os.listdir(tmp_path / "in")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_tar_links_and_devices_are_refused(tmp_path, kind):
    with pytest.raises(FetchError, match="'a' is a link or device"):
        extract(_tar(tmp_path / "e.tgz", ("a", kind)), tmp_path / "e")


def test_zip_links_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as z:
        link = zipfile.ZipInfo("a")
        link.external_attr = 0o120777 << 16
        z.writestr(link, "/etc/passwd")
    with pytest.raises(FetchError, match="'a' is a link"):
        extract(tmp_path / "e.zip", tmp_path / "e")


def test_unpacking_goes_on_after_a_kill(tmp_path):
    archive, part = _zip(tmp_path / "s.zip", a=b"aaaa", b=b"bbbb", c=b"cccc"), tmp_path / "s.part"
    part.mkdir()
    (part / "a").write_bytes(b"done")  # same size: was written whole, must not be written again
    (part / "b").write_bytes(b"b")  # other size: not of this archive
    (part / "c.half").write_bytes(b"c")  # the kill came here
    extract(archive, tmp_path / "s")
    assert {f.name: f.read_bytes() for f in (tmp_path / "s").iterdir()} == {"a": b"done", "b": b"bbbb", "c": b"cccc"}


def test_damaged_archives_are_named(tmp_path):
    archive = _zip(tmp_path / "s.zip", a=b"0123456789" * 100)
    data = bytearray(archive.read_bytes())
    data[100] ^= 1
    archive.write_bytes(data)
    with pytest.raises(FetchError, match="s.zip: the archive is damaged .*remove it and fetch it again"):
        extract(archive, tmp_path / "s")
    with tarfile.open(tmp_path / "t.tgz", "w:gz") as t:
        info = tarfile.TarInfo("a")
        info.size = 1_000_000
        t.addfile(info, io.BytesIO(BODY))
    (tmp_path / "t.tgz").write_bytes((tmp_path / "t.tgz").read_bytes()[:500_000])
    with pytest.raises(FetchError, match="t.tgz: the archive is damaged"):
        extract(tmp_path / "t.tgz", tmp_path / "t")
    (tmp_path / "u.zip").write_bytes(b"<html>not found</html>")
    with pytest.raises(FetchError, match="neither a zip nor a tar"):
        extract(tmp_path / "u.zip", tmp_path / "u")


def test_folder_of_the_user_is_left_alone(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "mine").write_text("")
    with pytest.raises(FetchError, match="exists already and is not empty"):
        extract(_zip(tmp_path / "s.zip", a=b"a"), tmp_path / "s")
