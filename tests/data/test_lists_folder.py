"""Class folders of videos, frames or images, with and without folders of splits; ImageNet."""

from __future__ import annotations

import json
import logging
import math
import os
import tracemalloc

import pytest

from slowfast_mvit import builders
from slowfast_mvit.annotations import class_folders
from slowfast_mvit.annotations.held_out import held_out
from slowfast_mvit.config import load_config
from slowfast_mvit.data.lists.catalog import open_list
from slowfast_mvit.errors import ListError


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"video")
    return folder


def read(folder, split="train", name="folder", **settings):
    return open_list(name, split, data_dir=folder, **settings)


def pairs(videos):
    return [(record.video_id, record.label) for record in videos]


def test_reads_videos_images_and_frame_folders_of_each_class(tmp_path, caplog):
    touch(tmp_path / "train/swim", "b.mp4", "a.webm", "c.AVI", "notes.txt", ".hidden.mp4")
    touch(tmp_path / "train/run", "frames/img_1.jpg", "frames/img_2.jpg", "one.png", "empty/x.txt")
    touch(tmp_path, "val/swim/v.mp4", "train/loose.mp4")

    videos = read(tmp_path, num_classes=2)

    assert videos.class_names == ("run", "swim")
    assert pairs(videos) == [
        ("run/frames", 0),
        ("run/one.png", 0),
        ("swim/a.webm", 1),
        ("swim/b.mp4", 1),
        ("swim/c.AVI", 1),
    ]
    assert videos[0].path == str(tmp_path / "train/run/frames")
    assert "'train/loose.mp4' is in no class folder" in caplog.text
    assert (
        "train/run: 1 not a video or an image (run/empty/x.txt); train/swim: 1 not" in caplog.text
    )


def test_a_class_that_a_split_lacks_does_not_shift_the_others(tmp_path):
    touch(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "train/c/3.mp4", "val/c/4.mp4")

    val, test = read(tmp_path, "val"), read(tmp_path, "test")

    assert pairs(val) == pairs(test) == [("c/4.mp4", 2)]
    assert val.class_names == ("a", "b", "c")


def test_without_folders_of_splits_a_fifth_of_each_class_is_held_out(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    touch(tmp_path, *(f"{name}/{i:02d}.mp4" for name in ("a", "b") for i in range(10)))

    train, val, test = (read(tmp_path, split) for split in ("train", "val", "test"))

    assert all(1 <= val.labels.tolist().count(label) <= 3 for label in (0, 1))
    assert pairs(val) == pairs(test)
    assert sorted(pairs(train) + pairs(val)) == [
        (f"{name}/{i:02d}.mp4", label) for label, name in enumerate("ab") for i in range(10)
    ]
    expected = f"of its 20 videos {len(val)} (about a fifth of each class, by their names) are held"
    assert expected in caplog.text
    assert val[0].path == str(tmp_path / val[0].video_id)


def test_files_that_are_added_later_do_not_move_the_others(tmp_path):
    touch(tmp_path, *(f"a/{i:02d}.mp4" for i in range(50)))
    before = {record.video_id for record in read(tmp_path, "val")}
    touch(tmp_path, *(f"a/new {i:02d}.mp4" for i in range(50)))
    after = {record.video_id for record in read(tmp_path, "val")}

    assert 5 <= len(before) <= 15
    assert {name for name in after if "new" not in name} == before


@pytest.mark.parametrize("num_names", [*range(12), 30, 100, 1000])
@pytest.mark.parametrize(("val", "test"), [(0.2, 0.0), (0.1, 0.3), (0.0, 0.2), (0.5, 0.4)])
def test_the_held_out_share_is_near_its_fraction_and_leaves_some_to_train_on(num_names, val, test):
    names = [f"class/{number}" for number in range(num_names)]

    split_of = held_out(names, val=val, test=test)

    for split, fraction in (("val", val), ("test", test)):
        number = list(split_of.values()).count(split)
        assert number <= max(math.ceil(1.5 * num_names * fraction), 1)
        assert number >= math.floor(num_names * fraction / 2) or num_names < 12
        assert number or not fraction or num_names < 3
    assert len(split_of) < num_names or not num_names


def test_one_of_two_files_is_held_out_and_single_files_are_refused(tmp_path):
    touch(tmp_path, "a/1.mp4", "a/2.mp4", "b/3.mp4")

    assert len(read(tmp_path, "val")) == 1
    assert len(read(tmp_path)) == 2

    (tmp_path / "a/2.mp4").unlink()
    with pytest.raises(ListError, match="every class has a single file"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["folder", "imagenet"])
def test_another_number_of_folders_than_classes_is_refused(tmp_path, name):
    touch(tmp_path, "train/n1/1.jpg", "train/n2/2.jpg")

    for num_classes in (1, 400):
        expected = f"2 folders of classes, but MODEL.NUM_CLASSES is {num_classes}"
        with pytest.raises(ListError, match=expected) as caught:
            read(tmp_path, name=name, num_classes=num_classes)
        assert "remove what is no class (n1, n2)" in str(caught.value)


def test_a_class_without_a_video_is_reported(tmp_path, caplog):
    touch(tmp_path, "train/run/1.mp4", "val/run/2.mp4", "val/swim/3.mp4")

    train = read(tmp_path)

    assert train.class_names == ("run", "swim")
    assert "no videos of class swim for train" in caplog.text


def test_class_names_give_the_indices_of_folders(tmp_path):
    touch(tmp_path, "train/Ride_a_bike/1.mp4", "train/swim/2.mp4")
    (tmp_path / "classes.txt").write_text("swim\nrun\nride a bike\n")

    videos = read(tmp_path, num_classes=3)

    assert pairs(videos) == [("Ride_a_bike/1.mp4", 2), ("swim/2.mp4", 0)]
    assert videos.class_names == ("swim", "run", "ride a bike")


def test_names_of_another_kind_follow_the_order_of_the_folders(tmp_path):
    touch(tmp_path, "train/n01440764/1.jpg", "train/n01443537/2.jpg")
    (tmp_path / "classes.txt").write_text("tench\ngoldfish\n")

    videos = read(tmp_path, name="imagenet", num_classes=2)

    assert videos.class_names == ("tench", "goldfish")
    assert videos.labels.tolist() == [0, 1]


def test_names_of_numbered_folders_follow_the_numbers(tmp_path):
    touch(tmp_path, *(f"train/{number}/a.mp4" for number in range(11)))
    (tmp_path / "classes.txt").write_text("\n".join("abcdefghijk"))

    videos = read(tmp_path)

    assert {record.video_id: videos.class_names[record.label] for record in videos} == {
        f"{number}/a.mp4": name for number, name in enumerate("abcdefghijk")
    }


def test_a_folder_that_is_no_class_is_named(tmp_path):
    touch(tmp_path, "train/swim/1.mp4", "train/backup/2.mp4")
    (tmp_path / "classes.txt").write_text("swim\nrun\n")

    with pytest.raises(ListError, match="folder 'backup' is not among the class names"):
        read(tmp_path)


def test_folders_without_any_video_are_refused(tmp_path):
    touch(tmp_path, "a/notes.txt")

    with pytest.raises(ListError, match=r"no videos or images.*; found a: 1 .* \(a/notes.txt\)"):
        read(tmp_path)
    with pytest.raises(ListError, match=r"no such folder \(DATA.PATH_TO_DATA_DIR\)"):
        read(tmp_path / "nowhere")


def test_a_folder_that_may_not_be_listed_is_an_error_of_the_user(tmp_path, monkeypatch):
    touch(tmp_path, "train/swim/1.mp4", "train/run/1.mp4")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("swim"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(ListError, match=r"swim: cannot be read \(Permission denied\)"):
        read(tmp_path)


def test_imagenet_classes_are_the_folders_named_by_wordnet(tmp_path):
    touch(tmp_path, "train/n01/a.JPEG", "train/n02/b.JPEG", "train/backup/c.JPEG", "val/n02/d.JPEG")

    assert pairs(read(tmp_path, name="imagenet")) == [("n01/a.JPEG", 0), ("n02/b.JPEG", 1)]
    assert pairs(read(tmp_path, "val", name="imagenet")) == [("n02/d.JPEG", 1)]


def test_reads_the_json_lists_of_imagenet(tmp_path):
    entries = [{"im_path": "train/n01/a.JPEG", "class": 0}, {"im_path": "/b.JPEG", "class": 1}]
    (tmp_path / "train.json").write_text(json.dumps(entries))

    videos = read(tmp_path, name="imagenet", path_prefix="/data", num_classes=2)

    assert pairs(videos) == [("train/n01/a.JPEG", 0), ("/b.JPEG", 1)]
    assert [record.path for record in videos] == ["/data/train/n01/a.JPEG", "/b.JPEG"]


def test_long_lists_take_little_memory_while_they_are_read(tmp_path, monkeypatch):
    names = [f"{number:08d}_with_a_long_name.JPEG" for number in range(20_000)]
    entries = [{"im_path": f"train/n01440764/{name}", "class": 0} for name in names]
    (tmp_path / "train.json").write_text(json.dumps(entries))
    for folder in "abcdefghij":
        (tmp_path / folder).mkdir()

    def walk(root, passed, start, **settings):
        return (f"{start}/{name}" for name in names[:2000])

    monkeypatch.setattr(class_folders, "walk", walk)
    monkeypatch.setattr(class_folders, "file_problem", lambda file, path: (None, 1))

    for name in ("imagenet", "folder"):
        tracemalloc.start()
        videos = read(tmp_path, name=name)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert len(videos) == 20_000 if name == "imagenet" else 15_000 < len(videos) < 17_000
        assert peak < 20_000 * 200  # bytes; dicts of the entries alone would take 300 each


@pytest.mark.parametrize(
    "text", ["", "{}", "[", '[{"im_path": "a.jpg", "class": 0}', "[1,]", "[1] 2", "[" * 50_000]
)
def test_json_that_is_no_list_is_refused(tmp_path, text):
    (tmp_path / "train.json").write_text(text)

    with pytest.raises(ListError, match=r"train.json: not a list in JSON"):
        read(tmp_path, name="imagenet")


def test_problems_of_a_json_list_are_reported_at_once(tmp_path):
    entries = [
        {"im_path": "a.jpg", "class": 0},
        {"im_path": "a.jpg", "class": 0},
        {"im_path": "b.jpg", "class": 2},
        {"im_path": "c.jpg", "class": "dog"},
        {"im_path": "https://host/d.jpg", "class": 0},
        {"image": "e.jpg"},
        {"im_path": None, "class": 0},
        {"im_path": "f.jpg", "class": True},
    ]
    (tmp_path / "val.json").write_text(json.dumps(entries))

    with pytest.raises(ListError) as caught:
        read(tmp_path, "val", name="imagenet", num_classes=2)

    message = str(caught.value)
    assert f"{tmp_path}/val.json: 7 problems" in message
    assert "entry 2: 'a.jpg' is also on entry 1" in message
    assert "entry 3: label 2 is outside 0 to 1" in message
    assert "entry 4: class 'dog' is not a whole number" in message
    assert "entry 5: path 'https://host/d.jpg' is a URL" in message
    assert 'entry 6: lacks "im_path" or "class"' in message
    assert "entry 7: im_path None is not a text" in message
    assert "entry 8: class True is not a whole number" in message
    (tmp_path / "val.json").write_text(" [ ]\n")
    with pytest.raises(ListError, match=r"val.json: the list is empty"):
        read(tmp_path, "val", name="imagenet")


def test_a_config_names_a_plain_folder_and_gets_batches_of_it(tmp_path, tiny_config, motion_data):
    for number, video in enumerate(sorted((motion_data / "val").glob("*.mp4"))[:6]):
        folder = tmp_path / ("still", "moving")[number % 2]
        folder.mkdir(exist_ok=True)
        (folder / video.name).symlink_to(video)
    words = ["TRAIN.DATASET", "folder", "DATA.PATH_TO_DATA_DIR", str(tmp_path)]
    config = load_config(tiny_config, [*words, "MODEL.NUM_CLASSES", "2", "TRAIN.BATCH_SIZE", "4"])

    videos = builders.build_videos(config, "train")
    batch = next(iter(builders.build_train_loader(config, videos).epoch(0)))

    assert videos.class_names == ("moving", "still")
    assert sorted(batch.labels.tolist()) == [0, 0, 1, 1]


def test_a_class_name_with_control_characters_is_refused(tmp_path):
    touch(tmp_path, "train/a/1.mp4", "train/b\x1b[2J/2.mp4")

    with pytest.raises(ListError, match=r"'b\\x1b\[2J' has control characters"):
        read(tmp_path, num_classes=2)
