"""The files that the benchmarks read: made here, so that every machine measures on the same ones.

Two kinds:

    kinetics   10 s, 25 to 30 frames a second, 454 x 256 and 340 x 256, H.264 as x264 writes it:
               crf 19, key frames up to 250 frames apart, B frames in pyramids
    prepared   the same after data_prep/resize_videos.py: crf 23, a key frame every 30, tuned for
               decoding

What a file costs to decode follows from what it shows, so the content is made hard to encode:
scenes of fine texture and hard edges, a hand-held camera that pans, turns and zooms, things that
move and bend in front of it, changing light, a little grain, and cuts. README.md in this folder
compares them with real files.

Letters used in shapes: H, W height and width in pixels
"""

from __future__ import annotations

import math
import multiprocessing
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.encode import Encoding
from data_prep.jobs import JobInput
from data_prep.resize_videos import copy_of, resize
from slowfast_mvit.randomness import Draws, generator, whole_number

SEED = 20
GROUND_PX = (512, 1024)  # a scene's ground: what the camera moves over
THING_PX = 128  # side of the texture of a moving thing
NUM_STEPS = 1024  # frames of a walk, more than any scene has

X264 = {
    "crf": "19",
    "preset": "medium",
    "g": "250",
    "bf": "3",
    "b-pyramid": "normal",
    "b-bias": "-21",  # real Kinetics files have 45 % B frames; made-up scenes would get 74 %
    # With AVX-512 x264's lookahead reads memory that it has not written: files differ every time.
    "x264-params": "asm=avx2",
}
SIZES_PX = ((256, 454), (256, 340))  # (H, W), alternately
RATES = (Fraction(30000, 1001), Fraction(25), Fraction(30))  # frames per second, alternately
SECONDS = 10.0


def make_videos(folder: Path, count: int) -> list[Path]:
    """Return the first ``count`` Kinetics-like files; those that ``folder`` lacks are made.

    Args:
        folder: where they are kept for the next time.
        count: number of files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recipe = f"{zlib.crc32(Path(__file__).read_bytes()):08x}"  # none of another version is read
    paths = [folder / f"kinetics_{recipe}_{number:02d}.mp4" for number in range(count)]
    _in_two_processes(_write_scenes, [(path, n) for n, path in enumerate(paths)])
    return paths


def prepare_videos(videos: Sequence[Path]) -> list[Path]:
    """Return their copies by data_prep/resize_videos.py; those that are missing are made."""
    copies = [video.parent / "prepared" / copy_of(video.name) for video in videos]
    _in_two_processes(_prepare, list(zip(copies, videos, strict=True)))
    return copies


def _in_two_processes(job: Callable[..., None], arguments: Sequence[tuple]) -> None:
    """Run the jobs whose first argument, a file, does not exist yet."""
    missing = [words for words in arguments if not words[0].exists()]
    if len(missing) == 1:
        return job(*missing[0])
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, torch.set_num_threads, (1,)) as pool:
        for future in [pool.submit(job, *words) for words in missing]:
            future.result()


def _write_scenes(path: Path, number: int) -> None:
    (height, width), rate = SIZES_PX[number % len(SIZES_PX)], RATES[number % len(RATES)]
    write_video(path, scenes(number, round(SECONDS * rate), height, width), rate, X264)


def _prepare(copy: Path, video: Path) -> None:
    resize(JobInput(video.name, video), to=str(copy.parent), encoding=asdict(Encoding()))


def write_video(
    path: Path, images: Iterable[np.ndarray], rate: Fraction, options: Mapping[str, str]
) -> None:
    """Write under a temporary name first, so that ``path`` is a whole file or none."""
    part = path.with_name(f"part_{path.name}")
    with av.open(str(part), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options=dict(options))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for number, image in enumerate(images):
            if number == 0:
                stream.height, stream.width = image.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    part.replace(path)


# The frames


def scenes(number: int, num_frames: int, height: int, width: int) -> Iterator[np.ndarray]:
    """Yield the frames (H, W, 3) uint8 of one video: one to three scenes, cut hard."""
    rng = generator(SEED, 0, number, 0)
    cuts = sorted(whole_number(rng, 0, num_frames) for _ in range(number % 3))
    liveliness = float(rng.uniform(0.5, 1.5))
    for first, last in zip([0, *cuts], [*cuts, num_frames], strict=True):
        scene = Scene(rng, height, width, liveliness)
        for time in range(last - first):
            yield scene.frame(time)


class Scene:
    """A textured ground under a moving camera, and things that move and bend in front of it.

    Args:
        rng: draws the scene.
        height: H.
        width: W.
        liveliness: how much moves, 1 for the middle of what is common.
    """

    def __init__(self, rng: Draws, height: int, width: int, liveliness: float) -> None:
        self.height, self.width = height, width
        self.ground = texture(rng, *GROUND_PX)
        speed = liveliness * torch.tensor([1.6, 0.8, 0.0016, 0.0016])
        start = torch.tensor([GROUND_PX[1] / 2, GROUND_PX[0] / 2, 0.0, 0.0])
        self.camera = start + _walk(rng, speed)
        self.things = [Thing(rng, height, width, liveliness) for _ in range(4)]
        self.light = _walk(rng, torch.tensor([0.002]))
        noise = rng.standard_normal((2 * height, 2 * width)) * 1.5
        self.grain = torch.from_numpy(noise).float()
        self.grain_at = rng.integers(0, min(height, width), size=(NUM_STEPS, 2))

    def frame(self, time: int) -> np.ndarray:
        """Return the frame (H, W, 3) uint8, ``time`` frames after the scene began."""
        x, y, angle, zoom = self.camera[time].tolist()
        matrix = _similarity(x, y, angle, 1.1 * math.exp(zoom))
        image = _sample(self.ground, matrix, self.height, self.width)
        for thing in self.things:
            thing.draw(image, time)
        top, left = self.grain_at[time]
        grain = self.grain[top : top + self.height, left : left + self.width]
        image = image * math.exp(float(self.light[time])) + grain
        return image.clamp(0, 255).byte().permute(1, 2, 0).numpy()


class Thing:
    """Something that moves, turns and bends: a soft-edged piece of texture."""

    def __init__(self, rng: Draws, height: int, width: int, liveliness: float) -> None:
        self.side = side = whole_number(rng, 60, 150)
        self.texture = texture(rng, THING_PX, THING_PX)
        start = torch.tensor([rng.uniform(0, width), rng.uniform(0, height), 0.0])
        self.path = start + _walk(rng, liveliness * torch.tensor([2.5, 1.5, 0.02]))
        self.bend = float(rng.uniform(2, 7)) * liveliness
        self.period = float(rng.uniform(12, 40))
        y, x = _grid(side, side)
        radius = torch.sqrt((x / side) ** 2 + (y / side) ** 2) * 2
        wobble = 1 + 0.15 * torch.sin(5 * torch.atan2(y, x) + float(rng.uniform(0, 6)))
        self.alpha = ((0.95 - radius * wobble) * side / 4).clamp(0, 1)

    def draw(self, image: Tensor, time: int) -> None:
        """Draw it into ``image`` (3, H, W)."""
        x, y, angle = self.path[time].tolist()
        top, left = int(y % (image.shape[1] + self.side)), int(x % (image.shape[2] + self.side))
        matrix = _similarity(THING_PX / 2 + x % 1, THING_PX / 2 + y % 1, angle, 0.8)
        bend = self.bend * math.sin(2 * math.pi * time / self.period)
        piece = _sample(self.texture, matrix, self.side, self.side, bend=bend)
        # from (top, left) on, in an image with a margin of the thing's side
        height, width = image.shape[1:]
        canvas = F.pad(image, [self.side] * 4)
        part = canvas[:, top : top + self.side, left : left + self.side]
        part.lerp_(piece, self.alpha)
        image.copy_(canvas[:, self.side :, self.side :][:, :height, :width])


def texture(rng: Draws, height: int, width: int) -> Tensor:
    """(3, H, W) float32, 0 to 255: noise of all sizes, with hard-edged patches over it."""
    image = torch.zeros(3, height, width)
    side = 4
    while side <= 2 * width:
        coarse = torch.from_numpy(rng.standard_normal((1, 3, max(side * height // width, 2), side)))
        shared = 0.7 * coarse.mean(1, keepdim=True) * 3**0.5 + 0.3 * coarse
        noise = F.interpolate(shared.float(), (height, width), mode="bilinear")[0]
        image += 130 * side**-0.62 * noise
        side *= 2
    for _ in range(height * width // 3000):
        top, left = whole_number(rng, 0, height), whole_number(rng, 0, width)
        bottom, right = top + whole_number(rng, 4, 60), left + whole_number(rng, 4, 60)
        patch = image[:, top:bottom, left:right]
        patch += torch.from_numpy(rng.normal(0, 30, (3, 1, 1))).float()
    return (image + 120).clamp(0, 255)


def _walk(rng: Draws, speed: Tensor) -> Tensor:
    """(NUM_STEPS, axes): a smooth way from 0, at ``speed`` a frame on each axis, and a shake.

    Calm and hurry alternate, as in real videos: the encoder gives hurried parts fewer B frames.
    """
    num_axes = len(speed)
    times = torch.arange(NUM_STEPS)[:, None]
    periods = torch.from_numpy(rng.uniform(40, 200, size=(3, num_axes))).float()
    phases = torch.from_numpy(rng.uniform(0, 2 * math.pi, size=(3, num_axes))).float()
    waves = torch.cos(2 * math.pi * times[None] / periods[:, None] + phases[:, None])
    hurry = torch.stack(
        [torch.sin(2 * math.pi * (times / period + float(rng.random()))) for period in (23, 41, 67)]
    )
    hurry = hurry.sum(0).exp()  # (NUM_STEPS, 1)
    steps = waves.sum(0) * 1.4 / 3**0.5 * hurry / hurry.mean()
    shake = torch.from_numpy(rng.standard_normal((NUM_STEPS, num_axes))).float()
    return speed * (steps.cumsum(0) - steps[0] + 0.12 * shake)


def _grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the (y, x) of each pixel, in pixels from the centre, each (H, W)."""
    rows, columns = (torch.arange(size) + 0.5 - size / 2 for size in (height, width))
    return torch.meshgrid(rows, columns, indexing="ij")


def _similarity(x: float, y: float, angle: float, scale: float) -> Tensor:
    """(2, 3): the place in the texture of a pixel, counted from the centre of the frame."""
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    return torch.tensor([[cosine, -sine, x], [sine, cosine, y]])


def _sample(source: Tensor, matrix: Tensor, height: int, width: int, bend: float = 0.0) -> Tensor:
    """(3, H, W): ``source`` seen through ``matrix``, rows pushed aside in a wave by ``bend``."""
    y, x = _grid(height, width)
    if bend:
        x = x + bend * torch.sin(y / 9)
    places = torch.stack([x, y, torch.ones_like(x)], -1) @ matrix.T  # (H, W, 2), pixels
    places = 2 * places / torch.tensor([source.shape[2], source.shape[1]]) - 1
    options = {"padding_mode": "reflection", "align_corners": False}
    return F.grid_sample(source[None], places[None], **options)[0]
