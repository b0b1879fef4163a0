"""Errors of the operating system while files are written."""

import errno
import io
import os
import pickle
import stat

import numpy as np
import pytest
import torch

from slowfast_mvit.cli.exit_status import guarded
from slowfast_mvit.errors import UserError, WriteError, writing
from slowfast_mvit.runtime import metric_writers
from slowfast_mvit.runtime.log import StatsLog, setup_logging
from slowfast_mvit.runtime.output_lock import output_lock
from slowfast_mvit.runtime.run_state import recorded_run_state
from slowfast_mvit.storage import (
    AppendLog,
    remove_files_of_dead_processes,
    save_torch,
    temporary_path,
    write_atomically,
    write_text_atomically,
)

TEXTS = {
    errno.ENOSPC: "No space left on device",
    errno.EDQUOT: "Disk quota exceeded",
    errno.EROFS: "Read-only file system",
    errno.EACCES: "Permission denied",
    errno.EIO: "Input/output error",
}


@pytest.mark.parametrize("code", TEXTS)
def test_each_error_names_file_cause_space_and_what_is_safe(tmp_path, code):
    path = tmp_path / "new" / "a.json"

    with pytest.raises(WriteError) as caught, writing(path, lambda: 12_345):
        raise OSError(code, os.strerror(code), "a name of a temporary file")

    message = str(caught.value)
    assert message.startswith(f"{path}: cannot be written: {TEXTS[code]} (")
    assert ("12,345 bytes needed" in message) == (code in (errno.ENOSPC, errno.EDQUOT))
    assert "bytes free on its disk" in message and "written before are complete" in message
    assert caught.value.errno == code
    assert str(pickle.loads(pickle.dumps(caught.value))) == message  # it is sent to other ranks


class Full(io.BytesIO):
    """A file with space for a part of what is written."""

    space = 700

    def write(self, data):
        self.space -= memoryview(data).nbytes
        if self.space < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize("space", [0, 100, 700, 2000, 4000])
@pytest.mark.parametrize(
    "write",
    [
        lambda file: torch.save({"w": torch.zeros(1000)}, file),
        lambda file: np.savez(file, w=np.zeros(1000, dtype=np.float32)),
        lambda file: file.write(bytes(5000)),
    ],
    ids=["torch", "numpy", "plain"],
)
def test_the_bytes_of_every_kind_of_file_are_counted(tmp_path, monkeypatch, write, space):
    monkeypatch.setattr(Full, "space", space)
    monkeypatch.setattr("builtins.open", lambda *_, **__: Full())
    whole = io.BytesIO()
    write(whole)

    with pytest.raises(WriteError, match=rf"{len(whole.getvalue()):,} bytes needed"):
        write_atomically(tmp_path / "a.bin", write)


def test_a_log_is_as_it_was_before_the_line_that_did_not_fit(tmp_path):
    path = tmp_path / "a.log"
    with AppendLog(path) as log:
        log.append(b"one\n")
        whole_write = log._file.write
        writes = iter([lambda data: whole_write(data[:2]), no_space])
        log._file = type(
            "Half",
            (),
            {
                "write": lambda _, data: next(writes)(data),
                "__getattr__": lambda _, name, file=log._file: getattr(file, name),
            },
        )()

        with pytest.raises(WriteError, match="4 bytes needed"):
            log.append(b"two\n")

    assert path.read_bytes() == b"one\n"


def no_space(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def write_tensorboard(folder):
    pytest.importorskip("tensorboard")
    board = metric_writers.TensorBoard(folder, steps_per_epoch=2, config_text="A: 1")
    board.write({"_type": "train_epoch", "epoch": "1/2", "RAM": "3.21/15.60G"})


def lock(folder):
    with output_lock(folder, "train"):
        pass


def record_state(folder):
    with recorded_run_state(folder):
        pass


WRITERS = [
    setup_logging,
    lock,
    record_state,
    write_tensorboard,
    lambda folder: StatsLog(folder).write({"_type": "train_epoch"}),
    lambda folder: save_torch(folder / "a.pyth", {}),
]


@pytest.mark.parametrize("write", WRITERS)
def test_a_folder_that_cannot_be_made_is_an_error_with_status_1(tmp_path, capsys, write):
    (tmp_path / "file").write_text("")

    assert guarded(lambda: write(tmp_path / "file" / "out")) == 1

    printed = capsys.readouterr().err
    assert "WriteError" in printed and "Not a directory" in printed and "Traceback" not in printed


def test_a_file_system_that_cannot_sync_folders_is_written_to(tmp_path, monkeypatch):
    sync = os.fsync

    def sync_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr("os.fsync", sync_files)

    assert write_text_atomically(tmp_path / "a", "text").read_text() == "text"


def test_a_full_standard_output_is_reported(monkeypatch, capfd):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert guarded(lambda: print("a result")) == 1

    assert "standard output: cannot be written: No space left" in capfd.readouterr().err


def test_other_errors_of_space_end_without_a_traceback(capsys):
    assert guarded(no_space) == 1

    assert "No space left on device" in capsys.readouterr().err


def test_the_first_error_is_reported_when_the_state_cannot_be_written_either(tmp_path):
    with pytest.raises(UserError, match="the list is empty"), recorded_run_state(tmp_path):
        (tmp_path / "run_state.json").unlink()
        (tmp_path / "run_state.json").mkdir()
        raise UserError("the list is empty")


def test_temporary_files_of_dead_processes_are_removed_and_no_others(tmp_path, monkeypatch):
    of_this = temporary_path(tmp_path, "json_stats.log")
    of_this.touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 2**22 + 1)  # above any process id
        of_dead = temporary_path(tmp_path, "json_stats.log")
        patch.setattr("platform.node", lambda: "another")
        of_other = temporary_path(tmp_path, "json_stats.log")
        of_dead.touch()
        of_other.touch()
        old = temporary_path(tmp_path, "config.yaml")
        old.touch()
        os.utime(old, (0, 0))

    remove_files_of_dead_processes(tmp_path)

    assert {*tmp_path.iterdir()} == {of_this, of_other}
