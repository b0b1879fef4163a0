"""A remote store for tests: ``shelf://name`` is a file of a local folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from iopath.common.file_io import PathHandler


class ShelfHandler(PathHandler):
    """A store whose files are those of a local folder, as ``shelf://name``."""

    root = Path()
    is_down = False

    def _get_supported_prefixes(self) -> list[str]:
        return ["shelf://"]

    def _local(self, path: str) -> Path:
        return self.root / path.removeprefix("shelf://")

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        if not self._local(path).is_file():
            raise FileNotFoundError(path)
        return str(self._local(path))

    def _copy_from_local(
        self, local_path: str, dst_path: str, overwrite: bool = False, **kwargs: Any
    ) -> bool:
        if type(self).is_down:
            raise ConnectionError("the shelf is down")
        assert overwrite
        shutil.copyfile(local_path, self._local(dst_path))
        return True

    def _mkdirs(self, path: str, **kwargs: Any) -> None:
        self._local(path).mkdir(parents=True, exist_ok=True)

    def _rm(self, path: str, **kwargs: Any) -> None:
        if type(self).is_down:
            raise ConnectionError("the shelf is down")
        self._local(path).unlink()

    def _ls(self, path: str, **kwargs: Any) -> list[str]:
        return [entry.name for entry in self._local(path).iterdir()]

    def _isdir(self, path: str, **kwargs: Any) -> bool:
        return self._local(path).is_dir()
