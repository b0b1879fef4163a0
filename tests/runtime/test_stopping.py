"""Signals that ask a run to stop: noted, agreed on between processes, and never lost."""

import os
import signal
import threading

import pytest
from ranks import run_ranks

from slowfast_mvit.errors import Stopped
from slowfast_mvit.runtime.distributed import rank
from slowfast_mvit.runtime.stopping import SIGNALS, stop_requests


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_the_handler_before_it_put_back(number):
    before = signal.getsignal(number)

    with stop_requests() as stop:
        assert stop.agreed() == 0
        stop.raise_if_requested()
        os.kill(os.getpid(), number)

        assert stop.agreed() == number
        with pytest.raises(Stopped) as caught:
            stop.raise_if_requested()

    assert caught.value.signal_number == number
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_is_not_waited_for(capfd):
    with stop_requests(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        assert "Stopping after this step" in capfd.readouterr().err
        os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_main_thread_nothing_is_touched():
    before = [signal.getsignal(number) for number in SIGNALS]
    seen = []

    def run():
        with stop_requests() as stop:
            seen.append((stop.agreed(), [signal.getsignal(number) for number in SIGNALS]))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    assert seen == [(0, before)]


def steps_until_stopped(rank_of_signal, step_of_signal):
    """The number of steps a rank does, and the signal it stops at."""
    with stop_requests() as stop:
        for step in range(100):
            if (rank(), step) == (rank_of_signal, step_of_signal):
                os.kill(os.getpid(), signal.SIGUSR1)
            number = stop.agreed()
            if number:
                return step, number
    return None


@pytest.mark.parametrize("rank_of_signal", [0, 2])
def test_all_processes_stop_after_the_same_step(rank_of_signal):
    stops = run_ranks(steps_until_stopped, 3, rank_of_signal, 5)

    assert stops == [(6, signal.SIGUSR1)] * 3
