"""What a step does to the weights: SGD with Nesterov momentum, by the recipe's rates; Lookahead where it has it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from empool.models import Recipe


class Optimiser:
    """SGD on a network's parameters by a recipe; every rate is a function of the step alone.

    A recipe may have more than `Recipe` says: ``groups(network)``, the parameter groups of `torch.optim.SGD`, each with
    a highest rate of its own, of which ``factor(step, steps)`` is the share; ``label_smoothing``; ``reduction``, "sum"
    in place of "mean", of the loss over a batch; ``lookahead``, steps between two updates of slow weights, and
    ``slow_share(step, steps)``, what these keep of themselves; ``begin_epoch(network, epoch)``.

    Args:
        network: on its device.
        recipe: of the run.
        steps: an epoch.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, steps: int) -> None:
        self.network, self.steps, self.total = network, steps, recipe.epochs * steps
        self.recipe: Any = recipe  # with what else it may have
        groups: list[dict[str, Any]]
        groups = [{"params": list(network.parameters()), "lr": recipe.rate(0), "weight_decay": recipe.weight_decay}]
        if hasattr(self.recipe, "groups"):
            groups = self.recipe.groups(network)
        self.highest = [group["lr"] for group in groups]
        self.sgd = torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
        self.lookahead: int = getattr(recipe, "lookahead", 0)
        self.slow: list[Tensor] = []
        # Before a recipe freezes others for a while: these are never trained, nor averaged.
        self.frozen = {name for name, value in network.named_parameters() if not value.requires_grad}
        self.smoothing: float = getattr(recipe, "label_smoothing", 0.0)
        self.reduction: str = getattr(recipe, "reduction", "mean")

    @property
    def rate(self) -> float:
        """The learning rate of the last group, which most parameters are in."""
        return float(self.sgd.param_groups[-1]["lr"])

    def start(self) -> None:
        """Take the weights as they are for the slow ones."""
        self.slow = [value.clone() for value in self._averaged()] if self.lookahead else []

    def begin_epoch(self, epoch: int) -> None:
        """Let the recipe choose what is trained."""
        if hasattr(self.recipe, "begin_epoch"):
            self.recipe.begin_epoch(self.network, epoch)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss that is descended, as the recipe reduces it over the batch."""
        return F.cross_entropy(logits, labels, label_smoothing=self.smoothing, reduction=self.reduction)

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
        """Go on from what `state_dict` gave, or from the state of SGD alone."""
        self.sgd.load_state_dict(state.get("sgd", state))
        for mine, kept in zip(self.slow, state.get("slow", []), strict=False):
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
