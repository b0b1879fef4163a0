"""Conversion of a value of a file or a command line to the type of its key.

YAML 1.1 reads ``1e-4`` and ``(3, 7, 7)`` as text, and published files contain both; so text is read
by the type of its key. A whole number is accepted as a float, and a list as a tuple.
"""

from __future__ import annotations

import ast
import math
import operator
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

from slowfast_mvit.config.setting import Key, Rule

NAMES = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    bool | str: "True, False or text",
}
PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}
TRUTH = {"true": True, "false": False}
NONE = ("None", "none", "null", "~", "")


class Mismatch(Exception):
    """A value that does not fit its key; the message has the expected type and the value."""


def coerce(key: Key, value: Any, text: str | None = None) -> Any:
    """Return the value of ``key``.

    Args:
        key: its type and rule.
        value: a plain value of YAML: None, bool, int, float, str, list or dict.
        text: the spelling of a scalar in the file, for a text key.

    Raises:
        Mismatch: it has another type, is out of range, or is not a choice.
    """
    is_text = key.type is str and text is not None and value is not None
    try:
        result = _convert(text if is_text else value, key.type)
    except (TypeError, ValueError, OverflowError) as error:
        raise Mismatch(f"expected {describe(key.type)}, got {shorten(value)}") from error
    if key.rule.any_case and ":" not in result:
        result = result.lower()
    for part in _leaves(result):
        _check_choice(key.rule, part)
        _check_range(key.rule, part)
    return result


def literal(value: Any) -> Any:
    """Return the Python value that a text such as "(3, 7)" or "None" spells; else the text."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def describe(kind: Any) -> str:
    """Return a type as text: "a list of 3 whole numbers or None"."""
    if kind in NAMES:
        return NAMES[kind]
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is types.UnionType:
        return f"{describe(parts[0])} or None"
    return f"a list of {_describe_parts(parts)}"


def shorten(value: Any) -> str:
    """Return a value for a message, as Python's ``repr``, shortened when it is long."""
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
        is_none = value is None or (isinstance(value, str) and value in NONE)
        return None if is_none else _convert(value, parts[0])
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
        number = int(value) if isinstance(value, (int, str)) else _whole(value)
    except ValueError:
        number = _whole(float(value))
    if abs(number) >= 2**64:
        raise ValueError
    return number


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


def _check_choice(rule: Rule, part: Any) -> None:
    if not rule.choices or part in rule.choices:
        return
    allowed = ", ".join(shorten(c) if c == "" else str(c) for c in rule.choices)
    if part in rule.out_of_scope:
        raise Mismatch(
            f"{part!r} is outside this project's scope, which is MViT for recognition. "
            f"Choose from: {allowed}; for the rest there is PySlowFast"
        )
    raise Mismatch(f"{part!r} is not a choice. Choose from: {allowed}")


def limits_of(rule: Rule) -> Iterator[tuple[str, float, Callable[[Any, Any], bool]]]:
    """Yield the limits of a number: as text, the limit, and the comparison that must hold."""
    for words, limit, holds in (
        ("at least", rule.minimum, operator.ge),
        ("at most", rule.maximum, operator.le),
        ("above", rule.above, operator.gt),
    ):
        if limit is not None:
            yield words, limit, holds


def _check_range(rule: Rule, part: Any) -> None:
    for words, limit, holds in limits_of(rule):
        if part is not None and not holds(part, limit):
            raise Mismatch(f"must be {words} {limit:g}, got {part!r}")
