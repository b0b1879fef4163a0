"""The check of one listed file; a module of its own, so that the workers load little."""

from __future__ import annotations

from data_prep import check_videos
from data_prep.jobs import JobInput
from data_prep.journal import Record

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def check_file(job: JobInput) -> Record:
    """The record of one video, as ``check_videos.py`` makes it, or of one image, if it is read."""
    if not job.name.lower().endswith(_IMAGE_SUFFIXES):
        return check_videos.check(job)
    from slowfast_mvit.data.video.readers import open_reader  # here: it needs torch, videos do not

    with open_reader(job.path) as image:
        image.frames([0])
    return {}
