"""From images to videos: train and test on drawings, inflate what came of it, train on videos."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from drawn_images import SHAPES, draw_shapes

from slowfast_mvit.builders import model_of_checkpoint
from slowfast_mvit.cli import main
from slowfast_mvit.jobs.predict import predict

ROOT = Path(__file__).resolve().parents[2]

IMAGES = """\
TRAIN: {DATASET: folder, BATCH_SIZE: 8, EVAL_PERIOD: 12, CHECKPOINT_PERIOD: 12}
TEST: {DATASET: folder, BATCH_SIZE: 40, NUM_ENSEMBLE_VIEWS: 1, NUM_SPATIAL_CROPS: 1}
DATA:
  PATH_TO_DATA_DIR: images
  NUM_FRAMES: 1
  TRAIN_CROP_SIZE: 32
  TEST_CROP_SIZE: 32
  TRAIN_JITTER_SCALES_RELATIVE: [0.6, 1.0]
  TRAIN_JITTER_ASPECT_RELATIVE: [0.8, 1.25]
MVIT:
  PATCH_2D: True
  PATCH_KERNEL: [7, 7]
  PATCH_STRIDE: [4, 4]
  PATCH_PADDING: [3, 3]
  EMBED_DIM: 16
  DEPTH: 3
  DIM_MUL: [[1, 2.0]]
  HEAD_MUL: [[1, 2.0]]
  POOL_Q_STRIDE: [[0, 1, 1, 1], [1, 1, 2, 2], [2, 1, 1, 1]]
  POOL_KV_STRIDE_ADAPTIVE: [1, 4, 4]
  POOL_KVQ_KERNEL: [1, 3, 3]
  CLS_EMBED_ON: False
  DIM_MUL_IN_ATT: True
  RESIDUAL_POOLING: True
  USE_ABS_POS: False
  REL_POS_SPATIAL: True
  DROPPATH_RATE: 0.0
MODEL: {NUM_CLASSES: 4, DROPOUT_RATE: 0.0}
SOLVER:
  OPTIMIZING_METHOD: adamw
  BASE_LR: 2.0e-3
  WARMUP_EPOCHS: 1.0
  WARMUP_START_LR: 1.0e-4
  COSINE_AFTER_WARMUP: True
  MAX_EPOCH: 12
  WEIGHT_DECAY: 0.05
  CLIP_GRAD_L2NORM: 1.0
DATA_LOADER: {NUM_WORKERS: 0}
NUM_GPUS: 0
RNG_SEED: 0
OUTPUT_DIR: still
"""

VIDEOS = """\
_BASE_: images.yaml
TRAIN: {DATASET: kinetics, EVAL_PERIOD: 1, CHECKPOINT_PERIOD: 1, CHECKPOINT_EPOCH_RESET: True}
TEST: {DATASET: kinetics}
DATA: {NUM_FRAMES: 4, SAMPLING_RATE: 2, TARGET_FPS: 12, RANDOM_FLIP: False}
MVIT:
  PATCH_2D: False
  PATCH_KERNEL: [3, 7, 7]
  PATCH_STRIDE: [2, 4, 4]
  PATCH_PADDING: [1, 3, 3]
  POOL_KVQ_KERNEL: [3, 3, 3]
  REL_POS_TEMPORAL: True
MODEL: {NUM_CLASSES: 8}
SOLVER: {MAX_EPOCH: 1, WARMUP_EPOCHS: 0.0}
OUTPUT_DIR: moving
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with configs, drawings and, in ``still``, a model trained on them from nothing."""
    folder = tmp_path_factory.mktemp("from_images")
    draw_shapes(folder / "images")
    (folder / "images.yaml").write_text(IMAGES)
    (folder / "videos.yaml").write_text(VIDEOS)
    run = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "run_net.py"), "--cfg", "images.yaml"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return folder


def top1(output_dir: Path) -> float:
    return json.loads((output_dir / "test_results.json").read_text())["top1"]


def weights(trained: Path) -> Path:
    return trained / "still" / "checkpoints" / "checkpoint_epoch_00012.pyth"


def test_a_model_from_scratch_classifies_drawn_shapes(trained):
    results = json.loads((trained / "still" / "test_results.json").read_text())

    assert results["num_videos"] == 40 and results["failed"] == 0
    assert results["top1"] > 75  # chance: 25
    assert list(results["per_class"]) == list(SHAPES)


def test_a_full_crop_test_sees_the_whole_images(trained, monkeypatch, tmp_path):
    monkeypatch.chdir(trained)
    words = ["DATA.IN_VAL_CROP_RATIO", "0.0", "OUTPUT_DIR", str(tmp_path)]

    status = main(
        ["test", "--cfg", "images.yaml", "TEST.CHECKPOINT_FILE_PATH", str(weights(trained)), *words]
    )

    assert status == 0 and top1(tmp_path) > 60


@pytest.mark.parametrize("kind", ["imagenet", "csv"])
def test_lists_of_images_equal_their_folders(trained, kind, monkeypatch, tmp_path):
    images = [
        (f"val/{shape}/{number}.png", label)
        for label, shape in enumerate(SHAPES)
        for number in range(10)
    ]
    entries = [{"im_path": path, "class": label} for path, label in images]
    (tmp_path / "val.json").write_text(json.dumps(entries))
    (tmp_path / "val.csv").write_text("".join(f"{path} {label}\n" for path, label in images))
    monkeypatch.chdir(trained)
    lists = ["DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA.PATH_PREFIX", str(trained / "images")]
    start = ["TEST.CHECKPOINT_FILE_PATH", str(weights(trained)), "OUTPUT_DIR", str(tmp_path)]

    status = main(["test", "--cfg", "images.yaml", "TEST.DATASET", kind, *lists, *start])

    assert status == 0
    assert top1(tmp_path) == top1(trained / "still")


def test_the_checkpoint_alone_names_the_shape_in_an_image(trained):
    model = model_of_checkpoint(weights(trained))

    best = [
        predict(model, trained / "images" / "train" / shape / f"{number}.png")[0].name
        for shape in SHAPES
        for number in range(5)
    ]

    expected = [shape for shape in SHAPES for _ in range(5)]
    assert sum(map(str.__eq__, best, expected)) > 15
    assert model.input_spec["resizing"] == "image"


def test_a_video_model_starts_from_the_image_model_and_trains(
    trained, motion_data, monkeypatch, tmp_path
):
    monkeypatch.chdir(trained)
    data = ["DATA.PATH_TO_DATA_DIR", str(motion_data), "OUTPUT_DIR", str(tmp_path)]
    start = ["TRAIN.CHECKPOINT_FILE_PATH", str(weights(trained)), "TEST.ENABLE", "False"]

    assert main(["train", "--cfg", "videos.yaml", *data, *start]) == 0

    report = json.loads((tmp_path / "load_report.json").read_text())
    assert len(report["inflated"]) == 1 + 3 * 3  # the patches, and three poolings in three blocks
    assert report["dropped"] == ["head.projection.weight", "head.projection.bias"]
    assert not report["missing"] and not report["unexpected"] and report["filled"] > 0.95
    run = torch.load(tmp_path / "checkpoints" / "checkpoint_epoch_00001.pyth", weights_only=True)
    assert run["epoch"] == 0  # not the images' eleventh
    kernel = run["model_state"]["patch_embed.proj.weight"]
    assert kernel.shape == (16, 3, 3, 7, 7) and kernel[:, :, 0].count_nonzero() > 0  # it moved


def test_image_weights_without_a_reset_of_the_epoch_are_explained(
    trained, motion_data, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(trained)
    words = ["DATA.PATH_TO_DATA_DIR", str(motion_data), "OUTPUT_DIR", str(tmp_path)]
    start = ["TRAIN.CHECKPOINT_FILE_PATH", str(weights(trained)), "TRAIN.CHECKPOINT_EPOCH_RESET"]

    status = main(["train", "--cfg", "videos.yaml", *words, *start, "False"])

    assert status == 2
    assert "set TRAIN.CHECKPOINT_EPOCH_RESET True" in capsys.readouterr().err
