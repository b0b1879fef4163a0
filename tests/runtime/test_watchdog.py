"""Which rank the watchdog names; the threads are replaced by calls of ``beat``."""

import time

from torch.distributed import HashStore

from slowfast_mvit.runtime.watchdog import NUM_BEATS_LOST, Watchdog

LIMIT_S = 0.01  # ten beats


class Ended(BaseException):
    """The process of a rank has ended."""


def raise_ended(message):
    raise Ended(message)


def watchdogs(number):
    store, hosts = HashStore(), [f"node-{rank}" for rank in range(number)]
    return [Watchdog(store, r, hosts, limit_s=LIMIT_S, end=raise_ended) for r in range(number)]


def messages_after(ranks, num_beats, busy=()):
    """The message of each rank that ends; those in ``busy`` make progress with each beat."""
    ended = {}
    for _ in range(num_beats):
        for number, rank in enumerate(ranks):
            if rank is None or number in ended:
                continue
            if rank in busy:
                rank.note()
            try:
                rank.beat()
            except Ended as end:
                ended[number] = str(end)
    return ended


def test_the_rank_that_waits_for_none_is_named_once_by_rank_0():
    ranks = watchdogs(3)
    ranks[1].note("epoch 2, step 7, reading videos")

    with ranks[0].waiting(), ranks[2].waiting():
        ended = messages_after(ranks, 14)

    assert ended.keys() == {0, 1, 2} and ended[1] == ended[2] == ""
    assert ended[0].startswith("no progress for 0.01 s (DIST_TIMEOUT_S): rank 1 on node-1, at ")
    assert "at epoch 2, step 7, reading videos. Rank 2 waits at the start, so" in ended[0]


def test_a_slow_rank_that_makes_progress_is_waited_for():
    ranks = watchdogs(2)

    with ranks[0].waiting():
        assert messages_after(ranks, 100, busy=[ranks[1]]) == {}
    assert messages_after(ranks, 100) == {}  # none waits: a run may upload files at its end


def test_a_stopped_process_is_named_even_if_it_waits():
    ranks = watchdogs(3)
    for rank in ranks:
        rank.note("epoch 1, step 3, backward pass")
        rank.beat()

    with ranks[1].waiting(), ranks[2].waiting():
        ended = messages_after([None, *ranks[1:]], 14)

    [message] = [message for message in ended.values() if message]
    assert "rank 0 on node-0, at epoch 1, step 3" in message


def test_of_ranks_that_all_wait_the_last_one_to_arrive_is_named():
    ranks = watchdogs(2)
    ranks[0].note("epoch 1, step 3, backward pass", (0, 2, 2))
    ranks[1].note("epoch 1, step 3, forward pass", (0, 2, 1))

    with ranks[0].waiting(), ranks[1].waiting():
        ended = messages_after(ranks, 14)

    assert "rank 1 on node-1, at epoch 1, step 3, forward pass" in ended[0]
    assert "rank 0 on" not in ended[0]


def test_time_when_the_whole_job_is_suspended_does_not_count():
    ranks = watchdogs(2)

    with ranks[0].waiting():
        messages_after(ranks, 5)
        time.sleep(5 * LIMIT_S)
        assert messages_after(ranks, 4) == {}


def test_an_error_is_explained_by_a_rank_that_failed_before_or_is_silent():
    ranks = watchdogs(3)
    messages_after(ranks, 1)

    assert ranks[1].explain(KeyError("x")) == ""  # its own
    lost = ranks[0].explain(RuntimeError("connection closed by peer"))
    assert lost == "rank 1 on node-1, at the start, has ended with KeyError"
    assert ranks[2].explain(RuntimeError("connection closed by peer")) == lost


def test_a_killed_rank_is_lost():
    ranks = watchdogs(2)
    messages_after(ranks, 1)

    assert NUM_BEATS_LOST * LIMIT_S < 1
    lost = ranks[0].explain(RuntimeError("connection closed by peer"))
    assert lost == "rank 1 on node-1, at the start, is lost"
