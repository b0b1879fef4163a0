"""Frame numbers against those that PySlowFast's own code computed (tests/reference)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from slowfast_mvit.data import sampling
from slowfast_mvit.randomness import TEMPORAL, generator
from slowfast_mvit.structures import ClipSpec

REFERENCE = Path(__file__).parents[1] / "reference" / "sampling_and_schedules.json"
GOLDEN = json.loads(REFERENCE.read_text())
INTERVALS = GOLDEN["temporal_sampling_torchvision_path"]
SEGMENTS = GOLDEN["ssv2_segment_sampling"]


def spec(case, **changes):
    settings = {"num_frames": case["T"], "sampling_rate": case.get("tau", 1), **changes}
    return ClipSpec(**settings)


def name(case):
    return "-".join(str(case[key]) for key in case if isinstance(case[key], (int, float)))


@pytest.mark.parametrize("case", INTERVALS, ids=name)
def test_clips_start_and_end_where_they_do_in_pyslowfast(case):
    clip_size = sampling.interval_clip_size(spec(case), case["fps"], 30.0)
    starts = sampling.interval_starts(
        case["num_frames_float"], clip_size, case["views"], case["use_offset"]
    )

    assert clip_size == case["clip_size"]
    assert starts == pytest.approx([start for start, _ in case["start_end"]], abs=1e-12)
    ends = [start + clip_size - 1 for start in starts]
    assert ends == pytest.approx([end for _, end in case["start_end"]], abs=1e-12)


@pytest.mark.parametrize("case", INTERVALS, ids=name)
def test_clips_hold_the_frames_they_hold_in_pyslowfast(case):
    num_frames = math.ceil(case["num_frames_float"])
    clip_size = case["clip_size"]

    clips = [
        sampling.interval_indices(num_frames, clip_size, start, case["T"])
        for start, _ in case["start_end"]
    ]

    assert clips[0] == case["whole_decode_path_index_clip0"]
    for clip, (start, end) in zip(clips, case["start_end"], strict=True):
        first, last = math.ceil(start), min(math.floor(end), num_frames - 1)
        assert clip == [min(first + step, last) for step in case["within_clip_if_trimmed"]]


def test_test_clips_are_cut_at_their_starts():
    case = INTERVALS[0]
    settings = spec(case, offset_sampling=True)

    clips = sampling.eval_indices(settings, 300, 30.0, num_clips=5)

    assert [clip[0] for clip in clips] == [0, 59, 118, 177, 236]
    assert [[i - clip[0] for i in clip] for clip in clips] == [case["within_clip_if_trimmed"]] * 5


@pytest.mark.parametrize("case", SEGMENTS, ids=name)
def test_segments_are_those_of_pyslowfast(case):
    settings = spec(case, policy="segments")
    length = case["video_length"]

    ranges = sampling.segment_ranges(length, case["T"])
    tested = sampling.eval_indices(settings, length, 12.0, num_clips=2)
    trained = [
        sampling.train_indices(settings, length, 12.0, np.random.default_rng(seed))
        for seed in range(60)
    ]

    assert [list(pair) for pair in ranges] == case["train_inclusive_ranges"]
    assert tested == [case["val_test_indices"]] * 2
    drawn = np.array(trained)
    reached = np.stack([drawn.min(0), drawn.max(0)], axis=1)
    inside = (np.array(ranges)[:, 0] <= reached[:, 0]) & (reached[:, 1] <= np.array(ranges)[:, 1])
    assert inside.all()
    short = np.diff(np.array(ranges))[:, 0] < 4  # all of whose frames 60 draws surely meet
    assert (reached[short] == np.array(ranges)[short]).all()


def test_a_training_clip_starts_anywhere_it_fits():
    settings = ClipSpec(num_frames=16, sampling_rate=4)
    starts = [
        sampling.train_indices(settings, 100, 30.0, generator(0, 0, position, TEMPORAL))[0]
        for position in range(400)
    ]

    assert (min(starts), max(starts)) == (1, 36)
    assert np.mean(starts) == pytest.approx(18.5, abs=1.5)


@pytest.mark.parametrize("num_frames", [1, 2, 5, 63, 64, 65])
@pytest.mark.parametrize("policy", ["interval", "segments"])
def test_a_short_video_repeats_its_last_frame(num_frames, policy):
    settings = ClipSpec(num_frames=16, sampling_rate=4, policy=policy, offset_sampling=True)

    trained = sampling.train_indices(settings, num_frames, 30.0, np.random.default_rng(0))
    tested = sampling.eval_indices(settings, num_frames, 30.0, num_clips=3)

    for indices in [trained, *tested]:
        assert len(indices) == 16
        assert indices == sorted(indices)
        assert indices[0] >= 0 and indices[-1] <= num_frames - 1
    if policy == "interval" and num_frames < 64:
        expected = [min(i, num_frames - 1) for i in INTERVALS[0]["within_clip_if_trimmed"]]
        assert [trained, *tested] == [expected] * 4


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (15.0, [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 31]),
        (60.0, [0, 8, 16, 25, 33, 42, 50, 59, 67, 76, 84, 93, 101, 110, 118, 127]),
        (1.0, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]),
    ],
)
def test_a_clip_spans_the_same_time_at_any_frame_rate(fps, expected):
    settings = ClipSpec(num_frames=16, sampling_rate=4)

    assert sampling.eval_indices(settings, 300, fps, num_clips=1) == [expected]


def test_a_single_frame_comes_from_the_middle():
    settings = ClipSpec(num_frames=1, sampling_rate=1, offset_sampling=True)

    assert sampling.eval_indices(settings, 9, 30.0, num_clips=1) == [[4]]


def test_a_jittered_target_rate_shortens_the_clip():
    settings = ClipSpec(num_frames=16, sampling_rate=4, jitter_fps=30.0)
    draws = np.random.RandomState(0)
    growth = np.random.RandomState(0).uniform(0.0, 30.0)

    indices = sampling.train_indices(settings, 10_000, 30.0, draws)

    whole_frames = int(64 * 30.0 / (30.0 + growth) - 1)
    assert indices[-1] - indices[0] in (whole_frames - 1, whole_frames)
