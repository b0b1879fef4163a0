"""Models by name: with weights in torch.hub's folder, which nothing needs to fetch."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from clips import write_clip
from pytorchvideo.models.hub import mvit_base_16x4
from torchvision.models.video import mvit_v1_b, mvit_v2_s

import slowfast_mvit as sm
from slowfast_mvit.builders import model_of_checkpoint
from slowfast_mvit.cli import main
from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.errors import ConfigError, WeightsError
from slowfast_mvit.jobs.agreement import in_order_of_weights, warn_of_preprocessing
from slowfast_mvit.storage.download import DownloadError
from slowfast_mvit.weights.architecture import matching_variant
from slowfast_mvit.weights.files import read_weights
from slowfast_mvit.weights.names import to_ours
from slowfast_mvit.weights.zoo import ZOO, class_names

REFERENCE = Path(__file__).parents[1] / "reference/state_dicts"
K400 = ZOO["mvitv2_s_16x4.k400"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A folder of torch.hub with random weights under the name of PySlowFast's S on Kinetics."""
    folder = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    model = sm.create_model("mvitv2_s_16x4")
    (folder / "hub/checkpoints").mkdir(parents=True)
    content = {"model_state": model.state_dict(), "epoch": 199, "optimizer_state": {}}
    torch.save(content, folder / "hub/checkpoints" / K400.file_name)
    return folder


@pytest.fixture(autouse=True)
def offline(hub, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(hub))
    monkeypatch.setenv("SLOWFAST_MVIT_OFFLINE", "1")


def clip():
    return torch.randn(1, 3, 16, 224, 224)


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "mvitv2_s_16x4.k400"},
        {"name": "mvitv2_s_16x4", "weights": "k400"},
        {"name": "mvit_v2_s", "weights": "mvitv2_s_16x4.k400"},
        {"name": "mvitv2_s_16x4", "weights": K400.url},
    ],
    ids=str,
)
def test_a_model_has_the_weights_the_preprocessing_and_the_names(arguments, hub):
    model = sm.create_model(**arguments)

    state = torch.load(hub / "hub/checkpoints" / K400.file_name)["model_state"]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model.input_spec == K400.input_spec()
    assert model.input_spec["class_names"][:2] == ["abseiling", "air drumming"]


def test_other_classes_get_a_new_head_and_no_names():
    model = sm.create_model("mvitv2_s_16x4.k400", num_classes=7)

    assert model.head.projection.out_features == 7
    assert model.input_spec["class_names"] is None


def test_another_input_size_changes_the_preprocessing():
    model = sm.create_model("mvitv2_s_16x4.k400", input_size=(8, 112, 112))

    spec = model.input_spec
    assert (spec["num_frames"], spec["crop_px"], spec["scale_px"]) == (8, 112, 128)
    assert spec["class_names"] == K400.input_spec()["class_names"]


def test_a_model_without_weights_knows_its_input():
    model = sm.create_model("mvitv2_b_32x3")

    assert model.input_spec["num_frames"] == 32
    assert model.input_spec["class_names"] is None


def test_an_image_model_is_inflated_to_clips(tmp_path):
    image = sm.create_model("mvitv2_s_in1k")
    torch.save(image.state_dict(), tmp_path / "MViTv2_S_in1k.pyth")

    model = sm.create_model("mvitv2_s_16x4", weights=tmp_path / "MViTv2_S_in1k.pyth")

    middle = model.patch_embed.proj.weight[:, :, 1]
    assert torch.equal(middle, image.patch_embed.proj.weight.reshape(middle.shape))
    assert model.input_spec["num_frames"] == 16
    assert model.input_spec["class_names"] is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "mvitv2_s_16x5"}, ConfigError, "mvitv2_s_16x4"),
        (
            {"name": "mvitv2_s_16x4.k400", "weights": "ssv2"},
            ConfigError,
            "names weights already.*'ssv2'",
        ),
        (
            {"name": "mvitv2_s_16x4", "weights": "k4000"},
            WeightsError,
            "k4000: neither a file .* Weights of this model: mvitv2_s_16x4.k400, ",
        ),
        (
            {"name": "MVITv2_B_32x3.k700"},
            WeightsError,
            "k700: neither .* Weights of this model: mvitv2_b_32x3.k400, mvitv2_b_32x3.ssv2",
        ),
        (
            {"name": "mvitv2_s_16x4", "weights": "https://host/a.pyth?signature=" + "0" * 400},
            DownloadError,
            "OFFLINE.* is set.* as a.pyth",
        ),
        (
            {"name": "mvitv2_b_32x3.k400"},
            DownloadError,
            "SLOWFAST_MVIT_OFFLINE.* is set.*as MViTv2_B_32x3_k400_f304025456.pyth",
        ),
        (
            {"name": "mvitv2_s_16x4", "weights": "hf-hub:no/such"},
            DownloadError,
            "hf download no/such",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_is_said(arguments, error, message):
    with pytest.raises(error, match=message):
        sm.create_model(**arguments)


@pytest.mark.parametrize("weights", ["mvitv2_s_16x4.k400", "mvit_v2_s.pth"])
def test_predict_answers_with_names_without_a_config(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.mp4")
    if weights.endswith(".pth"):
        torch.save(mvit_v2_s().state_dict(), weights)

    assert main(["predict", "clip.mp4", "--weights", weights, "--clips", "1", "--top-k", "2"]) == 0

    out, err = capsys.readouterr()
    names = [line.split(" %  ")[1] for line in out.splitlines() if " %  " in line]
    assert len(names) == 2 and set(names) <= set(class_names("k400"))
    assert ("class names are assumed to be those of k400" in out + err) == weights.endswith(".pth")


def test_data_and_config_are_compared_with_published_weights(caplog):
    spec = read_weights(K400.url).extra["input_spec"]
    names = [name.title() for name in reversed(class_names("k400"))]
    videos = VideoList(["a.mp4"], [0], class_names=names)
    config = sm.load_config("Kinetics/MVITv2_S_16x4.yaml", ["DATA.MEAN", "[0.5, 0.5, 0.5]"])

    warn_of_preprocessing(config, spec, "weights")
    in_order = in_order_of_weights(videos, spec["class_names"], "weights")

    assert "weights: was trained with pixels of the mean [0.45, 0.45, 0.45]" in caplog.text
    assert in_order.labels.tolist() == [399]


def random_values(shapes):
    return {name: 0.02 * torch.randn(shape) for name, shape in shapes.items()}


def listed(file):
    shapes = json.loads((REFERENCE / file).read_text())
    return lambda: random_values(shapes)


MANY = pytest.mark.nightly


@pytest.mark.parametrize(
    ("make", "name"),
    [
        pytest.param(
            lambda: mvit_v1_b().state_dict(),
            "mvitv1_b_16x4.tv_k400",
            marks=MANY,
            id="torchvision",
        ),
        pytest.param(
            lambda: timm.create_model("mvitv2_tiny").state_dict(), "mvitv2_t_in1k.timm", id="timm"
        ),
        pytest.param(
            lambda: mvit_base_16x4(pretrained=False).state_dict(),
            "mvitv1_b_16x4.ptv_k400",
            marks=MANY,
            id="pytorchvideo",
        ),
        pytest.param(
            listed("elsewhere/mmaction2_mvit_small.json"),
            "mvitv2_s_16x4.mm_k400",
            marks=MANY,
            id="mmaction2",
        ),
        pytest.param(listed("mvitv2_s_16x4.json"), "mvitv2_s_16x4.k400", marks=MANY, id="S"),
        pytest.param(listed("mvitv2_s_16x4_ssv2.json"), "mvitv2_s_16x4.ssv2", id="S, SSv2"),
        pytest.param(listed("mvitv2_b_32x3.json"), "mvitv2_b_32x3.k400", marks=MANY, id="B"),
        pytest.param(listed("mvitv2_l_40x3.json"), "mvitv2_l_40x3.in21k_k400", marks=MANY, id="L"),
        pytest.param(
            listed("mvitv1_b_32x3_conv.json"), "mvitv1_b_32x3.k400", marks=MANY, id="v1, 24 blocks"
        ),
    ],
)
def test_files_of_every_source_know_their_input_without_a_config(make, name):
    torch.manual_seed(0)
    state = {"model_state": make()}

    model = model_of_checkpoint(state)

    assert model.input_spec == ZOO[name].input_spec()
    assert matching_variant(model.state_dict()) == ZOO[name].model
    assert to_ours(state["model_state"], name)[0].keys() >= set(model.state_dict())


@pytest.mark.nightly
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
def test_weights_of_every_precision_by_name_path_and_hub(dtype, tmp_path, monkeypatch):
    row = ZOO["mvitv2_t_in1k.fb"]
    state = {k: v.to(dtype) for k, v in sm.create_model(row.model).state_dict().items()}
    path = tmp_path / "hub/checkpoints" / row.file_name
    path.parent.mkdir(parents=True)
    torch.save({"model_state": state}, path)
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))

    for weights in ("fb", path, "hf-hub:a/b"):
        model = sm.create_model(row.model, weights=weights)

        for name, value in model.state_dict().items():
            assert value.dtype == torch.float32 and torch.equal(value, state[name].float()), name
        assert len(model.input_spec["class_names"]) == 1000


def test_models_prints_every_name(capsys):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(ZOO) + 1]] == list(ZOO)

    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(ZOO)
    assert sorted(ZOO) == sm.list_models(with_weights=True)
    of_s = [row["fingerprint"] for row in rows if row["model"] == "mvitv2_s_16x4"]
    assert len(set(of_s)) == 2  # of 400 classes, and of 174


def test_a_folder_of_the_hub_is_fetched_by_its_library(tmp_path, monkeypatch):
    theirs = timm.create_model("mvitv2_tiny")
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "mvitv2_tiny"}))
    asked = []

    def snapshot_download(name, *, allow_patterns, local_files_only, revision):
        asked.append((name, local_files_only))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)

    model = sm.create_model("mvitv2_tiny", weights="timm").eval()

    pixels = torch.randn(1, 3, 1, 224, 224)
    assert asked == [("timm/mvitv2_tiny.fb_in1k", True)]
    with torch.inference_mode():
        torch.testing.assert_close(model(pixels), theirs.eval()(pixels[:, :, 0]), atol=1e-5, rtol=0)
    assert model.input_spec["class_names"][0] == "tench"
