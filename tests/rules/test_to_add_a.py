"""The table "To add a ..." in CONTRIBUTING.md: each row is followed in a copy of the package.

An addition touches only the files that its row names; then the new thing works from end to end.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = dict(
    re.findall(r"^\| (.+?) \| (.+) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
)

# what to add -> file in the package -> lines for its end.
ADDITIONS = {
    "a video data set": {
        "data/lists/catalog.py": """
DATASETS["birds"] = DataSet("segments", flip_keeps_class=True, read=read_csv, files=_CSV_FILES)
"""
    },
    "a reader": {
        "data/video/decode_numpy.py": """
import contextlib
import numpy as np
import torch

class NumpyReader:
    fps = 10.0

    def __init__(self, path):
        self._frames = torch.from_numpy(np.load(path))
        self.num_frames = len(self._frames)
        self.times_s = np.arange(self.num_frames) / self.fps

    def frames(self, indices):
        return self._frames[list(indices)]

@contextlib.contextmanager
def open_numpy(path):
    yield NumpyReader(path)
""",
        "data/video/readers.py": """
from slowfast_mvit.data.video.decode_numpy import open_numpy
READERS["numpy"] = open_numpy
""",
    },
    "a model size": {
        "models/variants.py": """
SIZES["XS"] = Size((1, 1, 1, 1), embed_dim=32)
VARIANTS["mvitv2_xs_4x4"] = Variant("XS", (4, 64, 64), 8, 0, 0.0)
"""
    },
    "a metric": {
        "evaluation/metrics.py": """
METRICS["error"] = lambda probs, labels: 100 - topk_accuracy(probs, labels, 1)
"""
    },
    "a weight source": {
        "weights/sources.py": """
SOURCES["birdnet"] = Source(
    "birdnet",
    signs=("stem.weight", "trunk.#.attn.pool_?.weight"),
    key_map=(
        ("stem.*", "patch_embed.proj.*"),
        ("trunk.#.*", "blocks.#.*"),
        ("last.*", "head.projection.*"),
    ),
)
"""
    },
}

USES_OF_THEM = """
import json, sys
from pathlib import Path
import numpy as np, torch
import slowfast_mvit as sm
from slowfast_mvit.data.lists.catalog import open_list
from slowfast_mvit.data.video.readers import open_reader
from slowfast_mvit.evaluation.results import save_results, summarise
from slowfast_mvit.structures import VideoScores

folder = Path(sys.argv[1])
assert Path(sm.__file__).is_relative_to(folder), sm.__file__

(folder / "wing.npy").touch()
(folder / "train.csv").write_text("wing.npy 3\\n")
[video] = open_list("birds", "train", data_dir=folder)
assert video.label == 3

np.save(folder / "wing.npy", np.full((5, 4, 6, 3), 7, np.uint8))
with open_reader(video.path, "numpy") as reader:
    assert reader.frames([4, 0]).shape == (2, 4, 6, 3)

model = sm.create_model("mvitv2_xs_4x4")
assert model(torch.zeros(1, 3, 4, 64, 64)).shape == (1, 8)
assert "mvitv2_xs_4x4" in sm.list_models()

theirs = {}
for name, tensor in model.state_dict().items():
    for ours, birdnets in (
        ("patch_embed.proj", "stem"), ("blocks", "trunk"), ("head.projection", "last")
    ):
        name = name.replace(ours, birdnets)
    theirs[name] = tensor
report = sm.load_weights(sm.create_model("mvitv2_xs_4x4"), theirs, head="keep")
assert "birdnet" in str(report), str(report)

scores = VideoScores(
    video_ids=("a", "b"),
    labels=np.array([0, 1]),
    view_probs=np.full((2, 1, 2), 0.5, np.float16),
    views=np.zeros((1, 2), np.int64),
    probs=np.array([[0.9, 0.1], [0.8, 0.2]], np.float32),
)
result = summarise(scores, class_names=None, failed_videos=(), num_listed=2, config_digest="")
assert json.loads(save_results(result, folder / "test_results.json").read_text())["error"] == 50
"""


def named_files(row: str) -> list[str]:
    return re.findall(r"`([a-z_/]+(?:/|\.py))`", row)


@pytest.mark.parametrize("what", ADDITIONS)
def test_an_addition_touches_only_what_the_table_names(what):
    named = named_files(ROWS[what])

    assert named
    for file in ADDITIONS[what]:
        assert any(file == name or file.startswith(name) for name in named if file), (file, named)


def test_all_additions_work_from_end_to_end(tmp_path):
    package = tmp_path / "slowfast_mvit"
    shutil.copytree(
        ROOT / "slowfast_mvit", package, ignore=shutil.ignore_patterns("__pycache__", "*.so")
    )
    for files in ADDITIONS.values():
        for file, lines in files.items():
            with open(package / file, "a", encoding="utf-8") as module:
                module.write(lines)

    subprocess.run(
        [sys.executable, "-c", USES_OF_THEM, str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=True,
    )


def test_every_file_that_the_table_names_exists():
    for what, row in ROWS.items():
        for file in named_files(row):
            places = (ROOT / file, ROOT / "slowfast_mvit" / file)
            assert any(place.exists() for place in places), f"{what}: {file}"
