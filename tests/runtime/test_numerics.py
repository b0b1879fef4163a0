"""The record of the numerics in a checkpoint."""

import torch

from slowfast_mvit.fast import create_model, fast_paths_of
from slowfast_mvit.runtime.numerics import changes_of, numerics_of

CPU = torch.device("cpu")


def test_each_cause_of_other_rounding_is_recorded(monkeypatch):
    before = numerics_of(CPU)
    monkeypatch.setattr(torch, "__version__", "3.0")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX9")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not torch.backends.cudnn.allow_tf32)
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")

    changes = changes_of({**before, "of another version": "x"}, numerics_of(CPU))

    assert changes == [
        f"torch: {before['torch']} -> 3.0",
        f"CPU instructions: {before['CPU instructions']} -> AVX9",
        f"CPU threads: {before['CPU threads']} -> 77",
        "TF32 in cuDNN: True -> False",
        "MKL_CBWR: not set -> COMPATIBLE",
    ]
    assert before["GPU"] == "none" and changes_of({}, before) == []


def test_the_fast_paths_are_recorded():
    with torch.device("meta"):
        fast, plain = (create_model("mvitv2_s_16x4", attention=form) for form in ("fast", "plain"))

    assert fast_paths_of(plain, CPU) == "none"
    assert fast_paths_of(fast, CPU) in ("in C", "PyTorch's own operations")
