"""The schema of one key: its meaning, its values, and its effect on results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints


@dataclass(frozen=True)
class Rule:
    """The part of a key's definition that its type does not say.

    Attributes:
        meaning: one or two sentences, with units; ``docs/config.md`` is made of these.
        choices: the allowed values, where they can be listed.
        out_of_scope: values that PySlowFast knows and this project will not do.
        minimum, maximum: limits of a number, or of each number of a list; both allowed.
        above: limit of a number that is itself not allowed.
        ours: the key is not one of PySlowFast's.
        any_case: the value is turned to lower case, as PySlowFast does before it looks it up.
        from_variant: what the key means depends on ``MVIT.VARIANT`` where nobody sets it.
        decides_numbers: a change may change weights or scores, so the key counts for the digest.
    """

    meaning: str
    choices: tuple[Any, ...] = ()
    out_of_scope: tuple[Any, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    ours: bool = False
    any_case: bool = False
    from_variant: bool = False
    decides_numbers: bool = True


def setting(default: Any, meaning: str, **rule: Any) -> Any:
    """A field of the schema: its default value, what it means, and the rest of its ``Rule``."""
    return field(default=default, metadata={"rule": Rule(meaning, **rule)})


@dataclass(frozen=True)
class Key:
    """One key as the schema defines it.

    Attributes:
        name: as files write it, ``DATA.NUM_FRAMES``.
        section: attribute of the config that holds it, "data"; empty for a key without a section.
        attribute: its own attribute, "num_frames".
        type: its type, such as ``tuple[int, int, int] | None``.
        default: its value where nobody sets it.
        rule: the rest.
    """

    name: str
    section: str
    attribute: str
    type: Any
    default: Any
    rule: Rule

    def value_in(self, settings: object) -> Any:
        """The value that ``settings``, an instance of the schema, has for this key."""
        holder = getattr(settings, self.section) if self.section else settings
        return getattr(holder, self.attribute)


def keys_of(settings_class: type, section: str = "") -> Iterator[Key]:
    """Every key of a schema class, its sections included, in the order of the file."""
    types = get_type_hints(settings_class)
    for item in fields(settings_class):
        if is_dataclass(types[item.name]):
            yield from keys_of(types[item.name], item.name)
        elif "rule" in item.metadata:
            name = f"{section}.{item.name}".upper().lstrip(".")
            yield Key(
                name, section, item.name, types[item.name], item.default, item.metadata["rule"]
            )
