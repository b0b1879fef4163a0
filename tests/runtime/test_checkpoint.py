"""Checkpoints: their content, what is refused, and which one a run resumes from."""

import copy
import logging
from functools import partial

import pytest
import torch
from torch import nn

from slowfast_mvit.errors import WeightsError
from slowfast_mvit.runtime.checkpoint import (
    checkpoint_path,
    latest_checkpoint,
    load_training_state,
    save_checkpoint,
    training_epoch,
)
from slowfast_mvit.runtime.parallel import plain_name, whole_optimizer_state, whole_state


def trained(method=torch.optim.AdamW, width=4, **options):
    """A small net that has taken one step, and its optimizer in groups like ours."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2))
    groups = [
        {"params": [p for p in net.parameters() if p.ndim > 1], "layer_decay": 1.0},
        {"params": [p for p in net.parameters() if p.ndim == 1], "layer_decay": 1.0},
    ]
    optimizer = method(groups, lr=0.1, **options)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return net, optimizer


def save(folder, epoch=0, net=None, optimizer=None, **changes):
    if net is None:
        net, optimizer = trained()
    content = {
        "model_state": net.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "cfg_text": "RNG_SEED: 0\n",
        "extra": {"step": 0, "seed": 1, "input_spec": {"mean": [0.45, 0.45, 0.45]}},
    }
    return save_checkpoint(folder, epoch=epoch, **content | changes)


def as_pyslowfast_writes(path, **changes):
    """Write a file as PySlowFast does: its keys, in place, and nothing of ours."""
    net, optimizer = trained()
    content = {
        "epoch": 4,
        "model_state": net.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "cfg": "NUM_GPUS: 8\n",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({k: v for k, v in (content | changes).items() if v is not None}, path)
    return path


def test_the_file_is_named_and_filled_as_pyslowfast_expects(tmp_path):
    path = save(tmp_path, epoch=2)

    assert path == tmp_path / "checkpoints" / "checkpoint_epoch_00003.pyth"
    content = torch.load(path, weights_only=True)
    assert list(content) == ["epoch", "model_state", "optimizer_state", "cfg", "slowfast_mvit"]
    assert content["epoch"] == 2
    assert content["cfg"] == "RNG_SEED: 0\n"
    assert content["slowfast_mvit"]["seed"] == 1
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("module.blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.weight"),
        ("_orig_mod.head.projection.bias", "head.projection.bias"),
        ("module._orig_mod.blocks.1._checkpoint_wrapped_module.norm1.bias", "blocks.1.norm1.bias"),
        ("patch_embed.proj.weight", "patch_embed.proj.weight"),
    ],
)
def test_prefixes_of_wrappers_are_taken_off(name, plain):
    assert plain_name(name) == plain


def test_a_wrapped_model_saves_and_loads_plain_names(tmp_path):
    net, optimizer = trained()
    wrapped = nn.DataParallel(net)

    path = save(tmp_path, net=wrapped, optimizer=optimizer)

    assert set(torch.load(path, weights_only=True)["model_state"]) == set(net.state_dict())
    other, other_optimizer = trained()
    nn.init.zeros_(other[0].weight)
    load_training_state(path, nn.DataParallel(other), other_optimizer)
    assert torch.equal(other[0].weight, net[0].weight)


@pytest.mark.parametrize("value", [torch.zeros(1), {1, 2}, object()])
def test_values_that_could_not_be_read_back_safely_are_not_saved(tmp_path, value):
    with pytest.raises(TypeError, match=r"slowfast_mvit\.spec must hold plain values"):
        save(tmp_path, extra={"spec": [value]})

    assert not (tmp_path / "checkpoints").exists()


def test_a_failing_save_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    save(tmp_path, epoch=0)

    def disk_full(content, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, epoch=1)

    files = list((tmp_path / "checkpoints").iterdir())
    assert [file.name for file in files] == ["checkpoint_epoch_00001.pyth"]
    assert latest_checkpoint(tmp_path) == files[0]


def test_a_new_run_has_no_checkpoint(tmp_path):
    assert latest_checkpoint(tmp_path) is None


def test_the_newest_checkpoint_is_taken_and_the_others_stay(tmp_path):
    for epoch in (0, 8, 9, 99):
        save(tmp_path, epoch=epoch)

    assert latest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 99)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 4


def cut(path):
    path.write_bytes(path.read_bytes()[:-500])


def flip(path):
    content = bytearray(path.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 64] = bytes(b ^ 0xFF for b in content[middle : middle + 64])
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def weights_only(path):
    torch.save({"weight": torch.zeros(1)}, path)


@pytest.mark.parametrize("damage", [cut, flip, empty, weights_only])
def test_a_corrupt_newest_checkpoint_is_named_and_skipped(tmp_path, caplog, damage):
    good, bad = save(tmp_path, epoch=0), save(tmp_path, epoch=1)
    damage(bad)

    found = latest_checkpoint(tmp_path)

    assert found == good
    (warning,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert str(bad) in warning.getMessage()


def test_only_damaged_checkpoints_are_an_error_and_no_fresh_start(tmp_path):
    cut(save(tmp_path))

    with pytest.raises(WeightsError, match=r"none of the 1 checkpoints can be read.*AUTO_RESUME"):
        latest_checkpoint(tmp_path)


@pytest.mark.parametrize("method", [torch.optim.AdamW, torch.optim.SGD])
def test_weights_and_optimizer_come_back_to_the_bit(tmp_path, method):
    options = {"momentum": 0.9} if method is torch.optim.SGD else {}
    net, optimizer = trained(method, **options)
    path = save(tmp_path, epoch=6, net=net, optimizer=optimizer)
    other, other_optimizer = trained(method, **options)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)

    position, extra = load_training_state(path, other, other_optimizer)

    assert position == (7, 0)
    assert extra["input_spec"] == {"mean": [0.45, 0.45, 0.45]}
    for model, stepper in ((net, optimizer), (other, other_optimizer)):
        model(torch.full((1, 3), 2.0)).square().sum().backward()
        stepper.step()
    for actual, expected in zip(other.parameters(), net.parameters(), strict=True):
        assert torch.equal(actual, expected)


def two_heads(method, is_trained):
    """A net of which the second layer, and nothing else, may be without gradients."""
    torch.manual_seed(0)
    net = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)])
    optimizer = method(net.parameters(), lr=0.1)
    if is_trained:
        net[0](torch.ones(1, 3)).sum().backward()
        optimizer.step()
    return net, optimizer


@pytest.mark.parametrize("is_trained", [True, False])
@pytest.mark.parametrize("method", [torch.optim.AdamW, partial(torch.optim.SGD, momentum=0.9)])
def test_an_optimizer_gets_no_state_that_was_not_saved(tmp_path, method, is_trained):
    net, optimizer = two_heads(method, is_trained)
    path = save(tmp_path, net=net, optimizer=optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    assert list(saved["state"]) == ([0, 1] if is_trained else [])
    other, other_optimizer = two_heads(method, is_trained=False)

    load_training_state(path, other, other_optimizer)

    loaded = other_optimizer.state_dict()
    assert loaded["param_groups"] == saved["param_groups"]
    assert loaded["state"].keys() == saved["state"].keys()
    for index, values in saved["state"].items():
        torch.testing.assert_close(loaded["state"][index], values, rtol=0, atol=0)


def test_two_names_of_one_tensor_are_both_saved_and_loaded(tmp_path):
    nets = [two_heads(torch.optim.AdamW, is_trained=False)[0] for _ in range(2)]
    for net in nets:
        net[1].weight = net[0].weight
    optimizers = [torch.optim.AdamW(net.parameters()) for net in nets]
    (nets[0][0](torch.ones(1, 3)) + nets[0][1](torch.ones(1, 3))).sum().backward()
    optimizers[0].step()
    path = save(
        tmp_path,
        net=nets[0],
        optimizer=optimizers[0],
        model_state=whole_state(nets[0]),
        optimizer_state=whole_optimizer_state(optimizers[0]),
    )

    load_training_state(path, nets[1], optimizers[1])

    assert {"0.weight", "1.weight"} < torch.load(path, weights_only=True)["model_state"].keys()
    assert nets[1][0].weight is nets[1][1].weight
    assert torch.equal(nets[1][0].weight, nets[0][0].weight)
    states = [optimizer.state_dict()["state"] for optimizer in optimizers]
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_a_run_resumes_from_a_file_of_pyslowfast(tmp_path):
    path = as_pyslowfast_writes(tmp_path / "checkpoints" / "checkpoint_epoch_00005.pyth")
    net, optimizer = trained()

    position, extra = load_training_state(latest_checkpoint(tmp_path), net, optimizer)

    assert path == latest_checkpoint(tmp_path)
    assert (position, extra) == ((5, 0), {})


def test_the_last_epoch_of_a_file_is_read(tmp_path):
    ours = save(tmp_path, epoch=6)
    of_pyslowfast = as_pyslowfast_writes(tmp_path / "other.pyth")
    weights = tmp_path / "weights.pth"
    weights_only(weights)
    no_checkpoint = tmp_path / "weights.safetensors"
    no_checkpoint.write_bytes(b"something else")

    epochs = [training_epoch(path) for path in (ours, of_pyslowfast, weights, no_checkpoint)]

    assert epochs == [6, 4, None, None]


def test_groups_without_the_keys_of_pyslowfast_are_accepted(tmp_path):
    net, optimizer = trained()
    foreign = copy.deepcopy(optimizer.state_dict())
    for group in foreign["param_groups"]:
        del group["layer_decay"]
    path = as_pyslowfast_writes(tmp_path / "foreign.pyth", optimizer_state=foreign)

    load_training_state(path, net, optimizer)

    assert all(group["layer_decay"] == 1.0 for group in optimizer.param_groups)


def test_settings_of_the_present_config_win_and_the_change_is_logged(tmp_path, caplog):
    path = save(tmp_path)
    net, optimizer = trained(weight_decay=0.3)

    load_training_state(path, net, optimizer)

    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.3}
    assert "weight_decay 0.01 -> 0.3" in caplog.text


@pytest.mark.parametrize("optimizer_state", [None, {}, {"state": {}}])
def test_a_file_without_optimizer_state_is_refused(tmp_path, optimizer_state):
    path = as_pyslowfast_writes(tmp_path / "weights.pyth", optimizer_state=optimizer_state)

    with pytest.raises(WeightsError, match=r"no optimizer state.*CHECKPOINT_EPOCH_RESET"):
        load_training_state(path, *trained())


def test_other_parameter_groups_are_refused(tmp_path):
    net, _ = trained()
    one_group = torch.optim.AdamW([{"params": net.parameters(), "layer_decay": 1.0}])
    path = save(tmp_path)

    with pytest.raises(WeightsError, match=r"groups of \[2, 2\] tensors, this run's has \[4\]"):
        load_training_state(path, net, one_group)


def test_the_state_of_another_method_is_refused(tmp_path):
    path = save(tmp_path)
    net, sgd = trained(torch.optim.SGD, momentum=0.9)

    with pytest.raises(WeightsError, match=r"another method: no momentum_buffer.*SGD needs"):
        load_training_state(path, net, sgd)


def test_optimizer_tensors_of_other_shapes_are_refused(tmp_path):
    net, optimizer = trained()
    _, wide = trained(width=5)
    path = save(tmp_path, net=net, optimizer=wide)

    with pytest.raises(WeightsError, match=r"parameter 0: shape \[\(5, 3\)\].*is \(4, 3\)"):
        load_training_state(path, net, optimizer)


def test_a_checkpoint_of_another_model_names_everything_that_does_not_fit(tmp_path):
    path = save(tmp_path)
    torch.manual_seed(0)
    other = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2), nn.Linear(2, 2))
    optimizer = torch.optim.AdamW(other.parameters())

    with pytest.raises(WeightsError) as caught:
        load_training_state(path, other, optimizer)

    message = str(caught.value)
    assert str(path) in message
    assert "2.weight" in message and "size mismatch for 0.weight" in message


def test_a_missing_scaler_state_starts_the_scaler_over(tmp_path, caplog):
    path = save(tmp_path)
    scaler = torch.amp.GradScaler("cpu")

    load_training_state(path, *trained(), scaler)

    assert "it starts over" in caplog.text
    assert scaler.get_scale() == 65536.0


def test_the_scaler_is_restored(tmp_path):
    saved = torch.amp.GradScaler("cpu", init_scale=128.0)
    path = save(tmp_path, scaler_state=saved.state_dict())
    scaler = torch.amp.GradScaler("cpu")

    load_training_state(path, *trained(), scaler)

    assert scaler.get_scale() == 128.0
