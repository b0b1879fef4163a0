"""Proof of the inflation of the paper (https://arxiv.org/abs/2112.01526, section 4.3).

On a clip made of one still image, a video model filled from an image model computes what the image
model does: its filters look at the centre frame only, its temporal tables are zero, and attention
over T equal frames has each score T times, which leaves the weighted mean of the values as it was.
So all frames are equal, those at the ends too. It is exact where nothing but time is added. The
shipped video models have a class token, which meets T times as many patches as in an image, and
pool keys and values more coarsely: there single layers are compared.
"""

import functools

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from slowfast_mvit.builders import load_initial_weights
from slowfast_mvit.builders.lists import mvit_from_lists, variant_lists
from slowfast_mvit.config import load_config
from slowfast_mvit.fast import create_model
from slowfast_mvit.models.pooling import depthwise_pool
from slowfast_mvit.weights import load_weights

FOR_IMAGES = {"patch_kernel": (7, 7), "patch_stride": (4, 4), "patch_padding": (3, 3)}
FOR_IMAGES |= {"pool_kvq_kernel": (1, 3, 3), "rel_pos_temporal": False}
SMALL = {"embed_dim": 16, "depth": 3, "dim_mul": [(1, 2)], "head_mul": [(1, 2)]}
SMALL["pool_q_stride"] = [(0, 1, 1, 1), (1, 1, 2, 2), (2, 1, 1, 1)]


def moving_s(num_frames: int, **changes) -> nn.Module:
    """MViTv2-S for clips, but without class token and with the strides of the image model."""
    options = {"input_size": (num_frames, 64, 64), "num_classes": 10, "cls_token": False}
    lists = variant_lists("S", first_stride_kv=(1, 4, 4))
    return mvit_from_lists(**(lists | options | changes)).double().eval()


def still_s(**changes) -> nn.Module:
    """MViTv2-S for images, with weights everywhere."""
    return with_noise(moving_s(1, **(FOR_IMAGES | changes)))


@torch.no_grad()
def with_noise(model: nn.Module) -> nn.Module:
    """Values that are not zero in biases and tables too, and large enough to matter."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    return model


@functools.cache
def timm_s() -> nn.Module:
    return with_noise(
        timm.create_model("mvitv2_small", img_size=(64, 64), num_classes=10).double().eval()
    )


def flat_2d(model: nn.Module) -> dict[str, torch.Tensor]:
    """The layout of facebookresearch/mvit: blocks numbered through, pooling weights 4-D."""
    return {
        name: value.squeeze(2) if ".pool_" in name else value
        for name, value in model.state_dict().items()
    }


def an_image(size: int = 64) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(1, 3, size, size, dtype=torch.float64)


def still_clip(pixels: torch.Tensor, num_frames: int) -> torch.Tensor:
    return pixels.unsqueeze(2).expand(-1, -1, num_frames, -1, -1)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [2, 8])
def test_s_from_timm_gives_on_a_still_clip_what_timms_model_gives(num_frames):
    moving, pixels = moving_s(num_frames), an_image()

    report = load_weights(moving, timm_s().state_dict(), head="keep")

    assert report.source == "timm" and not report.missing and not report.unexpected
    close(moving(still_clip(pixels, num_frames)), timm_s()(pixels))


@torch.no_grad()
def test_s_from_an_mvit_file_gives_the_images_tokens_in_every_frame_after_every_block(tmp_path):
    still, moving, pixels = still_s(), moving_s(8), an_image()
    torch.save({"model_state": flat_2d(still)}, tmp_path / "in1k.pyth")

    load_weights(moving, tmp_path / "in1k.pyth", head="keep")

    tokens_of_image, tokens_of_clip = tokens_after_blocks(still), tokens_after_blocks(moving)
    close(moving(still_clip(pixels, 8)), still(pixels))
    assert len(tokens_of_image) == len(tokens_of_clip) == 16
    for expected, actual in zip(tokens_of_image, tokens_of_clip, strict=True):
        # The patch embedding steps over two frames, so 8 frames are 4.
        close(actual.unflatten(1, (4, -1)), expected.unsqueeze(1).expand(-1, 4, -1, -1))


def tokens_after_blocks(model: nn.Module) -> list[torch.Tensor]:
    """A list that the next forward pass fills with the tokens (B, L, C) that leave each block."""
    tokens: list[torch.Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, outputs: tokens.append(outputs[0]))
    return tokens


@torch.no_grad()
@pytest.mark.parametrize(("num_frames", "is_exact"), [(2, True), (8, False)])
def test_a_class_token_is_exact_only_where_it_meets_as_many_patches(num_frames, is_exact):
    # Two frames make one patch in time, eight make four.
    still = still_s(cls_token=True, **SMALL)
    moving, pixels = moving_s(num_frames, cls_token=True, **SMALL), an_image()

    load_weights(moving, still.state_dict(), head="keep")

    difference = moving(still_clip(pixels, num_frames)) - still(pixels)
    assert (difference.abs().max() < 1e-9) == is_exact


@pytest.mark.parametrize("inflate", ["center", "mean"])
def test_an_image_model_gets_its_weights_back_from_the_video_model(inflate):
    still, moving, again = (
        still_s(**SMALL),
        moving_s(8, **SMALL),
        moving_s(1, **FOR_IMAGES, **SMALL),
    )
    load_weights(moving, still.state_dict(), inflate=inflate)

    report = load_weights(again, moving.state_dict(), head="keep")

    for name, value in still.state_dict().items():
        close(again.state_dict()[name], value)
    assert len(report.resized) == 1 + 3 * 3  # the patches, and three poolings in three blocks
    assert report.dropped == tuple(f"blocks.{block}.attn.rel_pos_t" for block in range(3))
    assert report.details[report.dropped[0]] == "an image has no time"
    assert not report.missing and not report.unexpected


# The shipped S, layer by layer


@torch.no_grad()
def test_the_shipped_s_embeds_patches_and_pools_as_the_image_model_does():
    still = with_noise(timm.create_model("mvitv2_small").double())
    moving = create_model("mvitv2_s_16x4").double()
    load_weights(moving, still.state_dict())
    still_blocks = [block for stage in still.stages for block in stage.blocks]

    pixels = an_image(32)
    embedded = moving.patch_embed.proj(still_clip(pixels, 6))  # (1, 96, 3, 8, 8)
    close(embedded, still_clip(still.patch_embed.proj(pixels), 3))
    assert len(still_blocks) == len(moving.blocks) == 16
    for theirs, ours in zip(still_blocks, moving.blocks, strict=True):
        for name in ("pool_q", "pool_k", "pool_v"):
            wanted, pool = getattr(theirs.attn, name), getattr(ours.attn, name)
            tokens = torch.randn(1, wanted.weight.shape[0], 16, 16, dtype=torch.float64)
            # Of the same weights: S for clips pools keys and values with twice the stride.
            expected = F.conv2d(
                tokens, wanted.weight, stride=pool.stride[1:], padding=1, groups=tokens.shape[1]
            )
            grid = still_clip(tokens, 3).permute(0, 2, 3, 4, 1).flatten(1, 3).unsqueeze(2)
            pooled, thw = depthwise_pool(grid, (3, 16, 16), pool.weight, pool.stride)
            close(pooled[:, :, 0].unflatten(1, thw).permute(0, 4, 1, 2, 3), still_clip(expected, 3))


@torch.no_grad()
@pytest.mark.parametrize(("inflate", "factor"), [("mean", 1), ("repeat", 3)])
def test_the_other_inflations_agree_in_the_patch_embedding_away_from_the_first_frame(
    inflate, factor
):
    still, moving, pixels = still_s(**SMALL), moving_s(8, **SMALL), an_image()
    load_weights(moving, still.state_dict(), inflate=inflate)

    bias = still.patch_embed.proj.bias.reshape(-1, 1, 1, 1)
    response = moving.patch_embed.proj(still_clip(pixels, 8)) - bias  # (1, 16, 4, 16, 16)
    of_image = (still.patch_embed.proj(pixels).unsqueeze(2) - bias) * factor

    close(response[:, :, 1:], of_image.expand(-1, -1, 3, -1, -1))
    close(response[:, :, :1], of_image * 2 / 3)  # one of its three frames is padding


# PySlowFast's keys


@pytest.fixture
def image_file(tmp_path):
    """An ImageNet checkpoint of PySlowFast: 4-D patches, 5-D pooling, twice the grid."""
    still = still_s(input_size=(1, 128, 128), **SMALL)
    torch.save({"model_state": still.state_dict(), "epoch": 299}, tmp_path / "image.pyth")
    return tmp_path / "image.pyth", still.state_dict()


def start(file, *words: str) -> dict[str, torch.Tensor]:
    moving = moving_s(8, **SMALL)
    config = load_config(
        "Kinetics/MVITv2_S_16x4.yaml", [f"TRAIN.CHECKPOINT_FILE_PATH={file}", *words]
    )
    load_initial_weights(config, moving)
    return moving.state_dict()


PATCHES, POOL = "patch_embed.proj.weight", "blocks.1.attn.pool_k.weight"


@pytest.mark.parametrize(
    ("words", "shares"),
    [
        ([], [0, 1, 0]),  # the paper
        (["TRAIN.CHECKPOINT_INFLATE=True"], [1 / 3, 1 / 3, 1 / 3]),  # repeat(T) / T
        (["TRAIN.CHECKPOINT_IN_INIT=True"], [1, 1, 1]),  # repeat(T), undivided
    ],
    ids=["neither key", "CHECKPOINT_INFLATE", "CHECKPOINT_IN_INIT"],
)
def test_pyslowfasts_keys_say_how_filters_are_spread_over_time(image_file, words, shares):
    file, image = image_file

    video = start(file, *words)

    for name in (PATCHES, POOL):
        kernel = image[name].unsqueeze(2) if image[name].ndim == 4 else image[name]
        expected = torch.cat([share * kernel for share in shares], dim=2)
        close(video[name], expected)


def test_spatial_tables_are_resampled_linearly_along_their_rows(image_file):
    file, image = image_file
    name = "blocks.2.attn.rel_pos_h"

    video = start(file, "TRAIN.CHECKPOINT_IN_INIT=True")

    assert (len(image[name]), len(video[name])) == (31, 15)
    columns = image[name].T.unsqueeze(0)  # (1, D, R)
    expected = F.interpolate(columns, size=15, mode="linear", align_corners=False)[0].T
    close(video[name], expected)


def test_a_name_pattern_is_cleared_once_from_each_name(tmp_path, image_file):
    _, image = image_file
    renamed = {f"backbone.{name}": value for name, value in image.items()}
    torch.save({"model_state": renamed}, tmp_path / "renamed.pyth")

    video = start(tmp_path / "renamed.pyth", "TRAIN.CHECKPOINT_CLEAR_NAME_PATTERN=['backbone.']")

    assert torch.equal(video[PATCHES][:, :, 1], image[PATCHES])
