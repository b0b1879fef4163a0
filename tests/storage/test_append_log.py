"""A log loses no line that was appended, whatever ended the process before."""

import errno

import pytest

from slowfast_mvit.storage import AppendLog, whole_lines


def test_lines_are_there_at_once_and_after_those_of_before(tmp_path):
    path = tmp_path / "new folder" / "a.log"
    for text in (b"one\n", b"two\nthree\n"):
        with AppendLog(path) as log:
            log.append(text)
            assert list(whole_lines(path))[-1] == text.splitlines(keepends=True)[-1]

    assert list(whole_lines(path)) == [b"one\n", b"two\n", b"three\n"]


@pytest.mark.parametrize("torn", [b"", b"x", b"half of a line" * 10_000])
@pytest.mark.parametrize("before", [b"", b"one\n", b"one\ntwo\n"])
def test_a_torn_line_is_not_read_and_is_cut_off(tmp_path, before, torn):
    path = tmp_path / "a.log"
    path.write_bytes(before + torn)

    assert b"".join(whole_lines(path)) == before
    with AppendLog(path, durable=True) as log:
        assert log.is_empty == (before == b"")
        log.append(b"next\n")
    assert path.read_bytes() == before + b"next\n"


def test_a_full_disk_is_an_error():
    with AppendLog("/dev/full") as log, pytest.raises(OSError) as error:
        log.append(b"one\n")

    assert error.value.errno == errno.ENOSPC
