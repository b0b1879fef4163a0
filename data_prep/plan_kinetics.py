"""The annotation files of Kinetics: label,youtube_id,time_start,time_end,split."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.plan_match import split_named_in
from slowfast_mvit.data.listing.texts import open_text, raise_problems
from slowfast_mvit.errors import ListError, UserError

_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")


@dataclass(frozen=True, slots=True)
class Clip:
    """A row of an annotation file: ten seconds or so of a video; ``label`` "" where withheld."""

    youtube_id: str
    start_s: int
    end_s: int
    label: str
    split: str

    @property
    def name(self) -> str:
        """Its file name without suffix, as the public copies have it."""
        return f"{self.youtube_id}_{self.start_s:06d}_{self.end_s:06d}"


def find_annotations(places: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """The annotation files among these files and folders, and notes on what was passed over.

    Of a ``train.csv`` and a ``train.txt`` in one folder the latter counts: K600's publisher marks
    the former as incomplete.

    Raises:
        UserError: when there are none.
    """
    files: list[Path] = []
    notes: list[str] = []
    for place in places:
        if place.is_file():
            files.append(place)
            continue
        if not place.is_dir():
            raise UserError(f"{place}: no such file or folder. Give it with --annotations")
        named = [f for f in sorted(place.iterdir()) if f.suffix in (".csv", ".txt")]
        found = [f for f in named if split_named_in(f.stem) and f.is_file() and _is_annotation(f)]
        doubled = [f for f in found if f.suffix == ".csv" and f.with_suffix(".txt") in found]
        notes += [f"{f} is passed over for {f.stem}.txt, which is complete" for f in doubled]
        files += [f for f in found if f not in doubled]
    if not files:
        shown = ", ".join(map(str, places))
        raise UserError(
            f"{shown}: no annotation files. Expected train.csv, val.csv (or validate.csv) and "
            "test.csv with the columns label,youtube_id,time_start,time_end,split"
        )
    return files, notes


def _is_annotation(file: Path) -> bool:
    with open_text(file, errors="replace") as lines:
        first = next(csv.reader([next(lines, "").replace("\0", "")]), [])
    return "youtube_id" in [f.strip().lower() for f in first] or len(first) >= len(_COLUMNS)


def read_annotations(file: Path) -> list[Clip]:
    """The clips of one file.

    A header names the columns; a file without one has those of the public release. Times may be
    written "8.0". A comma in a label without quotes does no harm.

    Raises:
        ListError: all problems of the file at once, with their lines.
    """
    clips: list[Clip] = []
    problems: list[tuple[int, str]] = []
    columns: Sequence[str] = _COLUMNS
    split = split_named_in(file.stem)
    for line, row in _rows(file):
        if not clips and not problems and "youtube_id" in [cell.strip().lower() for cell in row]:
            columns = [cell.strip().lower() for cell in row]
            continue
        clip = _clip(row, columns, split)
        if isinstance(clip, str):
            problems.append((line, clip))
        else:
            clips.append(clip)
    raise_problems(file, problems)
    if not clips:
        raise ListError(f"{file}: no clips. Expected lines of {','.join(_COLUMNS)}")
    return clips


def _rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with open_text(file, newline="") as lines:
            reader = csv.reader(lines)
            for row in reader:
                if any(cell.strip() for cell in row):
                    yield reader.line_num, row
    except csv.Error as error:
        raise ListError(f"{file}: not a CSV file ({error})") from None


def _clip(row: list[str], columns: Sequence[str], split: str | None) -> Clip | str:
    """The clip of a row, or what is wrong with it."""
    surplus = len(row) - len(columns)
    if surplus > 0 and columns[0] == "label":  # commas in a label without quotes
        row = [",".join(row[: surplus + 1]), *row[surplus + 1 :]]
    cells = dict(zip(columns, (cell.strip() for cell in row), strict=False))
    youtube_id = cells.get("youtube_id", "")
    start, end = _seconds(cells.get("time_start", "")), _seconds(cells.get("time_end", ""))
    split = split or split_named_in(cells.get("split", ""))
    if not youtube_id or "/" in youtube_id or "\0" in youtube_id:
        return f"youtube_id is {youtube_id!r}; expected {','.join(columns)}"
    if start is None or end is None or not 0 <= start < end:
        times = f"{cells.get('time_start', '')!r} to {cells.get('time_end', '')!r}"
        return f"{youtube_id}: time {times} are not whole seconds, the first below the second"
    if split is None:
        return f"{youtube_id}: neither the file's name nor the column split says train, val or test"
    return Clip(youtube_id, start, end, cells.get("label", "").strip("\"' "), split)


def _seconds(text: str) -> int | None:
    return int(float(text)) if re.fullmatch(r"[0-9]+(\.0*)?", text) else None


def read_ids(file: Path) -> set[str]:
    """The YouTube ids in a file: an annotation file, a ``path label`` list, or one id a line.

    Raises:
        UserError: when it is missing or holds none.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file (--exclude-ids)")
    ids = _annotated_ids(file) if _is_annotation(file) else _listed_ids(file)
    if not ids:
        raise UserError(f"{file}: no ids (--exclude-ids)")
    return ids


def _annotated_ids(file: Path) -> set[str]:
    rows = [row for _, row in _rows(file)]
    header = [cell.strip().lower() for cell in rows[0]]
    place = header.index("youtube_id") if "youtube_id" in header else _COLUMNS.index("youtube_id")
    return {row[place].strip() for row in rows if len(row) > place} - {"youtube_id"}


def _listed_ids(file: Path) -> set[str]:
    with open_text(file, errors="replace") as text:
        lines = text.read().splitlines()
    paths = [re.sub(r"[ \t,][0-9]+\s*$", "", line).strip().strip('"') for line in lines]
    return {parsed_name(os.path.basename(path))[0] for path in paths if path}


def parsed_name(name: str) -> tuple[str, int | None, int | None]:
    """Id, start and end of a file ``<id>_<start>_<end>.mp4``, or of ``<id>.mp4`` without times.

    Nothing after the first dot counts, since some downloaders write ``.mp4.webm``; 11 characters
    are an id, whatever they look like.
    """
    stem = name.partition(".")[0]
    found = re.fullmatch(r"(.+)_([0-9]+)_([0-9]+)", stem) if len(stem) != 11 else None
    return (found[1], int(found[2]), int(found[3])) if found else (stem, None, None)
