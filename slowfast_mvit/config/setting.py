"""The schema of one key: its meaning, its values, and its effect on results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any, get_type_hints


@dataclass(frozen=True)
class Rule:
    """The definition of a key, apart from its type and default.

    Attributes:
        meaning: one or two sentences, with units; ``docs/config.md`` is made of these.
        choices: the allowed values, where they can be listed.
        out_of_scope: values of PySlowFast that this project does not support.
        minimum, maximum: limits of a number, or of each number of a list; both allowed.
        above: limit of a number that is itself not allowed.
        ours: the key is not one of PySlowFast's.
        any_case: the value is converted to lower case, as in PySlowFast.
        from_variant: the value comes from ``MVIT.VARIANT`` unless the key is set.
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
    """Return a field of the schema: a default value, its meaning, and the rest of its ``Rule``."""
    return field(default=default, metadata={"rule": Rule(meaning, **rule)})


# A key that PySlowFast does not have; one without effect on weights and scores; both.
addition = partial(setting, ours=True)
operational = partial(setting, decides_numbers=False)
operational_addition = partial(setting, ours=True, decides_numbers=False)


@dataclass(frozen=True)
class Key:
    """One key as the schema defines it.

    Attributes:
        name: as in files, ``DATA.NUM_FRAMES``.
        section: attribute of the config that contains it, "data"; empty without a section.
        attribute: its attribute of the section, "num_frames".
        type: its type, such as ``tuple[int, int, int] | None``.
        default: its value unless it is set.
        rule: the rest.
    """

    name: str
    section: str
    attribute: str
    type: Any
    default: Any
    rule: Rule

    def value_in(self, settings: object) -> Any:
        """Return the value of this key in ``settings``, an instance of the schema."""
        section = getattr(settings, self.section) if self.section else settings
        return getattr(section, self.attribute)


def keys_of(settings_class: type, section: str = "") -> Iterator[Key]:
    """Yield every key of a schema class and of its sections, in the order of the file."""
    types = get_type_hints(settings_class)
    for item in fields(settings_class):
        if is_dataclass(types[item.name]):
            yield from keys_of(types[item.name], item.name)
        elif rule := item.metadata.get("rule"):
            name = f"{section}.{item.name}".upper().lstrip(".")
            yield Key(name, section, item.name, types[item.name], item.default, rule)
