"""The scripts are next to the package, not in it."""

import multiprocessing
import sys
from multiprocessing import forkserver
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests" / "data"))  # for videos.py


@pytest.fixture(scope="session", autouse=True)
def workers_import_once() -> None:
    """A script starts its workers from a process that has imported its work; tests run several
    scripts in one process, of which only the first would profit."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data_prep.resize_videos", "data_prep.pack_shards"])
    forkserver.ensure_running()
