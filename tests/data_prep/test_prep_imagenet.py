"""ImageNet: class folders, or a flat folder with its ground truth -> lists."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_trees import adds_up, listed, put, reasons, rows, summary, write

from data_prep import imagenet
from slowfast_mvit.annotations.imagenet import read_numbers, read_val_labels
from slowfast_mvit.data.lists.catalog import open_list
from slowfast_mvit.errors import ListError, UserError

SYNSETS = ("n01440764", "n02012849", "n03126707")
TRAIN = [f"train/{synset}/{synset}_{i}.JPEG" for synset in SYNSETS for i in (1, 2)]
VAL = [f"val/ILSVRC2012_val_{i:08d}.JPEG" for i in (1, 2, 3)]
TRUTH = ("n03126707", "n01440764", "n02012849")  # of the three


def run(images: Path, out: Path, *more: str) -> int:
    return imagenet.main(["--images", str(images), "--out", str(out), "--num-classes", "3", *more])


def test_class_folders_are_listed_in_the_order_of_their_synsets(tmp_path):
    put(tmp_path / "i", *TRAIN, "val/n02012849/b.jpg", "val/n01440764/a.JPEG")
    put(tmp_path / "i", "val/n03126707/c.JPEG", content=b"")

    assert run(tmp_path / "i", tmp_path / "out") == 0

    train, val = (
        open_list("csv", split, data_dir=tmp_path / "out", path_prefix=str(tmp_path / "i"))
        for split in ("train", "val")
    )
    assert train.class_names == SYNSETS
    assert [video.label for video in train] == [0, 0, 1, 1, 2, 2]
    assert [video.label for video in val] == [0, 1]
    assert reasons(tmp_path / "out") == {"val/n03126707/c.JPEG": "empty file"}
    assert summary(tmp_path / "out")["splits"]["val"]["classes_without_videos"] == ["n03126707"]
    assert adds_up(tmp_path / "out")


CLSLOC = "n02012849 1 crane\nn03126707 2 crane\nn01440764 3 tench\n"
FORMS = {
    "synsets in turn": "{}\n{}\n{}\n".format(*TRUTH),
    "images and synsets": "".join(
        f"ILSVRC2012_val_{i:08d}.JPEG {synset}\n" for i, synset in enumerate(TRUTH, 1)
    ),
    "the competition's table": "ImageId,PredictionString\n"
    + "".join(f"ILSVRC2012_val_{i:08d},{s} 11 10 33 23\n" for i, s in enumerate(TRUTH, 1)),
    "images and labels": "".join(
        f"ILSVRC2012_val_{i:08d}.JPEG {label}\n" for i, label in enumerate((2, 0, 1), 1)
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_flat_folder_is_labelled_by_every_form_of_ground_truth(tmp_path, form):
    put(tmp_path / "i", *TRAIN, *VAL)
    file = write(tmp_path / "truth", FORMS[form])

    run(tmp_path / "i", tmp_path / "out", "--val-labels", str(file))

    assert listed(tmp_path / "out" / "val.csv") == [f"{VAL[0]} 2", f"{VAL[1]} 0", f"{VAL[2]} 1"]


def devkit(folder: Path) -> Path:
    write(folder / "data" / "ILSVRC2012_validation_ground_truth.txt", "2\n3\n1\n")
    return folder


def test_the_numbers_of_the_devkit_are_not_labels(tmp_path):
    put(tmp_path / "i", *TRAIN, *VAL[:2])
    kit = devkit(tmp_path / "kit")
    write(kit / "data" / "map_clsloc.txt", CLSLOC)

    run(tmp_path / "i", tmp_path / "out", "--devkit", str(kit))

    assert listed(tmp_path / "out" / "val.csv") == [f"{VAL[0]} 2", f"{VAL[1]} 0"]
    assert reasons(tmp_path / "out") == {"ILSVRC2012_val_00000003": "no file"}


def test_the_matlab_table_of_the_first_devkit_is_read(tmp_path):
    scipy_io = pytest.importorskip("scipy.io", reason="meta.mat is read with SciPy")
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    table = [(int(number), synset, 0) for synset, number, _ in map(str.split, CLSLOC.splitlines())]
    kit = devkit(tmp_path / "kit")
    scipy_io.savemat(kit / "data" / "meta.mat", {"synsets": np.array(table, dtype=fields)})

    assert read_numbers(kit) == {1: "n02012849", 2: "n03126707", 3: "n01440764"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.txt", "n01440764 tench, Tinca tinca\nn02012849\tcrane\nn03126707 crane\n"),
        (
            "index.json",
            json.dumps(
                {"0": ["n01440764", "tench"], "1": ["n02012849", "crane"]}
                | {"2": ["n03126707", "crane"]}
            ),
        ),
        (
            "names.json",
            json.dumps({"n01440764": "tench", "n02012849": "crane", "n03126707": "crane"}),
        ),
    ],
)
def test_names_are_english_and_two_cranes_are_distinguished(tmp_path, name, text):
    put(tmp_path / "i", *TRAIN)

    run(tmp_path / "i", tmp_path / "out", "--names", str(write(tmp_path / name, text)))

    assert listed(tmp_path / "out" / "classes.txt") == [
        "tench",
        "crane (n02012849)",
        "crane (n03126707)",
    ]


def test_flat_images_without_ground_truth_are_refused(tmp_path):
    put(tmp_path / "i", *TRAIN, *VAL)

    with pytest.raises(UserError, match=r"3 images of val are in no class folder.*--val-labels"):
        run(tmp_path / "i", tmp_path / "out")


def test_numbers_without_the_devkit_are_refused_all_at_once(tmp_path):
    file = write(tmp_path / "truth.txt", "490\nn01440764\nx\n")

    with pytest.raises(ListError) as error:
        read_val_labels(file, {}, SYNSETS)

    assert [line.split(":")[0] for line in str(error.value).splitlines()[1:]] == [
        "  line 1",
        "  line 3",
    ]
    assert "--devkit" in str(error.value)


def test_another_number_of_classes_is_refused_with_those_that_are_missing(tmp_path):
    put(tmp_path / "i", *TRAIN)
    names = write(tmp_path / "names.txt", "n01440764 tench\nn09999999 nothing\n")

    with pytest.raises(UserError, match=r"found 3 classes, expected 1000.*n09999999"):
        imagenet.plan_imagenet(images=tmp_path / "i", names=names)


def test_images_outside_of_splits_are_extra(tmp_path):
    put(tmp_path / "i", *TRAIN, "test/ILSVRC2012_test_00000001.JPEG", "n01440764/a.JPEG")

    run(tmp_path / "i", tmp_path / "out")

    extra = [row["path"] for row in rows(tmp_path / "out" / "extra.csv")]
    assert extra == ["n01440764/a.JPEG", "test/ILSVRC2012_test_00000001.JPEG"]
