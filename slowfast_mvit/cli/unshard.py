"""What ``slowfast-mvit unshard`` does."""

from __future__ import annotations

import logging

from slowfast_mvit.runtime.log import setup_logging
from slowfast_mvit.runtime.sharded import unshard

logger = logging.getLogger(__name__)


def unshard_job(folder: str, out: str | None) -> None:
    """Make one ``.pyth`` file of a sharded checkpoint, and say where it is."""
    setup_logging()
    path = unshard(folder, out)
    logger.info("wrote %s (%.1f MB)", path, path.stat().st_size / 1e6)
