"""A run watched in a terminal: what is shown of it, in any state of its files."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slowfast_mvit.cli import main
from slowfast_mvit.cli.braille import chart
from slowfast_mvit.cli.frame import Folder, RunNumbers, ago, flow, frame
from slowfast_mvit.cli.watch import GrowingLog
from slowfast_mvit.errors import Stopped
from slowfast_mvit.runtime.log import StatsLog

REPOSITORY = Path(__file__).resolve().parents[2]


def step_record(epoch, step, **changes):
    record = {
        "_type": "train_iter_",
        "epoch": f"{epoch}/4",
        "iter": f"{step}/20",
        "loss": 6.0 - epoch - step / 20,
        "lr": 1e-3 * epoch,
        "top1_err": 90.0 - 10 * epoch,
        "dt": 0.5,
        "dt_data": 0.02,
        "clips_per_s": 256.0,
        "eta": "1:02:03",
        "gpu_mem": "11.20G",
        "num_skipped": 1,
    }
    return record | changes


def records(num_epochs=2):
    for epoch in range(1, num_epochs + 1):
        yield step_record(epoch, 10)
        yield step_record(epoch, 20)
        yield {"_type": "train_epoch", "epoch": f"{epoch}/4"}
        errors = {"top1_err": 70.0 + 5 * (epoch - 1), "top5_err": 30.0}
        yield {"_type": "val_epoch", "epoch": f"{epoch}/4", **errors}


def numbers(*some):
    run = RunNumbers()
    for record in some or records():
        run.add(record)
    return run


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "k400"
    stats = StatsLog(folder)
    for record in records():
        stats.write(record)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "checkpoint_epoch_00002.pyth").touch()
    (folder / "checkpoints" / ".tmp-1-ckpt_epoch_00003.pyth").touch()
    (folder / "failed_videos.csv").write_text("video_id\na\nb\n")
    (folder / "stdout.log").write_text("first\nsaved \x1b[2J it\n")
    return folder


def test_one_frame_tells_all_there_is_to_know(run_folder, capsys):
    assert main(["watch", str(run_folder), "--once"]) == 0

    shown = capsys.readouterr().out
    for expected in (
        f"{run_folder}",
        "epoch 2/4, step 20/20",
        "running, told",
        "50.0 %   ETA 1:02:03",
        "256 clips/s   0.5 s a step   4 % waiting for data   GPU 11.20G",
        "checkpoint: checkpoint_epoch_00002.pyth,",
        "failed videos: 2   skipped steps: 1",
        "validated epoch 2: top-1 error 75.00 %, top-5 30.00 %   best 70.00 %, epoch 1",
        "loss 3",
        "learning rate 0.002",
        "top-1 error in training 70 % (o: of validations)",
        "saved \\x1b[2J it",
    ):
        assert expected in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 12), (200, 60), (80, 8)])
def test_a_frame_fits_its_terminal(width, height):
    folder = Folder("runs/" + "long " * 30, 5.0, ("checkpoint_epoch_00002.pyth", 7.0), 3, "x" * 300)

    lines = frame(numbers(), folder, width=width, height=height)

    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert "checkpoint: checkpoint_epoch_00002.pyth" in "\n".join(lines)


def test_a_small_terminal_gets_fewer_charts_and_no_flat_ones():
    titles = ("loss", "learning rate", "top-1 error in training")

    def shown(height):
        text = "\n".join(frame(numbers(), Folder("run", 5.0), width=80, height=height))
        return [title for title in titles if f"  {title} " in text]

    assert shown(24) == list(titles)
    assert shown(16) == ["loss", "top-1 error in training"]
    assert shown(12) == ["loss"]
    assert shown(8) == []


@pytest.mark.parametrize(
    ("dt", "silent_s", "said"),
    [
        (0.5, 100, "running, told 1 min ago"),
        (0.5, 400, "SILENT for 6 min"),
        (30, 400, "running, told 6 min ago"),  # ten steps of it last five minutes
        (30, 4000, "SILENT for 1 h 6 min"),
    ],
)
def test_a_run_is_called_silent_when_lines_are_long_overdue(dt, silent_s, said):
    run = numbers(step_record(2, 10, dt=dt), step_record(2, 20, dt=dt))

    assert said in frame(run, Folder("run", silent_s), width=80, height=24)[0]


def test_a_finished_run_is_said_to_be_finished():
    lines = frame(numbers(*records(4)), Folder("run", 1e6), width=80, height=24)

    assert lines[0].endswith("finished")
    assert "100.0 %" in lines[1] and "ETA" not in lines[1]


@pytest.mark.parametrize(
    ("last_line", "said"),
    [
        ("INFO top-1 got no better in 2 validations: done", "finished early"),
        (f"INFO {Stopped(15)}", "stopped, and saved"),
    ],
)
def test_a_run_that_ended_before_its_last_epoch_is_not_called_silent(last_line, said):
    run = numbers(step_record(2, 10), step_record(2, 20))

    lines = frame(run, Folder("run", 1e6, last_line=last_line), width=80, height=24)

    assert said in lines[0]


def test_numbers_that_were_not_finite_leave_gaps():
    run = numbers(step_record(1, 10, loss=None, top1_err=None), step_record(1, 20, loss=None))

    text = "\n".join(frame(run, Folder("run", 1.0), width=80, height=24))

    assert "loss nan" in text and "top-1 error in training 80 %" in text


def test_lines_are_taken_in_as_they_come_and_torn_ones_when_they_are_whole(run_folder):
    log = GrowingLog(run_folder / "json_stats.log")
    assert len(log.update().loss) == 4
    line = 'json_stats: {"_type": "train_iter_", "epoch": "3/4", "iter": "10/20", "loss": 1.0}\n'
    with open(log.path, "a") as file:
        file.write("\x00\x00 garbage\n" + line[:40])

    assert len(log.update().loss) == 4
    with open(log.path, "a") as file:
        file.write(line[40:])
    assert log.update().loss[-1] == (2.5, 1.0)


def test_a_log_that_a_resumed_run_replaced_is_read_anew(run_folder):
    log = GrowingLog(run_folder / "json_stats.log")
    log.update()

    StatsLog(run_folder).keep_until(epoch=1, step=10)
    run = log.update()

    assert [at for at, _ in run.loss] == [0.5, 1.0, 1.5]
    assert run.val_error == [(1, 70.0)]


def test_a_folder_without_a_run_and_none_at_all_are_told(tmp_path, capsys):
    assert main(["watch", str(tmp_path), "--once"]) == 0
    assert "no json_stats.log there yet" in capsys.readouterr().out
    (tmp_path / "stdout.log").write_text("reading the list\n")
    assert main(["watch", str(tmp_path), "--once"]) == 0
    shown = capsys.readouterr().out
    assert "no step is told yet" in shown and "reading the list" in shown

    assert main(["watch", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["watch", "s3://bucket/run"]) == 2
    assert "only a local folder can be watched" in capsys.readouterr().err


def test_a_terminal_is_drawn_again_and_again_until_ctrl_c(run_folder):
    ours, theirs = pty.openpty()
    program = "import sys; from slowfast_mvit.cli import main; sys.exit(main(sys.argv[1:]))"
    watch = subprocess.Popen(
        [sys.executable, "-c", program, "watch", str(run_folder)],
        stdout=theirs,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "utf-8"},
    )
    os.close(theirs)
    try:
        shown = b""
        end_s = time.monotonic() + 60
        while shown.count(b"\x1b[H") < 2 and time.monotonic() < end_s:
            if select.select([ours], [], [], 1)[0]:
                shown += os.read(ours, 1 << 16)
        watch.send_signal(signal.SIGINT)
        status = watch.wait(timeout=60)
    finally:
        watch.kill()
        watch.wait()
        os.close(ours)

    text = shown.decode("utf-8", errors="replace")
    assert text.count("\x1b[H") >= 2
    assert "epoch 2/4, step 20/20" in text and any("⠀" < sign <= "⣿" for sign in text)
    assert status == 0


def test_a_line_that_falls_is_drawn_falling():
    curve = [(x, 10.0 - x) for x in range(8)]

    assert chart(curve, width=14, height=2, x_range=(0, 8)) == ["      10 |⠑⢄", "       3 |  ⠑⢄"]
    assert chart(curve, width=14, height=2, x_range=(0, 8), braille=False) == [
        "      10 |**",
        "       3 |  **",
    ]


def test_marks_gaps_and_level_lines_are_drawn():
    level = chart([(0, 3.0), (1, float("nan")), (4, 3.0)], width=14, height=1, x_range=(0, 4))
    marked = chart([(0, 0.0)], marks=[(4, 1.0)], width=14, height=2, x_range=(0, 4))

    assert level == ["       3 |⠤⠤⠤⠤"]
    assert marked == ["       1 |   o", "       0 |⡀"]
    assert chart([], width=14, height=2, x_range=(0, 1)) == ["         |", "         |"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5.4, "5 s"),
        (125, "2 min"),
        (3725, "1 h 2 min"),
        (95000, "1 day, 2 h"),
        (2e5, "2 days, 7 h"),
    ],
)
def test_time_spans_are_told_in_round_units(seconds, text):
    assert ago(seconds) == text


def test_parts_that_do_not_fit_a_line_go_to_the_next():
    assert flow(["aaaa", "bbb", "cc"], 10) == ["aaaa   bbb", "cc"]
