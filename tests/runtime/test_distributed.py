"""The exchange between the processes of a run, in one process and in several."""

import os
import socket
import subprocess
import sys
import time

import pytest
import torch
from ranks import RankFailed, run_ranks

from slowfast_mvit.errors import UserError
from slowfast_mvit.runtime.distributed import (
    from_main,
    gather_objects,
    is_main,
    local_world_size,
    num_nodes,
    on_main,
    process_group,
    rank,
    require_agreement,
    sum_over_ranks,
    wait_for_all,
    world_size,
)


def places():
    return rank(), world_size(), local_world_size(), num_nodes(), is_main()


def exchange():
    with process_group(torch.device("cpu")):  # joined already: nothing to do
        values = torch.tensor([1.0, 10.0 * rank()], dtype=torch.float64)
        total = sum_over_ranks(values)
        return values.tolist(), total.tolist(), gather_objects(f"r{rank()}"), from_main(rank() + 7)


def fail_on_main():
    if rank() != 0:
        raise AssertionError("called on another rank")
    raise UserError("no such file")


def call_main_twice():
    with pytest.raises(UserError, match="no such file"):
        on_main(fail_on_main)
    return on_main(rank)


def times_of_two_barriers():
    times = []
    for _ in range(2):
        if rank() == 1:
            time.sleep(0.3)
        start_s = time.monotonic()
        wait_for_all("a slow rank")
        times.append((start_s, time.monotonic()))
    return times


def agree(names):
    require_agreement({"torch": "2.10", "config": names[rank()]})


def fail_on(number):
    if rank() == number:
        raise KeyError("only here")
    wait_for_all("a rank that never arrives")


def die_on(number):
    if rank() == number:
        import os

        os.kill(os.getpid(), 9)
    wait_for_all("a rank that never arrives")


def test_one_process_needs_no_group():
    values = torch.ones(2)

    with process_group(torch.device("cpu")):
        assert places() == (0, 1, 1, 1, True)
        assert sum_over_ranks(values) is values
        assert gather_objects("values") == ["values"] and from_main("values") == "values"
        require_agreement({"torch": "2.10"})
        wait_for_all("nothing")


def test_a_result_or_an_error_of_the_main_process_is_that_of_all():
    assert run_ranks(call_main_twice, 2) == [0, 0]
    assert call_main_twice() == 0


def test_ranks_know_their_numbers_and_exchange_objects():
    seen = run_ranks(places, 2)
    exchanged = run_ranks(exchange, 2)

    assert seen == [(0, 2, 2, 1, True), (1, 2, 2, 1, False)]
    assert [values for values, *_ in exchanged] == [[1.0, 0.0], [1.0, 10.0]]
    assert [rest for _, *rest in exchanged] == [[[2.0, 10.0], ["r0", "r1"], 7]] * 2


def test_no_rank_continues_before_the_last_has_arrived():
    everywhere = run_ranks(times_of_two_barriers, 3)

    for barrier in zip(*everywhere, strict=True):
        last_arrival = max(start_s for start_s, _ in barrier)
        assert all(end_s >= last_arrival for _, end_s in barrier)


def test_every_rank_names_the_one_that_differs_and_in_what():
    with pytest.raises(UserError, match=r"rank 2 differs from rank 0 in config: b there, a on"):
        run_ranks(agree, 3, ["a", "a", "b"])


def test_an_error_on_one_rank_ends_the_others_and_is_raised_here():
    with pytest.raises(KeyError, match="only here") as caught:
        run_ranks(fail_on, 2, 1)

    assert "in fail_on" in str(caught.value.__cause__)
    with pytest.raises(RankFailed, match="rank 1 ended without a result"):
        run_ranks(die_on, 2, 1)


def wait_until_asked_to_stop():
    """Rank 0 waits for a rank that is busy, and is asked to stop while it does."""
    asked = []

    def stop():
        asked.append(1)
        if len(asked) == 3:
            raise KeyError("asked to stop")

    if rank() == 0:
        try:
            wait_for_all("a rank that is busy", stop)
        except KeyError:
            return "stopped"
    return "busy"


def test_a_stop_request_ends_the_wait():
    assert run_ranks(wait_until_asked_to_stop, 2) == ["stopped", "busy"]


LAST_TO_ARRIVE_AND_FIRST_TO_LEAVE = """
import sys, time, torch
from slowfast_mvit.runtime import distributed

distributed.MAX_PAUSE_S = 2.0
with distributed.process_group(torch.device("cpu")):
    if distributed.is_main():
        time.sleep(1.5)  # the others poll the store after 1.3 and 2.6 s
    distributed.wait_for_all("the results")
"""


STOPPED_ALONE = """
import sys, time, torch
from slowfast_mvit.errors import Stopped
from slowfast_mvit.runtime import distributed

try:
    with distributed.process_group(torch.device("cpu")):
        if distributed.is_main():
            raise Stopped(15)
        time.sleep(600)
except Stopped:
    sys.exit(143)
"""


def start_ranks(code, world_size):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    place = {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    place |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **place, "RANK": str(number), "LOCAL_RANK": str(number)},
        )
        for number in range(world_size)
    ]


def test_ranks_that_poll_slowly_succeed_when_rank_0_is_done_first():
    ranks = start_ranks(LAST_TO_ARRIVE_AND_FIRST_TO_LEAVE, 3)

    assert [rank.wait() for rank in ranks] == [0, 0, 0]


@pytest.mark.nightly
def test_rank_0_ends_when_it_alone_is_asked_to_stop():
    first, other = start_ranks(STOPPED_ALONE, 2)

    try:
        assert first.wait(timeout=120) == 143
    finally:
        other.kill()
        other.wait()
