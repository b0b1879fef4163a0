"""Names of classes: their files, their spellings, and the class index of a name."""

from __future__ import annotations

import csv
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from slowfast_mvit.annotations.records import ListSource, Problem
from slowfast_mvit.annotations.texts import numbered_lines, read_json
from slowfast_mvit.errors import ListError, nearest
from slowfast_mvit.storage import local_copy

_log = logging.getLogger(__name__)

CLASS_NAME_FILES = ("classes.txt", "labels.json", "class_names.json")


def class_names_of(source: ListSource) -> tuple[str, ...] | None:
    """The names in ``DATA.CLASS_NAMES_PATH``, else in a file next to the lists, else those that the
    data set is published with, else None.

    Names next to the lists that are not as many as the model has classes are ignored with a
    warning: the file of another data set must not stop a run.

    Raises:
        ListError: when ``DATA.CLASS_NAMES_PATH`` is missing, unreadable or of another number.
    """
    if source.class_names_path:
        names = read_class_names(local_copy(source.class_names_path))
        if source.num_classes not in (None, len(names)):
            text = f"names {len(names)} classes, expected {source.num_classes} (MODEL.NUM_CLASSES)"
            raise ListError(text, source.class_names_path)
        return names
    file = class_name_file(source.folder)
    if file is None:
        return source.public_names() if source.public_names else None
    names = read_class_names(file)
    if source.num_classes not in (None, len(names)):
        text = "%s names %d classes, but MODEL.NUM_CLASSES is %d: its names are not used"
        _log.warning(text, file, len(names), source.num_classes)
        return None
    return names


def class_name_file(folder: Path) -> Path | None:
    """The file of class names in a folder of lists, if there is one."""
    files = (folder / name for name in CLASS_NAME_FILES)
    return next((file for file in files if file.is_file()), None)


def kinetics400_names() -> tuple[str, ...]:
    """The 400 names, sorted, from the metadata of torchvision. Nothing is downloaded."""
    from torchvision.models.video import MViT_V2_S_Weights  # slow to import, and rarely needed

    return tuple(MViT_V2_S_Weights.KINETICS400_V1.meta["categories"])


def read_class_names(file: Path) -> tuple[str, ...]:
    """Class names in the order of their indices.

    They are a text of one name a line, a table (.csv) of names and indices in either order, or JSON
    ([names], {name: index} or {index: name}). Quotes round a name are left out.

    Raises:
        ListError: when the file is missing or of another form.
    """
    if file.suffix.lower() == ".json":
        content = read_json(file)
        if isinstance(content, dict):
            return ordered_class_names(file, content.items())
        if isinstance(content, list) and all(isinstance(name, str) for name in content):
            return tuple(map(_without_quotes, content))
        raise ListError("expected a list of class names, or an object of names and indices", file)
    lines = [line for _, line in numbered_lines(file)]
    if file.suffix.lower() == ".csv":
        rows = [(row[0], row[1]) for row in csv.reader(lines) if len(row) == 2]
        if len(rows) == len(lines):
            has_header = bool(rows) and not any(_is_index(field) for field in rows[0])
            return ordered_class_names(file, rows[1:] if has_header else rows)
    return tuple(map(_without_quotes, lines))


def ordered_class_names(file: Path, pairs: Iterable[tuple[str, object]]) -> tuple[str, ...]:
    """Names from pairs (name, index), or all (index, name), in the order of the indices, which must
    be 0, 1, 2, ...

    Raises:
        ListError: when an index is no whole number, missing or repeated.
    """
    pairs = list(pairs)
    if all(_is_index(index) and not _is_index(name) for index, name in pairs):
        pairs = [(str(name), index) for index, name in pairs]
    wrong = [index for _, index in pairs if not _is_index(index)]
    if wrong:
        raise ListError(f"the class index {wrong[0]!r} is not a whole number, 0 or more", file)
    by_index = {int(str(index)): name for name, index in pairs}
    if sorted(by_index) != list(range(len(pairs))):
        raise ListError(f"the class indices must be 0 to {len(pairs) - 1}, each once", file)
    return tuple(_without_quotes(by_index[index]) for index in sorted(by_index))


def require_one_line(names: Iterable[str], where: str | Path) -> None:
    """Refuse names with control characters, which no file of weights may have.

    Raises:
        ListError: names the first.
    """
    for name in names:
        if re.search(r"[\x00-\x1f\x7f-\x9f]", name):
            raise ListError(f"the class name {name!r} has control characters. Rename it", where)


def _is_index(value: object) -> bool:
    return re.fullmatch(r"\s*[0-9]{1,9}\s*", str(value)) is not None


def _without_quotes(name: str) -> str:
    return name.strip().strip('"').strip()


class ClassIndex:
    """The class index of a name, in any of its spellings.

    Copies of the same data set write ``riding a bike``, ``riding_a_bike`` or ``Riding a bike``; a
    name that fits no class letter by letter is looked up without case and punctuation, unless two
    classes would be the same then.

    Args:
        names: in the order of the class indices.
    """

    def __init__(self, names: Sequence[str]) -> None:
        keys = [folded(name) for name in names]
        times = Counter(keys)
        self._names = names
        self._exact = {name: index for index, name in enumerate(names)}
        # Names of signs alone, such as emoji, fold to nothing.
        self._folded = {name: i for i, name in enumerate(keys) if name and times[name] == 1}
        self._hints: dict[str, str] = {}

    def find(self, name: str) -> int | None:
        """The index of ``name``, or None where no class is called so."""
        index = self._exact.get(name)
        return self._folded.get(folded(name)) if index is None else index

    def hint(self, name: str) -> str:
        """The nearest name to one that was not found, as the end of a message."""
        if name not in self._hints:  # to find the nearest of 700 takes a while
            guess = nearest(name, self._names)
            self._hints[name] = f". Did you mean {guess!r}?" if guess else ""
        return self._hints[name]


def folded(name: str) -> str:
    """A class name without case and punctuation, in which copies of a data set differ."""
    letters = re.sub(r"['\u2019]", "", composed(name))
    return re.sub(r"[\W_]+", " ", letters).strip().lower()


def composed(name: str) -> str:
    """Letters with accents as one character each; macOS writes file names with two."""
    return unicodedata.normalize("NFC", name)


def clean(name: str) -> str:
    """The name of a class folder without underscores: ``jump__rope `` -> "jump rope"."""
    return re.sub(r"[_\s]+", " ", name).strip()


def class_map(counts: Mapping[str, int]) -> dict[str, str]:
    """One spelling for each class, by its folded name: the most frequent one.

    Args:
        counts: the number of times that each name occurs.
    """
    spellings: dict[str, list[str]] = {}
    for name in counts:
        spellings.setdefault(folded(name), []).append(name)
    return {
        key: min(names, key=lambda name: (-counts[name], name)) for key, names in spellings.items()
    }


def spelling_problems(
    names: Iterable[str], file: Path, what: str, *, loosely: bool = False
) -> Iterator[Problem]:
    """Names that are the same class but for case, underscores and the form of their letters.

    Args:
        names: the names.
        file: the file or folder of the names.
        what: a noun for the names, for the message: "labels".
        loosely: punctuation does not count either.
    """
    first: dict[str, str] = {}
    for name in names:
        key = folded(name) if loosely else composed(clean(name)).casefold()
        other = first.setdefault(key, name)
        if other != name:
            show = ascii if composed(other) == composed(name) else repr  # they look alike
            message = f"{what} {show(other)} and {show(name)} differ only in spelling"
            yield Problem(file, 0, "spelling", message)
