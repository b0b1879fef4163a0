"""Requests in a file of weights that cost more than the file is worth."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from slowfast_mvit.builders import model_of_checkpoint
from slowfast_mvit.builders.model import input_spec
from slowfast_mvit.config import load_config_text
from slowfast_mvit.errors import UserError, WeightsError

TINY = """
DATA: {NUM_FRAMES: 4, TRAIN_CROP_SIZE: 32, TEST_CROP_SIZE: 32}
MODEL: {NUM_CLASSES: 2}
MVIT: {DEPTH: 1, EMBED_DIM: 8, POOL_KV_STRIDE_ADAPTIVE: [1, 4, 4], POOL_KVQ_KERNEL: [3, 3, 3]}
"""
CONFIGS = [
    ("MVIT", name, value)
    for name, values in {
        "DEPTH": (100_000, 300, 10**12, -1, "x", [1]),
        "EMBED_DIM": (30_000, 16_384, 10**9, 0),
        "NUM_HEADS": (10**6, 0),
        "MLP_RATIO": (1e9, 64, -1, ".inf"),
        "DIM_MUL": ("[[1, 8000]]", "[[99, 2]]", "[[0]]"),
        "HEAD_MUL": ("[[0, 1.0e9]]",),
        "POOL_Q_STRIDE": ("[[0, 1, 1000000, 1]]", "[[0, 0, 0, 0]]"),
        "POOL_KVQ_KERNEL": ("[9999, 9999, 9999]", "[-1, 3, 3]"),
        "PATCH_KERNEL": ("[999, 999, 999]", "[0, 7, 7]"),
        "PATCH_STRIDE": ("[0, 4, 4]", "[1, 1, 1]"),
        "VARIANT": ("huge",),
    }.items()
    for value in values
] + [
    ("DATA", "NUM_FRAMES", 10**9),
    ("DATA", "NUM_FRAMES", 4096),
    ("DATA", "TRAIN_CROP_SIZE", 10**9),
    ("DATA", "TRAIN_CROP_SIZE", 4096),
    ("DATA", "TEST_CROP_SIZE", 10**9),
    ("MODEL", "NUM_CLASSES", 10**9),
    ("MODEL", "NUM_CLASSES", 10**6),
    (
        "MVIT",
        "USE_ABS_POS",
        "true, SEP_POS_EMBED: false, PATCH_STRIDE: [1, 1, 1], EMBED_DIM: 16384",
    ),
]
SPECS = [
    (name, value)
    for name, values in {
        "num_frames": (10**9, 0, -1, 1.5, "4", None, [4], True),
        "sampling_rate": (10**9, 0, "x", None),
        "target_fps": (0, -1, float("inf"), float("nan"), "30", None),
        "policy": ("os:system", None, 3),
        "crop_px": (10**9, 0, None),
        "scale_px": (10**9, 0, None),
        "resizing": ("none", 1),
        "segment_clips": ("none", 1),
        "mean": ("abc", [0.5], None, [0, 0, "x"], [float("nan")] * 3),
        "std": ("abc", [0.5], None, [0, 0, 0], [1, 1, -1]),
        "class_names": (["a"], ["a"] * 3, [1, 2], "ab", ["\x1b[2Ja", "b"], ["a", "b\nc"]),
    }.items()
    for value in values
]


@pytest.fixture(scope="module")
def tiny():
    """The state dict and the input spec of a tiny model."""
    from slowfast_mvit.builders import build_model

    config = load_config_text(TINY, source="test")
    return build_model(config).state_dict(), input_spec(config, ("a", "b"))


def changed(section, name, value):
    """The tiny config with one key in another place, so that it counts twice: the last wins."""
    lines = TINY.strip().splitlines()
    return "\n".join(
        line[:-1] + f", {name}: {value}}}" if line.startswith(f"{section}:") else line
        for line in lines
    )


def test_the_tiny_model_is_read(tiny, tmp_path):
    state, spec = tiny
    content = {"model_state": state, "cfg": TINY, "slowfast_mvit": {"input_spec": spec}}
    torch.save(content, tmp_path / "sound.pyth")

    model = model_of_checkpoint(tmp_path / "sound.pyth")

    assert model.input_spec["class_names"] == ["a", "b"]


@pytest.mark.parametrize(("name", "value"), SPECS)
def test_an_input_spec_of_other_types_or_sizes_is_refused(name, value, tiny, tmp_path):
    state, spec = tiny
    content = {"model_state": state, "cfg": TINY}
    content["slowfast_mvit"] = {"input_spec": {**spec, name: value}}
    torch.save(content, tmp_path / "bad.pyth")

    with pytest.raises(WeightsError) as caught:
        model_of_checkpoint(tmp_path / "bad.pyth")

    assert "\x1b" not in str(caught.value)


MEASURE = """
import json, resource, sys, time
from slowfast_mvit.builders import build_model, model_of_checkpoint
from slowfast_mvit.config import load_config_text
from slowfast_mvit.errors import UserError

model_of_checkpoint(sys.argv[1])  # everything is imported
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
results = []
for path in sys.argv[2:]:
    start_s = time.process_time()
    try:
        model_of_checkpoint(path)
        error = ""
    except UserError as problem:
        error = str(problem)
    results.append((path, error, time.process_time() - start_s))
peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps([results, peak_kb]))
"""


def test_configs_that_ask_for_more_cost_at_most_10_s_and_a_gigabyte(tiny, tmp_path):
    state, _ = tiny
    torch.save({"model_state": state, "cfg": TINY}, tmp_path / "sound.pyth")
    paths = []
    for number, key in enumerate(CONFIGS):
        paths.append(tmp_path / f"{number}.pyth")
        torch.save({"model_state": state, "cfg": changed(*key)}, paths[-1])
    many = tmp_path / "many_names.pyth"
    torch.save({f"n{i}": torch.zeros(()) for i in range(20_000)}, many)
    compressed = tmp_path / "compressed.pyth"
    with zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("compressed/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("compressed/data/0", bytes(300_000_000))
    paths += [many, compressed]

    command = [sys.executable, "-c", MEASURE, str(tmp_path / "sound.pyth"), *map(str, paths)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)

    results, peak_kb = json.loads(done.stdout.splitlines()[-1])
    assert [Path(path).name for path, error, _ in results if not error] == []
    assert max(seconds for *_, seconds in results) < 10
    assert peak_kb < 2**20


WRONG = (
    {"input_size": [0, 0, 0]},
    {"patch_stride": [0, 0, 0]},
    {"patch_padding": None},
    {"dim_mul": "abc"},
    {"mlp_ratio": 1e308},
    {"dropout": "x"},
)


def test_a_folder_that_describes_too_deep_a_model_is_refused(tiny, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    state, spec = tiny
    safetensors.save_file(state, tmp_path / "model.safetensors", metadata={"slowfast_mvit": "1"})
    for model in ({"depth": 10**5}, {"depth": 1, "embed_dim": 10**9}, {"depth": "x"}, *WRONG):
        content = {"model": {"input_size": [4, 32, 32], **model}, "input_spec": spec}
        (tmp_path / "config.json").write_text(json.dumps(content))

        with pytest.raises(UserError):
            model_of_checkpoint(tmp_path)


def evil_contents(state, spec):
    """Contents of a checkpoint by the kind of fault; each needs kilobytes."""
    without_qkv = {name: value for name, value in state.items() if "qkv" not in name}
    parts = [f"blocks.0.attn.{letter}.weight" for letter in "qkv"]
    cyclic = {}
    cyclic["model"] = cyclic
    sound = {"model_state": state, "cfg": TINY}
    return {
        "one value for all": {
            "model_state": {
                name: torch.zeros(1).expand(value.shape) for name, value in state.items()
            }
        },
        "a name that is no text": {"model_state": {**state, 1: torch.zeros(1)}},
        "a name with escapes": {"model_state": {**state, "\x1b[31mx\n": torch.zeros(1)}},
        "q, k and v of other shapes": {
            "model_state": without_qkv | dict(zip(parts, map(torch.zeros, (8, 3, 2)), strict=True))
        },
        "q, k and v without axes": {
            "model_state": without_qkv | {part: torch.zeros(()) for part in parts}
        },
        "a number of thousands of digits": {
            "model_state": {**state, f"stages.{'9' * 5000}.blocks.1.x": torch.zeros(1)}
        },
        "a nested tensor": {
            "model_state": {**state, "norm.weight": torch.nested.nested_tensor([torch.zeros(1)])}
        },
        "a value beyond float32": {
            **sound,
            "model_state": {**state, "norm.weight": torch.full((8,), 1e300, dtype=torch.float64)},
        },
        "itself": cyclic,
        "a mean of 400 digits": {
            **sound,
            "slowfast_mvit": {"input_spec": {**spec, "mean": [10**400, 0, 0]}},
        },
        "a clip of gigabytes": {
            **sound,
            "slowfast_mvit": {"input_spec": {**spec, "num_frames": 4096, "crop_px": 4096}},
        },
        "a model of a folder": {"model_state": state, "slowfast_mvit": {"model": "x"}},
    }


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_contents_of_other_kinds_give_typed_errors(tiny, tmp_path):
    for kind, content in evil_contents(*tiny).items():
        path = tmp_path / f"{kind}.pyth"
        torch.save(content, path)

        with pytest.raises(UserError) as caught:
            model_of_checkpoint(path)

        assert "\x1b" not in str(caught.value), kind


def test_a_few_bytes_do_not_allocate_gigabytes(tmp_path):
    path = tmp_path / "x.pyth"
    for module in (b"builtins", b"__builtin__"):
        content = b"\x80\x02c" + module + b"\nbytearray\nJ\xff\xff\xff\x7f\x85R."
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", content)
            archive.writestr("x/version", "3\n")

        with pytest.raises(WeightsError, match=r"more than tensors .*bytearray"):
            model_of_checkpoint(path)


@pytest.mark.parametrize(
    "name", ["..", "", ".", "a\0.safetensors", "/etc/x.safetensors", "[" * 10**5]
)
def test_an_index_that_names_no_file_next_to_it_is_refused(name, tmp_path):
    text = name if name.startswith("[") else json.dumps({"weight_map": {"x": name}})
    (tmp_path / "model.safetensors.index.json").write_text(text)

    with pytest.raises(WeightsError):
        model_of_checkpoint(tmp_path)
