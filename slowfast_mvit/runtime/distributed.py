"""Rank and device of this process, and the exchange of objects between ranks.

Each function works in a run of one process too, without a process group.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store
from torch.distributed.rendezvous import rendezvous

from slowfast_mvit.errors import RankLost, Stopped, UserError
from slowfast_mvit.runtime.launch_environment import (
    Place,
    die_with_agent,
    is_launched,
    place_of_process,
)
from slowfast_mvit.runtime.watchdog import (
    LIMIT_S,
    collective_timeout,
    waiting_for_ranks,
    watched,
)

T = TypeVar("T")

STOPPED_LIMIT_S = 5.0  # of a rank that was asked to stop, for the others
DEPARTURES = "ranks that have left the group"
MAX_PAUSE_S = 0.5  # between two checks of whether all ranks have arrived

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


def rank() -> int:
    """Return this process's number in the run; 0 where there is only one."""
    return distributed.get_rank() if _several() else 0


def world_size() -> int:
    """Return the number of processes of the run."""
    return distributed.get_world_size() if _several() else 1


def local_world_size() -> int:
    """Return the number of processes of the run on this node."""
    return place_of_process().local_world_size if _several() else 1


def num_nodes() -> int:
    """Return the number of nodes of the run."""
    return world_size() // local_world_size()


def is_main() -> bool:
    """Return whether this process writes files and log lines."""
    return rank() == 0


def pick_device(num_gpus: int) -> torch.device:
    """Return the device of this process: its GPU, or the CPU.

    Args:
        num_gpus: ``NUM_GPUS``; 0 asks for the CPU. With more, and no GPU here, it is the CPU too;
            the caller warns.

    Raises:
        UserError: this node runs more processes than it has GPUs.
    """
    if num_gpus == 0 or not torch.cuda.is_available():
        return torch.device("cpu")
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number >= torch.cuda.device_count():
        raise UserError(
            f"LOCAL_RANK is {number}, but this node has {torch.cuda.device_count()} GPUs. Start "
            "as many processes a node (--nproc_per_node) as it has GPUs, or train on CPUs with "
            "NUM_GPUS 0"
        )
    return torch.device("cuda", number)


@contextlib.contextmanager
def process_group(device: torch.device, limit_s: float = LIMIT_S) -> Iterator[None]:
    """Join the group that the environment describes; without a launcher, do nothing.

    Inside another group, or where a launcher (Ray Train) has joined already, do nothing either: a
    process joins once.

    Args:
        device: of this process. With a GPU, tensors on it travel by nccl and those in memory by
            gloo; without, all by gloo.
        limit_s: time without progress of a rank that others wait for, after which all end.

    Raises:
        UserError: the environment is incomplete, or the group that was joined before cannot carry
            tensors of this device.
        RankLost: a rank did not join in that time, or has failed.
    """
    joins = is_launched() and not _several()
    if joins:
        _join(place_of_process(), device, limit_s)
    elif _several() and device.type == "cuda" and "nccl" not in distributed.get_backend_config():
        raise UserError(
            f"the process group of this run ({distributed.get_backend_config()}) was joined for "
            f"CPUs and cannot carry tensors of {device}: configs of one command must have "
            "NUM_GPUS 0 all, or none"
        )
    try:
        with _watched(limit_s):
            yield
    except Stopped:
        # In training all ranks agreed on it; in a test the signal may have reached this one alone.
        if joins:
            with contextlib.suppress(RuntimeError):  # rank 0 may have left with its store
                _leave(STOPPED_LIMIT_S)
        raise
    if joins:
        # Not after an error: nccl would wait for the other ranks, and gloo would make them fail
        # before this one has reported its error.
        _leave(limit_s)
        distributed.destroy_process_group()


def _leave(limit_s: float) -> None:
    """Wait on rank 0, whose process holds the store, until no other rank needs it any more.

    A rank that still polls the store in ``wait_for_all`` would otherwise fail after its work.

    Args:
        limit_s: after which rank 0 leaves all the same.
    """
    store = _get_default_store()
    num_left = store.add(DEPARTURES, 1)
    deadline_s = time.monotonic() + limit_s
    while is_main() and num_left < world_size() and time.monotonic() < deadline_s:
        time.sleep(0.01)
        num_left = store.add(DEPARTURES, 0)


def _watched(limit_s: float) -> contextlib.AbstractContextManager[None]:
    if world_size() == 1:
        return contextlib.nullcontext()
    return watched(_get_default_store(), rank(), limit_s=limit_s, gather=gather_objects)


def _join(place: Place, device: torch.device, limit_s: float) -> None:
    die_with_agent()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # Keep the last collectives, for the report of missing ranks after a timeout.
        os.environ.setdefault("TORCH_NCCL_TRACE_BUFFER_SIZE", "2000")
    try:
        store, _, _ = next(rendezvous("env://", timeout=collective_timeout(limit_s)))
        # The agent's store outlives its processes: the next attempt would find the addresses of
        # dead ranks in it. (Several nodes: see ``attempts_share_a_store``.)
        if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            store = PrefixStore(f"attempt {attempt}", store)
        distributed.init_process_group(
            BACKENDS[device.type],
            store=store,
            rank=place.rank,
            world_size=place.world_size,
            timeout=collective_timeout(limit_s),
            device_id=device if device.type == "cuda" else None,
        )
    except RuntimeError as error:
        raise RankLost(
            f"rank {place.rank} on {socket.gethostname()}: not all {place.world_size} ranks have "
            f"joined in time (DIST_TIMEOUT_S is {limit_s:g}): {str(error).splitlines()[0]}"
        ) from error


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum each number over all ranks, in one collective.

    Args:
        values: of any shape and device, the same on each rank. One process gets it back.
    """
    if world_size() == 1:
        return values
    total = values.detach().clone()
    with waiting_for_ranks():
        distributed.all_reduce(total, op=distributed.ReduceOp.SUM)
    return total


def gather_objects(item: T) -> list[T]:
    """Return the items of all ranks in order, on every rank; small ones, as they are pickled."""
    if world_size() == 1:
        return [item]
    items: list[Any] = [None] * world_size()
    with waiting_for_ranks():
        distributed.all_gather_object(items, item)
    return items


def from_main(item: T) -> T:
    """Return the main process's item, on every rank; a small one, as it is pickled."""
    if world_size() == 1:
        return item
    items = [item]
    with waiting_for_ranks():
        distributed.broadcast_object_list(items, src=0)
    return items[0]


def on_main(compute: Callable[[], T]) -> T:
    """Compute on the main process and return it on every rank; small, as it is pickled.

    Raises:
        UserError: on every rank, where ``compute`` raises one on the main process.
    """
    result, problem = None, None
    if is_main():
        try:
            result = compute()
        except UserError as error:
            problem = error
    result, problem = from_main((result, problem))
    if problem is not None:
        raise problem
    return cast(T, result)


def require_agreement(fingerprint: Mapping[str, str]) -> None:
    """Compare values that all ranks must have in common.

    Args:
        fingerprint: name -> value, such as ``{"torch": "2.10.0"}``; the same names on each rank.

    Raises:
        UserError: on every rank, naming the first rank and value that differ from rank 0.
    """
    everywhere = gather_objects(dict(fingerprint))
    for number, values in enumerate(everywhere):
        for name, expected in everywhere[0].items():
            if values.get(name) != expected:
                raise UserError(
                    f"rank {number} differs from rank 0 in {name}: {values.get(name)} there, "
                    f"{expected} on rank 0. All processes of a run need the same code, config and "
                    "data: start them from one folder that all nodes share, or copy it again"
                )


def wait_for_all(what: str, should_stop: Callable[[], None] | None = None) -> None:
    """Wait until every rank has arrived here, as long as the others make progress.

    For work of one rank that may exceed the timeout of collectives, such as a longer part of a
    test.

    Args:
        what: the event, as text; the same on each rank.
        should_stop: called now and then; ends the wait by an exception. A rank that has been
            asked to stop must not wait for one that is gone.
    """
    if world_size() == 1:
        return
    store = _get_default_store()
    key = f"wait for all: {what}"
    arrivals = store.add(key, 1)
    barrier = f"{key} {(arrivals - 1) // world_size()}"
    if arrivals % world_size() == 0:
        store.set(barrier, "all here")
    pause_s = 0.01  # unlike store.wait(), polling lets Python handle signals
    with waiting_for_ranks():
        while not store.check([barrier]):
            if should_stop is not None:
                should_stop()
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
