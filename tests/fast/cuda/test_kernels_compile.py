"""The kernels compile for an H100, also where there is none; the interpreter accepts more.

In a process of its own, with an empty cache, for this one may be the interpreter's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
POOLING = {"N": 2, "D": 12, "P": 1, "ROWS": 16, "WIDTH": 16}
POOLING |= {"KT": 1, "KH": 1, "KW": 3, "ST": 1, "SH": 1, "SW": 2}
FOLDING = {"N": 2, "D": 12, "P": 1, "FOLDED": 16, "ROWS": 16, "WIDTH": 16}
TABLES = {"COLUMNS": 16, "CHUNK": 16, "CHUNKS": 2}

# module: kernel: what it is compiled for
KERNELS = {
    "pooling_kernels": {
        "pool_forward": POOLING,
        "pool_backward_to_pooled": {**POOLING, "TILES": 2, "TAPS": 4},
        "pool_backward_to_tokens": POOLING,
        "sum_partials": {"D": 12, "TAPS": 3, "ROWS": 16, "WIDTH": 16},
    },
    "folding_kernels": {
        "fold_forward": {**FOLDING, **TABLES},
        "fold_backward_to_queries": {**FOLDING, **TABLES},
        "fold_backward_to_tables": {**FOLDING, **TABLES, "TILES": 2},
        "unfold_forward": {name: FOLDING[name] for name in FOLDING if name != "P"},
        "unfold_backward": {name: FOLDING[name] for name in FOLDING if name != "P"},
    },
}
TYPES = {
    "parameters_ptr": "*fp32",
    "partial_ptr": "*fp32",
    "filters_ptr": "*fp32",
    "norm_weight_ptr": "*fp32",
    "norm_bias_ptr": "*fp32",
    "rows_of_columns_ptr": "*i32",
    "columns_of_rows_ptr": "*i16",
    "eps": "fp32",
    "scale": "fp32",
}


def type_of(argument: str) -> str:
    return TYPES.get(argument, "*bf16" if argument.endswith("_ptr") else "i32")


def compile_all() -> None:
    """Compile every kernel for compute capability 9.0 and print its name."""
    import importlib

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    for module, kernels in KERNELS.items():
        folder = importlib.import_module(f"slowfast_mvit.fast.cuda.{module}")
        for name, constants in kernels.items():
            kernel = getattr(folder, name)
            signature = {
                argument: "constexpr" if argument in constants else type_of(argument)
                for argument in kernel.arg_names
            }
            source = ASTSource(kernel, signature, constants)
            assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
            print(name)


def test_every_kernel_compiles_for_an_h100(tmp_path):
    pytest.importorskip("triton")
    command = [sys.executable, "-c", "import test_kernels_compile as t; t.compile_all()"]
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "TRITON_CACHE_DIR": str(tmp_path)}
    environment["TRITON_INTERPRET"] = "0"

    done = subprocess.run(command, env=environment, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {name for kernels in KERNELS.values() for name in kernels}
    in_code = {
        line.removeprefix("def ").partition("(")[0]
        for module in KERNELS
        for line in (ROOT / "slowfast_mvit/fast/cuda" / f"{module}.py").read_text().splitlines()
        if line.startswith("def ") and not line.startswith("def _")
    }
    assert in_code == set(done.stdout.split())
