"""The shipped config files, found by name."""

from __future__ import annotations

from pathlib import Path

from slowfast_mvit.config.read import SUFFIXES
from slowfast_mvit.errors import ConfigError, nearest

_PACKAGE = Path(__file__).resolve().parents[1]
# Inside the package once installed; beside it in the repository.
_SHIPPED = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def shipped_configs() -> dict[str, Path]:
    """Every shipped config file by its name, "Kinetics/MVITv2_S_16x4.yaml"."""
    folder = next((folder for folder in _SHIPPED if folder.is_dir()), None)
    if folder is None:
        return {}
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.suffix in SUFFIXES
    }


def find_config(name: str | Path) -> Path:
    """The config file of this name.

    Args:
        name: a path; or the name of a shipped file, which is found from any folder, with or without
            "configs/" before it and ".yaml" behind it.

    Raises:
        ConfigError: when there is no such file; names the nearest ones.
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
    beside = {}
    if path.parent.is_dir():
        beside = {other.name: other for other in path.parent.iterdir() if other.suffix in SUFFIXES}
    guess = nearest(path.name, beside)
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
