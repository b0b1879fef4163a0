"""How every job begins: handlers for remote paths, the output folder, the log."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from slowfast_mvit.cli.reporting import CONFIG_FILE
from slowfast_mvit.config import Config
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.runtime.log import setup_logging
from slowfast_mvit.storage import output_folder, register_path_handlers, write_text_atomically


@contextlib.contextmanager
def started(config: Config) -> Iterator[Path]:
    """Open the log of the run; gives the local folder to write to."""
    if config.num_shards > 1:
        raise ConfigError(
            f"NUM_SHARDS is {config.num_shards}: several nodes need a process group, and this "
            "version trains on one. Set NUM_SHARDS 1 (and scale SOLVER.BASE_LR to your batch)"
        )
    register_path_handlers(config.path_handlers)
    with output_folder(config.output_dir) as output_dir:
        setup_logging(output_dir)
        yield output_dir


def write_config(config: Config, output_dir: Path) -> None:
    """Write the resolved config beside the checkpoints; last, so that a typing error in the data
    or the weights does not replace that of a finished run."""
    write_text_atomically(output_dir / CONFIG_FILE, config.to_yaml())
