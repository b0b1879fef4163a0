"""One model on many processes: distribute the weights, and gather them.

    strategy   on each process          exchanged in each step
    ddp        all of the weights       gradients                         (DistributedDataParallel)
    fsdp       its slice of each        weights, block by block, and      (FSDP2, ``fully_shard``)
               weight, gradient and     slices of the gradients
               optimizer state

The names and the float32 values of weights are the same under both, and the mean over processes of
the gradients is the gradient of the mean loss. So checkpoints do not depend on the strategy:
``whole_state`` and ``whole_optimizer_state`` gather the content of a file in the main process;
``fill_module`` and ``fill_optimizer`` broadcast it from there.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from slowfast_mvit.errors import pick
from slowfast_mvit.runtime.distributed import is_main, on_main, world_size
from slowfast_mvit.runtime.precision import PRECISIONS
from slowfast_mvit.runtime.watchdog import waiting_for_ranks

# The attribute of a sharded model that creates an empty, whole one like it.
_NEW_WHOLE = "_new_whole_model"
_GATHER = StateDictOptions(full_state_dict=True, cpu_offload=True)

WRAPPERS = {"module", "_orig_mod", "_checkpoint_wrapped_module"}


@waiting_for_ranks()
def parallelise(
    model: nn.Module,
    *,
    strategy: str,
    device: torch.device,
    precision: str = "fp32",
    find_unused: bool = False,
) -> nn.Module:
    """Spread one model over all processes of the group; all start from rank 0's weights.

    Build the optimizer afterwards: ``fsdp`` replaces the parameters, names and order stay. A moving
    average of the weights has to be a copy made before; pass it to this function as well under
    ``fsdp``, so that it is cut into the same slices.

    Args:
        model: on ``device``, compiled already if it is to be (``ddp`` only).
        strategy: a name in ``STRATEGIES``.
        precision: of the forward pass, see ``runtime.precision``.
        find_unused: some parameters may get no gradient in a step; costs time.

    Returns:
        The module to call in training; ``model`` itself in a run of one process.

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
    # other layout; the models have no buffers to send around in each step.
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
    # FSDP warns that it would not notice a change in place of the output of a linear layer. The
    # models make none: the gradients are compared with those of one process in test_parallel.py.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (world_size(),))
    # Autocast casts inputs: to cast them here would round the residual stream as well.
    exact = MixedPrecisionPolicy(cast_forward_inputs=False)
    rounded = replace(exact, param_dtype=dtype, reduce_dtype=torch.float32)
    for block in getattr(model, "blocks", []):
        linear_layers: list[nn.Module] = [
            layer for layer in block.modules() if isinstance(layer, nn.Linear)
        ]
        if dtype is not None and linear_layers:
            fully_shard(linear_layers, mesh=mesh, mp_policy=rounded)
        fully_shard(block, mesh=mesh, mp_policy=exact)
    fully_shard(model, mesh=mesh, mp_policy=exact)
    return model


STRATEGIES = {"ddp": _wrap_ddp, "fsdp": _shard}


@contextlib.contextmanager
def gradients_stay_local(module: nn.Module) -> Iterator[None]:
    """Exchange no gradients inside: for every batch of a step but the last.

    Gradients add up in each process until a backward pass outside of this context.
    """
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            module.set_requires_gradient_sync(True)
    else:
        with contextlib.ExitStack() as stack:
            if isinstance(module, DistributedDataParallel):
                stack.enter_context(module.no_sync())
            yield


@waiting_for_ranks()
def evaluation_model(module: nn.Module, model: nn.Module) -> nn.Module:
    """Return the model to evaluate, whatever the number of batches of each process.

    Args:
        module: from ``parallelise``.
        model: the argument of ``parallelise``.

    Returns:
        ``model``; under ``fsdp`` a whole copy with the weights of now, in float32, made by all
        processes together. Drop it after use.
    """
    if not isinstance(module, FSDPModule):
        return model
    copied: nn.Module = module.__dict__[_NEW_WHOLE]()
    copied.load_state_dict({name: whole(tensor) for name, tensor in module.state_dict().items()})
    for target, buffer in zip(copied.buffers(), module.buffers(), strict=True):
        target.copy_(buffer)  # a state dict may leave some out
    return copied


def bare_model(module: nn.Module) -> nn.Module:
    """Return the model that ``parallelise`` wrapped, with its plain names."""
    wrappers = (DistributedDataParallel, nn.DataParallel)
    return module.module if isinstance(module, wrappers) else module


def whole(tensor: Tensor) -> Tensor:
    """Return the whole of a sliced tensor, in every process; any other value as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@waiting_for_ranks()
def total_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the L2 norm of all gradients together, (), the same in every process."""
    gradients = (p.grad for p in parameters if p.grad is not None)
    return whole(get_total_norm(gradients))


def plain_name(name: str) -> str:
    """Return a parameter's name without the prefixes of wrappers."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


@waiting_for_ranks()
def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """Gather the weights on the CPU, named and ordered as in the bare model's ``state_dict()``.

    All processes call it together; the result is empty except in the main process. A tensor that is
    whole and on the CPU is not copied.
    """
    state: dict[str, Any] = get_model_state_dict(bare_model(module), options=_GATHER)
    return state


@waiting_for_ranks()
def whole_optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """Gather ``optimizer.state_dict()`` on the CPU; empty except in the main process.

    All processes call it together.

    Args:
        optimizer: over the parameters of a model from ``parallelise``.
    """
    content = optimizer.state_dict()
    state = {
        index: {name: _gathered(value) for name, value in values.items()}
        for index, values in content["state"].items()
    }
    return {**content, "state": state} if is_main() else {}


def _gathered(value: Any) -> Any:
    value = whole(value)
    if not is_main():
        return None  # to save memory
    return value.cpu() if isinstance(value, Tensor) else value


@waiting_for_ranks()
def fill_module(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load the main process's whole tensors into each process's part of a model, in place.

    All processes call it together.

    Args:
        module: from ``parallelise``, or the argument of it.
        state: in the main process, tensors with plain names and the shapes of the model's; not read
            in the others.
    """
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=world_size() > 1)
    set_model_state_dict(bare_model(module), dict(state), options=options)


@waiting_for_ranks()
def fill_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Load what ``whole_optimizer_state`` returned, in place; the settings but ``lr`` stay.

    All processes call it together.

    Args:
        optimizer: over the parameters of a model from ``parallelise``.
        state: in the main process, what fits the optimizer; not read in the others.
    """
    parameters = [p.detach() for group in optimizer.param_groups for p in group["params"]]
    rates = on_main(lambda: [group["lr"] for group in state["param_groups"]])
    loaded = on_main(lambda: _without_tensors(state["state"]))
    for index, values in loaded.items():
        for name, value in values.items():
            if value is None:
                full = state["state"][index][name] if is_main() else None
                values[name] = _share(full, parameters[index])
    groups = optimizer.state_dict()["param_groups"]
    for group, lr in zip(groups, rates, strict=True):
        group["lr"] = lr  # a run that has finished saves it again
    optimizer.load_state_dict({"state": loaded, "param_groups": groups})


def _without_tensors(state: Mapping[int, Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return the small values of an optimizer's state, None for each tensor."""
    return {
        index: {
            name: None if isinstance(value, Tensor) and value.ndim else value
            for name, value in values.items()
            if value is not None
        }
        for index, values in state.items()
    }


def _share(full: Tensor | None, parameter: Tensor) -> Tensor:
    """Return the main process's tensor ``full``, cut into slices as ``parameter`` is."""
    share = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
    if full is not None:
        share.copy_(full)
    if isinstance(parameter, DTensor):
        return distribute_tensor(share, parameter.device_mesh, parameter.placements)
    if world_size() > 1:
        distributed.broadcast(share, src=0)
    return share
