"""The probability p of a network's pooling layers, as it changes in the course of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from empool.distributions import probability


@dataclass(frozen=True)
class Schedule:
    """How p changes: a function of the time alone. `str` spells it, and `parse` reads the spelling.

    Attributes:
        kind: "constant"; "warmup", from 0 to p along a line; "anneal", from p to another value along a line; "cosine".
        number: epochs of the warm-up, or the value at the end of the training; not used by "constant".
    """

    kind: str = "constant"
    number: float = 0.0

    def __str__(self) -> str:
        return self.kind if self.kind == "constant" else f"{self.kind}:{repr(self.number).removesuffix('.0')}"

    def value(self, p: float, epoch: float, epochs: float) -> float:
        """Give the probability that p has become after some of a training's epochs, a fraction of one included."""
        if self.kind == "constant":
            return p
        if self.kind == "warmup":
            return p * min(epoch / self.number, 1.0)
        if epochs <= 0:
            raise ValueError(f"p_schedule: {self} depends on the number of epochs (max_epochs), which is unknown")
        time = min(epoch / epochs, 1.0)
        share = time if self.kind == "anneal" else (1 - math.cos(math.pi * time)) / 2
        return (1 - share) * p + share * self.number


def parse(spelling: str) -> Schedule:
    """Read "constant", "warmup:EPOCHS", "anneal:FINAL" or "cosine:FINAL".

    Example:
        >>> parse("warmup:5").value(p=0.4, epoch=2.5, epochs=60)
        0.2
    """
    kind, _, text = spelling.strip().partition(":")
    if spelling.strip() == "constant":
        return Schedule()
    try:
        number = float(text if kind in ("warmup", "anneal", "cosine") else "")
    except ValueError:
        expected = "constant, warmup:EPOCHS, anneal:FINAL or cosine:FINAL"
        raise ValueError(f'p_schedule: expected {expected}, got "{spelling}"') from None
    if kind != "warmup":
        return Schedule(kind, probability("p_schedule", "FINAL", number))
    if not 0 < number < math.inf:
        raise ValueError(f'p_schedule: expected a warm-up of more than 0 epochs, got "{spelling}"')
    return Schedule(kind, number)
