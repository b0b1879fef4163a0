"""Architecture of the weights in a state dict, from our names and shapes alone.

Shapes give widths, heads and, through the position tables, the token grid that the model was
trained on. They also identify the published models. Strides are not in them; input sizes in pixels
assume those of the published patch embeddings.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slowfast_mvit.errors import WeightsError, in_one_message
from slowfast_mvit.models import MViT
from slowfast_mvit.models.tables import THW
from slowfast_mvit.models.variants import SIZES, VARIANTS, variant_arguments
from slowfast_mvit.weights.zoo import PublishedWeights

# Kernel of the patch embedding -> its stride, in all published models.
_PATCH_STRIDES = {(3, 7, 7): (2, 4, 4), (1, 7, 7): (1, 4, 4), (7, 7): (1, 4, 4)}
_EXAMPLES = 3  # names in the message about those that do not fit

KnownGrid = tuple[int | None, int | None, int | None]  # a token grid, None for an unknown axis


@dataclass(frozen=True)
class Anatomy:
    """The architecture of a model, as far as its state dict shows it.

    Attributes:
        depth: number of blocks.
        widths: channels of the first block's input and of the last block's output.
        num_heads: heads of the first block and of the last; None if unknown.
        grows_in: "attention" or "MLP", where channels grow; "" where they do not.
        stage_starts: the first block of each stage after the first stage.
        patch_kernel: of the patch embedding; two numbers for images, three for clips.
        cls_token: with a class token.
        abs_pos: "separate", "joint" or None.
        rel_pos: axes with relative positions, out of "thw".
        grid: tokens (T, H, W); None for an unknown axis.
        num_classes: None without a head.
    """

    depth: int
    widths: tuple[int, int]
    num_heads: tuple[int, int] | None
    grows_in: str
    stage_starts: tuple[int, ...]
    patch_kernel: tuple[int, ...]
    cls_token: bool
    abs_pos: str | None
    rel_pos: str
    grid: KnownGrid
    num_classes: int | None

    @property
    def is_video(self) -> bool:
        """Return whether the patch embedding covers several frames."""
        return len(self.patch_kernel) == 3 and self.patch_kernel[0] > 1

    def input_size(self) -> tuple[int | None, int | None, int | None]:
        """Return the pixels (T, H, W); None for an unknown axis."""
        stride = _PATCH_STRIDES.get(self.patch_kernel)
        if stride is None:
            return (None, None, None)
        t, h, w = (length and length * step for length, step in zip(self.grid, stride, strict=True))
        return (t if self.is_video else 1), h, w


def anatomy_of(state: Mapping[str, Tensor]) -> Anatomy:
    """Return the architecture of a state dict in our names.

    Raises:
        WeightsError: parameters that every MViT has are missing or of another shape.
    """
    try:
        return _anatomy_of(state)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise WeightsError(f"these are not the weights of an MViT: {error!r}") from error


def _anatomy_of(state: Mapping[str, Tensor]) -> Anatomy:
    numbers = (re.match(r"blocks\.([0-9]{1,6})\.", name) for name in state)
    depth = 1 + max(int(number[1]) for number in numbers if number)
    patches = state["patch_embed.proj.weight"]
    growth = growth_of(state)
    first, last = (_num_heads(state, block) for block in (0, depth - 1))
    head = state.get("head.projection.weight")
    return Anatomy(
        depth=depth,
        widths=(len(patches), len(state[f"blocks.{depth - 1}.mlp.fc2.weight"])),
        num_heads=None if first is None or last is None else (first, last),
        grows_in=" and ".join(sorted(set(growth.values()))),
        stage_starts=tuple(block + (place == "MLP") for block, place in growth.items()),
        patch_kernel=tuple(patches.shape[2:]),
        cls_token="cls_token" in state,
        abs_pos=_absolute_positions(state),
        rel_pos="".join(axis for axis in "thw" if f"blocks.0.attn.rel_pos_{axis}" in state),
        grid=grid_of(state),
        num_classes=None if head is None else len(head),
    )


def grid_of(state: Mapping[str, Tensor]) -> KnownGrid:
    """Return the token grid (T, H, W) of the position tables of a state dict, axis by axis.

    A table of relative positions has 2 * L - 1 rows in the first block, which pools no queries.
    Separate absolute positions show T, and H and W of a square.
    """
    t, h, w = (_from_table(state.get(f"blocks.0.attn.rel_pos_{axis}")) for axis in "thw")
    if "pos_embed_temporal" in state:
        t = state["pos_embed_temporal"].shape[1]
    if "pos_embed_spatial" in state and (h is None or w is None):
        side = _side(state["pos_embed_spatial"].shape[1], 1)
        h, w = side or h, side or w
    return t, h, w


def _from_table(table: Tensor | None) -> int | None:
    return None if table is None else (len(table) + 1) // 2


def growth_of(state: Mapping[str, Tensor]) -> dict[int, str]:
    """Return the blocks whose channels grow, in order -> "attention" or "MLP"."""
    growth = {}
    for name, value in state.items():
        match = re.fullmatch(r"blocks\.([0-9]{1,6})\.proj\.weight", name)
        qkv = state.get(f"blocks.{match[1]}.attn.qkv.weight") if match else None
        if match and qkv is not None:
            growth[int(match[1])] = "attention" if len(qkv) == 3 * len(value) else "MLP"
    return dict(sorted(growth.items()))


def _num_heads(state: Mapping[str, Tensor], block: int) -> int | None:
    """Return the heads of a block, which share a pooling kernel of the width of one head."""
    qkv = state.get(f"blocks.{block}.attn.qkv.weight")
    kernels = (state.get(f"blocks.{block}.attn.pool_{letter}.weight") for letter in "qkv")
    kernel = next((kernel for kernel in kernels if kernel is not None), None)
    return None if qkv is None or kernel is None else len(qkv) // 3 // len(kernel)


def _absolute_positions(state: Mapping[str, Tensor]) -> str | None:
    if "pos_embed_spatial" in state:
        return "separate"
    return "joint" if "pos_embed" in state else None


def matching_variant(state: Mapping[str, Tensor], *, ignoring: tuple[str, ...] = ()) -> str | None:
    """Return the published model with parameters of these names and shapes, at any input size.

    Args:
        state: in our names, with a head of any number of classes or without one.
        ignoring: prefixes of names that do not count, such as "norm.", which detectors and
            pre-training by masks do not have.
    """
    anatomy = anatomy_of(state)
    for name, variant in VARIANTS.items():
        size = SIZES[variant.size]
        if (sum(size.stages), size.embed_dim) == (anatomy.depth, anatomy.widths[0]):
            published = _published_state(name, anatomy)
            counted = {n: value for n, value in published.items() if not n.startswith(ignoring)}
            if not misfits(state, counted):
                return name
    return None


def sizes_shown(
    anatomy: Anatomy, input_size: Sequence[int], num_classes: int
) -> tuple[tuple[int, ...], int]:
    """Return the input size and the classes that weights show, else the published ones."""
    sizes = zip(anatomy.input_size(), input_size, strict=True)
    size = tuple(shown or published for shown, published in sizes)
    return size, anatomy.num_classes or num_classes


def exact_state(
    state: Mapping[str, Tensor], model_state: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    """Return the values in the names, the order and the shapes of a model.

    Args:
        state: in our names; kernels may lack a time axis of one, and the head may be missing.
        model_state: the state dict of the model; its values are not read.
        where: the file, for the message.

    Raises:
        WeightsError: if they are not exactly the parameters of this model.
    """
    problems = misfits(state, model_state)
    if problems:
        headline = f"{where}: not the weights of its config's model"
        raise WeightsError(in_one_message(headline, problems, limit=_EXAMPLES))
    names = [name for name in model_state if name in state]
    return {name: state[name].reshape(model_state[name].shape) for name in names}


def misfits(state: Mapping[str, Tensor], model_state: Mapping[str, Tensor]) -> list[str]:
    """List missing, surplus and differently shaped parameters; axes of one do not count."""
    has_head = "head.projection.weight" in state
    missing = [name for name in model_state if name not in state]
    problems = [
        f"{name}: not in the file" for name in missing if has_head or not name.startswith("head.")
    ]
    problems += [f"{name}: not in the model" for name in state if name not in model_state]
    for name in (name for name in state if name in model_state):
        shape, model_shape = tuple(state[name].shape), tuple(model_state[name].shape)
        if _without_ones(shape) != _without_ones(model_shape):
            problems.append(f"{name}: {shape} in the file, {model_shape} in the model")
    return problems


def published_state(published: PublishedWeights) -> dict[str, Tensor]:
    """Return the names and shapes of published weights, in ours, as tensors without values."""
    spec = published.input_spec()
    size = (spec["num_frames"], spec["crop_px"], spec["crop_px"])
    state = _state_on_meta(published.model, size, published.num_classes)
    if published.num_classes is None:  # pre-training by masks ends before the norm
        return {n: value for n, value in state.items() if not n.startswith(("norm.", "head."))}
    return state


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Return a hash of names and shapes, in ours; axes of one do not count."""
    lines = sorted(f"{name} {_without_ones(tuple(value.shape))}" for name, value in state.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]


def _published_state(name: str, anatomy: Anatomy) -> dict[str, Tensor]:
    variant = VARIANTS[name]
    size, num_classes = sizes_shown(anatomy, variant.input_size, variant.num_classes)
    return _state_on_meta(name, size, num_classes)


@functools.lru_cache(maxsize=64)
def _state_on_meta(
    name: str, input_size: tuple[int, ...], num_classes: int | None
) -> dict[str, Tensor]:
    with torch.device("meta"):  # only the shapes are needed, and L has 218 million values
        model = MViT(**variant_arguments(name, num_classes=num_classes, input_size=input_size))
    return model.state_dict()


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)


# Absolute positions are a list of tokens, and 1568 of them may be 8 frames of 14 x 14 or 32 of
# 7 x 7. The grid is known from the tables of relative positions, from the config or the
# ``input_spec`` of a checkpoint, and from the single frame of an image.


def known_grid(
    state: Mapping[str, Tensor],
    model_state: Mapping[str, Tensor],
    *,
    grid: THW,
    num_frames: int,
    trained_frames: int | None,
    from_image: bool,
) -> KnownGrid:
    """Return the known axes of the grid that a file's weights were trained on.

    Args:
        state: the file's state dict, in our names.
        model_state: the model's.
        grid: the model's.
        num_frames: frames of the model's clips.
        trained_frames: frames of the clips that the file was trained on, if it records them.
        from_image: an image's weights for a video model.
    """
    # In a first block that pools queries the tables have another length, in the model as well.
    t, h, w = (
        length if model_length in (None, known) else None
        for length, model_length, known in zip(
            grid_of(state), grid_of(model_state), grid, strict=True
        )
    )
    if t is None and trained_frames is not None:
        t = max(trained_frames * grid[0] // num_frames, 1)
    return (1 if from_image else t), h, w


def grid_of_joint(num_tokens: int, known: KnownGrid, grid: THW) -> THW | None:
    """Return the grid (T, H, W) of joint positions.

    Args:
        num_tokens: T * H * W.
        known: the known axes.
        grid: the model's. Where T is not known, it is the model's if squares remain, else the
            model's H * W counts if a whole number of frames remains.

    Returns:
        None if no grid fits, or both differ from the model and neither is known.
    """
    t, h, w = known
    if h and w and num_tokens % (h * w) == 0:
        frames = num_tokens // (h * w)
        return (frames, h, w) if t in (None, frames) else None
    side = _side(num_tokens, grid[0] if t is None else t)
    if side is not None:
        return (grid[0] if t is None else t), side, side
    frames, rest = divmod(num_tokens, grid[1] * grid[2])
    return None if rest or t is not None else (frames, *grid[1:])


def plane_of(num_tokens: int, known: KnownGrid) -> tuple[int, int] | None:
    """Return (H, W) of positions in space: as it is known, else a square, else None."""
    _, h, w = known
    if h and w and h * w == num_tokens:
        return h, w
    side = _side(num_tokens, 1)
    return None if side is None else (side, side)


def _side(num_tokens: int, num_frames: int) -> int | None:
    """Return the side of the square frames of these tokens, or None if they are not square."""
    per_frame, rest = divmod(num_tokens, num_frames)
    side = math.isqrt(per_frame)
    return side if rest == 0 and side * side == per_frame else None
