"""MViTv1 against pytorchvideo's builder, with the same weights."""

from __future__ import annotations

import pytest
import torch
from renaming import from_pytorchvideo

from slowfast_mvit.builders.lists import mvit_from_lists

# Widths and heads double at two blocks; queries are pooled there and nowhere else.
LISTS = {
    "depth": 4,
    "embed_dim": 16,
    "dim_mul": [[1, 2.0], [3, 2.0]],
    "head_mul": [[1, 2.0], [3, 2.0]],
    "pool_q_stride": [[1, 1, 2, 2], [3, 1, 2, 2]],
    "pool_kv_stride_adaptive": [1, 4, 4],
}


@pytest.mark.parametrize("kernel", [(3, 3, 3), None], ids=["kernel 3", "kernel stride + 1"])
@pytest.mark.parametrize("abs_pos", ["separate", "joint"])
@pytest.mark.parametrize("cls_token", [True, False], ids=["class token", "no class token"])
def test_logits_are_those_of_pytorchvideo(cls_token, abs_pos, kernel):
    builders = pytest.importorskip("pytorchvideo.models.vision_transformers")
    torch.manual_seed(0)
    theirs = builders.create_multiscale_vision_transformers(
        spatial_size=64,
        temporal_size=4,
        cls_embed_on=cls_token,
        sep_pos_embed=abs_pos == "separate",
        depth=LISTS["depth"],
        patch_embed_dim=LISTS["embed_dim"],
        embed_dim_mul=LISTS["dim_mul"],
        atten_head_mul=LISTS["head_mul"],
        pool_q_stride_size=LISTS["pool_q_stride"],
        pool_kv_stride_adaptive=LISTS["pool_kv_stride_adaptive"],
        pool_kvq_kernel=kernel,
        head_num_classes=7,
        head_dropout_rate=0.0,
    ).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6  # PySlowFast's; pytorchvideo has 1e-5 after pooling
    ours = mvit_from_lists(
        input_size=(4, 64, 64),
        num_classes=7,
        pool_kvq_kernel=kernel,
        cls_token=cls_token,
        abs_pos=abs_pos,
        dim_mul_in_att=False,
        rel_pos_spatial=False,
        rel_pos_temporal=False,
        residual_pooling=False,
        **LISTS,
    ).eval()
    ours.load_state_dict(from_pytorchvideo(theirs.state_dict()))
    pixels = torch.randn(2, 3, 4, 64, 64)

    with torch.inference_mode():
        expected, actual = theirs(pixels), ours(pixels)

    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
