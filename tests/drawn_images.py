"""Drawings of four shapes, in any colours, sizes and places: a data set of images for the tests."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

Draw = Callable[[ImageDraw.ImageDraw, int, int, int, tuple[int, ...]], object]


def cross(picture: ImageDraw.ImageDraw, x: int, y: int, r: int, colour: tuple[int, ...]) -> None:
    picture.line([x - r, y, x + r, y], colour, r // 2)
    picture.line([x, y - r, x, y + r], colour, r // 2)


# In the order of their names, which is that of class folders.
SHAPES: dict[str, Draw] = {
    "cross": cross,
    "disc": lambda p, x, y, r, colour: p.ellipse([x - r, y - r, x + r, y + r], colour),
    "square": lambda p, x, y, r, colour: p.rectangle([x - r, y - r, x + r, y + r], colour),
    "triangle": lambda p, x, y, r, colour: p.polygon(
        [x, y - r, x - r, y + r, x + r, y + r], colour
    ),
}


def draw_shapes(folder: Path, *, num_train: int = 40, num_val: int = 10) -> Path:
    """Write ``<split>/<shape>/<number>.png``, so many of each shape, 72 x 64 pixels."""
    for split, count in (("train", num_train), ("val", num_val)):
        for label, (name, draw) in enumerate(SHAPES.items()):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                rng = np.random.default_rng([label, number, count])
                image = Image.new("RGB", (72, 64), tuple(rng.integers(0, 90, 3).tolist()))
                x, y, r = rng.integers((26, 24, 12), (46, 40, 20)).tolist()
                colour = tuple(rng.integers(150, 256, 3).tolist())
                draw(ImageDraw.Draw(image), x, y, r, colour)
                image.save(folder / split / name / f"{number}.png")
    return folder
