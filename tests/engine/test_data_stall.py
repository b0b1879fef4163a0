"""The measured wait for data, and the hint."""

import time

import pytest
import torch

from slowfast_mvit.engine.data_stall import HINT_PERIOD_S, DataStallHint, DataStallTimer


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, to be moved by hand."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def record(share, kind="train_iter_"):
    return {"_type": kind, "dt": 2.0, "dt_data": 2.0 * share}


def hint(**changes):
    return DataStallHint(**{"num_workers": 8, "num_cores": 32, "can_fuse": True} | changes)


def test_two_slow_windows_after_the_first_of_a_process_give_a_hint(caplog, clock):
    data_hint = hint()

    data_hint.write(record(0.9))
    data_hint.write(record(0.9))
    assert caplog.text == ""
    data_hint.write(record(0.34))

    (line,) = [entry.getMessage() for entry in caplog.records]
    assert line == (
        "training waits for data 34 % of the time: 8 workers on 32 cores read too slowly. "
        "Remedies, in this order: raise DATA_LOADER.NUM_WORKERS; make the videos small once, with "
        "data_prep/resize_videos.py; set AUG.AA_METHOD fused"
    )


def test_a_hint_is_repeated_after_a_while_and_not_in_each_line(caplog, clock):
    data_hint = hint()
    for _ in range(5):
        data_hint.write(record(0.5))
        clock[0] += 10
    assert len(caplog.records) == 1

    clock[0] += HINT_PERIOD_S
    data_hint.write(record(0.5))

    assert len(caplog.records) == 2


def test_a_slow_window_here_and_there_gives_no_hint(caplog, clock):
    data_hint = hint()

    for share in (0.9, 0.5, 0.0, 0.5, 0.1, 0.5):
        data_hint.write(record(share))

    assert caplog.text == ""


def test_a_tenth_of_the_time_is_no_reason_for_a_hint(caplog, clock):
    data_hint = hint()

    for _ in range(3):
        data_hint.write(record(0.1))
        data_hint.write(record(0.9, kind="train_epoch"))

    assert caplog.text == ""


@pytest.mark.parametrize(
    ("changes", "said", "unsaid"),
    [
        ({"num_workers": 0}, "DATA_LOADER.NUM_WORKERS is 0, so nothing is read ahead", "0 workers"),
        ({"num_workers": 32}, "more cores for each GPU", "raise DATA_LOADER"),
        ({"can_fuse": False}, "resize_videos.py", "AA_METHOD"),
    ],
)
def test_the_hint_lists_the_possible_remedies(caplog, clock, changes, said, unsaid):
    data_hint = hint(**changes)

    for _ in range(3):
        data_hint.write(record(0.5))

    assert said in caplog.text and unsaid not in caplog.text


def test_only_the_time_between_wanting_and_getting_counts(clock):
    wait = DataStallTimer(torch.device("cpu"))
    for waited_s in (0.5, 0.25):
        clock[0] += 3
        wait.start()
        clock[0] += waited_s
        wait.stop()

    assert wait.take() == 0.75
    assert wait.take() == 0.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("num_products", "least_s", "most_s"), [(0, 0.04, 0.2), (50, 0.0, 0.005)])
def test_on_a_gpu_only_a_wait_without_work_counts(num_products, least_s, most_s):
    device = torch.device("cuda")
    matrix = torch.randn(8192, 8192, device=device)
    torch.mm(matrix, matrix)
    torch.cuda.synchronize()
    wait = DataStallTimer(device)

    for _ in range(num_products):
        torch.mm(matrix, matrix)  # much longer together than the host waits
    wait.start()
    time.sleep(0.05)
    wait.stop()

    assert least_s <= wait.take() < most_s
