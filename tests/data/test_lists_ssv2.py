"""Something-Something v2: its JSON files, its answers, and PySlowFast's lists of frames."""

from __future__ import annotations

import json

import pytest

from slowfast_mvit.annotations.frame_lists import frame_pattern, frames_of_pattern
from slowfast_mvit.data.lists.catalog import open_list
from slowfast_mvit.errors import ListError


def write_list(folder, lines, name):
    (folder / name).write_text("\n".join(lines) + "\n")


def pairs(videos):
    return [(record.video_id, record.label) for record in videos]


def write_ssv2(folder, ids, prefix=""):
    labels = {"Holding something": "1", "Moving something up": "0"}
    (folder / f"{prefix}labels.json").write_text(json.dumps(labels))
    entries = [
        {"id": video_id, "template": "Holding [something]", "label": "holding a cup"}
        for video_id in ids
    ]
    for split in ("train", "validation"):
        (folder / f"{prefix}{split}.json").write_text(json.dumps(entries))


@pytest.mark.parametrize("prefix", ["something-something-v2-", ""], ids=["first", "second"])
def test_reads_both_releases_of_ssv2(tmp_path, prefix):
    write_ssv2(tmp_path, ["7", "12"], prefix)
    (tmp_path / "videos").mkdir()
    for name in ("videos/7.webm", "videos/12.mp4"):
        (tmp_path / name).touch()

    for split in ("train", "val", "test"):
        videos = open_list("ssv2", split, data_dir=tmp_path, num_classes=2)

        assert pairs(videos) == [("7", 1), ("12", 1)]
        assert videos[0].path == str(tmp_path / "videos/7.webm")
        assert videos[1].path == str(tmp_path / "videos/12.mp4")
        assert videos.class_names == ("Moving something up", "Holding something")


def test_an_ssv2_video_without_a_file_stays_in_the_list(tmp_path, caplog):
    write_ssv2(tmp_path, ["7", "12"])
    (tmp_path / "7.webm").touch()

    videos = open_list("ssv2", "val", data_dir=tmp_path)

    assert videos[1].path == str(tmp_path / "12.webm")
    assert "1 of 2 videos have no file" in caplog.text


def test_an_ssv2_video_without_a_file_is_left_out_of_training(tmp_path, caplog):
    write_ssv2(tmp_path, ["7", "12"])
    (tmp_path / "7.webm").touch()

    videos = open_list("ssv2", "train", data_dir=tmp_path)

    assert pairs(videos) == [("7", 1)]
    assert "train.json: 1 of 2 videos have no file" in caplog.text
    assert "left out of training" in caplog.text


@pytest.mark.parametrize("separator", [";", ",", "\t"])
def test_reads_the_test_videos_of_ssv2_where_their_answers_are_there(tmp_path, caplog, separator):
    write_ssv2(tmp_path, ["7"])
    (tmp_path / "test.json").write_text(json.dumps([{"id": "12"}, {"id": "13"}]))
    for name in ("7.webm", "12.webm", "13.webm"):
        (tmp_path / name).touch()

    without_answers = open_list("ssv2", "test", data_dir=tmp_path)
    lines = [f"13{separator}Moving something up", f"12{separator}Holding something"]
    write_list(tmp_path, lines, name="test-answers.csv")
    with_answers = open_list("ssv2", "test", data_dir=tmp_path)

    assert pairs(without_answers) == [("7", 1)]
    assert pairs(with_answers) == [("12", 1), ("13", 0)]
    assert "Published numbers are of the validation videos" in caplog.text


def test_a_test_video_of_ssv2_without_an_answer_is_named(tmp_path):
    write_ssv2(tmp_path, ["7"])
    (tmp_path / "test.json").write_text(json.dumps([{"id": "12"}, {"id": "13"}]))
    write_list(tmp_path, ["12;Holding something"], name="test-answers.csv")

    with pytest.raises(ListError, match=r"entry 2: '13' has no label in test-answers.csv"):
        open_list("ssv2", "test", data_dir=tmp_path)


def test_an_ssv2_folder_without_any_video_is_refused(tmp_path):
    write_ssv2(tmp_path, ["7", "12"])

    with pytest.raises(ListError, match="none of its 2 videos is there"):
        open_list("ssv2", "val", data_dir=tmp_path)


def test_problems_of_an_ssv2_list_are_reported_at_once(tmp_path):
    write_ssv2(tmp_path, ["7"])
    entries = [
        {"id": "1", "template": "Holding [something]"},
        {"id": "1", "template": "Holding [something]"},
        {"id": "2", "template": "Juggling [something]"},
        {"id": "3"},
        "4",
    ]
    (tmp_path / "validation.json").write_text(json.dumps(entries))

    with pytest.raises(ListError) as caught:
        open_list("ssv2", "val", data_dir=tmp_path)

    message = str(caught.value)
    assert "4 problems" in message
    assert "entry 2: '1' is also on entry 1" in message
    assert "entry 3: label 'Juggling something' is not among the class names" in message
    assert "entry 4: '3' has no label" in message
    assert 'entry 5: lacks "id", the name of the video' in message
    with pytest.raises(ListError, match=r"2 classes, but MODEL.NUM_CLASSES is 400"):
        open_list("ssv2", "train", data_dir=tmp_path, num_classes=400)


def test_reads_pyslowfast_frame_lists(tmp_path, caplog):
    write_ssv2(tmp_path, ["7", "12", "13"])
    rows = [f'7 0 {i} frames/7/7_{i + 1:06d}.jpg ""' for i in range(12)]
    rows += [f'12 1 {i} frames/12/12_{i + 1:06d}.jpg ""' for i in (0, 1, 5)]
    header = "original_vido_id video_id frame_id path labels"
    write_list(tmp_path, [header, *rows], name="val.csv")

    videos = open_list("ssv2", "test", data_dir=tmp_path, path_prefix="/data")

    assert pairs(videos) == [("7", 1), ("12", 1)]
    assert videos[0].path == "/data/frames/7/7_[000001-000012].jpg"
    assert videos[1].path == "/data/frames/12/12_[000001-000002,000006].jpg"
    assert "1 of the 3 videos of validation.json have no frames in the list" in caplog.text


def test_problems_of_a_frame_list_are_reported_at_once(tmp_path):
    write_ssv2(tmp_path, ["7", "12", "13", "14"])
    rows = [
        "original_vido_id video_id frame_id path labels",
        '"7" 0 0 "frames/7_1.jpg" ""',
        "12 1 0 http://host/12_1.jpg 3",
        "13 2 0 frames/13_1.jpg 3",
        "13 2 1 other/13_2.jpg 3",
        "14 3 0",
    ]
    write_list(tmp_path, rows, name="val.csv")

    with pytest.raises(ListError) as caught:
        open_list("ssv2", "val", data_dir=tmp_path)

    message = str(caught.value)
    assert "3 problems" in message
    assert "line 3: path 'http://host/12_[1].jpg' is a URL" in message
    assert "line 4: the frames of '13' are not numbered files of one folder" in message
    assert "line 6: expected video id, number, frame number, path, labels" in message
    (tmp_path / "val.csv").write_bytes(rows[0].encode() + b"\n7 0 0 \xe9_1.jpg 3\n")
    with pytest.raises(ListError, match="line 2: not a text in UTF-8"):
        open_list("ssv2", "val", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("numbers", "written"),
    [
        (["1", "2", "3"], "[1-3]"),
        (["8", "9", "10", "11"], "[8-11]"),
        (["08", "09", "10"], "[08-10]"),
        (["5", "4", "4"], "[5,4,4]"),
        (["000001"], "[000001]"),
    ],
)
def test_a_frame_pattern_gives_back_its_frames(numbers, written):
    paths = [f"a[1]/b-{number}.jpg" for number in numbers]

    pattern = frame_pattern(paths)

    assert pattern == f"a[1]/b-{written}.jpg"
    assert frames_of_pattern(pattern) == paths


def test_frames_without_numbers_or_of_several_folders_make_no_pattern():
    assert frame_pattern(["a/x.jpg"]) is None
    assert frame_pattern(["a/1.jpg", "b/2.jpg"]) is None
    assert frames_of_pattern("a/1.jpg") is None


@pytest.mark.parametrize(
    "name",
    ["a[-].jpg", "a[2020-01-02].jpg", "a[3,].jpg", "a[1-999999999999].jpg", "a[1].mp4", "a[²].jpg"],
)
def test_files_that_only_look_like_a_frame_pattern_are_none(name):
    assert frames_of_pattern(name) is None
