"""Results of prediction as records, and records as text, JSON, CSV, WebVTT and SubRip.

A line of JSON is a record, whose form ``SCHEMA`` names; a file of such lines is the journal from
which a run that was stopped resumes.
"""

from __future__ import annotations

import html
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from slowfast_mvit.errors import ConfigError, printable, writing
from slowfast_mvit.jobs.prediction.scoring import Scored
from slowfast_mvit.jobs.prediction.sources import UNLABELLED
from slowfast_mvit.jobs.prediction.timeline import Timeline, letters_of
from slowfast_mvit.storage import AppendLog, csv_text, whole_lines, write_text_atomically
from slowfast_mvit.structures import FailedVideo

logger = logging.getLogger(__name__)

SCHEMA = "slowfast_mvit.predict/1"
CSV_HEAD = ("video", "start_s", "end_s", "rank", "label", "name", "prob", "true_label", "error")

Record = dict[str, Any]


def record_of_failure(failure: FailedVideo) -> Record:
    """Return the record of a video that cannot be read."""
    return {"schema": SCHEMA, "video": failure.path, "error": failure.reason}


def record_of(
    scored: Scored, names: Sequence[str], top_k: int, timeline: Timeline | None
) -> Record:
    """Return the record of a video: its best classes, and its segments if it has a timeline."""
    record: Record = {"schema": SCHEMA, "video": scored.record.path}
    if scored.record.label != UNLABELLED:
        record["true_label"] = scored.record.label
    record |= {
        "duration_s": round(scored.looked.duration_s, 3),
        "looked_at": scored.looked.text,
        "predictions": [
            {"label": label, "name": names[label], "prob": prob}
            for label, prob in best_of(scored.mean_probs, top_k)
        ],
    }
    if timeline is not None:
        record["segments"] = [asdict(segment) for segment in timeline.segments]
        record["strip"] = timeline.strip()
    return record


def best_of(probs: np.ndarray, top_k: int) -> list[tuple[int, float]]:
    """Return label and probability of the most probable classes, best first."""
    order = np.argsort(-probs, kind="stable")[:top_k].tolist()
    return [(label, float(probs[label])) for label in order]


# Text


def on_one_line(name: str) -> str:
    """Return a name without line ends and control characters."""
    return printable(" ".join(name.split()))


def lines_of(record: Record, *, is_only_one: bool) -> list[str]:
    """Return a record as lines for the terminal: one for a verdict among several videos."""
    if "error" in record:
        return []  # on standard error
    if "segments" in record:
        return [f"{record['video']}: {record['looked_at']}", *_timeline_lines(record)]
    best = [f"{100 * one['prob']:6.2f} %  {one['name']}" for one in record["predictions"]]
    if is_only_one:
        return best
    return [f"{record['video']}: {', '.join(map(str.strip, best))}  ({record['looked_at']})"]


def _timeline_lines(record: Record) -> list[str]:
    segments, strip = record["segments"], record["strip"]
    letter_of = letters_of(one["label"] for one in segments)
    end = clock(record["duration_s"])
    return [
        strip,
        f"{clock(0)}{end:>{len(strip) - len(clock(0))}}",
        *(
            f"{letter_of[one['label']]}  {clock(one['start_s'])} - {clock(one['end_s'])}  "
            f"{100 * one['prob']:6.2f} %  {one['name']}"
            for one in segments
        ),
    ]


def clock(seconds: float, *, point: str = ".", digits: int = 1, hours: bool = False) -> str:
    """Return seconds as ``1:02.5``, from an hour on as ``1:01:02.5``; or as subtitles have it."""
    units = 10**digits
    whole, part = divmod(round(seconds * units), units)
    minutes, whole = divmod(whole, 60)
    text = f"{whole:02d}{point}{part:0{digits}d}"
    if hours or minutes >= 60:
        return f"{minutes // 60:0{2 if hours else 1}d}:{minutes % 60:02d}:{text}"
    return f"{minutes}:{text}"


# Files


def json_line(record: Record) -> str:
    """Return a record as a line of JSON."""
    return json.dumps(record) + "\n"


def csv_lines(record: Record) -> str:
    """Return a record as rows of CSV: a row for each of its best classes, or each segment."""
    true = record.get("true_label", "")
    if "error" in record:
        return csv_text([(record["video"], *[""] * 7, record["error"])])
    rows = record.get("segments")
    if rows is None:
        span = {"start_s": 0.0, "end_s": record["duration_s"]}
        rows = [{**span, **one} for one in record["predictions"]]
    return csv_text(
        (
            record["video"],
            f"{one['start_s']:.3f}",
            f"{one['end_s']:.3f}",
            1 if "segments" in record else rank,
            one["label"],
            one["name"],
            f"{one['prob']:.6f}",
            true,
            "",
        )
        for rank, one in enumerate(rows, start=1)
    )


def vtt_text(record: Record) -> str:
    """Return the segments of a record as WebVTT subtitles."""
    return "WEBVTT\n\n" + "\n".join(_cues(record, ".", html.escape))


def srt_text(record: Record) -> str:
    """Return the segments of a record as SubRip subtitles."""
    cues = _cues(record, ",", lambda name: name.replace("<", "(").replace(">", ")"))
    return "\n".join(f"{number}\n{cue}" for number, cue in enumerate(cues, start=1))


def _cues(record: Record, point: str, escape: Callable[[str], str]) -> Iterator[str]:
    for one in record["segments"]:
        start, end = (
            clock(one[key], point=point, digits=3, hours=True) for key in ("start_s", "end_s")
        )
        name = escape(on_one_line(one["name"]))
        yield f"{start} --> {end}\n{name} ({100 * one['prob']:.0f} %)\n"


SUBTITLES = {".vtt": vtt_text, ".srt": srt_text}
SUFFIXES = (".jsonl", ".csv", ".json", *SUBTITLES)


class OutputFile:
    """The file of ``--output``: its suffix is its format. It is valid whenever the process ends.

    ``.jsonl`` and ``.csv`` grow by each video; the others are written when this is closed.

    Args:
        path: of the file.
        fingerprint: of the settings; a journal of others is refused.

    Raises:
        ConfigError: another suffix, or a journal of other settings.
    """

    def __init__(self, path: str | Path, fingerprint: str) -> None:
        self.path = Path(path)
        self._suffix = check_suffix(path)
        self._fingerprint = fingerprint
        self._records: list[Record] = []
        self._log: AppendLog | None = None
        if self._suffix == ".csv":
            with writing(self.path):
                self.path.unlink(missing_ok=True)
        if self._suffix in (".csv", ".jsonl"):
            self._log = AppendLog(self.path)
        if self._log and self._suffix == ".csv":
            self._log.append(csv_text([CSV_HEAD]).encode())

    def finished(self) -> dict[str, Record]:
        """Return the records in the journal, by video, without those of failures."""
        if self._suffix != ".jsonl":
            return {}
        finished: dict[str, Record] = {}
        num_damaged = 0
        for line in whole_lines(self.path):
            try:
                record = json.loads(line)
                video, fingerprint = record["video"], record["fingerprint"]
            except (ValueError, LookupError, TypeError, RecursionError):
                num_damaged += 1
                continue
            if fingerprint != self._fingerprint:
                raise ConfigError(
                    f"{self.path}: has predictions of other weights or settings. Name another "
                    "--output, or delete it"
                )
            if "error" not in record:
                del record["fingerprint"]
                finished[video] = record
        if num_damaged:
            logger.warning("%s: skipping %d damaged lines", self.path, num_damaged)
        return finished

    def add(self, record: Record) -> None:
        """Add the record of a video."""
        if self._log is None:
            self._records.append(record)
            return
        line = json_line({**record, "fingerprint": self._fingerprint})
        self._log.append((line if self._suffix == ".jsonl" else csv_lines(record)).encode())

    def close(self) -> None:
        """Write what is not written yet."""
        if self._log is not None:
            self._log.close()
        elif self._suffix == ".json":
            text = json.dumps({"schema": SCHEMA, "videos": self._records}, indent=2)
            write_text_atomically(self.path, text + "\n")
        elif self._records and "segments" in self._records[0]:
            write_text_atomically(self.path, SUBTITLES[self._suffix](self._records[0]))

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(self, *ended_by: object) -> None:
        self.close()


def check_suffix(path: str | Path) -> str:
    """Return the suffix of an output file, which is its format.

    Raises:
        ConfigError: there is no such format.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(
            f"--output {path}: the suffix is the format. Choose from: {', '.join(SUFFIXES)}"
        )
    return suffix


def accuracy(records: Iterable[Record]) -> tuple[int, int]:
    """Return the number of videos that are predicted right, and of those that have a label."""
    labelled = [one for one in records if "true_label" in one and "error" not in one]
    right = [one for one in labelled if one["predictions"][0]["label"] == one["true_label"]]
    return len(right), len(labelled)
