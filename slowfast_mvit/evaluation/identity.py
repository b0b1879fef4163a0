"""Which test a record belongs to: everything that decides the bits of a score, and its key.

facts, by name -> key -> OUTPUT_DIR/test_records/<key>, with the facts in test.json
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from slowfast_mvit import __version__
from slowfast_mvit.errors import UserError
from slowfast_mvit.storage import upload_changes, write_text_atomically

logger = logging.getLogger(__name__)

RECORDS_FOLDER = "test_records"
TEST_FILE = "test.json"
DIGEST_LENGTH = 16  # hexadecimal digits


class Records(NamedTuple):
    """The records of one test in one ``OUTPUT_DIR``.

    Attributes:
        folder: where they are.
        facts: ``facts_of_test``.
        weights: in words, for the report.
    """

    folder: Path
    facts: dict[str, str]
    weights: str


def facts_of_test(
    *,
    config_digest: str,
    list_digest: str,
    state: Mapping[str, Tensor],
    forward_batch: int,
    device: torch.device,
) -> dict[str, str]:
    """Everything that decides the bits of a score, by name.

    Args:
        config_digest: of the keys that decide numbers.
        list_digest: of the names and labels of the videos; nobody looks at what is in the files.
        state: the model's ``state_dict()``.
        forward_batch: views in each forward pass.
        device: of the model.
    """
    return {
        "config": config_digest,
        "weights": state_digest(state),
        "list": list_digest[:DIGEST_LENGTH],
        "views in a forward pass": str(forward_batch),
        "arithmetic": _arithmetic(device),
    }


def state_digest(state: Mapping[str, Tensor]) -> str:
    """A digest of names, types, shapes and values; the device does not count."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:DIGEST_LENGTH]


def records_folder(output_dir: str | Path, facts: Mapping[str, str]) -> Path:
    """Where the records of the test with these facts are."""
    text = json.dumps(dict(facts), sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]
    return Path(output_dir) / RECORDS_FOLDER / key


def begin_records(output_dir: str | Path, facts: Mapping[str, str], weights: str) -> None:
    """Write down what is tested, before the first record; say which other tests lie unfinished.

    Args:
        output_dir: of the test.
        facts: ``facts_of_test``.
        weights: in words, for the report.
    """
    folder = records_folder(output_dir, facts)
    for other in records_in(output_dir):
        if other.folder != folder:
            logger.warning(
                "%s: an unfinished test that differs from this one in %s; this one does not go on "
                "from it. Delete the folder if nobody needs it",
                other.folder,
                ", ".join(differences(facts, other.facts)),
            )
    text = json.dumps({"facts": dict(facts), "weights": weights}, indent=2)
    write_text_atomically(folder / TEST_FILE, text + "\n")


def records_in(output_dir: str | Path) -> list[Records]:
    """The tests in an ``OUTPUT_DIR`` that have records there.

    Raises:
        UserError: a folder does not say whose records it holds.
    """
    found = []
    for path in sorted((Path(output_dir) / RECORDS_FOLDER).glob(f"*/{TEST_FILE}")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found.append(Records(path.parent, dict(content["facts"]), str(content["weights"])))
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"{path}: damaged, so nobody knows whose records these are. Delete {path.parent}"
            ) from error
    return found


def remove_records(folder: Path) -> None:
    """Remove the records of a test whose results are written.

    Kept, they would stand for the videos even after these were mended: the same command tests
    again instead.

    Args:
        folder: ``records_folder``.
    """
    shutil.rmtree(folder)
    upload_changes(folder)
    if not any(folder.parent.iterdir()):
        folder.parent.rmdir()


def differences(facts: Mapping[str, str], others: Mapping[str, str]) -> list[str]:
    """The names of the facts that differ."""
    names = dict.fromkeys([*facts, *others])
    return [name for name in names if facts.get(name) != others.get(name)]


def _arithmetic(device: torch.device) -> str:
    """Measured: on a CPU the number of threads and the width of vectors change the last bits."""
    if device.type == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        where = f"CUDA {capability}"
    else:
        threads = torch.get_num_threads()
        in_words = "1 thread" if threads == 1 else f"{threads} threads"
        where = f"{device.type} {torch.backends.cpu.get_cpu_capability()}, {in_words}"
    return f"slowfast_mvit {__version__}, torch {torch.__version__}, {where}"
