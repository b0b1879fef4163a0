"""The processes of a run are compared before it starts."""

from pathlib import Path

import pytest
from ranks import run_ranks

from slowfast_mvit.builders import hang_limit_s
from slowfast_mvit.config import load_config
from slowfast_mvit.errors import ConfigError, UserError
from slowfast_mvit.jobs import run
from slowfast_mvit.runtime.distributed import rank


def open_folder(config_file, overrides):
    config = load_config(config_file, overrides[rank()])
    with run.started(config, "train") as started:
        (started.output_dir / f"rank{rank()}.txt").touch()
        return str(started.output_dir)


def open_unseen_folder(config_file):
    run.APPEARS_WITHIN_S = 0.0
    if rank() == 1:
        run._names_in = lambda folder: []
    return open_folder(config_file, [[], []])


def test_all_processes_write_to_one_folder(tiny_config, tmp_path):
    folders = run_ranks(open_folder, 2, str(tiny_config), [[], []])

    assert folders == [str(tmp_path / "out")] * 2
    names = {path.name for path in Path(folders[0]).iterdir()}
    assert names == {"rank0.txt", "rank1.txt", "run_state.json", "stdout.log", ".lock-train.000001"}
    assert (
        "2 processes on 1 node joined the process group, over gloo"
        in (tmp_path / "out/stdout.log").read_text()
    )


@pytest.mark.parametrize(
    ("override", "what"),
    [
        (["SOLVER.BASE_LR", "0.5"], "the digest of the config"),
        (["OUTPUT_DIR", "elsewhere"], "OUTPUT_DIR: elsewhere there, "),
    ],
)
def test_processes_that_differ_do_not_start(tiny_config, override, what):
    with pytest.raises(UserError, match=f"rank 1 differs from rank 0 in {what}"):
        run_ranks(open_folder, 2, str(tiny_config), [[], override])


def test_a_folder_that_a_node_does_not_see_is_refused(tiny_config, tmp_path):
    with pytest.raises(UserError, match=r"out: rank 1 of 2 cannot see what rank 0 writes there"):
        run_ranks(open_unseen_folder, 2, str(tiny_config))

    assert list((tmp_path / "out").iterdir()) == []


def test_shards_that_the_launcher_did_not_start_are_refused(tiny_config):
    with pytest.raises(ConfigError, match=r"NUM_SHARDS is 3 nodes, but the launcher started 1 of"):
        run_ranks(open_folder, 2, str(tiny_config), [["NUM_SHARDS", "3"]] * 2)


def test_several_nodes_without_a_process_group_are_refused(tiny_config):
    config = load_config(tiny_config, ["NUM_SHARDS", "2"])

    refused = pytest.raises(ConfigError, match="NUM_SHARDS is 2 nodes, but this process was")
    with refused, run.started(config, "train"):
        pass


@pytest.mark.parametrize(
    ("loader_s", "limit_s", "expected_s"), [(300, 600, 600), (900, 600, 960), (10, 5, 70)]
)
def test_no_rank_hangs_while_its_loader_waits_for_a_video(
    tiny_config, loader_s, limit_s, expected_s
):
    words = ["DATA_LOADER.TIMEOUT_S", str(loader_s), "DIST_TIMEOUT_S", str(limit_s)]

    assert hang_limit_s(load_config(tiny_config, words)) == expected_s
