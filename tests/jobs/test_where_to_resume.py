"""Which checkpoint of a run it goes on from, where there are whole ones and ones in parts."""

import pytest
import torch
from torch import nn

from slowfast_mvit.config import load_config
from slowfast_mvit.errors import WeightsError
from slowfast_mvit.jobs.train import _newest
from slowfast_mvit.runtime.checkpoint import save_checkpoint
from slowfast_mvit.runtime.sharded import save_sharded


def save_whole(folder, epoch, step=0):
    texts = {"cfg_text": "", "extra": {}}
    return save_checkpoint(
        folder, epoch=epoch, step=step, model_state={}, optimizer_state={}, **texts
    )


def save_parts(folder, epoch, step=0):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return save_sharded(
        folder,
        epoch=epoch,
        step=step,
        module=model,
        optimizer=optimizer,
        cfg_text="",
        extra={},
    )


def damage(path):
    files = [path] if path.is_file() else [p for p in path.iterdir() if p.is_file()]
    for file in files:
        file.write_bytes(file.read_bytes()[:-5])


@pytest.fixture
def config(tiny_config):
    return load_config(tiny_config)


def test_the_one_furthest_on_is_taken_of_whatever_kind(tmp_path, config):
    whole = save_whole(tmp_path, epoch=2)
    assert _newest(config, tmp_path) == whole

    parts = save_parts(tmp_path, epoch=2, step=5)
    assert _newest(config, tmp_path) == parts

    later = save_whole(tmp_path, epoch=3)
    assert _newest(config, tmp_path) == later


@pytest.mark.parametrize("save", [(save_whole, save_parts), (save_parts, save_whole)])
def test_damage_of_all_of_one_kind_leaves_the_other(tmp_path, config, save):
    before, newest = save[0](tmp_path, epoch=2), save[1](tmp_path, epoch=4)
    damage(newest)

    assert _newest(config, tmp_path) == before


def test_only_damaged_ones_are_an_error_and_no_fresh_start(tmp_path, config):
    damage(save_whole(tmp_path, epoch=2))
    damage(save_parts(tmp_path, epoch=2))

    with pytest.raises(WeightsError, match="none of the 1 checkpoints"):
        _newest(config, tmp_path)


def test_a_new_run_beside_an_old_one_is_told(tmp_path, tiny_config, caplog):
    save_whole(tmp_path, epoch=2)

    assert _newest(load_config(tiny_config, ["TRAIN.AUTO_RESUME", "False"]), tmp_path) is None

    assert "holds 1 checkpoints of a run before, up to checkpoint_epoch_00003" in caplog.text
