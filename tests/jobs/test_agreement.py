"""Classes, preprocessing and settings that differ between weights, data and config."""

import json
import logging

import pytest
import torch

from slowfast_mvit.cli import main
from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.errors import WeightsError
from slowfast_mvit.jobs.agreement import in_order_of_weights, warn_of_labels, with_names_next_to_it

NAMES = ("jump rope", "swim", "run")


def videos(labels, names=NAMES):
    return VideoList([f"{i}.mp4" for i in range(len(labels))], labels, class_names=names)


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="slowfast_mvit")
    return caplog


def test_labels_are_matched_by_class_name(log):
    mapped = in_order_of_weights(videos([0, 1, 2, 0]), ("Run", "Jump_Rope", "fly", "swim"), "w")

    assert mapped.labels.tolist() == [1, 3, 0, 1]
    assert mapped.class_names == ("Run", "Jump_Rope", "fly", "swim")
    assert [video.path for video in mapped] == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]
    assert "labels are matched by class name" in log.text


@pytest.mark.parametrize("names", [None, NAMES, ("Jump_rope", "Swim", "RUN")])
def test_equal_or_unknown_names_change_nothing(names, log):
    same = videos([2, 1])

    assert in_order_of_weights(same, names, "w") is same
    assert not log.records


def test_an_unknown_class_with_videos_is_refused():
    with pytest.raises(WeightsError, match=r"w: 1 of the classes .*'swim'.*CLASS_NAMES_PATH"):
        in_order_of_weights(videos([0, 1]), ("jump rope", "fly", "run"), "w")

    in_order_of_weights(videos([0, 2]), ("run", "fly", "jump rope"), "w")  # no video swims


def test_classes_without_training_videos_and_labels_from_1_are_logged(log):
    warn_of_labels(videos([0, 0]), videos([1, 2]), 3)
    assert "'swim', 'run'" in log.text and "none for training" in log.text

    log.clear()
    warn_of_labels(videos([1, 2, 3], None), videos([1], None), 4)
    assert "labels are 1 to 3" in log.text and "NUM_CLASSES 3" in log.text

    log.clear()
    warn_of_labels(videos([0, 1, 2]), videos([1]), 3)
    assert not log.records


@pytest.fixture(scope="module")
def trained(tmp_path_factory, motion_data):
    """The config words and the checkpoint of a run of one epoch."""
    from tiny_config import TINY_CONFIG

    folder = tmp_path_factory.mktemp("trained")
    config = folder / "tiny.yaml"
    config.write_text(TINY_CONFIG)
    words = ["--cfg", str(config), "DATA.PATH_TO_DATA_DIR", str(motion_data)]
    words += ["SOLVER.MAX_EPOCH", "1", "OUTPUT_DIR", str(folder / "run")]
    assert main(["train", *words]) == 0
    return words, next((folder / "run" / "checkpoints").glob("*.pyth"))


def accuracy(words, out, data=None):
    status = main(["test", *words, "OUTPUT_DIR", str(out), *(data or [])])
    results = out / "test_results.json"
    return status, json.loads(results.read_text()) if results.is_file() else None


def test_a_test_on_the_same_data_in_another_order_gives_the_same_figures(
    trained, motion_data, tmp_path
):
    words, checkpoint = trained
    words = [*words, "TEST.CHECKPOINT_FILE_PATH", str(checkpoint)]
    names = (motion_data / "classes.txt").read_text().splitlines()
    data = tmp_path / "shuffled"
    data.mkdir()
    (data / "classes.txt").write_text("\n".join(names[::-1]))
    for name in ("train.csv", "val.csv"):
        lines = [line.rsplit(" ", 1) for line in (motion_data / name).read_text().splitlines()]
        text = "".join(f"{path} {len(names) - 1 - int(label)}\n" for path, label in lines)
        (data / name).write_text(text)
    elsewhere = ["DATA.PATH_TO_DATA_DIR", str(data), "DATA.PATH_PREFIX", str(motion_data)]

    expected = accuracy(words, tmp_path / "a")[1]
    status, actual = accuracy(words, tmp_path / "b", elsewhere)

    assert status == 0
    assert {**actual, "config_digest": ""} == {**expected, "config_digest": ""}
    report = (tmp_path / "b" / "report.html").read_text()
    assert main(["report", str(tmp_path / "b")]) == 0
    again = (tmp_path / "b" / "report.html").read_text()
    assert [again.count(name) for name in names] == [report.count(name) for name in names]

    (data / "classes.txt").write_text("\n".join([*names[:-1], "something else"]))
    assert accuracy(words, tmp_path / "c", elsewhere) == (2, None)


def test_another_normalisation_is_logged_with_both_values(trained, tmp_path):
    words, checkpoint = trained
    words = [*words, "TEST.CHECKPOINT_FILE_PATH", str(checkpoint), "DATA.MEAN", "[0.0, 0.0, 0.0]"]

    assert accuracy(words, tmp_path / "out")[0] == 0

    log = (tmp_path / "out" / "stdout.log").read_text()
    assert "mean [0.45, 0.45, 0.45], but this config has [0.0, 0.0, 0.0]" in log


def test_resuming_with_other_settings_logs_them_and_with_other_classes_is_refused(
    trained, motion_data, tmp_path, capsys, monkeypatch
):
    words, checkpoint = trained
    names = (motion_data / "classes.txt").read_text().splitlines()
    (tmp_path / "names.txt").write_text("\n".join(names[::-1]))
    words += ["TRAIN.CHECKPOINT_FILE_PATH", str(checkpoint), "SOLVER.MAX_EPOCH", "2"]
    words += ["SOLVER.BASE_LR", "0.25", "OUTPUT_DIR", str(tmp_path / "again")]

    assert main(["train", *words, "DATA.CLASS_NAMES_PATH", str(tmp_path / "names.txt")]) == 2
    assert "was trained on other classes" in capsys.readouterr().err
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert main(["train", *words, "TRAIN.RESUME_STRICT", "True"]) == 2
    assert (
        "changed since: 1 problem\n  float32 products: highest -> high" in capsys.readouterr().err
    )
    assert main(["train", *words]) == 0

    log = (tmp_path / "again" / "stdout.log").read_text()
    assert "the config has changed since" in log
    assert "SOLVER.BASE_LR: was 0." in log and "is 0.25" in log
    assert "the numerics have changed since: 1 problem\n  float32 products: highest -> high" in log


def test_names_that_differ_in_signs_alone_are_different_classes(log):
    for ours, theirs in (
        (("turn +90", "turn -90"), ("turn -90", "turn +90")),
        (("C#", "C++"), ("C++", "C#")),
        (("\N{THUMBS UP SIGN}", "\N{FIRE}"), ("\N{FIRE}", "\N{THUMBS UP SIGN}")),
    ):
        assert in_order_of_weights(videos([0, 0, 1], ours), theirs, "w").labels.tolist() == [
            1,
            1,
            0,
        ]
    with pytest.raises(WeightsError):
        in_order_of_weights(videos([0], ("\N{THUMBS UP SIGN}",)), ("\N{FIRE}",), "w")


def test_a_list_of_some_classes_is_matched_by_the_names_next_to_it(tmp_path, log):
    (tmp_path / "classes.txt").write_text("swim\nrun\n")

    named = with_names_next_to_it(videos([0, 1], None), str(tmp_path))

    assert in_order_of_weights(named, NAMES, "w").labels.tolist() == [1, 2]
    assert with_names_next_to_it(videos([0, 2], None), str(tmp_path)).class_names is None
    log.clear()
    assert in_order_of_weights(videos([0, 1], NAMES[:2]), NAMES, "w").class_names == NAMES
    assert not log.records
