"""Run fingerprint: everything that decides the bits of a test's scores, and the records' key.

fingerprint, by name -> key -> OUTPUT_DIR/test_records/<key>, with the fingerprint in test.json
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
        folder: of the records.
        fingerprint: ``run_fingerprint``.
        weights: a line of text for the report.
    """

    folder: Path
    fingerprint: dict[str, str]
    weights: str


def run_fingerprint(
    *,
    config_digest: str,
    list_digest: str,
    state: Mapping[str, Tensor],
    forward_batch: int,
    device: torch.device,
) -> dict[str, str]:
    """Return everything that decides the bits of a score, by name.

    Args:
        config_digest: of the keys that decide numbers.
        list_digest: of the names and labels of the videos; the contents of the files are not read.
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
    """Digest of names, types, shapes and values; the device does not count."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:DIGEST_LENGTH]


def records_folder(output_dir: str | Path, fingerprint: Mapping[str, str]) -> Path:
    """Return the folder of the records of the test with this fingerprint."""
    text = json.dumps(dict(fingerprint), sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]
    return Path(output_dir) / RECORDS_FOLDER / key


def begin_records(output_dir: str | Path, fingerprint: Mapping[str, str], weights: str) -> None:
    """Write the fingerprint before the first record; warn of other tests that are unfinished.

    Args:
        output_dir: of the test.
        fingerprint: ``run_fingerprint``.
        weights: a line of text for the report.
    """
    folder = records_folder(output_dir, fingerprint)
    for other in records_in(output_dir):
        if other.folder != folder:
            logger.warning(
                "%s: an unfinished test that differs from this one in %s; this one does not resume "
                "it. Delete the folder if it is not needed",
                other.folder,
                ", ".join(differences(fingerprint, other.fingerprint)),
            )
    text = json.dumps({"facts": dict(fingerprint), "weights": weights}, indent=2)
    write_text_atomically(folder / TEST_FILE, text + "\n")


def records_in(output_dir: str | Path) -> list[Records]:
    """Return the tests in an ``OUTPUT_DIR`` that have records there.

    Raises:
        UserError: a ``test.json`` is damaged.
    """
    found = []
    for path in sorted((Path(output_dir) / RECORDS_FOLDER).glob(f"*/{TEST_FILE}")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found.append(Records(path.parent, dict(content["facts"]), str(content["weights"])))
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"{path}: damaged, so the test of these records is unknown. Delete {path.parent}"
            ) from error
    return found


def remove_records(folder: Path) -> None:
    """Remove the records of a test whose results are written.

    Without records the same command tests again, and so reads videos that were repaired since.

    Args:
        folder: ``records_folder``.
    """
    shutil.rmtree(folder)
    upload_changes(folder)
    if not any(folder.parent.iterdir()):
        folder.parent.rmdir()


def differences(fingerprint: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Return the names under which two fingerprints differ."""
    names = dict.fromkeys([*fingerprint, *other])
    return [name for name in names if fingerprint.get(name) != other.get(name)]


def _arithmetic(device: torch.device) -> str:
    """Measured: on a CPU the number of threads and the width of vectors change the last bits."""
    if device.type == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        where = f"CUDA {capability}"
    else:
        threads = torch.get_num_threads()
        unit = "thread" if threads == 1 else "threads"
        where = f"{device.type} {torch.backends.cpu.get_cpu_capability()}, {threads} {unit}"
    return f"slowfast_mvit {__version__}, torch {torch.__version__}, {where}"
