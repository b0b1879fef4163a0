"""A file that is no weights at all is named as what it is."""

import gzip
import io
import tarfile
import zipfile

import pytest
import torch
from safetensors.torch import save

from slowfast_mvit.errors import WeightsError
from slowfast_mvit.storage import read_torch
from slowfast_mvit.storage.torch_files import is_safetensors


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("MViT/weights.pyth", b"...")
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pyth"))
    return file.getvalue()


def scripted() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
    return file.getvalue()


def cut_off() -> bytes:
    file = io.BytesIO()
    torch.save({"norm.weight": torch.ones(300)}, file)
    return file.getvalue()[:900]


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 138000000\n"


@pytest.mark.parametrize(
    ("content", "description"),
    [
        (b"", r"empty \(0 bytes\)\. Copy or download it again"),
        (b"\n<!DOCTYPE html><title>Not found</title>", "a web page.* Download the file itself"),
        (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "a web page"),
        (POINTER, "a Git LFS pointer.* git lfs pull"),
        (zipped(), "a zip archive of other files. Unpack it"),
        (gzip.compress(b"weights", mtime=0), "a gzip archive"),
        (tarred(), "a tar archive"),
        (cut_off(), "cut off.* its end is missing"),
        (b"\x89PNG\r\n\x1a\n0000", "an image"),
        (b"\x00\x00\x00\x20ftypisom", "a video"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"MVIT:\n  VARIANT: S\n", "a text. .*a config goes to --cfg"),
    ],
)
def test_a_file_that_is_saved_in_place_of_weights_is_named(tmp_path, content, description):
    path = tmp_path / "weights.pyth"
    path.write_bytes(content)

    with pytest.raises(
        WeightsError, match=rf"weights\.pyth: not a readable PyTorch file: .*{description}"
    ):
        read_torch(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_program_is_distinguished_from_weights(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(scripted())

    with pytest.raises(WeightsError, match=r"TorchScript program.*torch\.jit\.load"):
        read_torch(path)


def test_safetensors_are_known_by_their_beginning(tmp_path):
    path, other = tmp_path / "weights.pyth", tmp_path / "other.pyth"
    path.write_bytes(save({"norm.weight": torch.ones(3)}))
    torch.save({"norm.weight": torch.ones(3)}, other)

    assert is_safetensors(path)
    assert not is_safetensors(other)


def test_a_damaged_archive_is_no_archive_of_other_files(tmp_path):
    content = bytearray(zipped())
    content[content.rindex(b"PK\x01\x02")] ^= 1  # where the names of the members begin
    path = tmp_path / "weights.pyth"
    path.write_bytes(content)

    with pytest.raises(WeightsError, match=r"not a readable PyTorch file, or damaged"):
        read_torch(path)
