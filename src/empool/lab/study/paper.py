"""The tables of Zhang and Wu (2017): their figures, to stand beside ours, and how each is made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from empool.models import NONE

SOURCE = "Zhang and Wu, J. USTC 47(10), 2017 (slides of 2017-11-24)"


class Figure(NamedTuple):
    """One row of a table of the paper, as printed there."""

    error: float | None  # test error in percent; None where the paper says "not converged"
    improvement: float | None  # relative to the table's baseline, in percent


NOT_CONVERGED = Figure(None, None)

# Table 1: CIFAR-10, one plain CNN, relative to max. The paper counts max-pooling dropout and stochastic max-pooling as
# one method, which is here max-dropout. Its improvements at p = 0.3 and 0.4 (-6.96 and -67.18) do not follow from its
# errors and the 15.25 of max (-8.79 and -70.03 would); they follow from the 15.51 of ensemble:0.05.
TABLE_1: Mapping[str, Figure] = {
    "max": Figure(15.25, 0.00),
    "average": Figure(16.20, -6.23),
    "ensemble:0.05": Figure(15.51, -1.70),
    "ensemble:0.1": Figure(15.14, 0.72),
    "ensemble:0.2": Figure(15.07, 1.18),
    "ensemble:0.3": Figure(14.28, 6.36),
    "ensemble:0.4": Figure(14.27, 6.43),
    "ensemble:0.5": Figure(14.62, 4.13),
    "ensemble:0.7": Figure(14.89, 2.36),
    "stochastic": Figure(15.81, -3.67),
    "max-dropout:0.05": Figure(15.22, 0.20),
    "max-dropout:0.1": Figure(15.17, 0.52),
    "max-dropout:0.2": Figure(14.97, 1.84),
    "max-dropout:0.3": Figure(16.59, -6.96),
    "max-dropout:0.4": Figure(25.93, -67.18),
    "max-dropout:0.5": NOT_CONVERGED,
    "max-dropout:0.7": NOT_CONVERGED,
}

# Table 2: CIFAR-10, relative to DFN-MR without pooling; by model and pooling ("none": the network as published).
TABLE_2: Mapping[tuple[str, str], Figure] = {
    ("dfn_mr:56", NONE): Figure(5.50, 0.00),
    ("dfn_mr:56", "max"): Figure(5.44, 1.14),
    ("dfn_mr:56", "ensemble:0.05"): Figure(5.13, 6.82),
    ("dfn_mr:56", "ensemble:0.1"): Figure(4.62, 16.00),
    ("dfn_mr:56", "ensemble:0.2"): Figure(5.06, 7.95),
    ("dfn_mr:56", "ensemble:0.5"): Figure(4.69, 14.77),
    ("resnet:110", NONE): Figure(6.61, -20.19),
    ("preact_resnet:164", NONE): Figure(5.46, 0.72),
    ("preact_resnet:1001", NONE): Figure(4.62, 16.00),
    ("stochastic_depth:110", NONE): Figure(5.23, 4.91),
    ("stochastic_depth:1202", NONE): Figure(4.91, 10.73),
}


class Claim(NamedTuple):
    """What the paper's figures say of some poolings."""

    said: str  # a sentence without its full stop
    of: tuple[str, ...]  # the poolings that it is about, together
    than: tuple[str, ...] = ()  # what they are compared with; empty where the claim is that they do not converge
    lower: bool = True  # whether their error is said to be lower than that of `than`, rather than higher


def _each(method: str, *numbers: float) -> tuple[str, ...]:
    return tuple(f"{method}:{number}" for number in numbers)


_MAX, _emp, _dropout = ("max",), partial(_each, "ensemble"), partial(_each, "max-dropout")
CLAIMS_1 = (
    Claim("Ensemble max-pooling with p of 0.1 or more beats max", _emp(0.1, 0.2, 0.3, 0.4, 0.5, 0.7), _MAX),
    Claim("Ensemble max-pooling with p = 0.05 is worse than max", _emp(0.05), _MAX, lower=False),
    Claim("Ensemble max-pooling with p = 0.3 and 0.4 beats that with smaller p", _emp(0.3, 0.4), _emp(0.05, 0.1, 0.2)),
    Claim("Ensemble max-pooling with p = 0.3 and 0.4 beats that with larger p", _emp(0.3, 0.4), _emp(0.5, 0.7)),
    Claim("Max-pooling dropout with p = 0.2 beats max", _dropout(0.2), _MAX),
    Claim("Max-pooling dropout with p = 0.3 and 0.4 is worse than max", _dropout(0.3, 0.4), _MAX, lower=False),
    Claim("Max-pooling dropout with p = 0.5 and 0.7 does not converge", _dropout(0.5, 0.7)),
    Claim("Ensemble max-pooling at its best p beats max-pooling dropout at its best", _emp(0.4), _dropout(0.2)),
    Claim("Average pooling is worse than max", ("average",), _MAX, lower=False),
    Claim("Stochastic pooling is worse than max", ("stochastic",), _MAX, lower=False),
)
CLAIMS_2 = (
    Claim("Max-pooling before the convolutions beats strides in them", _MAX, (NONE,)),
    Claim("Ensemble max-pooling with p = 0.1 beats strides", _emp(0.1), (NONE,)),
    Claim("Ensemble max-pooling with p = 0.1 beats max", _emp(0.1), _MAX),
    Claim("Ensemble max-pooling with p = 0.1 beats that with other p", _emp(0.1), _emp(0.05, 0.2, 0.5)),
)


@dataclass(frozen=True)
class Table:
    """The rows of one of the paper's tables that belong to one network, and what may stand beside them."""

    name: str  # in the paper
    baseline: str  # what its improvements are relative to
    rows: Mapping[str, Figure]  # the printed figures by pooling spelling, in the paper's order
    claims: tuple[Claim, ...]  # what they say, in the paper's words or by its figures
    train_images: int  # the fewest with which a study is of its kind
    test_images: int  # likewise
    epochs: int  # likewise


CLASSES, IMAGE_SHAPE = 10, (3, 32, 32)  # of CIFAR-10, with which both tables are made


def of(model: str) -> Table | None:
    """Return the paper's table for a network, or None where it has none; DFN-MR of any depth has that of 56 layers."""
    if model == "cnn":
        return Table("Table 1", "max", TABLE_1, CLAIMS_1, train_images=10_000, test_images=10_000, epochs=20)
    printed = "dfn_mr:56" if model.startswith("dfn_mr:") else model
    rows = {pooling: figure for (name, pooling), figure in TABLE_2.items() if name == printed}
    if not rows:
        return None
    claims = CLAIMS_2 if printed == "dfn_mr:56" else ()
    name = "Table 2" if printed == model else "Table 2, of DFN-MR with 56 layers"
    return Table(name, "DFN-MR without pooling", rows, claims, train_images=5_000, test_images=2_000, epochs=12)


class Part(NamedTuple):
    """One network of a table."""

    model: str
    poolings: tuple[str, ...]  # with which it is trained; the first ones are what the others are compared with


class Protocol(NamedTuple):
    """How a table's networks are trained."""

    summary: str  # what to know about it, in a few words
    parts: tuple[Part, ...]
    changes: Mapping[str, Any] = {}  # to recipes and data, as `execute.options.Options` names it


# The last two are poolings of the paper's text that its Table 1 lacks.
_TABLE_1 = (Part("cnn", (*TABLE_1, "stochastic-max:0.5", "ordinal:0.6,0.3,0.1")),)
_DFN_MR_POOLINGS = tuple(pooling for model, pooling in TABLE_2 if model == "dfn_mr:56")
_DFN_MR = Part("dfn_mr:56", _DFN_MR_POOLINGS)
_PLAIN = tuple(Part(model, (NONE,)) for model in ("resnet:110", "preact_resnet:164", "stochastic_depth:110"))

TABLES: Mapping[str, Mapping[str, Protocol]] = {
    "table1": {
        "full": Protocol("all images, crop and mirror, the recipe of the network", _TABLE_1),
        "full-plain": Protocol("all images, no augmentation, the recipe of the network", _TABLE_1, {"augment": "none"}),
        # With augmentation the network underfits these images, and nothing is left to regularise.
        "cpu": Protocol(
            "10,000 training images, no augmentation, 20 epochs, 32 maps a convolution",
            _TABLE_1,
            {"train_limit": 10_000, "epochs": 20, "augment": "none", "recipe": ["width=32"]},
        ),
    },
    "table2": {
        "full": Protocol("all images, crop and mirror, the recipe of each network", (_DFN_MR, *_PLAIN)),
        # 20 layers overfit. 56 layers, trained as long (ten epochs of 2,000 images), are wrong on two thirds of the
        # training images.
        "cpu": Protocol(
            "DFN-MR alone, with 20 layers: 5,000 training images, no augmentation, 12 epochs, 2,000 test images",
            (Part("dfn_mr:20", _DFN_MR_POOLINGS),),
            {
                "train_limit": 5_000,
                "test_limit": 2_000,
                "epochs": 12,
                "augment": "none",
                "recipe": ["learning_rate=0.03", "schedule=cosine", "warmup=1"],
            },
        ),
    },
}
"""By the table's name and the protocol's. The networks of 1001 and 1202 layers are left to `empool compare`."""
