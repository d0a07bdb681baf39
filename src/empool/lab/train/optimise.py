"""What a step does to the weights: SGD with Nesterov momentum, by the recipe's rates; Lookahead where it has it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from empool.models import Recipe


class Optimiser:
    """SGD on a network's parameters by a recipe; every rate is a function of the step alone.

    A recipe may have more than `Recipe` says: ``groups(network)``, the parameter groups of `torch.optim.SGD`, each with
    a highest rate of its own, of which ``factor(step, steps)`` is the share; ``lookahead``, steps between two updates
    of slow weights, and ``slow_share(step, steps)``, what these keep of themselves.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, steps_an_epoch: int) -> None:
        self.network, self.steps, self.total = network, steps_an_epoch, recipe.epochs * steps_an_epoch
        self.recipe: Any = recipe  # with what else it may have
        every = {"params": list(network.parameters()), "lr": recipe.rate(0), "weight_decay": recipe.weight_decay}
        groups = self.recipe.groups(network) if hasattr(self.recipe, "groups") else [every]
        self.highest = [group["lr"] for group in groups]
        self.sgd = torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
        self.lookahead: int = getattr(recipe, "lookahead", 0)
        self.slow: list[Tensor] = []
        # Before a recipe freezes others for a while: these are never trained, nor averaged.
        self.frozen = {name for name, value in network.named_parameters() if not value.requires_grad}

    def start(self) -> None:
        """Take the weights as they are for the slow ones."""
        self.slow = [value.clone() for value in self._averaged()] if self.lookahead else []

    def set_rate(self, step: int) -> None:
        """Set the rates of a step, counted from 0 over all epochs."""
        epoch = step // self.steps + step % self.steps / self.steps
        factor = getattr(self.recipe, "factor", None)
        for group, highest in zip(self.sgd.param_groups, self.highest, strict=True):
            group["lr"] = highest * factor(step, self.total) if factor else self.recipe.rate(epoch)

    def step(self, step: int) -> None:
        """Do a step from the gradients that there are."""
        self.sgd.step()
        done = step + 1
        if self.lookahead and done % self.lookahead == 0:
            self._look_ahead(self.recipe.slow_share(done, self.total))
        if self.lookahead and done == self.total:
            self._look_ahead(1.0)

    def state_dict(self) -> dict[str, Any]:
        """Give what a checkpoint keeps."""
        return {"sgd": self.sgd.state_dict(), "slow": self.slow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.sgd.load_state_dict(state["sgd"])
        for mine, kept in zip(self.slow, state["slow"], strict=True):
            mine.copy_(kept)

    def _averaged(self) -> list[Tensor]:
        state = self.network.state_dict(keep_vars=True)
        return [value.data for name, value in state.items() if value.is_floating_point() and name not in self.frozen]

    @torch.no_grad()
    def _look_ahead(self, share: float) -> None:
        """Move the slow weights to the fast ones but for a share, and take them over."""
        fast = self._averaged()
        torch._foreach_lerp_(self.slow, fast, 1 - share)
        torch._foreach_copy_(fast, self.slow)
