"""Work for the tests of ``data_prep.jobs``; in a module of its own, since processes import it."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import sys
import time
from pathlib import Path

from data_prep.command_line import exit_status
from data_prep.jobs import JobInput, Work, run_jobs
from data_prep.journal import Part, Record
from slowfast_mvit.errors import DecodeError


def digest(job: JobInput, *, pause_s: float = 0.0) -> Record:
    """SHA-256 of a file; the text "crash", "hang", "broken", "bug" or "full" makes it misbehave."""
    content = job.path.read_bytes()
    time.sleep(pause_s)
    if content == b"crash":
        ctypes.string_at(0)
    if content == b"hang":
        time.sleep(3600)
    if content == b"broken":
        raise DecodeError("broken", job.name)
    if content == b"bug":
        raise KeyError("bug")
    if content == b"full":
        raise OSError(errno.ENOSPC, "No space left on device", "copies/a.mp4")
    return {"sha256": hashlib.sha256(content).hexdigest()}


if __name__ == "__main__":  # folder, records, part: a run that a test kills
    folder, out, part = sys.argv[1:]

    def main() -> int:
        run_jobs(
            [JobInput(path.name, path) for path in Path(folder).iterdir()],
            Work("digest", digest, {"pause_s": 0.03}),
            Path(out),
            part=Part.parse(part),
            num_workers=2,
        )
        return 0

    sys.exit(exit_status(main))
