"""Scenes of motion, drawn and rendered: eight classes that differ only in the motion of shapes.

Each scene has a few textured shapes with the same motion (move left, turn clockwise, grow, ...) and
others that are still, flicker or drift slowly. One frame contains no information on the class, by
construction and not only by measurement:

    state of a shape: (column, row, angle, log size), a point on a torus, drawn uniformly
    class:            the axis of the torus along which the state moves, and the direction

Moving along an axis leaves a uniform distribution uniform, so the n-th frame has the same
distribution in all classes, for every n; no other draw depends on the class. On the torus a shape
that leaves on one side enters on the other, and one that has grown to the full size starts again
from the smallest (shapes fade in and out there, so that nothing jumps).

Letters used in shapes: F frames   H, W height and width in pixels   P side of a shape's box
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from slowfast_mvit.errors import pick

Array: TypeAlias = npt.NDArray[Any]

WIDTH_PX, HEIGHT_PX = 96, 72
NUM_FRAMES = 16
RADIUS_PX = (10.0, 30.0)
TEXTURE_PX = 64

# The torus of states: (column in pixels, row in pixels, angle in turns, size in octaves).
LAP = np.array([WIDTH_PX, HEIGHT_PX, 1.0, math.log2(RADIUS_PX[1] / RADIUS_PX[0])])
TOP_SPEED = np.array([3.5, 3.5, 0.04, 0.12])  # per frame
MOTIONS: dict[str, tuple[int, int, int, int]] = {
    "move left": (-1, 0, 0, 0),
    "move right": (1, 0, 0, 0),
    "move up": (0, -1, 0, 0),
    "move down": (0, 1, 0, 0),
    "turn clockwise": (0, 0, 1, 0),
    "turn counter-clockwise": (0, 0, -1, 0),
    "grow": (0, 0, 0, 1),
    "shrink": (0, 0, 0, -1),
}
CLASS_NAMES = tuple(MOTIONS)


@dataclass(frozen=True)
class Shape:
    """A textured shape: a convex polygon cut to the unit disc.

    Attributes:
        edges: (E, 3), the half-planes ``a * x + b * y <= c`` that bound the polygon.
        texture: (TEXTURE_PX, TEXTURE_PX, 3) float32 RGB, stretched over the unit disc.
        state: (4,), its point on the torus in the middle of the video.
        speed: of a shape with the motion of the class, as a share of ``TOP_SPEED``; else 0.
        drift: (2,), pixels per frame to the right and down, whatever the class.
        flicker: the share of its opacity that changes, 0 to 1.
        flicker_period: in frames.
    """

    edges: Array
    texture: Array
    state: Array
    speed: float
    drift: Array
    flicker: float
    flicker_period: float


@dataclass(frozen=True)
class Scene:
    """All of a video but its class: a ground (H, W, 3) and shapes, from back to front."""

    ground: Array
    shapes: tuple[Shape, ...]


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw everything that does not depend on the class.

    Shapes are brighter than the ground, and their three channels change together. With any colours
    the classes would be as different, but training would take many times longer to detect it:
    motion would then show only in products of pixels whose sign differs from shape to shape.

    Args:
        rng: generator of this video.
    """
    ground = rng.uniform(0.0, 54.0, 3) + 0.09 * _smooth_noise(rng, (5, 6), (HEIGHT_PX, WIDTH_PX))
    num_movers, num_others = rng.integers(3, 6), rng.integers(1, 3)
    moves = rng.permutation(num_movers + num_others) < num_movers
    shapes = tuple(_draw_shape(rng, bool(mover)) for mover in moves)
    return Scene(ground.astype(np.float32), shapes)


def _draw_shape(rng: np.random.Generator, moves: bool) -> Shape:
    num_edges = rng.integers(3, 6)
    angles = 2 * np.pi * (np.arange(num_edges) + rng.uniform(-0.25, 0.25, num_edges)) / num_edges
    reach = rng.uniform(0.25, 0.9, num_edges)
    edges = np.stack([_reproducible(np.cos(angles)), _reproducible(np.sin(angles)), reach], axis=1)
    speed, flicker = rng.uniform(0.6, 1.0), rng.uniform(0.0, 0.7)
    drift = rng.uniform(-0.3, 0.3, 2)
    return Shape(
        edges=edges,
        texture=_draw_texture(rng),
        state=rng.uniform(0.0, 1.0, 4) * LAP,
        speed=speed if moves else 0.0,
        drift=np.zeros(2) if moves else drift,
        flicker=0.0 if moves else flicker,
        flicker_period=rng.uniform(3.0, 12.0),
    )


def _draw_texture(rng: np.random.Generator) -> Array:
    num_tiles = int(rng.integers(2, 5))
    colours = _smooth_noise(rng, (num_tiles, num_tiles), (TEXTURE_PX, TEXTURE_PX))
    pattern = 0.7 * colours[..., :1] + 0.3 * colours
    texture: Array = (110.0 + 145.0 / 255.0 * pattern) * rng.uniform(0.7, 1.0, 3)
    return texture.astype(np.float32)


def _smooth_noise(
    rng: np.random.Generator, num_tiles: tuple[int, int], size_px: tuple[int, int]
) -> Array:
    """Draw colours on a coarse grid, and blend between: (*size_px, 3) float32, 0 to 255."""
    image = rng.uniform(0.0, 255.0, (*num_tiles, 3))
    for axis, length_px in enumerate(size_px):
        place = np.linspace(0.0, image.shape[axis] - 1.001, length_px)
        before = place.astype(np.int64)
        share = np.expand_dims(place - before, tuple(i for i in range(3) if i != axis))
        image = image.take(before, axis) * (1.0 - share) + image.take(before + 1, axis) * share
    return image.astype(np.float32)


def render(scene: Scene, class_name: str) -> Array:
    """Render the frames of a video.

    Args:
        scene: the ground and the shapes.
        class_name: the motion of its moving shapes, a key of ``MOTIONS``.

    Returns:
        (F, H, W, 3) uint8 RGB. The frame in the middle (F // 2) is the same for all classes.
    """
    motion = np.array(pick(MOTIONS, class_name, "class of motion"))
    frames = np.repeat(scene.ground[None], NUM_FRAMES, axis=0)
    for shape in scene.shapes:
        _paint(frames, shape, motion)
    pixels: Array = np.rint(frames).astype(np.uint8)
    return pixels


def _paint(frames: Array, shape: Shape, motion: Array) -> None:
    """Paint one shape into all frames (F, H, W, 3), in place."""
    elapsed = np.arange(NUM_FRAMES) - NUM_FRAMES // 2
    velocity = motion * TOP_SPEED * shape.speed
    velocity[:2] += shape.drift
    column, row, turn, octave = ((shape.state + elapsed[:, None] * velocity) % LAP).T
    radius = _reproducible(RADIUS_PX[0] * np.exp2(octave))
    alpha = (_fade(octave) * _flicker(shape, elapsed)).astype(np.float32)

    # A box that contains the shape in every frame, around the pixel nearest to its centre.
    reach = min(math.ceil(radius.max()) + 1, (HEIGHT_PX - 1) // 2)
    offset = np.arange(-reach, reach + 1)
    rows = np.floor(row).astype(np.int64)[:, None] + offset  # (F, P)
    columns = np.floor(column).astype(np.int64)[:, None] + offset  # (F, P)
    x, y = _turned_back(columns - column[:, None], rows - row[:, None], turn, radius)

    outside = np.sqrt(x * x + y * y) - 1.0  # (F, P, P)
    for a, b, c in shape.edges.tolist():
        np.maximum(outside, a * x + b * y - c, out=outside)
    cover = np.clip(0.5 - outside * radius[:, None, None], 0.0, 1.0) * alpha[:, None, None]
    u, v = (np.clip((axis + 1.0) * (TEXTURE_PX / 2), 0, TEXTURE_PX - 1) for axis in (x, y))
    paint = shape.texture[v.astype(np.int64), u.astype(np.int64)]  # (F, P, P, 3)
    for frame, r, c, share, colour in zip(frames, rows, columns, cover, paint, strict=True):
        place = np.ix_(r % HEIGHT_PX, c % WIDTH_PX)
        frame[place] += share[..., None] * (colour - frame[place])


def _turned_back(dx: Array, dy: Array, turn: Array, radius: Array) -> tuple[Array, Array]:
    """Rotate pixel offsets from the centre, (F, P) each way, to the shape's axes: two (F, P, P)."""
    cos = _reproducible(np.cos(2 * np.pi * turn) / radius)[:, None, None]
    sin = _reproducible(np.sin(2 * np.pi * turn) / radius)[:, None, None]
    dx, dy = dx[:, None, :].astype(np.float32), dy[:, :, None].astype(np.float32)
    return cos * dx + sin * dy, cos * dy - sin * dx


def _fade(octave: Array) -> Array:
    """Return the opacity by size: shapes fade at both ends of the range of sizes."""
    opacity: Array = np.clip(np.minimum(octave, LAP[3] - octave) / 0.2, 0.0, 1.0)
    return opacity


def _flicker(shape: Shape, elapsed: Array) -> Array:
    """Return the opacity by time: 1, or a triangle wave of the shape's depth and period."""
    wave = np.abs((elapsed / shape.flicker_period + shape.state[2]) % 1.0 - 0.5) * 2.0
    opacity: Array = 1.0 - shape.flicker * wave
    return opacity


def _reproducible(values: Array) -> Array:
    """Round to float32, so that the last bits, in which math libraries differ, change no pixel."""
    rounded: Array = np.round(values * 2.0**20).astype(np.float32) / np.float32(2.0**20)
    return rounded
