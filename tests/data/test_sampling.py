"""Frame numbers against those that PySlowFast's own code computed (tests/reference)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from slowfast_mvit.data.views import sampling
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


def test_shifted_clips_walk_through_each_part():
    settings = ClipSpec(num_frames=4, sampling_rate=1, policy="segments", segment_clips="shifted")

    clips = sampling.eval_indices(settings, 49, 12.0, num_clips=3)  # parts of 12 steps

    assert clips == [[2, 14, 26, 38], [6, 18, 30, 42], [10, 22, 34, 46]]


@pytest.mark.parametrize("case", SEGMENTS, ids=name)
@pytest.mark.parametrize("num_clips", [1, 2, 3, 5, 10])
def test_shifted_clips_stay_in_their_parts_and_cover_them(case, num_clips):
    settings = spec(case, policy="segments", segment_clips="shifted")
    ranges = np.array(sampling.segment_ranges(case["video_length"], case["T"]))

    clips = np.array(sampling.eval_indices(settings, case["video_length"], 12.0, num_clips))

    if num_clips == 1:
        assert clips[0].tolist() == case["val_test_indices"]
    assert (ranges[:, 0] <= clips).all() and (clips <= ranges[:, 1]).all()
    assert (np.diff(clips, axis=0) >= 0).all()
    lengths = ranges[:, 1] - ranges[:, 0]
    assert (np.diff(clips, axis=0) <= np.ceil(lengths / num_clips)).all()  # no gap
    assert (clips[0] - ranges[:, 0] <= lengths / (2 * num_clips)).all()
    assert (ranges[:, 1] - clips[-1] <= lengths / (2 * num_clips) + 1).all()
    for part in np.flatnonzero(lengths >= num_clips):
        assert len(set(clips[:, part])) == num_clips


def test_an_even_rate_is_sampled_by_frame_number():
    numbers = list(range(300))

    for fps in (10.0, 12.0, 23.976, 30.0, 59.94, 240.0):
        exact = np.arange(300) / fps
        milliseconds = np.round(exact, 3)  # the clock of WebM and Matroska
        assert sampling.at_even_rate(numbers, exact) == numbers
        assert sampling.at_even_rate(numbers, milliseconds) == numbers


def test_an_uneven_rate_is_sampled_by_what_is_shown():
    times_s = np.array(
        [0.0, 0.1, 0.2, 0.3, 0.4, 0.9, 1.0]
    )  # frame 4 stands still for half a second

    shown = sampling.at_even_rate(
        range(7), times_s
    )  # at 0, 1/6, 2/6 ... 1 second, half a step late

    assert shown == [0, 2, 4, 4, 4, 5, 6]


@pytest.mark.parametrize("times_s", [[0.0], [3.5], [0.0, 0.0, 0.0]])
def test_a_video_without_a_length_is_sampled_by_frame_number(times_s):
    numbers = list(range(len(times_s)))

    assert sampling.at_even_rate(numbers, np.array(times_s)) == numbers


def random_specs(count):
    draws = np.random.default_rng(0)
    for _ in range(count):
        settings = ClipSpec(
            num_frames=int(draws.integers(1, 65)),
            sampling_rate=int(draws.integers(1, 17)),
            target_fps=float(draws.choice([8.0, 12.0, 24.0, 30.0, 60.0])),
            policy=str(draws.choice(["interval", "segments"])),
            jitter_fps=float(draws.choice([0.0, 5.0])),
            offset_sampling=bool(draws.integers(2)),
            segment_clips=str(draws.choice(["same", "shifted"])),
        )
        num_frames = int(draws.choice([1, 2, 3, 10, 48, 64, 300, 1200]))
        fps = float(draws.choice([0.1, 1.0, 10.419, 12.0, 23.976, 25.0, 29.97, 59.94, 240.0]))
        times_s = np.sort(draws.uniform(0.0, num_frames / fps, num_frames))
        yield settings, num_frames, fps, times_s, draws


def test_any_clip_of_any_video_has_t_frames_of_it_in_their_order():
    for settings, num_frames, fps, times_s, draws in random_specs(600):
        for num_clips in (1, 4, 10):
            tested = sampling.eval_indices(settings, num_frames, fps, num_clips)
            trained = sampling.train_indices(settings, num_frames, fps, draws)

            assert len(tested) == num_clips
            for clip in [*tested, trained]:
                for indices in (clip, sampling.at_even_rate(clip, times_s)):
                    assert len(indices) == settings.num_frames
                    assert indices == sorted(indices)
                    assert indices[0] >= 0 and indices[-1] < num_frames
            starts = [clip[0] for clip in tested]
            assert starts == sorted(starts)


def test_offset_clips_reach_both_ends_and_others_start_where_they_would_in_a_longer_test():
    for settings, num_frames, fps, _, _ in random_specs(300):
        if settings.policy == "segments":
            continue
        clip_size = sampling.interval_clip_size(settings, fps, settings.target_fps)
        room = max(num_frames - clip_size, 0.0)
        for num_clips in (2, 5):
            reaching = sampling.interval_starts(num_frames, clip_size, num_clips, True)
            others = sampling.interval_starts(num_frames, clip_size, num_clips, False)
            twice = sampling.interval_starts(num_frames, clip_size, 2 * num_clips, False)

            assert reaching[0] == 0.0
            assert room - num_clips < reaching[-1] <= room  # each step is rounded down
            assert others == pytest.approx(twice[::2], abs=1e-9)


def test_a_rate_of_one_takes_neighbours():
    settings = ClipSpec(num_frames=8, sampling_rate=1, offset_sampling=True)

    assert sampling.eval_indices(settings, 30, 30.0, num_clips=1) == [list(range(11, 19))]


def test_target_fps_scales_the_span():
    at_30 = ClipSpec(num_frames=8, sampling_rate=2, target_fps=30.0)
    at_15 = ClipSpec(num_frames=8, sampling_rate=2, target_fps=15.0)

    (short,) = sampling.eval_indices(at_30, 300, 30.0, num_clips=1)
    (long,) = sampling.eval_indices(at_15, 300, 30.0, num_clips=1)

    assert short == [0, 2, 4, 6, 8, 10, 12, 15]  # 15 / 7 apart
    assert long == [0, 4, 8, 13, 17, 22, 26, 31]  # 31 / 7 apart
