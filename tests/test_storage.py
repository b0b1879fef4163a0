"""Files are wholly there or not at all, and reading one never runs code."""

import io
import os
import pickle
import zipfile

import pytest
import torch

from slowfast_mvit.errors import WeightsError
from slowfast_mvit.storage import read_torch, save_torch, write_atomically, write_text_atomically


def test_what_is_saved_is_read_back(tmp_path):
    content = {"epoch": 3, "model_state": {"w": torch.arange(6.0).view(2, 3)}, "cfg": "A: 1\n"}

    path = save_torch(tmp_path / "checkpoints" / "checkpoint_epoch_00004.pyth", content)

    read = read_torch(path)
    assert read["epoch"] == 3 and read["cfg"] == "A: 1\n"
    torch.testing.assert_close(read["model_state"]["w"], content["model_state"]["w"])


def test_a_failure_while_writing_leaves_the_old_file_and_no_litter(tmp_path):
    path = write_text_atomically(tmp_path / "checkpoint.txt", "old")

    def breaks_halfway(file):
        file.write(b"half of the n")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, breaks_halfway)

    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["checkpoint.txt"]


def test_no_temporary_name_could_be_taken_for_a_checkpoint(tmp_path):
    names = []
    path = tmp_path / "checkpoint_epoch_00001.pyth"

    write_atomically(path, lambda file: names.extend(os.listdir(tmp_path)))

    assert len(names) == 1 and "checkpoint" not in names[0]


def test_a_flipped_byte_is_noticed(tmp_path):
    path = save_torch(tmp_path / "a.pyth", {"w": torch.zeros(1000)})
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
    damaged = bytearray(path.read_bytes())
    damaged[largest.header_offset + 2000] ^= 0x10
    path.write_bytes(damaged)

    with pytest.raises(WeightsError, match="damaged"):
        read_torch(path)


def cut_short(size: int, **form: bool) -> bytes:
    """The first bytes of a file that torch wrote."""
    file = io.BytesIO()
    torch.save({"norm.weight": torch.ones(300)}, file, **form)
    return file.getvalue()[:size]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>404</html>",
        b"hello world\n",
        bytes(range(256)),
        b"PK\x03\x04 cut short",
        b"\x80\x02",
        pickle.dumps([1, 2], protocol=2)[:-1],
        cut_short(900),
        *(cut_short(size, _use_new_zipfile_serialization=False) for size in (50, 200, 400, 600)),
    ],
    ids=range(12),
)
def test_a_file_that_is_no_checkpoint_gives_one_clear_message(tmp_path, content):
    path = tmp_path / "a.pyth"
    path.write_bytes(content)

    with pytest.raises(WeightsError, match=r"a\.pyth: not "):
        read_torch(path)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(WeightsError, match="no such file"):
        read_torch(tmp_path / "nothing.pyth")
    with pytest.raises(WeightsError, match="is a folder"):
        read_torch(tmp_path)


class RunsCode:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


@pytest.mark.parametrize(
    "save", [torch.save, lambda content, file: pickle.dump(content, file, protocol=2)]
)
def test_a_hostile_file_is_refused_and_nothing_runs(tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    with open("evil.pyth", "wb") as file:
        save({"model_state": RunsCode()}, file)

    with pytest.raises(WeightsError, match=r"more than tensors and plain values: .*mkdir"):
        read_torch("evil.pyth")

    assert not (tmp_path / "executed").exists()
