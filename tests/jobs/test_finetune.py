"""``slowfast-mvit finetune``: a folder of user videos and a file of weights."""

import json
import shutil

import pytest
import torch
from class_folders import config_of, folder_of, write_weights

from slowfast_mvit import builders
from slowfast_mvit.cli import main
from slowfast_mvit.errors import ListError, UserError
from slowfast_mvit.jobs.finetune import read_user_data

CLASSES = ("growing", "moving left", "turning")
QUICK = ["NUM_GPUS", "0", "DATA_LOADER.NUM_WORKERS", "0", "TRAIN.CHECKPOINT_PERIOD", "1"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory, motion_data):
    """Folders of three classes, the first with four videos and the others with three."""
    folder = tmp_path_factory.mktemp("clips")
    videos = sorted((motion_data / "train").glob("*.mp4"))
    for number in range(10):
        place = folder / CLASSES[number % 3]
        place.mkdir(exist_ok=True)
        shutil.copy(videos[number], place / f"{number}.mp4")
    return folder


def finetune(data, weights, out, *words):
    command = ["finetune", "--data", str(data), "--weights", str(weights), "--out", str(out)]
    assert main([*command, *words, *QUICK]) == 0
    return torch.load(sorted((out / "checkpoints").glob("checkpoint*"))[-1], weights_only=True)


def moved(checkpoint, weights):
    """The names of the parameters that are not as they were."""
    before = torch.load(weights, weights_only=True)["model_state"]
    after = checkpoint["model_state"]
    return {
        name
        for name in after
        if before[name].shape != after[name].shape or not torch.equal(before[name], after[name])
    }


def test_a_folder_and_a_file_give_a_classifier_with_names(clips, weights, tmp_path, capsys):
    out = tmp_path / "out"

    checkpoint = finetune(clips, weights, out, "--epochs", "2", "--batch-size", "4")

    results = json.loads((out / "test_results.json").read_text())
    assert set(results["per_class"]) == set(CLASSES)
    assert results["num_videos"] == 3
    assert checkpoint["slowfast_mvit"]["input_spec"]["class_names"] == list(CLASSES)
    report = json.loads((out / "load_report.json").read_text())
    assert set(report["initialised"]) == {"head.projection.weight", "head.projection.bias"}
    assert not report["missing"] and not report["unexpected"]
    *_, logged = capsys.readouterr().out.partition("held-out videos are correct; by class:")
    assert all(name in logged for name in CLASSES)
    assert f"report:  {out}/report.html" in logged and (out / "report.html").is_file()


@pytest.mark.parametrize(
    ("words", "ending"),
    [
        (["TRAIN.EARLY_STOPPING", "1"], ".pyth"),
        (["TRAIN.EMA_DECAY", "0.5", "TEST.WEIGHTS", "ema"], "_00004.pyth --ema"),
        (["TEST.WEIGHTS", "best"], "checkpoints/best.pyth"),
    ],
    ids=["last", "ema", "best"],
)
def test_the_command_it_ends_with_names_a_class(clips, weights, tmp_path, capsys, words, ending):
    finetune(clips, weights, tmp_path, "--epochs", "4", *words)
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.endswith(ending)

    words = line.partition("slowfast-mvit ")[2].split()
    video = str(next((clips / "turning").iterdir()))
    assert main([video if word == "VIDEO" else word for word in words]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert {line.split("%")[1].strip() for line in lines} == set(CLASSES)


def test_a_killed_run_resumes_and_ends_with_the_same_weights(clips, weights, tmp_path):
    whole = finetune(clips, weights, tmp_path / "whole", "--epochs", "2")
    killed = tmp_path / "killed" / "checkpoints"
    killed.mkdir(parents=True)
    shutil.copy(tmp_path / "whole" / "checkpoints" / "checkpoint_epoch_00001.pyth", killed)

    resumed = finetune(clips, weights, tmp_path / "killed", "--epochs", "2")

    assert resumed["epoch"] == whole["epoch"] == 1
    for name, value in whole["model_state"].items():
        assert torch.equal(resumed["model_state"][name], value), name


def test_another_run_in_the_folder_is_not_resumed(clips, weights, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    finetune(clips, weights, tmp_path / "out", "--epochs", "1")
    others = folder_of(tmp_path / "others", **{name.upper(): 2 for name in CLASSES})

    with pytest.raises(UserError, match="classes: were growing, moving left, turning; are GROW"):
        config_of(others, weights, *out)
    with pytest.raises(UserError, match=r"TRAIN.FREEZE: was \(\), is \('\[!h\]\*',\)"):
        config_of(clips, weights, *out, "--linear-probe")
    assert config_of(clips, weights, *out, "--epochs", "3").solver.max_epoch == 3


def test_a_linear_probe_moves_two_tensors(clips, weights, tmp_path):
    checkpoint = finetune(clips, weights, tmp_path, "--epochs", "2", "--linear-probe")

    assert moved(checkpoint, weights) == {"head.projection.weight", "head.projection.bias"}
    groups = checkpoint["optimizer_state"]["param_groups"]
    assert sum(len(group["params"]) for group in groups) == 2


def test_frozen_patterns_stay_and_the_others_move(clips, weights, tmp_path):
    patterns = ("--freeze", "patch_embed.*", "--freeze", "blocks.0.*")

    names = moved(finetune(clips, weights, tmp_path, "--epochs", "2", *patterns), weights)

    assert not any(name.startswith(("patch_embed.", "blocks.0.")) for name in names)
    assert "blocks.1.mlp.fc1.weight" in names and "head.projection.weight" in names


def test_as_many_classes_as_the_weights_have_still_get_a_new_head(weights, tmp_path):
    data = folder_of(tmp_path / "data", **{f"class{number}": 2 for number in range(8)})
    config = config_of(data, weights)
    model = builders.build_model(config)

    report = builders.load_initial_weights(config, model)

    assert "head.projection.weight" in report.initialised


def test_rate_warm_up_and_batch_go_together(weights, tmp_path):
    data = folder_of(tmp_path / "data", a=20, b=20)
    usual = config_of(data, weights).solver

    config = config_of(data, weights, "--batch-size", "4", "--epochs", "10")

    assert config.train.batch_size == 4 and config.solver.max_epoch == 10
    assert config.solver.base_lr == pytest.approx(usual.base_lr / 2)
    assert config.solver.warmup_epochs == pytest.approx(usual.warmup_epochs / 3)
    assert config_of(data, weights, "--batch-size", "64").train.batch_size == 32  # all there are


@pytest.mark.parametrize(("num_videos", "share"), [(600, 0.0), (1300, 1.0)])
def test_videos_are_mixed_where_there_are_many(weights, tmp_path, num_videos, share):
    data = folder_of(tmp_path / "data", a=num_videos // 2, b=num_videos // 2)

    assert config_of(data, weights).mixup.prob == share


@pytest.mark.parametrize(("name", "flips"), [("turn_left", False), ("leftovers", True)])
def test_videos_are_mirrored_unless_a_class_names_a_side(weights, tmp_path, name, flips):
    data = folder_of(tmp_path / "data", jump=4, **{name: 4})

    assert config_of(data, weights).data.random_flip is flips


def test_missing_class_names_are_logged(weights, tmp_path, caplog):
    (tmp_path / "train.csv").write_text("a.mp4 0\nb.mp4 1\nc.mp4 1\n")
    (tmp_path / "val.csv").write_text("d.mp4 0\ne.mp4 1\n")
    for name in "abcde":
        (tmp_path / f"{name}.mp4").write_bytes(b"video")

    config = config_of(tmp_path, weights)

    assert config.train.dataset == "csv" and config.model.num_classes == 2
    assert "Write them into classes.txt" in caplog.text


def lists_in(folder, train, val, *, files="abcd"):
    (folder / "train.csv").write_text(train)
    (folder / "val.csv").write_text(val)
    for name in files:
        (folder / f"{name}.mp4").write_bytes(b"video")
    return folder


@pytest.mark.parametrize("separator", [",", ";", "|", "\t", " "])
def test_lists_of_any_separator_are_read(weights, tmp_path, separator):
    lines = [f"{name}.mp4{separator}{label}\n" for name, label in zip("abcd", "0101", strict=True)]
    lists_in(tmp_path, "path" + separator + "label\n" + "".join(lines[:2]), "".join(lines[2:]))

    config = config_of(tmp_path, weights)

    assert config.model.num_classes == 2
    assert len(builders.build_videos(config, "train")) == 2


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ("a.mp4,run\nb.mp4,swim\n", "c.mp4,run\n", "has one field, 'a.mp4,run', expected a path"),
        ("a.mp4 run\nb.mp4 swim\n", "c.mp4 run\n", "from_folder.py --labels writes lists from"),
        ("a.mp4 1\nb.mp4 2\n", "c.mp4 1\nd.mp4 2\n", "labels count from 1"),
        ("x/a.mp4 0\nx/b.mp4 1\n", "x/c.mp4 0\n", "none of its 3 videos is there (first: "),
    ],
    ids=["names and commas", "names", "from 1", "another folder"],
)
def test_lists_of_another_form_are_refused(tmp_path, train, val, message):
    with pytest.raises(ListError) as caught:
        read_user_data(str(lists_in(tmp_path, train, val)))

    assert message in str(caught.value)


def test_videos_of_lists_that_are_missing_or_in_both_are_logged(tmp_path, caplog):
    lists_in(tmp_path, "a.mp4 0\nb.mp4 1\nb.mp4 0\n", "./a.mp4 0\nz.mp4 1\n")

    read_user_data(str(tmp_path))

    assert "1 of 5 videos are not there (first: " in caplog.text
    assert "2 videos are in both splits or in two classes (first: " in caplog.text
    assert "(first: line 3, 'b.mp4')" in caplog.text
    assert "Labels differ: line 3 gives 0" in caplog.text


def test_links_between_classes_or_splits_are_logged(tmp_path, caplog):
    folder_of(tmp_path, **{"train/a": 3, "train/b": 3, "val/a": 1, "val/b": 1})
    (tmp_path / "train/a/all").symlink_to("../b")
    (tmp_path / "train/b/loop").symlink_to("..")
    (tmp_path / "train/b/itself").symlink_to("itself")
    (tmp_path / "val/b/1.mp4").hardlink_to(tmp_path / "train/b/0001.mp4")

    videos = read_user_data(str(tmp_path))

    assert (videos.num_train, videos.num_val) == (9, 3)
    assert "4 videos are in both splits or in two classes (first: " in caplog.text


def test_arguments_take_precedence_over_derived_values(weights, tmp_path):
    data = folder_of(tmp_path / "data", a=4, b=4)

    config = config_of(data, weights, "SOLVER.BASE_LR", "0.5", "DATA.RANDOM_FLIP=False")

    assert config.solver.base_lr == 0.5 and not config.data.random_flip


@pytest.mark.parametrize(
    ("classes", "messages"),
    [
        ({"a": 3, "b": 1, "c": 0}, ["2 problems", "'b' has a single video", "'c' contains no v"]),
        ({"a": 5}, ["there is one class, 'a'"]),
        ({"a": 0, "b": 0}, ["no videos or images. Expected folders of classes"]),
        ({}, ["no such folder"]),
        ({"train/a": 2, "train/b": 0, "val/b": 2}, ["class folder 'b' contains no videos"]),
        ({"train/a": 2, "val/a": 1, "val/b": 2}, ["'b' has no videos to train on, but 2 held"]),
        ({"a": 3, "b": 1}, ["'b' has a single video"]),
    ],
    ids=[
        "few videos",
        "one class",
        "no videos",
        "no folder",
        "all left out",
        "no folder of it",
        "1",
    ],
)
def test_the_problems_of_folder_and_weights_are_reported_at_once(tmp_path, classes, messages):
    data = folder_of(tmp_path / "data", **classes)

    with pytest.raises(UserError) as caught:
        config_of(data, tmp_path / "nowhere.pyth")

    for message in [*messages, "nowhere.pyth"]:
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "0"], "--epochs 0: expected a whole number of at least 1"),
        (["--batch-size", "-8"], "--batch-size -8: expected"),
        (["SOLVER.BASE_LR", "fast"], "SOLVER.BASE_LR: expected a number"),
        (["MVIT.DEPHT", "3"], "Did you mean MVIT.DEPTH?"),
    ],
    ids=["epochs", "batch", "value", "key"],
)
def test_a_wrong_argument_is_reported(weights, tmp_path, words, message):
    data = folder_of(tmp_path / "data", a=4, b=4)

    with pytest.raises(UserError) as caught:
        config_of(data, weights, *words)

    assert message in str(caught.value)


def test_missing_weights_are_an_error(tmp_path, capsys):
    data = folder_of(tmp_path / "data", a=4, b=4)

    assert main(["finetune", "--data", str(data)]) == 2

    assert "--weights is missing" in capsys.readouterr().err


def test_it_can_be_launched_as_several_processes(monkeypatch):
    commands = []
    monkeypatch.setattr(
        "slowfast_mvit.launch.torchrun.run_agent",
        lambda launch, command: commands.append(command) or 0,
    )

    assert main(["launch", "--nproc_per_node", "2", "--", "finetune", "--data", "clips"]) == 0

    assert commands[0][-3:] == ["finetune", "--data", "clips"]
