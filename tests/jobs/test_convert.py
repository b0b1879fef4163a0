"""Weights from one kind of file into another: the same values, and a folder is a whole model."""

import json

import pytest
import torch
from safetensors import safe_open
from torchvision.models.video import mvit_v2_s

from slowfast_mvit import builders
from slowfast_mvit.config import load_config
from slowfast_mvit.errors import ConfigError, WeightsError
from slowfast_mvit.fast import create_model
from slowfast_mvit.jobs.predict import predict
from slowfast_mvit.jobs.weights import convert
from slowfast_mvit.models import VARIANTS
from slowfast_mvit.runtime.checkpoint import save_checkpoint
from slowfast_mvit.weights import load_weights
from slowfast_mvit.weights.architecture import matching_variant
from slowfast_mvit.weights.files import read_weights


@pytest.fixture
def checkpoint(tiny_config, tmp_path):
    """A checkpoint of a run, with a moving average and class names."""
    config = load_config(tiny_config)
    model = builders.build_model(config)
    names = tuple("abcdefgh")
    return save_checkpoint(
        tmp_path / "run",
        epoch=1,
        model_state=model.state_dict(),
        ema_state={name: value + 1 for name, value in model.state_dict().items()},
        optimizer_state=builders.build_optimizer(config, model).state_dict(),
        cfg_text=config.to_yaml(),
        extra={"input_spec": builders.input_spec(config, names)},
    )


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(first[name].dtype == second[name].dtype for name in first)


@pytest.mark.parametrize("out", ["out.pyth", "out.safetensors", "folder"])
def test_a_checkpoint_keeps_its_values_in_every_kind_of_file(checkpoint, tmp_path, out):
    converted = convert(checkpoint, tmp_path / out)

    file = read_weights(tmp_path / out)
    assert_same(file.state, read_weights(checkpoint).state)
    assert file.is_ours and file.epoch is None and not converted.left_out
    assert converted.num_tensors == len(file.state)


def test_a_folder_is_a_complete_model(checkpoint, tmp_path, motion_data):
    folder = tmp_path / "hub" / "mvit"

    convert(checkpoint, folder)
    model, trained = builders.model_of_checkpoint(folder), builders.model_of_checkpoint(checkpoint)

    content = json.loads((folder / "config.json").read_text())
    assert content["num_classes"] == 8 and content["variant"] is None
    assert content["input_spec"]["class_names"] == list("abcdefgh")
    assert "/" not in json.dumps(content)  # nothing of the machine it was trained on
    assert_same(model.state_dict(), trained.state_dict())
    assert model.input_spec == trained.input_spec
    video = next((motion_data / "val").glob("*.mp4"))
    assert predict(model, video, num_clips=2) == predict(trained, video, num_clips=2)


def test_a_folder_of_a_newer_version_is_refused(checkpoint, tmp_path):
    convert(checkpoint, tmp_path / "folder")
    path = tmp_path / "folder" / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "model": {**content["model"], "registers": 4}}))

    with pytest.raises(WeightsError, match=r"this version does not know .*'registers'"):
        builders.model_of_checkpoint(tmp_path / "folder")


def test_pyslowfast_reads_a_torch_file(checkpoint, tmp_path):
    convert(checkpoint, tmp_path / "out.pyth")

    content = torch.load(tmp_path / "out.pyth", weights_only=True)

    # With an epoch, PySlowFast would ask for the optimizer.
    assert content.keys() == {"model_state", "cfg", "slowfast_mvit"}
    assert_same(
        builders.model_of_checkpoint(tmp_path / "out.pyth").state_dict(), content["model_state"]
    )


def test_the_moving_average_is_written_on_request(checkpoint, tmp_path):
    convert(checkpoint, tmp_path / "out.safetensors", ema=True)

    average = read_weights(checkpoint, ema=True).state
    assert_same(read_weights(tmp_path / "out.safetensors").state, average)


def test_torchvision_weights_become_a_folder_and_come_back(tmp_path):
    state = {name: value.half() for name, value in mvit_v2_s().state_dict().items()}
    torch.save(state, tmp_path / "in.pth")

    convert(tmp_path / "in.pth", tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "out.pth", layout="torchvision")

    content = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert content["variant"] == "mvitv2_s_16x4" and content["input_spec"] is None
    assert_same(torch.load(tmp_path / "out.pth", weights_only=True), state)
    with safe_open(tmp_path / "folder" / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"


def test_a_config_adds_what_the_file_lacks(tiny_config, tmp_path):
    model = builders.build_model(load_config(tiny_config))
    torch.save(model.state_dict(), tmp_path / "in.pth")

    with pytest.raises(ConfigError, match=r"cannot be identified by their shapes.*--cfg"):
        convert(tmp_path / "in.pth", tmp_path / "folder")
    convert(tmp_path / "in.pth", tmp_path / "folder", config=load_config(tiny_config))

    assert builders.model_of_checkpoint(tmp_path / "folder").input_spec["num_frames"] == 4


def test_weights_that_are_not_those_of_the_config_are_refused(checkpoint, tiny_config, tmp_path):
    other = load_config(tiny_config, ["MVIT.MLP_RATIO", "2.0"])

    with pytest.raises(WeightsError, match=r"not the weights of its config's model: 6 problems"):
        convert(checkpoint, tmp_path / "out.pyth", config=other)

    assert not (tmp_path / "out.pyth").exists()


# As facebookresearch/mvit dumps it: PySlowFast's names, for a model of images.
MVIT_CONFIG = """
DATA: {IN22K_TRAINVAL: false, TRAIN_CROP_SIZE: 224, VAL_CROP_RATIO: 0.875}
MVIT: {CLS_EMBED_ON: false, DEPTH: 10, PATCH_KERNEL: [7, 7], POOL_KVQ_KERNEL: !!python/tuple [3, 3]}
"""


@pytest.mark.parametrize("cfg", [MVIT_CONFIG, "MVIT: {DEPTH: 4}"], ids=["mvit", "another model"])
def test_a_config_that_does_not_describe_the_weights_gives_way_to_their_shapes(
    tmp_path, caplog, cfg
):
    state = create_model("mvitv2_t_in1k", num_classes=5).state_dict()
    flat = {n: v.squeeze(2) if v.ndim == 5 else v for n, v in state.items()}
    torch.save({"model_state": flat, "cfg": cfg}, tmp_path / "in.pyth")

    converted = convert(tmp_path / "in.pyth", tmp_path / "folder")

    assert converted.description.variant == "mvitv2_t_in1k"
    assert "the config in it is not used" in caplog.text
    assert_same(read_weights(tmp_path / "folder").state, state)


@pytest.mark.parametrize("out", ["out.pyth", "folder"])
def test_nothing_is_overwritten_without_the_option(checkpoint, tmp_path, out):
    convert(checkpoint, tmp_path / out)

    with pytest.raises(ConfigError, match=r"exists already.*--overwrite"):
        convert(checkpoint, tmp_path / out)
    convert(checkpoint, tmp_path / out, overwrite=True)


@pytest.mark.parametrize(
    ("out", "layout", "message"),
    [
        ("out.onnx", "slowfast", r"unknown kind of file.*\.safetensors"),
        ("folder", "timm", "a folder contains our layout"),
    ],
)
def test_an_impossible_output_is_an_error_before_reading(tmp_path, out, layout, message):
    with pytest.raises(ConfigError, match=message):
        convert(tmp_path / "absent.pyth", tmp_path / out, layout=layout)


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - {"mvitv2_h_in21k"}))
def test_every_published_model_is_identified_by_its_shapes(name):
    with torch.device("meta"):
        state = create_model(name, num_classes=7).state_dict()

    assert matching_variant(state) == name


def test_a_published_model_is_identified_at_another_size_and_without_a_head():
    with torch.device("meta"):
        state = create_model("mvitv2_s_16x4", input_size=(32, 320, 320)).state_dict()
    state = {name: value for name, value in state.items() if not name.startswith("head.")}

    assert matching_variant(state) == "mvitv2_s_16x4"
    del state["norm.weight"]
    assert matching_variant(state) is None


def test_a_folder_fills_a_model_of_that_name(tmp_path):
    trained, model = create_model("mvitv2_t_in1k"), create_model("mvitv2_t_in1k")
    torch.save(trained.state_dict(), tmp_path / "in.pth")

    convert(tmp_path / "in.pth", tmp_path / "folder")
    report = load_weights(model, tmp_path / "folder", head="keep")

    assert report.source == "ours" and report.filled == 1.0
    assert_same(model.state_dict(), trained.state_dict())
