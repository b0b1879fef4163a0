"""Image models against timm's, with the same weights."""

from __future__ import annotations

import pytest
import timm
import torch
from renaming import from_timm

from slowfast_mvit.builders.lists import mvit_from_lists, variant_as_lists, variant_lists
from slowfast_mvit.fast import create_model
from slowfast_mvit.models.variants import SIZES, VARIANTS

LIKE_TIMM = {
    "mvitv2_t_in1k": "mvitv2_tiny",
    "mvitv2_s_in1k": "mvitv2_small",
    "mvitv2_b_in1k": "mvitv2_base",
    "mvitv2_l_in1k": "mvitv2_large",
}
LIKE_TIMM_CLS = {
    "mvitv2_b_in21k": "mvitv2_base_cls",
    "mvitv2_l_in21k": "mvitv2_large_cls",
    "mvitv2_h_in21k": "mvitv2_huge_cls",
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.nightly if name == "mvitv2_l_in1k" else ())
        for name in LIKE_TIMM
    ],
)
def test_logits_are_those_of_timm(name):
    torch.manual_seed(0)
    theirs = timm.create_model(LIKE_TIMM[name]).eval()
    with torch.device("meta"):  # the weights come from there: no need to draw our own
        ours = create_model(name).eval()
    state = from_timm(theirs.state_dict(), SIZES[VARIANTS[name].size].stages)
    ours.load_state_dict(state, assign=True)
    pixels = torch.randn(1, 3, 224, 224)

    with torch.inference_mode():
        expected, actual, with_time_axis = theirs(pixels), ours(pixels), ours(pixels[:, :, None])

    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(with_time_axis, actual, rtol=0, atol=0)


@pytest.mark.parametrize("attention", ["folded", "plain"])
def test_logits_with_a_class_token_are_those_of_timm(attention):
    """The class token gets the residual of pooling there, unlike in PySlowFast's video models."""
    torch.manual_seed(0)
    theirs = timm.create_model("mvitv2_small_cls", num_classes=10, img_size=64).double().eval()
    ours = mvit_from_lists(
        **variant_as_lists("mvitv2_b_in21k")
        | variant_lists("S", first_stride_kv=(1, 4, 4), kernel=(1, 3, 3))
        | {"num_classes": 10, "input_size": (1, 64, 64), "attention": attention}
    )
    ours.double().eval().load_state_dict(from_timm(theirs.state_dict(), SIZES["S"].stages))
    pixels = torch.randn(1, 3, 64, 64, dtype=torch.float64)

    with torch.inference_mode():
        torch.testing.assert_close(ours(pixels), theirs(pixels), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", LIKE_TIMM_CLS)
def test_names_and_shapes_with_a_class_token_are_those_of_timm(name):
    with torch.device("meta"):
        theirs = timm.create_model(LIKE_TIMM_CLS[name], num_classes=19168)
        ours = create_model(name)

    expected = from_timm(theirs.state_dict(), SIZES[VARIANTS[name].size].stages)

    shapes = {name: value.shape for name, value in ours.state_dict().items()}
    assert shapes == {name: value.shape for name, value in expected.items()}
