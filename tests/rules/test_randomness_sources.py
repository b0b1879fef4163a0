"""Under data/ nothing is drawn but from a generator that was handed in.

Else batches would depend on the number of workers, and a resumed run would see others.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "slowfast_mvit" / "data"

MODULES = {"random", "secrets", "uuid"}
NUMPY_TYPES = {"Generator", "RandomState", "Philox", "BitGenerator"}  # to name, not to call
TORCH_DRAWS = {
    *("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"),
    *("rand_like", "randn_like", "randint_like"),
    *("random_", "normal_", "uniform_", "bernoulli_", "exponential_", "log_normal_", "geometric_"),
}
CALLS = {
    "os.urandom": "differs in each process",
    "time.time": "a clock is no seed; time.monotonic measures",
    "time.time_ns": "a clock is no seed; time.monotonic measures",
    "torch.manual_seed": "sets the stream that everybody shares",
    "torch.seed": "sets the stream that everybody shares",
}


def sources_of_chance(code: str) -> Iterator[tuple[int, str]]:
    """The line and the reason of each place that draws from elsewhere than a given generator."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names if name.name.split(".")[0] in MODULES]
            yield from ((node.lineno, f"import {name}") for name in names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module.split(".")[0] in MODULES or module == "numpy.random":
                yield node.lineno, f"from {module} import"
        elif isinstance(node, ast.Attribute):
            module, _, name = ast.unparse(node).rpartition(".")
            if module in ("np.random", "numpy.random") and name not in NUMPY_TYPES:
                yield node.lineno, f"{module}.{name}"
        elif isinstance(node, ast.Call):
            yield from _chance_of_call(node)


def _chance_of_call(node: ast.Call) -> Iterator[tuple[int, str]]:
    called = ast.unparse(node.func)
    module, _, name = called.rpartition(".")
    if called in CALLS:
        yield node.lineno, f"{called}: {CALLS[called]}"
    if module in ("np.random", "numpy.random") and name in NUMPY_TYPES:
        yield node.lineno, f"{called}: slowfast_mvit.randomness makes generators"
    draws = name in TORCH_DRAWS and (module == "torch" or name.endswith("_"))
    if draws and not any(keyword.arg == "generator" for keyword in node.keywords):
        yield node.lineno, f"{called} without generator="
    if name == "DataLoader" and not any(keyword.arg == "generator" for keyword in node.keywords):
        yield node.lineno, "a DataLoader draws a seed from the global stream"
    if name.startswith("Random") and module.split(".")[0] in ("v2", "transforms", "torchvision"):
        yield node.lineno, f"{called} draws from the global stream"


@pytest.mark.parametrize("file", sorted(DATA.rglob("*.py")), ids=lambda file: file.name)
def test_data_draws_only_from_generators_that_are_handed_in(file):
    found = [f"{file.name}:{line}: {what}" for line, what in sources_of_chance(file.read_text())]

    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "import random",
        "from random import choice",
        "np.random.rand(3)",
        "np.random.seed(0)",
        "numpy.random.default_rng()",
        "np.random.RandomState()",
        "from numpy.random import default_rng",
        "torch.rand(3)",
        "torch.randperm(5, device=device)",
        "tensor.normal_(0, 1)",
        "torch.manual_seed(3)",
        "rng = generator(int(time.time()), 0, 0, 0)",
        "DataLoader(videos, num_workers=2)",
        "v2.RandomCrop(3)(image)",
    ],
)
def test_a_hidden_source_is_found(code):
    assert list(sources_of_chance(code))


@pytest.mark.parametrize(
    "code",
    [
        "def draw(rng: np.random.Generator | np.random.RandomState): return rng.random()",
        "torch.randn(shape, generator=noise)",
        "rng.normal(0.0, 1.0)",
        "noise = torch.Generator(device).manual_seed(seed)",
        "start_s = time.monotonic()",
        "isinstance(rng, np.random.Generator)",
    ],
)
def test_a_given_generator_is_no_hidden_source(code):
    assert list(sources_of_chance(code)) == []
