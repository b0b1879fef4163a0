"""The architecture of a model from names and shapes alone."""

import pytest
import torch

from slowfast_mvit.builders.lists import mvit_from_lists
from slowfast_mvit.fast import create_model
from slowfast_mvit.weights.architecture import anatomy_of


def anatomy(name, **changes):
    with torch.device("meta"):
        return anatomy_of(create_model(name, **changes).state_dict())


def test_a_video_model_shows_its_blocks_heads_and_clips():
    shown = anatomy("mvitv2_l_40x3", num_classes=174)

    assert (shown.depth, shown.widths, shown.num_heads) == (48, (144, 1152), (2, 16))
    assert shown.is_video and shown.cls_token and shown.abs_pos is None
    assert (shown.grows_in, shown.stage_starts) == ("attention", (2, 8, 44))
    assert shown.input_size() == (40, 312, 312)
    assert shown.num_classes == 174 and shown.rel_pos == "thw"


@pytest.mark.parametrize("name", ["mvitv2_l_in1k", "maskfeat_l_16x4"])
def test_growth_in_the_mlp_is_in_the_block_before_the_stage(name):
    shown = anatomy(name)

    assert (shown.grows_in, shown.stage_starts) == ("MLP", (2, 8, 44))


def test_an_image_model_has_one_frame():
    shown = anatomy("mvitv2_t_in1k", input_size=(1, 320, 320))

    assert not shown.is_video and not shown.cls_token
    assert shown.input_size() == (1, 320, 320)


def test_tables_show_a_clip_that_is_not_square():
    assert anatomy("mvitv2_s_16x4", input_size=(32, 224, 320)).input_size() == (32, 224, 320)


def test_separate_absolute_positions_show_the_grid_of_mvitv1():
    shown = anatomy("mvitv1_b_32x3")

    assert shown.abs_pos == "separate" and shown.rel_pos == ""
    assert shown.input_size() == (32, 224, 224)


def test_axes_without_tables_are_unknown():
    model = mvit_from_lists(
        input_size=(4, 32, 32),
        num_classes=3,
        patch_kernel=(3, 5, 5),
        embed_dim=8,
        depth=2,
        rel_pos_spatial=False,
        abs_pos="joint",
    )
    state = {name: v for name, v in model.state_dict().items() if not name.startswith("head.")}

    shown = anatomy_of(state)

    assert shown.grid == (2, None, None)  # T by the relative positions in time
    assert shown.input_size() == (None, None, None)  # a kernel of no published model
    assert shown.num_heads is None and shown.num_classes is None and shown.grows_in == ""
    assert shown.abs_pos == "joint"
