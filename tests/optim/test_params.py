"""Groups against the counts of PySlowFast's own run; steps against torch's optimizers."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from slowfast_mvit.errors import ConfigError
from slowfast_mvit.fast import create_model
from slowfast_mvit.optim.params import build_optimizer, freeze, layer_of, parameter_groups

STATE_DICTS = Path(__file__).resolve().parents[1] / "reference" / "state_dicts"
POSITIONS = {"pos_embed", "rel_pos_h", "rel_pos_w", "rel_pos_t", "cls_token"}


def named_parameters(file_name):
    shapes = json.loads((STATE_DICTS / file_name).read_text())
    return [(n, nn.Parameter(torch.empty(s, device="meta"))) for n, s in shapes.items()]


def tiny_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("no_decay_names", "decayed", "spared"),
    [((), 166, 231), (POSITIONS, 117, 280)],
    ids=["positions decayed", "positions spared"],
)
def test_groups_of_mvitv2_s_are_those_of_pyslowfast(no_decay_names, decayed, spared):
    named = named_parameters("mvitv2_s_16x4.json")

    groups = parameter_groups(
        named, weight_decay=0.05, zero_wd_1d=True, no_decay_names=no_decay_names
    )

    assert [len(group["params"]) for group in groups] == [decayed, spared]
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    assert all(group["layer_decay"] == 1.0 for group in groups)
    assert all(group["apply_LARS"] is False for group in groups)
    order = {id(parameter): place for place, (_, parameter) in enumerate(named)}
    for group in groups:
        places = [order[id(parameter)] for parameter in group["params"]]
        assert places == sorted(places)


def test_the_model_offers_the_names_that_may_be_spared():
    with torch.device("meta"):
        model = create_model("mvitv2_s_16x4")

    groups = parameter_groups(
        model.named_parameters(),
        weight_decay=0.05,
        zero_wd_1d=True,
        no_decay_names=model.no_weight_decay_names(),
    )

    assert [len(group["params"]) for group in groups] == [117, 280]


def test_everything_is_decayed_when_nothing_is_spared():
    named = named_parameters("mvitv2_s_16x4.json")

    groups = parameter_groups(named, weight_decay=1e-4, zero_wd_1d=False)

    assert [len(group["params"]) for group in groups] == [397]


def test_frozen_parameters_are_in_no_group():
    net = tiny_net()
    net[0].requires_grad_(False)

    groups = parameter_groups(net.named_parameters(), weight_decay=0.1, zero_wd_1d=True)

    assert sum(len(group["params"]) for group in groups) == 4


def test_layer_decay_shrinks_the_learning_rate_towards_the_input():
    named = named_parameters("mvitv2_s_16x4.json")

    groups = parameter_groups(named, weight_decay=0.05, zero_wd_1d=True, layer_decay=0.75, depth=16)

    factor = {id(p): group["layer_decay"] for group in groups for p in group["params"]}
    by_name = {name: factor[id(parameter)] for name, parameter in named}
    assert len(by_name) == 397
    assert by_name["patch_embed.proj.weight"] == by_name["cls_token"] == 0.75**17
    assert by_name["blocks.0.attn.qkv.weight"] == 0.75**16
    assert by_name["blocks.15.mlp.fc2.bias"] == 0.75
    assert by_name["norm.weight"] == by_name["head.projection.weight"] == 1.0


def test_layer_decay_spares_only_whole_names():
    named = named_parameters("mvitv2_s_16x4.json")

    groups = parameter_groups(
        named,
        weight_decay=0.05,
        zero_wd_1d=True,
        no_decay_names=POSITIONS,
        layer_decay=0.75,
        depth=16,
    )

    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    by_name = {name: decay[id(parameter)] for name, parameter in named}
    assert by_name["cls_token"] == 0.0
    assert by_name["blocks.3.attn.rel_pos_h"] == 0.05


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("cls_token", 0),
        ("pos_embed_spatial", 0),
        ("patch_embed.proj.bias", 0),
        ("blocks.0.norm1.weight", 1),
        ("blocks.15.proj.bias", 16),
        ("norm.weight", 17),
        ("head.projection.bias", 17),
    ],
)
def test_layers_are_counted_from_the_input(name, layer):
    assert layer_of(name, depth=16) == layer


@pytest.mark.parametrize(
    ("method", "reference", "tolerance"),
    [
        ("adamw", lambda groups: torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95)), 1e-7),
        ("adam", lambda groups: torch.optim.Adam(groups, lr=0.01, betas=(0.9, 0.95)), 1e-7),
        ("sgd", lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.8, nesterov=True), 0),
    ],
)
def test_three_steps_equal_those_of_torchs_plain_optimizers(method, reference, tolerance):
    ours, theirs = tiny_net(), tiny_net()
    groups = parameter_groups(ours.named_parameters(), weight_decay=0.1, zero_wd_1d=True)
    optimizer = build_optimizer(groups, method=method, lr=0.01, momentum=0.8, betas=(0.9, 0.95))
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    expected = reference(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    )
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))

    for net, stepper in [(ours, optimizer), (theirs, expected)] * 3:
        stepper.zero_grad()
        net(inputs).square().mean().backward()
        stepper.step()

    for actual, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=tolerance, atol=tolerance)


def test_an_unknown_optimizer_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"SOLVER\.OPTIMIZING_METHOD.*'adamm'.*adamw"):
        build_optimizer([], method="adamm", lr=0.1)


@pytest.mark.parametrize("method", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
            ],
        ),
    ],
)
def test_a_step_is_one_kernel(method, device):
    groups = [{"params": list(tiny_net().to(device).parameters())}]

    assert build_optimizer(groups, method=method, lr=0.1).defaults["fused"]


def test_sgd_whose_first_step_is_left_out_begins_with_the_second():
    weights = nn.Parameter(torch.ones(4))
    optimizer = build_optimizer([{"params": [weights]}], method="sgd", lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu")

    for gradient in (torch.inf, 1.0, 1.0):
        weights.grad = scaler.scale(torch.full((4,), gradient))
        scaler.step(optimizer)
        scaler.update()

    # With Nesterov's momentum: 1 - 0.1 * (1 + 0.9) - 0.1 * (1 + 0.9 * 1.9)
    torch.testing.assert_close(weights.detach(), torch.full((4,), 0.539))


def test_sgd_with_dampening_takes_torchs_default():
    groups = [{"params": list(tiny_net().parameters())}]

    optimizer = build_optimizer(groups, method="sgd", lr=0.1, dampening=0.5, nesterov=False)

    assert optimizer.defaults["fused"] is None


def test_a_device_without_a_fused_step_takes_torchs_default():
    groups = [{"params": list(tiny_net().to("meta").parameters())}]

    assert build_optimizer(groups, method="adamw", lr=0.1).defaults["fused"] is None


def test_numbers_that_torch_refuses_are_a_config_error():
    groups = parameter_groups(tiny_net().named_parameters(), weight_decay=0.0, zero_wd_1d=False)

    with pytest.raises(ConfigError, match="Nesterov momentum requires a momentum"):
        build_optimizer(groups, method="sgd", lr=0.1, momentum=0.0)


@pytest.mark.parametrize("layer_decay", [0.0, 1.5])
def test_a_layer_decay_out_of_range_is_refused(layer_decay):
    with pytest.raises(ConfigError, match=r"SOLVER\.LAYER_DECAY"):
        parameter_groups([], weight_decay=0.1, zero_wd_1d=True, layer_decay=layer_decay)


def test_patterns_freeze_whole_names_and_nothing_else():
    net = tiny_net()

    frozen = freeze(net, ["0.*", "?.bias"])

    assert frozen == ["0.weight", "0.bias", "1.bias", "2.bias"]
    trained = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    assert trained == ["1.weight", "2.weight"]


def test_a_frozen_parameter_keeps_its_value():
    net = tiny_net()
    freeze(net, ["0.weight"])
    before = {name: parameter.clone() for name, parameter in net.named_parameters()}
    groups = parameter_groups(net.named_parameters(), weight_decay=0.1, zero_wd_1d=True)
    optimizer = build_optimizer(groups, method="adamw", lr=0.1)

    net(torch.ones(1, 4)).square().mean().backward()
    optimizer.step()

    changed = {
        n for n, parameter in net.named_parameters() if not torch.equal(parameter, before[n])
    }
    assert changed == before.keys() - {"0.weight"}


def test_patterns_that_match_nothing_are_named_with_the_nearest():
    with torch.device("meta"):
        model = create_model("mvitv2_s_16x4")

    with pytest.raises(ConfigError) as caught:
        freeze(model, ["patch_embd.*", "norm.*", "blocks.16.*", "head.projection"])

    assert str(caught.value).splitlines() == [
        "TRAIN.FREEZE: 3 problems",
        "  'patch_embd.*' matches no parameter. Did you mean 'patch_embed.*'?",
        "  'blocks.16.*' matches no parameter. Did you mean 'blocks.6.*'?",
        "  'head.projection' matches no parameter. Did you mean 'head.projection.*'?",
    ]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_freezing_everything_is_refused():
    net = tiny_net()

    with pytest.raises(ConfigError, match="match all 6 parameters, so there is nothing to train"):
        freeze(net, ["*"])

    assert all(parameter.requires_grad for parameter in net.parameters())


def test_no_pattern_freezes_nothing():
    assert freeze(tiny_net(), []) == []
