"""The config of a run: frozen and typed, with its YAML and its digest."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from slowfast_mvit.config.schema import Settings
from slowfast_mvit.config.setting import Key, keys_of

ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://|hf[-_]hub:")  # a value that would be fetched
KEYS: dict[str, Key] = {key.name: key for key in keys_of(Settings)}


@dataclass(frozen=True)
class Config(Settings):
    """All keys of a run, with the values that were read: nothing is scaled or filled in here.

    Attributes:
        set_keys: names of the keys that a file or an override sets.
    """

    set_keys: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    def is_set(self, key: str) -> bool:
        """Return whether a file or an override sets ``key``, such as "MVIT.DEPTH".

        Raises:
            KeyError: there is no such key.
        """
        return KEYS[key].name in self.set_keys

    def to_yaml(self) -> str:
        """Return the whole config as YAML, from which ``load_config`` reads an equal one.

        Keys that ``MVIT.VARIANT`` fills are left out: written, they would count as set.
        """
        tree: dict[str, Any] = {}
        for key in self._written():
            branch = tree.setdefault(key.section.upper(), {}) if key.section else tree
            branch[key.attribute.upper()] = _plain(key.value_in(self))
        return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=100)

    def without_addresses(self) -> Config:
        """Return the config with each address as a note, "address https://host/file".

        For files that others read: an address in them is refused, and a note is not fetched.
        """
        changed: dict[str, dict[str, Any]] = {}
        for key in KEYS.values():
            value = key.value_in(self)
            if isinstance(value, str) and ADDRESS.match(value):
                changed.setdefault(key.section, {})[key.attribute] = f"address {value}"
        top = changed.pop("", {})
        sections = {name: replace(getattr(self, name), **keys) for name, keys in changed.items()}
        return replace(self, **top, **sections)

    def digest(self) -> str:
        """Return 16 hexadecimal digits of the keys that affect weights or scores.

        Folders, paths, devices, workers and logging do not count.
        """
        values = {
            key.name: _plain(key.value_in(self))
            for key in self._written()
            if key.rule.decides_numbers
        }
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _written(self) -> list[Key]:
        return [key for key in KEYS.values() if not self._is_left_to_variant(key)]

    def _is_left_to_variant(self, key: Key) -> bool:
        return (
            key.rule.from_variant
            and bool(self.mvit.variant)
            and not self.is_set(key.name)
            and key.value_in(self) == key.default
        )


class _Dumper(yaml.SafeDumper):
    """Sections as blocks, lists on one line."""


_Dumper.add_representer(
    list, lambda dumper, part: dumper.represent_sequence("tag:yaml.org,2002:seq", part, True)
)


def _plain(value: Any) -> Any:
    return [_plain(part) for part in value] if isinstance(value, tuple) else value
