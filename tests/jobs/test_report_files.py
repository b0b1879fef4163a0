"""The report is made of the files of a test alone, which may be moved, old, damaged or hostile."""

import base64
import io
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from slowfast_mvit.cli import main
from slowfast_mvit.errors import UserError
from slowfast_mvit.evaluation.provenance import Provenance, save_provenance
from slowfast_mvit.evaluation.results import save_results, save_scores, summarise
from slowfast_mvit.evaluation.thumbnails import film_of, load_thumbnails, save_thumbnails
from slowfast_mvit.jobs.report import report_job
from slowfast_mvit.structures import VideoScores

NEW_FILES = ("test_provenance.json", "test_thumbnails.json", "test_classes.json", "config.yaml")


def test_a_moved_folder_gives_the_same_report_without_the_videos(
    tiny_config, motion_data, tmp_path, monkeypatch
):
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(motion_data, data)
    words = ["TEST.WEIGHTS", "random", "TEST.NUM_TEMPORAL_CLIPS", "[2, 1]"]
    places = ["DATA.PATH_TO_DATA_DIR", str(data), "OUTPUT_DIR", str(run)]
    assert main(["test", "--cfg", str(tiny_config), *words, *places]) == 0
    written = (run / "test_2_clips" / "report.html").read_text()
    (tmp_path / "other machine").mkdir()
    moved = shutil.move(run, tmp_path / "other machine" / "run") / "test_2_clips"
    shutil.rmtree(data)
    (moved / "report.html").unlink()
    monkeypatch.chdir(tmp_path / "other machine")

    assert main(["report", "run/test_2_clips"]) == 0

    assert (moved / "report.html").read_text() == written
    assert written.count("data:image/jpeg") == 8 * 4  # all frames of all videos
    for text in ("2 clips x 3 crops", "clips of 4 x 2 at 12 fps", "random weights", "UTC, on "):
        assert text in written
    assert "torch 2" in written and "move left" in written and "Not recorded" not in written


def test_the_accuracy_is_in_both_logs_as_pyslowfast_writes_it(tiny_config, tmp_path):
    assert main(["test", "--cfg", str(tiny_config), "TEST.WEIGHTS", "random"]) == 0

    results = json.loads((tmp_path / "out" / "test_results.json").read_text())
    line = (
        f'json_stats: {{"split": "test_final", "top1_acc": "{results["top1"]:.2f}", '
        f'"top5_acc": "{results["top5"]:.2f}"}}'
    )
    assert (tmp_path / "out" / "json_stats.log").read_text() == line + "\n"
    assert line in (tmp_path / "out" / "stdout.log").read_text()


@pytest.fixture
def folder(tmp_path):
    """The files of a test of three videos, without a model and a data set."""
    folder = tmp_path / "run"
    probs = np.eye(3, dtype=np.float32)
    view = np.zeros((1, 2), dtype=np.int64)
    labels = np.array([0, 1, 1])
    ids = ("a.mp4", "<b>.mp4", "c.mp4")
    scores = VideoScores(ids, labels, view, probs[:, None].astype(np.float16), probs)
    result = summarise(
        scores, class_names=["x", "y", "z"], failed_videos=[], num_listed=3, config_digest="d"
    )
    save_results(result, folder / "test_results.json")
    save_scores(scores, folder / "test_scores.npz")
    save_provenance(Provenance("<i>weights</i>", time="now", machine="a CPU"), folder)
    save_thumbnails({"<b>.mp4": film_of([np.zeros((4, 4, 3), np.uint8)])}, folder)
    (folder / "test_classes.json").write_text('["x", "y", "<u>z</u>"]')
    (folder / "config.yaml").write_text("PATH_HANDLERS: ['os:system']\nX: </pre><script>\n")
    return folder


def test_texts_of_the_files_are_shown_and_do_nothing(folder):
    report_job(str(folder))

    page = (folder / "report.html").read_text()
    assert not any(tag in page for tag in ("<b>", "<i>w", "<u>"))
    assert page.count("<script") == 2  # of the table
    for text in ("&lt;b&gt;.mp4", "&lt;i&gt;weights", "&lt;u&gt;z", "os:system", "now, on a CPU"):
        assert text in page
    assert page.count("data:image/jpeg") == 1


def test_a_test_of_an_earlier_version_has_a_report_that_says_what_is_missing(folder):
    for name in NEW_FILES:
        (folder / name).unlink()

    report_job(str(folder))

    page = (folder / "report.html").read_text()
    assert (
        "weights, clip, time, machine and versions; frames of videos; class names; config" in page
    )
    assert "class 1" in page and "frames not available" in page


def jpeg(side_px, kind="jpeg"):
    content = io.BytesIO()
    Image.new("L", (side_px, side_px)).save(content, kind)
    return content.getvalue()


def of_size(content, side_px):
    """A JPEG whose header claims another size."""
    start = content.index(b"\xff\xc0") + 5
    return content[:start] + 2 * side_px.to_bytes(2, "big") + content[start + 4 :]


def film(content, number=1):
    return json.dumps({"a.mp4": [1, [[number, base64.b64encode(content).decode()]]]})


HOSTILE = {
    "test_provenance.json": [
        *("[]", "{}", '{"weights": 3}', '{"weights": "w", "time": {}}', "9" * 9999, "[" * 90_000),
    ],
    "test_classes.json": ["3", "[1, 2, 3]", '["x"]', '{"x": "y"}', "\udcff"],
    "test_thumbnails.json": [
        "[]",
        '{"a": 3}',
        '{"a": [1, [[1, 3]]]}',
        '{"a": [1, [[1, "x\\" onerror=1"]]]}',
        film(b"<svg onload=alert(1)>"),
        film(jpeg(8, "png")),
        film(jpeg(161)),
        film(of_size(jpeg(8), 65535)),
        film(jpeg(8), number="1"),
        "{" * 100 + " " * 5_000_000,
    ],
    "test_results.json": ['{"top1": 1e9}'],
    "config.yaml": ["#" * 1_000_001],
}


@pytest.mark.parametrize(
    ("name", "text"),
    [(name, text) for name, texts in HOSTILE.items() for text in texts],
    ids=lambda text: text[:30],
)
def test_a_hostile_file_is_named_in_one_error(folder, name, text):
    (folder / name).write_text(text, errors="surrogateescape")

    with pytest.raises(UserError) as caught:
        report_job(str(folder))

    assert name in str(caught.value) or "class names" in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", [*NEW_FILES, "test_results.json"])
def test_links_and_pipes_are_not_followed(folder, name, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("{}")
    (folder / name).unlink()
    (folder / name).symlink_to(secret)
    with pytest.raises(UserError, match="a link to a file of another folder"):
        report_job(str(folder))

    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(UserError, match=r"it is not a file|no test_results\.json there"):
        report_job(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.array([0, 1, 3])}, "label is not from 0 to 2"),
        ({"labels": np.array([0, -1, 1])}, "label is not"),
        ({"labels": np.zeros(3)}, "labels is of type float64"),
        ({"probs": np.full((3, 3), np.nan, np.float32)}, "not finite"),
        ({"views": np.zeros((1, 3), int)}, "views has the shape"),
        ({"video_ids": np.array([1, 2, 3])}, "video_ids is of type"),
        ({"video_ids": np.array(["a", "a", "b"])}, "scored twice"),
        ({"probs": np.zeros((3, 0), np.float32), "view_probs": np.zeros((3, 1, 0))}, "0 classes"),
    ],
)
def test_scores_that_no_test_writes_are_refused(folder, changes, message):
    with np.load(folder / "test_scores.npz") as archive:
        arrays = {**archive, **changes}
    np.savez(folder / "test_scores.npz", **arrays)

    with pytest.raises(UserError, match=rf"test_scores\.npz \(.*{message}"):
        report_job(str(folder))


def test_files_of_different_tests_are_not_mixed(folder):
    results = json.loads((folder / "test_results.json").read_text())
    (folder / "test_results.json").write_text(json.dumps({**results, "num_videos": 4}))

    with pytest.raises(UserError, match="4 videos with 1 views, and 3 with 1"):
        report_job(str(folder))


def test_frames_of_many_videos_stay_within_their_limit(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    films = {f"{number}.mp4": film_of([noise] * 8) for number in range(30)}

    save_thumbnails(films, tmp_path)

    kept = load_thumbnails(tmp_path)
    assert 1_000_000 < (tmp_path / "test_thumbnails.json").stat().st_size <= 5_000_000
    assert list(kept) == list(films)[: len(kept)] and 0 < len(kept) < 30
