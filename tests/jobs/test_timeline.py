"""Timelines of long videos whose classes and cuts are known, from a model that sees colours."""

import itertools
import json
import re
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from colours import NAMES, colour_predictor, write_colours
from videos import repeat_packets, with_rotation

from slowfast_mvit.cli import main
from slowfast_mvit.data.video.packets import Budget
from slowfast_mvit.data.video.pyav_reader import PyavReader
from slowfast_mvit.jobs.prediction import command, reading
from slowfast_mvit.jobs.prediction.output import clock
from slowfast_mvit.jobs.prediction.timeline import smoothed, timeline_of
from slowfast_mvit.structures import VideoRecord

PARTS = [("red", 3.1), ("blue", 2.4), ("red", 4.0), ("green", 1.7), ("blue", 2.8)]
CUTS_S = list(itertools.accumulate(seconds for _, seconds in PARTS))


@pytest.fixture
def video(tmp_path):
    return write_colours(tmp_path / "video.mp4", PARTS)


def segments_as_truth():
    starts = [0.0, *CUTS_S[:-1]]
    return [
        (a, b, NAMES.index(name)) for a, b, (name, _) in zip(starts, CUTS_S, PARTS, strict=True)
    ]


def f1_at_half(found, truth):
    """Segment F1 at an overlap of 0.5 (https://arxiv.org/abs/1611.05267)."""

    def overlap(one, other):
        shared = min(one[1], other[1]) - max(one[0], other[0])
        return shared / (max(one[1], other[1]) - min(one[0], other[0])) * (one[2] == other[2])

    hits = sum(any(overlap(one, other) >= 0.5 for other in truth) for one in found)
    return 2 * hits / (len(found) + len(truth))


@pytest.mark.parametrize(("window_s", "stride_s"), [(None, None), (1.0, 0.2), (1.0, 1.0)])
def test_boundaries_are_found_to_a_stride(video, window_s, stride_s):
    timeline = colour_predictor().timeline(video, window_s=window_s, stride_s=stride_s)

    found = [(one.start_s, one.end_s, one.label) for one in timeline.segments]
    assert [label for *_, label in found] == [label for *_, label in segments_as_truth()]
    for (_, end, _), cut in zip(found, CUTS_S, strict=True):
        assert end == pytest.approx(cut, abs=stride_s or 0.4)
    assert f1_at_half(found, segments_as_truth()) >= 0.9
    assert timeline.duration_s == pytest.approx(14.0)


def test_windows_have_the_probabilities_of_the_pieces(tmp_path):
    parts = [("red", 0.8), ("blue", 0.8), ("green", 0.8)]
    names = [name for name, _ in parts]
    whole = write_colours(tmp_path / "whole.mp4", parts)
    predictor = colour_predictor()

    timeline = predictor.timeline(whole, window_s=0.8, stride_s=0.8)

    assert [one.name for one in timeline.segments] == names
    for probs, part in zip(timeline.probs, parts, strict=True):
        piece = write_colours(tmp_path / f"{part[0]}.mp4", [part])
        for one in predictor.predict(piece, num_clips=1):
            assert probs[one.label] == pytest.approx(one.prob, abs=2e-3)  # encoded apart


def test_each_frame_is_decoded_once_whatever_the_overlap(video, monkeypatch):
    decoded, converted = [], []
    spend, to_rgb = Budget.spend, PyavReader._to_rgb
    monkeypatch.setattr(Budget, "spend", lambda self: (decoded.append(1), spend(self))[1])
    monkeypatch.setattr(
        PyavReader,
        "_to_rgb",
        lambda self, i, frame: (converted.append(i), to_rgb(self, i, frame))[1],
    )

    timeline = colour_predictor().timeline(video, window_s=2.0, stride_s=0.1)

    assert len(timeline.probs) == 121
    assert converted == sorted(set(converted))
    assert len(decoded) <= 140


def test_streamed_frames_are_those_of_frames(video):
    with reading.open_reader(video) as reader:
        indices = [0, 1, 7, 31, 32, 90, 139]
        streamed = torch.stack(list(reader.stream(indices)))
        assert torch.equal(streamed, reader.frames(indices))


def test_few_frames_are_in_memory_at_a_time(video, monkeypatch):
    alive, most = weakref.WeakSet(), []
    real = reading.scaled_planes

    def counted(frames, plan):
        planes, corners = real(frames, plan)
        alive.add(planes)
        most.append(len(alive))
        return planes, corners

    monkeypatch.setattr(reading, "scaled_planes", counted)
    settings = reading.reading_of(colour_predictor().input_spec, is_timeline=True, stride_s=0.1)
    for _ in reading.read_units(VideoRecord(str(video), str(video), 0), settings):
        pass

    assert max(most) <= 10 < len(most)


@pytest.mark.nightly
def test_four_hours_need_no_more_memory_than_ten_minutes(tmp_path):
    hour = write_colours(tmp_path / "a.mp4", [("red", 100), ("blue", 80)])
    peaks = []
    for times in (3, 80):  # 9 minutes, 4 hours
        long = repeat_packets(hour, tmp_path / f"{times}.mp4", times)
        script = (
            "import sys, resource; from colours import colour_predictor;"
            "n = len(colour_predictor().timeline(sys.argv[1], stride_s=0.8).segments);"
            "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, long],
            cwd=Path(__file__).parent,
            capture_output=True,
            check=True,
        )
        num_segments, peak_kb = map(int, done.stdout.split())
        assert num_segments == 2 * times
        peaks.append(peak_kb)
    assert peaks[1] - peaks[0] < 150_000


@pytest.mark.parametrize("kind", ["portrait", "7 fps", "variable rate", "rotated", "mkv"])
def test_unusual_files_have_the_same_timeline(tmp_path, kind):
    parts = [("red", 4.0), ("green", 4.0)]
    path = tmp_path / "odd.mp4"
    if kind == "portrait":
        write_colours(path, parts, size=(64, 24))
    elif kind == "7 fps":
        write_colours(path, parts, fps=7)
    elif kind == "variable rate":  # the second half of each colour at half the rate
        steps = [1] * 20 + [2] * 10
        pts = np.cumsum([0, *steps, *steps])[:60].tolist()
        write_colours(path, [("red", 3.0), ("green", 3.0)], pts=pts)
    elif kind == "rotated":
        write_colours(path, parts)
        path.write_bytes(with_rotation(path.read_bytes(), 90))
    else:
        path = write_colours(tmp_path / "odd.mkv", parts)

    timeline = colour_predictor().timeline(path)

    assert [one.name for one in timeline.segments] == ["red", "green"]
    assert timeline.segments[0].end_s == pytest.approx(4.0, abs=0.4)
    assert timeline.duration_s == pytest.approx(8.0, abs=0.2)


def test_a_video_shorter_than_a_window_has_one_segment(tmp_path):
    video = write_colours(tmp_path / "short.mp4", [("blue", 0.3)])

    (segment,) = colour_predictor().timeline(video).segments

    assert (segment.start_s, segment.end_s, segment.name) == (0, pytest.approx(0.3), "blue")


def test_segments_models_see_windows_of_four_seconds(tmp_path):
    video = write_colours(tmp_path / "video.mp4", [("red", 8.0), ("blue", 8.0)])

    timeline = colour_predictor(policy="segments").timeline(video)

    assert len(timeline.probs) == 7
    assert [one.name for one in timeline.segments] == ["red", "blue"]


def test_smoothing_removes_a_flicker_and_leaves_a_change_in_place():
    centres_s = np.arange(12) + 0.5
    probs = np.zeros((12, 2), np.float32)
    probs[:, 0] = [0.9, 0.9, 0.4, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    probs[:, 1] = 1 - probs[:, 0]
    spans = [(centre - 1, centre + 1) for centre in centres_s]

    timeline = timeline_of(probs, spans, 12.0, ["a", "b"])

    assert [(one.name, one.end_s) for one in timeline.segments] == [("a", 6.0), ("b", 12.0)]
    assert timeline.strip(12) == "AAAAAABBBBBB"
    assert smoothed(probs, centres_s, 2.0)[2, 0] == pytest.approx((0.4 + 0.45 + 0.45) / 2)


def test_a_long_video_prints_its_timeline_and_writes_subtitles(tmp_path, capsys, monkeypatch):
    name = 'left & <b>right</b>, --> "x"\n'
    names = [name, "green", "blue"]
    predictor = colour_predictor(class_names=names, num_frames=2, sampling_rate=1)
    monkeypatch.setattr(command, "load", lambda *_, **__: predictor)
    video = write_colours(tmp_path / "long.mp4", [("red", 11), ("blue", 10)])
    words = ["predict", str(video), "--weights", "none"]

    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main([*words, "--json", "--output", str(tmp_path / "a.vtt")]) == 0
    record = json.loads(capsys.readouterr().out)
    assert main([*words, "--csv", "--output", str(tmp_path / "a.srt")]) == 0

    assert lines[0].endswith("209 windows of 0.2 s, one every 0.1 s, of 21.0 s")
    assert re.fullmatch("A+B+", lines[1]) and lines[2].split() == ["0:00.0", "0:21.0"]
    assert lines[4].startswith("B  0:1") and lines[4].endswith("blue")
    assert [one["label"] for one in record["segments"]] == [0, 2]
    vtt = (tmp_path / "a.vtt").read_text()
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:")
    assert "left &amp; &lt;b&gt;right&lt;/b&gt;, --&gt;" in vtt and vtt.count("-->") == 2
    srt = (tmp_path / "a.srt").read_text()
    assert srt.startswith("1\n00:00:00,000 --> 00:00:") and "\n\n2\n" in srt and "<" not in srt
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_times_are_written_as_subtitles_have_them():
    assert clock(3725.0456, point=",", digits=3, hours=True) == "01:02:05,046"
    assert clock(59.9999, digits=3) == "1:00.000"
    assert clock(3725.04) == "1:02:05.0"
