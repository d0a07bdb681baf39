"""Compiled training: the same files, resumable bit for bit, and what is refused."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch

import tiny_data
from empool import models
from empool.lab.errors import LabError
from empool.lab.train.loop import fit
from finished_runs import outcome, weights
from test_lab_training import interrupt_after

pytestmark = [
    # Raised by PyTorch's own compiler.
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:isinstance.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def traced(monkeypatch):
    """Trace as ever, but generate no code, which takes longest."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


def config(pooling="ensemble:0.3", **changes):
    small = tiny_data.config(pooling, compile=True)
    return dataclasses.replace(small, recipe=dataclasses.replace(small.recipe, width=4, **changes))


def graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_a_compiled_run_that_is_interrupted_ends_as_if_it_had_not_been(tmp_path):
    run = config(dropout=0.2)
    whole = fit(run, tiny_data.data_set(), tmp_path / "whole")
    assert graphs() == 1  # Of whole batches of training: neither the last batch, which is smaller, nor the tests.
    torch._dynamo.reset()  # As in another process.
    with pytest.raises(KeyboardInterrupt):
        fit(run, tiny_data.data_set(), tmp_path / "cut", interrupt_after(1))
    torch._dynamo.reset()
    assert outcome(fit(run, tiny_data.data_set(), tmp_path / "cut")) == outcome(whole)
    ours, theirs = (weights(run.folder(tmp_path / name)) for name in ("cut", "whole"))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_compiled_run_is_trained_as_another_but_for_rounding_and_names_the_same_weights(tmp_path, traced):
    fit(dataclasses.replace(config(), p_schedule="anneal:0"), tiny_data.data_set(), tmp_path / "scheduled")
    assert graphs() == 1  # p is data: a new one needs no new code.
    run = config("max")  # It draws nothing.
    fit(run, tiny_data.data_set(), tmp_path / "compiled")
    assert graphs() == 2
    plain = dataclasses.replace(run, compile=False)
    fit(plain, tiny_data.data_set(), tmp_path / "plain")
    ours, theirs = (weights(run.folder(tmp_path / name))["weights"] for name in ("compiled", "plain"))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert list(ours) == list(theirs)


def test_every_run_of_a_process_is_compiled(tmp_path, traced):
    with torch._dynamo.config.patch(recompile_limit=1):
        for pooling in ("max", "average"):
            fit(config(pooling, epochs=1), tiny_data.data_set(), tmp_path)
    assert graphs() == 2


def test_a_network_that_would_be_compiled_in_part_is_refused(tmp_path, traced):
    recipe = dataclasses.replace(models.network("stochastic_depth:14").recipe, batch_size=16, augment="none")
    deep = tiny_data.config(model="stochastic_depth:14", recipe=recipe, compile=True)
    limit = torch._dynamo.config.patch(recompile_limit=1)
    with limit, pytest.raises(LabError, match="PyTorch cannot compile this network here"):
        fit(deep, tiny_data.data_set(), tmp_path)


def test_what_cannot_be_compiled_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    absent = torch._inductor.config.patch({"force_disable_caches": True, "cpp.cxx": ("/nowhere/g++",)})
    with absent, pytest.raises(LabError) as caught:
        fit(config(), tiny_data.data_set(), tmp_path)
    assert str(caught.value).startswith("--compile: PyTorch cannot compile this network here (")
    assert str(caught.value).endswith("); on the CPU it needs a C++ compiler, on a GPU Triton. Leave --compile out")
