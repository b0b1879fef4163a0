"""Attention within windows, and relative positions of one joint table, against loops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from exactness import allowed, largest_error
from reference_detectors import DETECTION, backbone_of, filled, probe_loss
from reference_models import clip

from slowfast_mvit.errors import ConfigError
from slowfast_mvit.fast import plan
from slowfast_mvit.models import BlockSpec, MViT
from slowfast_mvit.models.attention import MultiScaleAttention
from slowfast_mvit.models.rel_pos import joint_offsets
from slowfast_mvit.models.variants import detection_specs
from slowfast_mvit.models.windows import cut_windows, join_windows

GOLDEN = DETECTION["backbone"]
SPEC = BlockSpec(16, 16, 16, 2, (2, 8, 8), num_prefix_tokens=0)


def test_windows_are_rectangles_of_all_frames_filled_with_zeros():
    tokens = torch.arange(1, 31).float().view(1, 2 * 3 * 5, 1, 1)  # 2 frames, 3 x 5

    windows = cut_windows(tokens, (2, 3, 5), (2, 3))

    assert windows.shape == (4, 2 * 2 * 3, 1, 1)
    assert windows[1].flatten().tolist() == [4, 5, 0, 9, 10, 0, 19, 20, 0, 24, 25, 0]
    assert windows[2].flatten().tolist() == [11, 12, 13, 0, 0, 0, 26, 27, 28, 0, 0, 0]
    assert torch.equal(join_windows(windows, (2, 3, 5), (2, 3)), tokens)


@pytest.mark.parametrize("grid", [(2, 8, 8), (2, 7, 10)])
def test_each_window_attends_alone(grid):
    """Cut by hand: pooled over the whole grid, each window as a clip of its own."""
    torch.manual_seed(0)
    spec = replace(SPEC, window=4, stride_kv=(1, 2, 2))
    attn = MultiScaleAttention(spec).double().eval()
    tokens = torch.randn(2, grid[0] * grid[1] * grid[2], 16, dtype=torch.float64)

    actual = attn(tokens, grid)[0].view(2, *grid, 16)

    q, k, v, q_thw, k_thw = attn.pool(attn.split_heads(attn.qkv(tokens)), grid)
    for top in range(0, grid[1], 4):
        for left in range(0, grid[2], 4):
            parts = []
            for pooled, thw, side in ((q, q_thw, 4), (k, k_thw, 2), (v, k_thw, 2)):
                part = pooled.new_zeros(2, thw[0], side, side, 2, 8)
                y, x = top * side // 4, left * side // 4
                own = pooled.unflatten(1, thw)[:, :, y : y + side, x : x + side]
                part[:, :, : own.shape[2], : own.shape[3]] = own
                parts.append(part.flatten(1, 3))
            out = attn.attend(*parts, (2, 4, 4), (2, 2, 2)).flatten(2)
            own = actual[:, :, top : top + 4, left : left + 4]
            expected = attn.proj(out).view(2, 2, 4, 4, 16)[:, :, : own.shape[2], : own.shape[3]]
            torch.testing.assert_close(own, expected)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"window": 7, "stride_kv": (1, 2, 2)},
            "a window of 7 is not a multiple of its key stride",
        ),
        ({"window": 7, "stride_q": (1, 2, 2)}, "is not a multiple of its query stride of 2 x 2"),
        ({"window": 8, "kernel_kv": (3, 4, 4)}, r"windows need odd key kernels, got \(3, 4, 4\)"),
        ({"window": 8, "num_prefix_tokens": 1}, "a class token is in no window"),
        ({"window": -8}, "got -8"),
        ({"rel_pos_joint": True}, "positions are either joint or separate for each axis"),
    ],
)
def test_blocks_that_cannot_be_cut_are_refused_when_built(options, problem):
    with pytest.raises(ConfigError, match=f"block 0: .*{problem}"):
        MViT([replace(SPEC, **options)], input_size=(4, 32, 32), num_classes=2)


def test_a_window_that_the_halvings_make_odd_is_refused():
    with pytest.raises(ConfigError, match="block 3: a window of 7 is not a multiple"):
        MViT(detection_specs("T", window=14), input_size=(1, 224, 224), num_classes=2)


@pytest.mark.parametrize("k_thw", [(2, 3, 4), (2, 2, 2)])
@pytest.mark.parametrize("rows", [(3, 5, 7), (3, 3, 5)], ids=["its size", "resampled"])
def test_joint_positions_are_those_of_a_loop(k_thw, rows):
    torch.manual_seed(0)
    q_thw = (2, 3, 4)
    q = torch.randn(1, 2, 24, 8, dtype=torch.float64)
    table = torch.randn(*rows, 8, dtype=torch.float64)

    offsets = joint_offsets(q, table, q_thw, k_thw).view(1, 2, *q_thw, *k_thw)

    volume = table.permute(3, 0, 1, 2)[None]
    volume = torch.nn.functional.interpolate(volume, size=(3, 5, 7), mode="trilinear")[0]
    for place in torch.cartesian_prod(*map(torch.arange, (*q_thw, *k_thw))).tolist():
        row = []
        for i, j, num_q, num_k in zip(place[:3], place[3:], q_thw, k_thw, strict=True):
            step = num_q / num_k
            row.append(int(i - j * step + (num_k - 1) * step))
        query = q.view(1, 2, *q_thw, 8)[0][:, place[0], place[1], place[2]]
        expected = query @ volume[:, row[0], row[1], row[2]]
        torch.testing.assert_close(offsets[0][(slice(None), *place)], expected)


def test_a_model_may_have_joint_positions_and_windows():
    joint = {"rel_pos_spatial": False, "rel_pos_temporal": False, "rel_pos_joint": True}
    spec = replace(SPEC, **joint, window=4, stride_kv=(1, 2, 2))
    models = []
    for attention in ("folded", "plain"):
        torch.manual_seed(0)
        models.append(MViT([spec], input_size=(4, 32, 32), num_classes=2, attention=attention))
    pixels = torch.randn(1, 3, 4, 24, 40)

    logits = models[0](pixels)
    logits.sum().backward()

    torch.testing.assert_close(logits, models[1](pixels))
    assert models[0].blocks[0].attn.rel_pos_joint.shape == (3, 15, 15, 8)
    assert models[0].blocks[0].attn.rel_pos_joint.grad.any()


def answers(keys, attention, shape, *, dtype=torch.float32):
    """Maps and gradients of a small backbone, in evaluation mode."""
    model = backbone_of(keys, attention=attention).to(dtype).eval()
    model.load_state_dict(
        {
            name: value.view(model.state_dict()[name].shape)
            for name, value in filled(
                {n: list(v.shape) for n, v in model.state_dict().items()}
            ).items()
        }
    )
    maps = model(clip(*shape).to(dtype))
    probe_loss(maps).backward()
    return [*maps.values(), *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("case", ["nonsquare_window_padded", "odd_sizes"])
def test_fast_windows_are_as_near_to_float64_as_plain_ones(case, monkeypatch):
    monkeypatch.setattr(plan, "MIN_SCORES", 0)
    keys, shape = (
        GOLDEN["base"] | GOLDEN["cases"][case]["overrides"],
        GOLDEN["cases"][case]["input_shape"],
    )

    exact = answers(keys, "plain", shape, dtype=torch.float64)
    fast, plain = (answers(keys, attention, shape) for attention in ("fast", "plain"))

    def error(results):
        return max(map(largest_error, results[:4], exact[:4])), sum(
            (one.double() - other).square().sum()
            for one, other in zip(results[4:], exact[4:], strict=True)
        ).sqrt().item()

    for of_fast, of_plain in zip(error(fast), error(plain), strict=True):
        assert of_fast <= allowed(of_plain)


def test_windows_of_a_batch_whose_branches_are_all_dropped_have_zero_gradients(monkeypatch):
    monkeypatch.setattr(plan, "MIN_SCORES", 0)
    model = backbone_of(GOLDEN["base"], attention="fast").train()
    for block in model.blocks:
        block.drop_path.rate = 1.0 - 1e-9

    sum(one.sum() for one in model(torch.randn(2, 3, 64, 64)).values()).backward()

    assert model.blocks[0].attn.proj.weight.grad.count_nonzero() == 0
