"""Lists behind an address: fetched for reading, and named by the address in messages."""

from __future__ import annotations

import functools
import http.server
import socket
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest
from iopath.common.file_io import PathHandler

from slowfast_mvit import storage
from slowfast_mvit.data.lists.catalog import open_list
from slowfast_mvit.errors import ConfigError, ListError, UserError
from slowfast_mvit.storage import register_path_handlers


class DeskHandler(PathHandler):
    """A store whose files are those of a local folder, as ``desk://name``."""

    root = Path()

    def _get_supported_prefixes(self) -> list[str]:
        return ["desk://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        file = self.root / path.removeprefix("desk://")
        if not file.is_file():
            raise FileNotFoundError(path)
        return str(file)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    folder = tmp_path / "desk/lists"
    folder.mkdir(parents=True)
    monkeypatch.setattr(DeskHandler, "root", tmp_path / "desk")
    register_path_handlers([f"{__name__}:DeskHandler"])
    return folder


def read(split="train", name="kinetics", data_dir="desk://lists", **settings):
    return open_list(name, split, data_dir=data_dir, **settings)


def test_lists_and_class_names_are_fetched(desk):
    (desk / "train.csv").write_text("a.mp4 1\n")
    (desk / "classes.txt").write_text("run\nswim\n")

    videos = read(path_prefix="/videos")

    assert [(record.path, record.label) for record in videos] == [("/videos/a.mp4", 1)]
    assert videos.class_names == ("run", "swim")
    assert videos.source == "desk://lists/train.csv"


def test_names_that_are_not_there_are_no_errors_in_the_log(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "train.csv").write_text("a.mp4 1\n")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        videos = read(data_dir=f"http://127.0.0.1:{server.server_port}", path_prefix="/videos")
        server.shutdown()

    assert videos[0].path == "/videos/a.mp4"
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "WARNING")]


def test_class_names_may_be_remote_where_the_list_is_not(desk, tmp_path):
    (tmp_path / "train.csv").write_text("a.mp4 0\n")
    (desk / "names.txt").write_text("run\n")

    videos = read(data_dir=tmp_path, class_names_path="desk://lists/names.txt")

    assert videos.class_names == ("run",)


def test_published_annotations_are_fetched_and_videos_found_locally(desk, tmp_path):
    header = "label,youtube_id,time_start,time_end,split\n"
    (desk / "train.csv").write_text(f"{header}swim,---QUuC4vJs,1,11,train\n")
    (desk / "val.csv").write_text(f"{header}run,---QUuC4vJs,2,12,val\n")
    (tmp_path / "train").mkdir()
    (tmp_path / "train/---QUuC4vJs_000001_000011.mp4").touch()

    videos = read(path_prefix=str(tmp_path))

    assert videos.class_names == ("run", "swim")
    assert videos.labels.tolist() == [1]


def test_problems_name_the_address(desk):
    (desk / "train.csv").write_text("a.mp4 x\n")

    with pytest.raises(ListError) as caught:
        read(path_prefix="/videos")

    assert str(caught.value).startswith("desk://lists/train.csv: 1 problem\n  line 1:")


def test_a_folder_without_lists_is_refused(desk):
    with pytest.raises(UserError, match=r"desk://lists/train.csv: cannot be fetched"):
        read(path_prefix="/videos")


class BusyServer(http.server.SimpleHTTPRequestHandler):
    """Has val.csv, and fails for test.csv."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/val.csv":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"a.mp4 1\n")
        else:
            self.send_error(503 if self.path == "/test.csv" else 404)


def test_a_list_that_the_server_cannot_give_now_is_not_taken_for_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), BusyServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match=r"test.csv: cannot be fetched .*503"):
            read("test", data_dir=f"http://127.0.0.1:{server.server_port}", path_prefix="/videos")
        server.shutdown()

    assert "/val.csv" in BusyServer.asked


def test_a_server_that_is_gone_is_asked_once(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/lists"

    fetched = []

    def local_copy(path, **settings):
        fetched.append(path)
        return storage.local_copy(path, **settings)

    monkeypatch.setattr("slowfast_mvit.data.lists.remote_lists.local_copy", local_copy)
    with pytest.raises(UserError, match=r"train.csv: cannot be fetched .*refused"):
        read(data_dir=address, path_prefix="/videos")
    assert fetched == [f"{address}/train.csv"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "Set DATA.PATH_PREFIX to the local folder of the videos"),
        ({"path_prefix": "desk://videos"}, "videos are read from a mounted file system"),
        ({"name": "folder", "path_prefix": "/v"}, "must be on a mounted file system"),
        ({"data_dir": "https://", "path_prefix": "/v"}, "names no folder"),
        ({"data_dir": "nowhere://lists", "path_prefix": "/v"}, "no handler for nowhere://"),
    ],
    ids=["no prefix", "remote prefix", "class folders", "no host", "unknown protocol"],
)
def test_unusable_remote_paths_are_refused(desk, settings, problem):
    with pytest.raises(ConfigError, match=problem):
        read(**settings)
