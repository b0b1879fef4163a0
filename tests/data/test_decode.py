"""The PyAV reader beyond the contract, folders of frames, images, and the choice of a reader."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from types import ModuleType, SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image
from videos import picture, sequential_frames, write_two_sizes, write_video

from slowfast_mvit.data.video import optional_readers, packets, pyav_reader, readers
from slowfast_mvit.data.video.readers import open_reader, read_image, working_reader
from slowfast_mvit.errors import ConfigError, DecodeError


def test_the_frame_rate_and_the_times_are_those_of_the_file(tmp_path):
    steady = write_video(tmp_path / "a.mp4", 24, fps=12)
    uneven = write_video(tmp_path / "b.mp4", 4, fps=10, pts=[0, 1, 5, 7])

    with open_reader(steady) as reader:
        assert reader.fps == 12
        assert reader.times_s[-1] == pytest.approx(23 / 12, abs=1e-3)
    with open_reader(uneven) as reader:
        assert reader.times_s == pytest.approx([0, 0.1, 0.5, 0.7], abs=1e-3)


def test_an_avi_with_b_frames_has_the_rate_at_which_it_is_decoded(tmp_path):
    even = write_video(tmp_path / "a.avi", 30, fps=60, pts=list(range(0, 60, 2)))
    dropped = [*range(12), *range(18, 36)]  # six frames were lost in recording
    uneven = write_video(tmp_path / "b.avi", 30, fps=30, pts=dropped)

    with open_reader(even) as reader:  # its header claims 60, a copy of an MP4 often twice its rate
        assert (reader.num_frames, reader.fps) == (30, 30.0)
        assert reader.times_s == pytest.approx(np.arange(30) / 30)
    with open_reader(uneven) as reader:
        assert reader.times_s[-1] == pytest.approx(35 / 30)
        assert sorted(np.diff(reader.times_s))[-2:] == pytest.approx([1 / 30, 7 / 30])


@pytest.mark.parametrize("matrix", ["YCgCo", "ictcp"])
def test_a_colour_matrix_that_ffmpeg_does_not_convert_is_ignored(tmp_path, matrix, caplog):
    plain = write_video(tmp_path / "a.mp4", 3)
    tagged = write_video(tmp_path / "b.mp4", 3, options={"x264-params": f"colormatrix={matrix}"})

    with open_reader(plain) as reader, open_reader(tagged) as other:
        assert torch.equal(other.frames([2, 0]), reader.frames([2, 0]))


def test_a_frame_that_cannot_be_converted_is_not_called_damaged(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 3)
    monkeypatch.setattr(pyav_reader, "ignore_unknown_matrix", set_reserved_range)

    with (
        open_reader(path) as reader,
        pytest.raises(DecodeError, match=r"frame 0 .*yuv420p cannot be converted to RGB .* ffmpeg"),
    ):
        reader.frames([0])


def set_reserved_range(frame):
    frame.color_range = 3


def test_frames_that_are_too_large_are_refused_with_the_script_that_scales_them(
    tmp_path, monkeypatch
):
    path = write_video(tmp_path / "a.mp4", 3)
    monkeypatch.setattr(packets, "MAX_PIXELS", 1000)

    remedies = {10_000: "resize_videos.py", 2000: "ffmpeg"}
    for limit, remedy in remedies.items():
        monkeypatch.setattr(packets, "MAX_RESIZED_PIXELS", limit)
        text = f"64 x 48 pixels are larger than the 1,000 .* Scale the video down with .*{remedy}"
        with pytest.raises(DecodeError, match=text), open_reader(path):
            pass


def write_faststart(path):
    """A file whose header comes first, so that its beginning can be read when the rest is lost."""
    options = {"g": "5", "keyint_min": "5"}
    return write_video(path, options=options, container_options={"movflags": "faststart"})


def test_a_damaged_file_says_how_much_was_read(tmp_path):
    path = write_faststart(tmp_path / "a.mp4")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])

    with (
        open_reader(path) as reader,
        pytest.raises(DecodeError, match=r"a.mp4: the reader 'pyav' gave \d+ of \d+ frames, then"),
    ):
        reader.frames(range(reader.num_frames))


def test_an_undamaged_part_of_a_damaged_file_is_read(tmp_path):
    path = write_faststart(tmp_path / "a.mp4")
    expected = sequential_frames(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])

    with open_reader(path) as reader:
        assert torch.equal(reader.frames([3])[0], expected[3])


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", bytes(range(256)) * 40])
def test_what_is_no_video_is_refused(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)

    with pytest.raises(DecodeError, match=r"a\.mp4: "), open_reader(path):
        pass


def test_a_file_that_names_other_files_is_refused(tmp_path):
    write_video(tmp_path / "secret.mp4", 2)
    concat = tmp_path / "concat.mp4"
    concat.write_text("ffconcat version 1.0\nfile secret.mp4\n")
    playlist = tmp_path / "playlist.mp4"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mp4\n#EXT-X-ENDLIST")

    for path in (concat, playlist):
        with pytest.raises(DecodeError), open_reader(path):
            pass


def test_missing_files_and_pipes_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    too_long = "a" * 300

    with pytest.raises(DecodeError, match="No such file"), open_reader(tmp_path / "no.mp4"):
        pass
    with pytest.raises(DecodeError, match="not a plain file"), open_reader(tmp_path / "pipe.mp4"):
        pass
    for path in (tmp_path / f"{too_long}.mp4", tmp_path / f"{too_long}.tar" / "b.mp4"):
        with pytest.raises(DecodeError, match=r"cannot be opened \("), open_reader(path):
            pass


def test_a_format_that_is_not_read_is_told_which_are(tmp_path):
    path = tmp_path / "a.mp4"
    Image.fromarray(picture(0)).save(path, format="GIF")

    with (
        pytest.raises(DecodeError, match=r"no format that is read \(MP4, .*Convert it with ffmpeg"),
        open_reader(path),
    ):
        pass


def test_a_file_without_pictures_is_refused(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

    with pytest.raises(DecodeError, match="contains no video stream"), open_reader(path):
        pass


def test_the_budgets_stop_files_that_cost_too_much(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 30, options={"g": "30", "sc_threshold": "0"})
    monkeypatch.setattr(packets, "MAX_DECODED_FRAMES", 10)

    with open_reader(path) as reader:
        assert len(reader.frames([4])) == 1
        with pytest.raises(DecodeError, match="more than 10 frames would have to be decoded"):
            reader.frames([29])

    monkeypatch.setattr(packets, "MAX_PIXELS", 48 * 64 - 1)
    with pytest.raises(DecodeError, match="frames of 64 x 48 pixels are larger"), open_reader(path):
        pass


def test_only_the_groups_of_wanted_frames_are_decoded(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 30, options={"g": "5", "keyint_min": "5"})
    expected = sequential_frames(path)
    runs = []
    decode_run = pyav_reader.PyavReader._decode_run
    monkeypatch.setattr(
        pyav_reader.PyavReader,
        "_decode_run",
        lambda self, index, run: runs.append(run) or decode_run(self, index, run),
    )

    with open_reader(path) as reader:
        frames = reader.frames([27, 2])

    assert torch.equal(frames, torch.stack([expected[27], expected[2]]))
    assert [run.first for run in runs] == [0, 25]
    assert all(run.last < run.first + 5 for run in runs)


def test_an_index_outside_the_video_is_the_callers_mistake(tmp_path):
    with (
        open_reader(write_video(tmp_path / "a.mp4", 3)) as reader,
        pytest.raises(IndexError, match="frame 3 of 0 to 2 was asked for"),
    ):
        reader.frames([0, 3])


@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_pictures_that_change_their_size_are_refused(tmp_path, suffix):
    path = write_two_sizes(tmp_path / f"both{suffix}")

    with (
        pytest.raises(DecodeError, match="change their size, from 64 x 48 to 128 x 96 at frame 8"),
        open_reader(path) as reader,
    ):
        reader.frames(range(reader.num_frames))


def test_pictures_that_grow_too_large_are_refused(tmp_path, monkeypatch):
    path = write_two_sizes(tmp_path / "both.mkv")
    monkeypatch.setattr(packets, "MAX_PIXELS", 48 * 64)

    with open_reader(path) as reader, pytest.raises(DecodeError):
        reader.frames([reader.num_frames - 1])


# Folders of frames and images


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(picture(number)).save(folder / f"img_{number + 1}.png")
    (folder / "notes.txt").touch()
    (folder / "._img_1.png").write_bytes(b"what macOS keeps beside a file")
    return folder


def test_a_folder_of_frames_is_read_in_the_order_of_its_numbers(folder):
    with open_reader(folder) as reader:
        assert (reader.num_frames, reader.fps) == (12, 30.0)
        frames = reader.frames([1, 9, 10, 1])

    assert torch.equal(frames, torch.from_numpy(np.stack([picture(n) for n in (1, 9, 10, 1)])))


def test_a_frame_list_names_the_frames_and_their_order(folder):
    with open_reader(folder / "img_[3-5,9].png") as reader:
        assert reader.num_frames == 4
        frames = reader.frames([0, 2, 3])

    assert torch.equal(frames, torch.from_numpy(np.stack([picture(n) for n in (2, 4, 8)])))


def test_a_missing_or_empty_or_torn_frame_is_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    whole = (folder / "img_2.png").read_bytes()
    (folder / "img_2.png").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(DecodeError, match="contains no images"), open_reader(tmp_path / "empty"):
        pass
    with (
        open_reader(folder) as reader,
        pytest.raises(DecodeError, match=r"img_2.png: not a readab"),
    ):
        reader.frames([1])
    with (
        open_reader(folder / "img_[3-40].png") as reader,
        pytest.raises(DecodeError, match=r"img_40.png: cannot be opened \(No such file"),
    ):
        reader.frames([37])


def test_frames_of_different_sizes_are_refused(folder):
    Image.fromarray(picture(0, 50, 60)).save(folder / "img_1.png")

    with (
        open_reader(folder) as reader,
        pytest.raises(DecodeError, match="frames of different sizes"),
    ):
        reader.frames([0, 1])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_an_image_is_a_video_of_one_frame(tmp_path, mode):
    path = tmp_path / "a.jpg"
    Image.fromarray(picture(0)).convert(mode).save(path, quality=95)

    with open_reader(path) as reader:
        assert reader.num_frames == 1
        frames = reader.frames([0, 0])

    expected = torch.from_numpy(np.array(Image.open(path).convert("RGB")))
    assert torch.equal(frames, torch.stack([expected, expected]))


def test_an_image_of_16_bits_is_not_cut_off_at_8(tmp_path):
    path = tmp_path / "a.png"
    levels = np.linspace(0, 65535, 48 * 64).astype(np.uint16).reshape(48, 64)
    Image.fromarray(levels).save(path)

    with open_reader(path) as reader:
        frame = reader.frames([0])[0]

    assert torch.equal(
        frame, torch.from_numpy((levels >> 8).astype(np.uint8))[..., None].expand_as(frame)
    )


def test_an_image_with_damaged_tags_is_read_or_refused(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "what it shows"
    path = tmp_path / "a.jpg"
    Image.fromarray(picture(0)).save(path, exif=exif)
    whole = path.read_bytes()
    sizes = set()

    for place in range(whole.index(b"Exif"), whole.index(b"what it shows")):
        for level in (0x00, 0x7F, 0xFF):
            path.write_bytes(whole[:place] + bytes([level]) + whole[place + 1 :])
            with warnings.catch_warnings(), contextlib.suppress(DecodeError):
                warnings.simplefilter("ignore")  # PIL's, of what it passes over
                sizes.add(tuple(read_image(path).shape))

    height, width = picture(0).shape[:2]
    assert sizes == {(height, width, 3), (width, height, 3)}  # as stored, and turned


@pytest.mark.parametrize("image_format", ["webp", "png"])
@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_an_animated_image_is_not_read_as_a_still(tmp_path, image_format, suffix):
    path = tmp_path / f"a.{suffix}"
    first, *others = (Image.fromarray(picture(number)) for number in range(4))

    first.save(path, image_format, save_all=True, append_images=others)
    with pytest.raises(DecodeError, match="an animated image of 4 frames"), open_reader(path):
        pass
    first.save(path, image_format, save_all=True)
    with open_reader(path) as reader:
        assert reader.num_frames == 1


def test_an_image_in_a_format_that_runs_programs_is_refused(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")

    with (
        pytest.raises(DecodeError, match=r"not a readable image \(none of JPEG"),
        open_reader(tmp_path / "a.jpg"),
    ):
        pass


def test_an_image_is_turned_upright(tmp_path):
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
    Image.fromarray(picture(0)).save(path, exif=exif)

    with open_reader(path) as reader:
        upright = reader.frames([0])[0]

    assert torch.equal(upright, torch.rot90(torch.from_numpy(picture(0)), -1, dims=(0, 1)))


# The choice of a reader


def test_auto_takes_the_first_reader_that_decodes_and_says_which(monkeypatch, caplog, tmp_path):
    working_reader.cache_clear()
    caplog.set_level("INFO")
    monkeypatch.setitem(readers.READERS, "torchcodec", gives_grey)
    monkeypatch.setattr(readers, "AUTO_READERS", ("torchcodec", "pyav"))
    path = write_video(tmp_path / "a.mp4", 3)

    with open_reader(path, "auto") as reader, open_reader(path, "pyav") as expected:
        assert torch.equal(reader.frames([0, 2]), expected.frames([0, 2]))

    assert caplog.messages == ["DATA.DECODING_BACKEND auto: reading with pyav"]
    working_reader.cache_clear()


@contextlib.contextmanager
def gives_grey(path):
    yield SimpleNamespace(frames=lambda indices: torch.full((len(indices), 64, 64, 3), 128))


def test_a_reader_that_gives_other_frames_is_refused(monkeypatch):
    monkeypatch.setitem(readers.READERS, "grey", gives_grey)

    with pytest.raises(ConfigError, match=r"\[220, 40, 128\] are decoded as \[128, 128, 128\]"):
        working_reader("grey")


@pytest.mark.parametrize(
    ("backend", "module", "remedy"),
    [
        ("torchcodec", "torchcodec.decoders", "FFmpeg 4 to 8 with shared libraries"),
        ("decord", "decord", "or decord2"),
    ],
)
@pytest.mark.parametrize("found", [None, ModuleType("another of this name")])
def test_a_missing_library_is_named_with_its_remedy(
    monkeypatch, tmp_path, backend, module, remedy, found
):
    monkeypatch.setitem(sys.modules, module, found)

    with (
        pytest.raises(ConfigError, match=f"the reader '{backend}' cannot be loaded.*{remedy}"),
        open_reader(write_video(tmp_path / "a.mp4", 3), backend),
    ):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_gpu_reader_is_refused_without_a_gpu(tmp_path):
    with (
        pytest.raises(ConfigError, match="needs a CUDA device"),
        open_reader("a", "torchcodec_cuda"),
    ):
        pass


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_reader_gives_the_frames_of_the_others(tmp_path):
    path = write_video(tmp_path / "a.mp4", 30, size=(128, 160))

    with open_reader(path, "pyav") as reader:
        expected = reader.frames([3, 29, 0])
    with open_reader(path, "torchcodec_cuda") as reader:
        frames = reader.frames([3, 29, 0])

    assert frames.device.type == "cpu"
    assert frames.shape == expected.shape
    # The device places colour samples in its own way; another frame differs by over 4 levels.
    assert (frames.short() - expected.short()).abs().float().mean() < 3


def test_decord_does_not_copy_huge_files(tmp_path, monkeypatch):
    pytest.importorskip("decord")
    monkeypatch.setattr(optional_readers, "MAX_BYTES", 100)

    with (
        pytest.raises(DecodeError, match="bytes are more than the 100"),
        open_reader(write_video(tmp_path / "a.mp4", 3), "decord"),
    ):
        pass


def test_what_decord_cannot_read_reads_the_same_every_time(tmp_path):
    pytest.importorskip("decord")

    with (
        pytest.raises(DecodeError, match=r"'decord' cannot read it \(Check failed: .* pyav"),
        open_reader(write_video(tmp_path / "a.mp4", 3, size=(32, 48)), "decord") as reader,
    ):
        reader.frames([0])


def test_an_unknown_reader_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'pyav'"), open_reader("a.mp4", "pyavv"):
        pass
