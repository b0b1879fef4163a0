"""A reader as bad as they come, for tests: named as ``lethal_reader:open_lethal``.

A file called kills... brings its process down, one called sleeps... never gives an answer. In the
main process of a test both are refused instead, which makes the batches that are to be expected.
"""

import contextlib
import multiprocessing
import os
import signal
import time

from slowfast_mvit.data.video.readers import open_reader
from slowfast_mvit.errors import DecodeError


@contextlib.contextmanager
def open_lethal(path):
    if path.name.startswith(("kills", "sleeps")):
        note_opened(path)
        if multiprocessing.parent_process() is None:
            raise DecodeError(f"{path}: refused")
        if path.name.startswith("kills"):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(3600)
    with open_reader(path) as reader:
        yield reader


def note_opened(path):
    """Add a byte to a file beside the video: a count that outlives the process."""
    with open(path.with_suffix(".opened"), "ab") as file:
        file.write(b".")


def times_opened(path):
    note = path.with_suffix(".opened")
    return note.stat().st_size if note.exists() else 0
