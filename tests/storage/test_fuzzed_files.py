"""Every file that is read may be damaged anywhere: a typed error then, and nothing else."""

import contextlib
import io
import json
import random
import tarfile
import time

import numpy as np
import pytest
import torch

from slowfast_mvit.config import load_config
from slowfast_mvit.data.video import shards
from slowfast_mvit.errors import DecodeError, UserError
from slowfast_mvit.evaluation.results import load_results, load_scores, save_results, save_scores
from slowfast_mvit.runtime.log import StatsLog
from slowfast_mvit.storage import read_torch
from slowfast_mvit.structures import EvalResult, VideoScores
from slowfast_mvit.weights.files import read_weights

STATE = {"patch_embed.proj.weight": torch.ones(4, 3), "norm.bias": torch.zeros(4)}


def write_checkpoint(path):
    torch.save({"epoch": 3, "model_state": STATE, "cfg": "NUM_GPUS: 0\n"}, path)


def write_legacy_checkpoint(path):
    content = {"epoch": 3, "model_state": STATE, "cfg": "NUM_GPUS: 0\n"}
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_safetensors(path):
    pytest.importorskip("safetensors.torch").save_file(STATE, path, metadata={"format": "pt"})


def write_scores(path):
    probs = np.full((2, 3), 1 / 3, np.float32)
    views = np.zeros((1, 2), np.int64)
    view_probs = np.full((2, 1, 3), 1 / 3, np.float16)
    save_scores(VideoScores(("a", "b"), np.zeros(2, np.int64), views, view_probs, probs), path)


def write_results(path):
    metrics = {"top1": 50.0, "top5": 100.0}
    save_results(EvalResult(metrics, 2, 0, 2, 1, {"run": 50.0}, "0" * 16), path)


def write_stats(path):
    log = StatsLog(path.parent)
    for epoch in range(3):
        log.write({"_type": "train_epoch", "epoch": f"{epoch + 1}/3", "loss": 1.5, "dt": 0.1})
    log.path.rename(path)


def read_stats(path):
    log = StatsLog(path.parent)
    path.rename(log.path)
    log.read()
    log.keep_until(1, 0)
    log.path.rename(path)


MEMBERS = {f"clip {number}.mp4": bytes([number]) * 700 for number in range(9)}


def write_shard(path):
    shard = path.with_suffix("")  # without .index
    with tarfile.open(shard, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in MEMBERS.items():
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(content), {"comment": name}
            archive.addfile(info, io.BytesIO(content))
    with open(shard, "rb") as file:
        members = shards.plain_members(file, shard)
        path.write_bytes(shards.index_text(members, shard.stat().st_size, shard))


def read_shard(path):
    """Read as with its index, and by a scan."""
    for name, content in MEMBERS.items():
        with shards.open_plain_file(path.with_suffix("") / name) as file:
            assert len(file.read()) == len(content)


def write_plain_shard(path):
    write_shard(path.with_suffix(".tar.index"))
    path.with_suffix(".tar.index").unlink()


def read_plain_shard(path):
    with open(path, "rb") as file:
        for name, _ in shards.plain_members(file, path):
            with contextlib.suppress(DecodeError):
                shards.open_plain_file(path / name).close()


def write_config(path):
    path.write_text("DATA:\n  NUM_FRAMES: 16\n  MEAN: [0.45, 0.45, 0.45]\nMVIT:\n  DEPTH: 16\n")


KINDS = {
    "checkpoint.pyth": (write_checkpoint, read_torch),
    "weights.pyth": (write_checkpoint, read_weights),
    "legacy.pyth": (write_legacy_checkpoint, read_weights),
    "model.safetensors": (write_safetensors, read_weights),
    "test_scores.npz": (write_scores, load_scores),
    "test_results.json": (write_results, load_results),
    "stats": (write_stats, read_stats),
    "config.yaml": (write_config, load_config),
    "train.tar.index": (write_shard, read_shard),
    "train.tar": (write_plain_shard, read_plain_shard),
}


def damaged(content, rng):
    """The content with a few bytes changed, a part cut out, repeated, or its end missing."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place = rng.randrange(len(content) or 1)
        match rng.randrange(5):
            case 0:
                content[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                content[place : place + 1] = bytes([rng.choice((0, 1, 0x7F, 0xFF, 0x2E, 0x7D))])
            case 2:
                del content[place : place + rng.choice((1, 4, 100))]
            case 3:
                content[place:place] = content[place : place + rng.choice((1, 8, 64))]
            case 4:
                del content[place:]
    return bytes(content)


@pytest.mark.parametrize("seconds", [0.4, pytest.param(20.0, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_gives_a_typed_error(name, seconds, tmp_path):
    write, read = KINDS[name]
    path = tmp_path / name
    write(path)
    read(path)
    sound = path.read_bytes()
    rng = random.Random(seconds)

    deadline_s, num_tried, num_refused = time.monotonic() + seconds, 0, 0
    while time.monotonic() < deadline_s or num_tried < 50:
        num_tried += 1
        content = damaged(sound, rng)
        path.write_bytes(content)
        try:
            read(path)
        except UserError as error:
            assert str(path.parent) in str(error)
            num_refused += 1
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} for {content!r}") from error

    assert num_refused or name == "stats"


@pytest.mark.parametrize(
    "line", ["1" * 5000, "[" * 100_000, '{"epoch": ' + "9" * 5000 + "}", '{"epoch": "x/y"}', "\0"]
)
def test_a_line_of_a_log_that_is_no_record_is_left_out(line, tmp_path):
    log = StatsLog(tmp_path)
    log.write({"epoch": "1/3"})
    with open(log.path, "a", encoding="utf-8") as file:
        file.write(f"json_stats: {line}\n")

    assert log.read()[0] == {"epoch": "1/3"}
    log.keep_until(5, 0)


WRONG_VALUES = {
    **dict.fromkeys(("top1", "top5"), (None, [], {}, "x", True, 1e400)),
    **dict.fromkeys(("num_videos", "num_views", "failed"), (None, [], "x", -1, 1.5, True, 1e400)),
    "per_class": (None, [], "x", 1, {"run": "x"}, {"run": None}),
    "config_digest": (None, [], 1),
    "failed_videos": (None, 1, ["x"], [{"video_id": 1, "reason": "x"}], [{"video_id": "x"}]),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG_VALUES.items() for value in values]
)
def test_results_of_other_types_are_refused(name, value, tmp_path):
    path = tmp_path / "test_results.json"
    write_results(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))

    with pytest.raises(UserError, match=r"not a readable test_results\.json"):
        load_results(path)
