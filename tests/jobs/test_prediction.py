"""Many videos: sources, output, resuming; with a model that classifies by colour."""

import csv
import io
import json
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from colours import colour_predictor, write_colours
from PIL import Image

import slowfast_mvit as sm
from slowfast_mvit.cli import main
from slowfast_mvit.errors import UserError
from slowfast_mvit.jobs.prediction import command, scoring
from slowfast_mvit.jobs.prediction.output import SCHEMA
from slowfast_mvit.jobs.prediction.scoring import read_ahead
from slowfast_mvit.jobs.prediction.sources import UNLABELLED, videos_of

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """A folder of three clips of one colour each, a damaged one, and a predictor of colours."""
    folder = tmp_path / "clips"
    (folder / "deep").mkdir(parents=True)
    for name, part in (("red", "."), ("green", "deep"), ("blue", ".")):
        write_colours(folder / part / f"a {name}.mp4", [(name, 1.0)])
    (folder / "broken.mp4").write_bytes(b"<html>404</html>")
    monkeypatch.setattr(command, "load", lambda *_, **__: colour_predictor())
    monkeypatch.chdir(tmp_path)
    return folder


def predict(*words):
    return main(["predict", *map(str, words), "--weights", "none"])


def test_each_video_has_a_line_and_a_failure_gives_status_3(clips, capsys):
    assert predict("clips") == 3

    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "clips/a blue.mp4",
        "clips/a red.mp4",
        "clips/deep/a green.mp4",
    ]
    for line, name in zip(lines, ("blue", "red", "green"), strict=True):
        assert f"%  {name}, " in line and "(5 clips of 0.8 s, 100 % of 1.0 s)" in line
    assert "failed: clips/broken.mp4" in printed.err
    assert "3 of 4 videos predicted, 1 could not be read" in printed.err


def test_one_video_has_a_line_for_each_class_and_reports_what_was_read(clips, capsys):
    video = write_colours(clips / "long.mp4", [("red", 20)])

    assert predict(video, "--clips", 1, "--top-k", 2) == 0

    printed = capsys.readouterr()
    assert [line.split("%  ")[1] for line in printed.out.splitlines()] == ["red", "green"]
    assert printed.err == "1 clip of 0.8 s, 4 % of 20.0 s\n"


def test_many_videos_are_scored_as_one_by_one(clips):
    predictor = colour_predictor()
    videos = videos_of([str(clips / "*.mp4"), str(clips / "deep")])
    reading = command.reading_of(predictor.input_spec)

    scored = list(predictor.scores(videos, reading, batch=4))

    for video, result in zip(videos, scored, strict=True):
        if "broken" not in video.path:
            for one in predictor.predict(video.path, top_k=3):
                assert result.mean_probs[one.label] == pytest.approx(one.prob, abs=1e-6)


def test_a_single_view_is_computed_once(tmp_path):
    predictor, num_views = colour_predictor(), []
    predictor.model.register_forward_hook(lambda _, inputs, __: num_views.append(len(inputs[0])))
    videos = videos_of([str(write_colours(tmp_path / "short.mp4", [("red", 0.2)]))])

    (scored,) = predictor.scores(videos, command.reading_of(predictor.input_spec), batch=8)

    assert num_views == [1] and scored.mean_probs.argmax() == 0


def test_the_output_is_a_journal_that_resumes(clips, capsys, monkeypatch):
    words = ("clips", "--output", "results.jsonl")
    (clips / "broken.mp4").unlink()
    assert predict(words[0], "--output", "whole.jsonl") == 0
    reads, real = [], scoring.read_units

    def interrupted(record, reading):
        if len(reads) == 2:
            raise KeyboardInterrupt
        reads.append(record.path)
        yield from real(record, reading)

    monkeypatch.setattr(scoring, "available_cores", lambda: 1)
    monkeypatch.setattr(scoring, "read_units", interrupted)
    assert predict(*words) == 128 + signal.SIGINT
    num_done = len(Path("results.jsonl").read_text().splitlines())
    reads.clear()
    monkeypatch.setattr(scoring, "read_units", lambda *a: (reads.append(a[0].path), real(*a))[1])
    with open("results.jsonl", "a") as file:
        file.write('{"video": "torn')
    assert predict(*words) == 0

    assert len(reads) == 3 - num_done
    assert predict(*words) == 0 and len(reads) == 3 - num_done
    assert Path("results.jsonl").read_text() == Path("whole.jsonl").read_text()
    capsys.readouterr()
    assert predict(*words, "--top-k", 1) == 2
    assert "other weights or settings" in capsys.readouterr().err


def test_json_and_csv_on_standard_output_are_nothing_else(clips, capsys):
    assert predict("clips", "--json") == 3
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert predict("clips", "--csv", "--output", "all.json") == 3
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))

    assert {record["schema"] for record in records} == {SCHEMA}
    assert [record["video"] for record in records if "error" in record] == ["clips/broken.mp4"]
    assert records[0]["predictions"][0]["name"] == "blue"
    assert sum(prediction["prob"] for prediction in records[0]["predictions"]) == pytest.approx(1)
    assert [row["name"] for row in rows if row["rank"] == "1"] == ["blue", "red", "green"]
    assert json.loads(Path("all.json").read_text())["videos"] == records


@pytest.mark.parametrize("from_stdin", [False, True])
def test_a_list_with_labels_gives_the_accuracy(clips, capsys, monkeypatch, from_stdin):
    lines = [f"clips/a {name}.mp4\t{label}" for name, label in (("red", 0), ("blue", 1))]
    (clips.parent / "list.csv").write_text("\n".join(lines))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))

    assert predict("-" if from_stdin else "list.csv", "clips/deep") == 0

    assert "top-1 50.0 % of 2 videos with labels" in capsys.readouterr().err


def test_sources_are_files_folders_globs_and_lists_of_paths_with_spaces(clips, monkeypatch):
    frames = clips.parent / "frames"
    frames.mkdir()
    for number in range(3):
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(frames / f"{number}.png")
    (clips.parent / "paths.txt").write_text("clips/a red.mp4\nclips/gone.mp4\n")

    def named(*sources):
        return [os.path.relpath(video.path) for video in videos_of(sources)]

    assert named("clips/a red.mp4", "./clips/a red.mp4") == ["clips/a red.mp4"]
    assert named("clips/**/*green.mp4") == ["clips/deep/a green.mp4"]
    assert named("frames") == ["frames"]
    assert named("frames/[0-1].png") == ["frames/0.png", "frames/1.png"]
    assert named("paths.txt") == ["clips/a red.mp4", "clips/gone.mp4"]
    assert {video.label for video in videos_of(["paths.txt"])} == {UNLABELLED}
    (clips.parent / "empty").mkdir()
    for wrong, message in (
        ("clip", "Did you mean clips"),
        ("x*.mp4", "no file"),
        ("empty", "no v"),
    ):
        with pytest.raises(UserError, match=message):
            videos_of([wrong])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--clips", "2", "--timeline"], "--clips asks for one verdict"),
        (["--window", "1", "--stride", "2"], "longer than the window"),
        (["--window", "nan"], "seconds above 0"),
        (["--clips", "0"], "at least 1"),
        (["--top-k", "0"], "top_k"),
        (["--batch", "0"], "--batch"),
        (["--output", "x.txt"], "Choose from: .jsonl"),
        (["--output", "x.srt"], "files of one video"),
        (["--render", "x.avi"], "ends in .mp4"),
    ],
)
def test_impossible_options_are_errors_before_anything_is_written(clips, capsys, words, message):
    assert predict("clips", *words) == 2
    assert message in capsys.readouterr().err
    assert not list(clips.parent.glob("x*"))


def test_reading_ahead_keeps_the_order_and_is_bounded():
    begun = []

    def read(task):
        begun.append(task)
        yield from ((task, item) for item in range(3))

    items = read_ahead(range(100), read, num_threads=2)
    first = [next(items) for _ in range(4)]
    items.close()

    assert first == [(0, (0, 0)), (0, (0, 1)), (0, (0, 2)), (1, (1, 0))]
    assert len(begun) <= 5
    assert [task for task, _ in read_ahead(range(9), read, num_threads=4)][::3] == list(range(9))


def test_an_error_of_a_thread_reaches_the_caller():
    def read(task):
        yield task
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(read_ahead([1, 2], read, num_threads=1))


def test_the_three_lines_of_the_readme_work(tmp_path, tiny_config, motion_data, capsys):
    model = sm.build_model(sm.load_config(tiny_config))
    (tmp_path / "mine" / "checkpoints").mkdir(parents=True)
    torch.save(
        {
            "cfg": tiny_config.read_text(),
            "model_state": model.state_dict(),
        },
        tmp_path / "mine" / "checkpoints" / "best.pyth",
    )
    video = next((motion_data / "val").glob("*.mp4"))

    lines = [line for line in README.splitlines() if re.match(r"(print\()?predictor\b", line)]
    assert len(lines) == 3
    code = "\n".join(lines).replace("mvitv2_s_16x4.k400", str(tmp_path / "mine"))
    names = {"sm": sm}

    exec(code.replace("video.mp4", str(video)), names)  # noqa: S102

    predictor = names["predictor"]
    printed = capsys.readouterr().out
    best = predictor.predict(video)[0]
    assert f"{best.name}\n(Segment(start_s=0.0, end_s=" in printed
    timeline = predictor.timeline(video)
    assert best == sm.predict(predictor.model, video)[0]
    assert timeline.segments[-1].end_s == pytest.approx(16 / 12)
    assert not hasattr(predictor.model, "predict")
    assert predictor.class_names == [f"class {label}" for label in range(8)]
