"""Devices for Triton's kernels in tests: a GPU, or the CPU in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture
def triton_device(monkeypatch):
    """The device whose tensors the kernels of this process can work on.

    The interpreter has to be asked for before Triton is imported, and it changes Triton for good,
    so no other test may share the process with it: see ``passes_in_interpreter``.
    """
    if INTERPRETING:
        _mend_bfloat16(monkeypatch)
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; Triton's interpreter runs it in a process of its own")
    return torch.device("cuda")


@pytest.fixture
def passes_in_interpreter():
    """A function that runs the tests of a file marked ``gpu`` in a process with the interpreter."""
    if INTERPRETING:
        pytest.skip("this is the process with the interpreter")
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs Triton")

    def run(path: str) -> None:
        root = Path(__file__).resolve().parents[3]
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", path]
        environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment["PYTHONPATH"] = os.pathsep.join([str(root), *sys.path])
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert " passed" in done.stdout

    return run


def _mend_bfloat16(monkeypatch) -> None:
    """Triton 3.8's interpreter holds bfloat16 as its bits; it cuts bits off where a GPU rounds to
    nearest, and multiplies matrices of bits as if they were whole numbers."""
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    multiply, narrow = InterpreterBuilder.create_dot, InterpreterBuilder.create_fp_trunc

    def widened(operand):
        if operand.dtype.scalar != tl.bfloat16:
            return operand
        bits = operand.data.astype(np.uint32) << 16
        return TensorHandle(bits.view(np.float32), tl.float32)

    def create_dot(self, a, b, *others):
        return multiply(self, widened(a), widened(b), *others)

    def create_fp_trunc(self, source, wanted):
        if (source.dtype.scalar, wanted.scalar) != (tl.float32, tl.bfloat16):
            return narrow(self, source, wanted)
        bits = np.ascontiguousarray(source.data).view(np.uint32)
        rounded = bits + 0x7FFF + (bits >> 16 & 1) >> 16  # to nearest, ties to even
        return TensorHandle(rounded.astype(np.uint16), tl.bfloat16)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
    monkeypatch.setattr(InterpreterBuilder, "create_fp_trunc", create_fp_trunc)
