"""Sharded checkpoints: written by some ranks, read by others, damaged, crafted, and made whole."""

import json
import logging
import pickle
from pathlib import Path

import pytest
import torch
from ranks import run_ranks
from small_runs import SmallRun, equal, largest_difference
from torch import nn
from torch.distributed.checkpoint import FileSystemWriter, save

from slowfast_mvit.cli.commands import main
from slowfast_mvit.errors import UserError, WeightsError
from slowfast_mvit.runtime import sharded
from slowfast_mvit.runtime.checkpoint import checkpoint_path, save_checkpoint
from slowfast_mvit.runtime.checkpoint_files import Position, mid_epoch_path
from slowfast_mvit.runtime.distributed import is_main
from slowfast_mvit.runtime.sharded import (
    is_sharded,
    load_sharded,
    newest_sharded,
    save_sharded,
    sharded_newest_first,
    sharded_position,
    unshard,
)
from slowfast_mvit.runtime.sharded_files import (
    file_facts,
    read_manifest,
    remove_sharded_mid_epoch,
    write_manifest,
)
from slowfast_mvit.storage import output_folder

EXTRA = {"seed": 3, "input_spec": {"mean": [0.45], "size": (4, 32, 32)}, "nothing": None}


def save_both_ways(output_dir):
    """A sharded checkpoint and, beside it, the file of an unsharded run."""
    run = SmallRun("fsdp", depth=1)
    for step in range(2):
        run.step(step)
    states = run.states()
    place = {"epoch": 2, "step": 5, "cfg_text": "SEED: 3", "extra": EXTRA}
    place["scaler_state"] = torch.amp.GradScaler("cpu", init_scale=128.0).state_dict()
    save_sharded(
        output_dir,
        **place,
        module=run.module,
        optimizer=run.optimizer,
        ema=run.average.module,
    )
    if is_main():
        save_checkpoint(
            Path(output_dir) / "unsharded",
            **place,
            model_state=states["model"],
            optimizer_state=states["optimizer"],
            ema_state=states["ema"],
        )
    run.step(2)
    return states, run.states()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """An ``OUTPUT_DIR``, the states saved there by two ranks, and those one step later."""
    output_dir = tmp_path_factory.mktemp("run")
    return output_dir, *run_ranks(save_both_ways, 2, output_dir)[0]


def resume_one_step(output_dir, strategy):
    run = SmallRun(strategy, seed=7, depth=1)
    scaler = torch.amp.GradScaler("cpu")
    folder = newest_sharded(output_dir)
    state = load_sharded(folder, run.module, run.optimizer, scaler, ema=run.average.module)
    run.average.n_averaged.fill_(2)
    loaded = run.states()
    run.step(2)
    return state, scaler.get_scale(), loaded, run.states()


@pytest.mark.parametrize("num_ranks", [1, 4])
def test_what_two_ranks_wrote_is_gone_on_from(saved, num_ranks):
    output_dir, states, states_one_step_later = saved

    results = run_ranks(resume_one_step, num_ranks, output_dir, "fsdp")

    state, scale, loaded, one_step_later = results[0]
    assert (state.epoch, state.extra, scale) == (2, {**EXTRA, "step": 5}, 128.0)
    assert equal(loaded, states)
    for part in ("model", "ema"):
        assert largest_difference(one_step_later[part], states_one_step_later[part]) <= 5e-4


def test_one_file_is_made_of_it_as_an_unsharded_run_writes_it(saved):
    output_dir = saved[0]

    path = unshard(newest_sharded(output_dir))

    assert path == mid_epoch_path(output_dir, Position(3, 5))
    written = mid_epoch_path(output_dir / "unsharded", Position(3, 5))
    actual, expected = (torch.load(file, weights_only=True) for file in (path, written))
    assert list(actual) == list(expected)
    assert equal(actual, expected)


def test_the_command_writes_the_file_where_it_is_told(saved, tmp_path, capsys):
    folder = newest_sharded(saved[0])

    status = main(["unshard", str(folder), "--to", str(tmp_path / "whole.pyth")])

    assert status == 0
    assert "whole.pyth" in capsys.readouterr().out
    assert torch.load(tmp_path / "whole.pyth", weights_only=True)["epoch"] == 2


def test_no_name_looks_like_a_checkpoint_to_pyslowfast(saved):
    names = [path.name for path in (saved[0] / "sharded").rglob("*")]

    assert "epoch_00003_step_00005" in names
    assert not [name for name in names if "checkpoint" in name]


def small_run():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def save_alone(output_dir, epoch=0, step=0, **options):
    model, optimizer = small_run()
    options = {"extra": {}, "cfg_text": "", "module": model, "optimizer": optimizer, **options}
    return save_sharded(output_dir, epoch=epoch, step=step, **options)


def test_one_process_without_a_group_writes_and_reads_too(tmp_path):
    folder = save_alone(tmp_path, epoch=3)
    model, optimizer = small_run()
    expected = model.weight.detach().clone()
    nn.init.zeros_(model.weight)

    state = load_sharded(folder, model, optimizer)

    assert state.epoch == 3
    assert torch.equal(model.weight, expected)
    assert unshard(folder) == checkpoint_path(tmp_path, 3)


def test_those_of_epochs_are_kept_and_inside_epochs_the_two_newest(tmp_path):
    for epoch, step in ((-1, 10), (0, 0), (0, 7)):
        save_alone(tmp_path, epoch, step)
    (tmp_path / "sharded" / ".tmp-epoch_00001_step_00009").mkdir()
    beyond = save_alone(tmp_path, 8, 3)

    save_alone(tmp_path, 1)
    save_alone(tmp_path, 1, 5)

    names = [folder.name for folder in sharded_newest_first(tmp_path)]
    assert names == [
        beyond.name,
        "epoch_00002_step_00005",
        "epoch_00002_step_00000",
        "epoch_00001_step_00007",
        "epoch_00001_step_00000",
    ]
    assert len(list((tmp_path / "sharded").iterdir())) == 5
    assert sharded_position(beyond) == Position(9, 3)

    remove_sharded_mid_epoch(tmp_path)

    names = [folder.name for folder in sharded_newest_first(tmp_path)]
    assert names == ["epoch_00002_step_00000", "epoch_00001_step_00000"]


def test_a_folder_that_is_not_there_is_told_with_those_that_are(tmp_path):
    there = save_alone(tmp_path, 1)

    with pytest.raises(WeightsError, match=f"no such folder. There are: {there.name}"):
        unshard(tmp_path / "sharded" / "epoch_00003_step_00000")


def test_a_remote_output_folder_gets_what_is_complete(shelf):
    with output_folder("shelf://run") as output_dir:
        save_alone(output_dir)

        sent = {path.relative_to(shelf).as_posix() for path in shelf.rglob("*") if path.is_file()}

    folder = "run/sharded/epoch_00001_step_00000"
    names = ("__0_0.distcp", ".metadata", "plain.pyth", "manifest.json")
    assert sent == {f"{folder}/{name}" for name in names}


def test_the_same_place_is_written_again(tmp_path):
    save_alone(tmp_path, extra={"seed": 1})

    folder = save_alone(tmp_path, extra={"seed": 2})

    assert load_sharded(folder, *small_run()).extra["seed"] == 2


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove(path):
    path.unlink()


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "plain.pyth"])
@pytest.mark.parametrize("damage", [cut, flip, remove])
def test_damage_is_named_and_the_one_before_taken(tmp_path, caplog, damage, name):
    before, newest = save_alone(tmp_path, 0), save_alone(tmp_path, 1)
    damage(newest / name)

    found = newest_sharded(tmp_path)

    assert found == before
    (warning,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert str(newest / name) in warning.getMessage()
    with pytest.raises(WeightsError, match=rf"{name}: .*Delete the folder"):
        load_sharded(newest, *small_run())


def test_a_damaged_manifest_is_damage_too(tmp_path):
    folder = save_alone(tmp_path)
    cut(folder / "manifest.json")

    with pytest.raises(WeightsError, match=r"none of the 1 checkpoints can be read.*AUTO_RESUME"):
        newest_sharded(tmp_path)


def test_a_run_without_any_starts_anew(tmp_path):
    assert newest_sharded(tmp_path) is None
    assert not is_sharded(tmp_path)
    with pytest.raises(WeightsError, match=r"no sharded checkpoint, it has no manifest.json"):
        unshard(tmp_path)


def test_another_model_is_refused(tmp_path):
    folder = save_alone(tmp_path)
    other = nn.Linear(3, 4)

    with pytest.raises(WeightsError, match="size mismatch for weight"):
        load_sharded(folder, other, torch.optim.AdamW(other.parameters()))


def test_values_that_are_not_plain_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match="plain values only"):
        save_alone(tmp_path, extra={"path": tmp_path})

    assert not list(tmp_path.iterdir())


def test_an_output_folder_that_nodes_do_not_share_is_told(tmp_path, monkeypatch):
    elsewhere = {"__1_0.distcp": file_facts(Path(__file__))}
    monkeypatch.setattr(sharded, "gather_objects", lambda own: [own, elsewhere])

    with pytest.raises(UserError, match=r"__1_0.distcp.*that all nodes share"):
        save_alone(tmp_path)

    assert newest_sharded(tmp_path) is None


class Canary:
    """Runs code when it is unpickled carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def seal(folder):
    """Make a manifest that fits, as somebody would who crafts a folder."""
    write_manifest(folder, {name: file_facts(folder / name) for name in read_manifest(folder)})


def crafted_metadata(folder, canary):
    (folder / ".metadata").write_bytes(pickle.dumps(Canary(canary)))


def crafted_inside(folder, canary):
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    metadata.planner_data = Canary(canary)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def crafted_item(folder, canary):
    for name in (".metadata", "__0_0.distcp"):
        (folder / name).unlink()
    items = {"model/weight": Canary(canary), "model/bias": torch.zeros(2)}
    save(items, storage_writer=FileSystemWriter(folder))


def crafted_place(folder, canary):
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    for place in metadata.storage_data.values():
        object.__setattr__(place, "relative_path", "../../secret.distcp")
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


@pytest.mark.parametrize("craft", [crafted_metadata, crafted_inside, crafted_item, crafted_place])
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_crafted_folder_runs_no_code(tmp_path, craft):
    folder, canary = save_alone(tmp_path), tmp_path / "canary"
    craft(folder, canary)
    seal(folder)

    for read in (lambda: unshard(folder), lambda: load_sharded(folder, *small_run())):
        with pytest.raises(WeightsError, match=r"\.metadata: not loaded, since it holds more"):
            read()

    assert not canary.exists()


@pytest.mark.parametrize("craft", [crafted_metadata, crafted_inside])
def test_the_crafted_files_do_run_code_where_nobody_looks(tmp_path, craft):
    folder, canary = save_alone(tmp_path), tmp_path / "canary"
    craft(folder, canary)

    pickle.loads((folder / ".metadata").read_bytes())

    assert canary.exists()


def test_a_manifest_may_name_nothing_outside_of_its_folder(tmp_path):
    folder = save_alone(tmp_path)
    content = json.loads((folder / "manifest.json").read_text())
    content["files"]["../other"] = content["files"]["plain.pyth"]
    (folder / "manifest.json").write_text(json.dumps(content))

    with pytest.raises(WeightsError, match=r"outside of the folder: '../other'"):
        unshard(folder)
