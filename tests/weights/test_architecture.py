"""What names and shapes alone say about a model."""

import pytest
import torch

from slowfast_mvit.builders.lists import mvit_from_lists
from slowfast_mvit.fast import create_model
from slowfast_mvit.weights.architecture import anatomy_of


def anatomy(name, **changes):
    with torch.device("meta"):
        return anatomy_of(create_model(name, **changes).state_dict())


def test_a_video_model_shows_its_blocks_heads_and_clips():
    found = anatomy("mvitv2_l_40x3", num_classes=174)

    assert (found.depth, found.widths, found.num_heads) == (48, (144, 1152), (2, 16))
    assert found.is_video and found.cls_token and found.abs_pos is None
    assert (found.grows_in, found.stage_starts) == ("attention", (2, 8, 44))
    assert found.input_size() == (40, 312, 312)
    assert found.num_classes == 174 and found.rel_pos == "thw"


@pytest.mark.parametrize("name", ["mvitv2_l_in1k", "maskfeat_l_16x4"])
def test_growth_in_the_mlp_is_told_by_the_block_before_the_stage(name):
    found = anatomy(name)

    assert (found.grows_in, found.stage_starts) == ("MLP", (2, 8, 44))


def test_an_image_model_has_one_frame():
    found = anatomy("mvitv2_t_in1k", input_size=(1, 320, 320))

    assert not found.is_video and not found.cls_token
    assert found.input_size() == (1, 320, 320)


def test_a_clip_that_is_no_square_is_told_by_its_tables():
    assert anatomy("mvitv2_s_16x4", input_size=(32, 224, 320)).input_size() == (32, 224, 320)


def test_separate_absolute_positions_tell_the_grid_of_mvitv1():
    found = anatomy("mvitv1_b_32x3")

    assert found.abs_pos == "separate" and found.rel_pos == ""
    assert found.input_size() == (32, 224, 224)


def test_what_nothing_tells_is_unknown():
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

    found = anatomy_of(state)

    assert found.grid == (2, None, None)  # T by the relative positions in time
    assert found.input_size() == (None, None, None)  # a stride that no published model tells
    assert found.num_heads is None and found.num_classes is None and found.grows_in == ""
    assert found.abs_pos == "joint"
