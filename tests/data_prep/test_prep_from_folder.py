"""Folders of one's own videos, with or without a table of labels -> lists."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from made_trees import adds_up, listed, put, reasons, rows, summary, write

from data_prep import from_folder
from data_prep.from_folder import assign_splits
from slowfast_mvit.annotations.records import Row
from slowfast_mvit.data.lists.catalog import open_list
from slowfast_mvit.errors import ListError, UserError

REAL_VIDEOS = Path(__file__).resolve().parents[2].parent / "shared" / "videos"


def run(videos: Path, out: Path, *more: str) -> int:
    return from_folder.main(["--videos", str(videos), "--out", str(out), *more])


def paths(out: Path, split: str) -> list[str]:
    """The paths of a list; those of these tests need no quotes."""
    file = out / f"{split}.csv"
    return [line.rsplit(" ", 1)[0] for line in listed(file)] if file.exists() else []


TWENTY = [f"{name}/{i:02d}.mp4" for name in ("jump_rope", "archery") for i in range(20)]


# Class folders


@pytest.mark.parametrize("wrapper", ["", "dataset/videos/"])
def test_class_folders_are_listed_and_a_part_is_held_out(tmp_path, wrapper):
    put(tmp_path / "v", *(wrapper + name for name in TWENTY), ".cache/x/1.mp4", "README.md")

    assert run(tmp_path / "v", tmp_path / "out") == 0

    train, val = (
        open_list("csv", split, data_dir=tmp_path / "out", path_prefix=str(tmp_path / "v"))
        for split in ("train", "val")
    )
    assert train.class_names == ("archery", "jump rope")
    assert all(("jump" in v.path) == (v.label == 1) for v in [*train, *val])
    assert sorted(v.path for v in [*train, *val]) == sorted(
        str(tmp_path / "v" / (wrapper + name)) for name in TWENTY
    )
    assert 2 <= len(val) <= 14  # of 40; 0.2 of them is 8
    assert adds_up(tmp_path / "out")


def test_videos_deeper_in_a_class_folder_and_folders_of_frames_belong_to_it(tmp_path):
    put(tmp_path / "v", "a/day1/cam2/x.MP4", "a/clip7/img_1.jpg", "a/clip7/img_2.jpg", "b/y.webm")

    run(tmp_path / "v", tmp_path / "out", "--val-fraction", "0")

    assert listed(tmp_path / "out" / "train.csv") == [
        "a/clip7 0",
        "a/day1/cam2/x.MP4 0",
        "b/y.webm 1",
    ]
    assert not (tmp_path / "out" / "val.csv").exists()


def test_images_in_class_folders_are_items(tmp_path):
    put(tmp_path / "v", "cat/1.jpg", "cat/2.PNG", "dog/1.jpeg")

    run(tmp_path / "v", tmp_path / "out", "--val-fraction", "0")

    assert listed(tmp_path / "out" / "train.csv") == ["cat/1.jpg 0", "cat/2.PNG 0", "dog/1.jpeg 1"]


def test_folders_of_splits_are_taken_as_they_are(tmp_path):
    put(tmp_path / "v", "Train/a/1.mp4", "Train/b/2.mp4", "validation/a/3.mp4", "test/b/4.mp4")
    put(tmp_path / "v", "annotations/a.json")

    run(tmp_path / "v", tmp_path / "out")

    assert {split: paths(tmp_path / "out", split) for split in ("train", "val", "test")} == {
        "train": ["Train/a/1.mp4", "Train/b/2.mp4"],
        "val": ["validation/a/3.mp4"],
        "test": ["test/b/4.mp4"],
    }
    assert summary(tmp_path / "out")["splits"]["val"]["classes_without_videos"] == ["b"]


def test_a_class_may_be_called_test(tmp_path):
    put(tmp_path / "v", "test/1.mp4", "other/1.mp4")

    run(tmp_path / "v", tmp_path / "out", "--val-fraction", "0")

    assert listed(tmp_path / "out" / "classes.txt") == ["other", "test"]


def test_links_to_folders_are_followed_and_circles_end(tmp_path):
    put(tmp_path / "elsewhere", "1.mp4")
    put(tmp_path / "v", "b/2.mp4")
    (tmp_path / "v" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "v" / "b" / "back").symlink_to(tmp_path / "v")

    run(tmp_path / "v", tmp_path / "out", "--val-fraction", "0")

    assert paths(tmp_path / "out", "train") == ["a/1.mp4", "b/2.mp4"]


def test_all_problems_of_the_folders_are_reported_at_once(tmp_path):
    put(tmp_path / "v", "astray.mp4", "a/1.mp4", "a/1.avi", "jump_rope/2.mp4", "Jump Rope/3.mp4")
    (tmp_path / "v" / "empty").mkdir()

    with pytest.raises(UserError) as error:
        run(tmp_path / "v", tmp_path / "out")

    assert str(error.value).splitlines()[1:] == [
        "  'astray.mp4' is in no class folder",
        "  class folders 'Jump Rope' and 'jump_rope' differ only in spelling",
        "  'a/1.avi' and 'a/1.mp4' differ only in suffix. Keep one of them",
        "  class folder 'empty' contains no videos. Fill it or remove it",
    ]
    assert not (tmp_path / "out").exists()


def test_accents_that_macos_writes_as_two_characters_are_the_same_letters(tmp_path):
    put(tmp_path / "v", "train/cafe\u0301/cafe\u0301 1.mp4", "train/b/2.mp4", "val/caf\u00e9/3.mp4")
    with pytest.raises(UserError, match=r"'cafe\\u0301' and 'caf\\xe9' differ only in spelling"):
        run(tmp_path / "v", tmp_path / "out")

    table = write(tmp_path / "t.csv", "caf\u00e9 1,a\n2.mp4,b\n")
    run(tmp_path / "v", tmp_path / "out", "--labels", str(table), "--val-fraction", "0")
    expected = ["train/b/2.mp4 1", '"train/cafe\u0301/cafe\u0301 1.mp4" 0']
    assert listed(tmp_path / "out" / "train.csv") == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/1.mp4", "a/2.mp4"], "found only one, 'a'"),
        (["1.mp4", "2.mp4"], "no video is in a class folder"),
        (["a/notes.txt", "b.zip"], r"no videos, 1 other files\n1 archive is still packed"),
    ],
)
def test_a_folder_without_two_classes_is_refused(tmp_path, names, message):
    put(tmp_path / "v", *names)

    with pytest.raises(UserError, match=message):
        run(tmp_path / "v", tmp_path / "out")


# Splitting


def test_videos_that_are_added_move_no_others(tmp_path):
    names = [f"{name}/{i:03d}.mp4" for name in ("jump_rope", "archery") for i in range(100)]
    put(tmp_path / "v", *names)
    run(tmp_path / "v", tmp_path / "out", "--test-fraction", "0.2")
    before = {split: paths(tmp_path / "out", split) for split in ("train", "val", "test")}
    put(tmp_path / "v", *(f"archery/new {i}.mp4" for i in range(50)), "zumba/1.mp4")

    run(tmp_path / "v", tmp_path / "out", "--test-fraction", "0.2")

    for split, old in before.items():
        assert [path for path in paths(tmp_path / "out", split) if path in names] == old


def test_a_copy_with_another_suffix_stays_on_its_side(tmp_path):
    put(tmp_path / "raw", *TWENTY)
    put(tmp_path / "small", *(name.replace(".mp4", ".mkv") for name in TWENTY))

    for name in ("raw", "small"):
        run(tmp_path / name, tmp_path / f"{name} out")

    raw, small = (paths(tmp_path / f"{name} out", "val") for name in ("raw", "small"))
    assert [path[:-4] for path in raw] == [path[:-4] for path in small]


def test_the_parts_are_as_large_as_asked_for():
    rows = [Row(f"a/{i}.mp4", None, "a") for i in range(20_000)]

    wanted, _ = assign_splits(rows, val_fraction=0.1, test_fraction=0.3)

    counts = Counter(row.split for row in wanted)
    assert counts["val"] == pytest.approx(2000, abs=200)  # 4.7 standard deviations
    assert counts["test"] == pytest.approx(6000, abs=300)


def test_sides_are_the_same_on_every_machine_and_in_every_version():
    """``printf archery/0 | sha256sum`` starts with bf, then 36, ff and 4a; below 80 is val."""
    rows = [Row(f"archery/{i}.mp4", None, "archery") for i in range(4)]

    wanted, _ = assign_splits(rows, val_fraction=0.5)

    assert [row.split for row in wanted] == ["train", "val", "train", "val"]


def test_videos_of_one_source_stay_on_one_side(tmp_path):
    names = [f"{c}/cam{cam:02d}_{i}.mp4" for c in "ab" for cam in range(12) for i in range(3)]
    put(tmp_path / "v", *names)

    run(tmp_path / "v", tmp_path / "out", "--group-by", "(cam[0-9]+)_")

    cameras = {
        split: {path.split("/")[1][:5] for path in paths(tmp_path / "out", split)}
        for split in ("train", "val")
    }
    assert cameras["train"] and cameras["val"]
    assert cameras["train"].isdisjoint(cameras["val"])


def test_a_source_in_two_existing_splits_is_reported(tmp_path):
    put(tmp_path / "v", "train/a/cam1_1.mp4", "train/b/cam2_1.mp4", "val/a/cam1_2.mp4")

    run(tmp_path / "v", tmp_path / "out", "--group-by", "cam[0-9]")

    (note,) = (n for n in summary(tmp_path / "out")["notes"] if "leak" in n)
    assert note == "1 sources are in several splits, 'cam1' for example: a leak"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--group-by", "cam([0-9]+"], "not a regular expression"),
        (["--group-by", "cam[0-9]+"], r"2 problems\n  'a/1.mp4' does not match"),
        (["--val-fraction", "0.6", "--test-fraction", "0.4"], "leave none for train"),
        (["--val-fraction", "1.5"], "--val-fraction 1.5 is not from 0 to below 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, message):
    put(tmp_path / "v", "a/1.mp4", "b/2.mp4")

    with pytest.raises(UserError, match=message):
        run(tmp_path / "v", tmp_path / "out", *options)


def test_a_fraction_of_a_split_that_exists_is_refused(tmp_path):
    put(tmp_path / "v", "train/a/1.mp4", "train/b/2.mp4", "val/a/3.mp4")

    with pytest.raises(UserError, match="there is a split 'val' already"):
        run(tmp_path / "v", tmp_path / "out", "--val-fraction", "0.2")


# Tables


@pytest.mark.parametrize(
    "text",
    [
        "file,label\nx/1.mp4,run\n2,jump rope\n",
        "\ufeffvideo;label\r\n1.mp4;run\r\n2.mp4;jump_rope\r\n",
        '"x/1.mp4"\trun\nx/2\tjump  rope\n',
        "\nvideo_id,class\n{root}/x/1.mp4,run\n./x/2.mp4,jump rope\n",
    ],
    ids=["header, names and stems", "semicolons, Windows", "tabs, no header", "whole paths"],
)
def test_a_table_labels_a_flat_folder(tmp_path, text):
    put(tmp_path / "v", "x/1.mp4", "x/2.mp4", "3.mp4")

    table = write(tmp_path / "t.csv", text.replace("{root}", str(tmp_path / "v")))

    run(tmp_path / "v", tmp_path / "out", "--labels", str(table), "--val-fraction", "0")

    assert listed(tmp_path / "out" / "train.csv") == ["x/1.mp4 1", "x/2.mp4 0"]
    assert listed(tmp_path / "out" / "classes.txt") == ["jump rope", "run"]
    assert [row["path"] for row in rows(tmp_path / "out" / "extra.csv")] == ["3.mp4"]


def test_a_table_may_name_splits_and_numbers(tmp_path):
    put(tmp_path / "v", "1.mp4", "2.mp4", "3.mp4")
    table = write(tmp_path / "t.csv", "1.mp4,10,train\n2.mp4,9,train\n3.mp4,10,validation\n")

    run(tmp_path / "v", tmp_path / "out", "--labels", str(table))

    assert listed(tmp_path / "out" / "train.csv") == ["1.mp4 1", "2.mp4 0"]
    assert listed(tmp_path / "out" / "val.csv") == ["3.mp4 1"]
    assert listed(tmp_path / "out" / "classes.txt") == ["9", "10"]


def test_rows_without_a_file_a_label_or_a_single_meaning_are_left_out(tmp_path):
    put(tmp_path / "v", "x/1.mp4", "y/1.mp4", "2.mp4", "3.mp4", "4.mp4")
    table = write(tmp_path / "t.csv", "1,a\n2.mp4,\n3.mp4,a\n3.mp4,a\n4.mp4,b\n9.mp4,b\n")

    run(tmp_path / "v", tmp_path / "out", "--labels", str(table), "--val-fraction", "0")

    left_out = [
        (r["video"], r["reason"], r["detail"]) for r in rows(tmp_path / "out" / "missing.csv")
    ]
    assert left_out == [
        ("1", "no file", "may be any of x/1.mp4, y/1.mp4"),
        ("2.mp4", "no label", "the table gives no label"),
        ("3.mp4", "duplicate", "line 4"),
        ("9.mp4", "no file", ""),
    ]
    assert adds_up(tmp_path / "out")


def test_a_file_that_a_table_names_in_two_ways_is_listed_once(tmp_path):
    put(tmp_path / "v", "1.mp4", "2.mp4")
    table = write(tmp_path / "t.csv", "1.mp4,a\n1,b\n2.mp4,b\n")

    run(tmp_path / "v", tmp_path / "out", "--labels", str(table), "--val-fraction", "0")

    assert listed(tmp_path / "out" / "train.csv") == ["1.mp4 0", "2.mp4 1"]
    [row] = rows(tmp_path / "out" / "missing.csv")
    assert (row["video"], row["reason"]) == ("1", "duplicate")
    assert row["detail"] == "its file is listed as '1.mp4' of 'a'"
    assert adds_up(tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1.mp4,a\n2.mp4,b\n".encode("utf-16")[:-1], "damaged UTF-16"),
        (b"1.mp4,a\n2.mp4,caf\xe9\n", "line 2: not a text in UTF-8"),
        (b"1.mp4,a\n2\0.mp4,b\n", "line 2: contains a zero byte"),
        (b"1.mp4,a\n2.mp4," + b"b" * 200_000, "line 2: not CSV"),
    ],
)
def test_a_table_that_is_no_text_is_refused_with_its_format(tmp_path, content, message):
    put(tmp_path / "v", "1.mp4", "2.mp4")
    (tmp_path / "t.csv").write_bytes(content)

    with pytest.raises(ListError, match=message):
        run(tmp_path / "v", tmp_path / "out", "--labels", str(tmp_path / "t.csv"))


def test_labels_that_differ_only_in_spelling_are_refused(tmp_path):
    put(tmp_path / "v", "1.mp4")
    table = write(tmp_path / "t.csv", "1.mp4,c++\n2.mp4,Run\n3.mp4,run\n4.mp4,c#\n")

    with pytest.raises(ListError, match=r"1 problem\n  labels 'Run' and 'run' differ only"):
        run(tmp_path / "v", tmp_path / "out", "--labels", str(table))


def test_all_problems_of_a_table_are_reported_at_once(tmp_path):
    put(tmp_path / "v", "1.mp4")
    lines = ["file,label,split", "1.mp4,a", "1.mp4,b", ",c", "2.mp4,a,sometimes", "3.mp4,a,train,9"]
    table = write(tmp_path / "t.csv", "\n".join(lines))

    with pytest.raises(ListError) as error:
        run(tmp_path / "v", tmp_path / "out", "--labels", str(table))

    assert str(error.value).splitlines()[1:] == [
        "  line 3: '1.mp4' is listed before as 'a'",
        "  line 4: names no file",
        "  line 5: split 'sometimes' is none of train, val, test",
        "  line 6: has 4 columns, the others 3. Put quotes round its text",
    ]


# Real clips


def test_real_surveillance_clips_in_class_folders(tmp_path):
    videos = REAL_VIDEOS / "fight_surv_160p"
    if not videos.is_dir():
        pytest.skip("the folder of real clips is not on this machine")

    run(videos, tmp_path / "out")

    train, val = (
        open_list("csv", split, data_dir=tmp_path / "out", path_prefix=str(videos))
        for split in ("train", "val")
    )
    assert len(train) + len(val) == len(list(videos.glob("*/*.mp4")))
    assert train.class_names == ("fight", "noFight")
    assert 30 <= len(val) <= 70  # of 250; 0.2 of them is 50
    assert all(Path(video.path).is_file() for video in [*train, *val])


def test_real_signs_in_a_flat_folder_with_a_table(tmp_path):
    videos = REAL_VIDEOS / "clips" / "intel_sample_videos" / "asl_gestures"
    if not videos.is_dir():
        pytest.skip("the folder of real clips is not on this machine")
    words = sorted(file.stem for file in videos.iterdir())
    table = write(tmp_path / "t.csv", "file,label\n" + "".join(f"{w}.mkv,{w}\n" for w in words))

    run(videos, tmp_path / "out", "--labels", str(table), "--val-fraction", "0", "--verify")

    train = open_list("csv", "train", data_dir=tmp_path / "out", path_prefix=str(videos))
    assert [(Path(v.path).stem, v.label) for v in train] == [(w, i) for i, w in enumerate(words)]
    assert reasons(tmp_path / "out") == {}
