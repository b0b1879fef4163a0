"""Lists of videos: their content, and the messages about their mistakes."""

from __future__ import annotations

import gzip
import json
import logging
import pickle
import re

import pytest

from slowfast_mvit.annotations.class_names import read_class_names
from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.lists.catalog import check_flip, find_dataset, open_list
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
        ("\nvideo_path label\na.mp4 1\n", [("a.mp4", 1)]),
        ("a.mp4 1\t\nmy clip.mp4\t\t0 \n", [("a.mp4", 1), ("my clip.mp4", 0)]),
        ("video 1\nfile 30 0\n", [("video", 1), ("file", 0)]),
        ('"my clip 12"\n', [("my clip 12", 0)]),
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
        "another header",
        "more tabs",
        "folders that sound like a header",
        "quoted and without a label",
        "BOM and CRLF",
        "not ASCII",
    ],
)
def test_reads_each_form_of_a_line(tmp_path, text, expected):
    videos = read(write_list(tmp_path, text))

    assert pairs(videos) == expected


def test_fields_are_separated_as_in_the_config(tmp_path):
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


@pytest.mark.parametrize(
    ("separator", "written"),
    [(" ", ","), (",", " "), (" ", "\u3000")],
    ids=["comma", "blank", "wide"],
)
def test_a_wrong_separator_is_noticed(tmp_path, separator, written):
    write_list(tmp_path, f"a.mp4{written}1\n")

    expected = f"DATA.PATH_LABEL_SEPARATOR is {separator!r}. Set it to {written!r}"
    with pytest.raises(ListError, match=re.escape(expected)):
        read(tmp_path, separator=separator)


@pytest.mark.parametrize("separator", ["", '"', "\n"])
def test_an_unusable_separator_is_refused(tmp_path, separator):
    write_list(tmp_path, "a.mp4 1\n")

    with pytest.raises(ConfigError, match="PATH_LABEL_SEPARATOR"):
        read(tmp_path, separator=separator)


def test_a_line_without_a_label_is_a_problem_unless_all_are_so(tmp_path, caplog):
    write_list(tmp_path, "a.mp4 1\nb.mp4\nc.mp4 0\nd.mp4\n")
    write_list(tmp_path, "a.mp4\nb.mp4\n", name="val.csv")

    with pytest.raises(ListError) as caught:
        read(tmp_path)
    without_labels = read(tmp_path, "val")

    assert "2 problems" in str(caught.value)
    assert "line 2: has a path and no label, unlike other lines" in str(caught.value)
    assert pairs(without_labels) == [("a.mp4", 0), ("b.mp4", 0)]
    assert "every video is of class 0" in caplog.text


def test_only_the_first_twenty_problems_are_written_out(tmp_path):
    write_list(tmp_path, "".join(f"{i}.mp4 x\n" for i in range(1000)))

    with pytest.raises(ListError) as caught:
        read(tmp_path)

    lines = str(caught.value).splitlines()
    assert len(lines) == 22
    assert lines[0].endswith("1,000 problems")
    assert lines[-1] == "  and 980 more"


@pytest.mark.parametrize("text", ["", "\n\n", "path label\n"])
def test_an_empty_list_is_refused(tmp_path, text):
    write_list(tmp_path, text)

    with pytest.raises(ListError, match="the list is empty"):
        read(tmp_path)


@pytest.mark.parametrize(
    "path", ["https://h/a.mp4", "HTTP://h/a", "concat:a|b", "s3://b/a.mp4", "h://a", "a\0b.mp4"]
)
def test_only_local_files_may_be_listed(tmp_path, path):
    write_list(tmp_path, f"{path} 0\n")

    with pytest.raises(ListError, match="line 1"):
        read(tmp_path)


def test_a_file_named_like_a_protocol_can_be_listed(tmp_path):
    write_list(tmp_path, "take:2.mp4 0\n")
    with pytest.raises(
        ListError, match=re.escape("if that is a file's name, write './take:2.mp4'")
    ):
        read(tmp_path)

    write_list(tmp_path, "./take:2.mp4 0\n")
    assert pairs(read(tmp_path)) == [("./take:2.mp4", 0)]


def test_lines_in_another_encoding_are_named(tmp_path):
    write_list(tmp_path, "a.mp4 0\né.mp4 0\nb.mp4 x\nü.mp4 0\n".encode("latin-1"))

    with pytest.raises(ListError) as caught:
        read(tmp_path)

    assert "2 problems" in str(caught.value)
    assert r"line 2: not a text in UTF-8 (invalid continuation byte): \xe9.mp4 0" in str(
        caught.value
    )
    assert "line 4: not a text in UTF-8" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (gzip.compress(b"a.mp4 0\n"), "gzip. Unpack it"),
        ("a.mp4 0\n".encode("utf-16")[:-1], "damaged UTF-16. Save it as UTF-8"),
        (b"PK\x03\x04\x14\xff", "Excel"),
        (b"\x89HDF\r\n\x1a\n\0", "binary"),
    ],
    ids=["gzip", "UTF-16", "Excel", "HDF5"],
)
def test_a_list_that_is_no_text_is_reported_with_its_format(tmp_path, content, what):
    write_list(tmp_path, content)

    with pytest.raises(ListError, match=f"train.csv: not a text in UTF-8, but .*{what}"):
        read(tmp_path)


def test_a_list_that_may_not_be_read_is_an_error_of_the_user(tmp_path, monkeypatch):
    write_list(tmp_path, "a.mp4 0\n")

    def refuse(*args, **settings):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ListError, match=r"train.csv: cannot be read \(Permission denied\)"):
        read(tmp_path)


def test_a_missing_list_is_reported_with_the_files_that_exist(tmp_path):
    write_list(tmp_path, "a.mp4 0\n", name="trian.csv")

    with pytest.raises(ListError, match=r"train.csv: no such file. Did you mean trian.csv\?"):
        read(tmp_path)
    with pytest.raises(ListError, match=r"no such folder \(DATA.PATH_TO_DATA_DIR\)"):
        read(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="PATH_TO_DATA_DIR is empty"):
        read("")
    (tmp_path / "train.csv").symlink_to("lost.csv")
    with pytest.raises(ListError, match=r"It is a link to lost.csv, which does not exist"):
        read(tmp_path)


def test_a_video_listed_twice_is_refused_in_testing_and_warned_of_in_training(tmp_path, caplog):
    write_list(tmp_path, "a.mp4 0\na.mp4 0\n")
    write_list(tmp_path, "a.mp4 0\na.mp4 0\n", name="val.csv")

    assert len(read(tmp_path)) == 2
    assert "1 line repeats a video" in caplog.text
    with pytest.raises(ListError, match=r"line 2: 'a.mp4' is also on line 1"):
        read(tmp_path, "val")


def test_one_video_written_in_several_ways_is_one_video(tmp_path):
    names = ["b/a.mp4", "./b/a.mp4", "b//a.mp4", "c/../b/a.mp4", f"{tmp_path}/b/a.mp4", "b/A.mp4"]
    write_list(tmp_path, "".join(f"{name} 0\n" for name in names), name="val.csv")

    with pytest.raises(ListError, match=r"val\.csv: 4 problems") as caught:
        read(tmp_path, "val")

    assert "line 2: './b/a.mp4' is also on line 1, as 'b/a.mp4'. List each" in str(caught.value)
    assert [problem.line for problem in caught.value.problems] == [2, 3, 4, 5]


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


def test_class_names_are_found_next_to_the_list(tmp_path, caplog):
    write_list(tmp_path, "a.mp4 0\nb.mp4 1\n")
    (tmp_path / "classes.txt").write_text("ride a bike\nswim\n")

    assert read(tmp_path).class_names == ("ride a bike", "swim")
    assert read(tmp_path, num_classes=3).class_names is None
    assert "names 2 classes, but MODEL.NUM_CLASSES is 3" in caplog.text
    (tmp_path / "val.csv").write_text("a.mp4 2\n")
    assert read(tmp_path, "val").class_names is None
    assert "has 3 classes, but there are 2 names next to it" in caplog.text
    with pytest.raises(ListError, match="names 2 classes, expected 3"):
        read(tmp_path, "val", class_names_path=tmp_path / "classes.txt")
    with pytest.raises(ListError, match="names 2 classes, expected 3"):
        read(tmp_path, num_classes=3, class_names_path=tmp_path / "classes.txt")


@pytest.mark.parametrize(
    "content",
    [{"b": 0, "a": "1"}, {'"b"': 0, "a": 1}, {"0": "b", "1": "a"}, ["b", '"a"']],
    ids=["strings", "quoted", "by index", "list"],
)
def test_class_names_come_from_json(tmp_path, content):
    file = tmp_path / "names.json"
    file.write_text(json.dumps(content))

    assert read_class_names(file) == ("b", "a")


@pytest.mark.parametrize("text", ['id,name\n0,b\n1,"a, c"\n', 'b,0\n"a, c",1\n', 'b\n"a, c"\n'])
def test_class_names_come_from_tables(tmp_path, text):
    file = tmp_path / "kinetics_400_labels.csv"
    file.write_text(text)

    assert read_class_names(file) == ("b", "a, c")


@pytest.mark.parametrize(
    "content", ['{"a": 1}', '{"a": "x"}', "7", "{", "[" * 50_000, '{"a": ' + "9" * 5000 + "}"]
)
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


def test_lists_have_one_digest_if_they_name_the_same_videos_with_the_same_labels():
    here = VideoList(["a", "b"], [0, 1], folder="/data/here")

    assert here.digest() == VideoList(["a", "b"], [0, 1], folder="/data/there").digest()
    assert here.digest() != VideoList(["b", "a"], [0, 1]).digest()
    assert here.digest() != VideoList(["a", "b"], [1, 0]).digest()
    assert here.digest() != VideoList(["ab"], [0]).digest()
