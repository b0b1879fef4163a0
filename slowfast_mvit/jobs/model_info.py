"""Parameters, memory and FLOPs of a model, as PySlowFast logs them."""

from __future__ import annotations

import logging
from itertools import chain

import torch

from slowfast_mvit import builders
from slowfast_mvit.config import Config
from slowfast_mvit.models import MViT
from slowfast_mvit.models.flops import count_flops
from slowfast_mvit.runtime.distributed import is_main

logger = logging.getLogger(__name__)


def log_model_info(config: Config, model: MViT, *, crop_px: int) -> None:
    """Log the size of a model where ``LOG_MODEL_INFO`` asks for it, in PySlowFast's lines.

    Args:
        config: of the model.
        model: on any device.
        crop_px: side of a view, in pixels.
    """
    if not (config.log_model_info and is_main()):
        return
    with torch.device("meta"):
        plain = builders.build_model(config, attention="plain").eval()
    num_bytes = sum(tensor.nbytes for tensor in chain(model.parameters(), model.buffers()))
    logger.info("Model: MViT of %d blocks", len(model.blocks))
    logger.info("Params: %s", f"{sum(p.numel() for p in model.parameters()):,}")
    logger.info("Mem: %s MB", f"{num_bytes / 1024**2:,.1f}")
    flops = count_flops(plain, (config.data.num_frames, crop_px, crop_px))
    logger.info("Flops: %s G", f"{flops / 1e9:,.4f}")
