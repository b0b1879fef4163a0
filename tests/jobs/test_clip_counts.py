"""Tests with several numbers of clips in one pass, against tests of each number alone."""

import json

import pytest

from slowfast_mvit.cli import main, run_net


def result_files(folder):
    return {name: (folder / name).read_bytes() for name in ("test_results.json", "test_scores.npz")}


def run_test(tiny_config, output_dir, *overrides):
    """Test a model of random the same each time."""
    settings = ["TRAIN.ENABLE", "False", "TEST.WEIGHTS", "random"]
    settings += ["OUTPUT_DIR", str(output_dir), *map(str, overrides)]
    assert run_net(["--cfg", str(tiny_config), *settings]) == 0


@pytest.mark.parametrize("num_crops", [1, 3])
def test_each_number_of_clips_gets_the_bytes_of_a_test_of_it_alone(
    tiny_config, tmp_path, num_crops
):
    crops = ("TEST.NUM_SPATIAL_CROPS", num_crops)
    counts = (1, 3, 4)

    run_test(tiny_config, tmp_path / "all", "TEST.NUM_TEMPORAL_CLIPS", "[4,1,3,4]", *crops)
    for count in counts:
        alone = tmp_path / f"alone_{count}"
        run_test(tiny_config, alone, "TEST.NUM_ENSEMBLE_VIEWS", count, *crops)

        together = tmp_path / "all" / f"test_{count}_clips"
        assert result_files(together) == result_files(alone)
        assert {"report.html", "config.yaml"} <= {path.name for path in together.iterdir()}


def test_minus_1_logs_the_accuracy_of_each_number_of_clips(tiny_config, tmp_path, capsys):
    run_test(tiny_config, tmp_path / "all", "TEST.NUM_ENSEMBLE_VIEWS", -1)

    table = json.loads((tmp_path / "all" / "test_clip_counts.json").read_text())
    assert [row["num_clips"] for row in table] == [1, 3, 5, 7, 10]
    for row in table:
        folder = tmp_path / "all" / f"test_{row['num_clips']}_clips"
        results = json.loads((folder / "test_results.json").read_text())
        assert (row["top1"], row["top5"]) == (results["top1"], results["top5"])
        assert results["num_views"] == 3 * row["num_clips"]
    log = (tmp_path / "all" / "stdout.log").read_text()
    assert "accuracy by number of clips" in log and "10 clips x 3 crops" in log


def test_the_report_of_one_of_several_tests_can_be_written_again(tiny_config, tmp_path):
    run_test(tiny_config, tmp_path / "all", "TEST.NUM_TEMPORAL_CLIPS", "[1,2]")
    folder = tmp_path / "all" / "test_2_clips"
    (folder / "report.html").unlink()

    assert main(["report", str(folder)]) == 0

    assert "2 clips x 3 crops" in (folder / "report.html").read_text()


def test_an_unreadable_video_is_listed_in_each_test(tiny_config, tmp_path, motion_data):
    lines = (motion_data / "val.csv").read_text().splitlines()
    data = tmp_path / "data"
    data.mkdir()
    listed = [str(motion_data / line) for line in lines] + [f"{tmp_path}/missing.mp4 0"]
    (data / "val.csv").write_text("\n".join(listed) + "\n")

    run_test(
        tiny_config, tmp_path / "all", "TEST.NUM_TEMPORAL_CLIPS", "[1,2]",
        "DATA.PATH_TO_DATA_DIR", data,
    )  # fmt: skip

    for count in (1, 2):
        folder = tmp_path / "all" / f"test_{count}_clips"
        results = json.loads((folder / "test_results.json").read_text())
        assert (results["num_videos"], results["failed"]) == (len(lines), 1)
        assert "missing.mp4" in (folder / "failed_videos.csv").read_text()
