"""The shared parts of the scripts for lists: names of any kind, checked files, written files."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from made_trees import adds_up, all_bytes, listed, put, put_video, reasons, rows, summary, write

from data_prep import check_videos, from_folder, plan_write
from data_prep.planning import list_tree
from slowfast_mvit.annotations.csv_lists import list_line, usable_path
from slowfast_mvit.annotations.records import split_named_in
from slowfast_mvit.data.lists.catalog import open_list
from slowfast_mvit.errors import UserError


def run(videos: Path, out: Path, *more: str) -> int:
    words = ["--videos", str(videos), "--out", str(out), "--val-fraction", "0", *more]
    return from_folder.main(words)


# Names

ODD_NAMES = (
    "with space.mp4",
    "'single'.mp4",
    'double".mp4',
    '"quoted all" over".mp4',
    "comma,5.mp4",
    "semicolon;5.mp4",
    "tab\tstop.mp4",
    "tab\tand space and \".mp4",
    " leading space.mp4",
    "gr\u00fc\u00dfe \u65e5\u672c\u8a9e.mp4",
    "line\u2028separator.mp4",
    "#comment.mp4",
    "re:zero.mp4",
    "back\\slash.mp4",
    "$(touch x); `y`.mp4",
    "5 7",  # a folder of frames
    "-rf.MP4",
)  # fmt: skip


def test_names_of_any_kind_are_read_back_from_the_list(tmp_path):
    folder = tmp_path / "vi deos" / "the 'class' \"a\""
    names = [name if "." in name else f"{name}/1.jpg" for name in ODD_NAMES]
    put(folder, *names)
    put(tmp_path / "vi deos" / "b:b", "video.mp4")

    run(tmp_path / "vi deos", tmp_path / "out")

    videos = open_list(
        "csv", "train", data_dir=tmp_path / "out", path_prefix=str(tmp_path / "vi deos")
    )
    found = {os.path.basename(video.path) for video in videos if video.label == 1}
    assert found == set(ODD_NAMES)
    assert len(videos) == len(ODD_NAMES) + 1
    assert all(Path(video.path).exists() for video in videos)
    assert reasons(tmp_path / "out") == {}


def test_names_that_no_list_can_contain_are_left_out_and_reported(tmp_path):
    bad = ["new\nline.mp4", "carriage\rreturn.mp4", os.fsdecode(b"latin-\xe9.mp4")]
    put(tmp_path / "v" / "a", "good.mp4", *bad, "ends in space /1.jpg")
    put(tmp_path / "v" / "b", "good.mp4")

    run(tmp_path / "v", tmp_path / "out")

    assert listed(tmp_path / "out" / "train.csv") == ["a/good.mp4 0", "b/good.mp4 1"]
    missing = rows(tmp_path / "out" / "missing.csv")
    assert {row["reason"] for row in missing} == {"unusable name"}
    assert sorted(row["path"] for row in missing) == [
        r"a/carriage\rreturn.mp4",
        "a/ends in space ",
        r"a/latin-\udce9.mp4",
        r"a/new\nline.mp4",
    ]
    assert adds_up(tmp_path / "out")


@pytest.mark.parametrize("path", ["video", "Path", "file"])
def test_a_path_like_a_header_is_not_taken_for_one(tmp_path, path):
    assert usable_path(path) == (f"./{path}", "")
    write(tmp_path / "train.csv", list_line(path, 3))

    videos = open_list("csv", "train", data_dir=tmp_path)

    assert [Path(v.path) for v in videos] == [tmp_path / path]


def test_whole_paths_need_no_prefix(tmp_path, monkeypatch):
    put(tmp_path / "v", "a/1.mp4", "b/2.mp4")
    monkeypatch.chdir(tmp_path)

    run(Path("v"), Path("out"), "--absolute")

    videos = open_list("csv", "train", data_dir=tmp_path / "out")
    assert [video.path for video in videos] == [f"{tmp_path}/v/a/1.mp4", f"{tmp_path}/v/b/2.mp4"]
    assert summary(tmp_path / "out")["paths_start_from"] == ""


def test_the_last_line_printed_can_be_pasted_into_a_shell(tmp_path, capsys):
    put(tmp_path / "my videos", "a/1.mp4", "b/2.mp4")

    run(tmp_path / "my videos", tmp_path / "out")

    last = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(last.removeprefix("Use with ")) == [
        *("TRAIN.DATASET", "csv", "TEST.DATASET", "csv", "MODEL.NUM_CLASSES", "2"),
        *("DATA.PATH_TO_DATA_DIR", str(tmp_path / "out")),
        *("DATA.PATH_PREFIX", str(tmp_path / "my videos")),
    ]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("kinetics_700_validate", "val"),
        ("kinetics600_holdout_test", "holdout_test"),
        ("train", "train"),
        ("trainer", None),
        ("train_val", None),
    ],
)
def test_the_split_is_found_in_the_name_of_a_file(name, split):
    assert split_named_in(name) == split


def test_folders_that_cannot_be_read_are_all_named(tmp_path, monkeypatch):
    put(tmp_path / "v", "a/1.mp4", "b/2.mp4", "c/3.mp4")
    scandir = os.scandir

    def refusing(place):
        if os.path.basename(place) in ("a", "c"):
            raise PermissionError(13, "Permission denied")
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refusing)

    with pytest.raises(UserError) as error:
        list_tree(tmp_path / "v")

    problems = str(error.value).splitlines()[1:]
    assert sorted(problems) == [
        f"  {tmp_path}/v/a: Permission denied",
        f"  {tmp_path}/v/c: Permission denied",
    ]


# Writing


def test_lists_of_another_origin_are_not_overwritten(tmp_path):
    put(tmp_path / "v", "a/1.mp4", "b/2.mp4")
    write(tmp_path / "out" / "val.csv", "mine")

    with pytest.raises(UserError, match=r"already contains val.csv, not written by this script"):
        run(tmp_path / "v", tmp_path / "out")

    assert (tmp_path / "out" / "val.csv").read_text() == "mine"


def test_an_interrupted_run_leaves_whole_files_and_the_next_one_finishes(tmp_path, monkeypatch):
    put(tmp_path / "v", "a/1.mp4", "b/2.mp4")
    run(tmp_path / "v", tmp_path / "out")
    names = summary(tmp_path / "out")["files"]
    old = all_bytes(tmp_path / "out", names)
    put(tmp_path / "v", "c/3.mp4")
    write_whole = plan_write.write_text_atomically

    def interrupted(path, text):
        if path.name == "missing.csv":
            raise KeyboardInterrupt
        return write_whole(path, text)

    monkeypatch.setattr(plan_write, "write_text_atomically", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "v", tmp_path / "out")
    monkeypatch.undo()

    between = all_bytes(tmp_path / "out", names)
    run(tmp_path / "v", tmp_path / "out")

    new = all_bytes(tmp_path / "out", names)
    assert all(between[name] in (old[name], new[name]) for name in names)
    assert between["summary.json"] == old["summary.json"] != new["summary.json"]
    assert sorted(os.listdir(tmp_path / "out")) == sorted(names)


# Checked files


def records(videos: Path, out: Path) -> Path:
    check_videos.main([str(videos), "--out", str(out), "--workers", "1"])
    return out


def test_only_good_files_are_listed(tmp_path):
    videos = tmp_path / "v"
    for name in ("a/good.mp4", "a/changed.mp4", "b/good.mp4"):
        put_video(videos / name)
    put(videos, "b/broken.mp4", content=b"no video")
    file = records(videos, tmp_path / "check.jsonl")
    put_video(videos / "a" / "changed.mp4", num_frames=5)
    put_video(videos / "b" / "new.mp4")

    run(videos, tmp_path / "out", "--records", str(file))

    assert listed(tmp_path / "out" / "train.csv") == ["a/good.mp4 0", "b/good.mp4 1"]
    left_out = {row["path"]: row for row in rows(tmp_path / "out" / "missing.csv")}
    assert {path: row["reason"] for path, row in left_out.items()} == {
        "a/changed.mp4": "not checked",
        "b/broken.mp4": "unreadable",
        "b/new.mp4": "not checked",
    }
    assert left_out["b/broken.mp4"]["detail"].startswith("failed: ")
    assert adds_up(tmp_path / "out")


@pytest.mark.parametrize("start", ["", "v/", "{root}/v/"], ids=["below", "relative", "whole"])
def test_records_may_name_files_from_where_they_were_made(tmp_path, monkeypatch, start):
    put(tmp_path / "v", "a/1.mp4", "b/2.mp4")
    monkeypatch.chdir(tmp_path)
    places = [start.format(root=tmp_path) + name for name in ("a/1.mp4", "b/2.mp4")]
    lines = [f'{{"path": "{place}", "status": "ok", "bytes": 9}}\n' for place in places]

    run(Path("v"), Path("out"), "--records", str(write(tmp_path / "r.jsonl", "".join(lines))))

    assert listed(tmp_path / "out" / "train.csv") == ["a/1.mp4 0", "b/2.mp4 1"]


def test_the_same_content_in_two_splits_is_reported(tmp_path):
    for name in ("train/a/1.mp4", "train/b/2.mp4", "train/b/3.mp4", "val/a/4.mp4"):
        put_video(tmp_path / "v" / name, num_frames=5 if name[-5] in "14" else int(name[-5]))
    file = records(tmp_path / "v", tmp_path / "check.jsonl")

    from_folder.main(
        ["--videos", str(tmp_path / "v"), "--out", str(tmp_path / "out"), "--records", str(file)]
    )

    (note,) = (n for n in summary(tmp_path / "out")["notes"] if "content" in n)
    assert note == (
        "videos whose content is also in another split or class: 1 "
        "(train/a/1.mp4 = val/a/4.mp4, for example)"
    )


def test_links_in_a_circle_are_broken_links(tmp_path):
    put(tmp_path / "v", "a/1.mp4", "b/2.mp4")
    (tmp_path / "v" / "a" / "self.mp4").symlink_to("self.mp4")

    run(tmp_path / "v", tmp_path / "out")

    assert reasons(tmp_path / "out") == {"a/self.mp4": "broken link"}


def test_records_of_other_files_are_refused(tmp_path):
    put(tmp_path / "v", "a/1.mp4", "b/2.mp4")
    file = write(tmp_path / "check.jsonl", '{"path": "1.mp4", "status": "ok", "bytes": 9}\n')

    with pytest.raises(UserError, match=r"they name '1.mp4', for example, .* as 'a/1.mp4'"):
        run(tmp_path / "v", tmp_path / "out", "--records", str(file))


def test_files_are_verified_in_parts_and_the_lists_written_when_all_are_done(tmp_path, capsys):
    videos, out = tmp_path / "v", tmp_path / "out"
    for i in range(4):
        put_video(videos / "a" / f"{i}.mp4")
    put(videos, "b/broken.mp4", content=b"no video")
    put(videos, "b/frames/1.jpg")
    verify = ["--verify", "--workers", "1"]

    assert run(videos, out, *verify, "--part", "0/2") == 0
    assert not (out / "train.csv").exists()
    with pytest.raises(UserError, match=r"part-1-of-2.jsonl is missing"):
        run(videos, out, *verify, "--merge")
    assert run(videos, out, *verify, "--shard", "1/2") == 0  # as in earlier versions
    assert run(videos, out, *verify, "--merge") == 0

    assert listed(out / "train.csv") == [*(f"a/{i}.mp4 0" for i in range(4)), "b/frames 1"]
    assert reasons(out) == {"b/broken.mp4": "unreadable"}
    assert "run the same command with --merge" in capsys.readouterr().out


def test_images_are_verified_by_reading_them(tmp_path):
    image = pytest.importorskip("PIL.Image").new("RGB", (8, 8))
    put(tmp_path / "v", "a/broken.png", "b/broken.png")
    for name in "ab":
        image.save(tmp_path / "v" / name / "good.png")

    run(tmp_path / "v", tmp_path / "out", "--verify", "--workers", "1")

    assert listed(tmp_path / "out" / "train.csv") == ["a/good.png 0", "b/good.png 1"]
    assert reasons(tmp_path / "out") == {"a/broken.png": "unreadable", "b/broken.png": "unreadable"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--part", "0/2"], "Add --verify"),
        (["--merge"], "Add --verify"),
        (["--verify", "--records", "x.jsonl"], "not both"),
        (["--verify", "--part", "2/2"], "i from 0 to N - 1"),
        (["--records", "nowhere.jsonl"], r"nowhere.jsonl: no such file"),
        (["--records", __file__], r"test_prep_plan.py: line 1 is not a record"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, options, message):
    put(tmp_path / "v", "a/1.mp4", "b/2.mp4")

    with pytest.raises(UserError, match=message):
        run(tmp_path / "v", tmp_path / "out", *options)
