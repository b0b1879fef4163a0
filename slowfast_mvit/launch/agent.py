"""The agent of a node, which starts, monitors and restarts the ranks there.

It is the elastic agent of torch, as in ``torchrun``. ``torch.distributed.launcher`` has no options
for three things, so the agent is built here: ranks that ended with a user error or were stopped are
not restarted; ranks have the whole shutdown timeout to save also when they are stopped because
another crashed or a node joins; SIGHUP stops them as SIGTERM does.
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
from pathlib import Path
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler
from torch.distributed.elastic.rendezvous import RendezvousError, RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from slowfast_mvit.errors import UserError

USER_ERROR = 2
RENDEZVOUS_FAILED = 1  # not a user error: the first node may have been lost, and come back
# Statuses after which ranks are not restarted.
FINAL = (USER_ERROR, *(128 + n for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)))

# Forwarded to the ranks, which save and end. torchrun omits SIGUSR1, Slurm's early warning.
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"

# A node that is silent for 2 x 3 s counts as lost, and the others wait 3 s for one more to join;
# with torch's defaults of 15 s and 30 s they would be idle for three quarters of a minute.
RENDEZVOUS = {
    "last_call_timeout": 3,
    "keep_alive_interval": 2,
    "keep_alive_max_attempt": 3,
}
RENDEZVOUS_TIMEOUT_S = 900  # a node of a full cluster may start this much later than the first

# These log the same events as this module, at length.
_VERBOSE = (
    "torch.distributed.elastic.multiprocessing.api",
    "torch.distributed.elastic.agent.server.api",
)

Failures = dict[int, ProcessFailure]


@dataclass(frozen=True)
class Launch:
    """The processes of a run, and the rendezvous of the agents of several nodes.

    Attributes:
        num_processes: ranks on this node, the same on each.
        min_nodes: nodes without which the run does not start, or resume.
        max_nodes: the most nodes that take part.
        endpoint: ``host:port`` of the rendezvous; empty for one node.
        node_rank: number of this node, where it is fixed; None where the rendezvous assigns it,
            and nodes can come and go.
        run_id: name of the run, the same on all nodes; empty for a random one.
        max_restarts: restarts of all ranks after one has crashed.
        shutdown_timeout_s: time for ranks to save when they are stopped.
        local_addr: address of this node, where others cannot resolve its host name.
        rendezvous: settings of torch's rendezvous, in place of those in ``RENDEZVOUS``.
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
        0 if all ranks succeeded; 2 if one ended with a user error; 128 + n if signal n stopped
        them, or killed one; 1 if the rendezvous failed; else the status of the first failure.
    """
    # Else restarted ranks read the addresses of the dead ones, and use up the restarts.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = SIGNALS
    _announce_rendezvous(launch)
    for name in _VERBOSE:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        failures = _run(worker_spec(launch, command), launch)
    except SignalException as stop:
        return 128 + int(stop.sigval)
    except RendezvousError as error:
        _print(
            f"rendezvous failed at {launch.endpoint or 'localhost'}: not all nodes joined, or one "
            f"was lost: {error} Is the first node up, and can the others reach that port?"
        )
        return RENDEZVOUS_FAILED
    if not failures:
        return 0
    status = status_of(failures)
    if status not in FINAL:
        _print(f"{_first_as_text(failures)}. Giving up")
    return status


def _print(message: str) -> None:
    print(f"launch: {message}", file=sys.stderr, flush=True)


def _announce_rendezvous(launch: Launch) -> None:
    """Log how many nodes this one waits for, and where.

    Raises:
        UserError: the host of the rendezvous has no address.
    """
    if launch.max_nodes == 1:
        return
    host, _, port = launch.endpoint.rpartition(":")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except OSError as error:
        raise UserError(
            f"{launch.endpoint}: this host name cannot be resolved from here ({error}). Give the "
            "first node's name or address, as the other nodes know it"
        ) from error
    more = f" to {launch.max_nodes}" if launch.max_nodes > launch.min_nodes else ""
    _print(
        f"waiting at {launch.endpoint} for {launch.min_nodes}{more} nodes, up to "
        f"{RENDEZVOUS_TIMEOUT_S // 60} minutes"
    )


def _run(spec: WorkerSpec, launch: Launch) -> Failures:
    """Run an agent to its end; returns the failures of its ranks."""
    is_interrupted = False
    try:
        result = _Agent(spec, launch.shutdown_timeout_s).run()
        return result.failures if result is not None else {}  # None: the other nodes are done
    except ChildFailedError as error:
        return error.failures
    except SignalException:
        is_interrupted = True
        raise
    finally:
        if not is_interrupted:  # else the other nodes may continue
            spec.rdzv_handler.shutdown()


def worker_spec(launch: Launch, command: Sequence[str]) -> WorkerSpec:
    """Return the specification of the ranks for torch's agent, with the rendezvous handler."""
    # The host name of a single node may be unknown to every name server.
    local_addr = launch.local_addr or ("127.0.0.1" if launch.max_nodes == 1 else None)
    is_static = launch.node_rank is not None
    host, _, port = launch.endpoint.rpartition(":")
    handler = get_rendezvous_handler(
        RendezvousParameters(
            backend="static" if is_static else "c10d",
            endpoint=launch.endpoint or "localhost:0",
            run_id=launch.run_id or str(uuid.uuid4()),
            min_nodes=launch.min_nodes,
            max_nodes=launch.max_nodes,
            local_addr=local_addr,
            **rendezvous_settings(launch),
        )
    )
    return WorkerSpec(
        role="rank",
        local_world_size=launch.num_processes,
        entrypoint=command[0],
        args=tuple(command[1:]),
        rdzv_handler=handler,
        max_restarts=launch.max_restarts,
        master_addr=host if is_static else None,
        master_port=int(port) if is_static else None,
        local_addr=local_addr,
    )


def rendezvous_settings(launch: Launch) -> dict[str, Any]:
    """Return the settings of the rendezvous, named as torch names them."""
    settings: dict[str, Any] = {"timeout": RENDEZVOUS_TIMEOUT_S, **RENDEZVOUS}
    if launch.node_rank is not None:
        settings["rank"] = launch.node_rank
    elif launch.local_addr:  # else torch compares host names, which containers often lack
        settings["is_host"] = launch.endpoint.rpartition(":")[0] == launch.local_addr
    return {**settings, **launch.rendezvous}


class _Agent(LocalElasticAgent):
    """Torch's agent of one node; replaces some of the methods that its documentation lists."""

    def __init__(self, spec: WorkerSpec, shutdown_timeout_s: int) -> None:
        super().__init__(spec, DefaultLogsSpecs(log_dir=os.devnull))
        self._shutdown_timeout_s = shutdown_timeout_s
        self._failures: Failures = {}
        self._num_restarts = 0

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        ids: dict[int, Any] = super()._start_workers(worker_group)
        context: Any = self._pcontext
        ranks: Mapping[int, SubprocessHandler] = context.subprocess_handlers

        def close(death_sig: signal.Signals | None = None, timeout: int = 0) -> None:
            """End the ranks; torch itself waits 30 s for them where one has failed."""
            if any(rank.proc.poll() for rank in ranks.values()):
                for rank in ranks.values():
                    if rank.proc.poll() is None and _is_stopped(rank.proc.pid):
                        rank.proc.kill()  # it takes no other signal
            type(context).close(context, death_sig, self._shutdown_timeout_s)

        context.close = close
        return ids

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        self._failures = result.failures
        return result

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        if self._failures:  # else a node has joined
            if status_of(self._failures) in FINAL:
                raise ChildFailedError("rank", self._failures)
            self._num_restarts += 1
            _print(
                f"{_first_as_text(self._failures)}. Restarting all ranks "
                f"({self._num_restarts} of {worker_group.spec.max_restarts})"
            )
        super()._restart_workers(worker_group)

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 0) -> None:
        if death_sig == signal.SIGHUP:  # ranks do not handle it: they would end without saving
            death_sig = signal.SIGTERM
        if self._pcontext:
            self._pcontext.close(death_sig)


def _is_stopped(pid: int) -> bool:
    """Return whether a process was stopped by a signal, and so takes no other."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:  # it has ended, or no Linux
        return False


def status_of(failures: Failures) -> int:
    """Return one exit status for all ranks: 2 if any has it, else that of the first failure.

    Later failures are often its consequence.
    """
    codes = [_as_status(failure.exitcode) for failure in failures.values()]
    return USER_ERROR if USER_ERROR in codes else _as_status(_first(failures)[1].exitcode)


def _as_status(exitcode: int) -> int:
    """Return an exit code as a shell does: 128 + n for a process that signal n killed."""
    return exitcode if exitcode >= 0 else 128 - exitcode


def _first(failures: Failures) -> tuple[int, ProcessFailure]:
    return min(failures.items(), key=lambda item: item[1].timestamp)


def _first_as_text(failures: Failures) -> str:
    rank, failure = _first(failures)
    if failure.exitcode < 0:
        return f"rank {rank} was killed by {signal.Signals(-failure.exitcode).name}"
    return f"rank {rank} ended with exit status {failure.exitcode}"
