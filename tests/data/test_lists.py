"""Lists of videos: what is read from them, and what is said about their mistakes."""

from __future__ import annotations

import json
import logging
import pickle

import pytest

from slowfast_mvit.data.catalog import check_flip, find_dataset, open_list, read_class_names
from slowfast_mvit.data.listing.ssv2_lists import frame_pattern, frames_of_pattern
from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.errors import ConfigError, ListError
from slowfast_mvit.structures import VideoRecord


def write_list(folder, text, name="train.csv"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def read(folder, split="train", **settings):
    return open_list("kinetics", split, data_dir=folder, **settings)


def pairs(videos):
    return [(record.video_id, record.label) for record in videos]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.mp4 1\nb.mp4 0\n", [("a.mp4", 1), ("b.mp4", 0)]),
        ("a.mp4 300 1\n", [("a.mp4", 1)]),
        ("a.mp4\n", [("a.mp4", 0)]),
        ("a.mp4  1 \n\n b.mp4 0", [("a.mp4", 1), ("b.mp4", 0)]),
        ('"my clip.mp4" 1\n', [("my clip.mp4", 1)]),
        ("my clip.mp4\t1\n", [("my clip.mp4", 1)]),
        ("path label\na.mp4 1\n", [("a.mp4", 1)]),
        (b"\xef\xbb\xbfa.mp4 1\r\nb.mp4 0\r\n", [("a.mp4", 1), ("b.mp4", 0)]),
        ("naïve 日本.mp4\t1\n", [("naïve 日本.mp4", 1)]),
    ],
    ids=[
        "two fields",
        "three fields",
        "one field",
        "blanks",
        "quoted",
        "tab",
        "header",
        "BOM and CRLF",
        "not ASCII",
    ],
)
def test_reads_each_form_of_a_line(tmp_path, text, expected):
    videos = read(write_list(tmp_path, text))

    assert pairs(videos) == expected


def test_separates_fields_as_the_config_says(tmp_path):
    videos = read(write_list(tmp_path, "my clip.mp4,1\n"), separator=",")

    assert pairs(videos) == [("my clip.mp4", 1)]


def test_all_problems_are_reported_at_once_with_their_lines(tmp_path):
    lines = [
        "a.mp4 0",
        "b.mp4 x",
        "my new clip.mp4 1",
        "http://host/c.mp4 1",
        "d.mp4 9",
        "e.mp4 -1",
    ]
    write_list(tmp_path, "\n".join(lines))

    with pytest.raises(ListError) as caught:
        read(tmp_path, num_classes=4)

    message = str(caught.value)
    assert f"{tmp_path}/train.csv: 5 problems" in message
    assert "line 2: label 'x' is not a whole number" in message
    assert "line 3: has 4 fields" in message and "quotes" in message
    assert "line 4: path 'http://host/c.mp4' is a URL" in message
    assert "line 5: label 9 is outside 0 to 3 (MODEL.NUM_CLASSES is 4)" in message
    assert "line 6: label -1 is outside 0 to 3" in message


def test_a_path_with_one_space_is_not_taken_for_three_fields(tmp_path):
    write_list(tmp_path, "my clip.mp4 1\n")

    with pytest.raises(ListError, match="line 1: has 3 fields"):
        read(tmp_path)


def test_quotes_that_do_not_fit_are_a_problem_of_their_line(tmp_path):
    write_list(tmp_path, '"a.mp4" 0\n"b.mp4 1\n')

    with pytest.raises(ListError, match="line 2: the quotes do not fit"):
        read(tmp_path)


def test_a_separator_may_be_any_text(tmp_path):
    assert pairs(read(write_list(tmp_path, "my clip.mp4::1\n"), separator="::")) == [
        ("my clip.mp4", 1)
    ]


def test_a_wrong_separator_is_noticed(tmp_path):
    write_list(tmp_path, "a.mp4,1\n")

    with pytest.raises(ListError, match=r"DATA.PATH_LABEL_SEPARATOR is ' '. Set it to ','"):
        read(tmp_path)


def test_only_the_first_twenty_problems_are_written_out(tmp_path):
    write_list(tmp_path, "".join(f"{i}.mp4 x\n" for i in range(1000)))

    with pytest.raises(ListError) as caught:
        read(tmp_path)

    lines = str(caught.value).splitlines()
    assert len(lines) == 22
    assert lines[0].endswith("1000 problems")
    assert lines[-1] == "  and 980 more"


@pytest.mark.parametrize("text", ["", "\n\n", "path label\n"])
def test_an_empty_list_is_refused(tmp_path, text):
    write_list(tmp_path, text)

    with pytest.raises(ListError, match="the list is empty"):
        read(tmp_path)


@pytest.mark.parametrize("path", ["https://h/a.mp4", "concat:a|b", "s3://b/a.mp4", "a\0b.mp4"])
def test_only_local_files_may_be_listed(tmp_path, path):
    write_list(tmp_path, f"{path} 0\n")

    with pytest.raises(ListError, match="line 1"):
        read(tmp_path)


def test_a_list_in_another_encoding_is_refused(tmp_path):
    write_list(tmp_path, "é.mp4 0\n".encode("latin-1"))

    with pytest.raises(ListError, match="not a text in UTF-8"):
        read(tmp_path)


def test_a_missing_list_names_what_is_there(tmp_path):
    write_list(tmp_path, "a.mp4 0\n", name="trian.csv")

    with pytest.raises(ListError, match=r"train.csv: no such file. Did you mean trian.csv\?"):
        read(tmp_path)
    with pytest.raises(ListError, match=r"no such folder \(DATA.PATH_TO_DATA_DIR\)"):
        read(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="PATH_TO_DATA_DIR is empty"):
        read("")


def test_a_video_listed_twice_is_refused_in_testing_and_warned_of_in_training(tmp_path, caplog):
    write_list(tmp_path, "a.mp4 0\na.mp4 0\n")
    write_list(tmp_path, "a.mp4 0\na.mp4 0\n", name="val.csv")

    assert len(read(tmp_path)) == 2
    assert "1 lines repeat a video" in caplog.text
    with pytest.raises(ListError, match=r"line 2: 'a.mp4' is also on line 1"):
        read(tmp_path, "val")


def test_testing_reads_the_test_list_or_else_the_validation_list(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write_list(tmp_path, "v.mp4 0\n", name="val.csv")

    before = read(tmp_path, "test")
    write_list(tmp_path, "t.mp4 0\n", name="test.csv")
    after = read(tmp_path, "test")

    assert pairs(before) == [("v.mp4", 0)]
    assert caplog.text.count("no test.csv, so testing reads val.csv") == 1
    assert pairs(after) == [("t.mp4", 0)]


def test_paths_start_from_the_prefix_or_the_list_or_the_working_folder(
    tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    lists, working = tmp_path / "lists", tmp_path / "working"
    lists.mkdir()
    working.mkdir()
    write_list(lists, "a.mp4 0\n/absolute/b.mp4 1\n")
    monkeypatch.chdir(working)

    nowhere = read(lists)
    (working / "a.mp4").touch()
    in_working_folder = read(lists)
    (lists / "a.mp4").touch()
    beside_list = read(lists)
    with_prefix = read(lists, path_prefix="/videos")

    assert [nowhere[0].path, beside_list[0].path] == [str(lists / "a.mp4")] * 2
    assert in_working_folder[0].path == "a.mp4"
    assert caplog.text.count("paths start from the working folder") == 1
    assert with_prefix[0].path == "/videos/a.mp4"
    assert with_prefix[1].path == "/absolute/b.mp4"


def test_a_list_is_a_sequence_of_records_that_travels_to_workers():
    videos = VideoList(["a", "é"], [3, 0], paths=["x/a.mp4", "x/é.mp4"], folder="/v")

    copy = pickle.loads(pickle.dumps(videos))

    assert list(copy) == [VideoRecord("a", "/v/x/a.mp4", 3), VideoRecord("é", "/v/x/é.mp4", 0)]
    assert copy[-1] == copy[1] == copy[0:2][1]
    assert copy.labels.tolist() == [3, 0]
    with pytest.raises(IndexError):
        copy[2]


def test_a_long_list_is_kept_in_few_bytes():
    names = [f"train/some_class_name/abcdefghijk_{i:06d}.mp4" for i in range(20_000)]

    videos = VideoList(names, range(20_000))

    assert len(pickle.dumps(videos)) < 20_000 * (len(names[0]) + 8 + 8) + 2_000


def test_class_names_are_found_beside_the_list(tmp_path, caplog):
    write_list(tmp_path, "a.mp4 0\nb.mp4 1\n")
    (tmp_path / "classes.txt").write_text("ride a bike\nswim\n")

    assert read(tmp_path).class_names == ("ride a bike", "swim")
    assert read(tmp_path, num_classes=3).class_names is None
    assert "names 2 classes, but MODEL.NUM_CLASSES is 3" in caplog.text
    (tmp_path / "val.csv").write_text("a.mp4 2\n")
    assert read(tmp_path, "val").class_names is None
    assert "has 3 classes, but the names beside it are 2" in caplog.text
    with pytest.raises(ListError, match="names 2 classes, expected 3"):
        read(tmp_path, "val", class_names_path=tmp_path / "classes.txt")
    with pytest.raises(ListError, match="names 2 classes, expected 3"):
        read(tmp_path, num_classes=3, class_names_path=tmp_path / "classes.txt")


@pytest.mark.parametrize(
    "content",
    [{"b": 0, "a": "1"}, {'"b"': 0, "a": 1}, ["b", "a"]],
    ids=["strings", "quoted", "list"],
)
def test_class_names_come_from_json(tmp_path, content):
    file = tmp_path / "names.json"
    file.write_text(json.dumps(content))

    assert read_class_names(file) == ("b", "a")


@pytest.mark.parametrize("content", ['{"a": 1}', '{"a": "x"}', "7", "{"])
def test_wrong_class_names_are_refused(tmp_path, content):
    file = tmp_path / "names.json"
    file.write_text(content)

    with pytest.raises(ListError, match=r"names.json"):
        read_class_names(file)


def test_data_sets_are_found_by_name_and_guard_against_flips():
    assert find_dataset("Kinetics") is find_dataset("kinetics")
    assert find_dataset("K700-2020") is find_dataset("kinetics700_2020")
    assert [find_dataset(name).num_classes for name in ("k400", "k600", "k700")] == [400, 600, 700]
    assert find_dataset("ssv2").policy == "segments"
    with pytest.raises(ConfigError, match="Did you mean 'kinetics'"):
        find_dataset("kinetic")

    check_flip("kinetics", random_flip=True)
    check_flip("ssv2", random_flip=False)
    with pytest.raises(ConfigError, match=r"Set DATA.RANDOM_FLIP False"):
        check_flip("ssv2", random_flip=True)


def test_folders_of_classes_are_read_as_images_in_order(tmp_path):
    for name in ("n2/b.jpg", "n1/z.JPEG", "n1/a.png", "n1/notes.txt"):
        file = tmp_path / "train" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()

    videos = open_list("imagenet", "train", data_dir=tmp_path)

    assert pairs(videos) == [("n1/a.png", 0), ("n1/z.JPEG", 0), ("n2/b.jpg", 1)]
    assert videos.class_names == ("n1", "n2")
    assert videos[0].path == str(tmp_path / "train/n1/a.png")
    with pytest.raises(ListError, match=r"2 folders of classes, but MODEL.NUM_CLASSES is 1"):
        open_list("imagenet", "train", data_dir=tmp_path, num_classes=1)


# Something-Something v2


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
    write_list(tmp_path, "\n".join(lines), name="test-answers.csv")
    with_answers = open_list("ssv2", "test", data_dir=tmp_path)

    assert pairs(without_answers) == [("7", 1)]
    assert pairs(with_answers) == [("12", 1), ("13", 0)]
    assert "Published numbers are of the validation videos" in caplog.text


def test_a_test_video_of_ssv2_without_an_answer_is_named(tmp_path):
    write_ssv2(tmp_path, ["7"])
    (tmp_path / "test.json").write_text(json.dumps([{"id": "12"}, {"id": "13"}]))
    write_list(tmp_path, "12;Holding something", name="test-answers.csv")

    with pytest.raises(ListError, match=r"entry 2: id '13' is not in test-answers.csv"):
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
    (tmp_path / "train.json").write_text(json.dumps(entries))

    with pytest.raises(ListError) as caught:
        open_list("ssv2", "train", data_dir=tmp_path)

    message = str(caught.value)
    assert "4 problems" in message
    assert "entry 2: id '1' is listed twice" in message
    assert "entry 3: template 'Juggling [something]' is not among the class names" in message
    assert 'entry 4: lacks "id" or "template"' in message
    assert 'entry 5: lacks "id" or "template"' in message


def test_reads_pyslowfast_frame_lists(tmp_path, caplog):
    write_ssv2(tmp_path, ["7", "12", "13"])
    rows = [f'7 0 {i} frames/7/7_{i + 1:06d}.jpg ""' for i in range(12)]
    rows += [f'12 1 {i} frames/12/12_{i + 1:06d}.jpg ""' for i in (0, 1, 5)]
    header = "original_vido_id video_id frame_id path labels"
    write_list(tmp_path, "\n".join([header, *rows]), name="val.csv")

    videos = open_list("ssv2", "test", data_dir=tmp_path, path_prefix="/data")

    assert pairs(videos) == [("7", 1), ("12", 1)]
    assert videos[0].path == "/data/frames/7/7_[000001-000012].jpg"
    assert videos[1].path == "/data/frames/12/12_[000001-000002,000006].jpg"
    assert "1 of the 3 videos of validation.json have no frames in the list" in caplog.text


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


def test_lists_have_one_digest_if_they_name_the_same_videos_with_the_same_labels():
    here = VideoList(["a", "b"], [0, 1], folder="/data/here")

    assert here.digest() == VideoList(["a", "b"], [0, 1], folder="/data/there").digest()
    assert here.digest() != VideoList(["b", "a"], [0, 1]).digest()
    assert here.digest() != VideoList(["a", "b"], [1, 0]).digest()
    assert here.digest() != VideoList(["ab"], [0]).digest()
