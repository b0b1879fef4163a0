"""A run without space for its files: one message, and it resumes to the same bits.

The limit is that of Linux on the size of a file, which ``write`` meets as it meets a full disk.
"""

import contextlib
import resource
import sys

import pytest
from test_kill_storm import assert_same_run, whole_run

from slowfast_mvit.errors import WriteError
from slowfast_mvit.runtime.log import TerminalHandler, setup_logging
from slowfast_mvit.storage import read_torch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SIGXFSZ ends a process elsewhere")
SHORT = {"max_epoch": 2, "eval_period": 1, "checkpoint_period": 1}


@contextlib.contextmanager
def no_file_above(num_bytes):
    """No file can be written beyond this size inside."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    (folder / "stdout.log").touch()
    whole_run(folder, **SHORT)
    return folder


def sizes_up_to(largest, number):
    """From 0 to 1.2 times the largest file, most of them small, as most files are."""
    shares = [(step / (number - 1)) ** 4 for step in range(number)]
    return [max(step, int(1.2 * largest * share)) for step, share in enumerate(shares)]


@pytest.mark.parametrize("number", [6, pytest.param(64, marks=pytest.mark.nightly)])
def test_a_run_without_space_ends_with_one_message_and_resumes_exactly(
    tmp_path, unbroken, monkeypatch, number
):
    monkeypatch.setattr(TerminalHandler, "emit", lambda *_: None)  # pytest captures it in a file
    largest = max(path.stat().st_size for path in unbroken.rglob("*"))
    for size in sizes_up_to(largest, number):
        folder, outcome = tmp_path / str(size), "finished"
        folder.mkdir()
        with no_file_above(size):
            try:
                setup_logging(folder)
                whole_run(folder, **SHORT)
            except WriteError as error:
                outcome = str(error)
        assert (outcome == "finished") == (size > largest)
        if size <= largest:
            assert outcome.startswith(f"{folder}/") and "File too large" in outcome
            assert "bytes needed" in outcome and "bytes free on its disk" in outcome
            assert "written before are complete" in outcome
        assert not list(folder.rglob(".tmp-*"))
        for path in folder.rglob("*.pyth"):
            read_torch(path)

        setup_logging(folder)
        whole_run(folder, **SHORT)

        assert_same_run(folder, unbroken, num_epochs=2)
