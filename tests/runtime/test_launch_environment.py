"""The variables of a launcher, right and wrong."""

import pytest

from slowfast_mvit.errors import UserError
from slowfast_mvit.runtime.launch_environment import (
    Place,
    attempts_share_a_store,
    is_launched,
    place_of_process,
)

SECOND_OF_TWO_NODES = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
}


def test_without_a_launcher_there_is_one_process():
    assert not is_launched({"LOCAL_RANK": "3"})
    assert place_of_process({}) == Place(0, 1, 0, 1)


def test_a_launcher_sets_the_ranks_of_a_process():
    place = place_of_process(SECOND_OF_TWO_NODES)

    assert is_launched(SECOND_OF_TWO_NODES)
    assert place == Place(rank=5, world_size=8, local_rank=1, local_world_size=4)


def test_all_that_is_missing_is_named_at_once():
    with pytest.raises(UserError) as caught:
        place_of_process({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "any"})

    assert str(caught.value) == (
        "the environment of a process that a launcher started: 4 problems\n"
        "  LOCAL_RANK is not set\n"
        "  LOCAL_WORLD_SIZE is not set\n"
        "  MASTER_ADDR is not set\n"
        "  MASTER_PORT is 'any', not a whole number\n"
        "Start it with torchrun or slowfast-mvit launch, which set these; to train with one "
        "process, unset RANK and WORLD_SIZE"
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"RANK": "8"}, "RANK is 8, but WORLD_SIZE is 8"),
        ({"LOCAL_RANK": "4"}, "LOCAL_RANK is 4, but LOCAL_WORLD_SIZE is 4"),
        ({"WORLD_SIZE": "6"}, "WORLD_SIZE is 6, not a multiple of LOCAL_WORLD_SIZE, 4"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(changes, problem):
    with pytest.raises(UserError, match=problem):
        place_of_process({**SECOND_OF_TWO_NODES, **changes})


@pytest.mark.parametrize(
    ("shared", "num_nodes", "max_restarts", "expected"),
    [
        ("True", "2", "3", True),
        ("False", "2", "3", False),  # TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
        ("True", "1", "3", False),  # one node: the count identifies an attempt
        ("True", "2", "0", False),
    ],
)
def test_only_agents_of_several_nodes_mix_up_attempts(shared, num_nodes, max_restarts, expected):
    environment = {
        "TORCHELASTIC_USE_AGENT_STORE": shared,
        "GROUP_WORLD_SIZE": num_nodes,
        "TORCHELASTIC_MAX_RESTARTS": max_restarts,
    }

    assert attempts_share_a_store(environment) == expected
