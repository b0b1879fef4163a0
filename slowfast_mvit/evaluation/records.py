"""Records of finished videos on disk, from which a killed test resumes and parts are merged.

    OUTPUT_DIR/test_records/<key>/test.json                               the run fingerprint
                                  part_00002_of_00004_rank_00000.jsonl    a video a line

Each process appends to its file. The key is a digest of the run fingerprint, which is everything
that decides the bits of a test's scores: records of another config, other weights, another list or
other arithmetic are in other folders.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import logging
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from slowfast_mvit import __version__
from slowfast_mvit.errors import MissingViewsError, UserError
from slowfast_mvit.evaluation.provenance import Provenance
from slowfast_mvit.storage import AppendLog, upload_changes, whole_lines, write_text_atomically
from slowfast_mvit.structures import FailedVideo, ViewScores

logger = logging.getLogger(__name__)

RECORDS_FOLDER = "test_records"
TEST_FILE = "test.json"
DIGEST_LENGTH = 16  # hexadecimal digits
_RECORD_NAME = re.compile(r"part_(\d+)_of_(\d+)_rank_(\d+)\.jsonl")

Outcome = ViewScores | FailedVideo


class Part(NamedTuple):
    """One of several contiguous parts of a list, counted from 1; (1, 1) is the whole."""

    number: int
    num_parts: int


@contextlib.contextmanager
def record_writer(folder: Path, *, part: Part, rank: int) -> Iterator[Callable[[Outcome], None]]:
    """Yield a function that appends a record to the file of one process.

    A killed process loses no record. They are synced to the disk at the end only: damage by a power
    failure is detected when they are read.

    Args:
        folder: of ``records_folder``; made if need be.
        part: of the list that this job scores.
        rank: of this process in its job.
    """
    name = f"part_{part.number:05d}_of_{part.num_parts:05d}_rank_{rank:05d}.jsonl"
    with AppendLog(folder / name) as log:
        try:
            yield lambda outcome: log.append(record_line(outcome))
        finally:
            log.sync()


def record_line(outcome: Outcome) -> bytes:
    """Return a line of a record file: JSON with a checksum; equal views are written once."""
    record: dict[str, Any] = {"video_id": outcome.video_id}
    if isinstance(outcome, FailedVideo):
        record |= {"path": outcome.path, "failed": outcome.reason, "file": outcome.file}
    else:
        place_of: dict[bytes, int] = {}
        rows = [row.tobytes() for row in outcome.probs.astype("<f4")]
        record |= {
            "label": outcome.label,
            "num_classes": outcome.probs.shape[1],
            "places": [place_of.setdefault(row, len(place_of)) for row in rows],
            "probs": base64.b64encode(b"".join(place_of)).decode(),
        }
    return (json.dumps({**record, "crc32": _checksum(record)}) + "\n").encode()


def _checksum(record: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(record).encode()):08x}"


def finished_videos(folder: Path, views: np.ndarray) -> set[str]:
    """Return the videos that need not be scored again.

    Videos that could not be read are not among them: they may be readable now.

    Args:
        folder: of ``records_folder``.
        views: (V, 2) int64, the (clip, crop) of each view of a record.
    """
    return {
        outcome.video_id
        for path in _record_files([folder])
        for outcome in read_records(path, views)
        if isinstance(outcome, ViewScores)
    }


def join_records(folders: Sequence[Path], views: np.ndarray) -> dict[str, Outcome]:
    """Return the outcome of each video that has a record; scores take priority over a failure.

    Args:
        folders: of one or several jobs.
        views: (V, 2) int64, the (clip, crop) of each view of a record.

    Raises:
        MissingViewsError: a video has two records with different scores.
    """
    outcomes: dict[str, Outcome] = {}
    conflicts: dict[str, Path] = {}
    for path in _record_files(folders):
        for outcome in read_records(path, views):
            known = outcomes.get(outcome.video_id)
            if not isinstance(known, ViewScores):
                outcomes[outcome.video_id] = outcome
            elif isinstance(outcome, ViewScores) and not np.array_equal(known.probs, outcome.probs):
                conflicts[outcome.video_id] = path
    if conflicts:
        first, path = next(iter(conflicts.items()))
        raise MissingViewsError(
            f"{len(conflicts):,} videos were scored twice, with different results (first: "
            f"{first!r}, again in {path}). Nothing was averaged. Two jobs of equal settings give "
            "equal scores, so one of them read other videos or is wrong: delete its records"
        )
    return outcomes


def read_records(path: Path, views: np.ndarray) -> Iterator[Outcome]:
    """Yield the records of one file.

    A damaged record is skipped with a warning, so that its video is scored again; a last line that
    is still being written is skipped without one.

    Args:
        path: of a ``record_writer``.
        views: (V, 2) int64, the (clip, crop) of each view.
    """
    num_damaged = 0
    for line in whole_lines(path):
        try:
            yield _outcome(line, views)
        except (ValueError, LookupError, TypeError, AttributeError):
            num_damaged += 1
    if num_damaged:
        logger.warning("%s: skipping %d damaged records", path, num_damaged)


def part_numbers(folders: Sequence[Path]) -> set[Part]:
    """Return the parts whose jobs have written records."""
    matches = (_RECORD_NAME.fullmatch(path.name) for path in _record_files(folders))
    return {Part(int(match[1]), int(match[2])) for match in matches if match}


def _record_files(folders: Sequence[Path]) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.glob("*.jsonl"))]


def _outcome(line: bytes, views: np.ndarray) -> Outcome:
    """Return the outcome in a line; raises an error for a damaged one."""
    record = json.loads(line)
    if record.pop("crc32") != _checksum(record):
        raise ValueError("wrong checksum")
    if "failed" in record:
        file = record.get("file", "")
        return FailedVideo(record["video_id"], record["path"], record["failed"], file)
    values = np.frombuffer(base64.b64decode(record["probs"]), dtype="<f4")
    rows = values.reshape(-1, record["num_classes"])
    probs = rows[record["places"]].astype(np.float32)
    return ViewScores(record["video_id"], record["label"], views, probs)


class Records(NamedTuple):
    """The records of one test in one ``OUTPUT_DIR``."""

    folder: Path
    fingerprint: dict[str, str]
    provenance: Provenance


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


def begin_records(
    output_dir: str | Path, fingerprint: Mapping[str, str], provenance: Provenance
) -> None:
    """Write the fingerprint before the first record, with a warning about unfinished tests.

    Args:
        output_dir: of the test.
        fingerprint: ``run_fingerprint``.
        provenance: of the test.
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
    text = json.dumps({"facts": dict(fingerprint), **provenance._asdict()}, indent=2)
    write_text_atomically(folder / TEST_FILE, text + "\n")


def records_in(output_dir: str | Path) -> list[Records]:
    """Return the tests in an ``OUTPUT_DIR`` that have records there.

    Raises:
        UserError: a ``test.json`` is damaged.
    """
    tests = []
    for path in sorted((Path(output_dir) / RECORDS_FOLDER).glob(f"*/{TEST_FILE}")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            tests.append(Records(path.parent, dict(content["facts"]), Provenance.of(content)))
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"{path}: damaged, so the test of these records is unknown. Delete {path.parent}"
            ) from error
    return tests


def remove_records(folder: Path) -> None:
    """Remove the records of a test whose results are written.

    Then the same command tests again, and reads videos that were repaired in the meantime.

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
    """Describe the arithmetic: a CPU's threads and vector width change the last bits (measured)."""
    if device.type == "cuda":
        where = f"CUDA {'.'.join(map(str, torch.cuda.get_device_capability(device)))}"
    else:
        threads = torch.get_num_threads()
        unit = "thread" if threads == 1 else "threads"
        where = f"{device.type} {torch.backends.cpu.get_cpu_capability()}, {threads} {unit}"
    return f"slowfast_mvit {__version__}, torch {torch.__version__}, {where}"
