"""``slowfast-mvit weights``: what a file is on one screen, and converted files."""

import json

import pytest
import timm
import torch

from slowfast_mvit import builders
from slowfast_mvit.cli import main
from slowfast_mvit.config import load_config
from slowfast_mvit.fast import create_model
from slowfast_mvit.runtime.checkpoint import save_checkpoint


@pytest.fixture
def checkpoint(tiny_config, tmp_path):
    config = load_config(tiny_config)
    model = builders.build_model(config)
    return save_checkpoint(
        tmp_path / "run",
        epoch=1,
        model_state=model.state_dict(),
        ema_state=model.state_dict(),
        optimizer_state=builders.build_optimizer(config, model).state_dict(),
        cfg_text=config.to_yaml(),
        extra={"input_spec": builders.input_spec(config, tuple("abcdefgh"))},
    )


@pytest.fixture
def image_weights(tmp_path):
    path = tmp_path / "mvitv2_tiny.pth"
    torch.save(timm.create_model("mvitv2_tiny", num_classes=10).state_dict(), path)
    return path


def lines_of(text):
    return {line[2:16].strip(): line[16:] for line in text.splitlines()[1:]}


def test_a_checkpoint_is_shown_on_one_screen(checkpoint, capsys):
    assert main(["weights", "inspect", str(checkpoint)]) == 0

    text = capsys.readouterr().out
    content = lines_of(text)
    assert text.startswith(f"{checkpoint}\n") and len(text.splitlines()) < 20
    assert content["source"] == "this project"
    assert content["model"] == "none of the published models"
    assert content["blocks"] == "2, 8 to 16 channels, growing in attention, 1 to 2 heads"
    assert content["input"] == "video, 4 frames of 32 x 32 px"
    assert (content["classes"], content["class token"]) == ("8", "yes")
    assert content["inside too"] == "optimizer, moving average, config, 8 class names, epoch 2"
    assert content["values"].endswith("tensors, float32")


def test_what_a_file_is_goes_into_json(image_weights, capsys):
    assert main(["weights", "inspect", str(image_weights), "--json"]) == 0

    content = json.loads(capsys.readouterr().out)
    assert content["source"] == "timm" and content["model"]["variant"] == "mvitv2_t_in1k"
    assert content["model"]["input_size"] == [1, 224, 224] and content["model"]["num_classes"] == 10
    assert content["num_values"] == 24_173_320 - 990 * 769  # as published, with 1000 classes
    assert content["inside"] == {
        "epoch": None,
        "optimizer": False,
        "moving_average": False,
        "config": False,
        "class_names": 0,
    }
    assert len(content["sha256"]) == 64


def test_a_pre_trained_backbone_is_printed_with_what_was_left_out(tmp_path, capsys):
    with torch.device("meta"):
        names = create_model("maskfeat_s_16x4").state_dict()
    state = {name: torch.zeros(value.shape) for name, value in names.items()}
    state = {n: v for n, v in state.items() if not n.startswith(("head.", "norm."))}
    torch.save({"model_state": {**state, "mask_token": torch.zeros(1)}}, tmp_path / "a.pyth")

    assert main(["weights", "inspect", str(tmp_path / "a.pyth")]) == 0

    content = lines_of(capsys.readouterr().out)
    assert content["model"] == "the backbone of maskfeat_s_16x4"
    assert content["left out"] == "mask_token" and content["classes"] == "no head"


@pytest.mark.parametrize("words", [["inspect"], ["convert", "--to", "timm"]], ids=["show", "write"])
def test_a_file_that_is_no_weights_gives_one_message(tmp_path, capsys, words):
    page = tmp_path / "mvit.pyth"
    page.write_text("<!DOCTYPE html><title>404</title>")
    out = [str(tmp_path / "out.pth")] if words[0] == "convert" else []

    assert main(["weights", words[0], str(page), *out, *words[1:]]) == 2

    content = capsys.readouterr().err
    assert "it is a web page" in content and len(content.splitlines()) == 1


def test_another_network_is_refused(tmp_path, capsys):
    path = tmp_path / "resnet.pth"
    torch.save({"conv1.weight": torch.ones(1), "layer1.0.conv1.weight": torch.ones(1)}, path)

    assert main(["weights", "inspect", str(path)]) == 2
    assert "not the weights of an MViT" in capsys.readouterr().err


def test_a_file_is_converted_there_and_back(image_weights, tmp_path, capsys):
    folder, back = tmp_path / "folder", tmp_path / "back.pth"

    assert main(["weights", "convert", str(image_weights), str(folder)]) == 0
    content = capsys.readouterr().out
    assert main(["weights", "convert", str(folder), str(back), "--to", "timm"]) == 0

    assert "tensors from timm names" in content and "without an input spec" in content
    before, after = (torch.load(path, weights_only=True) for path in (image_weights, back))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_converted_folder_predicts(checkpoint, motion_data, tmp_path, capsys):
    folder, video = tmp_path / "folder", next((motion_data / "val").glob("*.mp4"))

    assert main(["weights", "convert", str(checkpoint), str(folder), "--ema"]) == 0
    assert main(["weights", "convert", str(checkpoint), str(folder)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["predict", str(video), "--weights", str(folder), "--top-k", "2"]) == 0

    assert {line.split()[-1] for line in capsys.readouterr().out.splitlines()} <= set("abcdefgh")


def test_a_folder_that_does_not_say_what_it_takes_asks_for_the_config(
    image_weights, motion_data, tmp_path, capsys
):
    folder = tmp_path / "image"
    assert main(["weights", "convert", str(image_weights), f"{folder}/"]) == 0
    video = str(next(motion_data.rglob("*.mp4")))

    assert main(["predict", video, "--weights", str(folder)]) == 2

    assert "has no input_spec (frames and pixels)" in capsys.readouterr().err


def test_the_moving_average_predicts_on_request(checkpoint, motion_data, tmp_path, capsys):
    video = str(next((motion_data / "val").glob("*.mp4")))
    content = torch.load(checkpoint, weights_only=True)
    average = content["ema_state"]
    average["head.projection.weight"] = torch.zeros(8, 16)
    average["head.projection.bias"] = torch.arange(8.0)
    torch.save(content, tmp_path / "a.pyth")
    words = ["predict", video, "--weights", str(tmp_path / "a.pyth"), "--top-k", "1"]

    assert main([*words, "--ema"]) == 0
    averaged = capsys.readouterr().out
    assert main(words) == 0

    assert averaged == " 63.23 %  h\n" and capsys.readouterr().out != averaged


def test_classes_get_names_from_a_file(tiny_config, motion_data, tmp_path, capsys):
    weights, folder = tmp_path / "in.pth", str(tmp_path / "folder")
    torch.save(builders.build_model(load_config(tiny_config)).state_dict(), weights)
    words = ["weights", "convert", str(weights), folder]
    cfg, names = ["--cfg", str(tiny_config)], ["--class-names", str(motion_data / "classes.txt")]
    (tmp_path / "few.txt").write_text("run\nwalk\n")

    assert main([*words, *cfg, "--class-names", str(tmp_path / "few.txt")]) == 2
    assert "2 class names, but the model has 8 classes" in capsys.readouterr().err
    assert main([*words, *names]) == 2
    assert "Name the config" in capsys.readouterr().err
    assert main([*words, *cfg, *names]) == 0

    content = json.loads((tmp_path / "folder" / "config.json").read_text())
    expected = (motion_data / "classes.txt").read_text().splitlines()
    assert content["input_spec"]["class_names"] == expected


OPTIONS = ("--json", "--ema", "--cfg", "--class-names", "--to", "--overwrite")


def test_the_examples_in_the_help_name_every_option(capsys):
    with pytest.raises(SystemExit):
        main(["weights", "--help"])

    content = capsys.readouterr().out
    assert all(option in content for option in OPTIONS)
