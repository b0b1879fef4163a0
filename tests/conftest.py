"""Shared by many tests: a data set of a few synthetic videos and the config of a tiny model."""

import logging
import os
from multiprocessing import forkserver, set_forkserver_preload
from pathlib import Path

import pytest
from ranks import PRELOADED
from tiny_config import TINY_CONFIG

# Two processes of one thread each are faster than two of two, and sums come out the same each time.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_sessionstart(session):
    """Start the fork server of this process with what ranks, runs and workers import.

    There is one, and its first user decides what it has imported: without this, each rank of each
    test may import torch anew, for three seconds.
    """
    if session.config.option.numprocesses is None:  # a worker, or one process: no controller
        scripts = ["data_prep.resize_videos", "data_prep.pack_shards"]
        set_forkserver_preload([*PRELOADED, *scripts])
        forkserver.ensure_running()


@pytest.fixture(autouse=True)
def the_log_as_it_was():
    """A command that ran in this process may have set up the log, or made it quiet."""
    package = logging.getLogger("slowfast_mvit")
    level, handlers = package.level, list(package.handlers)
    yield
    for handler in set(package.handlers) - set(handlers):
        handler.close()
    package.setLevel(level)
    package.handlers[:] = handlers


@pytest.fixture(scope="session")
def motion_data(tmp_path_factory) -> Path:
    """A folder of 16 + 8 synthetic videos with train.csv, val.csv and classes.txt."""
    from slowfast_mvit.demo.synthetic import write_motion_dataset

    folder = tmp_path_factory.mktemp("motion")
    write_motion_dataset(folder, num_train=16, num_val=8)
    return folder


@pytest.fixture
def tiny_config(tmp_path, motion_data) -> Path:
    """A config file that trains a two-block model on ``motion_data`` in seconds."""
    path = tmp_path / "tiny.yaml"
    places = f"OUTPUT_DIR: {tmp_path / 'out'}\n"
    data = f"DATA:\n  PATH_TO_DATA_DIR: {motion_data}\n"
    path.write_text(TINY_CONFIG.replace("DATA:\n", data, 1) + places)
    return path


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """The local folder behind ``shelf://``, a remote store that iopath reaches."""
    from shelf import ShelfHandler

    from slowfast_mvit.storage import register_path_handlers

    root = tmp_path / "shelf"
    root.mkdir()
    monkeypatch.setattr(ShelfHandler, "root", root)
    monkeypatch.setattr(ShelfHandler, "is_down", False)
    register_path_handlers(["shelf:ShelfHandler"])
    return root
