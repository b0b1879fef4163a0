"""A program for the tests of the watchdog: one of several ranks that train, of which one hangs.

hanging_ranks.py RANK WORD    in its third step RANK hangs, or what WORD says
"""

import os
import signal
import sys
import time

import torch

from slowfast_mvit.cli.exit_status import guarded
from slowfast_mvit.runtime.distributed import process_group, rank, sum_over_ranks, wait_for_all
from slowfast_mvit.runtime.stopping import stop_requests
from slowfast_mvit.runtime.watchdog import note_progress, waiting_for_ranks

LIMIT_S = 2.0


SIGNALS = {"stopped": signal.SIGSTOP, "killed": signal.SIGKILL}


def hang(word):
    if word in SIGNALS:
        os.kill(os.getpid(), SIGNALS[word])
    elif word == "raises":
        raise RuntimeError("a bug")
    else:
        time.sleep(LIMIT_S / 2 if word == "slow" else 600)


def run(hanging, word):
    print("pid", os.getpid())
    with process_group(torch.device("cpu"), LIMIT_S), stop_requests() as stop:
        for step in range(3):
            note_progress(f"epoch 1, step {step + 1}, reading videos", (0, step, 0))
            if (step, rank()) == (2, hanging):
                hang(word)
            with waiting_for_ranks():
                sum_over_ranks(torch.ones(1))
            stop.agreed()
        wait_for_all("the end")


if __name__ == "__main__":
    sys.exit(guarded(lambda: run(int(sys.argv[1]), sys.argv[2])))
