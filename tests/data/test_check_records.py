"""Damaged videos are known before the first epoch where check_videos.py has left its records."""

from __future__ import annotations

import hashlib
import json

import pytest

from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.lists.check_records import report_damaged
from slowfast_mvit.errors import ListError


def listed(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"12345")
    return VideoList(names, [0] * len(names), folder=folder, source=folder / "train.csv")


def write_records(folder, *records):
    lines = (json.dumps({"bytes": 5, "reason": "cut short", **record}) for record in records)
    (folder / "check.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_damaged_videos_are_named_before_training_reads_them(tmp_path, caplog):
    videos = listed(tmp_path, "a.mp4", "b.mp4", "c.mp4", "d.mp4")
    write_records(
        tmp_path,
        {"path": "./a.mp4", "status": "failed"},
        {"path": "b.mp4", "status": "ok"},
        {"path": str(tmp_path / "c.mp4"), "status": "failed"},
        {"path": "d.mp4", "status": "failed", "bytes": 4},  # replaced since
        {"path": "of another list.mp4", "status": "failed"},
    )

    report_damaged(videos, tmp_path, max_fraction=0.5)

    (line,) = caplog.messages
    assert line.startswith(f"{tmp_path / 'check.jsonl'}: 2 of 4 videos of {tmp_path / 'train.csv'}")
    assert line.endswith("are damaged: 2 problems\n  a.mp4: cut short\n  c.mp4: cut short")
    with pytest.raises(ListError, match=r"2 of 4 .*\n.*\n.*\nDATA\.MAX_FAILED_FRACTION .* 0\.25"):
        report_damaged(videos, tmp_path, max_fraction=0.25)


def test_records_of_a_folder_below_are_found_by_name_size_and_content(tmp_path, caplog):
    (tmp_path / "train").mkdir()
    videos = listed(tmp_path, "train/a.mp4", "train/b.mp4", "train/c.mp4")
    (tmp_path / "train/c.mp4").write_bytes(b"")
    of_a = hashlib.sha256(b"12345").hexdigest()
    write_records(
        tmp_path,
        {"path": "a.mp4", "status": "failed", "sha256": of_a},
        {"path": "b.mp4", "status": "failed", "sha256": "of another b.mp4"},
        {"path": "c.mp4", "status": "failed", "bytes": 0},
    )

    report_damaged(videos, tmp_path)

    (line,) = caplog.messages
    assert line.endswith("2 problems\n  train/a.mp4: cut short\n  train/c.mp4: cut short")


def test_without_records_nothing_is_logged(tmp_path, caplog):
    videos = listed(tmp_path, "a.mp4")

    report_damaged(videos, tmp_path, max_fraction=0.0)
    write_records(tmp_path, {"path": "a.mp4", "status": "ok"})
    report_damaged(videos, tmp_path, max_fraction=0.0)

    assert not caplog.messages


@pytest.mark.parametrize("line", ["{", "[1]", "\x00"])
def test_damaged_records_are_refused_with_their_line(tmp_path, line):
    videos = listed(tmp_path, "a.mp4")
    (tmp_path / "check.jsonl").write_text(f"{{}}\n{line}\n")

    with pytest.raises(ListError, match=r"check.jsonl: line 2 is not a record"):
        report_damaged(videos, tmp_path)
