"""The tables in docs/architecture.md and the imports in the code say the same thing."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "slowfast_mvit"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
# Imported by name, when a kernel is first launched; nothing may import them in the ordinary way.
TRITON_KERNELS = {"pooling_kernels.py", "folding_kernels.py"}


def rows_of_the_table() -> dict[str, int]:
    """Folder -> row, from the block in docs/architecture.md that starts with ``row folders``."""
    block = re.search(r"^row +folders.*\n((?:.+\n)+?)```", ARCHITECTURE, re.MULTILINE)
    assert block, "docs/architecture.md has no block that starts with 'row folders'"
    rows = {}
    for line in block.group(1).splitlines():
        number, *folders = line.split("(")[0].split()
        rows.update({folder: int(number) for folder in folders})
    return rows


def orders_of_subfolders() -> dict[str, list[str]]:
    """Folder -> its subfolders in the order of "Inside `data`: `lists` -> `video` -> ..." """
    found = re.findall(r"^Inside `(\w+)`, imports go one way: (.*)\.$", ARCHITECTURE, re.MULTILINE)
    return {folder: re.findall(r"`(\w+)`", order) for folder, order in found}


def folders_in_the_code() -> set[str]:
    """Every module and folder directly under the package that holds code."""
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    return modules | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def module_of(path: Path) -> str:
    """``data.lists.catalog`` for its file."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(module: str) -> set[tuple[str, int]]:
    """(module of the package, line) for every import in a module, those in functions included.

    Imports for annotations alone, under ``if TYPE_CHECKING``, never run.
    """
    found = set()
    tree = ast.parse(MODULES[module].read_text())
    tree.body = [node for node in tree.body if not is_for_types(node)]
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module}: relative import; write the full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            top, _, rest = name.partition(".")
            if top == "slowfast_mvit" and rest:
                while rest and rest not in MODULES:
                    rest = rest.rpartition(".")[0]
                if rest != module:
                    found.add((rest, node.lineno))
    return found


IMPORTS = {module: imports(module) for module in MODULES}


def imports_between_folders() -> set[tuple[str, str, str]]:
    """(folder, folder it imports, module:line) for every import inside the package."""
    found = set()
    for module, imported in IMPORTS.items():
        folder = module.split(".")[0]
        if folder in ("", "__main__"):
            continue  # the public names are loaded lazily, from every row
        for other, line in imported:
            if other and other.split(".")[0] != folder:
                found.add((folder, other.split(".")[0], f"{module}:{line}"))
    return found


def test_the_table_lists_every_folder_and_no_other():
    assert set(rows_of_the_table()) == folders_in_the_code()


def test_imports_point_only_down():
    rows = rows_of_the_table()
    wrong = [
        f"{where}: {folder} (row {rows[folder]}) imports {other} (row {rows[other]})"
        for folder, other, where in sorted(imports_between_folders())
        if other in rows and rows[other] >= rows[folder]
    ]
    assert not wrong, "\n".join(wrong)


def test_subfolders_import_one_way():
    orders = orders_of_subfolders()
    wrong = []
    for module, imported in IMPORTS.items():
        folder, *inside = module.split(".")
        for other, line in imported:
            other_folder, *other_inside = other.split(".")
            if folder == other_folder and folder in orders and inside and other_inside:
                order = orders[folder]
                if order.index(other_inside[0]) > order.index(inside[0]):
                    wrong.append(f"{module}:{line} imports {other}")

    assert set(orders) == {"data", "fast"}
    assert not wrong, "\n".join(wrong)


def test_no_files_import_each_other_in_a_circle():
    graph = {module: {other for other, _ in imported} for module, imported in IMPORTS.items()}
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in finished:
            for other in sorted(graph.get(module, ())):
                visit(other, (*path, module))
            finished.add(module)

    for module in graph:
        if module:  # the package itself loads its public names lazily
            visit(module, ())


def test_only_builders_know_both_the_config_and_the_folders_it_configures():
    rows = rows_of_the_table()
    users: dict[str, set[str]] = {}
    for folder, other, _ in imports_between_folders():
        users.setdefault(folder, set()).add(other)

    below_jobs = {folder for folder in users if rows[folder] < rows["jobs"]}

    assert {folder for folder in below_jobs if "config" in users[folder]} == {"builders"}


@pytest.mark.parametrize("folder", ["models", "fast"])
def test_models_need_torch_and_nothing_else(folder):
    allowed = {"torch", "numpy", "slowfast_mvit"}

    for path in (PACKAGE / folder).rglob("*.py"):
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
    kernels = {f"fast.cuda.{Path(name).stem}" for name in TRITON_KERNELS}

    assert kernels <= MODULES.keys()
    for module, imported in IMPORTS.items():
        assert not {other for other, _ in imported} & kernels, module


SHARED_VIEWS = {f"data.views{name}" for name in ("", ".pixels", ".sampling", ".eval_views")}
TRAINING_VIEWS = {name for name in MODULES if name.startswith("data.views")} - SHARED_VIEWS


def imported_by(module: str) -> set[str]:
    """All modules that a module imports, directly or not."""
    reached, waiting = set(), [module]
    while waiting:
        new = {other for other, _ in IMPORTS[waiting.pop()]} - reached
        reached |= new
        waiting += new
    return reached


def test_test_views_do_not_depend_on_training_augmentation():
    assert "data.views.train_views" in TRAINING_VIEWS
    for module in ("data.views.eval_views", "data.loading.items"):
        assert not imported_by(module) & TRAINING_VIEWS


def test_config_needs_no_torch():
    for path in (PACKAGE / "config").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) torch", path.read_text(), re.MULTILINE), path
