"""A reader of videos that takes its time, for tests that stop a job in the middle."""

import os
import time

from slowfast_mvit.data.video.readers import open_reader


def open_slowly(path):
    """Waits so many seconds as the environment says before it opens a video."""
    time.sleep(float(os.environ.get("SLOW_READER_S", "0")))
    return open_reader(path)
