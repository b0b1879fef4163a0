"""The published models by name, with their parameters and FLOPs.

A size has four stages; each of them but the first begins by halving the grid and doubling the width
and the heads. A variant is a size made into a model for clips or images, or into the backbone of a
detector.

To add a model, add a row to ``VARIANTS`` or ``BACKBONES`` with its parameters and FLOPs; a test
counts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

from slowfast_mvit.errors import ConfigError, pick
from slowfast_mvit.models.specs import (
    BlockSpec,
    as_thw,
    divided,
    first_grid,
    pooling_kernel,
)
from slowfast_mvit.models.tables import THW


@dataclass(frozen=True)
class Size:
    """The stages of a model: where widths, heads and the grid change.

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


def stage_specs(
    size: str | Size,
    *,
    input_thw: THW,
    first_stride_kv: THW = (1, 8, 8),
    kernel: THW | None = (3, 3, 3),
    pools_every_q: bool = True,
    dim_mul_in_att: bool = True,
    drop_path: float = 0.0,
    **options: Any,
) -> list[BlockSpec]:
    """The blocks of a size; as the defaults have them, those of MViTv2 for video.

    Args:
        size: "T", "S", "B", "L" or "H", or the stages of another one.
        input_thw: token grid after the patch embedding.
        first_stride_kv: key and value stride of the first block; halved where the grid is.
        kernel: kernel of every pooling; None makes it one wider than the stride.
        pools_every_q: queries are pooled in every block (MViTv2), or only where the grid shrinks.
        dim_mul_in_att: tokens get wider in the attention of a stage's first block (MViTv2), else
            in the MLP of the block before it (MViTv1).
        drop_path: rate of the last block; rises linearly from 0 at the first.
        options: of every ``BlockSpec``.

    Raises:
        ConfigError: if there is no such size.
    """
    shape = size if isinstance(size, Size) else pick(SIZES, size, "MViT size")
    depth, starts = sum(shape.stages), set(accumulate(shape.stages[:-1]))
    dim, num_heads, stride_kv = shape.embed_dim, shape.num_heads, first_stride_kv
    specs = []
    for block in range(depth):
        stride_q = (1, 2, 2) if block in starts else (1, 1, 1)
        num_heads *= 2 if block in starts else 1
        stride_kv = divided(stride_kv, stride_q)
        dim_out = 2 * dim if (block if dim_mul_in_att else block + 1) in starts else dim
        specs.append(
            BlockSpec(
                dim=dim,
                dim_att=dim_out if dim_mul_in_att else dim,
                dim_out=dim_out,
                num_heads=num_heads,
                input_thw=input_thw,
                kernel_q=pooling_kernel(stride_q, kernel)
                if pools_every_q or block in starts
                else None,
                stride_q=stride_q,
                kernel_kv=pooling_kernel(stride_kv, kernel),
                stride_kv=stride_kv,
                drop_path=drop_path * block / max(depth - 1, 1),
                **options,
            )
        )
        dim, input_thw = dim_out, divided(input_thw, stride_q)
    return specs


def detection_specs(
    size: str | Size, *, input_thw: THW = (1, 56, 56), window: int = 56, **options: Any
) -> list[BlockSpec]:
    """The blocks of a size as the backbone of a detector: those for images, with windows.

    The last block of each stage but the first attends over the whole map; where another stage
    follows, its keys are twice as coarse. The first block of a stage has the windows of the stage
    before, as they are measured on its input.

    Args:
        size: "T", "S", "B", "L" or "H", or the stages of another one.
        input_thw: token grid of the tables; that of 224 pixels fits weights for images.
        window: side of the windows of the first stage, in tokens; halved where the grid is. 0 for
            no windows.
        options: of ``stage_specs``.

    Raises:
        ConfigError: if there is no such size.
    """
    shape = size if isinstance(size, Size) else pick(SIZES, size, "MViT size")
    ends = list(accumulate(shape.stages))  # of each stage, the block after it
    specs = []
    for block, spec in enumerate(
        stage_specs(shape, input_thw=input_thw, **{**_DETECTION_BLOCKS, **options})
    ):
        t, h, w = spec.stride_kv
        coarser = 2 if block + 1 in ends[1:-1] else 1
        is_global = block + 1 in ends[1:]
        num_halvings = sum(end < block for end in ends)
        windows = 0 if is_global else window >> num_halvings
        specs.append(replace(spec, window=windows, stride_kv=(t, coarser * h, coarser * w)))
    return specs


@dataclass(frozen=True)
class Variant:
    """A published model.

    Attributes:
        size: key of ``SIZES``.
        input_size: pixels (T, H, W).
        num_classes: classes it was published for.
        num_params: parameters, with that many classes.
        gflops: multiply-adds of one view, in 1e9, as fvcore counts them on plain attention; of a
            backbone, those of an image of ``BACKBONE_IMAGE`` pixels.
        drop_path: stochastic depth in its recipe; 0 where no recipe was published.
        head_dropout: dropout before the classifier in its recipe.
        blocks: arguments of ``stage_specs`` or ``detection_specs`` other than the defaults.
        trunk: arguments of ``MViT`` or ``Backbone`` other than the defaults.
    """

    size: str
    input_size: THW
    num_classes: int
    num_params: int
    gflops: float
    drop_path: float = 0.0
    head_dropout: float = 0.5
    blocks: Mapping[str, Any] = field(default_factory=dict)
    trunk: Mapping[str, Any] = field(default_factory=dict)


_MASKFEAT: dict[str, Any] = {
    "head_dropout": 0.0,
    "blocks": {"dim_mul_in_att": False},
    "trunk": {"mean_pooling": True, "head_init_scale": 0.001},
}
_MVITV1_BLOCKS: dict[str, Any] = {
    "dim_mul_in_att": False,
    "pools_every_q": False,
    "rel_pos_spatial": False,
    "rel_pos_temporal": False,
    "residual_pooling": False,
}
_IMAGE_BLOCKS: dict[str, Any] = {
    "first_stride_kv": (1, 4, 4),
    "kernel": (1, 3, 3),
    "rel_pos_temporal": False,
}
_DETECTION_BLOCKS = {**_IMAGE_BLOCKS, "num_prefix_tokens": 0}
_IMAGE: dict[str, Any] = {
    "input_size": (1, 224, 224),
    "head_dropout": 0.0,
    "trunk": {"patch_kernel": (7, 7), "patch_stride": (4, 4), "patch_padding": (3, 3)},
}
_IN1K = {**_IMAGE, "num_classes": 1000, "blocks": _DETECTION_BLOCKS}
_IN21K = {
    **_IMAGE,
    "num_classes": 19168,
    "blocks": {**_IMAGE_BLOCKS, "residual_cls_token": True},
}
_BACKBONE: dict[str, Any] = {**_IMAGE, "num_classes": 0}

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
        blocks=_MVITV1_BLOCKS,
        trunk={"abs_pos": "separate"},
    ),
    "mvitv1_b_32x3": Variant(
        "B",
        (32, 224, 224),
        400,
        53_115_280,
        236.3104,
        drop_path=0.3,
        blocks={**_MVITV1_BLOCKS, "kernel": None},
        trunk={"abs_pos": "separate"},
    ),
    # MViTv2 for images, ImageNet-1K. The published weights of L widen in the MLP, unlike L for
    # clips; the 42.1 GFLOPs published with them are those of widening in attention.
    "mvitv2_t_in1k": Variant("T", num_params=24_173_320, gflops=4.7042, drop_path=0.1, **_IN1K),
    "mvitv2_s_in1k": Variant("S", num_params=34_870_216, gflops=6.9983, drop_path=0.1, **_IN1K),
    "mvitv2_b_in1k": Variant("B", num_params=51_472_744, gflops=10.1587, drop_path=0.3, **_IN1K),
    "mvitv2_l_in1k": Variant(
        "L",
        num_params=217_992_952,
        gflops=43.8693,
        drop_path=0.5,
        **{**_IN1K, "blocks": {**_IN1K["blocks"], "dim_mul_in_att": False}},
    ),
    # MViTv2 for images, ImageNet-21K, with a class token
    "mvitv2_b_in21k": Variant("B", num_params=65_444_032, gflops=10.2318, **_IN21K),
    "mvitv2_l_in21k": Variant("L", num_params=234_583_216, gflops=42.1717, **_IN21K),
    "mvitv2_h_in21k": Variant("H", num_params=694_804_128, gflops=120.6671, **_IN21K),
}

BACKBONE_IMAGE = (1, 800, 1088)
# Backbones of detectors, as detectron2's projects MViTv2 and ViTDet train them on COCO
BACKBONES = {
    "detection_t": Variant("T", num_params=23_405_664, gflops=89.5170, drop_path=0.2, **_BACKBONE),
    "detection_s": Variant("S", num_params=34_102_560, gflops=129.8149, drop_path=0.2, **_BACKBONE),
    "detection_b": Variant("B", num_params=50_705_088, gflops=185.5721, drop_path=0.4, **_BACKBONE),
    "detection_l": Variant(
        "L", num_params=212_484_384, gflops=744.3999, drop_path=0.5, **_BACKBONE
    ),
    "detection_h": Variant(
        "H", num_params=665_345_408, gflops=2109.4915, drop_path=0.6, **_BACKBONE
    ),
}


def list_models() -> list[str]:
    """The names of the published models, backbones of detectors included."""
    return sorted([*VARIANTS, *BACKBONES])


def variant_arguments(
    name: str,
    *,
    num_classes: int | None = None,
    input_size: Sequence[int] | None = None,
    drop_path: float | None = None,
    head_dropout: float | None = None,
) -> dict[str, Any]:
    """Return the arguments of ``MViT`` for a published model; None stands for the published value.

    Of a backbone they are those of ``Backbone``.

    Args:
        name: one of ``list_models()``.
        num_classes: classes.
        input_size: pixels (T, H, W) of the clips to train on.
        drop_path: stochastic depth of the last block.
        head_dropout: dropout before the classifier.

    Raises:
        ConfigError: if there is no such model; the message names the nearest one. Or if a backbone,
            which has no head, is given classes or a dropout before them.
    """
    variant = pick(VARIANTS | BACKBONES, name, "model")
    input_size = variant.input_size if input_size is None else as_thw(input_size)
    patch_stride = variant.trunk.get("patch_stride", (2, 4, 4))
    arguments = {
        "blocks": (detection_specs if name in BACKBONES else stage_specs)(
            variant.size,
            input_thw=first_grid(input_size, patch_stride),
            drop_path=variant.drop_path if drop_path is None else drop_path,
            **variant.blocks,
        ),
        "input_size": input_size,
        **variant.trunk,
    }
    if name not in BACKBONES:
        arguments["num_classes"] = variant.num_classes if num_classes is None else num_classes
        arguments["head_dropout"] = variant.head_dropout if head_dropout is None else head_dropout
    elif num_classes or head_dropout:
        raise ConfigError(
            f"{name} is the backbone of a detector, without a head: leave out num_classes and "
            f"head_dropout. Image classifiers of its size: {', '.join(_of_images(variant.size))}"
        )
    return arguments


def _of_images(size: str) -> list[str]:
    return [name for name, one in VARIANTS.items() if one.size == size and one.input_size[0] == 1]
