"""Wrapped names and values of a file, and files of other networks."""

from collections import OrderedDict

import pytest
import timm
import torch
import torchvision
from small_networks import assert_equal_states, image, scrambled, small

from slowfast_mvit.errors import WeightsError
from slowfast_mvit.weights import load_weights
from slowfast_mvit.weights.names import identify_source


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_queries_keys_and_values_may_be_apart():
    source, ours = scrambled(small()), small()
    state = source.state_dict()
    for block in range(3):
        for kind in ("weight", "bias"):
            rows = state.pop(f"blocks.{block}.attn.qkv.{kind}").chunk(3)
            state |= {
                f"blocks.{block}.attn.{x}.{kind}": row for x, row in zip("qkv", rows, strict=True)
            }

    load_weights(ours, state, head="keep")

    assert_equal_states(source, ours)


@pytest.mark.parametrize("front", ["encoder.", "net.video.", "backbone."])
def test_a_network_inside_another_is_loaded(front):
    source, ours = scrambled(small()), small()
    state = {front + name: value for name, value in source.state_dict().items()}

    report = load_weights(ours, state | {"loss.scale": torch.ones(1)}, head="keep")

    assert_equal_states(source, ours)
    assert report.unexpected == ("loss.scale",)


def test_of_two_networks_one_has_to_be_chosen():
    source, ours = scrambled(small()), small()
    state = {f"student.{name}": value for name, value in source.state_dict().items()}
    state |= {f"teacher.{name}": 0 * value for name, value in source.state_dict().items()}

    with pytest.raises(WeightsError, match=r"contains 2 networks.*'student\.', 'teacher\.'"):
        load_weights(ours, state)
    load_weights(ours, state, clear_name_patterns=["student."], head="keep")

    assert_equal_states(source, ours)


def test_averaged_weights_of_torch_are_read_without_their_count():
    source, ours = scrambled(small()), small()
    state = torch.optim.swa_utils.AveragedModel(source).state_dict()

    report = load_weights(ours, state, head="keep")

    assert_equal_states(source, ours)
    assert report.dropped == ("n_averaged",)


def test_a_checkpoint_inside_another_is_loaded(tmp_path):
    source, ours = scrambled(small()), small()
    path = tmp_path / "wrapped.pth"
    torch.save({"state_dict": {"model_state": source.state_dict(), "cfg": "TRAIN: {}"}}, path)

    load_weights(ours, path, head="keep")

    assert_equal_states(source, ours)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype, tmp_path):
    source, ours = scrambled(small()).to(dtype), small()
    path = tmp_path / "half.pyth"
    content = {
        "model_state": OrderedDict(source.state_dict()),
        "epoch": 3,
        "cfg": "MVIT:\n  DEPTH: 3\n",
    }
    torch.save(content, path)

    load_weights(ours, path, head="keep")

    assert ours.norm.weight.dtype == torch.float64
    assert_equal_states(source.double(), ours)


def test_image_files_of_mvit_have_flat_pooling_kernels():
    source, ours = scrambled(image()), image()
    state = {
        name: value.squeeze(2) if ".pool_" in name else value
        for name, value in source.state_dict().items()
    }

    report = load_weights(ours, {"model_state": state}, head="keep")

    assert set(report.loaded) == set(ours.state_dict())
    assert_equal_states(source, ours)


# Not ours


def foreign_names(kind: str) -> list[str]:
    makers = {
        "resnet": lambda: torchvision.models.resnet18(),
        "r3d": lambda: torchvision.models.video.r3d_18(),
        "swin": lambda: torchvision.models.video.swin3d_t(),
        "torchvision vit": lambda: torchvision.models.vit_b_16(),
        "timm vit": lambda: timm.create_model("vit_tiny_patch16_224"),
        "hiera": lambda: timm.create_model("hiera_tiny_224"),
    }
    with torch.device("meta"):
        return list(makers[kind]().state_dict())


@pytest.mark.parametrize(
    ("kind", "network"),
    [
        ("resnet", "a ResNet"),
        ("r3d", "a ResNet"),
        ("swin", "a Swin transformer"),
        ("torchvision vit", "without pooling"),
        ("timm vit", "without pooling convolutions"),
        ("hiera", "without pooling convolutions"),
    ],
)
def test_other_networks_are_refused_by_name(kind, network):
    with pytest.raises(WeightsError, match=rf"not the weights of an MViT, but of .*{network}"):
        identify_source(foreign_names(kind), "a.pth")


def test_a_videomae_file_is_refused_with_the_missing_names():
    names = ["encoder.patch_embed.proj.weight", "encoder.blocks.0.attn.qkv.weight", "mask_token"]

    with pytest.raises(WeightsError, match="ViT, VideoMAE") as caught:
        identify_source(names, "videomae.pth")

    assert "Nearest: PySlowFast's pre-training by masks" in str(caught.value)
    assert "here there is no blocks.0.attn.pool_q.weight" in str(caught.value)


def test_the_reversible_mvit_is_refused_by_name():
    names = ["patch_embed.proj.weight", "rev_backbone.layers.0.F.attn.qkv.weight"]

    with pytest.raises(WeightsError, match="reversible MViT"):
        identify_source(names, "rev.pyth")
