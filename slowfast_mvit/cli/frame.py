"""What ``slowfast-mvit watch`` shows of a run: its numbers, as lines that fit a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slowfast_mvit.cli.braille import LABEL_WIDTH, chart
from slowfast_mvit.runtime.log import done_of, duration, printable
from slowfast_mvit.runtime.metric_writers import share_waiting

# What the last line of the log says of a run that has come to an end before its last epoch.
ENDS = {
    "the same command goes on from here": "stopped, and saved",
    "validations: done": "finished early: it got no better",
}
LEAST_SILENCE_S = 120.0  # a validation or a checkpoint may take that long
SILENT_WINDOWS = 5
LEAST_WIDTH, LEAST_HEIGHT = 40, 8
LEAST_CHART_HEIGHT = 4  # with its title
GAP = "   "

Record = Mapping[str, Any]


@dataclass
class RunNumbers:
    """What the records of a run have told so far; x of each point is in epochs.

    Attributes:
        last: the last record of each kind.
        best: the least top-1 error of a validation, in percent, and its epoch; None before one.
        window_s: seconds between the last two lines of the log.
    """

    loss: list[tuple[float, float]] = field(default_factory=list)
    lr: list[tuple[float, float]] = field(default_factory=list)
    train_error: list[tuple[float, float]] = field(default_factory=list)
    val_error: list[tuple[float, float]] = field(default_factory=list)
    last: dict[str, Record] = field(default_factory=dict)
    best: tuple[float, int] | None = None
    window_s: float = 0.0

    def add(self, record: Record) -> None:
        """Take a record in; one of a kind that is not shown changes nothing."""
        kind = record.get("_type")
        if kind == "train_iter_":
            self._add_step(record)
        elif kind == "val_epoch":
            epoch, error = done_of(record, "epoch"), number(record.get("top1_err"))
            self.val_error.append((epoch, error))
            if math.isfinite(error) and (self.best is None or error < self.best[0]):
                self.best = (error, epoch)
        if kind:
            self.last[kind] = record

    def _add_step(self, record: Record) -> None:
        step, num_steps = done_of(record, "iter"), total_of(record, "iter")
        at = done_of(record, "epoch") - 1 + step / max(num_steps, 1)
        for points, name in (
            (self.loss, "loss"),
            (self.lr, "lr"),
            (self.train_error, "top1_err"),
        ):
            points.append((at, number(record.get(name))))
        before = self.last.get("train_iter_")
        same_epoch = before is not None and before.get("epoch") == record.get("epoch")
        num_before = done_of(before, "iter") if before is not None and same_epoch else 0
        self.window_s = (step - num_before) * (number(record.get("dt")) or 0.0)

    @property
    def is_done(self) -> bool:
        """Whether the last epoch is trained, and validated if others were."""
        trained, validated = self.last.get("train_epoch", {}), self.last.get("val_epoch")
        at_end = [
            done_of(record, "epoch") == total_of(record, "epoch")
            for record in (trained, validated)
            if record is not None
        ]
        return bool(trained) and all(at_end)


@dataclass(frozen=True)
class Folder:
    """What a run's folder shows besides its records.

    Attributes:
        name: of the folder.
        silent_s: since a file in it changed.
        checkpoint: name of the newest, and seconds since it was written; None before one.
        num_failed: videos in ``failed_videos.csv``.
        last_line: of ``stdout.log``.
    """

    name: str
    silent_s: float
    checkpoint: tuple[str, float] | None = None
    num_failed: int = 0
    last_line: str = ""


def frame(
    run: RunNumbers, folder: Folder, *, width: int, height: int, braille: bool = True
) -> list[str]:
    """At most ``height`` lines of at most ``width`` characters."""
    width, height = max(width, LEAST_WIDTH), max(height, LEAST_HEIGHT)
    lines = [line for parts in _state(run, folder, width, braille) for line in flow(parts, width)]
    tail = [printable(folder.last_line)] if folder.last_line else []
    if run.loss:
        space = height - len(lines) - len(tail)
        lines += _charts(run, width=width, height=space, braille=braille)
    return [line[:width].rstrip() for line in [*lines, *tail]][:height]


def flow(parts: Sequence[str], width: int) -> list[str]:
    """Parts that stay whole, as many in a line as fit."""
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(GAP) + len(part) <= width:
            lines[-1] += GAP + part
        else:
            lines.append(part)
    return lines


def _state(run: RunNumbers, folder: Folder, width: int, braille: bool) -> list[list[str]]:
    """The parts of each line."""
    name = printable(folder.name)
    step = run.last.get("train_iter_")
    if step is None:
        return [[name, "no step is told yet"], *_rest(run, folder)]
    epoch, max_epoch = done_of(step, "epoch"), total_of(step, "epoch")
    done, num_steps = done_of(step, "iter"), total_of(step, "iter")
    share = (epoch - 1 + done / max(num_steps, 1)) / max(max_epoch, 1)
    share = 1.0 if run.is_done else min(share, 1.0)
    bar = f"{_bar(share, min(width // 2, 60), braille)} {100 * share:.1f} %"
    waiting = share_waiting(step)
    speed = [
        f"{number(step.get('clips_per_s')):.4g} clips/s",
        f"{number(step.get('dt')):.3g} s a step",
    ]
    if waiting is not None:
        speed.append(f"{100 * waiting:.0f} % waiting for data")
    if step.get("gpu_mem", "0.00G") != "0.00G":
        speed.append(f"GPU {step['gpu_mem']}")
    return [
        [name, f"epoch {epoch}/{max_epoch}, step {done:,}/{num_steps:,}", _activity(run, folder)],
        [bar] if run.is_done else [bar, f"ETA {step.get('eta', '?')}"],
        speed,
        *_rest(run, folder),
    ]


def _activity(run: RunNumbers, folder: Folder) -> str:
    if run.is_done:
        return "finished"
    for said, activity in ENDS.items():
        if said in folder.last_line:
            return activity
    if folder.silent_s > max(LEAST_SILENCE_S, SILENT_WINDOWS * run.window_s):
        return f"SILENT for {ago(folder.silent_s)}"
    return f"running, told {ago(folder.silent_s)} ago"


def _rest(run: RunNumbers, folder: Folder) -> list[list[str]]:
    """Checkpoint, troubles and validation."""
    checkpoint = "none yet"
    if folder.checkpoint is not None:
        name, age_s = folder.checkpoint
        checkpoint = f"{printable(name)}, {ago(age_s)} ago"
    skipped = run.last.get("train_iter_", {}).get("num_skipped", 0)
    validation = ["not validated yet"]
    if (record := run.last.get("val_epoch")) is not None:
        top1, top5 = (number(record.get(name)) for name in ("top1_err", "top5_err"))
        epoch = done_of(record, "epoch")
        validation = [f"validated epoch {epoch}: top-1 error {top1:.2f} %, top-5 {top5:.2f} %"]
        if run.best is not None:
            validation.append(f"best {run.best[0]:.2f} %, epoch {run.best[1]}")
    return [
        [f"checkpoint: {checkpoint}"],
        [f"failed videos: {folder.num_failed:,}", f"skipped steps: {skipped:,}"],
        validation,
    ]


def _charts(run: RunNumbers, *, width: int, height: int, braille: bool) -> list[str]:
    """As many charts as are high enough to be read, with one line of epochs below."""
    of_validation = " (o: of validations)" if run.val_error else ""
    charts = [
        ("loss {:.4g}", run.loss, []),
        ("learning rate {:.4g}", run.lr, []),
        ("top-1 error in training {:.4g} %" + of_validation, run.train_error, run.val_error),
    ]
    while charts and (height - 1) // len(charts) < LEAST_CHART_HEIGHT:
        del charts[min(1, len(charts) - 1)]  # the learning rate is known anyhow
    if not charts:
        return []
    x_range = (math.floor(run.loss[0][0]), math.ceil(run.loss[-1][0]))
    lines = []
    for title, curve, marks in charts:
        lines.append(f"{' ' * LABEL_WIDTH}  {title.format(curve[-1][1])}")
        lines += chart(
            curve,
            marks=marks,
            width=width,
            height=(height - 1) // len(charts) - 1,
            x_range=x_range,
            braille=braille,
        )
    first, last = f"epoch {x_range[0]}", str(x_range[1])
    gap = max(width - LABEL_WIDTH - 2 - len(first) - len(last), 1)
    return [*lines, f"{' ' * LABEL_WIDTH}  {first}{' ' * gap}{last}"]


def _bar(share: float, width: int, braille: bool) -> str:
    full, empty = ("█", "░") if braille else ("#", ".")
    num_full = int(share * width)
    return full * num_full + empty * (width - num_full)


def ago(seconds: float) -> str:
    """A time span in its two or three greatest units, such as ``12 min`` or ``3 days, 2 h``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min"
    if seconds < 86400:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
    return duration(seconds // 3600 * 3600).removesuffix(":00:00") + " h"


def number(value: Any) -> float:
    """A number of a record; one that is no number, such as null for NaN, is NaN."""
    return float(value) if isinstance(value, (int, float)) else math.nan


def total_of(record: Record, name: str) -> int:
    """The 200 of a field ``"3/200"`` of a record; 0 where there is no such field."""
    return int(str(record.get(name, "0/0")).split("/")[-1])
