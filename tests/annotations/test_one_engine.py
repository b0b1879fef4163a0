"""Training and data_prep read the same tree to the same videos, labels and problems."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # the scripts are next to the package, not in it
    sys.path.insert(0, str(ROOT))

from data_prep import from_folder, imagenet, kinetics, ssv2  # noqa: E402
from slowfast_mvit.annotations.files import VIDEO_SUFFIXES  # noqa: E402
from slowfast_mvit.annotations.kinetics import is_replacement, read_rows  # noqa: E402
from slowfast_mvit.annotations.records import Problem  # noqa: E402
from slowfast_mvit.data.lists.catalog import open_list  # noqa: E402
from slowfast_mvit.errors import ListError, UserError  # noqa: E402

HEADER = "label,youtube_id,time_start,time_end,split\n"
LABELS = {"Holding something": "1", "Moving something up": "0"}


def write(folder: Path, files: dict[str, object]) -> None:
    """Make files: of this text, bytes or JSON; None for a video that is not empty."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes | None):
            path.write_bytes(b"video" if content is None else content)
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            path.write_text(text, encoding="utf-8", newline="")


def scripted(main, words: list[str], out: Path, videos: Path) -> dict[str, dict[str, int]]:
    """Split -> path below ``videos`` -> label, of the lists that a script writes."""
    main([*words, "--out", str(out)])
    return {
        split: pairs(open_list("csv", split, data_dir=out, path_prefix=str(videos)), videos)
        for split in ("train", "val")
        if (out / f"{split}.csv").exists()
    }


def pairs(videos, root: Path) -> dict[str, int]:
    """Path below ``root`` -> label, of the videos that exist."""
    return {
        str(Path(video.path).relative_to(root)): video.label
        for video in videos
        if Path(video.path).exists()
    }


def trained(name: str, data_dir: Path, videos: Path, splits) -> dict[str, dict[str, int]]:
    return {
        split: pairs(open_list(name, split, data_dir=data_dir, path_prefix=str(videos)), videos)
        for split in splits
    }


def problems_of(read) -> list[tuple[str, int, str, str]]:
    """File, line, kind and message of each problem for which reading is refused."""
    with pytest.raises(UserError) as caught:
        read()
    return [(Path(p.file).name, p.line, p.kind, p.message) for p in caught.value.problems]


# Kinetics

CLIP = "aaaaaaaaaaa_000008_000018.mp4"
ROWS = "run,aaaaaaaaaaa,8,18,train\nswim,bbbbbbbbbbb,1,11,train\nzumba,ccccccccccc,2,12,train\n"
CLIPS = dict.fromkeys((CLIP, "bbbbbbbbbbb_000001_000011.mp4", "ccccccccccc_000002_000012.mp4"))
KINETICS = {
    "as published": {"train.csv": HEADER + ROWS},
    "no header": {"train.csv": ROWS},
    "no header, and is_cc": {"train.csv": ROWS.replace(",train", ",train,0")},
    "a comma without quotes": {"train.csv": HEADER + ROWS.replace("swim", "run, then swim")},
    "the same without a header": {"train.csv": ROWS.replace("run", "run, then swim")},
    "quotes": {"train.csv": HEADER + ROWS.replace("run", '"run, fast"').replace("swim", '"""s"""')},
    "BOM and CRLF": {"train.csv": ("\ufeff" + HEADER + ROWS).replace("\n", "\r\n")},
    "other columns": {
        "train.csv": "youtube_id,label,time_start,time_end,is_cc\n"
        "aaaaaaaaaaa,run,8.0,18.0,0\nbbbbbbbbbbb,swim, or not,1,11,1\nccccccccccc,zumba,2,12,0\n"
    },
    "two spellings": {"train.csv": HEADER + ROWS + "Zumba!,ddddddddddd,2,12,train\n"},
    "two forms of one letter": {
        "train.csv": HEADER + ROWS.replace("run", "caf\u00e9").replace("swim", "cafe\u0301")
    },
    "one clip twice": {"train.csv": HEADER + ROWS + "run,aaaaaaaaaaa,8.0,18.0,train\n"},
    "an incomplete copy": {"train.csv": HEADER + ROWS[:27], "train.txt": HEADER + ROWS},
    "class names": {"train.csv": HEADER + ROWS, "classes.txt": "Zumba\nrun\nski\nswim\n"},
}
LAYOUTS = {
    "flat": dict(CLIPS),
    "by split": {f"k400/train/{name}": None for name in CLIPS} | {f"val/{CLIP}": None},
    "by class": {f"a/b/c/d/{name}": None for name in CLIPS} | {f"swim/{CLIP}": None},
    "ids alone": {f"{name[:11]}.mp4": None for name in CLIPS},
    "times without zeros": {re.sub("_0+", "_", name): None for name in CLIPS},
    "folders of frames": {f"{name[:-4]}/1.jpg": None for name in CLIPS},
    "a replacement": CLIPS
    | {f"replacement/for_it/{CLIP}": None, "replacement/bbbbbbbbbbb.mp4": None},
    "an empty copy": CLIPS | {f"a/{CLIP}": b""},
    "one is missing": {name: None for name in CLIPS if name != CLIP},
    "odd suffixes": {
        f"{'abcdefgh'[i % 8]}/{name[:-4]}{suffix}": None
        for i, suffix in enumerate((*VIDEO_SUFFIXES, ".MP4", ".mp4.webm"))
        for name in CLIPS
    },
}


def kinetics_tree(folder: Path, annotations, layout) -> Path:
    write(folder / "annotations", annotations)
    write(folder, layout)
    return folder


@pytest.mark.parametrize("annotations", KINETICS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_kinetics(tmp_path, annotations, layout):
    videos = kinetics_tree(tmp_path / "k", KINETICS[annotations], LAYOUTS[layout])
    words = ["--version", "other", "--videos", str(videos)]
    if annotations == "class names":
        words += ["--classes", str(videos / "annotations/classes.txt")]

    in_training = trained("kinetics", videos / "annotations", videos, ["train"])
    from_script = scripted(kinetics.main, words, tmp_path / "out", videos)

    assert in_training == from_script
    assert len(in_training["train"]) == 3 - (layout == "one is missing")


def test_a_comma_without_quotes_is_repaired_with_a_warning(tmp_path, caplog):
    videos = kinetics_tree(tmp_path / "k", KINETICS["a comma without quotes"], CLIPS)

    names = open_list("kinetics", "train", data_dir=videos / "annotations").class_names
    kinetics.main(["--version", "other", "--videos", str(videos), "--out", str(tmp_path / "out")])

    assert names == ("run", "run, then swim", "zumba")
    assert (tmp_path / "out/classes.txt").read_text().splitlines() == list(names)
    assert caplog.text.count("(first: line 3, read as 'run, then swim')") == 2


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        (HEADER + "run,a/b,1,11,train\nrun,aaaaaaaaaaa,x,11,train\n", ["id", "time"]),
        (HEADER + "run,aaaaaaaaaaa,11,1,train\nrun,aaaaaaaaaaa,0.5,1,train\n", ["time", "time"]),
        (HEADER + "run,aaaaaaaaaaa\n\nrun,and,so,on,aaaaaaaaaaa,x,11,y\n", ["columns", "columns"]),
        (HEADER + '"run,aaaaaaaaaaa,1,11,train\n"run,aaaaaaaaaaa,1,11,train\n', ["text"]),
        (HEADER.encode() + b"caf\xe9,aaaaaaaaaaa,1,11,train\n", ["text"]),
        ("run,,8,18,train\nrun,bbbbbbbbbbb,1,11,train\n", ["id"]),
    ],
    ids=["id, time", "order, fraction", "columns", "quotes", "encoding", "no header"],
)
def test_problems_of_kinetics(tmp_path, text, kinds):
    write(tmp_path / "annotations", {"train.csv": text.encode() if isinstance(text, str) else text})
    write(tmp_path, CLIPS)

    in_training = problems_of(
        lambda: open_list("kinetics", "train", data_dir=tmp_path / "annotations")
    )
    from_script = problems_of(lambda: kinetics.plan_kinetics("other", videos=tmp_path))

    assert in_training == from_script
    assert [kind for _, _, kind, _ in in_training] == kinds


@pytest.mark.parametrize("text", [HEADER.replace(",", ";"), "label,youtube_id,split\n", HEADER])
def test_empty_annotation_files_of_kinetics(tmp_path, text):
    write(tmp_path / "annotations", {"train.csv": text})

    for read in (
        lambda: open_list("kinetics", "train", data_dir=tmp_path / "annotations"),
        lambda: kinetics.plan_kinetics("other", videos=tmp_path),
    ):
        with pytest.raises(ListError, match=r"train.csv: (has no column|the list is|no clips)"):
            read()


# Something-Something v2

ENTRIES = [
    {"id": "1", "template": "Holding [something]"},
    {"id": 2, "template": "Moving [something] up"},
    {"id": "3", "template": "holding [SOMETHING]"},
]
SSV2_LAYOUTS = {
    "flat": "{}.webm",
    "mpg": "{}.mpg",
    "mp4": "{}.mp4",
    "capitals": "{}.WEBM",
    "one folder deeper": "20bn-something-something-v2/{}.webm",
    "much deeper": "a/b/c/d/{}.avi",
    "frames": "frames/{}/{}_1.jpg",
}


def ssv2_tree(folder: Path, entries, layout: str, start: str = "") -> Path:
    files = {"labels": LABELS, "train": entries, "validation": ENTRIES[:1]}
    write(folder / "labels", {f"{start}{name}.json": content for name, content in files.items()})
    write(folder / "v", {layout.format(i, i): None for i in (1, 2, 3)})
    return folder


@pytest.mark.parametrize("layout", SSV2_LAYOUTS)
@pytest.mark.parametrize("start", ["", "something-something-v2-"])
def test_ssv2(tmp_path, layout, start):
    tree = ssv2_tree(tmp_path, ENTRIES[1:], SSV2_LAYOUTS[layout], start)
    words = ["--annotations", str(tree / "labels"), "--videos", str(tree / "v")]

    in_training = trained("ssv2", tree / "labels", tree / "v", ["train", "val"])
    from_script = scripted(ssv2.main, [*words, "--num-classes", "2"], tmp_path / "out", tree / "v")

    assert in_training == from_script
    assert [sorted(in_training[split].values()) for split in ("train", "val")] == [[0, 1], [1]]


def test_an_ssv2_video_listed_twice_and_one_that_is_missing(tmp_path):
    entries = [*ENTRIES[1:], ENTRIES[1], {"id": "9", "template": "Holding [something]"}]
    tree = ssv2_tree(tmp_path, entries, "{}.mp4")
    words = ["--annotations", str(tree / "labels"), "--videos", str(tree / "v")]

    in_training = trained("ssv2", tree / "labels", tree / "v", ["train", "val"])
    from_script = scripted(ssv2.main, [*words, "--num-classes", "2"], tmp_path / "out", tree / "v")

    assert in_training == from_script
    assert list(in_training["train"]) == ["2.mp4", "3.mp4"]


def test_problems_of_ssv2(tmp_path):
    tree = ssv2_tree(tmp_path, [{"template": "a"}, ENTRIES[0], "x", {"id": {}}], "{}.mp4")
    folder = tree / "labels"

    in_training = problems_of(lambda: open_list("ssv2", "train", data_dir=folder))
    from_script = problems_of(
        lambda: ssv2.plan_ssv2(videos=tree / "v", annotations=folder, num_classes=2)
    )

    assert in_training == from_script
    assert [(line, kind) for _, line, kind, _ in in_training] == [(1, "id"), (3, "id"), (4, "id")]


@pytest.mark.parametrize("text", ['{"a": 1}', "[", '[{"id": "1"}'])
def test_ssv2_files_that_are_no_lists(tmp_path, text):
    tree = ssv2_tree(tmp_path, ENTRIES, "{}.mp4")
    write(tree / "labels", {"train.json": text})

    for read in (
        lambda: open_list("ssv2", "train", data_dir=tree / "labels"),
        lambda: ssv2.plan_ssv2(videos=tree / "v", annotations=tree / "labels", num_classes=2),
    ):
        with pytest.raises(ListError, match=r"train.json: not a list in JSON"):
            read()


@pytest.mark.parametrize("separator", [";", ",", "\t"])
def test_answers_of_ssv2(tmp_path, separator):
    tree = ssv2_tree(tmp_path, ENTRIES[:1], "{}.mp4")
    answers = f"\ufeff2{separator}Holding something\r\n3{separator}Moving something up\r\n"
    write(tree / "labels", {"test-answers.csv": answers, "test.json": [{"id": "2"}, {"id": "3"}]})
    words = ["--annotations", str(tree / "labels"), "--videos", str(tree / "v")]

    scripted(ssv2.main, [*words, "--num-classes", "2"], tmp_path / "out", tree / "v")

    for data_dir, name in ((tree / "labels", "ssv2"), (tmp_path / "out", "csv")):
        videos = open_list(name, "test", data_dir=data_dir, path_prefix=str(tree / "v"))
        assert pairs(videos, tree / "v") == {"2.mp4": 1, "3.mp4": 0}


# Class folders

FOLDERS = {
    "flat": ["run/1.mp4", "swim/2.webm"],
    "all suffixes": [f"{name}/{i}{s}" for i, s in enumerate(VIDEO_SUFFIXES) for name in "ab"],
    "nested": ["run/day1/cam2/1.MP4", "run/2.mp4", "swim/x/3.mp4", "swim/notes.txt"],
    "in the folder of an archive": ["data/videos/run/1.mp4", "data/videos/swim/2.mp4"],
    "folders of frames": ["run/frames_1/1.jpg", "run/frames_1/2.jpg", "swim/2.mp4"],
    "images": ["cat/1.jpg", "cat/2.PNG", "dog/1.jpeg"],
    "images next to videos": ["run/1.mp4", "run/1.jpg", "swim/2.mp4"],
    "images and folders of frames": ["run/one.png", "run/frames/1.jpg", "swim/2.mp4"],
    "splits": ["train/run/1.mp4", "train/swim/2.mp4", "val/swim/3.mp4", "annotations/a.json"],
    "splits in capitals": ["Train/run/1.mp4", "Train/swim/2.mp4", "validation/run/a/3.mp4"],
    "a class called test": ["test/1.mp4", "other/1.mp4"],
    "folders named like videos": ["run/1.mp4/1.jpg", "run/2.avi/b.avi", "swim/3.mp4"],
    "one recording in two classes": [f"{name}/{i}.mp4" for name in "ab" for i in range(9)],
    "many": [f"{name}/{i}.mp4" for name in ("in/a", "in/b") for i in range(40)],
    "a split called eval": ["train/a/1.mp4", "train/b/2.mp4", "eval/a/3.mp4"],
    "two accents": ["cafe\u0301/1.mp4", "caf\u00e8/2.mp4", "hidden/.3.mp4", "hidden/4.mp4"],
}


@pytest.mark.parametrize("names", FOLDERS)
def test_class_folders(tmp_path, names):
    videos = tmp_path / "v"
    # A second file in each class, as one is held out.
    write(videos, dict.fromkeys([*FOLDERS[names], *map(second_file, FOLDERS[names])]))

    in_training = trained("folder", videos, videos, ["train", "val"])
    from_script = scripted(from_folder.main, ["--videos", str(videos)], tmp_path / "out", videos)

    assert in_training == from_script
    assert in_training["train"] and in_training["val"]


LEFT_OUT = {
    "run/empty.mp4": b"",
    "run/broken.MOV": "link",
    "run/notes.txt": "text",
    "run/day/cover.jpg": None,
    "run/day/clip.mkv": None,
    "run/.hidden.mp4": None,
    "run/__MACOSX/._1.mp4": None,
    "run/clips.zip": b"PK",
    "swim/Thumbs.db": b"db",
    "swim/ends with a space.mp4 /1.jpg": None,
    "__MACOSX/run/._1.mp4": None,
}


def test_files_that_are_left_out_are_counted_by_class_with_the_reason(tmp_path, caplog, capsys):
    videos = tmp_path / "v"
    write(videos, {f"{name}/{i}.mp4": None for name in ("run", "swim") for i in range(6)})
    write(videos, {name: None if text == "link" else text for name, text in LEFT_OUT.items()})
    (videos / "run/broken.MOV").unlink()
    (videos / "run/broken.MOV").symlink_to("nowhere")

    in_training = trained("folder", videos, videos, ["train", "val"])
    from_script = scripted(from_folder.main, ["--videos", str(videos)], tmp_path / "out", videos)

    assert in_training == from_script
    assert len(in_training["train"] | in_training["val"]) == 13
    report = capsys.readouterr().out
    for line in (
        "run: 1 broken link (run/broken.MOV); 1 empty file (run/empty.mp4); 1 image next to videos "
        "(run/day/cover.jpg); 1 not a video or an image (run/notes.txt); 1 packed archive "
        "(run/clips.zip)",
        "swim: 1 unusable name (swim/ends with a space.mp4 )",
    ):
        assert line in caplog.text and f"left out: {line}" in report


@pytest.mark.parametrize("name", ["train/swim/1.mp4", "swim/1.mp4"])
def test_a_class_to_train_on_whose_files_are_all_left_out_stops_the_run(tmp_path, name):
    videos = tmp_path / "v"
    write(videos, {name: b"", name.replace("1.mp4", "2.gif"): None})
    others = [name.replace("swim", "run").replace("1", f"{number}") for number in range(4)]
    write(videos, dict.fromkeys([*others, *(["val/run/1.mp4"] if "train" in name else [])]))

    in_training = problems_of(lambda: open_list("folder", "train", data_dir=videos))
    from_script = problems_of(lambda: from_folder.plan_folder(videos))

    assert in_training == from_script
    message = (
        "class folder 'swim' contains no videos: 1 empty file (swim/1.mp4); 1 not a video or an "
        "image (swim/2.gif). Fill it or remove it"
    )
    assert [(kind, text) for _, _, kind, text in in_training] == [("empty", message)]


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_without_videos_for_validation_or_testing_is_a_warning(tmp_path, split, caplog):
    videos = tmp_path / "v"
    write(videos, dict.fromkeys(["train/run/1.mp4", "train/swim/2.mp4", f"{split}/run/3.mp4"]))
    write(videos, {f"{split}/swim/4.mp4": b""})

    listed = open_list("folder", split, data_dir=videos)
    from_script = scripted(from_folder.main, ["--videos", str(videos)], tmp_path / "out", videos)

    assert len(listed) == 1 and from_script["train"].keys() == {
        "train/run/1.mp4",
        "train/swim/2.mp4",
    }
    assert "class folder 'swim' contains no videos: 1 empty file (swim/4.mp4)" in caplog.text
    assert f"no videos of class swim for {split}" in caplog.text


def second_file(name: str) -> str:
    folder, _, file = name.rpartition("/")
    return f"{folder}/second_{file}" if not file.startswith(".") else name


@pytest.mark.parametrize(
    ("names", "kind", "stops_training"),
    [
        (["run/1.mp4", "swim/2.mp4", "3.mp4"], "outside", False),
        (["run/1.mp4", "run/1.avi", "swim/2.mp4"], "duplicate", False),
        (["train/a/1.mp4", "train/b/2.mp4", "val/a/3.mp4", "raw/b/4.mp4"], "outside", False),
        (["jump_rope/1.mp4", "Jump Rope/2.mp4"], "spelling", True),
        (["train/a/1.mp4", "train/b/1.mp4", "val/A/3.mp4", "val/b/4.mp4"], "spelling", True),
        (["train/a/1.mp4", "train/b/2.mp4", "val/a/3.mp4", "validation/b/4.mp4"], "split", True),
        (["train/a/1.mp4", "train/b/2.mp4", "unsorted/3.mp4"], "split", True),
        (["train_set/a/1.mp4", "train_set/b/2.mp4", "val_set/a/3.mp4"], "split", True),
    ],
)
def test_problems_of_class_folders(tmp_path, names, kind, stops_training, caplog):
    write(tmp_path / "v", dict.fromkeys(names) | dict.fromkeys(map(second_file, names)))

    from_script = problems_of(lambda: from_folder.plan_folder(tmp_path / "v"))
    caplog.clear()

    assert {kind for _, _, kind, _ in from_script} == {kind}
    if stops_training:
        for split in ("train", "val"):
            in_training = problems_of(
                lambda split=split: open_list("folder", split, data_dir=tmp_path / "v")
            )
            assert in_training == from_script
        return
    open_list("folder", "train", data_dir=tmp_path / "v")
    for _, _, _, message in from_script:
        assert message in caplog.text


# ImageNet

SYNSETS = ("n01440764", "n02012849")


@pytest.mark.parametrize("inside", ["", "images/"])
def test_imagenet(tmp_path, inside):
    names = [f"train/{s}/{inside}{s}_{i}.JPEG" for s in SYNSETS for i in (1, 2)]
    names += [f"val/{s}/{inside}{s}_3.jpg" for s in SYNSETS[1:]]
    write(tmp_path / "i", dict.fromkeys([*names, "train/n01440764/notes.txt", "README"]))
    words = ["--images", str(tmp_path / "i"), "--num-classes", "2"]

    in_training = trained("imagenet", tmp_path / "i", tmp_path / "i", ["train", "val"])
    from_script = scripted(imagenet.main, words, tmp_path / "out", tmp_path / "i")

    assert in_training == from_script
    assert [len(in_training[split]) for split in ("train", "val")] == [4, 1]


def test_cells_that_a_row_lacks_at_its_end_are_empty(tmp_path):
    header = "youtube_id,time_start,time_end,split,label\n"
    write(tmp_path, {"clips.csv": header + "aaaaaaaaaaa,1,11,val\nbbbbbbbbbbb,1,11\n"})

    row, problem = read_rows(tmp_path / "clips.csv")

    assert row == ("aaaaaaaaaaa_000001_000011", "val", None, 2)
    assert isinstance(problem, Problem) and (problem.line, problem.kind) == (3, "split")


def test_a_replacement_is_a_folder_and_no_name_of_a_file():
    assert is_replacement("k400/Replacement_for_x/a.mp4")
    assert not is_replacement("train/replacement.mp4")
