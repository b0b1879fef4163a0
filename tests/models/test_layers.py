"""The small parts of an MViT."""

from __future__ import annotations

import copy

import pytest
import torch
from exactness import allowed, largest_error
from torchvision.ops import StochasticDepth

from slowfast_mvit.models.layers import DropPath, PatchEmbed
from slowfast_mvit.models.positions import joint_positions, separate_positions
from slowfast_mvit.models.rel_pos import table_length


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop_path = DropPath(0.25).train()

    dropped = drop_path(torch.ones(4000, 3, 2))

    values = dropped.flatten(1)
    assert (values == values[:, :1]).all()
    torch.testing.assert_close(values.unique(), torch.tensor([0.0, 1 / 0.75]))
    assert values.mean().item() == pytest.approx(1.0, abs=0.03)


def test_drop_path_is_the_stochastic_depth_of_torchvision_under_the_same_seed():
    branch = torch.randn(64, 5, 3)

    torch.manual_seed(1)
    expected = StochasticDepth(0.3, mode="row").train()(branch)
    torch.manual_seed(1)
    actual = DropPath(0.3).train()(branch)

    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)


def test_drop_path_does_nothing_in_evaluation():
    branch = torch.randn(4, 3, 2)

    assert DropPath(0.9).eval()(branch) is branch


@pytest.mark.parametrize("size", [(1, 16, 16), (1, 48, 40), (2, 33, 3), (4, 16, 16)], ids=str)
def test_clips_of_any_size_are_embedded_in_bfloat16_as_in_float64(size):
    """PyTorch's own gives NaN for single frames on CPUs with AVX-512."""
    torch.manual_seed(0)
    embed = PatchEmbed(96, kernel=(3, 7, 7), stride=(2, 4, 4), padding=(1, 3, 3))
    pixels = torch.randn(8, 3, *size).bfloat16().float()
    with torch.no_grad():
        for parameter in embed.parameters():
            parameter.copy_(parameter.bfloat16())

    def tokens_and_gradients(embed, pixels, rounded):
        with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            tokens, _ = embed(pixels)
        grads = torch.linspace(-1, 1, tokens.numel()).view_as(tokens).bfloat16()
        gradients = torch.autograd.grad(tokens, list(embed.parameters()), grads.to(tokens.dtype))
        return tokens, *gradients

    def errors(embed, pixels):
        rounded = tokens_and_gradients(embed, pixels, True)
        assert rounded[0].dtype == torch.bfloat16
        exact = tokens_and_gradients(copy.deepcopy(embed).double(), pixels.double(), False)
        return [largest_error(*pair) for pair in zip(rounded, exact, strict=True)]

    # Of clips as long as the kernel, whose convolution is PyTorch's own; results are rounded.
    plain = errors(embed, torch.randn(8, 3, 4, 48, 40).bfloat16().float())
    for error, plain_error in zip(errors(embed, pixels), plain, strict=True):
        assert error <= allowed(max(plain_error, 2**-9))


def test_separate_positions_add_place_and_time():
    spatial = torch.tensor([10.0, 20.0]).view(1, 2, 1)
    temporal = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1)
    class_token = torch.tensor([100.0]).view(1, 1, 1)
    thw = (3, 1, 2)

    positions = separate_positions(spatial, temporal, class_token, trained_thw=thw, thw=thw)

    assert positions.flatten().tolist() == [100, 11, 21, 12, 22, 13, 23]


def test_joint_positions_of_another_grid_are_interpolated():
    embedding = torch.tensor([100.0, 0.0, 1.0]).view(1, 3, 1)

    positions = joint_positions(
        embedding, num_prefix_tokens=1, trained_thw=(1, 1, 2), thw=(1, 1, 4)
    )

    assert positions.flatten().tolist() == [100, 0, 0.25, 0.75, 1]


def test_tables_are_sized_for_rounded_down_grids():
    assert table_length(39, 2, 4) == 37  # although 20 queries are left: the published L has 37
    assert table_length(56, 1, 8) == 111
