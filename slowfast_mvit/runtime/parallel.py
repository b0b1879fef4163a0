"""One model on many processes: who holds which weights, and the whole of them when asked.

    strategy   each process holds       exchanged in each step
    ddp        all of the weights       gradients                         (DistributedDataParallel)
    fsdp       its slice of each        weights, block by block, and      (FSDP2, ``fully_shard``)
               weight, gradient and     slices of the gradients
               optimizer state

Weights keep their names and their float32 values under both, and the mean over processes of the
gradients is the gradient of the mean loss. So checkpoints do not tell which strategy wrote them:
what goes into a file comes from ``whole_state`` and ``whole_optimizer_state``, and comes back by
``fill_module`` and ``fill_optimizer``. Activation checkpointing is the model's own affair.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from slowfast_mvit.errors import pick
from slowfast_mvit.runtime.distributed import is_main, world_size
from slowfast_mvit.runtime.precision import PRECISIONS

# Under this name a sharded model keeps what makes an empty, whole one like it.
_NEW_WHOLE = "_new_whole_model"


def parallelise(
    model: nn.Module,
    *,
    strategy: str,
    device: torch.device,
    precision: str = "fp32",
    find_unused: bool = False,
) -> nn.Module:
    """Let all processes of the group train one model; every one starts from rank 0's weights.

    Build the optimizer afterwards: ``fsdp`` replaces the parameters, names and order stay. A moving
    average of the weights has to be a copy made before; give it to this function as well under
    ``fsdp``, so that it is cut into the same slices.

    Args:
        model: on ``device``, compiled already if it is to be (``ddp`` only).
        strategy: a name in ``STRATEGIES``.
        precision: what autocast computes the forward pass in, see ``runtime.precision``.
        find_unused: some parameters that want gradients may get none in a step; costs time.

    Returns:
        What to call in training; ``model`` itself in a run of one process.

    Raises:
        ConfigError: there is no such strategy or precision.
    """
    wrap = pick(STRATEGIES, strategy, "strategy (TRAIN.STRATEGY)")
    dtype = pick(PRECISIONS, precision, "precision (TRAIN.PRECISION)")
    if world_size() == 1:
        return model
    return wrap(model, device, dtype, find_unused)


def _wrap_ddp(
    model: nn.Module, device: torch.device, dtype: torch.dtype | None, find_unused: bool
) -> nn.Module:
    # The gradient of a pooling filter counts its axis of length 1 with another stride, which is no
    # other layout; the models have no buffers that would be sent around in each step.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        find_unused_parameters=find_unused,
    )


def _shard(
    model: nn.Module, device: torch.device, dtype: torch.dtype | None, find_unused: bool
) -> nn.Module:
    """Cut the weights of each block, then those outside the blocks, into slices, in place.

    Linear layers hold nearly all weights, and autocast rounds them before it uses them. To round
    them before they travel halves the bytes and changes no number; norms and position tables
    travel in float32, and gradients are added up in float32.
    """
    for tensor in chain(model.parameters(), model.buffers()):
        distributed.broadcast(tensor.data, src=0)
    empty = copy.deepcopy(model).to("meta")
    model.__dict__[_NEW_WHOLE] = lambda: copy.deepcopy(empty).to_empty(device=device)
    # FSDP warns that a change in place of what a linear layer gives would go unnoticed. The models
    # make none: the gradients are compared with those of one process in test_parallel.py.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (world_size(),))
    blocks = getattr(model, "blocks", [])
    for block in blocks:
        linear_layers = [] if dtype is None else _linear_layers(block)
        if linear_layers:
            fully_shard(linear_layers, **_sharding(mesh, dtype))
        fully_shard(block, **_sharding(mesh, None))
    fully_shard(model, **_sharding(mesh, None))
    return model


def _sharding(mesh: DeviceMesh, dtype: torch.dtype | None) -> dict[str, Any]:
    # Autocast casts inputs: to cast them here would round the residual stream as well.
    policy = MixedPrecisionPolicy(
        param_dtype=dtype,
        reduce_dtype=None if dtype is None else torch.float32,
        cast_forward_inputs=False,
    )
    return {"mesh": mesh, "mp_policy": policy}


def _linear_layers(block: nn.Module) -> list[nn.Module]:
    inside = (layer for child in block.children() for layer in child.modules())
    return [layer for layer in inside if isinstance(layer, nn.Linear)]


STRATEGIES: dict[str, Callable[[nn.Module, torch.device, torch.dtype | None, bool], nn.Module]] = {
    "ddp": _wrap_ddp,
    "fsdp": _shard,
}


@contextlib.contextmanager
def gradients_stay_local(module: nn.Module) -> Iterator[None]:
    """Around forward and backward of every batch of a step but the last: nothing is exchanged.

    Gradients add up in each process until a backward pass outside of this context.
    """
    if isinstance(module, DistributedDataParallel):
        with module.no_sync():
            yield
    elif isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            module.set_requires_gradient_sync(True)
    else:
        yield


def evaluation_model(module: nn.Module, model: nn.Module) -> nn.Module:
    """What evaluation calls, with as many batches in each process as it happens to have.

    Args:
        module: from ``parallelise``.
        model: what was given to it.

    Returns:
        ``model``; under ``fsdp`` a whole copy with the weights of now, in float32, made by all
        processes together. It is to be dropped after use.
    """
    if not isinstance(module, FSDPModule):
        return model
    copied: nn.Module = module.__dict__[_NEW_WHOLE]()
    targets = copied.state_dict()
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            targets[name].copy_(whole(tensor))
        for target, buffer in zip(copied.buffers(), module.buffers(), strict=True):
            target.copy_(buffer)  # those too that no state dict holds
    return copied


def bare_model(module: nn.Module) -> nn.Module:
    """The model that ``parallelise`` wrapped, with its own names."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def whole(tensor: Tensor) -> Tensor:
    """The tensor that slices make up, in every process; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def total_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The L2 norm of all gradients together, (), the same in every process."""
    gradients = (p.grad for p in parameters if p.grad is not None)
    return whole(get_total_norm(gradients))


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """The weights as the bare model's ``state_dict()`` names and orders them, on the CPU.

    All processes call it together; only the main one gets them, one tensor gathered at a time. What
    was on the CPU and whole already is not copied.
    """
    gathered = {name: _on_main(tensor) for name, tensor in bare_model(module).state_dict().items()}
    return {name: tensor for name, tensor in gathered.items() if tensor is not None}


def whole_optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """``optimizer.state_dict()`` with whole tensors on the CPU; empty but in the main process."""
    packed = optimizer.state_dict()
    state = {
        index: {name: _on_main(value) for name, value in remembered.items()}
        for index, remembered in packed["state"].items()
    }
    return {"state": state, "param_groups": packed["param_groups"]} if is_main() else {}


def _on_main(value: Any) -> Any:
    """A value as rank 0 writes it to a file; None in the other processes."""
    if not isinstance(value, Tensor):
        return value if is_main() else None
    gathered = whole(value.detach())
    return gathered.cpu() if is_main() else None


def fill_module(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """``load_state_dict`` from whole tensors, whatever the strategy; each process takes its slices.

    Args:
        module: from ``parallelise``, or the model that was given to it; filled in place.
        state: whole tensors, in every process, as the bare model's ``state_dict`` names them.

    Raises:
        RuntimeError: names or shapes differ; names each of them, as torch does.
    """
    bare = bare_model(module)
    own = bare.state_dict()
    bare.load_state_dict({name: _sliced(tensor, own.get(name)) for name, tensor in state.items()})


def fill_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """``optimizer.load_state_dict`` from whole tensors, whatever the strategy.

    Args:
        optimizer: over the parameters of what ``parallelise`` gave; filled in place.
        state: what ``whole_optimizer_state`` gave in the main process, in every process.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    sliced = {
        index: {name: _sliced(value, parameters[index]) for name, value in remembered.items()}
        for index, remembered in state["state"].items()
    }
    optimizer.load_state_dict({"state": sliced, "param_groups": state["param_groups"]})


def _sliced(value: Any, like: Tensor | None) -> Any:
    """This process's slice of a whole tensor, if ``like`` is a slice of such a tensor."""
    if isinstance(value, DTensor) or not isinstance(value, Tensor):
        return value
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    # Every process has the whole tensor, so none needs to be sent.
    return distribute_tensor(
        value.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )
