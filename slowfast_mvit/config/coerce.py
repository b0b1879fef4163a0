"""From what a file or a command line says to a value of the key's type.

YAML 1.1 reads ``1e-4`` and ``(3, 7, 7)`` as text, and published files contain both; so text is read
by the type of its key. A whole number will do for a float, and a list is as good as a tuple.
"""

from __future__ import annotations

import ast
import math
import types
import typing
from collections.abc import Iterator
from typing import Any

from slowfast_mvit.config.setting import Key

NAMES = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    bool | str: "True, False or text",
}
PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}
TRUTH = {"true": True, "false": False}
NOTHING = ("None", "none", "null", "~", "")


class Mismatch(Exception):
    """The value does not fit its key. The message says what was expected, and what was found."""


def coerce(key: Key, value: Any, text: str | None = None) -> Any:
    """The value of ``key``.

    Args:
        key: its type and rule.
        value: a plain value as YAML gives it: None, bool, int, float, str, list or dict.
        text: how the file spells it, where it is a single word; what a text key takes.

    Raises:
        Mismatch: when it has another type, is out of range, or is not a choice.
    """
    given = value
    if key.type is str and text is not None and value is not None:
        given = text
    try:
        result = _convert(given, key.type)
    except (TypeError, ValueError, OverflowError) as error:
        raise Mismatch(f"expected {describe(key.type)}, got {shorten(value)}") from error
    if key.rule.any_case and ":" not in result:
        result = result.lower()
    _check_choice(key, result)
    _check_range(key, result)
    return result


def literal(value: Any) -> Any:
    """Text that spells a Python value, such as "(3, 7)" or "None", as that value."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def describe(kind: Any) -> str:
    """A type in words: "a list of 3 whole numbers or None"."""
    if kind in NAMES:
        return NAMES[kind]
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is types.UnionType:
        return f"{describe(parts[0])} or None"
    return f"a list of {_describe_parts(parts)}"


def shorten(value: Any) -> str:
    """A value for a message: quoted as Python does, cut when long."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _describe_parts(parts: tuple[Any, ...]) -> str:
    first, *others = parts
    if typing.get_origin(first) is tuple:
        return f"lists of {_describe_parts(typing.get_args(first))}"
    if others == [Ellipsis]:
        return PLURALS[first]
    kinds = set(parts)
    return f"{len(parts)} {PLURALS[first] if len(kinds) == 1 else 'numbers'}"


def _convert(value: Any, kind: Any) -> Any:
    if kind in CONVERTERS:
        return CONVERTERS[kind](value)
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is types.UnionType:
        is_nothing = value is None or (isinstance(value, str) and value in NOTHING)
        return None if is_nothing else _convert(value, parts[0])
    return _to_tuple(value, parts)


def _to_bool(value: Any) -> bool:
    if isinstance(value, str):
        value = TRUTH.get(value.lower())
    if not isinstance(value, bool):
        raise ValueError
    return value


def _to_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError
    try:
        return int(value) if isinstance(value, (int, str)) else _whole(value)
    except ValueError:
        return _whole(float(value))


def _whole(value: float) -> int:
    if value != int(value):
        raise ValueError
    return int(value)


def _to_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _to_text(value: Any) -> str:
    if isinstance(value, (list, dict)):
        raise ValueError
    if value is None or value == "None":
        return ""
    quoted = literal(value)
    return quoted if isinstance(quoted, str) else str(value)


def _to_switch(value: Any) -> bool | str:
    try:
        return _to_bool(value)
    except ValueError:
        return _to_text(value)


def _to_tuple(value: Any, parts: tuple[Any, ...]) -> tuple[Any, ...]:
    value = literal(value)
    if value is None or value == "":
        value = ()
    if not isinstance(value, (list, tuple)):
        raise ValueError
    if parts[1:] == (Ellipsis,):
        parts = (parts[0],) * len(value)
    if len(value) != len(parts):
        raise ValueError
    return tuple(_convert(item, part) for item, part in zip(value, parts, strict=True))


CONVERTERS: dict[Any, Any] = {
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
    str: _to_text,
    bool | str: _to_switch,
}


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _check_choice(key: Key, value: Any) -> None:
    rule = key.rule
    if not rule.choices:
        return
    for part in _leaves(value):
        if part in rule.choices:
            continue
        allowed = ", ".join(shorten(c) if c == "" else str(c) for c in rule.choices)
        if part in rule.out_of_scope:
            raise Mismatch(
                f"{part!r} is outside this project's scope, which is MViT for recognition. "
                f"Choose from: {allowed}; for the rest there is PySlowFast"
            )
        raise Mismatch(f"{part!r} is not a choice. Choose from: {allowed}")


def _check_range(key: Key, value: Any) -> None:
    rule = key.rule
    limits = (
        (rule.minimum, "at least", lambda number, limit: number >= limit),
        (rule.maximum, "at most", lambda number, limit: number <= limit),
        (rule.above, "above", lambda number, limit: number > limit),
    )
    for limit, words, holds in limits:
        if limit is None:
            continue
        for number in _leaves(value):
            if number is not None and not holds(number, limit):
                raise Mismatch(f"must be {words} {limit:g}, got {number!r}")
