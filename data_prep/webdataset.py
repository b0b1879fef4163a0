"""Labels in tar shards that webdataset wrote: key.mp4 beside key.cls or key.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from slowfast_mvit.annotations.files import VIDEO_SUFFIXES
from slowfast_mvit.data.video import shards
from slowfast_mvit.data.video.shards import open_plain_file

_MAX_LABEL_BYTES = 1 << 20


def labelled_videos(shard: Path, json_field: str) -> Iterator[tuple[str, int | str]]:
    """Each video of a webdataset shard, with its label or what is wrong with it.

    Args:
        shard: a tar file in which key.mp4 and key.cls, or key.json, have the same key.
        json_field: the field of key.json that holds the label.
    """
    with open_plain_file(shard) as file:
        names = [name for name, _ in shards.plain_members(file, shard)]
    known = set(names)
    for name in names:
        if not name.lower().endswith(VIDEO_SUFFIXES):
            continue
        key = str(PurePosixPath(name).with_suffix(""))
        if f"{key}.cls" in known:
            yield name, _label(_text(shard, f"{key}.cls"), f"{key}.cls")
        elif f"{key}.json" in known:
            yield name, _label_in_json(_text(shard, f"{key}.json"), f"{key}.json", json_field)
        else:
            yield name, f"neither {key}.cls nor {key}.json gives the label of {name}"


def _text(shard: Path, name: str) -> str:
    with open_plain_file(shard / name) as file:
        return file.read(_MAX_LABEL_BYTES).decode("utf-8", "replace")


def _label(text: str, where: str) -> int | str:
    text = text.strip()
    return int(text) if text.isdigit() else f"{where} holds {text[:40]!r}, not a class index"


def _label_in_json(text: str, where: str, field: str) -> int | str:
    try:
        content = json.loads(text)
    except ValueError:
        return f"{where} is not JSON"
    if not isinstance(content, dict) or field not in content:
        return f"{where} has no field {field!r}. Name the field with --json-field"
    return _label(str(content[field]), f"{where}: {field}")
