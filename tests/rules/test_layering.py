"""The picture in docs/architecture.md and the imports in the code say the same thing."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "slowfast_mvit"
# Imported by name, when a kernel is first launched; nothing may import them in the ordinary way.
TRITON_KERNELS = {"pooling_kernels.py", "folding_kernels.py"}


def rows_of_the_picture() -> dict[str, int]:
    """Room -> row, read from the block in docs/architecture.md that starts with ``row rooms``."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    block = re.search(r"^row +rooms.*\n((?:.+\n)+?)```", text, re.MULTILINE)
    assert block, "docs/architecture.md has no block that starts with 'row rooms'"
    rows = {}
    for line in block.group(1).splitlines():
        number, *rooms = line.split("(")[0].split()
        rows.update({room: int(number) for room in rooms})
    return rows


def rooms_in_the_code() -> set[str]:
    """Every module and folder directly under the package that holds code."""
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    return modules | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def imports_between_rooms() -> set[tuple[str, str, str]]:
    """(room, room it imports, file:line) for every import inside the package."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue  # the public names are loaded lazily, from every row
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{path}: relative import; write the full name"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                parts = name.split(".")
                if parts[0] == "slowfast_mvit" and len(parts) > 1 and parts[1] != room:
                    where = f"{path.relative_to(ROOT)}:{node.lineno}"
                    found.add((room, parts[1], where))
    return found


def test_the_picture_shows_every_room_and_no_other():
    assert set(rows_of_the_picture()) == rooms_in_the_code()


def test_imports_point_only_down():
    rows = rows_of_the_picture()
    wrong = [
        f"{where}: {room} (row {rows[room]}) imports {other} (row {rows[other]})"
        for room, other, where in sorted(imports_between_rooms())
        if other in rows and rows[other] >= rows[room]
    ]
    assert not wrong, "\n".join(wrong)


def test_only_build_knows_both_the_config_and_the_rooms_it_configures():
    rows = rows_of_the_picture()
    configured = {room for room, row in rows.items() if row == rows["config"]} - {"config"}
    users: dict[str, set[str]] = {}
    for room, other, _ in imports_between_rooms():
        users.setdefault(room, set()).add(other)

    both = {
        room
        for room, used in users.items()
        if "config" in used and used & configured and rows[room] <= rows["build"]
    }

    assert both == {"build"}


@pytest.mark.parametrize("room", ["models", "fast"])
def test_models_need_torch_and_nothing_else(room):
    allowed = {"torch", "numpy", "slowfast_mvit"}
    import sys

    for path in (PACKAGE / room).rglob("*.py"):
        if path.name in TRITON_KERNELS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                roots = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                roots = {node.module.split(".")[0]}
            else:
                continue
            assert roots <= allowed | set(sys.stdlib_module_names), f"{path}:{node.lineno} {roots}"


def test_no_import_statement_reaches_triton():
    modules = {f"slowfast_mvit.fast.cuda.{Path(name).stem}" for name in TRITON_KERNELS}

    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            else:
                continue
            assert not names & modules, f"{path}:{node.lineno}"


def test_config_needs_no_torch():
    for path in (PACKAGE / "config").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) torch", path.read_text(), re.MULTILINE), path
