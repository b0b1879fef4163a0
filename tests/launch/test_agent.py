"""The settings of the rendezvous, and the exit status of an agent."""

import signal

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from slowfast_mvit.launch.agent import Launch, rendezvous_settings, status_of


@pytest.mark.parametrize(
    ("launch", "expected"),
    [
        (Launch(8), {}),
        (Launch(8, endpoint="10.0.0.1:29500", local_addr="10.0.0.1"), {"is_host": True}),
        (Launch(8, endpoint="10.0.0.1:29500", local_addr="10.0.0.2"), {"is_host": False}),
        (Launch(8, endpoint="node0:29500", node_rank=1), {"rank": 1}),
        (Launch(8, rendezvous={"is_host": "1", "last_call_timeout": "30"}), {"is_host": "1"}),
    ],
)
def test_each_agent_knows_whether_it_hosts_the_rendezvous(launch, expected):
    settings = rendezvous_settings(launch)

    assert {name: settings[name] for name in ("rank", "is_host") if name in settings} == expected
    assert settings["last_call_timeout"] == launch.rendezvous.get("last_call_timeout", 3)


@pytest.mark.parametrize(
    ("exit_codes", "expected"),
    [
        ([1, 2], 2),  # the other rank failed because one refused to continue
        ([-signal.SIGKILL, 1], 137),
        ([143, -signal.SIGTERM], 143),
        ([-signal.SIGTERM], 143),
        ([1, 143], 1),
    ],
)
def test_the_exit_codes_of_all_ranks_give_one_status(exit_codes, expected):
    failures = {
        rank: ProcessFailure(local_rank=rank, pid=1, exitcode=code, error_file="")
        for rank, code in enumerate(exit_codes)
    }
    for failure in failures.values():
        failure.timestamp = 0

    assert status_of(failures) == expected
