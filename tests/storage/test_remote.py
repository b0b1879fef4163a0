"""Remote files: fetched, cached and uploaded, and errors when that fails."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ranks import run_ranks
from shelf import ShelfHandler

from slowfast_mvit.errors import ConfigError, UserError
from slowfast_mvit.runtime.distributed import from_main, is_main, rank, wait_for_all
from slowfast_mvit.storage import (
    is_remote,
    local_copy,
    output_folder,
    read_torch,
    register_path_handlers,
    save_torch,
    shared_output_folder,
    upload_changes,
    write_text_atomically,
)


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """The address of a server on this machine, and the folder it serves."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    served = tmp_path / "served"
    served.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", served
        server.shutdown()
        thread.join()


def test_a_local_path_is_its_own_copy(tmp_path: Path) -> None:
    assert local_copy(tmp_path / "a.csv") == tmp_path / "a.csv"
    assert not is_remote("C:/videos/a.mp4") and not is_remote("a/b")


def test_weights_from_the_web_are_fetched_once(web: tuple[str, Path]) -> None:
    address, served = web
    save_torch(served / "w.pyth", {"x": torch.arange(3)})
    assert read_torch(f"{address}/w.pyth")["x"].tolist() == [0, 1, 2]
    (served / "w.pyth").unlink()
    assert read_torch(f"{address}/w.pyth")["x"].tolist() == [0, 1, 2]


def test_a_list_that_changed_on_the_server_is_fetched_again(web: tuple[str, Path]) -> None:
    address, served = web
    (served / "train.csv").write_text("a.mp4 0\n")
    assert local_copy(f"{address}/train.csv", fresh=True).read_text() == "a.mp4 0\n"
    (served / "train.csv").write_text("a.mp4 1\n")
    assert local_copy(f"{address}/train.csv").read_text() == "a.mp4 0\n"
    assert local_copy(f"{address}/train.csv", fresh=True).read_text() == "a.mp4 1\n"


def test_two_servers_do_not_share_a_place_in_the_cache(web: tuple[str, Path]) -> None:
    address, served = web
    (served / "classes.txt").write_text("one")
    first = local_copy(f"{address}/classes.txt")
    other = local_copy(f"{address.replace('127.0.0.1', 'localhost')}/classes.txt")
    assert first != other


def test_a_file_that_is_not_there_is_named(web: tuple[str, Path]) -> None:
    address, _ = web
    with pytest.raises(UserError, match=r"http://127.*/none.pyth: cannot be fetched .*404"):
        local_copy(f"{address}/none.pyth")


def test_a_protocol_without_handler_is_refused() -> None:
    with pytest.raises(ConfigError, match="no handler for gopher://"):
        local_copy("gopher://host/train.csv")


def test_what_is_no_handler_is_refused() -> None:
    with pytest.raises(ConfigError, match="not a subclass of iopath"):
        register_path_handlers(["pathlib:Path"])


def test_outputs_reach_the_remote_folder_as_they_are_written(shelf: Path) -> None:
    with output_folder("shelf://run") as folder:
        (folder / "stdout.log").write_text("line 1\n")
        save_torch(folder / "checkpoints" / "checkpoint_epoch_00001.pyth", {"epoch": 0})
        assert read_torch(shelf / "run/checkpoints/checkpoint_epoch_00001.pyth") == {"epoch": 0}
        assert (shelf / "run/stdout.log").read_text() == "line 1\n"
        with open(folder / "stdout.log", "a") as log:
            log.write("line 2\n")
    assert (shelf / "run/stdout.log").read_text() == "line 1\nline 2\n"
    assert not folder.exists()


def test_a_run_goes_on_from_what_is_in_the_remote_folder(shelf: Path) -> None:
    for epoch in (1, 2, 3):
        save_torch(shelf / f"run/checkpoints/checkpoint_epoch_{epoch:05d}.pyth", {"epoch": epoch})
    save_torch(shelf / "run/checkpoints/best.pyth", {"epoch": 1})
    (shelf / "run/stdout.log").write_text("before\n")
    with output_folder("shelf://run/") as folder:
        names = sorted(path.name for path in (folder / "checkpoints").iterdir())
        newest = ["checkpoint_epoch_00002.pyth", "checkpoint_epoch_00003.pyth"]
        assert names == ["best.pyth", *newest]
        assert (folder / "stdout.log").read_text() == "before\n"


def test_a_lost_connection_costs_nothing(shelf: Path, caplog: pytest.LogCaptureFixture) -> None:
    with output_folder("shelf://run") as folder:
        ShelfHandler.is_down = True
        write_text_atomically(folder / "a.json", "1")
        assert "not sent, tried again" in caplog.text and "a.json" in caplog.text
        ShelfHandler.is_down = False
        write_text_atomically(folder / "b.json", "2")
        assert (shelf / "run/a.json").read_text() == "1"


def test_what_was_never_sent_is_kept_and_the_message_says_where(shelf: Path) -> None:
    with (
        pytest.raises(UserError, match=r"not sent: a\.json .*kept in") as caught,
        output_folder("shelf://run") as folder,
    ):
        ShelfHandler.is_down = True
        write_text_atomically(folder / "a.json", "1")
    assert str(folder) in str(caught.value)
    assert (folder / "a.json").read_text() == "1"
    shutil.rmtree(folder)


def test_a_web_address_cannot_be_written_to(web: tuple[str, Path]) -> None:
    with (
        pytest.raises(UserError, match=r"OUTPUT_DIR http://.*cannot be used to write"),
        output_folder(f"{web[0]}/run"),
    ):
        pass


def test_a_run_that_breaks_off_still_sends_what_it_wrote(shelf: Path) -> None:
    with pytest.raises(KeyboardInterrupt), output_folder("shelf://run") as folder:
        (folder / "stdout.log").write_text("line\n")
        raise KeyboardInterrupt
    assert (shelf / "run/stdout.log").read_text() == "line\n"


def test_a_local_output_folder_is_itself(tmp_path: Path) -> None:
    with output_folder(tmp_path) as folder:
        assert folder == tmp_path


def test_what_is_deleted_here_is_deleted_there(
    shelf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_torch(shelf / "run/checkpoints/checkpoint_epoch_00001.pyth", {"epoch": 0})
    for epoch in (2, 3):
        save_torch(shelf / f"run/checkpoints/checkpoint_epoch_{epoch:05d}.pyth", {"epoch": epoch})
    with output_folder("shelf://run") as folder:
        for name in ("records/a/1.jsonl", "records/b/1.jsonl", "results.json"):
            write_text_atomically(folder / name, "1")
        unfinished = folder / "sharded" / ".tmp-epoch_00001" / "manifest.json"
        write_text_atomically(unfinished, "1")

        shutil.rmtree(folder / "records" / "a")
        (folder / "checkpoints" / "checkpoint_epoch_00002.pyth").unlink()
        upload_changes(folder / "records" / "a")
        shutil.rmtree(folder / "records")
        ShelfHandler.is_down = True
        upload_changes(folder / "records")
        ShelfHandler.is_down = False

    names = {path.relative_to(shelf / "run").as_posix() for path in shelf.rglob("*.*")}
    assert {name for name in names if "." in name.rpartition("/")[2]} == {
        "checkpoints/checkpoint_epoch_00001.pyth",  # was not fetched
        "checkpoints/checkpoint_epoch_00003.pyth",
        "records/b/1.jsonl",
        "results.json",
    }
    assert "delete it by hand: records/b/1.jsonl" in caplog.text


def write_from_every_rank(shelf: Path, url: str, num_nodes: int) -> str:
    ShelfHandler.root = shelf
    register_path_handlers(["shelf:ShelfHandler"])
    with shared_output_folder(
        url,
        is_main=is_main(),
        num_nodes=num_nodes,
        from_main=from_main,
        wait_for_all=wait_for_all,
    ) as folder:
        (folder / f"{rank()}.txt").write_text("here")
        return str(folder)


def test_the_processes_of_a_node_write_to_one_folder_that_goes_to_the_remote(shelf: Path) -> None:
    folders = run_ranks(write_from_every_rank, 3, shelf, "shelf://run", 1)

    assert len(set(folders)) == 1
    assert sorted(path.name for path in (shelf / "run").iterdir()) == ["0.txt", "1.txt", "2.txt"]
    assert not Path(folders[0]).exists()


def test_every_process_hears_that_the_remote_folder_cannot_be_used(shelf: Path) -> None:
    (shelf / "run").write_text("a file")

    with pytest.raises(UserError, match="OUTPUT_DIR shelf://run: cannot be used to write to"):
        run_ranks(write_from_every_rank, 2, shelf, "shelf://run", 1)


def test_several_nodes_need_a_folder_that_they_share(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the 2 nodes of this run have no folder in common"):
        run_ranks(write_from_every_rank, 1, shelf, "shelf://run", 2)

    local = tmp_path / "run"
    local.mkdir()
    assert run_ranks(write_from_every_rank, 1, shelf, str(local), 2) == [str(local)]
