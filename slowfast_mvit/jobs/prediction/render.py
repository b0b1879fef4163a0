"""A video with its timeline drawn into the frames; the sound is kept.

Each frame has a band along its lower edge: the class at that time with its probability, a bar of
it, and a ruler of the whole video with the segments in colours.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import logging
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from PIL import Image, ImageDraw, ImageFont

from slowfast_mvit.data.video import packets
from slowfast_mvit.data.video.packet_checks import packets_of
from slowfast_mvit.data.video.readers import open_reader, stream_frames
from slowfast_mvit.data.video.shards import open_plain_file
from slowfast_mvit.errors import writing
from slowfast_mvit.jobs.prediction.output import clock, on_one_line
from slowfast_mvit.jobs.prediction.timeline import Timeline
from slowfast_mvit.storage import atomic_path
from slowfast_mvit.structures import VideoReader

logger = logging.getLogger(__name__)

_QUALITY = {"preset": "veryfast", "crf": "20"}
_PRIMING_S = 0.1  # of sound before the first frame is kept: encoders put some there
TICKS = 90_000  # a second, of the clock of MPEG
# Codecs of sound that may be in an MP4 as they are; others are encoded again.
_KEPT_SOUND = ("aac", "mp3", "ac3", "opus", "alac")
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")


def render_timeline(
    video: str | Path,
    timeline: Timeline,
    path: str | Path,
    on_frame: Callable[[float], object] = lambda share: None,
) -> None:
    """Write an MP4 of the video with its timeline drawn into the frames.

    Frames keep their times and their size (an odd last row or column is cut); they are upright.

    Args:
        video: a video file, or a folder of frames.
        timeline: of that video.
        path: of the MP4; it appears once it is complete.
        on_frame: called with the share of the video that was drawn.

    Raises:
        DecodeError: the video cannot be read.
        WriteError: the MP4 cannot be written.
    """
    with (
        writing(path),
        open_reader(video) as reader,
        atomic_path(path) as temporary,
        av.open(str(temporary), "w", format="mp4") as out,
    ):
        rate = Fraction(max(reader.fps, 1.0)).limit_denominator(1001)
        stream: Any = out.add_stream("libx264", rate=rate, options=_QUALITY)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS)
        with _sound_of(Path(video), out) as sound_until:
            for time_s, drawn in _drawn_frames(reader, timeline):
                if not stream.codec_context.is_open:
                    stream.width, stream.height = drawn.width, drawn.height
                for packet in sound_until(time_s):
                    out.mux(packet)
                out.mux(stream.encode(drawn))
                on_frame(1 / reader.num_frames)
            out.mux(stream.encode(None))
            for packet in sound_until(math.inf):
                out.mux(packet)


def _drawn_frames(reader: VideoReader, timeline: Timeline) -> Iterator[tuple[float, av.VideoFrame]]:
    band: _Band | None = None
    frames = stream_frames(reader, range(reader.num_frames))
    for time_s, frame in zip(reader.times_s.tolist(), frames, strict=True):
        height, width = (max(side // 2 * 2, 2) for side in frame.shape[:2])
        band = band or _Band(timeline, height, width)
        image = np.ascontiguousarray(frame.numpy()[:height, :width])
        band.draw(image, time_s)
        drawn = av.VideoFrame.from_ndarray(image, format="rgb24")
        drawn.pts, drawn.time_base = round(time_s * TICKS), Fraction(1, TICKS)
        yield time_s, drawn


class _Band:
    """The band along the lower edge of frames (H, W); what does not change is drawn once."""

    def __init__(self, timeline: Timeline, height: int, width: int) -> None:
        self._timeline = timeline
        self._size = (width, max(min(height // 5, 96), 20))
        self._line_px = self._size[1] // 4
        self._font = ImageFont.load_default(max(min(self._size[1] * 0.4, width / 20), 8))
        self._background = Image.new("RGB", self._size, "#101010")
        self._ends_s = [segment.end_s for segment in timeline.segments[:-1]]
        labels = dict.fromkeys(segment.label for segment in timeline.segments)
        self._colour_of = colours = dict(zip(labels, itertools.cycle(_COLOURS)))
        ruler = ImageDraw.Draw(self._background)
        for segment in timeline.segments:
            span = (self._x(segment.start_s), self._size[1] - self._line_px + 1)
            ruler.rectangle((*span, self._x(segment.end_s), self._size[1]), colours[segment.label])

    def _x(self, time_s: float) -> float:
        return self._size[0] * time_s / max(self._timeline.duration_s, 1e-9)

    def draw(self, image: np.ndarray, time_s: float) -> None:
        """Draw the band into a frame (H, W, 3) uint8."""
        number = bisect.bisect_right(self._ends_s, time_s)
        segment = self._timeline.segments[number]
        prob = float(self._timeline.probs[self._timeline.cell_at(time_s), segment.label])
        band = self._background.copy()
        drawing = ImageDraw.Draw(band)
        width, height = self._size
        text = f"{100 * prob:.0f} %  {on_one_line(segment.name)}"
        drawing.text((2, 0), text, fill="white", font=self._font)
        clock_text = clock(time_s)
        left = width - drawing.textlength(clock_text, font=self._font) - 2
        drawing.rectangle((left - 2, 0, width, height - 2 * self._line_px - 1), "#101010")
        drawing.text((left, 0), clock_text, fill="white", font=self._font)
        top = height - 2 * self._line_px
        colour = self._colour_of[segment.label]
        drawing.rectangle((0, top, width * prob, top + self._line_px - 1), colour)
        drawing.line((self._x(time_s), top, self._x(time_s), height), "white", 2)
        image[-height:] = np.asarray(band)[-len(image) :]


# Sound

SoundUntil = Callable[[float], Iterator[av.Packet]]


@contextlib.contextmanager
def _sound_of(video: Path, out: OutputContainer) -> Iterator[SoundUntil]:
    """Yield a function that returns the packets of the sound up to a time, in their order."""
    if not video.is_file():  # a folder of frames, or a member of a tar shard
        yield lambda time_s: iter(())
        return
    budget = packets.Budget(video)
    with (
        open_plain_file(video) as file,
        packets.open_container(video, file, budget) as container,
    ):
        if not container.streams.audio:
            yield lambda time_s: iter(())
            return
        upcoming = _sound_packets(video, container, out)
        waiting: list[tuple[float, av.Packet]] = []

        def until(time_s: float) -> Iterator[av.Packet]:
            budget.restart()
            while True:
                try:
                    waiting.extend(itertools.islice(upcoming, 0 if waiting else 1))
                except packets.LIBRARY_ERRORS as error:
                    reason = packets.reason(error)
                    logger.warning("%s: the sound ends early (%s)", video, reason)
                if not waiting or waiting[0][0] > time_s:
                    return
                yield waiting.pop()[1]

        yield until


def _sound_packets(
    video: Path, container: InputContainer, out: OutputContainer
) -> Iterator[tuple[float, av.Packet]]:
    """Add a stream for the sound, and return its packets with their times in the video."""
    source = container.streams.audio[0]
    shown = packets.first_video_stream(video, container, packets.MAX_RESIZED_PIXELS)
    start_s = float((shown.start_time or 0) * (shown.time_base or 0))
    is_kept = source.codec_context.codec.canonical_name in _KEPT_SOUND
    target: Any
    if is_kept:
        target = out.add_stream_from_template(source)
    else:
        target = out.add_stream("aac", rate=source.codec_context.sample_rate)

    def read() -> Iterator[tuple[float, av.Packet]]:
        for packet in packets_of(container, source):
            if packet.pts is None:
                continue
            time_s = float(packet.pts * packet.time_base) - start_s
            if time_s < -_PRIMING_S:
                continue
            if is_kept:
                shift = round(start_s / packet.time_base)
                packet.pts -= shift
                packet.dts = packet.pts
                packet.stream = target
                yield time_s, packet
                continue
            frame: Any
            for frame in source.codec_context.decode(packet):
                frame.pts -= round(start_s / frame.time_base)
                yield from ((time_s, encoded) for encoded in target.encode(frame))
        if not is_kept:
            yield from ((math.inf, encoded) for encoded in target.encode(None))

    return read()
