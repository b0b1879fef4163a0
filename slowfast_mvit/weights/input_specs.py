"""The input spec in a file of weights: checked before anything is sampled or allocated by it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from slowfast_mvit.errors import WeightsError, in_one_message

MAX_CLASSES = 1_000_000
MAX_PIXELS = 2**25  # of a clip; the largest published one has 2**22
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # would move the cursor where a name is printed


def _is_count(maximum: int) -> tuple[Callable[[Any], bool], str]:
    return (
        lambda value: isinstance(value, int) and 1 <= value <= maximum,
        f"a whole number from 1 to {maximum:,}",
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and -1e9 < value < 1e9


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_number, value))


def _are_names(value: Any) -> bool:
    return value is None or (
        isinstance(value, list | tuple)
        and 1 <= len(value) <= MAX_CLASSES
        and all(isinstance(name, str) and not _CONTROL.search(name) for name in value)
    )


# name -> (check, what is allowed).
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "num_frames": _is_count(4096),
    "sampling_rate": _is_count(4096),
    "target_fps": (lambda value: _is_number(value) and 0 < value <= 1000, "from 0 to 1000"),
    "policy": (lambda value: value in ("interval", "segments"), "interval or segments"),
    "crop_px": _is_count(4096),
    "scale_px": _is_count(8192),
    "mean": (_are_numbers, "three numbers"),
    "std": (lambda value: _are_numbers(value) and min(value) > 0, "three numbers above 0"),
    "class_names": (_are_names, "a list of texts without control characters, or nothing"),
}
# Fields that older checkpoints lack.
_LATER_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "segment_clips": (lambda value: value in ("same", "shifted"), "same or shifted"),
    "resizing": (
        lambda value: value in ("clip", "image", "whole image"),
        "clip, image or whole image",
    ),
}


def checked_input_spec(spec: Any, where: str) -> dict[str, Any] | None:
    """Return the input spec of a file; None where the file has none.

    Args:
        spec: what the file has under ``input_spec``.
        where: the file, for the message.

    Raises:
        WeightsError: a field is missing, of another type, or out of bounds; lists all of them.
    """
    if spec is None:
        return None
    if not isinstance(spec, Mapping):
        raise WeightsError(f"{where}: its input_spec is a {type(spec).__name__}, not a table")
    problems = [
        f"{name}: {_shown(spec[name]) if name in spec else 'missing'}; expected {allowed}"
        for name, (is_valid, allowed) in {**_FIELDS, **_LATER_FIELDS}.items()
        if not (is_valid(spec[name]) if name in spec else name in _LATER_FIELDS)
    ]
    num_pixels = 1 if problems else spec["num_frames"] * spec["crop_px"] ** 2
    if num_pixels > MAX_PIXELS:
        problems = [f"num_frames, crop_px: {num_pixels:,} pixels in a clip, above {MAX_PIXELS:,}"]
    if problems:
        raise WeightsError(in_one_message(f"{where}: its input_spec cannot be used", problems))
    return dict(spec)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
