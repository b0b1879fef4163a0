"""Run a function as the ranks of a small group, each in a process of its own."""

import contextlib
import datetime
import os
import pickle
import signal
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

LIMIT_S = 60

# Forked from a process that has imported these and done nothing else: pytest's own cannot be
# forked once a test before has called ``backward``, whose threads would be missing in the copy.
PRELOADED = [
    "torch",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "slowfast_mvit.builders",
    "slowfast_mvit.engine.train",
    "slowfast_mvit.jobs.train",
    "slowfast_mvit.jobs.test",
]


class RankFailed(Exception):
    """The failure of a test in another process, with its traceback."""


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """Run ``function(*args)`` on each rank of a gloo group; gives their results, in order.

    ``RANK``, ``LOCAL_RANK`` and so on are set as torchrun would on one node.

    Args:
        function: at the top level of a module, as pickle asks.
        world_size: how many ranks; 1 is a group of one.
        args: the same for each rank. These and the results are pickled.

    Raises:
        Exception: the first that a rank raises; its cause is the traceback there.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    results = dict[int, Any]()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        ranks = {}
        for rank in range(world_size):
            receiver, sender = context.Pipe(duplex=False)
            arguments = (rank, world_size, Path(folder), sender, function, args)
            process = context.Process(target=_run_rank, args=arguments, name=f"rank {rank}")
            process.start()
            stack.callback(_end, process)
            sender.close()
            ranks[receiver] = rank
        while len(results) < world_size:
            ready = wait([link for link, rank in ranks.items() if rank not in results], LIMIT_S * 2)
            if not ready:
                raise RankFailed(f"only ranks {sorted(results)} ended within {LIMIT_S * 2} s")
            for link in ready:
                results[ranks[link]] = _result(link, ranks[link])
    return [results[rank] for rank in range(world_size)]


def _result(link, rank: int) -> Any:
    try:
        value, error, trace = pickle.loads(link.recv_bytes())
    except EOFError:
        raise RankFailed(f"rank {rank} ended without a result: killed?") from None
    if trace:
        raise (error or RankFailed(f"rank {rank}")) from RankFailed(f"on rank {rank}:\n{trace}")
    return value


def _end(process) -> None:
    process.kill()
    process.join()
    process.close()


def hear_signals() -> None:
    """Take signals as a program does that a shell has started.

    A forkserver that was started by a loader's workers blocks those that schedulers send, and so
    would everything that comes of it.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _run_rank(rank: int, world_size: int, folder: Path, link, function, args) -> None:
    import torch
    from torch import distributed

    from slowfast_mvit.runtime.launch_environment import die_with_agent

    hear_signals()
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="localhost",
        MASTER_PORT="0",
        GLOO_SOCKET_IFNAME="lo",
        TORCHELASTIC_RUN_ID="test",
    )
    die_with_agent()  # a test that is killed leaves no rank waiting
    torch.set_num_threads(1)
    try:
        distributed.init_process_group(
            "gloo",
            store=distributed.FileStore(str(folder / "store"), world_size),
            rank=rank,
            world_size=world_size,
            timeout=datetime.timedelta(seconds=LIMIT_S),
        )
        message = (function(*args), None, "")
        distributed.barrier()  # a rank that ends early would look dead to those still computing
        distributed.destroy_process_group()
    except BaseException as error:
        message = (None, _picklable(error), traceback.format_exc())
    # Plain pickle: multiprocessing's own would leave tensors in the memory of a process that ends.
    link.send_bytes(pickle.dumps(message))


def _picklable(error: BaseException) -> BaseException | None:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return None
    return error
