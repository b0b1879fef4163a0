"""Small video files for the tests, written with PyAV; every frame shows its own number."""

from __future__ import annotations

import io
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

# Real clips, where a developer has them; never part of the repository.
REAL_VIDEOS = Path(__file__).resolve().parents[1].parent / "shared" / "videos"


def real_videos(folder: str) -> list[Path]:
    """The files of a folder of real clips; a skipped test where there are none."""
    files = sorted((REAL_VIDEOS / folder).glob("*.*")) if (REAL_VIDEOS / folder).is_dir() else []
    reason = "the folder of real clips is not on this machine"
    return files or [pytest.param(None, marks=pytest.mark.skip(reason=reason))]


def picture(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A picture (H, W, 3) that differs from that of any other number: a moving square on noise."""
    noise = np.random.Generator(np.random.Philox(key=[7, 0]))
    image = noise.integers(60, 120, size=(height, width, 3), dtype=np.uint8)
    top, left = 3 * number % (height - 12), 5 * number % (width - 12)
    image[top : top + 12, left : left + 12] = (250, 20 + 7 * number % 200, 240 - 11 * number % 200)
    return image


def write_video(
    path: Path,
    num_frames: int = 30,
    *,
    size: tuple[int, int] = (48, 64),
    fps: int = 30,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    pts: list[int] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write ``num_frames`` pictures of ``size`` (H, W); frame i is shown at ``pts[i]`` / fps."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {codec}")
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        stream.options = options or {}
        stream.codec_context.time_base = Fraction(1, fps)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            frame.pts = number if pts is None else pts[number]
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def with_rotation(mp4: bytes, degrees: int) -> bytes:
    """The same MP4, shown turned clockwise by a right angle."""
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    return with_matrix(mp4, (cosine, sine, -sine, cosine))


def with_matrix(mp4: bytes, matrix: tuple[float, float, float, float]) -> bytes:
    """The same MP4 with another matrix (a, b, c, d) in its track header (ISO 14496-12, 8.3.2)."""
    a, b, c, d = (round(number * 65536) for number in matrix)
    start = mp4.index(b"tkhd") + 4 + 4 + 4 * 5 + 8 + 8
    plain = np.frombuffer(mp4[start : start + 36], dtype=">i4")
    assert plain.tolist() == [65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30]
    turned = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], dtype=">i4")
    return mp4[:start] + turned.tobytes() + mp4[start + 36 :]


def copy_packets(
    source: Path,
    path: Path,
    *,
    first: int = 0,
    last: int | None = None,
    earlier: int = 0,
    times_of_decoding: bool = False,
    container_options: dict[str, str] | None = None,
) -> Path:
    """The packets of a video from the ``first`` on in another container, without encoding.

    Args:
        last: leave out those from this one on.
        earlier: show each so many 30ths of a second earlier; MP4 hides those before 0.
        times_of_decoding: give each packet out as shown when it is decoded, which is what comes of
            copying from a container that does not tell when frames are shown.
    """
    with (
        av.open(str(source)) as old,
        av.open(str(path), "w", options=container_options or {}) as new,
    ):
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        for packet in packets[first:last]:
            if times_of_decoding:
                packet.pts = packet.dts
            shift = round(earlier / 30 / packet.time_base)
            packet.pts -= shift
            packet.dts = None if packet.dts is None else packet.dts - shift
            packet.stream = stream
            new.mux(packet)
    return path


def repeat_packets(source: Path, path: Path, times: int, **options: str) -> Path:
    """The packets of an even video several times over, without encoding: long or large files."""
    with av.open(str(source)) as old, av.open(str(path), "w", options=options) as new:
        first = old.streams.video[0]
        stream = new.add_stream_from_template(first)
        packets = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in old.demux(first) if p.size]
        shown = sorted(pts for _, pts, _, _ in packets)
        length = len(packets) * (shown[1] - shown[0])
        for shift in range(0, times * length, length):
            for content, pts, dts, is_key in packets:
                packet = av.Packet(content)
                packet.pts, packet.dts = pts + shift, dts + shift
                packet.time_base, packet.stream = first.time_base, stream
                packet.is_keyframe = is_key
                new.mux(packet)
    return path


def with_edit_list(mp4: bytes, num_frames: int, *, first: int = 0, last: int = 0) -> bytes:
    """The same MP4 with an edit list (ISO 14496-12, 8.6.6) that hides its first and last frames."""
    with av.open(io.BytesIO(mp4)) as container:
        tick = round(1 / (30 * container.streams.video[0].time_base))
    start = mp4.index(b"elst") + 4 + 4 + 4
    duration, media_time, _ = np.frombuffer(mp4[start : start + 12], dtype=">i4").tolist()
    edit = [round(duration * (1 - (first + last) / num_frames)), media_time + first * tick]
    return mp4[:start] + np.array(edit, dtype=">i4").tobytes() + mp4[start + 8 :]


def write_two_sizes(path: Path) -> Path:
    """Eight pictures of 48 x 64 and then eight of 96 x 128, in one stream."""
    parts = [path.with_name(f"{path.stem}_{height}{path.suffix}") for height in (48, 96)]
    for part, size in zip(parts, ((48, 64), (96, 128)), strict=True):
        # Without a global header each key frame brings its own size along.
        write_video(part, 8, size=size, options={"x264-params": "repeat-headers=1", "bf": "0"})
    if path.suffix == ".ts":
        path.write_bytes(b"".join(part.read_bytes() for part in parts))
        return path
    with av.open(str(path), "w") as container:
        stream = None
        for number, part in enumerate(parts):
            with av.open(str(part)) as source:
                stream = stream or container.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.size:
                        step = int(1 / (30 * packet.time_base))
                        packet.pts += 8 * step * number
                        packet.dts += 8 * step * number
                        packet.stream = stream
                        container.mux(packet)
    return path


def write_palette(path: Path, num_frames: int = 10) -> Path:
    """Frames of 8 bits with a palette, which is in the first packet alone."""
    colours = np.full((256, 4), 255, dtype=np.uint8)  # alpha, red, green, blue
    colours[:, 1:] = np.arange(256)[:, None]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "pal8"
        for number in range(num_frames):
            image = np.ascontiguousarray(picture(number)[..., 0])
            frame = av.VideoFrame.from_ndarray((image, colours), format="pal8")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_with_sound(
    path: Path, codec: str, sound: str, *, video_s: float, sound_s: float, first_s: float = 0.0
) -> Path:
    """A video of 25 frames a second that starts at ``first_s``, and silence from 0 on."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream(sound, rate=44100)
        audio.bit_rate = 64_000
        packets = []
        for number in range(round(video_s * 25)):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = number + round(first_s * 25), Fraction(1, 25)
            packets += video.encode(frame)
        packets += video.encode(None)
        sample_format, layout = audio.codec_context.format.name, audio.codec_context.layout.name
        for start in range(0, round(sound_s * 44100), 1024):
            silence = av.AudioFrame(sample_format, layout, 1024)
            for plane in silence.planes:
                plane.update(bytes(plane.buffer_size))
            silence.sample_rate, silence.time_base = 44100, Fraction(1, 44100)
            silence.pts = start
            packets += audio.encode(silence)
        packets += audio.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def write_second_stream(path: Path, *, codec: str, is_cover: bool, first: bool) -> Path:
    """A video and a second stream of larger pictures, which may be a cover picture."""
    with av.open(str(path), "w") as container:
        sizes = {"video": (48, 64), "other": (96, 128)}
        codecs = {"video": "libx264", "other": codec}
        streams = {}
        for name in ("other", "video") if first else ("video", "other"):
            streams[name] = stream = container.add_stream(codecs[name], rate=30)
            stream.height, stream.width = sizes[name]
            stream.pix_fmt = "yuvj420p" if codecs[name] == "mjpeg" else "yuv420p"
        if is_cover:
            streams["other"].disposition = av.stream.Disposition.attached_pic
        packets = []
        for name, stream in streams.items():
            for number in range(1 if is_cover and name == "other" else 12):
                image = picture(number + 50 * (name == "other"), *sizes[name])
                packets += stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24"))
            packets += stream.encode(None)
        for packet in packets:
            container.mux(packet)
    return path


def ffmpeg_frames(path: Path) -> list[torch.Tensor] | None:
    """The reference: every frame as the ffmpeg program shows it; None where it is not installed."""
    if shutil.which("ffmpeg") is None:
        return None
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(path), "-map", "0:V:0"]
    command += ["-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe"]
    output = subprocess.run([*command, "-"], capture_output=True, check=True).stdout
    frames, start = [], 0
    while start < len(output):  # P6, width and height, 255, pixels
        header = output[start : start + 40].split(b"\n", 3)
        width, height = map(int, header[1].split())
        start += sum(map(len, header[:3])) + 3
        pixels = np.frombuffer(output, np.uint8, height * width * 3, start)
        frames.append(torch.from_numpy(pixels.reshape(height, width, 3).copy()))
        start += len(pixels)
    return frames


def sequential_frames(path: Path) -> list[torch.Tensor]:
    """The reference: every frame in turn, as PyAV decodes it, turned as its file says."""
    with av.open(str(path)) as container:
        return [
            torch.from_numpy(
                np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90).copy()
            )
            for frame in container.decode(container.streams.video[0])
        ]
