"""A model as one file: it computes the same without this package, and ONNX also without torch."""

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_config import TINY_CONFIG

import slowfast_mvit as sm
from slowfast_mvit.cli import main
from slowfast_mvit.config import load_config_text
from slowfast_mvit.data.views.pixels import normalise
from slowfast_mvit.errors import ConfigError, ExportError
from slowfast_mvit.jobs import export, export_check
from slowfast_mvit.jobs.export import export_job
from slowfast_mvit.weights.exports import write_checkpoint, write_state

HAS_ONNX = all(map(importlib.util.find_spec, export.PACKAGES["onnx"]))
REAL_CLIPS = Path(__file__).resolve().parents[2].parent / "shared" / "videos" / "clips"
REAL_CLIPS /= "intel_sample_videos/asl_gestures"
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="the extra `export` is not installed")
# As where torch, torchvision and this package are not installed.
WITHOUT_TORCH = """
import runpy, sys
for name in ("torch", "torchvision", "slowfast_mvit"):
    sys.modules[name] = None
del sys.argv[0]
runpy.run_path(sys.argv[0])
"""
MEASURED = """
import resource, sys
from slowfast_mvit.cli import main
status = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # KiB
sys.exit(status)
"""


@torch.no_grad()
def scaled(model, factor):
    """The model with larger weights, so that its classes differ from video to video."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(factor)
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.pyth"
    config = load_config_text(TINY_CONFIG, source="tiny")
    torch.manual_seed(0)
    model = scaled(sm.build_model(config), 10)
    spec = {**model.input_spec, "class_names": [f"move {label}" for label in range(8)]}
    write_checkpoint(
        path, model.state_dict(), cfg_text=config.to_yaml(), extra={"input_spec": spec}
    )
    return path


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    words = ["export", str(checkpoint), "--to", "pt2", "--with-preprocessing"]
    assert main([*words, "--out", str(folder)]) == 0
    return folder


def contract_of(folder):
    return json.loads((folder / "contract.json").read_text())


def check_of(folder):
    return json.loads((folder / "check.json").read_text())


def test_a_pt2_file_normalises_and_classifies_as_the_model_does(checkpoint, exported):
    model = sm.builders.model_of_checkpoint(checkpoint)
    frames = torch.randint(0, 256, (3, 4, 32, 32, 3), dtype=torch.uint8)

    probs = torch.export.load(exported / "model.pt2").module()(frames)

    pixels = normalise(frames.permute(0, 4, 1, 2, 3), [0.45] * 3, [0.225] * 3)
    with torch.inference_mode():
        expected = model(pixels).softmax(dim=1)
    torch.testing.assert_close(probs, expected, rtol=0, atol=1e-6)


def test_the_contract_describes_the_file(exported):
    contract = contract_of(exported)

    content = (exported / "model.pt2").read_bytes()
    assert contract["sha256"] == hashlib.sha256(content).hexdigest()
    frames = {"name": "frames", "dtype": "uint8", "shape": ["batch", 4, 32, 32, 3]}
    assert contract["input"] == frames
    assert contract["output"]["shape"] == ["batch", 8]
    assert contract["labels"] == [f"move {label}" for label in range(8)]
    expected = {"num_frames": 4, "sampling_rate": 2, "crop_px": 32, "channel_order": "RGB"}
    assert expected.items() <= contract.items()
    assert contract["versions"]["torch"] == torch.__version__


def test_the_check_compares_batches_of_one_and_five(exported):
    check = check_of(exported)

    assert [batch["size"] for batch in check["batches"]] == [1, 5]
    assert all(batch["outputs"] <= 1e-4 for batch in check["batches"])
    assert all(batch["equal_labels"] == check["num_clips"] for batch in check["batches"])
    assert check["problems"] == []


def test_other_sizes_are_refused_by_the_file(exported):
    graph = torch.export.load(exported / "model.pt2").module()

    with pytest.raises(AssertionError, match=r"clips.size\(\)\[1\] == 4"):
        graph(torch.zeros(1, 6, 32, 32, 3, dtype=torch.uint8))


def test_an_export_is_replaced_only_if_asked(checkpoint, exported):
    with pytest.raises(ConfigError, match=r"contract.json: exists already.*--overwrite"):
        export_job(str(checkpoint), to="pt2", out=str(exported))


def test_dynamic_lengths_are_refused_with_the_reason(tmp_path):
    with pytest.raises(ConfigError, match=r"--dynamic frames: .*resampled for each grid"):
        export_job("w.pyth", to="pt2", out=str(tmp_path), dynamic=["batch", "frames"])


def test_missing_packages_are_named_before_weights_are_read(tmp_path, monkeypatch):
    monkeypatch.setitem(export.PACKAGES, "onnx", ("onnx_of_nowhere",))

    with pytest.raises(
        ConfigError, match=r"onnx_of_nowhere.*pip install 'slowfast_mvit\[export\]'"
    ):
        export_job("w.pyth", to="onnx", out=str(tmp_path))


@pytest.mark.parametrize("factor", [2.0, float("nan")])
def test_a_file_that_differs_from_its_model_is_not_kept(checkpoint, tmp_path, monkeypatch, factor):
    model = sm.builders.model_of_checkpoint(checkpoint).requires_grad_(False)
    monkeypatch.setattr(export, "exported_program", lambda *_: None)
    monkeypatch.setitem(export._WRITERS, "pt2", lambda _, path, __: path.write_bytes(b"graph"))
    monkeypatch.setitem(export_check.RUNNERS, "pt2", lambda _: lambda batch: factor * model(batch))

    with pytest.raises(ExportError, match=r"batches of 1 its outputs differ .*0.0001 is allowed"):
        export_job(str(checkpoint), to="pt2", out=str(tmp_path))

    assert [path.name for path in tmp_path.iterdir()] == ["check.json"]
    assert len(check_of(tmp_path)["problems"]) == 2


def labels_without_torch(folder, videos):
    """The labels that the example prints, where neither torch nor this package can be imported."""
    script = str(folder / "predict_onnx.py")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, script, *videos], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return re.findall(r"^.*\.(?:mp4|mkv)\n(.*):", done.stdout, re.MULTILINE)


@needs_onnx
def test_onnx_gives_the_same_labels_without_torch(checkpoint, motion_data, tmp_path):
    import onnxruntime

    model = sm.builders.model_of_checkpoint(checkpoint)
    videos = sorted(map(str, motion_data.glob("*/*.mp4")))[:20]
    words = ["export", str(checkpoint), "--to", "onnx", "--out", str(tmp_path)]
    assert main([*words, "--with-preprocessing", "--videos", *videos]) == 0

    labels = labels_without_torch(tmp_path, videos)

    assert labels == [sm.predict(model, video, top_k=1)[0].name for video in videos]
    assert len(set(labels)) > 2
    assert check_of(tmp_path)["videos"] == videos
    assert len((tmp_path / "predict_onnx.py").read_text().splitlines()) <= 40
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert session.get_inputs()[0].shape == ["batch", 4, 32, 32, 3]
    with pytest.raises(Exception, match="index: 1 Got: 6 Expected: 4"):
        session.run(None, {"frames": torch.zeros(1, 6, 32, 32, 3, dtype=torch.uint8).numpy()})


@needs_onnx
@pytest.mark.nightly
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnx_with_normalised_pixels_on_real_clips(checkpoint, tmp_path, precision):
    videos = sorted(map(str, REAL_CLIPS.glob("*.mkv")))
    if not videos:
        pytest.skip("the folder of real clips is not on this machine")
    model = sm.builders.model_of_checkpoint(checkpoint)
    folder = tmp_path / "exported"
    export_job(str(checkpoint), to="onnx", out=str(folder), precision=precision, videos=videos)

    labels = labels_without_torch(folder, videos)

    assert labels == [sm.predict(model, video, top_k=1)[0].name for video in videos]
    assert contract_of(folder)["input"]["dtype"] == "float32"


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "to"),
    [
        ("mvitv2_s_16x4", "pt2"),
        pytest.param("mvitv2_s_16x4", "onnx", marks=needs_onnx),
        pytest.param("mvitv1_b_16x4", "onnx", marks=needs_onnx),
    ],
)
def test_published_sizes_can_be_exported_in_8_gigabytes(name, to, tmp_path):
    weights = tmp_path / "weights.pyth"
    write_state(weights, scaled(sm.create_model(name), 2).state_dict())
    words = ["export", str(weights), "--to", to, "--out", str(tmp_path / "out")]

    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *words], capture_output=True, text=True, check=True
    )

    assert int(done.stdout.splitlines()[-1]) * 1024 < 8e9
    for batch in check_of(tmp_path / "out")["batches"]:
        assert batch["outputs"] <= 1e-4 and batch["equal_labels"] == 5
