"""The published models by name, and what each of them costs.

A size says where in the network something changes: four stages, each of which but the first begins
by halving the grid and doubling the width and the heads. A variant is a size made into a model for
clips or images.

To add a model, add a row to ``VARIANTS`` with its parameters and FLOPs; a test counts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from slowfast_mvit.errors import pick
from slowfast_mvit.kernels import THW
from slowfast_mvit.models.mvit import MViT, mvit_from_lists


@dataclass(frozen=True)
class Size:
    """Where something changes.

    Attributes:
        stages: blocks in each stage.
        embed_dim: width of the first stage; each later stage doubles it.
        num_heads: heads of the first stage, doubled likewise.
    """

    stages: tuple[int, ...]
    embed_dim: int = 96
    num_heads: int = 1


SIZES = {
    "T": Size((1, 2, 5, 2)),
    "S": Size((1, 2, 11, 2)),
    "B": Size((2, 3, 16, 3)),
    "L": Size((2, 6, 36, 4), embed_dim=144, num_heads=2),
    "H": Size((4, 8, 60, 8), embed_dim=192, num_heads=3),
}


def variant_lists(
    size: str,
    *,
    first_stride_kv: THW = (1, 8, 8),
    kernel: THW | None = (3, 3, 3),
    pools_every_q: bool = True,
) -> dict[str, Any]:
    """A size in the form of PySlowFast's ``MVIT`` keys; as they stand, those of its video models.

    Args:
        size: "T", "S", "B", "L" or "H".
        first_stride_kv: key and value stride of the first block.
        kernel: kernel of every pooling; None makes it one wider than the stride.
        pools_every_q: queries are pooled in every block (MViTv2), or only where the grid shrinks.

    Returns:
        embed_dim, num_heads, depth, dim_mul, head_mul, pool_q_stride, pool_kv_stride_adaptive and
        pool_kvq_kernel, as ``block_specs`` takes them.

    Raises:
        ConfigError: if there is no such size.
    """
    shape = pick(SIZES, size, "MViT size")
    stage_starts = list(accumulate(shape.stages))[:-1]
    strides = {block: [1, 1, 1] for block in range(sum(shape.stages)) if pools_every_q}
    strides |= {block: [1, 2, 2] for block in stage_starts}
    return {
        "embed_dim": shape.embed_dim,
        "num_heads": shape.num_heads,
        "depth": sum(shape.stages),
        "dim_mul": [[block, 2.0] for block in stage_starts],
        "head_mul": [[block, 2.0] for block in stage_starts],
        "pool_q_stride": [[block, *strides[block]] for block in sorted(strides)],
        "pool_kv_stride_adaptive": list(first_stride_kv),
        "pool_kvq_kernel": None if kernel is None else list(kernel),
    }


@dataclass(frozen=True)
class Variant:
    """A published model.

    Attributes:
        size: key of ``SIZES``.
        input_size: pixels (T, H, W).
        num_classes: classes it was published for.
        num_params: parameters, with that many classes.
        gflops: multiply-adds of one view, in 1e9, as fvcore counts them on plain attention.
        drop_path: stochastic depth in its recipe; 0 where no recipe was published.
        head_dropout: dropout before the classifier in its recipe.
        pooling: arguments of ``variant_lists`` other than the defaults.
        trunk: arguments of ``mvit_from_lists`` other than the defaults.
    """

    size: str
    input_size: THW
    num_classes: int
    num_params: int
    gflops: float
    drop_path: float = 0.0
    head_dropout: float = 0.5
    pooling: Mapping[str, Any] = field(default_factory=dict)
    trunk: Mapping[str, Any] = field(default_factory=dict)


_MASKFEAT: dict[str, Any] = {
    "head_dropout": 0.0,
    "trunk": {"dim_mul_in_att": False, "mean_pooling": True, "head_init_scale": 0.001},
}
_MVITV1_TRUNK: dict[str, Any] = {
    "dim_mul_in_att": False,
    "abs_pos": "separate",
    "rel_pos_spatial": False,
    "rel_pos_temporal": False,
    "residual_pooling": False,
}
_IMAGE_TRUNK: dict[str, Any] = {
    "patch_kernel": (7, 7),
    "patch_stride": (4, 4),
    "patch_padding": (3, 3),
    "rel_pos_temporal": False,
}
_IMAGE: dict[str, Any] = {
    "input_size": (1, 224, 224),
    "head_dropout": 0.0,
    "pooling": {"first_stride_kv": (1, 4, 4), "kernel": (1, 3, 3)},
}
_IN1K = {**_IMAGE, "num_classes": 1000, "trunk": {**_IMAGE_TRUNK, "cls_token": False}}
_IN21K = {
    **_IMAGE,
    "num_classes": 19168,
    "trunk": {**_IMAGE_TRUNK, "residual_cls_token": True},
}

VARIANTS = {
    # MViTv2, Kinetics-400
    "mvitv2_s_16x4": Variant("S", (16, 224, 224), 400, 34_537_744, 64.4569, drop_path=0.2),
    "mvitv2_b_32x3": Variant("B", (32, 224, 224), 400, 51_230_128, 225.1700, drop_path=0.3),
    "mvitv2_l_40x3": Variant("L", (40, 312, 312), 400, 213_390_112, 2828.1012, drop_path=0.75),
    # MViTv2 as MaskFeat fine-tunes it (https://arxiv.org/abs/2112.09133), Kinetics-400
    "maskfeat_s_16x4": Variant(
        "S", (16, 224, 224), 400, 36_475_120, 71.4148, drop_path=0.1, **_MASKFEAT
    ),
    "maskfeat_l_16x4": Variant(
        "L", (16, 224, 224), 400, 217_578_064, 377.7871, drop_path=0.2, **_MASKFEAT
    ),
    # MViTv1 with convolutional pooling, Kinetics-400; the second has 24 blocks
    "mvitv1_b_16x4": Variant(
        "S",
        (16, 224, 224),
        400,
        36_610_672,
        70.8039,
        drop_path=0.2,
        pooling={"pools_every_q": False},
        trunk=_MVITV1_TRUNK,
    ),
    "mvitv1_b_32x3": Variant(
        "B",
        (32, 224, 224),
        400,
        53_115_280,
        236.3104,
        drop_path=0.3,
        pooling={"pools_every_q": False, "kernel": None},
        trunk=_MVITV1_TRUNK,
    ),
    # MViTv2 for images, ImageNet-1K. The published weights of L widen in the MLP, unlike L for
    # clips; the 42.1 GFLOPs published beside them are those of widening in attention.
    "mvitv2_t_in1k": Variant("T", num_params=24_173_320, gflops=4.7042, drop_path=0.1, **_IN1K),
    "mvitv2_s_in1k": Variant("S", num_params=34_870_216, gflops=6.9983, drop_path=0.1, **_IN1K),
    "mvitv2_b_in1k": Variant("B", num_params=51_472_744, gflops=10.1587, drop_path=0.3, **_IN1K),
    "mvitv2_l_in1k": Variant(
        "L",
        num_params=217_992_952,
        gflops=43.8693,
        drop_path=0.5,
        **{**_IN1K, "trunk": {**_IN1K["trunk"], "dim_mul_in_att": False}},
    ),
    # MViTv2 for images, ImageNet-21K, with a class token
    "mvitv2_b_in21k": Variant("B", num_params=65_444_032, gflops=10.2318, **_IN21K),
    "mvitv2_l_in21k": Variant("L", num_params=234_583_216, gflops=42.1717, **_IN21K),
    "mvitv2_h_in21k": Variant("H", num_params=694_804_128, gflops=120.6671, **_IN21K),
}


def list_models() -> list[str]:
    """The names that ``create_model`` knows."""
    return sorted(VARIANTS)


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    input_size: Sequence[int] | None = None,
    attention: str = "fast",
    drop_path: float | None = None,
    head_dropout: float | None = None,
) -> MViT:
    """A published model by name, with fresh weights.

    Args:
        name: one of ``list_models()``.
        num_classes: classes; None for as many as it was published for.
        input_size: pixels (T, H, W) of the clips to train on; None for the published size.
        attention: "fast", "folded" or "plain", the same function computed in three ways.
        drop_path: stochastic depth of the last block; None for that of the published recipe.
        head_dropout: dropout before the classifier; None for that of the published recipe.

    Raises:
        ConfigError: if there is no such model; says which is nearest.
    """
    arguments = variant_arguments(name)
    given = {
        "num_classes": num_classes,
        "input_size": None if input_size is None else _thw(input_size),
        "drop_path": drop_path,
        "head_dropout": head_dropout,
    }
    arguments |= {key: value for key, value in given.items() if value is not None}
    return mvit_from_lists(attention=attention, **arguments)


def variant_arguments(name: str) -> dict[str, Any]:
    """The plain arguments of ``mvit_from_lists`` for a published model.

    Raises:
        ConfigError: if there is no such model; says which is nearest.
    """
    variant = pick(VARIANTS, name, "model")
    return {
        "input_size": variant.input_size,
        "num_classes": variant.num_classes,
        "drop_path": variant.drop_path,
        "head_dropout": variant.head_dropout,
        **variant_lists(variant.size, **variant.pooling),
        **variant.trunk,
    }


def _thw(values: Sequence[int]) -> THW:
    t, h, w = values
    return t, h, w
