"""Curves of a run for programs that draw them: TensorBoard, Weights & Biases.

Names of curves are PySlowFast's where it has one. The x axis counts the steps of the optimizer
since the start of the run, so that runs with epochs of other lengths can be compared.
"""

from __future__ import annotations

import importlib
import io
import os
import secrets
import socket
import textwrap
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from slowfast_mvit.errors import UserError, writing
from slowfast_mvit.runtime.log import Record, done_of
from slowfast_mvit.storage import write_text_atomically

# Kind of record -> field -> curve.
CURVES = {
    "train_iter_": {
        "loss": "Train/loss",
        "lr": "Train/lr",
        "grad_norm": "Train/grad_norm",
        "top1_err": "Train/Top1_err",
        "top5_err": "Train/Top5_err",
        "clips_per_s": "Speed/clips_per_s",
        "dt": "Speed/seconds_per_step",
        "waiting": "Speed/share_waiting_for_data",
        "gpu_mem": "Memory/gpu_GiB",
        "num_skipped": "Trouble/skipped_steps",
        "num_failed": "Trouble/failed_videos",
    },
    "train_epoch": {"RAM": "Memory/machine_GiB"},
    "val_epoch": {
        "loss": "Val/loss",
        "top1_err": "Val/Top1_err",
        "top5_err": "Val/Top5_err",
        "num_failed": "Val/failed_videos",
    },
}
RUN_ID_FILE = "wandb_run_id.txt"


class MetricWriter(Protocol):
    """A destination of the records of a run; only the main process has any."""

    def write(self, record: Record) -> None:
        """Write a record of ``json_stats.log``."""

    def close(self) -> None:
        """Write the rest and close."""


def points(record: Record) -> dict[str, float]:
    """Return curve -> the value that a record adds to it."""
    values = {**record, "waiting": share_waiting(record)}
    return {
        curve: float(str(values[field]).split("/")[0].removesuffix("G"))  # 3.21 of 3.21/15.60G
        for field, curve in CURVES.get(record["_type"], {}).items()
        if values.get(field) is not None
    }


def share_waiting(record: Record) -> float | None:
    """Return the share of time that training waited for data, 0 to 1; None where not recorded."""
    return record["dt_data"] / record["dt"] if record.get("dt") else None


def step_of(record: Record, steps_per_epoch: int) -> int:
    """Return the steps of the optimizer from the start of the run to the end of a record."""
    epoch = done_of(record, "epoch")
    if "iter" in record:
        return (epoch - 1) * steps_per_epoch + done_of(record, "iter")
    return epoch * steps_per_epoch


class TensorBoard:
    """Event files for TensorBoard."""

    def __init__(self, folder: str | Path, *, steps_per_epoch: int, config_text: str) -> None:
        """
        Args:
            folder: of the event files; one more is added each time a run resumes.
            steps_per_epoch: steps of the optimizer.
            config_text: the resolved config, shown next to the curves.

        Raises:
            UserError: TensorBoard is not installed.
        """
        key, extra = "TENSORBOARD.ENABLE", "tensorboard"
        self._summary = _optional("torch.utils.tensorboard", key=key, extra=extra).summary
        self._proto = _optional("tensorboard.compat.proto.event_pb2", key=key, extra=extra)
        self._records = _optional(
            "tensorboard.summary.writer.record_writer", key=key, extra=extra
        ).RecordWriter
        self._folder = Path(folder)
        self._steps_per_epoch = steps_per_epoch
        self._config_text = textwrap.indent(config_text.rstrip(), "    ")  # code in Markdown
        self._path: Path | None = None

    def write(self, record: Record) -> None:
        """Add a point to each curve that the record has a value for."""
        step = step_of(record, self._steps_per_epoch)
        events = list[dict[str, Any]]()
        if self._path is None:
            name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
            self._path = self._folder / name
            # Points of an interrupted process after its checkpoint are written again.
            first_step = step if "iter" in record else step + 1
            start = self._proto.SessionLog(status=self._proto.SessionLog.START)
            text = self._summary.text("config", self._config_text)
            events += [
                {"step": first_step, "file_version": "brain.Event:2"},
                {"step": first_step, "session_log": start},
                {"step": step, "summary": text},
            ]
        for curve, value in points(record).items():
            events.append({"step": step, "summary": self._summary.scalar(curve, value)})
        self._append(self._path, events)

    def _append(self, path: Path, events: Iterable[Mapping[str, Any]]) -> None:
        """Append events in this thread: torch's writer has one of its own, which fails alone."""
        content = io.BytesIO()
        writer = self._records(content)
        for event in events:
            writer.write(self._proto.Event(wall_time=time.time(), **event).SerializeToString())
        with writing(path, lambda: len(content.getvalue())):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab") as file:
                file.write(content.getvalue())

    def close(self) -> None:
        """Nothing to write: each event has been."""


class Wandb:
    """Curves for Weights & Biases, sent there, or written to ``wandb/`` where it is offline."""

    def __init__(
        self,
        output_dir: str | Path,
        *,
        project: str,
        config: Mapping[str, Any],
        steps_per_epoch: int,
    ) -> None:
        """
        Args:
            output_dir: names the run; contains its id, under which it is resumed.
            project: that the run belongs to.
            config: the resolved config, as nested plain values.
            steps_per_epoch: steps of the optimizer.

        Raises:
            UserError: wandb is not installed, or refuses.
        """
        output_dir = Path(output_dir)
        wandb = _optional("wandb", key="WANDB.ENABLE", extra="wandb")
        self._steps_per_epoch = steps_per_epoch
        try:
            self._run = wandb.init(
                project=project,
                name=output_dir.resolve().name,
                id=_run_id(output_dir / RUN_ID_FILE),
                resume="allow",
                dir=str(output_dir),
                config=dict(config),
            )
        except wandb.Error as error:
            reason = str(error).rstrip(".")
            raise UserError(
                f"WANDB.ENABLE is True, but no run of {project} could be opened: {reason}. Log in "
                "with `wandb login`, set WANDB_MODE=offline, or set WANDB.ENABLE False"
            ) from error

    def write(self, record: Record) -> None:
        """Send a point for each curve that the record has a value for."""
        values = points(record)
        if values:
            self._run.log(values, step=step_of(record, self._steps_per_epoch))

    def close(self) -> None:
        """Send the rest."""
        self._run.finish()


def _run_id(path: Path) -> str:
    """Return the id in a file; a new one where there is no file."""
    if not path.is_file():
        write_text_atomically(path, secrets.token_hex(8) + "\n")
    return path.read_text(encoding="utf-8").strip()


def _optional(module: str, *, key: str, extra: str) -> ModuleType:
    """Import an optional module that ``key`` needs."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{key} is True, but {extra} cannot be imported ({error}). Install it with "
            f"pip install 'slowfast_mvit[{extra}]', or set {key} False"
        ) from error
