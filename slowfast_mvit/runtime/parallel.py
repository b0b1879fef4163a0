"""One model on many processes: who holds which weights, and the whole of them when asked.

    strategy   each process holds       exchanged in each step
    ddp        all of the weights       gradients                         (DistributedDataParallel)
    fsdp       its slice of each        weights, block by block, and      (FSDP2, ``fully_shard``)
               weight, gradient and     slices of the gradients
               optimizer state

Weights keep their names and their float32 values under both, and the mean over processes of the
gradients is the gradient of the mean loss. So checkpoints do not depend on the strategy:
``whole_state`` and ``whole_optimizer_state`` gather what goes into a file, in the main process;
``fill_module`` and ``fill_optimizer`` broadcast it from there.
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
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from slowfast_mvit.errors import pick
from slowfast_mvit.runtime.distributed import from_main, is_main, world_size
from slowfast_mvit.runtime.precision import PRECISIONS

# Under this name a sharded model keeps what makes an empty, whole one like it.
_NEW_WHOLE = "_new_whole_model"
_GATHER = StateDictOptions(full_state_dict=True, cpu_offload=True)

WRAPPERS = {"module", "_orig_mod", "_checkpoint_wrapped_module"}


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
    """Return what evaluation calls, with as many batches in each process as it happens to have.

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
    weights: dict[str, Any] = get_model_state_dict(
        module, options=StateDictOptions(full_state_dict=True)
    )
    copied.load_state_dict(weights)
    for target, buffer in zip(copied.buffers(), module.buffers(), strict=True):
        target.copy_(buffer)  # those too that no state dict holds
    return copied


def bare_model(module: nn.Module) -> nn.Module:
    """The model that ``parallelise`` wrapped, with its own names."""
    wrappers = (DistributedDataParallel, nn.DataParallel)
    return module.module if isinstance(module, wrappers) else module


def whole(tensor: Tensor) -> Tensor:
    """The tensor that slices make up, in every process; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def total_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The L2 norm of all gradients together, (), the same in every process."""
    gradients = (p.grad for p in parameters if p.grad is not None)
    return whole(get_total_norm(gradients))


def plain_name(name: str) -> str:
    """A parameter's name without what DistributedDataParallel or torch.compile put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """Gather the weights on the CPU, named and ordered as in the bare model's ``state_dict()``.

    All processes call it together; the result is empty except in the main process. A tensor that is
    whole and on the CPU is not copied.
    """
    state: dict[str, Any] = get_model_state_dict(bare_model(module), options=_GATHER)
    return state


def whole_optimizer_state(module: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Gather ``optimizer.state_dict()`` on the CPU; empty except in the main process.

    All processes call it together.

    Args:
        module: from ``parallelise``.
        optimizer: over its parameters.
    """
    groups = optimizer.state_dict()["param_groups"]
    if not optimizer.state:  # PyTorch would take a step to have something to gather
        return {"state": {}, "param_groups": groups} if is_main() else {}
    named: Any = get_optimizer_state_dict(bare_model(module), optimizer, options=_GATHER)
    if not is_main():
        return {}
    names = [name for group in named["param_groups"] for name in group["params"]]
    indices = {name: index for index, name in enumerate(names)}
    state = {indices[name]: values for name, values in named["state"].items()}
    return {"state": state, "param_groups": groups}


def fill_module(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load the main process's whole tensors into each process's part of a model, in place.

    All processes call it together.

    Args:
        module: from ``parallelise``, or the model that was given to it.
        state: in the main process, tensors with plain names and the shapes of the model's; not read
            in the others.
    """
    set_model_state_dict(bare_model(module), dict(state), options=_broadcast())


def fill_optimizer(module: nn.Module, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Load what ``whole_optimizer_state`` returned, in place; the settings but ``lr`` stay.

    All processes call it together.

    Args:
        module: from ``parallelise``.
        optimizer: over its parameters.
        state: in the main process, what fits the optimizer; not read in the others.
    """
    groups = [dict(group) for group in optimizer.param_groups]
    parameters = [p for group in groups for p in group["params"]]
    described, rates = from_main(_described(state) if is_main() else ({}, []))

    # PyTorch fills what an optimizer holds already. Where it holds nothing, PyTorch would take a
    # step first, which leaves a state also for parameters that have none in the file.
    optimizer.state.clear()
    for index, values in described.items():
        like = parameters[index].detach()
        optimizer.state[parameters[index]] = {
            name: torch.zeros_like(like) if value is None else value
            for name, value in values.items()
        }
    if any(value is None for values in described.values() for value in values.values()):
        bare = bare_model(module)
        named = _with_names(bare, groups, state["state"]) if is_main() else {}
        set_optimizer_state_dict(bare, optimizer, named, options=_broadcast())
    for group, own, lr in zip(optimizer.param_groups, groups, rates, strict=True):
        # PyTorch has made lists of tuples. A run that is at its end saves the last rate again.
        group.update(own, lr=lr)


def _described(state: Mapping[str, Any]) -> tuple[dict[int, dict[str, Any]], list[float]]:
    """The small values of an optimizer's state, None for each tensor, and the learning rates."""
    described = {
        index: {
            name: None if isinstance(value, Tensor) and value.ndim else value
            for name, value in values.items()
            if value is not None
        }
        for index, values in state["state"].items()
    }
    return described, [group["lr"] for group in state["param_groups"]]


def _with_names(
    model: nn.Module, groups: list[dict[str, Any]], state: Mapping[int, Any]
) -> dict[str, Any]:
    """An optimizer's state by the names of parameters, as PyTorch wants it."""
    names = {parameter: plain_name(name) for name, parameter in model.named_parameters()}
    named_groups = [{"params": [names[p] for p in group["params"]]} for group in groups]
    in_order = [name for group in named_groups for name in group["params"]]
    return {
        "state": {name: state.get(index, {}) for index, name in enumerate(in_order)},
        "param_groups": named_groups,
    }


def _broadcast() -> StateDictOptions:
    return StateDictOptions(full_state_dict=True, broadcast_from_rank0=world_size() > 1)
