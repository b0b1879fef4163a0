"""Models on the hub, and through torch.hub: saved, loaded and pushed without a network."""

from __future__ import annotations

import copy
import importlib.util
import json
import pickle
import runpy
import sys
from pathlib import Path

import huggingface_hub.hub_mixin
import pytest
import torch

import slowfast_mvit as sm
from slowfast_mvit.builders import hub, model_of_checkpoint
from slowfast_mvit.builders.hub import FastHubMViT, PlainHubMViT, with_hub_methods
from slowfast_mvit.builders.lists import mvit_from_lists
from slowfast_mvit.errors import ConfigError, UserError, WeightsError
from slowfast_mvit.models import MViT

ROOT = Path(__file__).parents[2]
SPEC = {
    "num_frames": 4,
    "sampling_rate": 2,
    "target_fps": 30,
    "policy": "interval",
    "segment_clips": "same",
    "crop_px": 64,
    "scale_px": 72,
    "resizing": "clip",
    "mean": [0.45] * 3,
    "std": [0.225] * 3,
    "class_names": list("abcde"),
}
PIXELS = torch.randn(1, 3, 4, 64, 64, generator=torch.Generator().manual_seed(0))


def tiny(**changes):
    """Three blocks, widths 16 and 32."""
    torch.manual_seed(0)
    lists = {"depth": 3, "embed_dim": 16, "dim_mul": [[1, 2.0]], "head_mul": [[1, 2.0]]}
    lists |= {"pool_q_stride": [[1, 1, 2, 2]], "pool_kv_stride_adaptive": [1, 4, 4]}
    lists |= {"pool_kvq_kernel": (3, 3, 3), "input_size": (4, 64, 64), "num_classes": 5}
    model = with_hub_methods(mvit_from_lists(**lists | changes)).eval()
    model.input_spec = dict(SPEC)
    return model


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"attention": "plain"}, {"num_classes": 0}], ids=str)
def test_a_saved_model_is_loaded_with_all_that_belongs_to_it(changes, tmp_path):
    model = tiny(**changes)
    model.input_spec["class_names"] = list("abcde") if model.num_classes else None

    model.save_pretrained(tmp_path / "mvit")
    loaded = sm.from_pretrained(tmp_path / "mvit")

    torch.testing.assert_close(loaded(PIXELS), model(PIXELS), rtol=0, atol=1e-6)
    assert loaded.input_spec == model.input_spec
    assert isinstance(loaded, FastHubMViT)
    assert sorted(path.name for path in (tmp_path / "mvit").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert not loaded.training
    assert torch.equal(model_of_checkpoint(tmp_path / "mvit")(PIXELS), loaded(PIXELS))


@torch.no_grad()
def test_another_head_and_pooling_are_saved(tmp_path):
    model = tiny()
    model.reset_classifier(2, "avg")

    model.save_pretrained(tmp_path)

    assert torch.equal(sm.from_pretrained(tmp_path)(PIXELS), model(PIXELS))
    features = sm.from_pretrained(tmp_path, num_classes=0)
    expected = model.forward_head(model.forward_features(PIXELS), pre_logits=True)
    assert torch.equal(features(PIXELS), expected)
    assert sm.from_pretrained(tmp_path, num_classes=7)(PIXELS).shape == (1, 7)


@pytest.mark.parametrize("pool", ["max", ["token"], 3])
def test_a_folder_with_another_pooling_is_refused(pool, tmp_path):
    tiny().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "global_pool": pool}))

    with pytest.raises(ConfigError, match="global_pool must be one of"):
        sm.from_pretrained(tmp_path)


def test_a_model_with_other_layers_than_it_was_built_with_is_refused(tmp_path):
    model = tiny()
    model.blocks[0].mlp.fc1.extra = torch.nn.Linear(2, 2)

    with pytest.raises(WeightsError, match=r"blocks.0.mlp.fc1.extra.weight: not in the model"):
        model.save_pretrained(tmp_path)
    model = tiny()
    model.arguments = None
    with pytest.raises(WeightsError, match="by create_model or build_model"):
        model.save_pretrained(tmp_path)


def test_a_model_is_pushed_with_its_folder(monkeypatch):
    pushed = {}

    class Api:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, **_):
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, *, repo_id, folder_path, **_):
            pushed[repo_id] = sorted(path.name for path in Path(folder_path).iterdir())
            return "https://hub/commit"

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)

    assert tiny().push_to_hub("my-lab/mvit") == "https://hub/commit"
    assert pushed == {"my-lab/mvit": ["README.md", "config.json", "model.safetensors"]}


def test_a_revision_of_the_hub_is_fetched(tmp_path, monkeypatch):
    tiny().save_pretrained(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = []

    def snapshot_download(name, *, revision, allow_patterns, local_files_only):
        asked.append((name, revision))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)

    sm.from_pretrained("my-lab/mvit", revision="v2")

    assert asked == [("my-lab/mvit", "v2")]


def test_without_huggingface_hub_folders_work_and_pushing_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    spec = importlib.util.spec_from_file_location("hub_without", hub.__file__)
    without = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(without)
    model = without.with_hub_methods(tiny())

    model.save_pretrained(tmp_path)

    assert torch.equal(without.from_pretrained(tmp_path)(PIXELS), model(PIXELS))
    with pytest.raises(UserError, match=r"pip install 'slowfast_mvit\[hub\]'"):
        model.push_to_hub("my-lab/mvit")


@torch.no_grad()
def test_a_model_is_copied_pickled_and_hooked():
    model = tiny().eval()
    seen = []
    expected = model(PIXELS)

    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other) is FastHubMViT
        assert torch.equal(other(PIXELS), expected)
    hook = model.blocks[1].register_forward_hook(lambda _, __, out: seen.append(out[0].shape))
    torch.testing.assert_close(model(PIXELS), expected, rtol=0, atol=1e-5)
    hook.remove()
    assert seen == [(1, 129, 32)]


def test_models_by_name_have_the_methods_of_the_hub():
    with torch.device("meta"):
        plain = sm.create_model("mvitv2_t_in1k", attention="plain", in_chans=1)
        fast = sm.create_model("mvitv2_t_in1k", num_classes=0)

    assert type(plain) is PlainHubMViT and type(fast) is FastHubMViT
    assert plain.arguments["in_chans"] == 1
    for model in (plain, fast):
        with torch.device("meta"):
            again = mvit_from_lists(**model.arguments | {"num_classes": model.num_classes})
        shapes = {name: value.shape for name, value in again.state_dict().items()}
        assert shapes == {name: value.shape for name, value in model.state_dict().items()}


def test_torch_hub_has_every_model(monkeypatch):
    monkeypatch.setenv("SLOWFAST_MVIT_OFFLINE", "1")
    entries = runpy.run_path(str(ROOT / "hubconf.py"))

    with torch.device("meta"):
        model = torch.hub.load(str(ROOT), "mvitv2_b_32x3", source="local", num_classes=3)

    public = [name for name, value in entries.items() if callable(value) and name[0] != "_"]
    assert sorted(public) == [name for name in sm.list_models() if not name.startswith("detection")]
    assert isinstance(model, MViT) and model.num_classes == 3
    assert "mvitv2_b_32x3.k400" in entries["mvitv2_b_32x3"].__doc__
    for pretrained, file in ((True, "MViTv2_B_32x3_k400_f304025456"), ("ssv2", "f305803282")):
        with pytest.raises(UserError, match=f"OFFLINE .* as .*{file}.pyth"):
            torch.hub.load(str(ROOT), "mvitv2_b_32x3", source="local", pretrained=pretrained)
