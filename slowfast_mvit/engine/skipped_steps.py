"""Steps skipped because a loss or gradient was not finite: reported, and a run stopped by many."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from slowfast_mvit.errors import UserError

logger = logging.getLogger(__name__)


@dataclass
class SkippedSteps:
    """The number of skipped steps of a run, without those that a float16 loss scaler skipped."""

    num: int = 0

    def add(self, step: str, limit: int) -> None:
        """Count a step, and log a warning.

        Args:
            step: its epoch and number, loss and gradient, ranks and videos, as text.
            limit: ``TRAIN.MAX_SKIPPED_STEPS``.

        Raises:
            UserError: it is one more than the limit.
        """
        self.num += 1
        if self.num > limit:
            raise UserError(
                f"training diverged in {step}. This is skipped step number {self.num}, and "
                f"TRAIN.MAX_SKIPPED_STEPS is {limit}; no checkpoint was written since. Lower "
                "SOLVER.BASE_LR, lengthen SOLVER.WARMUP_EPOCHS, set SOLVER.CLIP_GRAD_L2NORM, look "
                "at those videos, or raise TRAIN.MAX_SKIPPED_STEPS"
            )
        logger.warning(
            "%s. Not finite, so this step was skipped on all ranks: %d of the %d that "
            "TRAIN.MAX_SKIPPED_STEPS allows",
            step,
            self.num,
            limit,
        )
