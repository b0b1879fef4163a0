"""Videos that cannot be read: counted by kind, written down once, the same after a resume."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from failing_run import BAD, failing_run
from tiny_run import Batches, add_and_check, clip_batch, prepare_views, tiny_net, tiny_train

from slowfast_mvit.engine.failed_videos import (
    FailureLimit,
    failures_of_training,
    record_failed_videos,
    summarise_reasons,
)
from slowfast_mvit.engine.test import validate
from slowfast_mvit.errors import DecodeError, UserError
from slowfast_mvit.optim.objectives import cross_entropy
from slowfast_mvit.runtime.checkpoint import latest_checkpoint
from slowfast_mvit.runtime.log import StatsLog
from slowfast_mvit.structures import FailedVideo

PROGRAM = Path(__file__).with_name("failing_run.py")
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def videos(tmp_path, motion_data):
    """The videos of the demo, a broken one, one to kill readers with, and no missing.mp4."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for path in sorted(motion_data.rglob("*.mp4"))[:12]:
        shutil.copy(path, folder / path.name)
    for name in BAD[:2]:
        (folder / name).write_bytes(b"this is not a video")
    return folder


def failed(name, reason="truncated"):
    path = f"/data/{name}.mp4"
    return FailedVideo(name, path, reason, path)


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.nightly
def test_a_killed_run_with_failures_goes_on_as_the_unbroken_one(tmp_path, videos, caplog):
    failing_run(videos, tmp_path / "unbroken")
    unbroken = (tmp_path / "unbroken" / "batches.txt").read_text().splitlines()
    told = [line for line in caplog.messages if "could not be read" in line]
    broken = tmp_path / "broken"
    run = subprocess.Popen(
        [sys.executable, PROGRAM, videos, broken],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert "in the second epoch" in run.stdout.readline()

    run.send_signal(signal.SIGKILL)
    run.communicate()
    caplog.clear()
    failing_run(videos, broken, resume_from=latest_checkpoint(broken))

    before, after = unbroken[:5], unbroken[3:]  # its last step before the kill was never noted
    assert (broken / "batches.txt").read_text().splitlines() == before + after
    assert [line for line in caplog.messages if "could not be read" in line] == told[1:]
    rows = rows_of(broken / "failed_videos.csv")
    assert sorted(row["video_id"] for row in rows) == sorted(BAD)
    assert {(row["split"], row["epoch"]) for row in rows} <= {("train", "1"), ("train", "2")}
    (kills,) = [row["reason"] for row in rows if row["video_id"] == "kills.mp4"]
    assert "crashes the process that reads it" in kills


def test_an_epoch_ends_with_its_failures_by_kind(tmp_path, caplog):
    failures = [
        failed("x", "12 of 30 frames"),
        failed("y", "7 of 250 frames"),
        failed("z"),
    ]
    batches = [clip_batch("abcdef", failures=failures), clip_batch("abcdef")]

    tiny_train(tiny_net(), tmp_path, loader=Batches(batches), max_failed_fraction=0.5, max_epoch=1)

    assert (
        "epoch 1: 3 of 15 videos could not be read, and others took their places: "
        "2 x 12 of 30 frames (first: x); 1 x truncated (first: z)"
    ) in caplog.messages
    (epoch,) = StatsLog(tmp_path).read("train_epoch")
    assert epoch["num_failed"] == 3


def test_rare_kinds_of_reasons_are_summed_up():
    failures = [failed(f"{n}.mp4", letter) for n, letter in enumerate("aabbccdef")]

    assert summarise_reasons(failures) == (
        "2 x a (first: 0.mp4); 2 x b (first: 2.mp4); 2 x c (first: 4.mp4); 3 x other reasons"
    )


def test_a_video_that_fails_twice_counts_as_two_attempts_and_one_video(tmp_path):
    limit = FailureLimit(tmp_path / "failed.csv", max_fraction=0.2, num_videos=4)
    limit.add(clip_batch("abcd", failures=[failed("x"), failed("x"), failed("y")]))
    text = r"3 of 7 attempts to read a video failed, with 2 different videos in this"

    with pytest.raises(UserError, match=text):
        add_and_check(limit)


def test_a_report_has_the_videos_that_training_could_not_read(tmp_path):
    assert failures_of_training(tmp_path) == []
    failures = [failed(name, "gave 12 of 30 frames") for name in "uvwxy"]
    record_failed_videos(tmp_path / "failed_videos.csv", failures[:1], split="val", epoch=0)
    record_failed_videos(tmp_path / "failed_videos.csv", failures[1:], split="train", epoch=0)

    (line,) = failures_of_training(tmp_path)

    assert line.startswith("training could not read 4 of its videos, see failed_videos.csv: ")
    assert "v (gave 12 of 30 frames); w (" in line and line.endswith("; and 1 more")


def test_a_limit_of_zero_stops_at_the_first_failure(tmp_path):
    limit = FailureLimit(tmp_path / "failed.csv", max_fraction=0.0, num_videos=1000)

    limit.add(clip_batch("ab"))
    add_and_check(limit)
    limit.add(clip_batch("ab", failures=[failed("x")]))
    with pytest.raises(UserError, match=r"1 of 1,000 videos .* First: /data/x.mp4: truncated\."):
        add_and_check(limit)


def test_an_epoch_that_was_cut_off_goes_on_counting(tmp_path):
    limit = FailureLimit(tmp_path / "failed.csv", max_fraction=0.2, num_videos=10)
    limit.add(clip_batch("abcd", failures=[failed("x")]))
    add_and_check(limit)
    again = FailureLimit(tmp_path / "failed.csv", max_fraction=0.2, num_videos=10)
    again.start_epoch(0)

    again.restore(limit.state())

    again.add(clip_batch("ab", failures=[failed("y")]))
    add_and_check(again)
    assert again.num_tried == 8
    with pytest.raises(UserError, match="2 of 8 videos"):
        again.end_epoch()


def test_videos_are_listed_with_where_they_were_first_met(tmp_path):
    path = tmp_path / "failed_videos.csv"
    limit = FailureLimit(path, max_fraction=1.0, num_videos=4)

    for epoch in (3, 4):
        limit.start_epoch(epoch)
        limit.add(clip_batch("ab", failures=[failed("x")]))
        add_and_check(limit)
    validate(
        tiny_net(),
        Batches([clip_batch("ab", failures=[failed("x"), failed("y")])]),
        prepare_views,
        cross_entropy,
        device=next(tiny_net().parameters()).device,
        forward_batch=2,
        failed_path=path,
        epoch=4,
    )

    assert path.read_text().splitlines() == [
        "video_id,path,reason,split,epoch",
        "x,/data/x.mp4,/data/x.mp4: truncated,train,4",
        "y,/data/y.mp4,/data/y.mp4: truncated,val,5",
    ]


@pytest.mark.parametrize("num_lost", [1, 9, 20, 40])
def test_a_line_cut_short_by_a_kill_spoils_no_other(tmp_path, num_lost):
    path = tmp_path / "failed_videos.csv"
    failures = [failed("x"), failed("y", "sizes (H, W, 3):\n(2, 4, 3)"), failed("z")]
    record_failed_videos(path, failures[:2])
    path.write_bytes(path.read_bytes()[:-num_lost])

    record_failed_videos(path, failures)

    assert [row["video_id"] for row in rows_of(path)] == ["x", "y", "z"]
    assert rows_of(path)[1]["reason"] == r"/data/y.mp4: sizes (H, W, 3):\n(2, 4, 3)"
    assert path.read_text().count("\n") == 4  # a line for each


def test_names_that_a_spreadsheet_would_run_are_made_harmless(tmp_path):
    path = tmp_path / "failed_videos.csv"
    names = ["=cmd|x!A1", "@sum", "\t=1", "a,b", 'a"b', "-dQw4w9WgXc", "\udcff\n"]

    record_failed_videos(path, [failed(name) for name in names])
    record_failed_videos(path, [failed(name) for name in names])

    assert [row["video_id"] for row in rows_of(path)] == [
        *("'=cmd|x!A1", "'@sum", "'\t=1", "a,b", 'a"b', "'-dQw4w9WgXc", r"\udcff\n")
    ]


class EndingBatches(Batches):
    """Its second batch cannot be read, nor any video in place of it."""

    def epoch(self, epoch, start_step=0):
        yield clip_batch("ab", failures=[failed("x")])
        error = DecodeError("101 videos in a row cannot be read")
        error.failures = (failed("x"), failed("y"))
        raise error


def test_videos_that_end_training_are_written_down(tmp_path):
    batches = EndingBatches([clip_batch("ab"), clip_batch("ab")])

    with pytest.raises(DecodeError, match="in a row"):
        tiny_train(tiny_net(), tmp_path, loader=batches, max_failed_fraction=1.0, max_epoch=1)

    rows = rows_of(tmp_path / "failed_videos.csv")
    assert [(row["video_id"], row["split"], row["epoch"]) for row in rows] == [
        ("x", "train", "1"),
        ("y", "train", "1"),
    ]
