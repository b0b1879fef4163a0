"""The grid of absolute positions: known from tables, configs, or the model."""

import pytest
import torch

from slowfast_mvit.builders.lists import mvit_from_lists
from slowfast_mvit.weights import load_weights
from slowfast_mvit.weights.architecture import grid_of_joint, plane_of

UNKNOWN = (None, None, None)


@pytest.mark.parametrize(
    ("num_tokens", "known", "grid"),
    [
        (8 * 14 * 14, UNKNOWN, (8, 14, 14)),  # the model's number of frames, more pixels
        (4 * 7 * 7, UNKNOWN, (4, 7, 7)),  # the model's pixels, fewer frames
        (5 * 6 * 6, UNKNOWN, None),
        (196, (1, None, None), (1, 14, 14)),  # an image
        (8 * 14 * 14, (32, None, None), (32, 7, 7)),
        (5 * 6 * 6, (5, None, None), (5, 6, 6)),
        (5 * 6 * 9, (None, 6, 9), (5, 6, 9)),
        (5 * 6 * 9, (4, 6, 9), None),  # the known axes do not agree
        (5 * 6 * 9, (5, None, None), None),  # not square
    ],
)
def test_the_grid_of_joint_positions(num_tokens, known, grid):
    assert grid_of_joint(num_tokens, known, (8, 7, 7)) == grid


def test_the_plane_of_spatial_positions():
    assert plane_of(36, UNKNOWN) == (6, 6)
    assert plane_of(36, (None, 4, 9)) == (4, 9)
    assert plane_of(37, (None, 4, 9)) is None


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def without_tables(input_size, **changes):
    """Return a model whose weights show the number of their tokens only."""
    options = {"num_classes": 5, "embed_dim": 8, "depth": 2, "abs_pos": "joint"}
    options |= {"rel_pos_spatial": False, "rel_pos_temporal": False}
    return mvit_from_lists(input_size=input_size, **(options | changes)).double().eval()


def with_tables(input_size, **changes):
    tables = {"rel_pos_spatial": True, "rel_pos_temporal": True}
    return without_tables(input_size, **(tables | changes))


SPEC = {"num_frames": 8, "sampling_rate": 4, "target_fps": 30, "policy": "interval"}
SPEC |= {"crop_px": 32, "scale_px": 32, "mean": [0.45] * 3, "std": [0.225] * 3, "class_names": None}
RECORDED_IN = {
    "input_spec": {"slowfast_mvit": {"input_spec": SPEC}},
    "config": {"cfg": "DATA:\n  NUM_FRAMES: 8\n  SAMPLING_RATE: 4\n"},
    "flow style": {"cfg": "{DATA: {NUM_FRAMES: 8}}"},
}


@pytest.mark.parametrize("extra", RECORDED_IN.values(), ids=RECORDED_IN)
def test_a_checkpoint_with_its_frames_fits_a_grid_that_differs_in_all_axes(extra):
    trained, other = without_tables((8, 32, 32)), without_tables((12, 48, 64))
    pixels = torch.randn(1, 3, 12, 48, 64, dtype=torch.float64)

    report = load_weights(other, {"model_state": trained.state_dict(), **extra})

    assert report.details["pos_embed"] == "4 x 8 x 8 -> 6 x 12 x 16 tokens"
    torch.testing.assert_close(other(pixels), trained(pixels), rtol=0, atol=1e-10)


def test_without_it_positions_are_missing_with_a_reason():
    trained, other = without_tables((8, 32, 32)), without_tables((12, 48, 64))
    before = other.pos_embed.detach().clone()

    report = load_weights(other, trained.state_dict(), min_filled=0.3)

    assert report.missing == ("pos_embed",)
    assert "256 tokens may be many grids, and the grid is unknown" in report.details["pos_embed"]
    assert torch.equal(other.pos_embed, before)


@pytest.mark.parametrize("abs_pos", ["joint", "separate"])
def test_tables_show_a_grid_that_is_not_square(abs_pos):
    trained = with_tables((8, 32, 64), abs_pos=abs_pos)
    other = with_tables((12, 48, 32), abs_pos=abs_pos)
    pixels = torch.randn(1, 3, 12, 48, 32, dtype=torch.float64)

    report = load_weights(other, trained.state_dict())

    assert not report.missing
    torch.testing.assert_close(other(pixels), trained(pixels), rtol=0, atol=1e-9)


@pytest.mark.parametrize("abs_pos", ["joint", "separate"])
def test_as_many_tokens_of_another_grid_are_resized(abs_pos):
    trained = with_tables((8, 32, 64), abs_pos=abs_pos)
    other = with_tables((8, 64, 32), abs_pos=abs_pos)
    pixels = torch.randn(1, 3, 8, 64, 32, dtype=torch.float64)

    report = load_weights(other, trained.state_dict())

    assert {"joint": "pos_embed", "separate": "pos_embed_spatial"}[abs_pos] in report.resized
    torch.testing.assert_close(other(pixels), trained(pixels), rtol=0, atol=1e-9)


def test_spatial_positions_of_an_unknown_grid_are_missing():
    trained = without_tables((8, 32, 64), abs_pos="separate")
    other = without_tables((8, 64, 64), abs_pos="separate")
    alike = without_tables((8, 32, 64), abs_pos="separate")

    report = load_weights(other, trained.state_dict(), min_filled=0.5)
    same = load_weights(alike, trained.state_dict())

    assert "128 places are no square" in report.details["pos_embed_spatial"]
    assert not same.missing and not same.resized


def test_tables_of_a_first_block_that_pools_queries_are_not_trusted():
    pooling = {"pool_q_stride": [(0, 1, 2, 2)], "pool_kvq_kernel": (1, 3, 3)}
    trained = with_tables((8, 64, 64), **pooling)
    alike = with_tables((8, 64, 64), **pooling)

    report = load_weights(alike, trained.state_dict())

    assert not report.missing and not report.resized
