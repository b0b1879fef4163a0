"""A program for the tests of launchers: one of several ranks, which does what its words say.

rank_program.py FOLDER WORD...    a word is ACT@RANK (refuse@1, kill@1, wait@all)
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from slowfast_mvit.cli.exit_status import guarded
from slowfast_mvit.errors import Stopped, UserError
from slowfast_mvit.runtime.distributed import (
    process_group,
    rank,
    sum_over_ranks,
    wait_for_all,
    world_size,
)
from slowfast_mvit.runtime.stopping import stop_requests


def refuse(folder):
    raise UserError("the list is empty")


def kill(folder):
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)


def wait_for_stop(folder):
    with stop_requests() as request:
        (folder / f"rank{rank()}.waits").touch()
        while not request.agreed():
            time.sleep(0.02)
        sum_over_ranks(torch.tensor(1.0))  # no rank ends before the last exchange
        raise Stopped(request.requested or signal.SIGTERM)


ACTS = {"refuse": refuse, "kill": kill, "wait": wait_for_stop}


def run(folder, words):
    with process_group(torch.device("cpu")):
        total = int(sum_over_ranks(torch.tensor(1.0)))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "-")
        (folder / f"rank{rank()}.txt").write_text(f"{os.getpid()} {total} {attempt}")
        if rank() == 0:
            threads = os.environ["OMP_NUM_THREADS"]
            print(f"{world_size()} ranks, {total} counted, attempt {attempt}, {threads} threads")
        wait_for_all("the first line")
        for word in words:
            act, _, where = word.partition("@")
            if where in ("all", str(rank())):
                ACTS[act](folder)
        sum_over_ranks(torch.tensor(1.0))


if __name__ == "__main__":
    sys.exit(guarded(lambda: run(Path(sys.argv[1]), sys.argv[2:])))
