"""Downloads from a loopback server that cuts, lies, changes files, redirects and never ends."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from slowfast_mvit.storage import download as module
from slowfast_mvit.storage.download import HASHES_FILE, DownloadError, download

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``content`` in a way that a test chooses, and records the requests."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.way, self.content, self.ranges = "whole", CONTENT, []
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
        start = 0
        tag = f'"{hashlib.sha256(server.content).hexdigest()}"'
        if self.headers.get("Range") and self.headers.get("If-Range") == tag:
            start = int(self.headers["Range"][6:-1])
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", tag)
        if start:
            total = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        length = {"lies": len(body) - 1000, "claims": 10**15}.get(server.way, len(body))
        if server.way != "endless":
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if server.way == "cuts":
            return self.wfile.write(body[:300_000])
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
