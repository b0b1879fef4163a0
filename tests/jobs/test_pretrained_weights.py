"""The model of a fine-tuning: identified by the config in a file of weights, and by its shapes."""

import math

import pytest
import torch
from class_folders import config_of, folder_of, write_weights

from slowfast_mvit import builders
from slowfast_mvit.errors import UserError
from slowfast_mvit.fast import create_model
from slowfast_mvit.weights import files


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """Files with one number behind each parameter, which is refused otherwise, are read."""
    monkeypatch.setattr(files, "_MAX_SHARING", math.inf)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights"))


def shapes_of(name):
    with torch.device("meta"):
        return {key: value.shape for key, value in create_model(name).state_dict().items()}


def save_shapes(shapes, path):
    """Write weights with one number behind each parameter, whatever its shape."""
    torch.save({key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}, path)


@pytest.mark.parametrize(
    ("variant", "depth", "size", "mean"),
    [("S", 16, (16, 224, 224), 0.45), ("L", 48, (40, 312, 312), 0.485)],
)
def test_a_variant_sets_model_and_clips_of_the_published_one(
    weights, tmp_path, variant, depth, size, mean
):
    data = folder_of(tmp_path / "data", a=4, b=4)

    config = config_of(data, weights, "--variant", variant)

    arguments = builders.model_arguments(config)
    assert arguments["depth"] == depth and arguments["input_size"] == size
    assert config.data.mean[0] == mean and config.model.num_classes == 2
    first_block = config.solver.layer_decay**depth  # its share of the head's learning rate
    assert first_block == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(
    ("before", "after"),
    [("DEPTH: 2", "DEPTH: 3"), ("PATCH_KERNEL", "PATCH_KERNELS")],
    ids=["of another model", "of another code base"],
)
def test_a_config_that_is_not_of_the_weights_is_not_used(weights, tmp_path, caplog, before, after):
    data = folder_of(tmp_path / "data", a=4, b=4)
    content = torch.load(weights, weights_only=True)
    content["cfg"] = content["cfg"].replace(before, after)
    torch.save(content, tmp_path / "other.pyth")

    with pytest.raises(UserError, match="of no published model"):
        config_of(data, tmp_path / "other.pyth")

    assert "the config in the weights is not used" in caplog.text


def test_weights_of_something_something_warn_of_their_sampling(weights, tmp_path, caplog):
    data = folder_of(tmp_path / "data", a=4, b=4)
    content = torch.load(weights, weights_only=True)
    content["cfg"] = content["cfg"].replace("DATASET: kinetics", "DATASET: ssv2")
    torch.save(content, tmp_path / "ssv2.pyth")

    config_of(data, tmp_path / "ssv2.pyth")

    assert "trained on frames spread over whole videos" in caplog.text


@pytest.mark.parametrize(
    ("name", "depth", "num_frames", "message"),
    [
        ("mvitv2_s_16x4", 16, 16, None),
        ("mvitv1_b_32x3", 24, 32, None),
        ("mvitv2_b_in1k", 24, 32, None),
        ("mvitv2_l_in1k", 0, 0, "whose channels grow in the MLP.*Take the L of ImageNet-21K"),
    ],
)
def test_weights_without_a_config_are_identified_by_their_shapes(
    tmp_path, name, depth, num_frames, message
):
    data = folder_of(tmp_path / "data", a=4, b=4)
    save_shapes(shapes_of(name), tmp_path / "w.pyth")

    if message:
        with pytest.raises(UserError, match=message):
            config_of(data, tmp_path / "w.pyth")
        return
    config = config_of(data, tmp_path / "w.pyth")

    assert builders.model_arguments(config)["depth"] == depth
    assert config.data.num_frames == num_frames and not config.mvit.patch_2d


def test_a_pre_training_by_masks_leads_to_its_fine_tuning(tmp_path):
    data = folder_of(tmp_path / "data", a=4, b=4)
    shapes = {
        key: shape
        for key, shape in shapes_of("maskfeat_s_16x4").items()
        if not key.startswith(("norm.", "head."))
    }
    shapes |= {"mask_token": (1, 1, 96), "pred_head.projections.0.weight": (108, 768)}
    save_shapes(shapes, tmp_path / "w.pyth")

    config = config_of(data, tmp_path / "w.pyth")

    assert not config.mvit.dim_mul_in_att and config.mvit.use_mean_pooling
    assert config.mvit.head_init_scale == 0.001 and config.solver.layer_decay == 0.75


def test_unknown_weights_ask_for_the_size(tmp_path, weights):
    data = folder_of(tmp_path / "data", a=4, b=4)
    state = torch.load(weights, weights_only=True)["model_state"]
    torch.save({"model_state": state}, tmp_path / "bare.pyth")

    with pytest.raises(UserError, match=r"of no published model.*--variant S or B or L"):
        config_of(data, tmp_path / "bare.pyth")
