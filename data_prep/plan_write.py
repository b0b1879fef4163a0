"""The lists of a plan and the reports on it, as files.

    train.csv, val.csv, ...   path label: videos that are there, for ``DATA.PATH_TO_DATA_DIR``
    classes.txt               one class a line, in the order of the labels
    missing.csv               videos and files that are not in the lists, with reasons
    extra.csv                 files that no annotation names
    summary.json              counts by split, reason and class

The same input gives the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.planning import NO_FILE, SHOWN, SPLITS, Plan
from slowfast_mvit.annotations.csv_lists import list_line
from slowfast_mvit.annotations.records import first_few
from slowfast_mvit.errors import UserError, in_one_message
from slowfast_mvit.storage import write_text_atomically

_SUMMARY = "summary.json"
_SHOWN_CLASSES = 8


def refuse_foreign_lists(out: Path) -> None:
    """Refuse a folder with lists that were not written here: annotations have the same names.

    Raises:
        UserError: names the files in the way.
    """
    if _earlier_files(out):
        return
    reports = ("classes.txt", "missing.csv", "extra.csv", _SUMMARY)
    names = [*(f"{split}.csv" for split in (*SPLITS, "holdout_test")), *reports]
    present = [name for name in names if (out / name).exists()]
    if present:
        raise UserError(
            f"{out}: already contains {', '.join(present)}, not written by this script. Give "
            "another --out, so that no annotation is lost"
        )


def _earlier_files(out: Path) -> list[str]:
    try:
        files = json.loads((out / _SUMMARY).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [file for file in files if isinstance(file, str) and Path(file).name == file]


def write_plan(plan: Plan, out: Path, *, videos: Path, absolute: bool = False) -> dict[str, Any]:
    """Write the lists and reports; each file is replaced at once, and summary.json last.

    Args:
        plan: the plan to write.
        out: the folder for them.
        videos: the folder that the paths in the plan start from.
        absolute: write whole paths, so that no ``DATA.PATH_PREFIX`` is needed.

    Returns:
        The content of summary.json.

    Raises:
        UserError: when no video is left to list, or none of a class that must be trained.
    """
    if not plan.listed:
        raise UserError(_nothing_listed(plan, videos))
    untrained = _untrained_classes(plan) if plan.trains_all_classes else []
    if untrained:
        raise UserError(in_one_message(str(videos), untrained, limit=SHOWN))
    header = ("split", "video", "class", "reason", "path", "detail")
    texts = {
        **{f"{split}.csv": text for split, text in _lists(plan, videos, absolute).items()},
        "classes.txt": "".join(f"{name}\n" for name in plan.class_names),
        "missing.csv": _table([header, *sorted(plan.left_out)]),
        "extra.csv": _table([("path",), *sorted((path,) for path in plan.extra)]),
    }
    summary = {
        **summary_of(plan),
        "paths_start_from": "" if absolute else str(videos),
        "files": sorted([*texts, _SUMMARY]),
    }
    stale = set(_earlier_files(out)) - set(summary["files"])
    for name, text in texts.items():
        write_text_atomically(out / name, text)
    for name in sorted(stale):
        (out / name).unlink(missing_ok=True)
    text = json.dumps(summary, indent=1, ensure_ascii=True) + "\n"
    write_text_atomically(out / _SUMMARY, text)
    return summary


def _nothing_listed(plan: Plan, videos: Path) -> str:
    reasons = Counter(item.reason for item in plan.left_out)
    counted = [f"{count:,} {reason}" for reason, count in reasons.most_common()]
    first = next((i for i in plan.left_out if i.reason == NO_FILE), None)
    example = [f"no file for {first.video!r}, for example"] if first else []
    return in_one_message(
        f"{videos}: none of the {sum(plan.num_annotated.values()):,} videos can be listed",
        [*counted, *example, *plan.notes, "no list was written"],
    )


def _untrained_classes(plan: Plan) -> list[str]:
    """The classes without a video for training, with those that are left out or in other lists."""
    listed = Counter((item.class_name, item.split) for item in plan.listed)
    found = Counter((i.class_name, f"{i.reason} in {i.split}") for i in plan.left_out)
    found.update((i.class_name, f"in {i.split}") for i in plan.listed)
    return [
        f"class {name!r} has no videos to train on"
        + "".join(f"; {count:,} {what}" for (of, what), count in found.items() if of == name)
        for name in plan.class_names
        if "train" in plan.num_annotated and not listed[name, "train"]
    ]


def _lists(plan: Plan, videos: Path, absolute: bool) -> dict[str, str]:
    label_of = {name: label for label, name in enumerate(plan.class_names)}
    root = videos.absolute() if absolute else None
    lines: dict[str, list[str]] = {}
    for item in sorted(plan.listed, key=lambda item: item.path):
        path = item.path if root is None else str(root / item.path)
        line = list_line(path, label_of[item.class_name])
        lines.setdefault(item.split, []).append(line)
    return {split: "".join(lines[split]) for split in plan.splits if split in lines}


def _table(rows: Iterable[Sequence[str]]) -> str:
    """A CSV file of one line a row."""
    text = io.StringIO()
    rows = ([escaped(cell) for cell in row] for row in rows)
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def escaped(text: str) -> str:
    """The text with escapes for bytes that are not UTF-8 and for control characters."""
    whole = text.encode("utf-8", "backslashreplace").decode()
    return re.sub(r"[\x00-\x1f\x7f]", lambda match: repr(match[0])[1:-1], whole)


# Counting


def summary_of(plan: Plan) -> dict[str, Any]:
    """The counts of a plan, as in summary.json."""
    by_class = Counter((item.split, item.class_name) for item in plan.listed)
    return {
        "name": plan.name,
        "dataset": plan.dataset,
        "num_classes": len(plan.class_names),
        "splits": {split: _split_summary(plan, split, by_class) for split in plan.splits},
        "extra_files": len(plan.extra),
        "notes": plan.notes,
        "classes": {
            name: {split: by_class[split, name] for split in plan.splits if by_class[split, name]}
            for name in plan.class_names
        },
    }


def _split_summary(
    plan: Plan, split: str, by_class: Mapping[tuple[str, str], int]
) -> dict[str, Any]:
    listed = sum(item.split == split for item in plan.listed)
    reasons = Counter(item.reason for item in plan.left_out if item.split == split)
    return {
        "annotated": plan.num_annotated[split],
        "listed": listed,
        "left_out": dict(sorted(reasons.items())),
        "public": dict(plan.public.get(split, {})),
        "classes_without_videos": [
            name for name in plan.class_names if listed and not by_class[split, name]
        ],
    }


def describe(summary: Mapping[str, Any], out: Path) -> str:
    """The summary as text."""
    lines = [f"{summary['name']}: {summary['num_classes']} classes, lists in {out}"]
    for split, counts in summary["splits"].items():
        lines.append(f"  {counts['listed']:,} of {counts['annotated']:,} {split} videos present")
        public = [f"{who} {count:,}" for who, count in counts["public"].items()]
        if public:
            lines[-1] += f" (public: {', '.join(public)})"
        left_out = [f"{count:,} {reason}" for reason, count in counts["left_out"].items()]
        if left_out:
            lines.append(f"    left out, see missing.csv: {', '.join(left_out)}")
        without = counts["classes_without_videos"]
        if without:
            names = first_few(without, _SHOWN_CLASSES)
            lines.append(f"    classes without a video: {len(without)} ({names})")
    if summary["extra_files"]:
        lines.append(f"  files in no annotation, see extra.csv: {summary['extra_files']:,}")
    lines += [f"  {note}" for note in summary["notes"]]
    return "\n".join(map(escaped, [*lines, f"Use with {shlex.join(_config_of(summary, out))}"]))


def _config_of(summary: Mapping[str, Any], out: Path) -> list[str]:
    """The keys and values that a run with these lists needs."""
    dataset = summary["dataset"]
    keys = {
        "TRAIN.DATASET": dataset,
        "TEST.DATASET": dataset,
        "MODEL.NUM_CLASSES": str(summary["num_classes"]),
        "DATA.PATH_TO_DATA_DIR": str(out),
        "DATA.PATH_PREFIX": summary["paths_start_from"],
    }
    return [word for key, value in keys.items() if value for word in (key, value)]
