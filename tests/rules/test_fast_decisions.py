"""``fast/plan.py`` alone decides where a fast form stands in; the plain models ask nothing."""

from __future__ import annotations

import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "slowfast_mvit"

# What a form may depend on, as one would ask for it in code.
QUESTIONS = {
    "device": r"device\.type|is_cuda|is_available\(\)",
    "compiling": r"is_compiling|is_exporting",
    "gradients": r"is_grad_enabled|requires_grad\b(?!_)",
    "autocast": r"is_autocast_enabled|get_autocast_dtype",
    "hooks": r"_hooks\b|_has_any_global_hook",
    "types of layers": r"type\(layer\)|isinstance\([a-z.]+, nn\.",
}
# Who asks beside the plan, and what for.
OTHERS = {
    "models/tables.py": {"compiling"},  # whether a tensor may be remembered
    "models/flops.py": {"types of layers"},  # which layers are norms
    "models/pixel_checks.py": {
        "device",
        "hooks",
        "autocast",
    },  # whether pixels fit the first weights
    "fast/cpu/casting.py": {"device", "autocast"},  # the dtype of products on a CPU
    "fast/cpu/norm_linear.py": {"gradients"},  # whether a rounded weight may be remembered
    "fast/cpu/mlp.py": {"gradients"},
    "fast/cuda/attention.py": {"device", "compiling", "gradients", "autocast"},  # which backend
}


def questions_in(path: Path) -> set[str]:
    code = re.sub(r'""".*?"""', "", path.read_text(), flags=re.DOTALL)
    code = re.sub(r"#.*", "", code)
    return {name for name, pattern in QUESTIONS.items() if re.search(pattern, code)}


def test_one_place_decides_and_these_others_ask_for_something_else():
    asking = {
        path.relative_to(PACKAGE).as_posix(): questions
        for folder in ("models", "fast")
        for path in (PACKAGE / folder).rglob("*.py")
        if (questions := questions_in(path))
    }

    assert asking.pop("fast/plan.py") == set(QUESTIONS)
    assert asking == OTHERS


def test_a_plan_is_asked_for_in_one_place():
    callers = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for _ in re.findall(r"= plan_of\(", path.read_text())
    ]

    assert callers == ["fast/block.py"]


def test_models_never_import_fast():
    for path in (PACKAGE / "models").rglob("*.py"):
        assert "import slowfast_mvit.fast" not in path.read_text(), path
        assert "from slowfast_mvit.fast" not in path.read_text(), path
