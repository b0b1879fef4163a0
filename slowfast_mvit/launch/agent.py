"""The process of a node that starts the ranks there, watches them, and starts them again.

It is torch's elastic agent, the one that ``torchrun`` runs, with what ``torchrun`` lacks: the exit
status of the ranks is that of the agent, an error of the user's is not tried again, and a node that
was lost is noticed within seconds.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.distributed.elastic.agent.server.api import (
    RunResult,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
)
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError, RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from slowfast_mvit.errors import UserError

USER_ERROR = 2
NOT_MET = 1  # no error of the user's: the first node may have been lost, and come back
STOPPED = tuple(128 + number for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT))

# Passed on to the ranks, which save and end. torchrun leaves out SIGUSR1, Slurm's early warning.
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"

# A node that is silent for 2 x 3 s counts as lost, and the others wait 3 s for one more to join;
# torch's own 15 s and 30 s would leave them idle for three quarters of a minute.
RENDEZVOUS = {
    "last_call_timeout": 3,
    "keep_alive_interval": 2,
    "keep_alive_max_attempt": 3,
}
MEETING_LIMIT_S = 900  # a node of a full cluster may start this much later than the first

# Says in torch's words what this module says in its own.
_TALKATIVE = (
    "torch.distributed.elastic.multiprocessing.api",
    "torch.distributed.elastic.agent.server.api",
)


@dataclass(frozen=True)
class Launch:
    """How many processes to start, and how the agents of several nodes meet.

    Attributes:
        num_processes: ranks on this node, the same on each.
        min_nodes: nodes without which the run does not start, or go on.
        max_nodes: nodes that take part at most.
        endpoint: ``host:port`` where the agents meet; empty for one node.
        node_rank: number of this node, where each is told its own; None where they settle that
            when they meet, and a node can come and go.
        run_id: name of the run, the same on all nodes; empty for a random one.
        max_restarts: how often all ranks are started again after one has died.
        shutdown_timeout_s: how long ranks that are asked to stop may take to save.
        local_addr: address of this node, for those that cannot tell it from the host name.
        rendezvous: settings of torch's meeting, in place of those in ``RENDEZVOUS``.
    """

    num_processes: int
    min_nodes: int = 1
    max_nodes: int = 1
    endpoint: str = ""
    node_rank: int | None = None
    run_id: str = ""
    max_restarts: int = 0
    shutdown_timeout_s: int = 120
    local_addr: str | None = None
    rendezvous: Mapping[str, str] = field(default_factory=dict)


def run_agent(launch: Launch, command: Sequence[str]) -> int:
    """Run ``command`` as the ranks of this node until they have ended.

    Returns:
        0 if all ranks did their work; 2 if one ended with a message for the user; 128 + n if signal
        n asked them to stop, or killed one; 1 if the nodes did not meet; else the status of the
        first that failed.
    """
    # Else ranks that are started again find the addresses of the dead ones, and eat up restarts.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = SIGNALS
    _tell_meeting(launch)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        return _run_to_the_end(_Agent(_spec(launch, command), launch.shutdown_timeout_s))
    except SignalException as stop:
        return 128 + int(stop.sigval)
    except RendezvousError as error:
        print(
            f"launch: the nodes of this run did not meet at {launch.endpoint or 'localhost'}, or "
            f"have lost each other: {error} Is the first node up, and does it let the others "
            "reach that port?",
            file=sys.stderr,
        )
        return NOT_MET


def _tell_meeting(launch: Launch) -> None:
    """Say for whom this node waits, and where; refuse a place that nobody can find.

    Raises:
        UserError: no machine has that name.
    """
    if launch.max_nodes == 1:
        return
    host, _, port = launch.endpoint.rpartition(":")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except OSError as error:
        raise UserError(
            f"{launch.endpoint}: no machine of that name can be found from here ({error}). Give "
            "the first node's name or address, as the other nodes know it"
        ) from error
    nodes = f"{launch.min_nodes}"
    if launch.max_nodes > launch.min_nodes:
        nodes += f" to {launch.max_nodes}"
    print(
        f"launch: waiting at {launch.endpoint} for {nodes} nodes, up to {MEETING_LIMIT_S // 60} "
        "minutes",
        file=sys.stderr,
        flush=True,
    )


def _run_to_the_end(agent: _Agent) -> int:
    meeting = agent._rdzv_handler
    try:
        result = agent.run()
    except SignalException:
        raise  # and leave the meeting open: other nodes may go on
    except BaseException:
        meeting.shutdown()
        raise
    meeting.shutdown()
    if result is None or not result.is_failed():
        return 0
    status = status_of(result.failures)
    if status not in (USER_ERROR, *STOPPED):
        print(f"launch: {_in_words(result.failures)}. Giving up", file=sys.stderr)
    return status


def meeting_settings(launch: Launch) -> dict[str, Any]:
    """How the agents meet, in torch's terms."""
    settings: dict[str, Any] = {"timeout": MEETING_LIMIT_S, **RENDEZVOUS}
    if launch.node_rank is not None:
        settings["rank"] = launch.node_rank
    elif launch.local_addr:  # else torch compares host names, which containers often lack
        settings["is_host"] = launch.endpoint.rpartition(":")[0] == launch.local_addr
    return {**settings, **launch.rendezvous}


def _spec(launch: Launch, command: Sequence[str]) -> WorkerSpec:
    endpoint = launch.endpoint or "localhost:0"
    # One node's host name need not be known to any name server.
    local_addr = launch.local_addr or ("127.0.0.1" if launch.max_nodes == 1 else None)
    master_addr, master_port = None, None
    if launch.node_rank is not None:
        master_addr, _, port = endpoint.rpartition(":")
        master_port = int(port)
    handler = get_rendezvous_handler(
        RendezvousParameters(
            backend="c10d" if launch.node_rank is None else "static",
            endpoint=endpoint,
            run_id=launch.run_id or str(uuid.uuid4()),
            min_nodes=launch.min_nodes,
            max_nodes=launch.max_nodes,
            local_addr=local_addr,
            **meeting_settings(launch),
        )
    )
    return WorkerSpec(
        role="rank",
        local_world_size=launch.num_processes,
        entrypoint=command[0],
        args=tuple(command[1:]),
        rdzv_handler=handler,
        max_restarts=launch.max_restarts,
        master_addr=master_addr,
        master_port=master_port,
        local_addr=local_addr,
    )


class _Agent(LocalElasticAgent):
    """Torch's agent of one node; tries again only what may go better the next time."""

    def __init__(self, spec: WorkerSpec, shutdown_timeout_s: int) -> None:
        super().__init__(spec, DefaultLogsSpecs(log_dir=os.devnull))
        self._shutdown_timeout_s = shutdown_timeout_s

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if result.state == WorkerState.FAILED:
            if status_of(result.failures) in (USER_ERROR, *STOPPED):
                self._remaining_restarts = 0
            if self._remaining_restarts:
                attempt = worker_group.spec.max_restarts - self._remaining_restarts + 1
                print(
                    f"launch: {_in_words(result.failures)}. Starting all ranks again "
                    f"({attempt} of {worker_group.spec.max_restarts})",
                    file=sys.stderr,
                    flush=True,
                )
        return result

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 0) -> None:
        # Asked for by name in torch 2.14, unknown to 2.11, which waits 30 s: not enough to save.
        if death_sig == signal.SIGHUP:  # a lost connection: the ranks would end without saving
            death_sig = signal.SIGTERM
        if self._pcontext:
            self._pcontext.close(death_sig, self._shutdown_timeout_s)


def status_of(failures: Mapping[int, ProcessFailure]) -> int:
    """One exit status for all ranks; those after the first often failed because it did."""
    codes = [_as_status(failure.exitcode) for failure in failures.values()]
    return USER_ERROR if USER_ERROR in codes else _as_status(_first(failures)[1].exitcode)


def _as_status(exitcode: int) -> int:
    """As a shell tells it: 128 + n for a process that signal n killed."""
    return exitcode if exitcode >= 0 else 128 - exitcode


def _first(failures: Mapping[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    return min(failures.items(), key=lambda item: item[1].timestamp)


def _in_words(failures: Mapping[int, ProcessFailure]) -> str:
    rank, failure = _first(failures)
    if failure.exitcode < 0:
        return f"rank {rank} was killed by {signal.Signals(-failure.exitcode).name}"
    return f"rank {rank} ended with exit status {failure.exitcode}"
