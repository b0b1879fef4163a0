"""Downloads from a loopback server that cuts, lies, changes files, redirects and never ends."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import resource
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from slowfast_mvit.errors import WriteError
from slowfast_mvit.storage import download as module
from slowfast_mvit.storage.download import HASHES_FILE, DownloadError, download

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``content`` in a way that a test chooses, and records the requests."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.way, self.content, self.ranges, self.headers = "whole", CONTENT, [], {}
        self.num_sent, self.stopped = 300_000, threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, name="weights.pyth"):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.ranges.append(self.headers.get("Range"))
        if server.way == "missing":
            return self.send_error(404)
        if server.way.startswith("redirect "):
            self.send_response(302)
            self.send_header("Location", server.way.split()[1])
            return self.end_headers()
        start, total = 0, len(server.content)
        tag = f'"{hashlib.sha256(server.content).hexdigest()}"'
        if self.headers.get("Range") and self.headers.get("If-Range") == tag:
            start = int(self.headers["Range"][6:-1])
        if start == total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            return self.end_headers()
        if start and server.way == "other bytes":
            start -= 1000
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if server.way != "cuts, no tag":
            self.send_header("ETag", tag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        for name, value in server.headers.items():
            self.send_header(name, value)
        length = {"lies": len(body) - 1000, "claims": 10**15}.get(server.way, len(body))
        if server.way != "endless":
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if server.way.startswith("cuts") or (server.way == "other bytes" and not start):
            return self.wfile.write(body[: server.num_sent])
        if server.way == "hangs":
            self.wfile.write(body[: server.num_sent])
            server.stopped.wait()
            return None
        if server.way == "drips":
            while not server.stopped.wait(0.02):
                self.wfile.write(b"x")
            return None
        try:
            self.wfile.write(body)
            while server.way == "endless":
                self.wfile.write(body)
        except OSError:
            pass  # the client has had enough


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    for name in module.OFFLINE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with Server() as server:
        yield server
        server.stopped.set()
        server.shutdown()


def fetch(server, folder, **options):
    return download(server.url(), folder, allow_loopback=True, **options)


def test_a_file_is_fetched_once_and_its_hash_is_remembered(server, tmp_path):
    path = fetch(server, tmp_path)

    assert fetch(server, tmp_path) == path == tmp_path / "weights.pyth"
    assert path.read_bytes() == CONTENT
    assert len(server.ranges) == 1
    assert json.loads((tmp_path / HASHES_FILE).read_text())["weights.pyth"]["sha256"] == SHA256
    assert not list(tmp_path.glob("*.part*"))


def test_a_cut_download_is_resumed_where_it_ended(server, tmp_path):
    server.way = "cuts"

    assert fetch(server, tmp_path, sha256=SHA256[:8]).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_without_a_tag_a_cut_download_starts_over(server, tmp_path):
    server.way = "cuts, no tag"

    with pytest.raises(DownloadError, match="the connection ended after 300,000 of 1,048,576"):
        fetch(server, tmp_path)
    server.way = "whole"
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert set(server.ranges) == {None}


def test_other_bytes_than_asked_for_are_not_kept(server, tmp_path):
    server.way = "other bytes"

    with pytest.raises(DownloadError, match=r"sent other bytes|ended after"):
        fetch(server, tmp_path)
    server.way = "whole"
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_process_killed_before_the_last_step_had_all_bytes(server, tmp_path):
    (tmp_path / "weights.pyth.part").write_bytes(CONTENT)
    (tmp_path / "weights.pyth.part.etag").write_text(f'"{SHA256}"')

    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"Content-Type": "text/html; charset=utf-8"}, "a web page was received"),
        ({"Content-Encoding": "gzip"}, r"sends it compressed \(gzip\)"),
    ],
    ids=["page", "gzip"],
)
def test_what_is_not_the_file_is_refused_and_keeps_the_bytes_before(
    headers, reason, server, tmp_path
):
    server.way, server.num_sent = "cuts", 1000
    with pytest.raises(DownloadError, match="1,048,576 bytes"):
        fetch(server, tmp_path)
    before = (tmp_path / "weights.pyth.part").read_bytes()
    server.way, server.headers = "whole", headers

    with pytest.raises(DownloadError, match=f"{reason}.* as weights.pyth"):
        fetch(server, tmp_path)
    assert (tmp_path / "weights.pyth.part").read_bytes() == before == CONTENT[: len(before)]


def test_a_slow_drip_ends(server, tmp_path, monkeypatch):
    server.way = "drips"
    monkeypatch.setattr(module, "TIMEOUT_S", 0.05)

    with pytest.raises(DownloadError, match=r"only \d+ bytes in 0.05 s"):
        fetch(server, tmp_path)


def test_a_loop_of_redirects_ends(server, tmp_path):
    server.way = f"redirect {server.url()}"

    with pytest.raises(DownloadError, match="infinite loop"):
        fetch(server, tmp_path)


def test_proxies_of_the_environment_are_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)

    assert download("http://localhost:1/a.pyth", tmp_path, allow_loopback=True).stat().st_size


def test_names_outside_ascii_are_fetched(server, tmp_path):
    path = download(server.url("gewichte \u00e9.pyth?v=\u00e9"), tmp_path, allow_loopback=True)

    assert path.name == "gewichte \u00e9.pyth"
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["https://[bad/a.pyth", "https://host:port/a.pyth"])
def test_what_is_no_address_is_refused(url, tmp_path):
    with pytest.raises(DownloadError, match="not an address"):
        download(url, tmp_path)


@pytest.mark.parametrize("damage", ["{", "[" * 100_000, '{"weights.pyth": 3}', "[1]", "\ud800"])
def test_a_damaged_file_of_hashes_is_refused(damage, server, tmp_path):
    fetch(server, tmp_path)
    (tmp_path / HASHES_FILE).write_bytes(damage.encode("utf-8", "surrogatepass"))

    with pytest.raises(DownloadError, match=f"{HASHES_FILE}: damaged .*delete it"):
        fetch(server, tmp_path)


def test_a_file_in_a_read_only_cache_is_used(server, tmp_path, monkeypatch, caplog):
    (tmp_path / "weights.pyth").write_bytes(CONTENT)

    def locked(path):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(module, "file_lock", locked)

    assert fetch(server, tmp_path, sha256=SHA256[:8]).read_bytes() == CONTENT
    assert "its hash cannot be remembered" in caplog.text
    (tmp_path / "weights.pyth").unlink()
    with pytest.raises(WriteError, match=r"cannot be written: Permission denied"):
        fetch(server, tmp_path)


def test_a_full_disk_is_said_and_the_next_start_resumes(server, tmp_path, monkeypatch):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limit[1]))
    try:
        with pytest.raises(WriteError, match="cannot be written: File too large"):
            fetch(server, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=500000-"


def test_a_file_that_changed_between_two_attempts_is_fetched_anew(server, tmp_path):
    (tmp_path / "weights.pyth.part").write_bytes(b"old" * 1000)
    (tmp_path / "weights.pyth.part.etag").write_text('"old"')

    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_another_file_than_published_is_refused_and_not_kept(server, tmp_path):
    with pytest.raises(DownloadError, match=f"begins with {SHA256[:8]}, .* with 0badc0de"):
        fetch(server, tmp_path, sha256="0badc0de")
    assert not (tmp_path / "weights.pyth").exists()


def test_a_file_in_the_cache_is_compared_with_the_published_hash(server, tmp_path):
    (tmp_path / "weights.pyth").write_bytes(b"put here by hand")

    with pytest.raises(DownloadError, match=r"not the published file.* Delete it"):
        fetch(server, tmp_path, sha256=SHA256[:8])
    assert server.ranges == []


def test_a_change_after_the_first_use_is_refused_until_it_is_accepted(server, tmp_path):
    path = fetch(server, tmp_path)
    path.unlink()
    server.content = CONTENT[::-1]

    with pytest.raises(
        DownloadError, match=f"changed since .* remove 'weights.pyth' from .*{HASHES_FILE}"
    ):
        fetch(server, tmp_path)
    (tmp_path / HASHES_FILE).unlink()
    assert fetch(server, tmp_path).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("way", ["endless", "claims", "whole"])
def test_a_file_that_is_too_large_is_refused_and_not_kept(way, server, tmp_path):
    server.way = way

    with pytest.raises(DownloadError, match="larger than 700,000 bytes"):
        fetch(server, tmp_path, max_bytes=700_000)
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pyth.lock"]


def test_a_length_that_is_too_short_is_found_by_the_hash(server, tmp_path):
    server.way = "lies"

    with pytest.raises(DownloadError, match="not the published file"):
        fetch(server, tmp_path, sha256=SHA256[:8])


@pytest.mark.parametrize(
    "target", ["file:///etc/hostname", "http://example.com/a.pyth", "ftp://h/a"]
)
def test_a_redirect_to_another_scheme_is_refused(target, server, tmp_path):
    server.way = f"redirect {target}"

    with pytest.raises(DownloadError, match=r"only https is fetched|is not allowed"):
        fetch(server, tmp_path)


@pytest.mark.parametrize("url", ["http://example.com/a.pyth", "file:///a.pyth", "https://host/"])
def test_addresses_that_are_not_https_or_name_no_file_are_refused(url, tmp_path):
    with pytest.raises(DownloadError, match=r"only https is fetched|name of a file"):
        download(url, tmp_path)


@pytest.mark.parametrize("cause", ["missing", *module.OFFLINE_VARIABLES])
def test_what_cannot_be_fetched_is_said_with_the_place_for_a_copy(
    cause, server, tmp_path, monkeypatch
):
    if cause == "missing":
        server.way = cause
    else:
        monkeypatch.setenv(cause, "1")

    with pytest.raises(DownloadError) as raised:
        fetch(server, tmp_path)

    message = str(raised.value)
    assert server.url() in message
    assert f"put it into {tmp_path} as weights.pyth" in message


def fetch_in_process(url, folder):
    download(url, folder, allow_loopback=True)


def test_of_two_processes_one_fetches(server, tmp_path):
    context = multiprocessing.get_context("forkserver")
    processes = [
        context.Process(target=fetch_in_process, args=(server.url(), tmp_path)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)

    assert [process.exitcode for process in processes] == [0, 0]
    assert len(server.ranges) == 1


def test_after_a_kill_the_process_that_waits_resumes(server, tmp_path):
    server.way, server.num_sent = "hangs", 300_000
    context = multiprocessing.get_context("forkserver")
    first, second = (
        context.Process(target=fetch_in_process, args=(server.url(), tmp_path)) for _ in range(2)
    )
    first.start()
    part = tmp_path / "weights.pyth.part"
    while not (part.exists() and part.stat().st_size):
        assert first.is_alive()
    second.start()
    server.way = "whole"
    first.kill()
    for process in (first, second):
        process.join(60)

    assert second.exitcode == 0
    assert (tmp_path / "weights.pyth").read_bytes() == CONTENT
    assert len(server.ranges) == 2 and server.ranges[1].startswith("bytes=")
