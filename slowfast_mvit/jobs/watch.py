"""``slowfast-mvit watch OUTPUT_DIR``: state and curves of a run in a terminal, from its files."""

from __future__ import annotations

import importlib.util
import io
import math
import os
import re
import shutil
import sys
import textwrap
import time
from pathlib import Path

import numpy as np

from slowfast_mvit.engine.reporter import SHOWN, describe
from slowfast_mvit.errors import UserError, printable
from slowfast_mvit.evaluation.results import load_results
from slowfast_mvit.jobs.report import REPORT_FILE, RESULTS_FILE
from slowfast_mvit.runtime.log import Record, done_of, duration, parse_record
from slowfast_mvit.runtime.run_state import RunState, read_run_state

REFRESH_S = 2.0
LEAST_SILENCE_S, SILENT_WINDOWS = 120.0, 5  # a validation may take that long without a line
TAIL_BYTES, NUM_TAIL_LINES = 4096, 3
CHARTS = {"loss": "loss {:.4g}", "top1_err": "top-1 error {:.4g} %", "lr": "lr {:.4g}"}
LEAST_CHART_WIDTH, LEAST_CHART_HEIGHT = 26, 7
STEP = ("iter", "clips_per_s", "dt", "dt_data", "gpu_mem", "num_failed", "num_skipped")
VALIDATION = ("top1_err", "min_top1_err", "top5_err")
_PROGRESS = re.compile(r"\d+/[1-9]\d*")  # "3/200"
CLEAR_SCREEN = "\x1b[H\x1b[J"


def watch_job(output_dir: str, *, once: bool = False) -> None:
    """Show a run until it is finished or Ctrl-C; a single time with ``once`` or without a terminal.

    Raises:
        UserError: there is no such folder here, or plotext is not installed.
    """
    folder = Path(output_dir)
    if not folder.is_dir():
        raise UserError(
            f"{output_dir}: no such local folder. Give the OUTPUT_DIR of a run; fetch a remote one"
        )
    if importlib.util.find_spec("plotext") is None:
        raise UserError('plotext draws the curves: pip install "slowfast_mvit[watch]"')
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not all terminals have the characters of curves
    history = History(folder / "json_stats.log")
    is_live = sys.stdout.isatty() and not once
    try:
        while True:
            state = read_run_state(folder)  # before the other files, which are then complete
            view = "\n".join(status_view(folder, history, state))
            print(CLEAR_SCREEN * is_live + view, flush=True)
            if not is_live or (state is not None and state.status == "finished"):
                return
            time.sleep(REFRESH_S)
    except KeyboardInterrupt:
        print()


class History:
    """The records in a ``json_stats.log`` to which another process appends.

    Attributes:
        last: the last record of each kind.
        curves: (epoch, value) of each log line of training; "val", the top-1 error of validations.
        window_s: seconds between the last two lines.
        is_tested: the last record is of a test.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._clear()

    def _clear(self) -> None:
        self._offset, self._last_line, self.window_s, self.is_tested = 0, b"", 0.0, False
        self.last = dict[str, Record]()
        self.curves = {name: list[tuple[float, float]]() for name in (*CHARTS, "val")}

    def update(self) -> None:
        """Read the new complete lines; all lines of a file that a resumed run has changed."""
        if not self._path.is_file():
            return
        with open(self._path, "rb") as log:
            log.seek(self._offset - len(self._last_line))
            if log.read(len(self._last_line)) != self._last_line:
                self._clear()
                log.seek(0)
            new, newline, _ = log.read().rpartition(b"\n")
        if newline:
            self._offset += len(new + newline)
            self._last_line = new.rpartition(b"\n")[2] + newline
        for line in new.decode("utf-8", errors="replace").splitlines():
            if (record := parse_record(line)) and _is_sound(record):
                self._add({k: math.nan if v is None else v for k, v in record.items()})

    def _add(self, record: Record) -> None:
        kind = str(record.get("_type"))
        self.last[kind] = record
        self.is_tested = record.get("split") == "test_final"
        if kind == "val_epoch":
            error = record.get("top1_err", math.nan)
            self.curves["val"].append((done_of(record, "epoch"), error))
        if kind == "train_iter_":
            num_steps = int(str(record["iter"]).split("/")[1])
            epoch = done_of(record, "epoch") - 1 + done_of(record, "iter") / num_steps
            before = self.curves["loss"][-1][0] if self.curves["loss"] else 0.0
            self.window_s = (epoch - before) * num_steps * record.get("dt", 0.0)
            for name in CHARTS:
                self.curves[name].append((epoch, record.get(name, math.nan)))


def _is_sound(record: Record) -> bool:
    """Return whether a record has the types that a run writes; the log may be damaged."""
    counts = {"train_iter_": ("epoch", "iter"), "val_epoch": ("epoch",)}
    numbers = [record.get(name) for name, form in SHOWN.items() if ":" in form]
    return all(
        _PROGRESS.fullmatch(str(record.get(name)))
        for name in counts.get(str(record.get("_type")), ())
    ) and all(isinstance(value, int | float | None) for value in numbers)


def status_view(folder: Path, history: History, state: RunState | None) -> list[str]:
    """Return lines that fit the terminal; its last line is left for the cursor."""
    history.update()
    width, height = shutil.get_terminal_size((80, 24))
    tail = _tail(folder / "stdout.log")
    if not history.last and not tail:
        return [f"{folder}: no json_stats.log there yet; training writes one"]
    rows = [f"{folder}   {_state_text(folder, history, state)}", *_rows(folder, history)]
    lines = [line for row in rows for line in textwrap.wrap(row, width, break_on_hyphens=False)]
    lines += [*charts(history, width, height - 1 - len(lines) - len(tail)), *tail]
    return [printable(line)[:width].rstrip() for line in lines[: height - 1]]


def _state_text(folder: Path, history: History, state: RunState | None) -> str:
    last_s = max(_changed_s(folder / name) for name in ("json_stats.log", "stdout.log"))
    if state is None:
        return f"running or stopped: last line {ago(last_s)}"
    if state.status != "running":
        return f"{state.status} {ago(state.time_s)}: {state.detail:.200}".removesuffix(": ")
    is_silent = time.time() - last_s > max(LEAST_SILENCE_S, SILENT_WINDOWS * history.window_s)
    return f"{'SILENT, killed or hanging' if is_silent else 'running'}: last line {ago(last_s)}"


def _rows(folder: Path, history: History) -> list[str]:
    """Return what is below the state and above the curves."""
    rows = ["no step of training is logged yet"]
    if step := history.last.get("train_iter_"):
        share = history.curves["loss"][-1][0] / int(step["epoch"].split("/")[1])
        bar = f"{'█' * int(40 * share):░<40} {100 * share:.1f} %"
        rows = [f"{bar}   epoch {step['epoch']}   {describe(step, ['eta'])}", describe(step, STEP)]
    checkpoints = [*folder.glob("checkpoints/c*epoch_*"), *folder.glob("mid_epoch/c*epoch_*")]
    if newest := max(checkpoints, key=_changed_s, default=None):
        rows.append(f"checkpoint {newest.name}, {ago(_changed_s(newest))}")
    if validation := history.last.get("val_epoch"):
        rows.append(f"validated epoch {validation['epoch']}: {describe(validation, VALIDATION)}")
    for path in [*folder.glob(RESULTS_FILE), *folder.glob(f"test_*/{RESULTS_FILE}")]:
        is_newer = _changed_s(path) > _changed_s(folder / "json_stats.log")
        if history.is_tested or is_newer:  # else training has resumed since
            test, report = load_results(path), path.with_name(REPORT_FILE)
            rows.append(f"test: top-1 {test.top1:.2f} %, top-5 {test.top5:.2f} %   {report}")
    return rows


def charts(history: History, width: int, height: int) -> list[str]:
    """Return the curves side by side, as many as fit, without colours; validations as "o"."""
    if height < LEAST_CHART_HEIGHT or not history.curves["loss"]:
        return []
    import plotext

    names = list(CHARTS)[: max(width // LEAST_CHART_WIDTH, 1)]
    plotext.main()
    plotext.clear_figure()
    plotext.plot_size(width, height)
    plotext.subplots(1, len(names))
    for column, name in enumerate(names, start=1):
        curve, marks = history.curves[name], history.curves["val"] if name == "top1_err" else []
        plotext.subplot(1, column)
        plotext.title(CHARTS[name].format(curve[-1][1]))
        plotext.xlabel("epoch (o: validation)" if marks else "epoch")
        plotext.xlim(math.ceil(curve[0][0]) - 1, math.ceil(curve[-1][0]))
        plotext.plot(*thinned(curve, 2 * width), marker="braille")
        plotext.scatter(*thinned(marks, width), marker="o")
    return list(plotext.uncolorize(plotext.build()).splitlines())


def thinned(points: list[tuple[float, float]], num_points: int) -> list[list[float]]:
    """Return x and y of the finite points, averaged in turn to at most ``num_points``."""
    finite = np.array([point for point in points if math.isfinite(point[1])]).reshape(-1, 2)
    parts = np.array_split(finite, max(min(num_points, len(finite)), 1))
    means = np.array([part.mean(axis=0) for part in parts if part.size]).reshape(-1, 2)
    return [means[:, 0].tolist(), means[:, 1].tolist()]


def ago(time_s: float) -> str:
    """Return how long ago a time is, such as ``59 s ago`` or ``1 day, 2:03:04 ago``."""
    seconds = time.time() - time_s
    return f"{seconds:.0f} s ago" if seconds < 120 else f"{duration(seconds)} ago"


def _changed_s(path: Path) -> float:
    """Return when a file last changed; 0 where it is gone, as files of a run may be at any time."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _tail(path: Path) -> list[str]:
    """Return the last lines of a file; none where there is no file."""
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        file.seek(max(os.fstat(file.fileno()).st_size - TAIL_BYTES, 0))
        return file.read().decode("utf-8", errors="replace").splitlines()[-NUM_TAIL_LINES:]
