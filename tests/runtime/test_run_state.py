"""The recorded state of a run, for those who watch it."""

import signal
from types import SimpleNamespace

import pytest

from slowfast_mvit.errors import RankLost, Stopped, UserError
from slowfast_mvit.runtime import watchdog
from slowfast_mvit.runtime.run_state import read_run_state, recorded_run_state


def test_a_job_records_how_it_ended(tmp_path):
    with recorded_run_state(tmp_path, is_last_job=False):
        assert read_run_state(tmp_path).status == "running"
    assert read_run_state(tmp_path).status == "running"  # a test follows
    with pytest.raises(UserError), recorded_run_state(tmp_path):
        raise UserError("the list is empty")
    assert read_run_state(tmp_path).status == "failed"
    assert read_run_state(tmp_path).detail == "the list is empty"
    with pytest.raises(Stopped), recorded_run_state(tmp_path):
        raise Stopped(signal.SIGTERM)
    assert read_run_state(tmp_path).status == "stopped"
    with recorded_run_state(tmp_path):
        pass
    assert read_run_state(tmp_path).status == "finished"

    for number in (1, 2):
        with recorded_run_state(tmp_path, part=f"part-{number}-of-2"):
            assert read_run_state(tmp_path).status == "running"
    with pytest.raises(UserError), recorded_run_state(tmp_path, part="part-1-of-2"):
        raise UserError("no such file")
    assert read_run_state(tmp_path).detail == "no such file"
    with recorded_run_state(tmp_path):
        assert read_run_state(tmp_path).status == "running"  # those of before do not count
    for path in tmp_path.glob("run_state.part*"):
        path.unlink()

    (tmp_path / "run_state.json").write_text("{")
    assert read_run_state(tmp_path) is None


def test_a_lost_rank_is_the_reason_of_a_failure(tmp_path, monkeypatch):
    lost, states = "rank 1 on node-1, at epoch 2, is lost", []

    def explain(error):  # takes seconds, in which a launcher may end this process
        states.append(read_run_state(tmp_path).status)
        return lost

    of_rank_0 = SimpleNamespace(explain=explain, before_end=[])
    monkeypatch.setattr(watchdog, "_watchdog", of_rank_0)

    with pytest.raises(RankLost, match=lost), recorded_run_state(tmp_path):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:545] Connection reset by peer")

    assert states == ["failed"]
    assert read_run_state(tmp_path).detail.startswith(lost)
