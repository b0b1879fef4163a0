"""The numbers of a test are kept in two files that say nothing about where or when."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest

from slowfast_mvit.errors import MissingViewsError, UserError
from slowfast_mvit.evaluation.results import (
    distinct_names,
    load_results,
    load_scores,
    save_results,
    save_scores,
    summarise,
)
from slowfast_mvit.structures import FailedVideo, VideoScores

VIDEO_IDS = ("walk/a b.mp4", "走る.mp4", "c.mp4", "d.mp4")
LABELS = np.array([0, 1, 1, 2])
PROBS = np.array(
    [[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.0, 0.25, 0.75]], dtype=np.float32
)
VIEWS = np.array([[0, 0], [1, 0]])
BROKEN = FailedVideo("e.mp4", "/data/val/e.mp4", "the file ended early", "/data/val/e.mp4")


def scores_of_four():
    view_probs = np.stack([PROBS, PROBS], axis=1).astype(np.float16)
    return VideoScores(VIDEO_IDS, LABELS, VIEWS, view_probs, PROBS)


def result_of_four(**changes):
    arguments = {
        "class_names": ["walk", "run", "sit"],
        "failed_videos": [BROKEN],
        "num_listed": 5,
        "config_digest": "abc123",
    }
    return summarise(scores_of_four(), **{**arguments, **changes})


def test_summarise_counts_by_hand():
    result = result_of_four()

    assert (result.top1, result.top5) == (75, 100)
    assert (result.num_videos, result.failed, result.num_listed, result.num_views) == (4, 1, 5, 2)
    assert result.per_class == {"walk": 100, "run": 50, "sit": 100}
    assert result.config_digest == "abc123"


def test_classes_without_names_are_called_by_their_index():
    assert result_of_four(class_names=None).per_class == {
        "class 0": 100,
        "class 1": 50,
        "class 2": 100,
    }


def test_classes_that_share_a_name_stay_apart():
    assert distinct_names(["walk", "run", "walk"], 3) == ("walk [0]", "run", "walk [2]")


def test_too_few_class_names_are_refused():
    with pytest.raises(UserError, match="2 class names, but the model has 3 classes"):
        result_of_four(class_names=["walk", "run"])


def test_a_video_that_is_neither_scored_nor_failed_is_noticed():
    with pytest.raises(MissingViewsError, match=r"4 videos scored and 1 failed, .* has 6"):
        result_of_four(num_listed=6)


def test_when_every_video_failed_the_first_reasons_are_reported():
    nothing = VideoScores((), np.zeros(0, int), VIEWS, np.zeros((0, 2, 3)), np.zeros((0, 3)))
    failed = [FailedVideo(f"{i}.mp4", f"/d/{i}.mp4", "no such file") for i in range(5)]

    with pytest.raises(UserError) as caught:
        summarise(nothing, class_names=None, failed_videos=failed, num_listed=5, config_digest="")

    message = str(caught.value)
    assert message.startswith("none of the 5 listed videos could be scored.")
    assert "'2.mp4': no such file" in message
    assert message.endswith("and 2 more")


def test_results_file_has_the_agreed_keys_and_no_path(tmp_path):
    path = save_results(result_of_four(), tmp_path / "run" / "test_results.json")

    text = path.read_text()
    assert json.loads(text) == {
        "config_digest": "abc123",
        "failed": 1,
        "failed_videos": [{"reason": "e.mp4: the file ended early", "video_id": "e.mp4"}],
        "num_videos": 4,
        "num_views": 2,
        "per_class": {"run": 50.0, "sit": 100.0, "walk": 100.0},
        "top1": 75.0,
        "top5": 100.0,
    }
    assert "/data" not in text


def test_results_come_back_as_they_were_saved(tmp_path):
    path = save_results(result_of_four(failed_videos=[], num_listed=4), tmp_path / "r.json")

    assert load_results(path) == result_of_four(failed_videos=[], num_listed=4)


def test_scores_file_is_read_by_numpy_alone(tmp_path):
    path = save_scores(scores_of_four(), tmp_path / "test_scores.npz")

    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)

    assert {name: (array.dtype.kind, array.shape) for name, array in arrays.items()} == {
        "video_ids": ("U", (4,)),
        "labels": ("i", (4,)),
        "view_probs": ("f", (4, 2, 3)),
        "views": ("i", (2, 2)),
        "probs": ("f", (4, 3)),
    }
    assert arrays["view_probs"].dtype == np.float16
    assert arrays["video_ids"].tolist() == list(VIDEO_IDS)


def test_scores_come_back_as_they_were_saved(tmp_path):
    loaded = load_scores(save_scores(scores_of_four(), tmp_path / "test_scores.npz"))

    assert loaded.video_ids == VIDEO_IDS
    for name in ("labels", "views", "view_probs", "probs"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(scores_of_four(), name))


def test_equal_scores_give_equal_bytes_at_any_time(tmp_path):
    path = save_scores(scores_of_four(), tmp_path / "test_scores.npz")

    with zipfile.ZipFile(path) as archive:
        dates = {member.date_time for member in archive.infolist()}

    assert dates == {(1980, 1, 1, 0, 0, 0)}
    assert save_scores(scores_of_four(), tmp_path / "again.npz").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("load", [load_results, load_scores])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"PK\x03\x04 damaged", b"[]"])
def test_a_file_that_cannot_be_read_is_one_clear_error(load, content, tmp_path):
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(UserError, match=r"file: not a readable test_\w+\.\w+ \(.+\)"):
        load(path)


def test_an_array_alone_is_not_a_scores_file(tmp_path):
    np.save(tmp_path / "labels.npy", LABELS)

    with pytest.raises(UserError, match=r"not a readable test_scores\.npz"):
        load_scores(tmp_path / "labels.npy")


def test_a_name_that_is_no_valid_unicode_does_not_lose_the_results(tmp_path):
    failed = FailedVideo("caf\udce9.mp4", "/d/caf\udce9.mp4", "no such file")

    path = save_results(result_of_four(failed_videos=[failed]), tmp_path / "test_results.json")

    assert load_results(path).failed_videos[0].video_id == "caf\udce9.mp4"


@pytest.mark.parametrize("value", [np.nan, np.inf, -1])
def test_scores_of_views_that_are_no_probabilities_are_refused(value, tmp_path):
    scores = scores_of_four()
    scores.view_probs[0, 0, 0] = value
    save_scores(scores, tmp_path / "test_scores.npz")

    with pytest.raises(UserError, match="negative or not finite"):
        load_scores(tmp_path / "test_scores.npz")
