"""The motion data set: real files, equal on all machines, classes that differ only in motion."""

from __future__ import annotations

import hashlib
from pathlib import Path

import av
import numpy as np
import pytest

from slowfast_mvit.demo.motion_scenes import (
    CLASS_NAMES,
    HEIGHT_PX,
    NUM_FRAMES,
    TEXTURE_PX,
    WIDTH_PX,
    Scene,
    Shape,
    draw_scene,
    render,
)
from slowfast_mvit.demo.synthetic import FPS, encode, write_motion_dataset
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.randomness import SYNTHETIC, generator

NUM_TRAIN, NUM_VAL = 32, 8
CENTRE_PX = np.array([WIDTH_PX / 2, HEIGHT_PX / 2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("motion")
    return write_motion_dataset(folder, num_train=NUM_TRAIN, num_val=NUM_VAL, num_processes=2)


def rendered(number: int, class_name: str) -> np.ndarray:
    return render(draw_scene(generator(0, 0, number, SYNTHETIC)), class_name)


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def one_shape(class_name: str) -> np.ndarray:
    """Frames (F, H, W) of a square whose right half is white, with the motion of the class."""
    square = np.array([[1, 0, 0.6], [-1, 0, 0.6], [0, 1, 0.6], [0, -1, 0.6]], dtype=np.float32)
    texture = np.full((TEXTURE_PX, TEXTURE_PX, 3), 100, dtype=np.float32)
    texture[:, TEXTURE_PX // 2 :] = 255
    state = np.array([*CENTRE_PX, 0.0, 0.87])
    shape = Shape(square, texture, state, 0.5, np.zeros(2), flicker=0.0, flicker_period=4.0)
    black = np.zeros((HEIGHT_PX, WIDTH_PX, 3), dtype=np.float32)
    return render(Scene(black, (shape,)), class_name)[..., 0].astype(float)


def centroid(weights: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(weights.shape)
    return np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()


def test_videos_are_h264_in_mp4(folder):
    with av.open(str(folder / "train" / "00003.mp4")) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))

        assert "mp4" in container.format.name
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert (stream.width, stream.height) == (WIDTH_PX, HEIGHT_PX)
        assert stream.average_rate == FPS
        assert len(frames) == NUM_FRAMES


def test_files_show_what_was_rendered(folder):
    expected = rendered(5, CLASS_NAMES[5]).astype(float)

    actual = decoded(folder / "train" / "00005.mp4").astype(float)

    # H.264 halves the resolution of colour, so shapes' edges differ; grey stays close.
    assert np.abs(actual.mean(-1) - expected.mean(-1)).mean() < 4
    assert np.abs(actual - expected).mean() < 8


def test_lists_name_every_video_with_its_class(folder):
    assert (folder / "classes.txt").read_text().splitlines() == list(CLASS_NAMES)
    for split, count in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        lines = (folder / f"{split}.csv").read_text().splitlines()
        paths, labels = zip(*(line.split(" ") for line in lines), strict=True)

        assert len(set(paths)) == count
        assert all((folder / path).is_file() for path in paths)
        assert np.bincount([int(label) for label in labels]).tolist() == [count // 8] * 8


def test_same_seed_gives_same_pixels_on_every_machine():
    frames = np.stack([rendered(number, name) for number, name in enumerate(CLASS_NAMES)])

    assert hashlib.sha256(frames.tobytes()).hexdigest()[:16] == "c511843a619788ec"


def test_number_of_processes_changes_nothing(folder, tmp_path):
    alone = write_motion_dataset(tmp_path, num_train=8, num_val=8, num_processes=1)

    for path in (f"{split}/{n:05d}.mp4" for split in ("train", "val") for n in range(8)):
        assert (alone / path).read_bytes() == (folder / path).read_bytes()


def test_splits_and_seeds_share_no_video(tmp_path):
    first = write_motion_dataset(tmp_path / "0", num_train=8, num_val=8, num_processes=1)
    second = write_motion_dataset(tmp_path / "1", num_train=8, num_val=8, seed=1, num_processes=1)

    files = [*first.rglob("*.mp4"), *second.rglob("*.mp4")]
    assert len({file.read_bytes() for file in files}) == 32


def test_middle_frame_is_the_same_in_all_classes():
    for number in range(4):
        middles = [rendered(number, name)[NUM_FRAMES // 2] for name in CLASS_NAMES]

        assert all(np.array_equal(middle, middles[0]) for middle in middles)


def test_classes_differ_in_every_other_frame():
    videos = [rendered(0, name) for name in CLASS_NAMES]

    for frame in {0, 1, NUM_FRAMES // 2 + 1, NUM_FRAMES - 1}:
        assert len({video[frame].tobytes() for video in videos}) == len(CLASS_NAMES)


@pytest.mark.nightly
def test_single_frames_do_not_give_the_class_away():
    """A ridge classifier on the first and last frames of 256 videos stays near chance."""
    num_videos = 256
    ends = [rendered(n, CLASS_NAMES[n % 8])[[0, -1]] for n in range(num_videos)]
    small = np.stack(ends).reshape(num_videos, 2, 6, 12, 8, 12, 3).astype(float) / 255
    labels = np.arange(num_videos) % 8
    targets = np.eye(8)[labels] - 1 / 8
    rows, known = np.arange(num_videos), np.arange(num_videos) % 16 < 8

    for frame in (0, 1):
        # Per cell of 12 x 12 pixels: mean colour, and contrast, which tells where shapes are.
        cells = small[:, frame]  # (N, 6, 12, 8, 12, 3)
        features = np.concatenate([cells.mean((2, 4)), cells.std((2, 4))], -1).reshape(256, -1)
        features = (features - features[known].mean(0)) / features[known].std(0)
        kernel = features @ features.T / features.shape[1]
        weights = np.linalg.solve(kernel[np.ix_(known, known)] + np.eye(128), targets[known])
        guesses = (kernel[np.ix_(~known, known)] @ weights).argmax(1)

        # 128 fair guesses among 8: 12.5% with a standard deviation of 2.9 points.
        assert np.mean(guesses == labels[rows[~known]]) < 0.125 + 4 * 0.029


@pytest.mark.parametrize(
    ("class_name", "axis", "sign"),
    [("move left", 0, -1), ("move right", 0, 1), ("move up", 1, -1), ("move down", 1, 1)],
)
def test_moving_shapes_move_as_named(class_name, axis, sign):
    frames = one_shape(class_name)

    places = np.array([centroid(frame) for frame in frames[5:12]])
    steps_px = np.diff(places, axis=0)

    np.testing.assert_allclose(steps_px[:, axis], sign * 0.5 * 3.5, atol=0.2)
    np.testing.assert_allclose(steps_px[:, 1 - axis], 0, atol=0.2)


@pytest.mark.parametrize(("class_name", "sign"), [("clockwise", 1), ("counter-clockwise", -1)])
def test_turning_shapes_turn_as_named(class_name, sign):
    frames = one_shape(f"turn {class_name}")

    # From the middle of the square to its white half; on a screen, where y points down,
    # a growing angle is clockwise.
    towards = np.array([centroid(frame > 180) - centroid(frame > 50) for frame in frames])
    degrees = np.degrees(np.unwrap(np.arctan2(towards[:, 1], towards[:, 0])))

    turned = degrees - degrees[0]
    np.testing.assert_allclose(turned, sign * np.arange(NUM_FRAMES) * 0.5 * 0.04 * 360, atol=6)


@pytest.mark.parametrize(("class_name", "sign"), [("grow", 1), ("shrink", -1)])
def test_growing_shapes_change_size_as_named(class_name, sign):
    frames = one_shape(class_name)

    octaves = np.log2([(frame > 50).sum() for frame in frames]) / 2

    grown = octaves - octaves[0]
    np.testing.assert_allclose(grown, sign * np.arange(NUM_FRAMES) * 0.5 * 0.12, atol=0.12)


def test_a_shape_that_leaves_comes_in_on_the_other_side():
    frames = one_shape("move right")

    # 8 frames at 1.75 pixels take the square no further than the border, 40 would take it through.
    areas = [(frame > 50).sum() for frame in frames]

    assert max(areas) - min(areas) < 0.05 * max(areas)


@pytest.mark.parametrize(("label", "axis", "sign"), [(0, 1, -1), (1, 1, 1), (2, 0, -1), (3, 0, 1)])
def test_optical_flow_in_the_files_agrees_with_the_label(folder, label, axis, sign):
    """Least-squares flow over a whole video: brightness change = -flow . gradient."""
    for number in range(label, NUM_TRAIN, 8):
        video = decoded(folder / "train" / f"{number:05d}.mp4").mean(-1)
        mean = (video[1:] + video[:-1]) / 2
        gradient = np.stack([np.gradient(mean, axis=1), np.gradient(mean, axis=2)])
        moments = np.einsum("ithw,jthw->ij", gradient, gradient)
        change = np.einsum("ithw,thw->i", gradient, np.diff(video, axis=0))
        flow = -np.linalg.solve(moments, change)

        assert sign * flow[axis] > abs(flow[1 - axis])


def test_missing_file_is_written_again_and_the_rest_left_alone(tmp_path):
    write_motion_dataset(tmp_path, num_train=8, num_val=8, num_processes=1)
    lost = tmp_path / "val" / "00002.mp4"
    content = lost.read_bytes()
    lost.unlink()
    (tmp_path / "val.csv").unlink()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}

    write_motion_dataset(tmp_path, num_train=8, num_val=8, num_processes=1)

    assert lost.read_bytes() == content
    assert (tmp_path / "val.csv").is_file()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_complete_folder_is_left_alone(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    write_motion_dataset(folder, num_train=NUM_TRAIN, num_val=NUM_VAL)

    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_interrupted_run_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    calls = []

    def failing_encode(frames):
        calls.append(frames)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(frames)

    monkeypatch.setattr("slowfast_mvit.demo.synthetic.encode", failing_encode)
    with pytest.raises(KeyboardInterrupt):
        write_motion_dataset(tmp_path, num_train=8, num_val=8, num_processes=1)
    monkeypatch.undo()

    assert sorted(path.name for path in tmp_path.rglob("*.mp4")) == [
        f"0000{n}.mp4" for n in (0, 1, 2)
    ]
    assert not list(tmp_path.rglob("*.csv"))
    write_motion_dataset(tmp_path, num_train=8, num_val=8, num_processes=1)
    assert len(list(tmp_path.rglob("*.mp4"))) == 16
    assert not list(tmp_path.rglob(".tmp-*"))


def test_all_bad_numbers_are_reported_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        write_motion_dataset(tmp_path / "new", num_train=7, num_val=1.5, seed=-1, num_processes=0)

    message = str(caught.value)
    assert "4 problems" in message
    assert "num_train: expected a whole number of at least 8, got 7" in message
    assert "num_val: expected a whole number of at least 8, got 1.5" in message
    assert "seed: expected a whole number of at least 0, got -1" in message
    assert not (tmp_path / "new").exists()


def test_folder_with_other_data_is_refused(folder, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"no dataset\.json"):
        write_motion_dataset(tmp_path, num_train=8, num_val=8)
    with pytest.raises(ConfigError, match="is a file"):
        write_motion_dataset(tmp_path / "notes.txt", num_train=8, num_val=8)
    with pytest.raises(ConfigError, match="contains another motion data set"):
        write_motion_dataset(folder, num_train=NUM_TRAIN, num_val=NUM_VAL, seed=5)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        write_motion_dataset(tmp_path, num_train=8, num_val=8)


def test_unknown_class_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'move left'"):
        rendered(0, "move-left")
