"""The tables of Zhang and Wu (2017) as studies: which networks, which poolings, and by which protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from empool.lab.study import paper
from empool.models import NONE


class Part(NamedTuple):
    """One network of a table."""

    model: str
    poolings: tuple[str, ...]  # with which it is trained; the first ones are what the others are compared with


class Protocol(NamedTuple):
    """How a table's networks are trained."""

    summary: str  # what to know about it, in a few words
    parts: tuple[Part, ...]
    changes: Mapping[str, Any] = {}  # to recipes and data, as `execute.configure.Options` names it


# The last two are poolings of the paper's text that its Table 1 lacks.
_TABLE_1 = (Part("cnn", (*paper.TABLE_1, "stochastic-max:0.5", "ordinal:0.6,0.3,0.1")),)
_DFN_MR_POOLINGS = tuple(pooling for model, pooling in paper.TABLE_2 if model == "dfn_mr:56")
_DFN_MR = Part("dfn_mr:56", _DFN_MR_POOLINGS)
_PLAIN = tuple(Part(model, (NONE,)) for model in ("resnet:110", "preact_resnet:164", "stochastic_depth:110"))

TABLES: Mapping[str, Mapping[str, Protocol]] = {
    "table1": {
        "full": Protocol("all images, crop and mirror, the recipe of the network", _TABLE_1),
        "full-plain": Protocol("all images, no augmentation, the recipe of the network", _TABLE_1, {"augment": "none"}),
        # Without augmentation, so that there is something to regularise: with it the network underfits these images.
        "cpu": Protocol(
            "10,000 training images, no augmentation, 20 epochs, 32 maps a convolution",
            _TABLE_1,
            {"train_limit": 10_000, "epochs": 20, "augment": "none", "recipe": ["width=32"]},
        ),
    },
    "table2": {
        "full": Protocol("all images, crop and mirror, the recipe of each network", (_DFN_MR, *_PLAIN)),
        # Of 20 layers, since 56 cannot be trained like this to where there is something to regularise: ten epochs of
        # 2,000 images, as long a run, leave them wrong on two thirds of the training images.
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
