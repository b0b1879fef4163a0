"""RandAugment (https://arxiv.org/abs/1909.13719): specifications and draws.

A specification such as ``rand-m7-n4-mstd0.5-inc1`` means: 4 operations, drawn for each clip with
repeats; each is applied with probability 1/2, at a strength drawn around 7 of 10 with standard
deviation 0.5; ``inc``: strength grows with the number for every operation. With ``w0``, the
operations are drawn without repeats and the geometric ones more often.

The pixel arithmetic is in ``operations``; ``exact`` and ``fused`` apply it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

from slowfast_mvit.data.views.operations import Step
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.randomness import Draws, whole_number

MAX_LEVEL = 10.0

_APPLY_PROB = 0.5


@dataclass(frozen=True)
class RandAugment:
    """A parsed specification; see the top of this file.

    Args:
        num_ops: operations drawn for a clip.
        magnitude: mean strength, 0 to 10.
        magnitude_std: standard deviation of the strength.
        increasing: whether every operation grows with its strength; if not, posterize, solarize
            and the enhancements keep the older scales.
        weighted: whether operations are drawn by their weights and without repeats.
    """

    num_ops: int = 2
    magnitude: float = MAX_LEVEL
    magnitude_std: float = 0.0
    increasing: bool = False
    weighted: bool = False

    def draw(self, rng: Draws) -> tuple[Step, ...]:
        """Draw the operations for a clip, in order."""
        steps = []
        for name in self._draw_names(rng):
            if rng.random() < _APPLY_PROB:
                strength = float(rng.normal(self.magnitude, self.magnitude_std))
                level = min(max(strength, 0.0), MAX_LEVEL) / MAX_LEVEL
                steps.append(Step(name, OPERATIONS[name][0](level, self.increasing, rng)))
        return tuple(steps)

    def _draw_names(self, rng: Draws) -> list[str]:
        names = list(OPERATIONS)
        if self.weighted:
            weights = [weight / 1000 for _, weight in OPERATIONS.values()]
            numbers = rng.choice(len(names), self.num_ops, replace=False, p=weights)
            return [names[number] for number in numbers]
        return [names[whole_number(rng, 0, len(names))] for _ in range(self.num_ops)]


@functools.cache
def parse_randaugment(spec: str) -> RandAugment:
    """Read a specification in PySlowFast's form.

    Raises:
        ConfigError: when it is not one, or cannot be met.
    """
    found = re.findall(r"-(m|n|mstd|inc|w)(\d+(?:\.\d+)?)", spec)
    settings = dict(found)
    written = "rand" + "".join(f"-{key}{value}" for key, value in found)
    num_ops, table = settings.get("n", "2"), settings.get("w", "0")
    if written != spec or len(settings) < len(found) or "." in num_ops + table:
        raise ConfigError(
            f"AUG.AA_TYPE {spec!r} cannot be read. Write it like rand-m7-n4-mstd0.5-inc1: "
            "m strength (0 to 10), n operations, mstd spread of the strength, inc1 increasing, "
            "w0 weighted choice"
        )
    magnitude = float(settings.get("m", MAX_LEVEL))
    if magnitude > MAX_LEVEL:
        raise ConfigError(f"AUG.AA_TYPE {spec!r}: the strength m must be from 0 to 10")
    if int(table) > 0:
        raise ConfigError(f"AUG.AA_TYPE {spec!r}: there is one table of weights, w0")
    num_weighted = sum(weight > 0 for _, weight in OPERATIONS.values())
    if "w" in settings and int(num_ops) > num_weighted:
        raise ConfigError(
            f"AUG.AA_TYPE {spec!r}: w0 draws without repeats, from {num_weighted} operations; "
            f"n must be at most {num_weighted}"
        )
    return RandAugment(
        num_ops=int(num_ops),
        magnitude=magnitude,
        magnitude_std=float(settings.get("mstd", 0.0)),
        increasing="inc" in settings,  # PySlowFast takes inc0 for true, too
        weighted="w" in settings,
    )


# From a level (0 to 1) to the argument of an operation

Argument = Callable[[float, bool, Draws], float]


def _none(level: float, increasing: bool, rng: Draws) -> float:
    return 0.0


def _signed(greatest: float) -> Argument:
    return lambda level, increasing, rng: _either_sign(level * greatest, rng)


def _either_sign(value: float, rng: Draws) -> float:
    return -value if rng.random() > 0.5 else value


def _num_bits(level: float, increasing: bool, rng: Draws) -> float:
    bits = int(level * 4)
    return 4 - bits if increasing else bits


def _threshold(level: float, increasing: bool, rng: Draws) -> float:
    threshold = int(level * 256)
    return 256 - threshold if increasing else threshold


def _factor(level: float, increasing: bool, rng: Draws) -> float:
    return 1.0 + _either_sign(level * 0.9, rng) if increasing else level * 1.8 + 0.1


# The operations, in the order that the draws number them: the argument, and the weight of "w0", in
# thousandths.
OPERATIONS: dict[str, tuple[Argument, int]] = {
    "AutoContrast": (_none, 25),
    "Equalize": (_none, 5),
    "Invert": (_none, 0),
    "Rotate": (_signed(30.0), 300),  # degrees
    "Posterize": (_num_bits, 0),
    "Solarize": (_threshold, 5),
    "SolarizeAdd": (lambda level, increasing, rng: int(level * 110), 5),
    "Color": (_factor, 25),
    "Contrast": (_factor, 5),
    "Brightness": (_factor, 5),
    "Sharpness": (_factor, 25),
    "ShearX": (_signed(0.3), 200),
    "ShearY": (_signed(0.3), 200),
    "TranslateXRel": (_signed(0.45), 100),  # of the width
    "TranslateYRel": (_signed(0.45), 100),  # of the height
}
