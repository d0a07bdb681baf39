"""Error, negative log-likelihood and calibration error, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from empool.lab.train.metrics import Tally

# Two predictions at 90 %, one of them right, and two at 65 %, both right.
PROBS = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.65, 0.35], [0.35, 0.65]])
LABELS = torch.tensor([0, 0, 0, 1])
NLL = -(math.log(0.9) + math.log(0.1) + 2 * math.log(0.65)) / 4
ERROR = 25.0
ECE = 100 * (abs(0.5 - 0.9) / 2 + abs(1.0 - 0.65) / 2)


@pytest.mark.parametrize("cuts", [[4], [1, 3], [1, 1, 1, 1]], ids=str)
def test_scores_by_hand_however_the_images_are_batched(cuts):
    tally, meta = Tally(2, "cpu"), Tally(2, "meta")
    for probs, labels in zip(PROBS.split(cuts), LABELS.split(cuts), strict=True):
        tally.add_logits(probs.log() + 7, labels)
        tally.add_probabilities(probs, labels)
        meta.add_logits(probs.to("meta"), labels.to("meta"))  # A device that can't be waited for: reading is an error.
    assert tally.scores()[:3] == pytest.approx((NLL, ERROR, ECE), rel=1e-6)


SURE = math.e / (math.e + 1)


@pytest.mark.parametrize(
    ("form", "values", "labels", "scores"),
    [
        ("logits", [[1.0, 0.0]], [0], (-math.log(SURE), 0, 100 * (1 - SURE))),  # They look like probabilities.
        ("logits", [[100.0, -100.0]], [0], (0, 0, 0)),
        # A confidence of 40 %, right half of the time.
        ("probabilities", 4 * [[0.4, 0.2, 0.2, 0.2]], [0, 0, 1, 2], (-math.log(0.4 * 0.2) / 2, 50, 10)),
        # A probability of 0 is not infinitely bad.
        ("probabilities", [[1.0, 0.0]], [1], (-math.log(torch.finfo(torch.float32).tiny), 100, 100)),
        # Predictions of NaN have no calibration.
        ("logits", [[math.nan, math.nan], [1.0, 0.0]], [1, 0], (math.nan, 50, math.nan)),
    ],
)
def test_scores_at_the_edges(form, values, labels, scores):
    tally = Tally(len(values[0]), "cpu")
    getattr(tally, f"add_{form}")(torch.tensor(values), torch.tensor(labels))
    assert tally.scores()[:3] == pytest.approx(scores, rel=1e-5, nan_ok=True)
    assert (tally.reliability() is None) == math.isnan(scores[0])


def test_the_bins_are_those_of_the_calibration_error():
    tally = Tally(2, "cpu")
    tally.add_probabilities(PROBS, LABELS)
    tally.add_probabilities(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))  # The last bin holds a probability of 1.
    bins = tally.reliability()
    assert bins["count"] == [0] * 9 + [2] + [0] * 3 + [2, 1]
    assert [bins["confidence"][i] for i in (0, 9, 13, 14)] == [None, 0.65, 0.9, 1.0]
    assert [bins["accuracy"][i] for i in (0, 9, 13, 14)] == [None, 1.0, 0.5, 1.0]
    filled = [i for i in range(15) if bins["count"][i]]
    ece = sum(bins["count"][i] * abs(bins["accuracy"][i] - bins["confidence"][i]) for i in filled) / 5
    assert 100 * ece == pytest.approx(tally.scores().ece, rel=1e-5)


def test_the_class_is_among_the_best_five_or_not():
    logits = torch.arange(7.0).expand(3, 7)
    for labels, error in (([6, 2, 2], 0), ([0, 6, 1], 200 / 3), ([1, 0, 1], 100)):
        tally = Tally(7, "cpu")
        tally.add_logits(logits, torch.tensor(labels))
        assert tally.scores().top5_error == pytest.approx(error)
    few = Tally(5, "cpu")
    few.add_logits(logits[:, :5], torch.tensor([0, 1, 2]))
    assert few.scores().top5_error is None
