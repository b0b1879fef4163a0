"""Records of finished videos: what comes back, what damage costs, what is never mixed."""

import json

import numpy as np
import pytest
import torch

from slowfast_mvit.errors import MissingViewsError, UserError
from slowfast_mvit.evaluation.provenance import Provenance
from slowfast_mvit.evaluation.records import (
    Part,
    begin_records,
    differences,
    finished_videos,
    join_records,
    part_numbers,
    read_records,
    record_line,
    record_writer,
    records_folder,
    records_in,
    run_fingerprint,
    state_digest,
)
from slowfast_mvit.randomness import generator
from slowfast_mvit.structures import FailedVideo, ViewScores

VIEWS = np.array([[0, 0], [0, 1], [1, 0]])
WHOLE = Part(1, 1)
LOST = FailedVideo("lost", "/data/lost.mp4", "truncated", "/data/lost.mp4")
FINGERPRINT = {"config": "c", "weights": "w", "list": "l"}


def scores(video_id, *, seed=0, label=2):
    probs = generator(seed, 0, 0, 0).random((len(VIEWS), 5), dtype=np.float32)
    return ViewScores(video_id, label, VIEWS, probs)


def write(folder, *outcomes, part=WHOLE, rank=0):
    with record_writer(folder, part=part, rank=rank) as record:
        for outcome in outcomes:
            record(outcome)
    return next(folder.glob(f"part_{part.number:05d}*_rank_{rank:05d}.jsonl"))


def test_a_record_comes_back_bit_for_bit(tmp_path):
    awkward = scores('späce "quote" \n\udcff.mp4', seed=1)
    awkward.probs[0, :3] = [0.0, 1e-45, 1 / 3]

    path = write(tmp_path, scores("a"), LOST, awkward)

    first, failed, last = read_records(path, VIEWS)
    assert (failed, last.video_id, last.label) == (LOST, awkward.video_id, 2)
    assert first.probs.tobytes() == scores("a").probs.tobytes()
    assert last.probs.tobytes() == awkward.probs.tobytes()
    assert last.views.tolist() == VIEWS.tolist()


def test_equal_views_are_written_once():
    three = scores("a")
    same = ViewScores("a", 2, VIEWS, three.probs[[0, 0, 0]])

    line, short_line = json.loads(record_line(three)), json.loads(record_line(same))

    assert (line["places"], short_line["places"]) == ([0, 1, 2], [0, 0, 0])
    assert len(short_line["probs"]) < len(line["probs"]) / 2


def test_a_record_is_on_disk_before_the_next_is_made(tmp_path):
    with record_writer(tmp_path, part=WHOLE, rank=0) as record:
        record(scores("a"))
        assert finished_videos(tmp_path, VIEWS) == {"a"}


def test_every_way_to_tear_the_last_line_costs_that_video_and_no_other(tmp_path, caplog):
    path = write(tmp_path, scores("a"), scores("b"))
    whole = path.read_bytes()
    start_of_last = len(record_line(scores("a")))

    for length in range(start_of_last, len(whole)):
        path.write_bytes(whole[:length])
        assert finished_videos(tmp_path, VIEWS) == {"a"}
    write(tmp_path, scores("c"))

    assert list(join_records([tmp_path], VIEWS)) == ["a", "c"]
    assert not caplog.records


def test_every_flipped_bit_is_noticed_and_costs_that_video(tmp_path, caplog):
    path = write(tmp_path, scores("a"), scores("b"), scores("c"))
    whole = path.read_bytes()
    start, end = (len(record_line(scores("a"))) * n for n in (1, 2))

    for at in range(start, end - 1, 7):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        path.write_bytes(damaged)
        assert finished_videos(tmp_path, VIEWS) == {"a", "c"}, at

    assert "skipping 1 damaged records" in caplog.text


@pytest.mark.parametrize(
    "line", [b"[]\n", b"7\n", b"{}\n", b"null\n", b'"crc32"\n', b"\n", b"\0\0\n"]
)
def test_a_line_of_something_else_is_left_out(tmp_path, line):
    path = write(tmp_path, scores("a"))
    path.write_bytes(line + path.read_bytes())

    assert finished_videos(tmp_path, VIEWS) == {"a"}


def test_a_video_that_could_not_be_read_is_tried_again_and_its_scores_count(tmp_path):
    write(tmp_path, LOST, scores("a"))
    assert finished_videos(tmp_path, VIEWS) == {"a"}
    assert join_records([tmp_path], VIEWS)["lost"] == LOST

    write(tmp_path, scores("lost"), rank=1)
    write(tmp_path, LOST, rank=2)

    assert isinstance(join_records([tmp_path], VIEWS)["lost"], ViewScores)


def test_records_of_several_folders_are_joined_and_equal_ones_are_one(tmp_path):
    write(tmp_path / "x", scores("a"), scores("b"), part=Part(1, 2))
    write(tmp_path / "y", scores("b"), scores("c"), part=Part(2, 2))
    folders = [tmp_path / "x", tmp_path / "y"]

    assert list(join_records(folders, VIEWS)) == ["a", "b", "c"]
    assert part_numbers(folders) == {Part(1, 2), Part(2, 2)}


def test_two_different_results_for_one_video_are_refused(tmp_path):
    write(tmp_path, scores("a"), scores("b"))
    write(tmp_path, scores("b", seed=1), rank=1)

    with pytest.raises(
        MissingViewsError, match=r"1 videos were scored twice.*'b', again in .*_00001"
    ):
        join_records([tmp_path], VIEWS)


def test_the_digest_of_weights_follows_every_value_name_and_type():
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1)}
    changed = {
        "value": {**state, "a": state["a"].clone().index_fill_(1, torch.tensor([2]), 0.5)},
        "shape": {**state, "a": state["a"].reshape(3, 2)},
        "type": {**state, "b": torch.tensor(1, dtype=torch.int32)},
        "name": {"c": state["a"], "b": state["b"]},
        "sign of zero": {**state, "a": torch.where(state["a"] == 0, -0.0, state["a"])},
    }

    assert state_digest({**state, "a": state["a"].clone()}) == state_digest(state)
    digests = {state_digest(other) for other in [state, *changed.values()]}
    assert len(digests) == 1 + len(changed)


def test_fingerprint_names_the_arithmetic_of_this_process():
    fingerprint = run_fingerprint(
        config_digest="c", list_digest="l" * 64, state={}, forward_batch=8,
        device=torch.device("cpu"),
    )  # fmt: skip

    assert torch.__version__ in fingerprint["arithmetic"] and "thread" in fingerprint["arithmetic"]
    assert fingerprint["views in a forward pass"] == "8"


def test_records_of_another_test_are_in_another_folder_and_reported(tmp_path, caplog):
    begin_records(tmp_path, FINGERPRINT, Provenance("weights of x"))
    begin_records(tmp_path, FINGERPRINT, Provenance("weights of x"))
    assert not caplog.records
    others = {**FINGERPRINT, "weights": "w2"}

    begin_records(tmp_path, others, Provenance("weights of y", machine="a CPU"))

    assert "differs from this one in weights" in caplog.text
    assert records_folder(tmp_path, FINGERPRINT) != records_folder(tmp_path, others)
    found = {records.folder: records for records in records_in(tmp_path)}
    assert found[records_folder(tmp_path, FINGERPRINT)].fingerprint == FINGERPRINT
    assert found[records_folder(tmp_path, others)].provenance == Provenance(
        "weights of y", machine="a CPU"
    )
    assert differences(FINGERPRINT, others) == ["weights"]


def test_a_folder_that_does_not_say_whose_records_it_holds_is_refused(tmp_path):
    begin_records(tmp_path, FINGERPRINT, Provenance("x"))
    (records_folder(tmp_path, FINGERPRINT) / "test.json").write_text('{"facts": 3}')

    with pytest.raises(UserError, match="the test of these records is unknown"):
        records_in(tmp_path)
