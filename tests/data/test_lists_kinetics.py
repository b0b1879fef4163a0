"""Kinetics as it is published: annotation files next to videos in any of the usual layouts."""

from __future__ import annotations

import logging
import os

import pytest

from slowfast_mvit.data.lists.catalog import open_list
from slowfast_mvit.errors import ConfigError, ListError

HEADER = "label,youtube_id,time_start,time_end,split"

# The first lines of the public files, in the spellings that are met.
ROWS = [
    "testifying,---QUuC4vJs,84,94,train",
    '"massaging person\'s head",--07WQ2iBlw,1.0,11.0,train',
    '"stretching, then lifting",-0-RLKAFZ3o,100,110,train',
]
STEMS = ["---QUuC4vJs_000084_000094", "--07WQ2iBlw_000001_000011", "-0-RLKAFZ3o_000100_000110"]
CLASSES = ("massaging person's head", "stretching, then lifting", "testifying")


def write(folder, name="train.csv", rows=ROWS, header=HEADER):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join([header, *rows]) + "\n")
    return folder


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def read(folder, split="train", name="kinetics", **settings):
    return open_list(name, split, data_dir=folder, **settings)


def relative_paths(videos, root):
    return [record.path.removeprefix(f"{root}/") for record in videos]


def test_reads_the_published_annotation_file(tmp_path):
    write(tmp_path)
    touch(tmp_path, *(f"{stem}.mp4" for stem in STEMS))

    videos = read(tmp_path, num_classes=3)

    assert videos.class_names == CLASSES
    assert [(record.video_id, record.label) for record in videos] == [
        (STEMS[0], 2),
        (STEMS[1], 0),
        (STEMS[2], 1),
    ]
    assert relative_paths(videos, tmp_path) == [f"{stem}.mp4" for stem in STEMS]


@pytest.mark.parametrize(
    "files",
    [
        [f"{stem}.mkv" for stem in STEMS],
        [f"train/{stem}.webm" for stem in STEMS],
        [f"k400/train/{stem}.mp4" for stem in STEMS],
        [f"testifying/{STEMS[0]}.mp4", f"x y/{STEMS[1]}.mp4", f"z/{STEMS[2]}.mp4.webm"],
        [
            f"train/testifying/{STEMS[0]}.mp4",
            f"train/massaging_persons_head/{STEMS[1]}.mp4",
            f"train/stretching, then lifting/{STEMS[2]}.mp4",
        ],
    ],
    ids=["flat, mkv", "split, webm", "copy, split", "class, odd suffix", "split, class"],
)
def test_finds_the_videos_in_each_layout(tmp_path, files):
    write(tmp_path / "annotations")
    touch(tmp_path / "videos", *files, "train/notes.txt", f"val/{STEMS[0]}.mp4")

    videos = read(tmp_path / "annotations", path_prefix=str(tmp_path / "videos"))

    assert relative_paths(videos, tmp_path / "videos") == files


def test_the_folder_of_annotations_may_be_among_the_videos(tmp_path):
    write(tmp_path / "annotations", "validate.csv", [row.replace("train", "val") for row in ROWS])
    touch(tmp_path, *(f"val/{stem}.mp4" for stem in STEMS))

    videos = read(tmp_path / "annotations", "val")

    assert relative_paths(videos, tmp_path) == [f"val/{stem}.mp4" for stem in STEMS]


def test_of_several_copies_the_one_in_the_folder_of_its_class_is_taken(tmp_path):
    write(tmp_path, rows=ROWS[:1])
    touch(tmp_path, f"abseiling/{STEMS[0]}.mp4", f"testifying/{STEMS[0]}.mp4")

    assert relative_paths(read(tmp_path), tmp_path) == [f"testifying/{STEMS[0]}.mp4"]


def test_replacements_are_preferred_to_damaged_files(tmp_path):
    write(tmp_path)
    folder = "replacement/replacement_for_corrupted_k400"
    replacements = [f"{folder}/{STEMS[0]}.mp4", f"{folder}/{STEMS[1][:11]}.mp4"]
    touch(tmp_path, *(f"train/{stem}.mp4" for stem in STEMS), *replacements)

    videos = read(tmp_path)

    assert relative_paths(videos, tmp_path) == [*replacements, f"train/{STEMS[2]}.mp4"]


def test_a_replacement_named_by_its_id_alone_is_not_used_where_the_id_has_two_clips(tmp_path):
    other = ROWS[0].replace("84,94", "1,11")
    write(tmp_path, rows=[ROWS[0], other])
    stems = [STEMS[0], f"{STEMS[0][:11]}_000001_000011"]
    touch(tmp_path, *(f"train/{stem}.mp4" for stem in stems), f"replacement/{STEMS[0][:11]}.mp4")

    assert relative_paths(read(tmp_path), tmp_path) == [f"train/{stem}.mp4" for stem in stems]


def test_all_splits_count_classes_alike(tmp_path):
    write(tmp_path, rows=ROWS)
    write(tmp_path, "val.csv", ["zumba,zzzzzzzzzzz,0,10,val", *ROWS[:1]])
    touch(tmp_path, *(f"train/{stem}.mp4" for stem in STEMS), "val/zzzzzzzzzzz_000000_000010.mp4")

    train, val = read(tmp_path), read(tmp_path, "val")

    assert train.class_names == val.class_names == (*CLASSES, "zumba")
    assert train.labels.tolist() == [2, 0, 1]
    assert val.labels.tolist() == [3, 2]


def test_class_names_in_any_spelling_give_the_indices(tmp_path):
    write(tmp_path)
    touch(tmp_path, *(f"{stem}.mp4" for stem in STEMS))
    names = ["Testifying", "abseiling", "massaging_persons_head", "stretching then lifting"]
    (tmp_path / "classes.txt").write_text("\n".join(names))

    videos = read(tmp_path, num_classes=4)

    assert videos.class_names == tuple(names)
    assert videos.labels.tolist() == [0, 2, 3]


def test_a_part_of_the_classes_is_refused_unless_all_are_named(tmp_path):
    write(tmp_path)
    touch(tmp_path, *(f"{stem}.mp4" for stem in STEMS))

    with pytest.raises(ListError, match=r"3 classes, but MODEL.NUM_CLASSES is 400"):
        read(tmp_path, num_classes=400)
    with pytest.raises(ListError, match=r"3 classes, but MODEL.NUM_CLASSES is 600"):
        read(tmp_path, name="K600")
    with pytest.raises(ConfigError, match=r"kinetics700 has 700 classes.*NUM_CLASSES is 400"):
        read(tmp_path, name="kinetics700", num_classes=400)


def test_the_names_of_kinetics_400_are_known(tmp_path):
    rows = [f"{label},---QUuC4vJs,1,11,train" for label in ("zumba", "air_drumming", "abseiling")]
    write(tmp_path, rows=rows)
    touch(tmp_path, "---QUuC4vJs_000001_000011.mp4")

    videos = read(tmp_path, name="k400", num_classes=400)

    assert videos.labels.tolist() == [399, 1, 0]
    assert videos.class_names[:2] == ("abseiling", "air drumming")
    assert list(videos.class_names) == sorted(videos.class_names)


def test_numbers_in_one_list_and_names_in_another_need_class_names(tmp_path):
    (tmp_path / "train.csv").write_text("a.mp4 0\n")
    write(tmp_path, "val.csv")

    with pytest.raises(ListError, match=r"val.csv: gives classes by name, and train.csv by number"):
        read(tmp_path, "val")


def test_missing_videos_are_left_out_of_training_and_count_as_failed_in_testing(tmp_path, caplog):
    for name in ("train.csv", "val.csv"):
        write(tmp_path, name)
    touch(tmp_path, f"{STEMS[0]}.mp4", f"{STEMS[2]}.mp4")

    train, val = read(tmp_path), read(tmp_path, "val")

    assert [record.video_id for record in train] == [STEMS[0], STEMS[2]]
    assert train.labels.tolist() == [2, 1]
    assert relative_paths(val, tmp_path) == [f"{stem}.mp4" for stem in STEMS]
    assert "train.csv: 1 of 3 videos have no file" in caplog.text
    assert "left out of training" in caplog.text
    assert "val.csv: 1 of 3 videos have no file" in caplog.text
    assert "count as failed" in caplog.text


def test_a_folder_that_may_not_be_read_is_passed_over(tmp_path, caplog, monkeypatch):
    write(tmp_path)
    touch(tmp_path, "locked/x.mp4", "lost+found/y.mp4", *(f"train/{stem}.mp4" for stem in STEMS))
    scandir = os.scandir

    def guarded(folder):
        if str(folder).endswith(("locked", "lost+found")):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)

    assert len(read(tmp_path)) == 3
    assert caplog.text.count("Permission denied; files in it are not found") == 1


def test_a_list_of_paths_that_sound_like_the_header_is_none(tmp_path):
    (tmp_path / "train.csv").write_text("youtube_id_clips/a.mp4 1\n")

    assert read(tmp_path)[0].label == 1


def test_a_folder_without_any_of_the_videos_is_refused(tmp_path):
    write(tmp_path)

    with pytest.raises(ListError, match=r"nowhere: no such folder \(DATA.PATH_PREFIX\)"):
        read(tmp_path, path_prefix=str(tmp_path / "nowhere"))
    with pytest.raises(ListError, match=r"none of its 3 videos is there.*Set DATA.PATH_PREFIX"):
        read(tmp_path)


def test_all_problems_are_reported_at_once_with_their_lines(tmp_path):
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    rows = [
        ROWS[0],
        "testifyin,---QUuC4vJs,1,11,train",
        "testifying,---QUuC4vJs,one,11,train",
        "testifying,---QUuC4vJs,11,1,train",
        "testifying,a/b,1,11,train",
        ",---QUuC4vJs,2,12,train",
    ]
    write(tmp_path, rows=rows)

    with pytest.raises(ListError) as caught:
        read(tmp_path)

    message = str(caught.value)
    assert f"{tmp_path}/train.csv: 5 problems" in message
    assert "line 3: label 'testifyin' is not among the class names. Did you mean" in message
    assert "line 4: time_start 'one' and time_end '11' must be seconds" in message
    assert "line 5: time_end '1' is not after time_start '11'" in message
    assert "line 6: youtube_id 'a/b' contains more than" in message
    assert "line 7: '---QUuC4vJs_000002_000012' has no label" in message


def test_a_clip_listed_twice_is_refused_in_testing(tmp_path, caplog):
    for name in ("train.csv", "val.csv"):
        write(tmp_path, name, [*ROWS, ROWS[0].replace("84,94", "84.0,94.0")])
    touch(tmp_path, *(f"{stem}.mp4" for stem in STEMS))

    assert len(read(tmp_path)) == 4
    assert "1 line repeats a video" in caplog.text
    with pytest.raises(ListError, match=rf"line 5: '{STEMS[0]}' is also on line 2"):
        read(tmp_path, "val")


def test_a_test_list_without_labels_gives_way_to_the_validation_list(tmp_path, caplog):
    header = "youtube_id,time_start,time_end,split"
    write(tmp_path, "test.csv", ["---QUuC4vJs,84,94,test"], header=header)

    with pytest.raises(ListError, match=r"test.csv: has no column 'label'"):
        read(tmp_path, "test")
    write(tmp_path, "validate.csv")
    touch(tmp_path, *(f"{stem}.mp4" for stem in STEMS))
    videos = read(tmp_path, "test")

    assert [record.video_id for record in videos] == STEMS
    assert "test.csv: names no classes, so testing reads validate.csv" in caplog.text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (f"{HEADER}\n".encode(), "the list is empty"),
        (b"label,youtube_id,split\n", "no column 'time_start' and 'time_end'"),
        (
            f"{HEADER}\ncaf\xe9,---QUuC4vJs,1,2,val\n".encode("latin-1"),
            "line 2: not a text in UTF-8",
        ),
        (f"{HEADER}\n{ROWS[0]}\n".replace(",", ";").encode(), "with commas between them"),
        (f'{HEADER}\n"{ROWS[0]}\n"{ROWS[1]}\n'.encode(), "line 2: contains a line break"),
    ],
    ids=["only a header", "columns", "encoding", "semicolons", "quotes"],
)
def test_a_wrong_annotation_file_is_refused(tmp_path, content, problem):
    (tmp_path / "val.csv").write_bytes(content)

    with pytest.raises(ListError, match=problem):
        read(tmp_path, "val")


def test_extra_columns_and_windows_line_ends_do_no_harm(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    content = f"\ufeff{HEADER},is_cc\r\n{ROWS[0]},0\r\n\r\n{ROWS[1]}\r\n"
    (tmp_path / "val.csv").write_bytes(content.encode())
    touch(tmp_path, *(f"{stem}.mp4" for stem in STEMS))

    videos = read(tmp_path, "test")

    assert [record.video_id for record in videos] == STEMS[:2]
    assert caplog.text.count("no test.csv, so testing reads val.csv") == 1
