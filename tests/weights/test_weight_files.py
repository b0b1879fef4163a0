"""The content of weights files, and the errors for other files."""

import argparse
import json
import pickle
import sys

import pytest
import torch
from safetensors.torch import save_file

from slowfast_mvit.errors import WeightsError
from slowfast_mvit.runtime import checkpoint
from slowfast_mvit.weights import fetch
from slowfast_mvit.weights.files import OUR_KEY, read_weights
from slowfast_mvit.weights.names import fuse_qkv

STATE = {"norm.weight": torch.ones(3), "norm.bias": torch.zeros(3)}


@pytest.mark.parametrize("key", ["model_state", "state_dict", "model", "module", None])
def test_the_state_dict_is_read_from_its_wrapping(tmp_path, key):
    path = tmp_path / "weights.pyth"
    torch.save(STATE if key is None else {key: STATE, "epoch": 3}, path)

    file = read_weights(path)

    assert file.state.keys() == STATE.keys()
    assert file.path == str(path)
    assert file.epoch is None


def test_a_checkpoint_is_identified_by_its_optimizer_state():
    content = {"epoch": 199, "model_state": STATE, "optimizer_state": {}, "cfg": "TRAIN: {}"}

    assert read_weights(content).epoch == 199


def test_safetensors_files_are_read(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(STATE, path)

    state = read_weights(path).state

    assert torch.equal(state["norm.weight"], STATE["norm.weight"])


def test_a_damaged_safetensors_file_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(STATE, path)
    path.write_bytes(path.read_bytes()[:-8])

    with pytest.raises(WeightsError, match=r"model\.safetensors: not a readable safetensors file"):
        read_weights(path)


def test_without_safetensors_the_message_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_file(STATE, path)
    monkeypatch.setitem(sys.modules, "safetensors", None)

    with pytest.raises(WeightsError, match=r"pip install 'slowfast_mvit\[safetensors\]'"):
        read_weights(path)


@pytest.mark.parametrize("name", ["absent.safetensors", "absent.pyth", "absent.pkl"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(WeightsError, match=f"{name}: no such file"):
        read_weights(tmp_path / name)


def test_caffe2_pickles_are_refused_with_the_reason(tmp_path):
    path = tmp_path / "SLOWFAST_8x8_R50.pkl"
    path.write_bytes(pickle.dumps({"blobs": {"conv1_w": [0.0]}}))

    with pytest.raises(WeightsError, match=r"pickles are not read.*can run code.*Caffe2"):
        read_weights(path)


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        ([1, 2], "a list"),
        ({"cfg": "TRAIN: {}"}, r"'cfg' \(a str\)"),
        ({0: STATE["norm.bias"], 1: None}, r"1 \(nothing\)"),
        ({}, "found nothing"),
        ({"a": torch.eye(2).to_sparse()}, r"'a' \(a tensor of layout torch.sparse_coo\)"),
    ],
    ids=["a list", "no tensors", "a gap", "empty", "sparse"],
)
def test_a_file_without_a_state_dict_is_an_error_with_its_content(tmp_path, content, reported):
    path = tmp_path / "weights.pyth"
    torch.save(content, path)

    with pytest.raises(WeightsError, match=rf"weights\.pyth: .*{reported}"):
        read_weights(path)


def test_weights_may_lie_on_a_server(tmp_path, monkeypatch):
    fetched = tmp_path / "cache" / "model.safetensors"
    fetched.parent.mkdir()
    save_file(STATE, fetched)
    monkeypatch.setattr(fetch, "download", lambda url, folder, sha256: fetched)

    file = read_weights("https://host/model.safetensors")

    assert file.state.keys() == STATE.keys()
    assert file.path == "https://host/model.safetensors"


@pytest.mark.parametrize("key", ["ema_state", "state_dict_ema"])
def test_the_moving_average_is_taken_on_request(key):
    average = {name: value + 1 for name, value in STATE.items()}
    content = {"epoch": 3, "model_state": STATE, key: average, "slowfast_mvit": {"step": 0}}

    plain, averaged = read_weights(content), read_weights(content, ema=True)

    assert plain.has_average and averaged.has_average
    assert torch.equal(plain.state["norm.weight"], STATE["norm.weight"])
    assert torch.equal(averaged.state["norm.weight"], average["norm.weight"])


def test_without_a_moving_average_a_request_for_one_is_an_error(tmp_path):
    torch.save({"model_state": STATE}, tmp_path / "weights.pyth")
    save_file(STATE, tmp_path / "model.safetensors")

    for path in (tmp_path / "weights.pyth", tmp_path / "model.safetensors", tmp_path):
        with pytest.raises(WeightsError, match=r"has no moving average .*EMA_DECAY"):
            read_weights(path, ema=True)


def test_config_and_values_of_a_checkpoint_are_read():
    spec = {"num_frames": 16, "sampling_rate": 4, "target_fps": 30, "policy": "interval"}
    spec |= {"crop_px": 224, "scale_px": 256, "mean": [0.45] * 3, "std": [0.225] * 3}
    spec |= {"class_names": None}
    extra = {"cfg": "DATA: {NUM_FRAMES: 16}", OUR_KEY: {"input_spec": spec}}

    file = read_weights({"model_state": STATE, "epoch": 1, **extra})

    assert file.is_ours and file.cfg_text == "DATA: {NUM_FRAMES: 16}"
    assert file.extra["input_spec"] == spec
    assert OUR_KEY == checkpoint.OUR_KEY


def test_safetensors_are_read_under_any_name(tmp_path):
    save_file(STATE, tmp_path / "renamed.pyth")

    assert read_weights(tmp_path / "renamed.pyth").state.keys() == STATE.keys()


def test_a_torch_file_named_safetensors_is_to_be_renamed(tmp_path):
    torch.save(STATE, tmp_path / "renamed.safetensors")

    with pytest.raises(WeightsError, match=r"a file of torch\.save\. Name it \.pth"):
        read_weights(tmp_path / "renamed.safetensors")


def test_a_folder_of_a_hub_is_read_without_its_config(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")

    assert read_weights(tmp_path).state.keys() == STATE.keys()


def test_a_folder_without_weights_and_one_in_parts_say_what_to_do(tmp_path):
    with pytest.raises(WeightsError, match=r"a folder without model\.safetensors"):
        read_weights(tmp_path)
    (tmp_path / ".metadata").touch()
    with pytest.raises(WeightsError, match=r"dcp_to_torch"):
        read_weights(tmp_path)


@pytest.mark.parametrize("content", [None, "{", "[1]", "{}", '{"model": {}}'])
def test_our_folder_without_a_readable_config_says_so(tmp_path, content):
    save_file(STATE, tmp_path / "model.safetensors", metadata={OUR_KEY: "0.1"})
    if content is not None:
        (tmp_path / "config.json").write_text(content)

    with pytest.raises(WeightsError, match=r"config\.json: "):
        read_weights(tmp_path)


@pytest.mark.parametrize("key", ["ema_state", "state_dict_ema", "model_ema", "ema_state_dict"])
def test_the_moving_average_is_read_under_every_name(key, tmp_path):
    average = {f"module.{name}": value + 1 for name, value in STATE.items()}
    torch.save({"model": STATE, key: {**average, "steps": torch.tensor(3)}}, tmp_path / "a.pth")

    state = read_weights(tmp_path / "a.pth", ema=True).state

    assert torch.equal(state["module.norm.weight"], STATE["norm.weight"] + 1)


def test_the_arguments_in_timms_checkpoints_are_no_obstacle(tmp_path):
    content = {"state_dict": STATE, "args": argparse.Namespace(lr=0.1), "epoch": 1}
    torch.save(content, tmp_path / "last.pth.tar")

    assert read_weights(tmp_path / "last.pth.tar").state.keys() == STATE.keys()


def test_folders_of_a_hub_are_read_in_their_other_forms(tmp_path):
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    assert read_weights(tmp_path).state.keys() == STATE.keys()

    index = tmp_path / "model.safetensors.index.json"
    for number, (name, value) in enumerate(STATE.items()):
        save_file({name: value + 1}, tmp_path / f"model-{number}.safetensors")
    file_of = {name: f"model-{number}.safetensors" for number, name in enumerate(STATE)}
    index.write_text(json.dumps({"weight_map": file_of}))
    for path in (tmp_path, index):
        state = read_weights(path).state
        assert all(torch.equal(state[name], value + 1) for name, value in STATE.items())

    for content in (
        "{",
        "[]",
        json.dumps({"weight_map": {**file_of, "head.weight": "model-0.safetensors"}}),
        json.dumps({"weight_map": {"norm.bias": "../model-0.safetensors"}}),
        json.dumps({"weight_map": {"norm.bias": "model-9.safetensors"}}),
    ):
        index.write_text(content)
        with pytest.raises(WeightsError, match=r"index\.json|model-9"):
            read_weights(tmp_path)


@pytest.mark.parametrize("spelling", ["q_bias v_bias", "q.bias v.bias"])
def test_biases_of_q_and_v_alone_become_one_with_zeros_for_k(spelling):
    q, v = torch.rand(4), torch.rand(4)
    state = dict(zip((f"blocks.0.attn.{name}" for name in spelling.split()), (q, v), strict=True))

    fused = fuse_qkv(state)

    assert fused.keys() == {"blocks.0.attn.qkv.bias"}
    assert torch.equal(fused["blocks.0.attn.qkv.bias"], torch.cat([q, torch.zeros(4), v]))
