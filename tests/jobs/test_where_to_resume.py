"""Which checkpoint a run resumes from, and sharded ones of earlier versions."""

import shlex
import subprocess
import sys

import pytest
import torch
from torch.distributed.checkpoint import FileSystemWriter, save

from slowfast_mvit.config import load_config
from slowfast_mvit.errors import ShardedCheckpointError, WeightsError
from slowfast_mvit.jobs.checkpoints import newest_of_run
from slowfast_mvit.runtime.checkpoint import save_checkpoint
from slowfast_mvit.weights.files import read_weights


def save_whole(folder, epoch, step=0):
    texts = {"cfg_text": "", "extra": {}}
    return save_checkpoint(
        folder, epoch=epoch, step=step, model_state={}, optimizer_state={}, **texts
    )


def leave_sharded(folder, name):
    """The files of a sharded checkpoint that identify a folder of an earlier version."""
    checkpoint = folder / "sharded" / name
    checkpoint.mkdir(parents=True)
    for file in (".metadata", "manifest.json"):
        (checkpoint / file).touch()
    return checkpoint


def damage(path):
    path.write_bytes(path.read_bytes()[:-5])


@pytest.fixture
def config(tiny_config):
    return load_config(tiny_config)


def test_the_most_recent_one_is_taken(tmp_path, config):
    for place in ({"epoch": 2}, {"epoch": 2, "step": 5}, {"epoch": 3}):
        path = save_whole(tmp_path, **place)
        assert newest_of_run(config, tmp_path) == path


def test_a_corrupt_one_is_skipped(tmp_path, config):
    before, newest = save_whole(tmp_path, epoch=2), save_whole(tmp_path, epoch=4)
    damage(newest)

    assert newest_of_run(config, tmp_path) == before


def test_only_corrupt_ones_are_an_error_and_no_fresh_start(tmp_path, config):
    damage(save_whole(tmp_path, epoch=2))

    with pytest.raises(WeightsError, match="none of the 1 checkpoints"):
        newest_of_run(config, tmp_path)


def test_a_sharded_checkpoint_that_is_newest_is_an_error(tmp_path, config):
    leave_sharded(tmp_path, "epoch_00002_step_00000")
    folder = leave_sharded(tmp_path, "epoch_00003_step_00250")
    (tmp_path / "sharded" / "epoch_00009_step_00000").mkdir()  # without a manifest: unfinished

    for epoch in (None, 0, 1):
        if epoch is not None:
            save_whole(tmp_path, epoch)
        with pytest.raises(ShardedCheckpointError, match="dcp_to_torch") as caught:
            newest_of_run(config, tmp_path)
        assert caught.value.folder == folder

    path = save_whole(tmp_path, epoch=3)
    assert newest_of_run(config, tmp_path) == path


def test_a_corrupt_checkpoint_does_not_hide_a_sharded_one(tmp_path, config):
    folder = leave_sharded(tmp_path, "epoch_00003_step_00250")
    damage(save_whole(tmp_path, epoch=5))

    with pytest.raises(ShardedCheckpointError) as caught:
        newest_of_run(config, tmp_path)

    assert caught.value.folder == folder


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_commands_in_the_error_make_a_file_of_weights(tmp_path):
    folder = tmp_path / "a run" / "epoch_00003_step_00250"
    tensors = {name: torch.randn(3, 2) for name in ("model/head.weight", "ema/head.weight")}
    save(tensors, storage_writer=FileSystemWriter(folder), no_dist=True)
    _, *commands, _ = str(ShardedCheckpointError(folder)).splitlines()

    for command in commands:
        program, *words = shlex.split(command)
        assert program == "python"
        subprocess.run([sys.executable, *words], check=True)

    state = read_weights(f"{folder}.pth").state
    assert list(state) == ["head.weight"]
    assert torch.equal(state["head.weight"], tensors["model/head.weight"])


def test_a_new_run_in_the_folder_of_an_old_one_is_logged(tmp_path, tiny_config, caplog):
    save_whole(tmp_path, epoch=2)

    assert newest_of_run(load_config(tiny_config, ["TRAIN.AUTO_RESUME", "False"]), tmp_path) is None

    assert "contains 1 checkpoints of an earlier run, up to checkpoint_epoch_00003" in caplog.text
