"""Architecture of a model from the names and shapes of its state dict, in our names.

Nothing here needs a model: shapes give widths, heads and, through the position tables, the token
grid that the model was trained on. Strides cannot be seen; where pixels are told, they are those of
the published patch embeddings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

# Kernel of the patch embedding -> its stride, in all published models.
_PATCH_STRIDES = {
    (3, 7, 7): (2, 4, 4),
    (1, 7, 7): (1, 4, 4),
    (7, 7): (1, 4, 4),
}


@dataclass(frozen=True)
class Anatomy:
    """The architecture of a model, as far as its state dict shows it.

    Attributes:
        depth: number of blocks.
        widths: channels of the tokens that come into the first block and go out of the last.
        num_heads: heads of the first block and of the last; None where nothing tells it.
        grows_in: "attention" or "MLP": where channels grow; "" where they do not.
        stage_starts: blocks with which a stage begins, but for the first.
        patch_kernel: of the patch embedding; two numbers for images, three for clips.
        cls_token: whether there is a class token.
        abs_pos: "separate", "joint" or None.
        rel_pos: axes with relative positions, out of "thw".
        grid: tokens (T, H, W); None for an axis that nothing tells.
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
    grid: tuple[int | None, int | None, int | None]
    num_classes: int | None

    @property
    def is_video(self) -> bool:
        """Return whether the patch embedding looks at several frames."""
        return len(self.patch_kernel) == 3 and self.patch_kernel[0] > 1

    def input_size(self) -> tuple[int | None, int | None, int | None]:
        """Pixels (T, H, W); None for an axis that nothing tells."""
        stride = _PATCH_STRIDES.get(self.patch_kernel)
        if stride is None:
            return (None, None, None)
        t, h, w = (
            None if tokens is None else tokens * step
            for tokens, step in zip(self.grid, stride, strict=True)
        )
        return (t if self.is_video else 1), h, w


def anatomy_of(state: Mapping[str, Tensor]) -> Anatomy:
    """Read it off a state dict in our names."""
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    patches = state["patch_embed.proj.weight"]
    growth = dict(_growth(state))
    places = set(growth.values())
    first, last = (_num_heads(state, block) for block in (0, depth - 1))
    head = state.get("head.projection.weight")
    return Anatomy(
        depth=depth,
        widths=(len(patches), len(state[f"blocks.{depth - 1}.mlp.fc2.weight"])),
        num_heads=None if first is None or last is None else (first, last),
        grows_in=" and ".join(sorted(places)),
        stage_starts=tuple(block + (place == "MLP") for block, place in growth.items()),
        patch_kernel=tuple(patches.shape[2:]),
        cls_token="cls_token" in state,
        abs_pos=_absolute_positions(state),
        rel_pos="".join(axis for axis in "thw" if f"blocks.0.attn.rel_pos_{axis}" in state),
        grid=grid_of(state),
        num_classes=None if head is None else len(head),
    )


def grid_of(state: Mapping[str, Tensor]) -> tuple[int | None, int | None, int | None]:
    """The token grid (T, H, W) that the tables of a state dict were made for, axis by axis.

    A table of relative positions has 2 * L - 1 rows in the first block, which pools no queries.
    Separate absolute positions tell T, and H and W of a square.
    """
    t, h, w = (_from_table(state.get(f"blocks.0.attn.rel_pos_{axis}")) for axis in "thw")
    if "pos_embed_temporal" in state:
        t = state["pos_embed_temporal"].shape[1]
    if "pos_embed_spatial" in state and (h is None or w is None):
        side = math.isqrt(state["pos_embed_spatial"].shape[1])
        if side * side == state["pos_embed_spatial"].shape[1]:
            h = w = side
    return t, h, w


def _from_table(table: Tensor | None) -> int | None:
    return None if table is None else (len(table) + 1) // 2


def _growth(state: Mapping[str, Tensor]) -> Iterator[tuple[int, str]]:
    """The blocks whose channels grow, ascending, and where they do."""
    names = [re.fullmatch(r"blocks\.(\d+)\.proj\.weight", name) for name in state]
    for block in sorted(int(found[1]) for found in names if found):
        in_attention = 3 * len(state[f"blocks.{block}.proj.weight"])
        qkv = state.get(f"blocks.{block}.attn.qkv.weight")
        yield block, "attention" if qkv is not None and len(qkv) == in_attention else "MLP"


def _num_heads(state: Mapping[str, Tensor], block: int) -> int | None:
    """Heads of a block: one pooling kernel serves all of them, so it has the width of one."""
    front = f"blocks.{block}.attn."
    qkv = state.get(f"{front}qkv.weight")
    shared = [
        state[name]
        for name in (f"{front}pool_{letter}.weight" for letter in "qkv")
        if name in state
    ]
    return len(qkv) // 3 // len(shared[0]) if qkv is not None and shared else None


def _absolute_positions(state: Mapping[str, Tensor]) -> str | None:
    if "pos_embed_spatial" in state:
        return "separate"
    return "joint" if "pos_embed" in state else None
