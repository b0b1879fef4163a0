"""The local copy of weights that are named by path, by name in the zoo, by address or by hub id."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from slowfast_mvit.errors import WeightsError, printable
from slowfast_mvit.storage import local_copy
from slowfast_mvit.storage.download import MAX_BYTES, DownloadError, download, is_offline
from slowfast_mvit.weights.zoo import HUB, ZOO, PublishedWeights, hint, name_in_zoo

NO_HUB = "needs a package that is not installed. Run: pip install 'slowfast_mvit[hub]'"
_SUFFIXES = (".pyth", ".pth", ".pt", ".pkl", ".bin", ".safetensors", ".json")
# The files of a hub that are fetched, and those that weights begin with.
_SAFETENSORS = ["config.json", "model.safetensors*", "model-*.safetensors"]
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def local_weights(path: str | Path) -> tuple[Path, PublishedWeights | None]:
    """Return the local file or folder of weights, fetched if necessary, and its row in the zoo.

    An existing file takes precedence over a name of the zoo.

    Args:
        path: a local path; a name of the zoo, such as ``mvitv2_s_16x4.k400``; an https address;
            ``hf-hub:ORGANISATION/NAME``; or anything else that iopath reaches.

    Raises:
        DownloadError: the weights cannot be fetched.
        WeightsError: there is neither such a file nor such a name.
    """
    text = re.sub("^hf[_-]hub:", HUB, str(path))  # timm has both
    if os.path.exists(text):  # unlike that of Path, for long addresses too
        return Path(text), None
    published = ZOO.get(name_in_zoo(text) or "")
    address = text if published is None else published.url
    if address.startswith(HUB):
        return _from_hub(address.removeprefix(HUB)), published
    if address.startswith(("https://", "http://")):
        return _from_web(address, published), published
    if Path(text).name == text and Path(text).suffix not in _SUFFIXES:
        raise unknown(text)
    return local_copy(text), None


def unknown(name: str) -> WeightsError:
    """Return the error for a name that is not in the zoo."""
    return WeightsError(
        f"{printable(name)}: neither a file nor the name of published weights.{hint(name)} "
        "slowfast-mvit models lists the names"
    )


def _from_web(url: str, published: PublishedWeights | None) -> Path:
    """Fetch into torch.hub's folder; a file that is not in the zoo into a folder of its address."""
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if published is None:  # names such as pytorch_model.bin are not unique
        folder /= hashlib.sha256(url.encode()).hexdigest()[:8]
    elif published.file_name.startswith("k"):
        folder /= published.model
    return download(url, folder, sha256="" if published is None else published.sha256)


def _from_hub(name: str) -> Path:
    """Fetch a folder of the Hugging Face hub, NAME or NAME@REVISION, into its library's cache."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise DownloadError(f"{HUB}{printable(name)}: {NO_HUB}") from error
    repository, _, revision = name.partition("@")
    options: dict[str, Any] = {"revision": revision or None}
    try:
        for files in (_SAFETENSORS, ["pytorch_model.bin"]):
            if not is_offline():
                plan: Any = snapshot_download(
                    repository, allow_patterns=files, dry_run=True, **options
                )
                _require_size(name, sum(file.file_size for file in plan))
            options["local_files_only"] = is_offline()
            folder = snapshot_download(repository, allow_patterns=files, **options)
            if any(Path(folder, file).exists() for file in _WEIGHTS):
                return Path(folder)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise DownloadError(
            f"{HUB}{printable(name)}: cannot be fetched ({printable(str(error))}). Download it "
            f"on another machine (hf download {printable(repository)}), and give the path of its "
            "folder"
        ) from error
    raise WeightsError(f"{HUB}{printable(name)}: has none of {', '.join(_WEIGHTS)}")


def _require_size(name: str, num_bytes: int) -> None:
    if num_bytes > MAX_BYTES:
        raise DownloadError(
            f"{HUB}{printable(name)}: has {num_bytes:,} bytes, more than {MAX_BYTES:,}, so it is "
            "not fetched. If you trust it, download it by hand and give the path of its folder"
        )
