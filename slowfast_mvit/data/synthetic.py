"""A data set of synthetic motion: eight classes told apart only by how things move.

Each video shows a few textured shapes that all do the same (move left, turn clockwise, grow, ...)
among others that stand still, flicker or drift slowly. One frame says nothing about the class, by
construction and not only by measurement:

    state of a shape: (column, row, angle, log size), a point on a torus, drawn uniformly
    class:            the axis of the torus along which the state moves, and the direction

Moving along an axis leaves a uniform distribution uniform, so the n-th frame is distributed alike
in all classes, for every n; and nothing else that is drawn depends on the class. On the torus a
shape that leaves on one side comes in on the other, and one that has grown to the full size starts
again from the smallest (shapes fade in and out there, so that nothing jumps).

    folder/
      dataset.json            what was asked for, so that an interrupted run can be completed
      classes.txt             one class name a line, in the order of the labels
      train.csv  val.csv      "path label" lines, paths relative to the folder
      train/00000.mp4 ...     H.264, 96 x 72 pixels, 16 frames at 12 frames a second

    python -m slowfast_mvit.data.synthetic runs/demo/data --num-train 960 --num-val 200

Letters used in shapes: F frames   H, W height and width in pixels   P side of a shape's box
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from slowfast_mvit.errors import ConfigError, in_one_message, pick
from slowfast_mvit.randomness import SYNTHETIC, generator
from slowfast_mvit.storage import write_atomically, write_text_atomically

logger = logging.getLogger(__name__)
Array: TypeAlias = npt.NDArray[Any]

FORMAT = 1  # raise it with any change to the pixels: folders of another format are not completed
WIDTH_PX, HEIGHT_PX = 96, 72
NUM_FRAMES = 16
FPS = 12
RADIUS_PX = (9.0, 30.0)
TEXTURE_PX = 64

# The torus of states: (column in pixels, row in pixels, angle in turns, size in octaves).
LAP = np.array([WIDTH_PX, HEIGHT_PX, 1.0, math.log2(RADIUS_PX[1] / RADIUS_PX[0])])
TOP_SPEED = np.array([3.5, 3.5, 0.035, 0.12])  # per frame
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
SPLITS = {"train": 0, "val": 1}  # the epoch of their random draws


@dataclass(frozen=True)
class Shape:
    """A textured shape: a convex polygon cut to the unit disc.

    Attributes:
        edges: (E, 3), the half-planes ``a * x + b * y <= c`` that bound the polygon.
        texture: (TEXTURE_PX, TEXTURE_PX, 3) float32 RGB, stretched over the unit disc.
        state: (4,), its point on the torus in the middle of the video.
        speed: of a shape that does what the class says, as a share of ``TOP_SPEED``; else 0.
        drift: (2,), pixels per frame to the right and down, whatever the class.
        flicker: how much of its opacity comes and goes, 0 to 1.
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
    """All of a video but its class: a background (H, W, 3) and shapes, the hindmost first."""

    background: Array
    shapes: tuple[Shape, ...]


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw everything that the class must not decide.

    Args:
        rng: generator of this video.
    """
    # Less contrast than in the shapes, around a colour of its own.
    tint = rng.uniform(0.0, 170.0, 3).astype(np.float32)
    background = tint + _smooth_noise(rng, (5, 6), (HEIGHT_PX, WIDTH_PX)) / 3
    num_movers, num_others = rng.integers(2, 5), rng.integers(1, 4)
    moves = rng.permutation(num_movers + num_others) < num_movers
    return Scene(background, tuple(_draw_shape(rng, bool(mover)) for mover in moves))


def _draw_shape(rng: np.random.Generator, moves: bool) -> Shape:
    num_edges = rng.integers(3, 7)
    angles = 2 * np.pi * (np.arange(num_edges) + rng.uniform(-0.25, 0.25, num_edges)) / num_edges
    reach = rng.uniform(0.4, 0.9, num_edges)
    edges = np.stack([_reproducible(np.cos(angles)), _reproducible(np.sin(angles)), reach], axis=1)
    num_tiles = int(rng.integers(3, 6))
    speed, flicker = rng.uniform(0.5, 1.0), rng.uniform(0.0, 0.7)
    drift = rng.uniform(-0.3, 0.3, 2)
    return Shape(
        edges=edges,
        texture=_smooth_noise(rng, (num_tiles, num_tiles), (TEXTURE_PX, TEXTURE_PX)),
        state=rng.uniform(0.0, 1.0, 4) * LAP,
        speed=speed if moves else 0.0,
        drift=np.zeros(2) if moves else drift,
        flicker=0.0 if moves else flicker,
        flicker_period=rng.uniform(3.0, 12.0),
    )


def _smooth_noise(
    rng: np.random.Generator, num_tiles: tuple[int, int], size_px: tuple[int, int]
) -> Array:
    """Random colours on a coarse grid, blended in between: (*size_px, 3) float32, 0 to 255."""
    image = rng.uniform(0.0, 255.0, (*num_tiles, 3))
    for axis, length_px in enumerate(size_px):
        place = np.linspace(0.0, image.shape[axis] - 1.001, length_px)
        before = place.astype(np.int64)
        share = np.expand_dims(place - before, tuple(i for i in range(3) if i != axis))
        image = image.take(before, axis) * (1.0 - share) + image.take(before + 1, axis) * share
    return image.astype(np.float32)


def render(scene: Scene, class_name: str) -> Array:
    """The frames of a video.

    Args:
        scene: what is in it.
        class_name: what its moving shapes do, a key of ``MOTIONS``.

    Returns:
        (F, H, W, 3) uint8 RGB. The frame in the middle (F // 2) is the same for all classes.
    """
    motion = np.array(pick(MOTIONS, class_name, "class of motion"))
    frames = np.repeat(scene.background[None], NUM_FRAMES, axis=0)
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

    # A box that holds the shape in every frame, around the pixel nearest to its centre.
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
    """Pixel offsets from the centre, (F, P) each way, in the shape's own axes: two (F, P, P)."""
    cos = _reproducible(np.cos(2 * np.pi * turn) / radius)[:, None, None]
    sin = _reproducible(np.sin(2 * np.pi * turn) / radius)[:, None, None]
    dx, dy = dx[:, None, :].astype(np.float32), dy[:, :, None].astype(np.float32)
    return cos * dx + sin * dy, cos * dy - sin * dx


def _fade(octave: Array) -> Array:
    """Opacity by size: shapes fade in and out at both ends of the range of sizes."""
    opacity: Array = np.clip(np.minimum(octave, LAP[3] - octave) / 0.2, 0.0, 1.0)
    return opacity


def _flicker(shape: Shape, elapsed: Array) -> Array:
    """Opacity by time: 1, or a triangle wave of the shape's depth and period."""
    wave = np.abs((elapsed / shape.flicker_period + shape.state[2]) % 1.0 - 0.5) * 2.0
    opacity: Array = 1.0 - shape.flicker * wave
    return opacity


def _reproducible(values: Array) -> Array:
    """Rounded to float32, so that no last bit, in which math libraries differ, reaches a pixel."""
    rounded: Array = np.round(values * 2.0**20).astype(np.float32) / np.float32(2.0**20)
    return rounded


def encode(frames: Array) -> bytes:
    """An MP4 file with these frames.

    Args:
        frames: (F, H, W, 3) uint8 RGB, H and W even.
    """
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # A fixed quantiser and one thread: no decision depends on the machine.
        stream.options = {"preset": "veryfast", "qp": "20", "threads": "1"}
        for picture in _yuv420(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
        container.mux(stream.encode())
    return file.getvalue()


def _yuv420(frames: Array) -> Array:
    """RGB to BT.601 in whole numbers, since swscale rounds differently from machine to machine.

    Args:
        frames: (F, H, W, 3) uint8.

    Returns:
        (F, H * 3 / 2, W) uint8: a plane of luma, then two of chroma at half the size.
    """
    num_frames, height, width, _ = frames.shape
    rgb = frames.astype(np.int32)
    luma = ((rgb @ (66, 129, 25) + 128) >> 8) + 16
    four = rgb.reshape(num_frames, height // 2, 2, width // 2, 2, 3).sum((2, 4))
    chroma = [((four @ row + 512) >> 10) + 128 for row in ((-38, -74, 112), (112, -94, -18))]
    planes = [plane.reshape(num_frames, -1) for plane in (luma, *chroma)]
    flat = np.concatenate(planes, axis=1).astype(np.uint8)
    return flat.reshape(num_frames, height * 3 // 2, width)


def write_motion_dataset(
    folder: str | Path,
    *,
    num_train: int = 960,
    num_val: int = 200,
    seed: int = 0,
    num_processes: int | None = None,
) -> Path:
    """Write the data set, or what is missing of it.

    The video numbered n shows class n modulo 8; its pixels depend on (seed, split, n) only. Each
    file appears whole or not at all, so an interrupted run is completed by calling this again, and
    a complete folder is left alone.

    Args:
        folder: where it goes; made if need be.
        num_train: videos to train on, at least one of each class.
        num_val: videos held out, at least one of each class.
        seed: 0 or more.
        num_processes: that render and encode at once; by default one for each CPU core.

    Returns:
        The folder.

    Raises:
        ConfigError: a number is out of range, or the folder holds something else.
    """
    folder = Path(folder)
    num_processes = _num_cores() if num_processes is None else num_processes
    _check_numbers(num_train=num_train, num_val=num_val, seed=seed, num_processes=num_processes)
    asked = {"format": FORMAT, "num_train": num_train, "num_val": num_val, "seed": seed}
    _check_folder(folder, asked)

    _write_text_once(folder / "dataset.json", json.dumps(asked, indent=2) + "\n")
    counts = {"train": num_train, "val": num_val}
    every = [(split, number) for split, count in counts.items() for number in range(count)]
    missing = [video for video in every if not (folder / _video_path(*video)).exists()]
    if missing:
        logger.info("writing %d of %d videos to %s", len(missing), len(every), folder)
        _write_videos(folder, missing, seed=seed, num_processes=num_processes)
    _write_text_once(folder / "classes.txt", "".join(f"{name}\n" for name in CLASS_NAMES))
    for split, count in counts.items():
        lines = [f"{_video_path(split, n)} {_label(n)}\n" for n in range(count)]
        _write_text_once(folder / f"{split}.csv", "".join(lines))
    return folder


def _video_path(split: str, number: int) -> str:
    return f"{split}/{number:05d}.mp4"


def _label(number: int) -> int:
    return number % len(CLASS_NAMES)


def _write_text_once(path: Path, text: str) -> None:
    if not path.exists():
        write_text_atomically(path, text)


def _write_videos(
    folder: Path, videos: Sequence[tuple[str, int]], *, seed: int, num_processes: int
) -> None:
    write = functools.partial(_write_video, folder, seed)
    finished = _each(write, videos, num_processes)
    # No bar where nobody watches: tqdm leaves it out when stderr is not a terminal.
    for _ in tqdm(finished, total=len(videos), desc="writing videos", unit="video", disable=None):
        pass


def _write_video(folder: Path, seed: int, video: tuple[str, int]) -> None:
    split, number = video
    rng = generator(seed, SPLITS[split], number, SYNTHETIC)
    content = encode(render(draw_scene(rng), CLASS_NAMES[_label(number)]))
    write_atomically(folder / _video_path(split, number), lambda file: file.write(content))


def _each(
    write: Callable[[tuple[str, int]], None],
    videos: Sequence[tuple[str, int]],
    num_processes: int,
) -> Iterator[None]:
    """Call ``write`` for each video, in several processes; yields as they finish."""
    if num_processes == 1:
        yield from map(write, videos)
        return
    with ProcessPoolExecutor(num_processes, initializer=_leave_interrupts_to_parent) as pool:
        try:
            for future in as_completed([pool.submit(write, video) for video in videos]):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _num_cores() -> int:
    """CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_numbers(**numbers: int) -> None:
    least = {"num_train": len(CLASS_NAMES), "num_val": len(CLASS_NAMES), "num_processes": 1}
    problems = [
        f"{name}: expected a whole number of at least {least.get(name, 0)}, got {value!r}"
        for name, value in numbers.items()
        if type(value) is not int or value < least.get(name, 0)
    ]
    if problems:
        raise ConfigError(in_one_message("motion data set", problems))


def _check_folder(folder: Path, asked: dict[str, int]) -> None:
    """Refuse a folder that holds anything but (a part of) the data set asked for."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is a file. Name a folder for the motion data set")
    if not any(folder.iterdir()):
        return
    record = folder / "dataset.json"
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder}: holds files but no {record.name}, so it was not written by this program. "
            "Name another folder for the motion data set, or an empty one"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{record}: cannot be read ({error}). Delete {folder} to write it anew"
        ) from error
    if found != asked:
        raise ConfigError(
            f"{folder}: holds another motion data set ({found}) than the one asked for ({asked}). "
            "Name another folder, or delete this one to write it anew"
        )


def main(words: Sequence[str] | None = None) -> int:
    """Write the data set from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m slowfast_mvit.data.synthetic",
        description="Write a data set of short H.264 videos in eight classes of motion.",
    )
    parser.add_argument("folder", type=Path, help="where it goes, e.g. runs/demo/data")
    parser.add_argument("--num-train", type=int, default=960, help="videos to train on")
    parser.add_argument("--num-val", type=int, default=200, help="videos held out")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other videos")
    parser.add_argument("--num-processes", type=int, help="default: one for each CPU core")
    given = parser.parse_args(words)
    try:
        write_motion_dataset(
            given.folder,
            num_train=given.num_train,
            num_val=given.num_val,
            seed=given.seed,
            num_processes=given.num_processes,
        )
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{given.num_train} training and {given.num_val} held-out videos in {given.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
