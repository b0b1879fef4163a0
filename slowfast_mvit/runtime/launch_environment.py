"""The variables that a launcher (torchrun, Ray, a script) sets for this process.

Read before torch is imported, so that a process that is told to be one of many knows it at once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from slowfast_mvit.errors import UserError, in_one_message

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
MEETING_POINT = ("MASTER_ADDR", "MASTER_PORT")

_SIGNS_OF_LOSS = ("closed by peer", "reset by peer", "Broken pipe", "Connection refused")
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@dataclass(frozen=True)
class Place:
    """The rank of a process.

    Attributes:
        rank: its number in the run, from 0.
        world_size: processes of the run.
        local_rank: its number on its node, from 0: the number of its GPU.
        local_world_size: processes on its node, the same on every node.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def num_nodes(self) -> int:
        """Nodes of the run."""
        return self.world_size // self.local_world_size


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether a launcher has started this process as one of a run."""
    return "RANK" in environment and "WORLD_SIZE" in environment


def place_of_process(environment: Mapping[str, str] = os.environ) -> Place:
    """The place that the launcher gave this process; that of a single process without one.

    Raises:
        UserError: variables are missing or contradict each other; names all that do.
    """
    if not is_launched(environment):
        return Place()
    missing = [name for name in (*NUMBERS, *MEETING_POINT) if not environment.get(name)]
    problems = [f"{name} is not set" for name in missing]
    values = dict[str, int]()
    for name in (*NUMBERS, "MASTER_PORT"):
        text = environment.get(name)
        if text and text.isdecimal():
            values[name] = int(text)
        elif text:
            problems.append(f"{name} is {text!r}, not a whole number")
    if not problems:
        problems = _contradictions(values)
    if problems:
        raise UserError(
            in_one_message("the environment of a process that a launcher started", problems)
            + "\nStart it with torchrun or slowfast-mvit launch, which set these; to train with "
            "one process, unset RANK and WORLD_SIZE"
        )
    return Place(*(values[name] for name in NUMBERS))


def _contradictions(values: Mapping[str, int]) -> list[str]:
    problems = []
    for number, count in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        if not values[number] < values[count]:
            problems.append(f"{number} is {values[number]}, but {count} is {values[count]}")
    world_size, local_world_size = values["WORLD_SIZE"], values["LOCAL_WORLD_SIZE"]
    if not problems and world_size % local_world_size:
        problems.append(
            f"WORLD_SIZE is {world_size}, not a multiple of LOCAL_WORLD_SIZE, {local_world_size}: "
            "each node must run the same number of processes"
        )
    return problems


def available_cores() -> int:
    """Return the number of CPU cores this process may use, which a scheduler may limit."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def attempts_share_a_store(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether ranks that are started again would find the addresses of the dead ones.

    Torch's agents of several nodes keep one store for all attempts, unless told not to. Each counts
    the attempts for itself, so that the count cannot tell them apart; on one node it can.
    """
    return (
        environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        and environment.get("GROUP_WORLD_SIZE", "1") != "1"
        and environment.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    )


def is_lost_rank_error(error: RuntimeError) -> bool:
    """Return whether a collective failed because another rank is lost; that rank reports why."""
    text = str(error)
    # By gloo, when they compute; by the store, when one waits for the other.
    speaks = "gloo/transport" in text or type(error).__name__ == "DistNetworkError"
    return speaks and any(sign in text for sign in _SIGNS_OF_LOSS)


def die_with_agent(environment: Mapping[str, str] = os.environ) -> None:
    """Let Linux kill this process when the torchrun agent that started it is killed.

    Without this, the ranks of a killed agent go on computing and saving beside those of the job
    that the scheduler starts in its place.
    """
    if "TORCHELASTIC_RUN_ID" in environment and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
