"""What every test runs under."""

from __future__ import annotations

import os

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile(
    "fixed", derandomize=True, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.register_profile("search", parent=hypothesis.settings.get_profile("fixed"), derandomize=False)
hypothesis.settings.load_profile(os.environ.get("EMPOOL_HYPOTHESIS", "fixed"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _global_flags_can_be_set() -> None:
    """Undo what importing PyTorch's own test cases does: it forbids the flags that Lightning sets."""
    torch.backends.disable_global_flags.__globals__["__allow_nonbracketed_mutation_flag"] = True
