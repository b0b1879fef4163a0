"""Weights of one size made to fit another."""

import pytest
import torch
import torch.nn.functional as F
from timm.models import adapt_input_conv

from slowfast_mvit.weights.inflate import (
    INFLATIONS,
    center,
    fit_channels,
    fit_kernel,
    mean,
    repeat,
    resample_joint,
    resample_spatial,
    resample_temporal,
    resize_table,
)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_each_inflation_of_one_weight_over_three_frames():
    kernel = torch.tensor(6.0).reshape(1, 1, 1, 1, 1)

    assert center(kernel, 3).flatten().tolist() == [0, 6, 0]
    assert mean(kernel, 3).flatten().tolist() == [2, 2, 2]
    assert repeat(kernel, 3).flatten().tolist() == [6, 6, 6]


@pytest.mark.parametrize("temporal_stride", [1, 2])
def test_center_gives_the_image_result_on_every_frame_of_a_still_clip(temporal_stride):
    # The patch embedding: 7 x 7 pixels, stride 4; in time 3 frames, stride 1 or 2.
    kernel, image = random(8, 3, 7, 7), random(2, 3, 16, 20)
    clip = image.unsqueeze(2).expand(-1, -1, 6, -1, -1)

    inflated = fit_kernel(kernel, torch.Size((8, 3, 3, 7, 7)), center)
    actual = F.conv3d(clip, inflated, stride=(temporal_stride, 4, 4), padding=(1, 3, 3))

    expected = F.conv2d(image, kernel, stride=4, padding=3)
    assert actual.shape[2] == 6 // temporal_stride
    for frame in actual.unbind(dim=2):
        torch.testing.assert_close(frame, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("inflate", "factor"), [(center, 1), (mean, 1), (repeat, 3)])
def test_a_pooling_convolution_on_a_still_clip_away_from_its_ends(inflate, factor):
    # Depthwise, 3 x 3, as of a block with 8 channels a head.
    kernel, image = random(8, 1, 3, 3), random(2, 8, 9, 9)
    clip = image.unsqueeze(2).expand(-1, -1, 5, -1, -1)

    inflated = fit_kernel(kernel, torch.Size((8, 1, 3, 3, 3)), inflate)
    actual = F.conv3d(clip, inflated, stride=(1, 2, 2), padding=1, groups=8)

    expected = factor * F.conv2d(image, kernel, stride=2, padding=1, groups=8)
    for frame in actual[:, :, 1:-1].unbind(dim=2):
        torch.testing.assert_close(frame, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("inflate", INFLATIONS.values(), ids=INFLATIONS)
@pytest.mark.parametrize("time_axis", [(), (1,)], ids=["4-D", "5-D with one frame"])
def test_image_kernels_of_both_layouts_inflate_alike(inflate, time_axis):
    kernel = random(8, 1, 3, 3)

    actual = fit_kernel(
        kernel.reshape(8, 1, *time_axis, 3, 3), torch.Size((8, 1, 3, 3, 3)), inflate
    )

    torch.testing.assert_close(actual, inflate(kernel.unsqueeze(2), 3))


@pytest.mark.parametrize("there", [(8, 1, 3, 3), (8, 1, 1, 3, 3)])
@pytest.mark.parametrize("here", [(8, 1, 3, 3), (8, 1, 1, 3, 3)])
def test_kernels_without_time_keep_their_values_in_either_layout(there, here):
    kernel = random(*there)

    actual = fit_kernel(kernel, torch.Size(here), repeat)

    assert actual.shape == here
    assert torch.equal(actual.flatten(), kernel.flatten())


@pytest.mark.parametrize("here", [(8, 1, 3, 3), (8, 1, 1, 3, 3)])
def test_a_videos_kernel_is_summed_over_time_for_an_image(here):
    kernel = random(8, 1, 5, 3, 3)

    actual = fit_kernel(kernel, torch.Size(here), center)

    assert actual.shape == here
    torch.testing.assert_close(actual.reshape(8, 3, 3), kernel.sum(dim=(1, 2)))


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ((8, 1, 5, 5), (8, 1, 3, 3, 3)),  # other rows and columns
        ((8, 1, 5, 3, 3), (8, 1, 3, 3, 3)),  # several frames into other several
        ((4, 1, 3, 3), (8, 1, 3, 3, 3)),  # other channels
        ((8, 9), (8, 1, 3, 3, 3)),
    ],
)
def test_kernels_that_cannot_fit_are_left(there, here):
    assert fit_kernel(random(*there), torch.Size(here), center) is None


def test_a_table_is_resampled_along_its_rows():
    # Half-pixel centres: row i of 6 is at (i + 0.5) / 2 - 0.5 of 3, kept within 0 and 2.
    table = torch.tensor([[0.0, 10.0], [4.0, 20.0], [8.0, 0.0]])

    resized = resize_table(table, 6)

    assert resized[:, 0].tolist() == [0, 1, 3, 5, 7, 8]
    assert resized[:, 1].tolist() == [10, 12.5, 17.5, 15, 5, 0]


def test_half_precision_tables_are_resampled_in_single_precision():
    table = random(55, 16).to(torch.bfloat16)

    resized = resize_table(table, 27)

    assert resized.dtype == torch.bfloat16
    assert torch.equal(resized, resize_table(table.float(), 27).to(torch.bfloat16))


def test_temporal_positions_of_one_frame_are_the_same_in_all():
    positions = random(1, 1, 4)

    torch.testing.assert_close(resample_temporal(positions, 3), positions.expand(1, 3, 4))


def test_spatial_positions_follow_their_place_in_a_wider_grid():
    # Channel 0 is the row and channel 1 the column of each of 8 x 8 places.
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    positions = torch.stack([rows, columns], dim=-1).reshape(1, 64, 2)

    resized = resample_spatial(positions, (8, 8), (8, 16)).reshape(8, 16, 2)

    # Away from the edges the ramp stays, to within 3/64 (PyTorch's cubic has the slope -0.75).
    expected = (torch.arange(16.0) + 0.5) / 2 - 0.5
    torch.testing.assert_close(resized[4, 4:12, 1], expected[4:12], rtol=0, atol=3 / 64 + 1e-6)
    torch.testing.assert_close(resized[2:6, 7, 0], torch.arange(2.0, 6.0))


def test_joint_positions_are_resampled_in_space_and_in_time():
    # A place's value is 100 t + 10 row + column, on 2 frames of 4 x 4 places.
    t, row, column = torch.meshgrid(*map(torch.arange, (2, 4, 4)), indexing="ij")
    positions = (100.0 * t + 10 * row + column).reshape(1, 32, 1)

    resized = resample_joint(positions, (2, 4, 4), (2, 4, 2)).reshape(2, 4, 2)

    # Two columns for four: each is in the middle of two.
    assert resized[0].tolist() == [[0.5, 2.5], [10.5, 12.5], [20.5, 22.5], [30.5, 32.5]]
    assert (resized[1] - resized[0] == 100).all()


def test_joint_positions_of_an_image_are_the_same_in_all_frames():
    positions = random(1, 16, 4)

    resized = resample_joint(positions, (1, 4, 4), (3, 4, 4))

    torch.testing.assert_close(resized, positions.repeat(1, 3, 1))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_other_channels_than_rgb_get_the_weights_that_timm_gives_them(channels):
    kernel = random(8, 3, 7, 7).float()

    fitted = fit_channels(kernel, channels)

    torch.testing.assert_close(fitted, adapt_input_conv(channels, kernel))
