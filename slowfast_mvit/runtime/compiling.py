"""``torch.compile`` for training: one graph of the whole model, on GPUs."""

from __future__ import annotations

import logging

import torch
from torch import nn

from slowfast_mvit.errors import UserError

logger = logging.getLogger(__name__)


def compile_where_it_helps(model: nn.Module) -> None:
    """Compile on a GPU; on a CPU log a warning that the model runs uncompiled.

    Raises:
        UserError: this machine has no working compiler.
    """
    device = next(model.parameters()).device
    if device.type != "cpu":
        compile_model(model)
        return
    logger.warning(
        "MODEL.COMPILE True: not on a CPU, where a compiled model is no faster. A training step of "
        "S took 6.6 s of one core instead of 6.5, after a minute of compiling (torch 2.14). The "
        "model runs uncompiled; MODEL.COMPILE False asks for that"
    )


def compile_model(model: nn.Module, *, backend: str = "inductor") -> None:
    """Compile the model when it is first called, in place; names do not change.

    Training is one graph, evaluation another; each is compiled once more when the batch size
    changes, then for all sizes. Compiled block by block S would have 16 graphs in training, as each
    has another drop rate, and 7 in evaluation.

    Args:
        model: not wrapped by ``parallelise`` yet, on its device.
        backend: of ``torch.compile``.

    Raises:
        UserError: this machine has no working compiler.
    """
    device = next(model.parameters()).device
    trial = torch.compile(lambda numbers: numbers + 1, backend=backend)
    try:
        trial(torch.zeros(1, device=device))
    except Exception as error:  # a compiler that is missing or broken fails in many ways
        cause = getattr(error, "inner_exception", error)
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0][:200]
        raise UserError(
            f"MODEL.COMPILE True: torch.compile does not work on this machine for {device.type} "
            f"({reason}). Install a C++ compiler (g++) and Python's headers, for a GPU triton "
            "too; or set MODEL.COMPILE False"
        ) from error
    model.compile(backend=backend)
