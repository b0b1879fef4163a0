"""The table of published weights against configs, torchvision's own records and random files."""

from __future__ import annotations

import math
import re
from functools import partial

import pytest
import timm
import torch
import torchvision
from small_networks import names_and_shapes, on_meta
from torchvision.models import ResNet18_Weights
from torchvision.models.video import MViT_V1_B_Weights, MViT_V2_S_Weights

from slowfast_mvit.builders import input_spec, model_arguments
from slowfast_mvit.config import load_config
from slowfast_mvit.errors import WeightsError
from slowfast_mvit.fast import create_model
from slowfast_mvit.models import VARIANTS
from slowfast_mvit.weights import files, load_weights
from slowfast_mvit.weights.architecture import fingerprint, published_state
from slowfast_mvit.weights.fetch import local_weights
from slowfast_mvit.weights.names import to_ours
from slowfast_mvit.weights.zoo import (
    _WEIGHTS_ALIASES,
    DATA_SETS,
    MODEL_ALIASES,
    ZOO,
    class_names,
    name_in_zoo,
    published_file,
)

# Weights -> the config that PySlowFast tested them with.
CONFIG_OF = {
    "mvitv2_s_16x4.k400": "Kinetics/MVITv2_S_16x4.yaml",
    "mvitv2_b_32x3.k400": "Kinetics/MVITv2_B_32x3.yaml",
    "mvitv2_l_40x3.in21k_k400": "Kinetics/MVITv2_L_40x3.yaml",
    "mvitv2_s_16x4.ssv2": "SSv2/MVITv2_S_16x4.yaml",
    "mvitv2_b_32x3.ssv2": "SSv2/MVITv2_B_32x3.yaml",
    "mvitv2_l_40x3.ssv2": "SSv2/MVITv2_L_40x3.yaml",
    "mvitv1_b_16x4.tv_k400": "Kinetics/MVIT_B_16x4_CONV.yaml",
    "mvitv1_b_32x3.k400": "Kinetics/MVIT_B_32x3_CONV.yaml",
    "maskfeat_s_16x4.pt": "Kinetics/MVIT_S_16x4_MaskFeat_FT.yaml",
    "mvitv2_t_in1k.fb": "ImageNet/MVITv2_T.yaml",
}


@pytest.mark.parametrize("name", CONFIG_OF)
def test_preprocessing_and_protocol_are_those_of_the_published_config(name):
    config = load_config(CONFIG_OF[name])
    weights = ZOO[name]
    spec = weights.input_spec()

    assert {**spec, "class_names": None} == input_spec(config)
    views = weights.views or DATA_SETS[weights.data].views
    assert views == (config.test.num_ensemble_views, config.test.num_spatial_crops)
    assert weights.num_classes in (model_arguments(config)["num_classes"], None)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("mvitv2_s_16x4.tv_k400", MViT_V2_S_Weights.KINETICS400_V1),
        ("mvitv1_b_16x4.tv_k400", MViT_V1_B_Weights.KINETICS400_V1),
    ],
)
def test_rows_of_torchvision_are_what_torchvision_says(name, theirs):
    weights, transform = ZOO[name], theirs.transforms()

    assert weights.url == theirs.url
    assert weights.sha256 and weights.sha256 in theirs.url
    assert {"acc@1": weights.top1, "acc@5": weights.top5} == theirs.meta["_metrics"]["Kinetics-400"]
    spec = weights.input_spec()
    assert spec["class_names"] == theirs.meta["categories"]
    assert (spec["mean"], spec["std"]) == (transform.mean, transform.std)
    assert [spec["crop_px"]] * 2 == transform.crop_size
    assert [spec["scale_px"]] == transform.resize_size


def test_imagenet_names_are_those_of_torchvision():
    assert list(class_names("in1k")) == ResNet18_Weights.IMAGENET1K_V1.meta["categories"]


@pytest.mark.parametrize("data", ["k400", "k600", "k700", "ssv2", "in1k"])
def test_names_of_classes_are_unique_and_as_many_as_classes(data):
    names = class_names(data)

    expected = {"k700": 700} | {name: data_set.num_classes for name, data_set in DATA_SETS.items()}
    assert len(set(names)) == len(names) == expected[data]


def test_every_model_has_weights_and_every_alias_a_model():
    assert {weights.model for weights in ZOO.values()} == set(VARIANTS)
    assert set(MODEL_ALIASES.values()) <= set(VARIANTS)
    assert set(_WEIGHTS_ALIASES.values()) <= set(ZOO)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("mvitv2_s_16x4.k400", "mvitv2_s_16x4.k400"),
        ("mvit_v2_s", "mvitv2_s_16x4.tv_k400"),
        ("mvit_v1_b", "mvitv1_b_16x4.tv_k400"),
        ("mvit_base_32x3", "mvitv1_b_16x4.ptv_k400_32x3"),
        ("mvitv2_small", "mvitv2_s_in1k.fb"),
        ("mvitv2_small.fb_in1k", "mvitv2_s_in1k.timm"),
        ("mvitv2_large_cls.fb_inw21k", "mvitv2_l_in21k.timm"),
        ("mvitv2_s_in1k", "mvitv2_s_in1k.fb"),
        ("mvitv1_b24_32x3.k600", "mvitv1_b_32x3.k600"),
        ("MViTv2_S_16x4_k400_f302660347.pyth", "mvitv2_s_16x4.k400"),
        ("https://download.pytorch.org/models/mvit_v2_s-ae3be167.pth", "mvitv2_s_16x4.tv_k400"),
        ("MVITv2_S_16x4.k400", "mvitv2_s_16x4.k400"),
        ("timm/mvitv2_tiny.fb_in1k", "mvitv2_t_in1k.timm"),
        ("MVIT_B_16x4_CONV", "mvitv1_b_16x4.ptv_k400"),  # PySlowFast's address is dead
        ("mvitv1_b_16x4.k400", "mvitv1_b_16x4.ptv_k400"),
        ("mvitv2_s_16x4", None),  # several trainings
        ("mvitv2_s_16x4.k700", None),
        ("weights.pth", None),
    ],
)
def test_names_of_other_libraries_are_known(name, key):
    assert name_in_zoo(name) == key


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MVITv2_L_40x3", "Weights of this model: mvitv2_l_40x3.in21k_k400, mvitv2_l_40x3.ssv2, "),
        ("mvitv2_b_32x3.k700", "Weights of this model: mvitv2_b_32x3.k400, mvitv2_b_32x3.ssv2, "),
        ("MVIT_S_16x4_MaskFeat_FT", "Weights of this model: maskfeat_s_16x4.pt"),
        ("mvit_v3_s", "Did you mean mvit_v2_s?"),
        ("MeMViT_24L_32x3_K700", "MeMViT pools before it projects"),
        ("REV_MVIT_B_16x4", "reversible blocks are not supported"),
        ("MVIT_B_16_CONV", "MVIT_B_16_f292487636.pyth and name its config"),
    ],
)
def test_names_without_weights_are_answered_with_those_nearest(name, message):
    with pytest.raises(WeightsError, match=re.escape(message)):
        local_weights(name)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("mvitv2_s_16x4.tv_k400", torchvision.models.video.mvit_v2_s),
        ("mvitv1_b_16x4.tv_k400", torchvision.models.video.mvit_v1_b),
        ("mvitv2_t_in1k.timm", partial(timm.create_model, "mvitv2_tiny")),
        pytest.param(
            "mvitv2_b_in21k.timm",
            partial(timm.create_model, "mvitv2_base_cls", num_classes=19168),
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_fingerprints_are_those_of_the_original_code(name, make):
    with torch.device("meta"):
        theirs = make().state_dict()

    assert fingerprint(to_ours(theirs, name)[0]) == fingerprint(published_state(ZOO[name]))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mvitv2_s_16x4.k400", "mvitv2_s_16x4.json"),
        ("mvitv2_s_16x4.ssv2", "mvitv2_s_16x4_ssv2.json"),
        ("mvitv2_b_32x3.k400", "mvitv2_b_32x3.json"),
        ("mvitv2_l_40x3.in21k_k400", "mvitv2_l_40x3.json"),
        ("mvitv1_b_32x3.k400", "mvitv1_b_32x3_conv.json"),
        ("mvitv2_s_16x4.mm_k400", "elsewhere/mmaction2_mvit_small.json"),
    ],
)
def test_fingerprints_are_those_of_published_configs(name, file):
    theirs, _ = to_ours(on_meta(names_and_shapes(file)), name)

    assert fingerprint(theirs) == fingerprint(published_state(ZOO[name]))


def test_a_file_with_a_published_name_and_other_parameters_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_MAX_SHARING", math.inf)  # one number behind each parameter
    path = tmp_path / ZOO["mvitv2_s_16x4.k400"].file_name
    state = published_state(ZOO["mvitv2_s_16x4.k400"])
    state = {name: torch.zeros(1).expand(value.shape) for name, value in state.items()}
    state["head.projection.weight"] = torch.zeros(7, 768)
    torch.save(state, path)
    with torch.device("meta"):
        model = create_model("mvitv2_s_16x4", num_classes=7)

    with pytest.raises(
        WeightsError, match=r"(?s)head.projection.weight: \(7, 768\) in the file, .*rename"
    ):
        load_weights(model, path)


@pytest.mark.parametrize(
    "name", ["k400.pyth", "model.safetensors", "mine/checkpoint_epoch_00200.pyth"]
)
def test_a_file_with_a_common_name_is_not_taken_for_a_published_one(name):
    assert published_file(name) is None
