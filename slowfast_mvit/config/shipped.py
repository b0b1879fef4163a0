"""The shipped config files by name, and the files of a command line."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from slowfast_mvit.config.sources import SUFFIXES
from slowfast_mvit.errors import ConfigError, nearest

_PACKAGE = Path(__file__).resolve().parents[1]
# Inside the package when installed; next to it in the repository.
_SHIPPED = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def shipped_configs() -> dict[str, Path]:
    """Return the shipped config files by name, such as "Kinetics/MVITv2_S_16x4.yaml"."""
    folder = next((folder for folder in _SHIPPED if folder.is_dir()), None)
    if folder is None:
        return {}
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.suffix in SUFFIXES
    }


def find_config(name: str | Path) -> Path:
    """Return the config file of this name.

    Args:
        name: a path; or the name of a shipped file, in any working directory, with or without
            "configs/" before it and ".yaml" after it.

    Raises:
        ConfigError: there is no such file; the message names the nearest ones.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_configs()
    wanted = path.as_posix().removeprefix("./").removeprefix("configs/")
    for candidate in (wanted, f"{wanted}.yaml"):
        if candidate in shipped:
            return shipped[candidate]
    if path.is_dir():
        raise ConfigError(f"{name}: is a folder. Give the path of a .yaml file in it")
    raise ConfigError(f"{name}: there is no such config file.{_hint(path, wanted, shipped)}")


def _hint(path: Path, wanted: str, shipped: dict[str, Path]) -> str:
    folder = path.parent.iterdir() if path.parent.is_dir() else ()
    guess = nearest(path.name, [file.name for file in folder if file.suffix in SUFFIXES])
    if guess:
        return f" Did you mean {path.parent / guess}?"
    guess = nearest(wanted, shipped) if "/" in wanted else None
    if guess:
        return f" Did you mean {guess}?"
    file_name = nearest(path.name, {Path(known).name for known in shipped})
    guesses = [known for known in shipped if Path(known).name == file_name]
    if guesses:
        return f" Did you mean {' or '.join(guesses)}?"
    return f" Shipped with this project: {', '.join(shipped) or 'none'}"


def split_cfg_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the words after ``--cfg``: config files up to the first other word, then the rest.

    >>> split_cfg_words(["a.yaml", "b.yml", "TRAIN.BATCH_SIZE", "4"])
    (['a.yaml', 'b.yml'], ['TRAIN.BATCH_SIZE', '4'])
    """
    files = list(takewhile(lambda word: word.lower().endswith(SUFFIXES), words))
    return files, list(words[len(files) :])
