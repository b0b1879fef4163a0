"""Whatever training keeps of each block: equal gradients, less memory, no product twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from exactness import allowed, needs_bfloat16_attention
from reference_models import fill
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from slowfast_mvit.builders.lists import mvit_from_lists, variant_as_lists
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.models.checkpointing import RUN_BLOCK

SMALL = {
    "input_size": (4, 48, 48),
    "num_classes": 5,
    "embed_dim": 8,
    "depth": 3,
    "dim_mul": [[1, 2.0]],
    "head_mul": [[1, 2.0]],
    "pool_q_stride": [[0, 1, 1, 1], [1, 1, 2, 2], [2, 1, 1, 1]],
    "pool_kv_stride_adaptive": [1, 4, 4],
    "pool_kvq_kernel": [3, 3, 3],
}
RANDOM = {"drop_path": 0.5, "dropout": 0.3}


def small(kept, **options):
    torch.manual_seed(0)
    return fill(mvit_from_lists(**SMALL, **options, activation_checkpointing=kept))


def loss_of(model, pixels, *, seed=1):
    torch.manual_seed(seed)  # of dropout and drop path
    logits = model(pixels)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, torch.arange(len(pixels)))


def gradients(model, pixels, dtype):
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        loss = loss_of(model, pixels)
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16_attention)],
    ids=str,
)
@pytest.mark.parametrize("kept", ["selective", True])
def test_gradients_are_the_same_bits_with_the_same_masks(kept, dtype):
    pixels = torch.randn(2, 3, 4, 48, 48)

    expected = gradients(small(False, **RANDOM), pixels, dtype)
    actual = gradients(small(kept, **RANDOM), pixels, dtype)

    different = [name for name, gradient in expected.items() if not gradient.equal(actual[name])]
    assert different == []


@pytest.mark.parametrize("kept", ["selective", True])
def test_the_paths_without_dropout_draw_the_same_masks_too(kept):
    torch.manual_seed(0)
    pixels = torch.randn(4, 3, 4, 48, 48)

    actual = gradients(small(kept, drop_path=0.5), pixels, torch.float32)
    plain, double = (small(False, drop_path=0.5, attention="plain") for _ in range(2))
    expected = gradients(plain, pixels, torch.float32)
    exact = gradients(double.double(), pixels.double(), torch.float64)

    # All together: with other masks the error would be as large as the gradients.
    error, plain_error = (
        torch.stack([(one[name] - gradient).norm() for name, gradient in exact.items()]).norm()
        for one in (actual, expected)
    )
    assert error <= allowed(plain_error)


class Operations(TorchDispatchMode):
    """Counts how often each operation runs."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter[str]()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.counts[operation.overloadpacket.__name__] += 1
        return operation(*args, **(kwargs or {}))


def operations_of_a_step(kept):
    model = small(kept, attention="folded")  # "fast" on a CPU has other products for each
    with Operations() as operations:
        loss_of(model, torch.ones(1, 3, 4, 48, 48)).backward()
    return operations.counts


def test_selective_checkpointing_computes_norms_again_but_no_linear_layer():
    everything, selective = operations_of_a_step(False), operations_of_a_step("selective")

    assert selective["addmm"] + selective["mm"] == everything["addmm"] + everything["mm"]
    assert selective["native_layer_norm"] > 1.5 * everything["native_layer_norm"]


class Alive(TorchDispatchMode):
    """Knows the memory of all that was computed and is still needed."""

    def __init__(self, own: list[Tensor]) -> None:
        super().__init__()
        self._own = {tensor.untyped_storage()._cdata for tensor in own}
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in self._own:
                storage = leaf.untyped_storage()
                self._made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return result

    def num_bytes(self) -> int:
        return sum(size for storage, size in self._made.values() if not storage.expired())


def bytes_kept(kept, autocast=False):
    """Bytes that S saves for the backward pass of one clip; nothing is computed."""
    arguments = variant_as_lists("mvitv2_s_16x4")
    with torch.device("meta"):
        model = mvit_from_lists(**arguments, activation_checkpointing=kept)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = model.to_empty(device="cpu")
        pixels = torch.ones(1, 3, *arguments["input_size"])
        alive = Alive([pixels, *model.parameters()])
        with alive, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of(model, pixels)  # its graph holds what is kept
        num_bytes = alive.num_bytes()
        del loss
    return num_bytes


def test_each_way_of_checkpointing_keeps_less_of_s():
    everything, selective, inputs = (bytes_kept(kept) for kept in RUN_BLOCK)

    assert selective < 0.75 * everything
    assert inputs < 0.15 * selective


def test_evaluation_keeps_nothing_and_says_the_same():
    pixels = torch.randn(1, 3, 4, 48, 48)
    expected = small(False).eval()(pixels)

    for kept in RUN_BLOCK:
        assert torch.equal(small(kept).eval()(pixels), expected)


def test_a_way_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match=r"'partial'\. Choose from: False, selective, True"):
        small("partial")
