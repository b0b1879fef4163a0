"""The plan of a model on CUDA, without a GPU: shapes on a device that does not exist."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from slowfast_mvit.fast import create_model, plan
from slowfast_mvit.fast.cuda import attention


class Operations(TorchDispatchMode):
    """Counts how often each operator of this package runs."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation.namespace == "slowfast_mvit":
            self.counts[operation.overloadpacket.__name__] += 1
        return operation(*args, **(kwargs or {}))


@pytest.fixture
def without_gpu(monkeypatch):
    """PyTorch's fused attention asks the driver what card it is."""
    pytest.importorskip("triton")

    def attend(q, k, v, scale):
        scores = torch.einsum("bqnc,bknc->bnqk", q, k) * scale
        return torch.einsum("bnqk,bknc->bqnc", scores.softmax(-1).to(v.dtype), v)

    monkeypatch.setattr(attention, "_attend", attend)


MODELS = {"mvitv2_s_16x4": 4, "mvitv1_b_16x4": 4, "mvitv2_t_in1k": 1}  # with frames


def model_on_meta(name):
    with torch.device("meta"):
        return create_model(name, num_classes=5, input_size=(MODELS[name], 64, 64))


# The queries of most blocks of MViTv1 are not pooled; then the three are not one operator.
@pytest.mark.parametrize(
    ("name", "num_pooled"), [("mvitv2_s_16x4", 16), ("mvitv1_b_16x4", 3), ("mvitv2_t_in1k", 10)]
)
def test_pooled_queries_keys_and_values_are_one_operator(name, num_pooled, without_gpu):
    with FakeTensorMode():
        tokens = torch.empty(2, 513, 96, device="cuda")
    blocks = model_on_meta(name).blocks

    plans = [plan.plan_of(block, tokens, (2, 16, 16)) for block in blocks]

    assert [one.attention for one in plans] == ["fused"] * len(blocks)
    assert [one.pools for one in plans].count(True) == num_pooled


# The last block of a model with a class token attends for that alone, without offsets.
@pytest.mark.parametrize(
    ("name", "num_folded"), [("mvitv2_s_16x4", 15), ("mvitv1_b_16x4", 0), ("mvitv2_t_in1k", 10)]
)
def test_offsets_are_folded_by_the_operator(name, num_folded, without_gpu):
    model = model_on_meta(name)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = model.to_empty(device="cuda")
        pixels = torch.empty(2, 3, MODELS[name], 64, 64, device="cuda")
        with Operations() as operations:
            logits = model(pixels)

    assert logits.shape == (2, 5)
    assert operations.counts["fold_queries"] == num_folded
