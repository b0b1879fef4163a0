"""test_thumbnails.json: small frames of the hardest videos, as the model saw them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from slowfast_mvit.evaluation.files import explained_damage, read_json
from slowfast_mvit.storage import write_text_atomically

THUMBNAILS_FILE = "test_thumbnails.json"
MAX_THUMBNAIL_BYTES = 5_000_000
SIDE_PX = 160
NUM_FRAMES = 8  # shown of each video


class Thumbnail(NamedTuple):
    """A frame of a view: its number, from 1, and its JPEG in base64."""

    number: int
    jpeg: str


class Film(NamedTuple):
    """Some frames of a view, and how many it has."""

    num_frames: int
    thumbnails: Sequence[Thumbnail]


def film_of(frames: Sequence[np.ndarray]) -> Film:
    """Encode at most ``NUM_FRAMES`` frames (H, W, 3) uint8 RGB, evenly spaced."""
    places = np.linspace(0, len(frames) - 1, min(NUM_FRAMES, len(frames))).round()
    chosen = places.astype(int).tolist()
    return Film(len(frames), [Thumbnail(index + 1, _jpeg(frames[index])) for index in chosen])


def save_thumbnails(
    films: Mapping[str, Film], folder: Path, max_bytes: int = MAX_THUMBNAIL_BYTES
) -> None:
    """Write films by video id, atomically; the first of them that fit into ``max_bytes``."""
    rows, num_bytes = list[str](), len("{}\n")
    for video_id, film in films.items():
        row = f"{json.dumps(video_id)}: {json.dumps(film)}"
        num_bytes += len(row) + len(",\n")
        if num_bytes > max_bytes:
            break
        rows.append(row)
    write_text_atomically(folder / THUMBNAILS_FILE, "{" + ",\n".join(rows) + "}\n")


def load_thumbnails(folder: Path) -> dict[str, Film] | None:
    """Read films by video id; None where a test of an earlier version wrote none.

    Raises:
        UserError: the file is damaged, has larger images, or something else.
    """
    path = folder / THUMBNAILS_FILE
    if not path.exists():
        return None
    with explained_damage(path, THUMBNAILS_FILE, "Run the test again, or delete the file"):
        content = read_json(path, MAX_THUMBNAIL_BYTES)
        return {video_id: _checked(*film) for video_id, film in content.items()}


def _checked(num_frames: Any, thumbnails: Any) -> Film:
    """Return a film of a file; raises an error where it is not one."""
    film = Film(num_frames, [Thumbnail(*thumbnail) for thumbnail in thumbnails])
    numbers = [num_frames, *(thumbnail.number for thumbnail in film.thumbnails)]
    if any(type(number) is not int for number in numbers):
        raise TypeError("the number of a frame is not a whole number")
    if len(film.thumbnails) > NUM_FRAMES:
        raise ValueError(f"a video has more than {NUM_FRAMES} frames")
    for thumbnail in film.thumbnails:
        if max(_size_of(base64.b64decode(thumbnail.jpeg, validate=True))) > SIDE_PX:
            raise ValueError(f"a frame is larger than {SIDE_PX} pixels")
    return film


def _size_of(jpeg: bytes) -> tuple[int, int]:
    """Return the width and height in the header of a JPEG, without decoding it."""
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            width, height = image.size
            return width, height
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error


def _jpeg(frame: np.ndarray) -> str:
    """Encode a frame with at most ``SIDE_PX`` a side."""
    image, content = Image.fromarray(frame), io.BytesIO()
    image.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)
    image.save(content, "jpeg", quality=80, subsampling="4:4:4")
    return base64.b64encode(content.getvalue()).decode("ascii")
