"""A data set of synthetic motion: the scenes of ``motion_scenes.py`` as real video files.

folder/
  dataset.json            the requested sizes and seed, to complete an interrupted run
  classes.txt             one class name a line, in the order of the labels
  train.csv  val.csv      "path label" lines, paths relative to the folder
  train/00000.mp4 ...     H.264, 96 x 72 pixels, 16 frames at 12 frames a second

``slowfast-mvit demo --data-only`` writes it.
"""

from __future__ import annotations

import functools
import io
import json
import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from slowfast_mvit.demo.motion_scenes import CLASS_NAMES, Array, draw_scene, render
from slowfast_mvit.errors import ConfigError, in_one_message
from slowfast_mvit.randomness import SYNTHETIC, generator
from slowfast_mvit.runtime.launch_environment import available_cores
from slowfast_mvit.storage import write_atomically, write_text_atomically

logger = logging.getLogger(__name__)

FORMAT = 1  # raise it with any change to the pixels: folders of another format are not completed
FPS = 12
NUM_TRAIN, NUM_VAL = 1600, 200  # enough for the demo's accuracy
SPLITS = {"train": 0, "val": 1}  # the epoch of their random draws


def encode(frames: Array) -> bytes:
    """Encode frames as an MP4 file.

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
        for planes in _yuv420(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode())
    return file.getvalue()


def _yuv420(frames: Array) -> Array:
    """Convert RGB to BT.601 in whole numbers: swscale rounds differently on each machine.

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
    num_train: int = NUM_TRAIN,
    num_val: int = NUM_VAL,
    seed: int = 0,
    num_processes: int | None = None,
) -> Path:
    """Write the data set, or its missing files.

    The video numbered n shows class n modulo 8; its pixels depend on (seed, split, n) only. Each
    file appears whole or not at all, so an interrupted run is completed by calling this again, and
    a complete folder is left alone.

    Args:
        folder: of the data set; made if it does not exist.
        num_train: videos to train on, at least one of each class.
        num_val: videos held out, at least one of each class.
        seed: 0 or more.
        num_processes: that render and encode; by default one for each CPU core.

    Returns:
        The folder.

    Raises:
        ConfigError: a number is out of range, or the folder contains something else.
    """
    folder = Path(folder)
    num_processes = available_cores() if num_processes is None else num_processes
    _check_numbers(num_train=num_train, num_val=num_val, seed=seed, num_processes=num_processes)
    requested = {"format": FORMAT, "num_train": num_train, "num_val": num_val, "seed": seed}
    _check_folder(folder, requested)

    _write_text_once(folder / "dataset.json", json.dumps(requested, indent=2) + "\n")
    counts = {"train": num_train, "val": num_val}
    every = [(split, number) for split, count in counts.items() for number in range(count)]
    missing = [video for video in every if not (folder / _video_path(*video)).exists()]
    if missing:
        logger.info("writing %d of %d videos to %s", len(missing), len(every), folder)
        _write_videos(folder, missing, seed=seed, num_processes=num_processes)
    _write_text_once(folder / "classes.txt", "".join(f"{name}\n" for name in CLASS_NAMES))
    for split, count in counts.items():
        lines = [f"{_video_path(split, n)} {n % len(CLASS_NAMES)}\n" for n in range(count)]
        _write_text_once(folder / f"{split}.csv", "".join(lines))
    return folder


def _video_path(split: str, number: int) -> str:
    return f"{split}/{number:05d}.mp4"


def _write_text_once(path: Path, text: str) -> None:
    if not path.exists():
        write_text_atomically(path, text)


def _write_videos(
    folder: Path, videos: Sequence[tuple[str, int]], *, seed: int, num_processes: int
) -> None:
    write = functools.partial(_write_video, folder, seed)
    finished = _each(write, videos, num_processes)
    # disable=None: no bar when stderr is not a terminal.
    for _ in tqdm(finished, total=len(videos), desc="writing videos", unit="video", disable=None):
        pass


def _write_video(folder: Path, seed: int, video: tuple[str, int]) -> None:
    split, number = video
    rng = generator(seed, SPLITS[split], number, SYNTHETIC)
    content = encode(render(draw_scene(rng), CLASS_NAMES[number % len(CLASS_NAMES)]))
    write_atomically(folder / _video_path(split, number), lambda file: file.write(content))


def _each(
    write: Callable[[tuple[str, int]], None], videos: Sequence[tuple[str, int]], num_processes: int
) -> Iterator[None]:
    """Call ``write`` for each video, in several processes; yield as they finish."""
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


def _check_numbers(**numbers: int) -> None:
    least = {"num_train": len(CLASS_NAMES), "num_val": len(CLASS_NAMES), "num_processes": 1}
    problems = [
        f"{name}: expected a whole number of at least {least.get(name, 0)}, got {value!r}"
        for name, value in numbers.items()
        if type(value) is not int or value < least.get(name, 0)
    ]
    if problems:
        raise ConfigError(in_one_message("motion data set", problems))


def _check_folder(folder: Path, requested: dict[str, int]) -> None:
    """Refuse a folder that contains anything but (a part of) the requested data set."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file. Name a folder for the motion data set")
    if not folder.exists() or not any(folder.iterdir()):
        return
    record = folder / "dataset.json"
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder}: contains files but no {record.name}, so it is not a motion data set. "
            "Name another folder for the motion data set, or an empty one"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{record}: cannot be read ({error}). Delete {folder} to write it again"
        ) from error
    if found != requested:
        raise ConfigError(
            f"{folder}: contains another motion data set ({found}) than requested ({requested}). "
            "Name another folder, or delete this one to write it again"
        )
