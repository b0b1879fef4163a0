"""Count lines of code by folder: no blank lines, comments or docstrings. ``--base REV`` compares.

python tools/count_code.py
python tools/count_code.py --base v0.1
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import tokenize
from collections import Counter

SKIPPED = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def python_lines(text: str) -> int:
    """Lines of Python that hold code."""
    lines = set[int]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SKIPPED:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                lines.difference_update(range(value.lineno, (value.end_lineno or 0) + 1))
    return len(lines)


def c_lines(text: str) -> int:
    """Lines of C that hold code."""
    text = re.sub(r"/\*.*?\*/", lambda found: "\n" * found[0].count("\n"), text, flags=re.S)
    return sum(bool(line.split("//")[0].strip()) for line in text.splitlines())


COUNTERS = {".py": python_lines, ".c": c_lines, ".h": c_lines}


def count(revision: str | None) -> Counter[str]:
    """Folder -> lines of code, in a revision or in the working tree."""
    listing = ["git", "ls-tree", "-r", "--name-only", revision] if revision else ["git", "ls-files"]
    names = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split("\n")
    found = Counter[str]()
    for name in names:
        suffix = name[name.rfind(".") :]
        if suffix in COUNTERS:
            found[_folder(name)] += COUNTERS[suffix](_content(name, revision))
    return found


def _folder(name: str) -> str:
    parts = name.split("/")
    return "/".join(parts[:2]) if parts[0] == "slowfast_mvit" and len(parts) > 2 else parts[0]


def _content(name: str, revision: str | None) -> str:
    if revision is None:
        with open(name, encoding="utf-8") as file:
            return file.read()
    command = ["git", "show", f"{revision}:{name}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", metavar="REV", help="a revision to compare with")
    base = parser.parse_args().base
    now, before = count(None), count(base) if base else Counter[str]()
    for folder in sorted(now | before):
        change = f" {before[folder]:8} {now[folder] - before[folder]:+8}" if base else ""
        print(f"{folder:32} {now[folder]:8}{change}")
    product = [
        f for f in now | before if f.split("/")[0] in ("slowfast_mvit", "data_prep", "benchmarks")
    ]
    for label, folders in (
        ("package, data_prep, benchmarks", product),
        ("all", list(now | before)),
    ):
        total, was = sum(now[f] for f in folders), sum(before[f] for f in folders)
        print(f"{label:32} {total:8}" + (f" {was:8} {total - was:+8}" if base else ""))


if __name__ == "__main__":
    main()
