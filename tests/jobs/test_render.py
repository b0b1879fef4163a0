"""Videos with their timeline drawn in: times, size and sound are those of the original."""

import itertools

import av
import numpy as np
import pytest
from colours import colour_predictor, write_colours
from PIL import Image
from videos import with_rotation, write_with_sound

from slowfast_mvit.cli import main
from slowfast_mvit.data.video.readers import open_reader
from slowfast_mvit.jobs.prediction import command, render
from slowfast_mvit.jobs.prediction.render import render_timeline


def rendered(video, path):
    predictor = colour_predictor()
    render_timeline(video, predictor.timeline(video), path)
    with open_reader(path) as reader:
        return reader.times_s, reader.frames(range(reader.num_frames)).numpy()


def test_the_band_has_the_class_the_bar_and_the_ruler(tmp_path):
    video = write_colours(tmp_path / "a.mp4", [("red", 2), ("blue", 2)], size=(120, 160))

    times_s, frames = rendered(video, tmp_path / "out.mp4")

    assert len(frames) == 40 and times_s[-1] == pytest.approx(3.9)
    assert frames[5, 10:80, :, 0].mean() > 200 and frames[35, 10:80, :, 2].mean() > 200
    band = frames[:, 96:].astype(int)
    assert (band[:, :12].max(axis=(1, 2, 3)) > 180).all()  # white text
    blue, red = (0x44, 0x77, 0xAA), (0xEE, 0x66, 0x77)  # colours of the first and second class
    for frame, colour in ((band[5], blue), (band[35], red)):
        assert np.abs(frame[13:16, 60:80].mean(axis=(0, 1)) - colour).max() < 30  # the bar
    for part, colour in ((slice(20, 70), blue), (slice(100, 130), red)):
        assert np.abs(band[10, 20:23, part].mean(axis=(0, 1)) - colour).max() < 30  # the ruler


@pytest.mark.parametrize(
    ("suffix", "codec", "sound", "kept"),
    [
        (".mp4", "libx264", "aac", "aac"),
        (".ts", "libx264", "aac", "aac"),
        (".mkv", "libx264", "pcm_s16le", "aac"),
        (".mkv", "libx264", "mp3", "mp3"),
    ],
)
@pytest.mark.parametrize("first_s", [0.0, 1.0])
def test_the_sound_is_kept_in_step(tmp_path, suffix, codec, sound, kept, first_s):
    video = tmp_path / f"a{suffix}"
    write_with_sound(video, codec, sound, video_s=2.0, sound_s=2.0 + first_s, first_s=first_s)

    rendered(video, tmp_path / "out.mp4")

    with av.open(str(tmp_path / "out.mp4")) as out:
        (stream,) = out.streams.audio
        assert stream.codec_context.codec.canonical_name == kept
        times_s = [float(frame.pts * frame.time_base) for frame in out.decode(stream)]
    assert times_s[0] == pytest.approx(0.0, abs=0.1)
    assert times_s[-1] == pytest.approx(2.0, abs=0.1)
    assert max(b - a for a, b in itertools.pairwise(times_s)) < 0.05


@pytest.mark.parametrize("kind", ["odd size", "7 fps", "variable rate", "rotated", "frames"])
def test_times_and_size_are_those_of_the_video(tmp_path, kind):
    path, parts, size = tmp_path / "a.mp4", [("green", 3.0)], (32, 48)
    pts = np.cumsum([0, *[1, 3] * 15])[:30].tolist()
    if kind == "odd size":
        write_colours(path, parts, size=(33, 49), codec="mpeg4")
    elif kind == "frames":
        path = tmp_path / "frames"
        path.mkdir()
        for number in range(12):
            Image.new("RGB", (48, 32), "green").save(path / f"{number}.png")
    else:
        write_colours(path, parts, fps=10, pts=pts if kind == "variable rate" else None)
    if kind == "rotated":
        path.write_bytes(with_rotation(path.read_bytes(), 90))
        size = (48, 32)

    times_s, frames = rendered(path, tmp_path / "out.mp4")

    with open_reader(path) as reader:
        np.testing.assert_allclose(times_s, reader.times_s, atol=1e-3)
    assert frames.shape[1:3] == size


def test_a_frame_smaller_than_the_band_is_covered_by_it(tmp_path):
    video = write_colours(tmp_path / "tiny.mp4", [("red", 0.5)], size=(16, 16))

    _, frames = rendered(video, tmp_path / "out.mp4")

    assert frames.shape == (5, 16, 16, 3)


def test_damaged_sound_is_left_out_with_a_warning(tmp_path, caplog, monkeypatch):
    video = write_with_sound(tmp_path / "a.mp4", "libx264", "aac", video_s=2, sound_s=2)
    packets_of = render.packets_of

    def damaged(*arguments):
        yield from itertools.islice(packets_of(*arguments), 20)
        raise av.error.InvalidDataError(1, "damaged")

    monkeypatch.setattr(render, "packets_of", damaged)

    times_s, _ = rendered(video, tmp_path / "out.mp4")

    assert len(times_s) == 50
    assert "the sound ends early" in caplog.text


def test_ctrl_c_leaves_no_half_written_video(tmp_path, monkeypatch, capsys):
    video = write_colours(tmp_path / "a.mp4", [("red", 2)])
    monkeypatch.setattr(command, "load", lambda *_, **__: colour_predictor())
    words = ["predict", str(video), "--weights", "none", "--render", str(tmp_path / "out.mp4")]
    draw = render._Band.draw
    calls = itertools.count()

    def interrupted(self, image, time_s):
        if next(calls) == 5:
            raise KeyboardInterrupt
        draw(self, image, time_s)

    monkeypatch.setattr(render._Band, "draw", interrupted)
    assert main(words) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    monkeypatch.undo()
    monkeypatch.setattr(command, "load", lambda *_, **__: colour_predictor())
    assert main(words) == 0
    assert (tmp_path / "out.mp4").stat().st_size > 1000
