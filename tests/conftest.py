"""What many tests share: a data set of a few synthetic videos and the config of a tiny model."""

import os
from pathlib import Path

import pytest

# Two processes of one thread each are faster than two of two, and sums come out the same each time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TINY_CONFIG = """\
TRAIN: {BATCH_SIZE: 8, EVAL_PERIOD: 1, CHECKPOINT_PERIOD: 1}
TEST: {BATCH_SIZE: 12, NUM_ENSEMBLE_VIEWS: 2, NUM_SPATIAL_CROPS: 3}
DATA:
  NUM_FRAMES: 4
  SAMPLING_RATE: 2
  TARGET_FPS: 12
  TRAIN_CROP_SIZE: 32
  TEST_CROP_SIZE: 32
  TRAIN_JITTER_SCALES: [32, 40]
  RANDOM_FLIP: False
  USE_OFFSET_SAMPLING: True
MVIT:
  PATCH_PADDING: [1, 3, 3]
  DEPTH: 2
  EMBED_DIM: 8
  DIM_MUL: [[1, 2.0]]
  HEAD_MUL: [[1, 2.0]]
  POOL_Q_STRIDE: [[0, 1, 1, 1], [1, 1, 2, 2]]
  POOL_KV_STRIDE_ADAPTIVE: [1, 4, 4]
  POOL_KVQ_KERNEL: [3, 3, 3]
  USE_ABS_POS: False
  REL_POS_SPATIAL: True
  REL_POS_TEMPORAL: True
  RESIDUAL_POOLING: True
  DIM_MUL_IN_ATT: True
MODEL: {NUM_CLASSES: 8}
SOLVER: {MAX_EPOCH: 2, BASE_LR: 1e-3, OPTIMIZING_METHOD: adamw}
DATA_LOADER: {NUM_WORKERS: 0}
NUM_GPUS: 0
"""


@pytest.fixture(scope="session")
def motion_data(tmp_path_factory) -> Path:
    """A folder of 16 + 8 synthetic videos with train.csv, val.csv and classes.txt."""
    from slowfast_mvit.data.synthetic import write_motion_dataset

    folder = tmp_path_factory.mktemp("motion")
    write_motion_dataset(folder, num_train=16, num_val=8)
    return folder


@pytest.fixture
def tiny_config(tmp_path, motion_data) -> Path:
    """A config file that trains a two-block model on ``motion_data`` in seconds."""
    path = tmp_path / "tiny.yaml"
    places = f"OUTPUT_DIR: {tmp_path / 'out'}\n"
    data = f"DATA:\n  PATH_TO_DATA_DIR: {motion_data}\n"
    path.write_text(TINY_CONFIG.replace("DATA:\n", data, 1) + places)
    return path


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """The local folder behind ``shelf://``, a remote store that iopath reaches."""
    from shelf import ShelfHandler

    from slowfast_mvit.storage import register_path_handlers

    root = tmp_path / "shelf"
    root.mkdir()
    monkeypatch.setattr(ShelfHandler, "root", root)
    monkeypatch.setattr(ShelfHandler, "is_down", False)
    register_path_handlers(["shelf:ShelfHandler"])
    return root
