"""How good predictions are: errors, negative log-likelihood and calibration, counted without a wait for the device."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from empool.lab.train.processes import Processes

ECE_BINS = 15  # of equal width in [0, 1]


class Scores(NamedTuple):
    """What `Tally` counted."""

    nll: float  # mean negative log-likelihood of the true classes (cross entropy), in nats
    error: float  # percentage of images whose largest probability is not that of their class
    # Expected calibration error, in percent: how far the largest probability is from the share of right answers, on
    # average over 15 bins of that probability; NaN where `nll` is not finite.
    ece: float
    top5_error: float | None  # percentage; None with five classes or fewer


class Tally:
    """Sum scores up batch by batch, on their device, which is waited for once, in `scores`.

    Source: the calibration error is that of Naeini et al., AAAI 2015, and Guo et al., arXiv 1706.04599, section 2.

    Example:
        >>> import torch
        >>> tally = Tally(2, "cpu")
        >>> tally.add_probabilities(torch.tensor([[0.9, 0.1], [0.9, 0.1]]), torch.tensor([0, 1]))
        >>> nll, error, ece, _ = tally.scores()
        >>> round(nll, 4), error, round(ece, 4)  # half right, at a confidence of 90 %
        (1.204, 50.0, 40.0)
    """

    def __init__(self, num_classes: int, device: torch.device | str) -> None:
        # negative log-likelihood, errors, errors of the best five
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)
        self.num_classes = num_classes
        self.images = 0
        self.confidences: list[Tensor] = []  # of the predicted classes
        self.rights: list[Tensor] = []  # whether each image was predicted rightly

    def add_logits(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch of logits ``(N, num_classes)`` with its labels ``(N,)``."""
        self._add(F.cross_entropy(logits, labels, reduction="sum"), logits, logits.softmax(1), labels)

    def add_probabilities(self, probs: Tensor, labels: Tensor) -> None:
        """Count a batch of probabilities ``(N, num_classes)``; one that underflowed to 0 counts as the least number."""
        logs = probs.clamp_min(torch.finfo(probs.dtype).tiny).log()
        self._add(F.nll_loss(logs, labels, reduction="sum"), probs, probs, labels)

    def scores(self) -> Scores:
        """Give the scores of all images so far, one or more."""
        _, sums, hits = self._bins()
        gaps = (sums - hits).abs().sum()
        nll, errors, errors_of_5, ece = (torch.cat((self.sums, gaps[None])) / self.images).tolist()
        # A confidence of NaN falls into no bin, and would count as nothing.
        ece = 100 * ece if math.isfinite(nll) else math.nan
        return Scores(nll, 100 * errors, ece, 100 * errors_of_5 if self.num_classes > 5 else None)

    def reliability(self) -> dict[str, list[Any]] | None:
        """Give the bins of the calibration error, which a reliability diagram shows; None if a confidence is no number.

        Lists with an item a bin: "confidence", the mean probability of the predicted class, and "accuracy", the share
        of right answers, both None in an empty bin; "count", its images.
        """
        if not bool(torch.cat(self.confidences).isfinite().all()):
            return None
        count, sums, hits = (bins.tolist() for bins in self._bins())

        def means(of: list[float]) -> list[float | None]:
            return [round(total / images, 6) if images else None for total, images in zip(of, count, strict=True)]

        return {"confidence": means(sums), "accuracy": means(hits), "count": count}

    def _bins(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sum images, confidences and right answers up in each bin."""
        confidences, right = torch.cat(self.confidences).double(), torch.cat(self.rights).double()
        edges = torch.linspace(0, 1, ECE_BINS + 1, dtype=torch.float64, device=confidences.device)
        bins = torch.bucketize(confidences, edges[1:-1], right=True)
        count, *sums = (torch.bincount(bins, weights, ECE_BINS) for weights in (None, confidences, right))
        return count, sums[0], sums[1]

    def add_up(self, together: Processes) -> None:
        """Take in what the other processes counted, each of every `together.count`-th image."""
        if together.count == 1:
            return
        counted = torch.tensor(self.images, device=self.sums.device)
        together.add_up(self.sums)
        together.add_up(counted)
        self.images = int(counted)
        for parts in (self.confidences, self.rights):
            whole = torch.zeros(self.images, device=self.sums.device)
            if parts:
                whole[together.rank :: together.count] = torch.cat(parts).float()
            together.add_up(whole)
            parts[:] = [whole if parts is self.confidences else whole.bool()]

    def _add(self, nll: Tensor, ranked: Tensor, probs: Tensor, labels: Tensor) -> None:
        missed = (ranked.topk(min(5, self.num_classes), dim=1).indices != labels[:, None]).all(1)
        right = ranked.argmax(1) == labels
        self.sums += torch.stack((nll, (~right).sum(), missed.sum()))
        self.images += len(labels)
        self.confidences.append(probs.max(1).values)
        self.rights.append(right)
