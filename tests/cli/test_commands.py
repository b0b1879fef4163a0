"""The commands as a user types them, in one process; ``test_run_net.py`` runs them from outside."""

import json
import shutil

import numpy as np
import pytest
import torch

from slowfast_mvit.cli import main, run_net


@pytest.fixture
def trained(tiny_config):
    """The output folder of a finished tiny run, trained and tested through run_net."""
    assert run_net(["--cfg", str(tiny_config)]) == 0
    return tiny_config.parent / "out"


def test_one_config_gives_checkpoints_results_scores_and_a_report(trained):
    names = {path.name for path in trained.iterdir()}
    results = json.loads((trained / "test_results.json").read_text())
    scores = np.load(trained / "test_scores.npz", allow_pickle=False)

    assert names >= {"stdout.log", "json_stats.log", "report.html", "config.yaml"}
    assert [path.name for path in sorted((trained / "checkpoints").iterdir())] == [
        "best.pyth",
        "checkpoint_epoch_00001.pyth",
        "checkpoint_epoch_00002.pyth",
    ]
    assert results["num_videos"] == 8 and results["num_views"] == 6 and results["failed"] == 0
    assert set(results["per_class"]) >= {"move left", "grow"}
    assert scores["view_probs"].shape == (8, 6, 8) and scores["view_probs"].dtype == np.float16
    np.testing.assert_allclose(scores["probs"].sum(axis=1), 1, rtol=1e-6)
    right = scores["probs"].argmax(axis=1) == scores["labels"]
    assert results["top1"] == pytest.approx(100 * right.mean())


def test_a_checkpoint_has_what_pyslowfast_reads(trained):
    path = trained / "checkpoints" / "checkpoint_epoch_00002.pyth"

    content = torch.load(path, weights_only=True)

    assert content["epoch"] == 1
    assert isinstance(content["cfg"], str) and "NUM_FRAMES: 4" in content["cfg"]
    assert list(content["model_state"])[:2] == ["cls_token", "patch_embed.proj.weight"]
    assert {"layer_decay", "lr", "weight_decay"} <= content["optimizer_state"]["param_groups"][
        0
    ].keys()


def test_a_finished_run_is_not_trained_again_and_tests_the_same(trained, tiny_config):
    before = (trained / "test_scores.npz").read_bytes()
    saved = (trained / "checkpoints" / "checkpoint_epoch_00002.pyth").stat().st_mtime_ns

    assert run_net(["--cfg", str(tiny_config)]) == 0

    assert (trained / "checkpoints" / "checkpoint_epoch_00002.pyth").stat().st_mtime_ns == saved
    assert (trained / "test_scores.npz").read_bytes() == before


def test_predict_names_classes_and_report_writes_the_page_again(trained, motion_data, capsys):
    weights = str(trained / "checkpoints" / "checkpoint_epoch_00002.pyth")
    video = next((motion_data / "val").glob("*.mp4"))
    (trained / "report.html").unlink()

    assert main(["predict", str(video), "--weights", weights, "--top-k", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main(["report", str(trained)]) == 0

    assert len(lines) == 3 and all("%" in line for line in lines)
    assert lines[0].split("%")[1].strip() in (motion_data / "classes.txt").read_text().splitlines()
    assert (trained / "report.html").stat().st_size > 10_000


def test_a_run_folder_stands_for_its_best_weights(trained, motion_data, tmp_path, capsys):
    video = str(next((motion_data / "val").glob("*.mp4")))
    best = str(trained / "checkpoints" / "best.pyth")
    capsys.readouterr()

    assert main(["predict", video, "--weights", best, "--device", "cpu"]) == 0
    expected = capsys.readouterr().out
    assert main(["predict", video, "--weights", str(trained)]) == 0
    printed = capsys.readouterr()

    assert printed.out == expected
    assert "validated best, best.pyth" in printed.err
    (tmp_path / "checkpoints").mkdir()
    assert main(["predict", video, "--weights", str(tmp_path)]) == 2
    assert main(["predict", video, "--weights", best, "--device", "cuda:77"]) == 2
    assert "--device cuda:77: not a device" in capsys.readouterr().err


def test_a_wrong_word_anywhere_gives_one_message_and_status_2(tiny_config, capsys):
    cfg = str(tiny_config)
    broken = tiny_config.parent / "broken.pyth"
    broken.write_bytes(b"not a checkpoint")
    empty = tiny_config.parent / "empty"
    empty.mkdir()
    (empty / "train.csv").touch()
    (empty / "val.csv").touch()
    cases = {
        "Did you mean MVIT.DEPTH?": ["train", "--cfg", cfg, "MVIT.DEPHT", "3"],
        "no such folder": ["train", "--cfg", cfg, "DATA.PATH_TO_DATA_DIR", "nowhere"],
        "MODEL.NUM_CLASSES is 3": ["train", "--cfg", cfg, "MODEL.NUM_CLASSES", "3"],
        "not a readable PyTorch file": [
            *("test", "--cfg", cfg, "TEST.CHECKPOINT_FILE_PATH", str(broken)),
        ],
        "the list is empty": ["train", "--cfg", cfg, "DATA.PATH_TO_DATA_DIR", str(empty)],
        "no config file given": ["train"],
        "there is no such config file": ["train", "--cfg", "tiny.yml"],
        "several nodes need a process group": ["train", "--cfg", cfg, "NUM_SHARDS", "2"],
        "no test_results.json": ["report", str(empty)],
    }
    for message, words in cases.items():
        status = main(words)
        printed = capsys.readouterr().err
        assert status == 2, words
        assert message in printed, f"{words}: {printed}"
        assert "Traceback" not in printed


def test_a_mistake_leaves_the_config_of_a_finished_run_alone(trained, tiny_config):
    before = (trained / "config.yaml").read_text()

    assert main(["test", "--cfg", str(tiny_config), "DATA.PATH_TO_DATA_DIR", "nowhere"]) == 2

    assert (trained / "config.yaml").read_text() == before


def test_an_error_in_the_test_list_is_reported_before_training(tiny_config, motion_data, tmp_path):
    for name in ("train.csv", "val.csv"):
        shutil.copy(motion_data / name, tmp_path / name)
    (tmp_path / "test.csv").write_text("a.mp4 0\na.mp4 0\n")
    places = ["DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA.PATH_PREFIX", str(motion_data)]

    status = run_net(["--cfg", str(tiny_config), *places])

    assert status == 2
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_all_problems_of_a_config_are_reported_in_one_error(tiny_config, capsys):
    words = ["MVIT.DEPHT", "3", "SOLVER.BASE_LR", "fast", "SOLVER.LR_POLICY", "cosin"]

    assert main(["train", "--cfg", str(tiny_config), *words]) == 2

    printed = capsys.readouterr().err
    assert "3 problems" in printed
    assert "MVIT.DEPHT" in printed and "SOLVER.BASE_LR" in printed and "cosin" in printed


def test_overrides_work_with_and_without_opts(tiny_config, capsys):
    for words in (["SOLVER.BASE_LR", "fast"], ["--opts", "SOLVER.BASE_LR", "fast"]):
        assert run_net(["--cfg", str(tiny_config), *words]) == 2
        assert "SOLVER.BASE_LR: expected a number" in capsys.readouterr().err


def test_weights_are_random_only_where_that_is_asked_for(tiny_config, capsys):
    words = ["test", "--cfg", str(tiny_config)]
    assert main(words) == 2
    assert "set TEST.WEIGHTS random" in capsys.readouterr().err

    assert main([*words, "TEST.WEIGHTS", "random"]) == 0

    assert "random weights" in (tiny_config.parent / "out" / "report.html").read_text()


def test_an_unreadable_video_is_listed_next_to_the_accuracy(tiny_config, motion_data, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    lines = (motion_data / "val.csv").read_text().splitlines()
    absolute = [f"{motion_data}/{line}" for line in lines]
    (data / "broken.mp4").write_bytes(b"<html>404</html>")
    (data / "val.csv").write_text("\n".join([*absolute, f"{data}/broken.mp4 1"]) + "\n")
    words = ["DATA.PATH_TO_DATA_DIR", str(data), "TEST.NUM_TEMPORAL_CLIPS", "[2, 1]"]
    words += ["TEST.WEIGHTS", "random"]

    assert main(["test", "--cfg", str(tiny_config), *words]) == 0

    for folder in ("test_2_clips", "test_1_clips"):
        results = json.loads((tmp_path / "out" / folder / "test_results.json").read_text())
        assert (results["num_videos"], results["failed"]) == (8, 1)
        assert "broken.mp4" in (tmp_path / "out" / folder / "failed_videos.csv").read_text()


def test_lists_weights_and_outputs_may_be_remote(tiny_config, motion_data, shelf):
    (shelf / "lists").mkdir()
    for name in ("train.csv", "val.csv", "classes.txt"):
        shutil.copy(motion_data / name, shelf / "lists" / name)
    words = ["--cfg", str(tiny_config), "PATH_HANDLERS", "['shelf:ShelfHandler']"]
    words += ["DATA.PATH_TO_DATA_DIR", "shelf://lists", "DATA.PATH_PREFIX", str(motion_data)]

    assert run_net([*words, "OUTPUT_DIR", "shelf://runs/first"]) == 0

    first = shelf / "runs" / "first"
    names = {path.name for path in first.iterdir()}
    assert names >= {"stdout.log", "json_stats.log", "report.html", "config.yaml"}
    assert "OUTPUT_DIR: shelf://runs/first" in (first / "config.yaml").read_text()
    assert "first: test of 8 videos" in (first / "report.html").read_text()
    weights = "shelf://runs/first/checkpoints/checkpoint_epoch_00002.pyth"
    words += ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", weights]
    assert run_net([*words, "OUTPUT_DIR", "shelf://runs/second"]) == 0
    scores = [
        (shelf / "runs" / run / "test_scores.npz").read_bytes() for run in ("first", "second")
    ]
    assert scores[0] == scores[1]

    (first / "report.html").unlink()
    # Its config names the handler and the address of the store.
    assert main(["report", "--trust-config", "shelf://runs/first"]) == 0
    assert (first / "report.html").is_file()
