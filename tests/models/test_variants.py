"""The published models: what they cost, and the names and shapes of their parameters."""

from __future__ import annotations

import json

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from reference_models import FULL_MODELS, REFERENCE, clip, fill

from slowfast_mvit.builders.lists import variant_lists
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.fast import create_model
from slowfast_mvit.models import VARIANTS, list_models
from slowfast_mvit.models.flops import count_flops

STATE_DICTS = {
    "mvitv2_s_16x4": ("mvitv2_s_16x4", 400),
    "mvitv2_s_16x4_ssv2": ("mvitv2_s_16x4", 174),
    "mvitv2_b_32x3": ("mvitv2_b_32x3", 400),
    "mvitv2_l_40x3": ("mvitv2_l_40x3", 400),
    "mvitv1_b_16x4_conv": ("mvitv1_b_16x4", 400),
    "mvitv1_b_32x3_conv": ("mvitv1_b_32x3", 400),
    "mvitv2_s_imagenet_slowfast": ("mvitv2_s_in1k", 1000),
}
FULL = {
    "Kinetics/MVITv2_S_16x4.yaml": "mvitv2_s_16x4",
    "ImageNet/MVITv2_S.yaml": "mvitv2_s_in1k",
}


def without_memory(name, **settings):
    """A model on the meta device: shapes without values."""
    with torch.device("meta"):
        return create_model(name, **settings).eval()


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_and_flops_are_the_published_ones(name):
    model = without_memory(name, attention="plain")

    num_params = sum(p.numel() for p in model.parameters())
    size = VARIANTS[name].input_size
    gflops = count_flops(model, size) / 1e9

    assert num_params == VARIANTS[name].num_params
    assert gflops == pytest.approx(VARIANTS[name].gflops, abs=1e-4)


@pytest.mark.filterwarnings("ignore")  # of torch.jit.trace, which fvcore uses
@pytest.mark.parametrize(
    "name", [pytest.param("mvitv2_s_16x4", marks=pytest.mark.nightly), "mvitv2_t_in1k"]
)
def test_fvcore_counts_the_same_flops(name):
    model = create_model(name, attention="plain").eval()
    pixels = torch.zeros(1, 3, *VARIANTS[name].input_size)

    flops = FlopCountAnalysis(model, pixels).unsupported_ops_warnings(False).total()

    assert flops / 1e9 == pytest.approx(VARIANTS[name].gflops, abs=1e-4)


@pytest.mark.parametrize("reference", STATE_DICTS)
def test_state_dicts_have_the_names_shapes_and_order_of_the_published_weights(reference):
    expected = json.loads((REFERENCE / "state_dicts" / f"{reference}.json").read_text())
    name, num_classes = STATE_DICTS[reference]

    model = without_memory(name, num_classes=num_classes)

    shapes = [(name, list(value.shape)) for name, value in model.state_dict().items()]
    assert shapes == list(expected.items())
    assert list(dict(model.named_parameters())) == list(expected)  # the optimizer's order


@pytest.mark.parametrize("reference", FULL)
def test_full_models_give_the_logits_of_pyslowfast(reference):
    expected = FULL_MODELS[reference]
    model = fill(create_model(FULL[reference]).eval())
    size = VARIANTS[FULL[reference]].input_size
    pixels = clip(1, 3, *(size if size[0] > 1 else size[1:])).float()

    with torch.inference_mode():
        logits = model(pixels)[0]

    torch.testing.assert_close(logits[:16].tolist(), expected["logits_first16"], rtol=0, atol=1e-4)
    assert logits.argmax().item() == expected["argmax"]
    assert logits.mean().item() == pytest.approx(expected["mean"], abs=1e-5)
    assert logits.std().item() == pytest.approx(expected["std"], abs=1e-5)


def test_a_size_has_the_keys_of_the_published_configs():
    lists = variant_lists("S")

    assert lists["dim_mul"] == lists["head_mul"] == [[1, 2.0], [3, 2.0], [14, 2.0]]
    assert lists["pool_q_stride"][:4] == [[0, 1, 1, 1], [1, 1, 2, 2], [2, 1, 1, 1], [3, 1, 2, 2]]
    assert len(lists["pool_q_stride"]) == lists["depth"] == 16
    assert lists["pool_kv_stride_adaptive"] == [1, 8, 8]
    assert lists["pool_kvq_kernel"] == [3, 3, 3]


def test_a_mistyped_model_is_told_the_nearest_name():
    with pytest.raises(ConfigError, match="Did you mean 'mvitv2_s_16x4'"):
        create_model("mvitv2_s_16x5")

    assert "mvitv2_s_16x4" in list_models()
