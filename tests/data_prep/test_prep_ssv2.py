"""Something-Something v2: JSON files and videos -> lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_trees import adds_up, listed, put, reasons, rows, summary, write

from data_prep import ssv2
from slowfast_mvit.data.lists.catalog import open_list
from slowfast_mvit.errors import ListError, UserError

LABELS = {
    "Pushing something from left to right": "1",
    "Holding something": "0",
    "Putting something that can't roll onto a slanted surface": "2",
}
TEMPLATES = {
    "1": "Holding [something]",
    "2": "Pushing [something] from left to right",
    "3": "Putting [something that can't roll] onto a slanted surface",
}


def annotate(folder: Path, prefix: str = "") -> Path:
    """The JSON files of a release with three training, one validation and two test videos."""
    train = [{"id": i, "template": t, "placeholders": ["a box"]} for i, t in TEMPLATES.items()]
    files: dict[str, object] = {
        "labels": LABELS,
        "train": train,
        "validation": [{"id": "11", "template": "Holding [something]"}],
        "test": [{"id": "21"}, {"id": "22"}],
    }
    for name, content in files.items():
        write(folder / f"{prefix}{name}.json", json.dumps(content))
    return folder


def run(labels: Path, videos: Path, out: Path, *more: str) -> int:
    words = ["--annotations", str(labels), "--videos", str(videos), "--out", str(out)]
    return ssv2.main([*words, "--num-classes", "3", *more])


ALL = ("1", "2", "3", "11", "21", "22")


@pytest.mark.parametrize(
    "names",
    [
        [f"{i}.webm" for i in ALL],
        [f"20bn-something-something-v2/{i}.webm" for i in ALL],
        [f"resized/{i}.mp4" for i in ALL],
        [f"{i}.WEBM" for i in ALL],
        [f"frames/{i}/{i}_000001.jpg" for i in ALL],
    ],
    ids=["flat", "in the archive's folder", "re-encoded", "upper case", "frames"],
)
@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
def test_both_releases_are_listed_in_every_layout(tmp_path, names, prefix):
    labels = annotate(tmp_path / "labels", prefix)
    put(tmp_path / "videos", *names)

    assert run(labels, tmp_path / "videos", tmp_path / "out") == 0

    train = open_list(
        "ssv2", "train", data_dir=tmp_path / "out", path_prefix=str(tmp_path / "videos")
    )
    classes = {Path(v.path).name.split(".")[0]: train.class_names[v.label] for v in train}
    assert classes == {
        "1": "Holding something",
        "2": "Pushing something from left to right",
        "3": "Putting something that can't roll onto a slanted surface",
    }
    assert [video.label for video in train] == [0, 1, 2]
    assert reasons(tmp_path / "out") == {"21": "no label", "22": "no label"}
    assert rows(tmp_path / "out" / "extra.csv") == []


def test_the_lists_equal_the_json_files_read_in_training(tmp_path):
    labels = annotate(tmp_path / "labels")
    put(tmp_path / "videos", *(f"{i}.webm" for i in ALL))

    run(labels, tmp_path / "videos", tmp_path / "out")

    for split in ("train", "val"):
        native, prepared = (
            open_list("ssv2", split, data_dir=folder, path_prefix=str(tmp_path / "videos"))
            for folder in (labels, tmp_path / "out")
        )
        assert prepared.class_names == native.class_names
        assert [(v.path, v.label) for v in prepared] == [(v.path, v.label) for v in native]


def test_the_answers_of_the_newer_release_label_the_test_videos(tmp_path):
    labels = annotate(tmp_path / "labels")
    write(labels / "test-answers.csv", "22;Holding something\n")
    put(tmp_path / "videos", *(f"{i}.webm" for i in ALL))

    run(labels, tmp_path / "videos", tmp_path / "out")

    assert listed(tmp_path / "out" / "test.csv") == ["22.webm 0"]
    assert reasons(tmp_path / "out") == {"21": "no label"}
    assert any("published results are of the validation" in n for n in notes(tmp_path / "out"))


def notes(out: Path) -> list[str]:
    found: list[str] = summary(out)["notes"]
    return found


def test_missing_videos_and_extra_files_are_reported(tmp_path):
    labels = annotate(tmp_path / "labels")
    entry = {"id": "4", "template": "Throwing [something]"}
    train = json.loads((labels / "train.json").read_text())
    write(labels / "train.json", json.dumps([*train, entry, entry, train[0]]))
    put(tmp_path / "videos", "1.webm", "4.webm", "11.webm", "99.webm")
    put(tmp_path / "videos", "2.webm", content=b"")

    run(labels, tmp_path / "videos", tmp_path / "out")

    left_out = [(row["video"], row["reason"]) for row in rows(tmp_path / "out" / "missing.csv")]
    assert left_out == [
        ("21", "no label"),
        ("22", "no label"),
        ("1", "duplicate"),
        ("2", "empty file"),
        ("3", "no file"),
        ("4", "no label"),
        ("4", "no label"),
    ]
    assert [row["path"] for row in rows(tmp_path / "out" / "extra.csv")] == ["99.webm"]
    assert adds_up(tmp_path / "out")


def test_classes_that_a_mirror_changes_are_named(tmp_path):
    labels = annotate(tmp_path / "labels")
    put(tmp_path / "videos", "1.webm")

    run(labels, tmp_path / "videos", tmp_path / "out")

    (note,) = (n for n in notes(tmp_path / "out") if "RANDOM_FLIP" in n)
    assert note.endswith("name a side: Pushing something from left to right")


def test_parts_of_the_archive_that_are_still_packed_are_named(tmp_path):
    labels = annotate(tmp_path / "labels")
    put(tmp_path / "videos", *(f"20bn-something-something-v2-{i:02d}" for i in range(20)))

    with pytest.raises(UserError) as error:
        run(labels, tmp_path / "videos", tmp_path / "out")

    assert "20 archives are still packed (first: 20bn-something-something-v2-00)" in str(
        error.value
    )
    assert "cat 20bn-something-something-v2-?? | tar zx" in str(error.value)


def test_another_number_of_classes_is_refused(tmp_path):
    labels = annotate(tmp_path / "labels")

    with pytest.raises(UserError, match=r"names 3 classes, expected 174.*--num-classes 3"):
        ssv2.plan_ssv2(videos=tmp_path, annotations=labels)


def test_all_entries_without_an_id_are_reported_at_once(tmp_path):
    labels = annotate(tmp_path / "labels")
    write(labels / "train.json", '[{"template": "a"}, {"id": "1"}, "x", {"id": {}}]')
    put(tmp_path / "videos", "1.webm")

    with pytest.raises(ListError) as error:
        run(labels, tmp_path / "videos", tmp_path / "out")

    assert str(error.value).splitlines()[1:] == [
        f'  entry {n}: lacks "id", the name of the video' for n in (1, 3, 4)
    ]


def test_an_entry_whose_template_is_null_has_no_label(tmp_path):
    labels = annotate(tmp_path / "labels")
    write(labels / "train.json", '[{"id": "1", "template": null}]')
    put(tmp_path / "videos", "1.webm", "11.webm")

    run(labels, tmp_path / "videos", tmp_path / "out")

    assert reasons(tmp_path / "out")["1"] == "no label"


def test_a_folder_without_labels_names_the_expected_files(tmp_path):
    put(tmp_path, "1.webm")

    with pytest.raises(UserError, match=r"no labels.json or something-something-v2-labels.json"):
        ssv2.plan_ssv2(videos=tmp_path)
