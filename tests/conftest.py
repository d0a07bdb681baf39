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
