"""The variables that a launcher (torchrun, Ray, a script) sets for this process.

Read before torch is imported, so that the process knows its rank from the start.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from typing import NamedTuple

from slowfast_mvit.errors import UserError, in_one_message

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT")

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Place(NamedTuple):
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


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether a launcher has started this process as one of a run."""
    return "RANK" in environment and "WORLD_SIZE" in environment


def place_of_process(environment: Mapping[str, str] = os.environ) -> Place:
    """Return the ranks that the launcher gave this process; without one, those of a single process.

    Raises:
        UserError: variables are missing or contradict each other; names all that do.
    """
    if not is_launched(environment):
        return Place()
    missing = [name for name in (*NUMBERS, *RENDEZVOUS) if not environment.get(name)]
    problems = [f"{name} is not set" for name in missing]
    values = dict[str, int]()
    for name in (*NUMBERS, "MASTER_PORT"):
        text = environment.get(name)
        if text and text.isdecimal():
            values[name] = int(text)
        elif text:
            problems.append(f"{name} is {text!r}, not a whole number")
    pairs = (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    for number, count in () if problems else pairs:
        if not values[number] < values[count]:
            problems.append(f"{number} is {values[number]}, but {count} is {values[count]}")
    if not problems and values["WORLD_SIZE"] % values["LOCAL_WORLD_SIZE"]:
        problems.append(
            f"WORLD_SIZE is {values['WORLD_SIZE']}, not a multiple of LOCAL_WORLD_SIZE, "
            f"{values['LOCAL_WORLD_SIZE']}: each node must run the same number of processes"
        )
    if problems:
        raise UserError(
            in_one_message("the environment of a process that a launcher started", problems)
            + "\nStart it with torchrun or slowfast-mvit launch, which set these; to train with "
            "one process, unset RANK and WORLD_SIZE"
        )
    return Place(*(values[name] for name in NUMBERS))


def available_cores() -> int:
    """Return the number of CPU cores this process may use, which a scheduler may limit."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def attempts_share_a_store(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether restarted ranks would find the addresses of the dead ones.

    Torch's agents of several nodes keep one store for all attempts, unless set otherwise. Each
    counts its own attempts, so the count does not identify an attempt; on one node it does.
    """
    return (
        environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        and environment.get("GROUP_WORLD_SIZE", "1") != "1"
        and environment.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    )


def die_with_agent(environment: Mapping[str, str] = os.environ) -> None:
    """Let Linux kill this process when the torchrun agent that started it is killed.

    Without this, the ranks of a killed agent would compute and save in parallel to those of the
    job that the scheduler starts in its place.
    """
    if "TORCHELASTIC_RUN_ID" in environment and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
