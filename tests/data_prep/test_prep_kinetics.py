"""Kinetics: annotation files of the public release and clips in any layout -> lists."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from made_trees import HEADER, adds_up, all_bytes, listed, put, reasons, rows, summary, write
from torchvision.models.video import MViT_V2_S_Weights

from data_prep import kinetics
from data_prep.kinetics import read_annotations, read_ids
from slowfast_mvit.annotations.kinetics import find_annotations, parsed_name
from slowfast_mvit.data.lists.catalog import open_list
from slowfast_mvit.errors import ListError, UserError

TRAIN = HEADER + (
    "abseiling,-a_1_2bcdef,8.0,18.0,train\n"
    '"passing American football (in game)",bbbbbbbbbbb,3,13,train\n'
    '"massaging person\'s head",ccccccccccc,100,110,train\n'
)
VAL = HEADER + "abseiling,ddddddddddd,3,13,validate\n"


def run(videos: Path, out: Path, *more: str, version: str = "other") -> int:
    return kinetics.main(["--version", version, "--videos", str(videos), "--out", str(out), *more])


@pytest.fixture
def annotated(tmp_path: Path) -> Path:
    """A folder with the annotations of four clips, and no clips yet."""
    write(tmp_path / "k" / "annotations" / "train.csv", TRAIN)
    write(tmp_path / "k" / "annotations" / "val.csv", VAL)
    return tmp_path / "k"


CVDF = ["train/-a_1_2bcdef_000008_000018.mp4", "train/bbbbbbbbbbb_000003_000013.mp4",
        "train/ccccccccccc_000100_000110.mp4", "val/ddddddddddd_000003_000013.mp4"]  # fmt: skip
BY_CLASS = ["train/abseiling/-a_1_2bcdef_000008_000018.mp4",
            "train/passing American football (in game)/bbbbbbbbbbb_000003_000013.mp4",
            "train/massaging person's head/ccccccccccc_000100_000110.mp4",
            "val/abseiling/ddddddddddd_000003_000013.mp4"]  # fmt: skip
LAYOUTS = {
    "by split, as the public copy": CVDF,
    "flat": [Path(name).name for name in CVDF],
    "by class with spaces": BY_CLASS,
    "by class with underscores": [name.replace(" ", "_") for name in BY_CLASS],
    "other suffixes": [name.replace(".mp4", suffix) for name, suffix in
                       zip(CVDF, (".MKV", ".webm", ".Mp4", ".avi"), strict=True)],
    "ids alone": [f"{Path(name).name[:11]}.mp4" for name in CVDF],
    "times without zeros": ["-a_1_2bcdef_8_18.mp4", "bbbbbbbbbbb_3_13.mp4",
                            "ccccccccccc_100_110.mp4", "ddddddddddd_3_13.mp4"],
    "folders of frames": [f"{name[:-4]}/img_00001.jpg" for name in CVDF],
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_clips_are_found_in_every_layout_and_the_lists_load(annotated, tmp_path, layout):
    put(annotated, *LAYOUTS[layout])

    assert run(annotated, tmp_path / "out") == 0

    train, val = (
        open_list("kinetics", split, data_dir=tmp_path / "out", path_prefix=str(annotated))
        for split in ("train", "val")
    )
    names = {train.class_names[v.label]: Path(v.path) for v in train}
    assert {name: path.name[:11] for name, path in names.items()} == {
        "abseiling": "-a_1_2bcdef",
        "massaging person's head": "ccccccccccc",
        "passing American football (in game)": "bbbbbbbbbbb",
    }
    assert [val.class_names[v.label] for v in val] == ["abseiling"]
    assert all(Path(v.path).exists() for v in [*train, *val])
    assert rows(tmp_path / "out" / "missing.csv") == rows(tmp_path / "out" / "extra.csv") == []


# Reading the annotations without these scripts does not look for such names.
LISTED_ONLY = ("ids alone", "times without zeros", "folders of frames")


@pytest.mark.parametrize("layout", sorted(LAYOUTS.keys() - set(LISTED_ONLY)))
def test_the_lists_equal_the_annotations_read_in_training(annotated, tmp_path, layout):
    put(annotated, *LAYOUTS[layout], "train/xxxxxxxxxxx_000001_000011.mp4")
    replacement = "replacement/replacement_for_corrupted_k400/bbbbbbbbbbb_000003_000013.mp4"
    put(annotated, replacement)

    run(annotated, tmp_path / "out")

    for split in ("train", "val"):
        native = open_list("kinetics", split, data_dir=annotated / "annotations")
        prepared = open_list(
            "kinetics", split, data_dir=tmp_path / "out", path_prefix=str(annotated)
        )
        assert prepared.class_names == native.class_names
        assert {(v.path, v.label) for v in prepared} == {(v.path, v.label) for v in native}


def test_a_replacement_overrides_the_corrupted_clip(annotated, tmp_path):
    put(annotated, *CVDF)
    replacement = "replacement/replacement_for_corrupted_k400/bbbbbbbbbbb_000003_000013.mp4"
    unasked = "replacement/replacement_for_corrupted_k400/xxxxxxxxxxx_000003_000013.mp4"
    put(annotated, replacement, unasked)

    run(annotated, tmp_path / "out")

    assert f"{replacement} 2" in listed(tmp_path / "out" / "train.csv")
    assert reasons(tmp_path / "out") == {"train/bbbbbbbbbbb_000003_000013.mp4": "overridden"}
    assert [row["path"] for row in rows(tmp_path / "out" / "extra.csv")] == [unasked]


def test_a_replacement_of_other_times_is_matched_by_its_id(annotated, tmp_path):
    put(annotated, *CVDF, "replacement/bbbbbbbbbbb_000000_000010.mp4")

    run(annotated, tmp_path / "out")

    assert "replacement/bbbbbbbbbbb_000000_000010.mp4 2" in listed(tmp_path / "out" / "train.csv")


def test_two_clips_of_one_video_are_distinguished_by_their_times(tmp_path):
    text = HEADER + "a,aaaaaaaaaaa,0,10,train\nb,aaaaaaaaaaa,20,30,train\n"
    write(tmp_path / "k" / "annotations" / "train.csv", text)
    put(tmp_path / "k", "aaaaaaaaaaa_000020_000030.mp4", "aaaaaaaaaaa.mp4")

    run(tmp_path / "k", tmp_path / "out")

    assert listed(tmp_path / "out" / "train.csv") == ["aaaaaaaaaaa_000020_000030.mp4 1"]
    (missing,) = rows(tmp_path / "out" / "missing.csv")
    assert missing["video"] == "aaaaaaaaaaa_000000_000010"
    assert missing["detail"] == "there is aaaaaaaaaaa.mp4, of the same id"


def test_videos_that_are_left_out_are_reported_with_their_reason(annotated, tmp_path):
    put(annotated, CVDF[1], CVDF[3])
    put(annotated, CVDF[2], content=b"")
    (annotated / "train" / "-a_1_2bcdef_000008_000018.mp4").symlink_to("nowhere.mp4")
    repeated = "abseiling,ddddddddddd,3,13,train\nabseiling,eeeeeeeeeee,1,11,train\n"
    write(annotated / "annotations" / "train.csv", TRAIN + repeated)
    write(annotated / "annotations" / "test.csv", HEADER + ",fffffffffff,1,11,test\n")
    put(annotated, "test/fffffffffff_000001_000011.mp4", "train/ggggggggggg_000001_000011.mp4")

    run(annotated, tmp_path / "out")

    assert reasons(tmp_path / "out") == {
        "-a_1_2bcdef_000008_000018": "broken link",
        "ccccccccccc_000100_000110": "empty file",
        "ddddddddddd_000003_000013": "duplicate",  # the row for training; that for val counts
        "eeeeeeeeeee_000001_000011": "no file",
        "fffffffffff_000001_000011": "no label",
    }
    assert listed(tmp_path / "out" / "val.csv") == ["val/ddddddddddd_000003_000013.mp4 0"]
    assert not (tmp_path / "out" / "test.csv").exists()
    extra = [row["path"] for row in rows(tmp_path / "out" / "extra.csv")]
    assert extra == ["train/ggggggggggg_000001_000011.mp4"]
    assert adds_up(tmp_path / "out")
    without = summary(tmp_path / "out")["splits"]["train"]["classes_without_videos"]
    assert without == ["abseiling", "massaging person's head"]


def test_links_to_a_listed_file_are_no_second_file(annotated, tmp_path):
    put(annotated, *CVDF)
    for name in CVDF:  # as the public copy's own script arranges clips by class
        link = annotated / "videos" / "some class" / Path(name).name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(annotated / name)

    run(annotated, tmp_path / "out")

    assert rows(tmp_path / "out" / "missing.csv") == rows(tmp_path / "out" / "extra.csv") == []


def test_a_copy_in_the_folder_of_its_split_is_preferred(annotated, tmp_path):
    put(annotated, *CVDF, "a_copy/ddddddddddd_000003_000013.mp4")

    run(annotated, tmp_path / "out")

    assert listed(tmp_path / "out" / "val.csv") == ["val/ddddddddddd_000003_000013.mp4 0"]
    assert reasons(tmp_path / "out") == {"a_copy/ddddddddddd_000003_000013.mp4": "second file"}


def test_an_empty_copy_does_not_hide_a_good_one(annotated, tmp_path):
    put(annotated, *CVDF, "a_copy/ddddddddddd_000003_000013.mp4")
    put(annotated, CVDF[3], content=b"")

    run(annotated, tmp_path / "out")

    assert listed(tmp_path / "out" / "val.csv") == ["a_copy/ddddddddddd_000003_000013.mp4 0"]


def test_the_complete_text_files_of_k600_are_read_instead_of_its_csv_files(tmp_path):
    annotations = tmp_path / "k" / "annotations"
    write(annotations / "train.csv", HEADER + "a,aaaaaaaaaaa,0,10,train\n")
    both = HEADER + "a,aaaaaaaaaaa,0,10,train\nb,bbbbbbbbbbb,0,10,train\n"
    write(annotations / "train.txt", both)
    write(annotations / "k600_train_path.txt", "https://example.com/part_1.tar.gz\n")
    write(annotations / "kinetics600_holdout_test.csv", HEADER + "b,ccccccccccc,0,10,test\n")
    put(tmp_path / "k", *(f"{c * 11}_000000_000010.mp4" for c in "abc"))

    run(tmp_path / "k", tmp_path / "out")

    files, notes = find_annotations([annotations])
    assert [f.name for f in files] == ["kinetics600_holdout_test.csv", "train.txt"]
    assert "train.txt, which is complete" in notes[0]
    assert len(listed(tmp_path / "out" / "train.csv")) == 2
    assert listed(tmp_path / "out" / "holdout_test.csv") == ["ccccccccccc_000000_000010.mp4 1"]


def test_ids_of_another_set_are_kept_out_of_training_only(annotated, tmp_path):
    put(annotated, *CVDF)
    held_out = write(
        tmp_path / "k400_val.csv",
        HEADER + "x,bbbbbbbbbbb,50,60,val\nx,ddddddddddd,3,13,val\n",
    )

    run(annotated, tmp_path / "out", "--exclude-ids", str(held_out))

    assert reasons(tmp_path / "out") == {"bbbbbbbbbbb_000003_000013": "excluded"}
    assert len(listed(tmp_path / "out" / "val.csv")) == 1
    assert rows(tmp_path / "out" / "extra.csv") == []
    assert f"training clips whose id is in {held_out}: 1" in summary(tmp_path / "out")["notes"]


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "x,-a_1_2bcdef,0,10,val\n",
        "youtube_id,time_start\n-a_1_2bcdef,0\n",
        "val/-a_1_2bcdef_000000_000010.mp4 17\n",
        '"some class/-a_1_2bcdef_000000_000010.mp4" 17\n',
        "-a_1_2bcdef.mp4,17\n",
        "-a_1_2bcdef\n",
    ],
    ids=["annotation", "other columns", "list", "list with quotes", "list with a comma", "ids"],
)
def test_ids_are_read_from_annotations_lists_and_plain_files(tmp_path, text):
    assert read_ids(write(tmp_path / "ids", text)) == {"-a_1_2bcdef"}


def test_videos_of_which_parts_are_in_two_splits_are_counted(annotated, tmp_path):
    put(annotated, *CVDF)
    write(annotated / "annotations" / "val.csv", HEADER + "abseiling,ccccccccccc,3,13,val\n")

    run(annotated, tmp_path / "out")

    (note,) = summary(tmp_path / "out")["notes"]
    assert note == "1 YouTube ids of val are in train too, with the same or other times"


def test_classes_spelled_in_two_ways_are_one_class(annotated, tmp_path):
    write(
        annotated / "annotations" / "val.csv",
        HEADER + "massaging_persons_head,ddddddddddd,3,13,val\n",
    )
    put(annotated, *CVDF)

    run(annotated, tmp_path / "out")

    assert listed(tmp_path / "out" / "classes.txt") == [
        "abseiling",
        "massaging person's head",
        "passing American football (in game)",
    ]
    assert listed(tmp_path / "out" / "val.csv") == ["val/ddddddddddd_000003_000013.mp4 1"]


def test_a_class_list_fixes_the_labels(annotated, tmp_path):
    put(annotated, *CVDF)
    classes = write(tmp_path / "classes", "passing_American_football_(in_game)\nabseiling\nzumba\n")

    run(annotated, tmp_path / "out", "--classes", str(classes))

    assert listed(tmp_path / "out" / "train.csv") == [f"{CVDF[0]} 1", f"{CVDF[1]} 0"]
    assert reasons(tmp_path / "out") == {"ccccccccccc_000100_000110": "no label"}
    assert listed(tmp_path / "out" / "classes.txt")[2] == "zumba"


@pytest.mark.parametrize(
    ("version", "number"), [("k400", 400), ("Kinetics-600", 600), ("K700", 700), ("k700-2020", 700)]
)
def test_a_release_must_have_its_number_of_classes(tmp_path, version, number):
    names = [f"class {i:03d}" for i in range(number)]
    text = HEADER + "".join(f"{n},id{i:09d},0,10,train\n" for i, n in enumerate(names))
    write(tmp_path / "k" / "annotations" / "train.csv", text)
    put(tmp_path / "k", "id000000007_000000_000010.mp4")

    assert run(tmp_path / "k", tmp_path / "out", version=version) == 0
    write(tmp_path / "k" / "annotations" / "train.csv", text.rsplit("class", 1)[0])
    with pytest.raises(UserError, match=f"name {number - 1} classes, but .* has {number}"):
        run(tmp_path / "k", tmp_path / "out", version=version)

    assert listed(tmp_path / "out" / "train.csv") == ["id000000007_000000_000010.mp4 7"]


def test_public_counts_are_shown_next_to_the_counts_of_the_folder(tmp_path, capsys):
    text = HEADER + "".join(f"class {i:03d},id{i:09d},0,10,val\n" for i in range(400))
    write(tmp_path / "k" / "annotations" / "val.csv", text)
    put(tmp_path / "k", *(f"id{i:09d}_000000_000010.mp4" for i in range(399)))

    run(tmp_path / "k", tmp_path / "out", version="k400")

    printed = capsys.readouterr().out
    public = "(public: CVDF 19,881, mmaction2 19,796, PySlowFast 19,761)"
    assert f"399 of 400 val videos present {public}" in printed
    assert "the val annotations have 400 rows, the public ones 19,906" in printed
    assert "classes without a video: 1 (class 399)" in printed


def test_an_unknown_version_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="Did you mean k400"):
        kinetics.find_version("k40")


def test_all_problems_of_an_annotation_file_are_reported_at_once(tmp_path):
    file = write(
        tmp_path / "clips.csv",
        HEADER + "a,,0,10,train\na,bbbbbbbbbbb,x,10,train\n\na,ccccccccccc,10,10,train\n"
        "a,ddddddddddd,0,10,some\na,eeeeeeeeeee,0.5,10,train\n",
    )

    with pytest.raises(ListError) as error:
        read_annotations(file)

    lines = str(error.value).splitlines()
    assert lines[0].endswith("5 problems")
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        f"line {n}" for n in (2, 3, 5, 6, 7)
    ]


def test_an_annotation_that_is_no_text_is_refused_and_folders_are_passed_over(tmp_path):
    (tmp_path / "train.csv").mkdir()
    with pytest.raises(UserError, match="no annotation files"):
        find_annotations([tmp_path])

    (tmp_path / "val.csv").write_bytes((HEADER + "a,bbbbbbbbbbb,0,10,val\n").encode("utf-16")[:-1])
    with pytest.raises(ListError, match=r"val\.csv: not a text in UTF-8, but damaged UTF-16"):
        read_annotations(tmp_path / "val.csv")
    write(tmp_path / "val.csv", HEADER + "a,\0bbbbbbbbbb,0,10,val\n")
    with pytest.raises(ListError, match="line 2"):
        read_annotations(tmp_path / "val.csv")


def test_annotations_are_read_in_all_published_forms(tmp_path):
    text = (
        "\ufefflabel,youtube_id,time_start,time_end,split,is_cc\r\n"
        'sword fighting,aaaaaaaaaaa,8.0,18.0,train,0\r\n"a, b",bbbbbbbbbbb,1,11,validate,1\r\n'
        'c, d,ccccccccccc,1,11,test,0\r\n"""quoted""",ddddddddddd,1,11,train,0\r\n'
    )

    clips = read_annotations(write(tmp_path / "all.csv", text))

    assert clips == [
        ("aaaaaaaaaaa_000008_000018", "train", "sword fighting", 2),
        ("bbbbbbbbbbb_000001_000011", "val", "a, b", 3),
        ("ccccccccccc_000001_000011", "test", "c, d", 4),
        ("ddddddddddd_000001_000011", "train", "quoted", 5),
    ]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("abcdefghijk_000008_000018.mp4.webm", ("abcdefghijk", "abcdefghijk_000008_000018")),
        ("-a_1_2bcdef_8_18", ("-a_1_2bcdef", "-a_1_2bcdef_000008_000018")),
        ("-a_1_234567", ("-a_1_234567", "")),  # 11 characters: an id
        ("name", ("name", "")),
    ],
)
def test_a_file_name_is_taken_apart(name, parts):
    assert parsed_name(name) == parts


def test_packed_archives_are_named_with_how_to_unpack_them(annotated, tmp_path):
    put(annotated, *CVDF[:3], "train/part_7.tar.gz")

    run(annotated, tmp_path / "out")

    (note,) = summary(tmp_path / "out")["notes"]
    assert note.startswith("1 archive is still packed (first: train/part_7.tar.gz)")


def test_nothing_found_is_an_error_and_leaves_no_lists(annotated, tmp_path):
    put(annotated, "part_0.tar.gz")

    with pytest.raises(UserError) as error:
        run(annotated, tmp_path / "out")

    assert "none of the 4 videos can be listed" in str(error.value)
    assert "still packed" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_second_run_writes_the_same_bytes_and_removes_lists_of_before(annotated, tmp_path):
    put(annotated, *CVDF)
    run(annotated, tmp_path / "out")
    names = summary(tmp_path / "out")["files"]
    first = all_bytes(tmp_path / "out", names)

    run(annotated, tmp_path / "out")
    second = all_bytes(tmp_path / "out", names)
    (annotated / "annotations" / "val.csv").unlink()
    run(annotated, tmp_path / "out")

    assert first == second
    assert not (tmp_path / "out" / "val.csv").exists()


def test_annotations_are_never_overwritten(annotated):
    put(annotated, *CVDF)

    with pytest.raises(UserError, match=r"already contains train.csv, val.csv"):
        run(annotated, annotated / "annotations")

    assert (annotated / "annotations" / "train.csv").read_text() == TRAIN


def test_the_script_runs_from_any_folder_and_ends_without_a_traceback(tmp_path):
    script = Path(__file__).resolve().parents[2] / "data_prep" / "kinetics.py"

    ended = subprocess.run(
        [sys.executable, script, "--version", "k400", "--videos", "nowhere", "--out", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 2
    assert ended.stderr.startswith("nowhere/annotations: no such file or folder")


def test_incomplete_files_of_k600_are_reported_where_there_are_no_others(tmp_path):
    text = HEADER + "".join(f"class {i:03d},id{i:09d},0,10,train\n" for i in range(600))
    write(tmp_path / "k" / "annotations" / "train.csv", text)
    put(tmp_path / "k", "id000000007_000000_000010.mp4")

    run(tmp_path / "k", tmp_path / "out", version="k600")

    (note,) = summary(tmp_path / "out")["notes"]
    assert note.endswith("is marked as incomplete by the publisher; train.txt is complete")


def test_the_class_map_of_k400_is_that_of_published_weights(tmp_path):
    published = MViT_V2_S_Weights.KINETICS400_V1.meta["categories"]
    text = HEADER + "".join(
        f'"{name}",id{i:09d},0,10,train\n' for i, name in reversed(list(enumerate(published)))
    )
    write(tmp_path / "k" / "annotations" / "train.csv", text)
    write(tmp_path / "k" / "annotations" / "val.csv", text.replace(" ", "_").replace(",id", ",iv"))
    put(tmp_path / "k", *(f"iv{i:09d}.mp4" for i in (0, 214, 399)), "id000000007.mp4")

    run(tmp_path / "k", tmp_path / "out", version="k400")

    assert listed(tmp_path / "out" / "classes.txt") == published
    labels = [line.split() for line in listed(tmp_path / "out" / "val.csv")]
    assert labels == [[f"iv{i:09d}.mp4", str(i)] for i in (0, 214, 399)]
