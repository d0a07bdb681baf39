"""The study of docs/study.md on one GPU: choose, confirm, check against the published errors, then Tables 1 and 2.

    PYTHONPATH=src python benchmarks/study_gpu.py --data FOLDER --out DIR --limit 440 --reserve 140 --commit HASH
    PYTHONPATH=src python benchmarks/study_gpu.py --smoke 40 --out DIR      # every part at a tiny scale, and timings
    ... --parts table1,table2 --table1 max-dropout:0.4 --table2 max none    # some rows, in this order

FOLDER holds CIFAR-10 as train-*.parquet and test-*.parquet. DIR gets records.jsonl (one line a run, written as soon as
it is done), choice.json (what stage 1 chose) and log.txt. The program ends itself within --limit seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import platform
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from airbench import Images, Trainer, prepare
from on_device import cifar10, derived_seed, scores, stratified, synthetic
from replicas import Replicas

import empool
from empool import models

BEGAN = time.perf_counter()
PARTS = ("stage1", "stage2", "check", "table1", "table2")
CHOICES = ("average", "ensemble:0.1", "ensemble:0.3", "ensemble:0.5", "stochastic-max:0.5", "ordinal:0.6,0.3,0.1")
TABLE_1 = (
    *("max", "average", "ensemble:0.05", "ensemble:0.1", "ensemble:0.2", "ensemble:0.3", "ensemble:0.4"),
    *("ensemble:0.5", "ensemble:0.7", "stochastic", "max-dropout:0.05", "max-dropout:0.1", "max-dropout:0.2"),
    *("max-dropout:0.3", "max-dropout:0.4", "max-dropout:0.5", "max-dropout:0.7"),
    *("stochastic-max:0.5", "ordinal:0.6,0.3,0.1"),
)
TABLE_2 = ("none", "max", "ensemble:0.05", "ensemble:0.1", "ensemble:0.2", "ensemble:0.5")
PUBLISHED = "shift:2,alternating-mirror"


@dataclass(frozen=True)
class Setting:
    """One of the four settings.

    Attributes:
        name: in the records.
        small: whether it has 5,000 training images instead of all.
        augment: as published, or not at all.
    """

    name: str
    small: bool
    augment: bool


SETTINGS = (
    Setting("50000-published", small=False, augment=True),
    Setting("50000-none", small=False, augment=False),
    Setting("5000-published", small=True, augment=True),
    Setting("5000-none", small=True, augment=False),
)


@dataclass(frozen=True)
class Scale:
    """Every number of the study; see docs/study.md.

    Attributes:
        chooser, confirmer, checked: networks of stage 1, of stage 2 and of the check.
        held_out: training images that stage 1 measures on.
        small: training images of the small settings.
        epochs: with augmentation, by network and whether the setting is small.
        candidates: epochs without augmentation, by whether the setting is small; the first with less than 1 % training
            error is taken.
        batch_size: of airbench; None for the published one.
        seeds1, seeds2, seeds_check: of the stages and the check.
        table1, table2: training images, epochs, seeds.
        test_limit: test images; None for all.
        choices: poolings that stage 1 chooses from.
        rows1, rows2: poolings of the tables.
    """

    chooser: str = "airbench:32-64-64"
    confirmer: str = "airbench:64-256-256"
    checked: str = "airbench:64-128-128"
    held_out: int = 5_000
    small: int = 5_000
    epochs: tuple[tuple[str, float, float], ...] = (
        ("airbench:32-64-64", 11, 110),
        ("airbench:64-128-128", 11, 110),
        ("airbench:64-256-256", 9.9, 110),
    )
    candidates: tuple[tuple[int, ...], tuple[int, ...]] = ((11, 16, 22), (30, 60, 110))
    batch_size: int | None = None
    seeds1: tuple[int, ...] = (0, 1, 2)
    seeds2: tuple[int, ...] = tuple(range(100, 140))
    seeds_check: tuple[int, ...] = tuple(range(200, 210))
    table1: tuple[int, int, tuple[int, ...]] = (10_000, 20, tuple(range(10)))
    table2: tuple[int, int, tuple[int, ...]] = (5_000, 12, tuple(range(8)))
    test_limit: int | None = None
    choices: tuple[str, ...] = CHOICES
    rows1: tuple[str, ...] = TABLE_1
    rows2: tuple[str, ...] = TABLE_2

    def augmented_epochs(self, model: str, small: bool) -> float:
        """Give the epochs of a setting with augmentation."""
        return next(of_small if small else of_all for name, of_all, of_small in self.epochs if name == model)


TINY = Scale(
    chooser="airbench:8-8-8",
    confirmer="airbench:8-16-16",
    checked="airbench:8-8-16",
    held_out=100,
    small=200,
    epochs=(("airbench:8-8-8", 2, 3), ("airbench:8-16-16", 1.9, 3), ("airbench:8-8-16", 2, 3)),
    candidates=((1, 2), (2, 4)),
    batch_size=64,
    seeds1=(0, 1),
    seeds2=(100, 101),
    seeds_check=(200,),
    table1=(300, 1, (0, 1)),
    table2=(200, 1, (0, 1)),
    choices=("average", "ensemble:0.3", "stochastic-max:0.5"),
    rows1=("max", "ensemble:0.3", "stochastic"),
    rows2=("none", "ensemble:0.1"),
)


class Study:
    """The parts, and what they share.

    Args:
        arrays: of `cifar10`.
        out: folder of the results.
        scale: the numbers.
        limit: seconds after which all is over, from the program's start.
        reserve: seconds of these that stage 2 leaves to what follows.
        device: "cuda" or "cpu".
        precision: of airbench.
        graph: whether to capture CUDA graphs; None for CUDA alone.
        commit: of the source.
    """

    def __init__(
        self,
        arrays: dict[str, np.ndarray],
        out: Path,
        scale: Scale,
        limit: float,
        reserve: float,
        device: str,
        precision: str,
        graph: bool | None,
        commit: str | None,
    ) -> None:
        self.arrays, self.out, self.scale, self.limit, self.reserve = arrays, out, scale, limit, reserve
        self.device, self.precision, self.graph = device, precision, graph
        out.mkdir(parents=True, exist_ok=True)
        self.strict = self.failed = False
        self.choice: dict[str, Any] = {}
        self._prepared: dict[str, Images] = {}
        labels = arrays["train_labels"]
        held = stratified(labels, scale.held_out, seed=1)
        rest = np.setdiff1d(np.arange(len(labels)), held)
        self.index = {
            "all": np.arange(len(labels)),
            "held out": held,
            "rest": rest,
            "small": rest[stratified(labels[rest], scale.small)],
        }
        self.test_index = np.arange(len(arrays["test_labels"]))
        if scale.test_limit is not None:
            self.test_index = stratified(arrays["test_labels"], scale.test_limit)
        gpu = torch.cuda.get_device_name() if device == "cuda" else None
        packages = {"empool": empool.__version__, "torch": torch.__version__, "numpy": np.__version__}
        try:
            import triton

            packages["triton"] = triton.__version__
        except ImportError:
            pass
        self.common = {
            "data": "cifar10",
            "p_schedule": "constant",
            "device": f"cuda ({gpu})" if gpu else device,
            "threads": torch.get_num_threads(),
            "processes": 1,
            "versions": {"python": platform.python_version(), **packages},
            "commit": commit,
            "resumed": [],
            "machine": {"cores": os.cpu_count(), "gpus": [gpu] if gpu else [], "system": platform.system()},
            "program": "benchmarks/study_gpu.py",
            "classes": 10,
            "image_shape": [3, 32, 32],
            "chance_error": 90.0,
        }

    def left(self) -> float:
        """Give the seconds that are left."""
        return self.limit - (time.perf_counter() - BEGAN)

    def say(self, line: str, also_print: bool = True) -> None:
        """Log a line, with the seconds since the start."""
        line = f"{time.perf_counter() - BEGAN:7.1f} s  {line}"
        self._append("log.txt", line)
        if also_print:
            print(line, flush=True)

    def images(self, name: str) -> Images:
        """Give prepared images: a part of the training images, or "test"."""
        if name not in self._prepared:
            split = "test" if name == "test" else "train"
            if split == "train":
                self.check_images(self.index[name])
            index = self.test_index if name == "test" else self.index[name]
            of = [self.arrays[f"{split}_{what}"][index] for what in ("images", "labels")]
            self._prepared[name] = prepare(*of, self.device, self.precision)
        return self._prepared[name]

    def check_images(self, index: np.ndarray) -> None:
        """Refuse training images that the data at hand lack."""
        if "train_index" in self.arrays and not np.isin(index, self.arrays["train_index"]).all():
            raise ValueError("the data hold a part of the training images, and others are needed")

    def write(self, **fields: Any) -> None:
        """Write a run's record."""
        pooling = models.read_pooling(fields["pooling"])
        line = {**fields, "p": getattr(pooling, "p", None), **self.common}
        self._append("records.jsonl", json.dumps(line))

    def _append(self, name: str, line: str) -> None:
        with (self.out / name).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def trainer(self, model: str, pooling: str, capacity: int) -> Trainer | None:
        """Make a trainer and its graphs, or say why that failed; without graphs if that fails with them."""
        for graph in dict.fromkeys((self.graph, False)):
            try:
                trainer = Trainer(
                    model,
                    pooling,
                    capacity=capacity,
                    device=self.device,
                    precision=self.precision,
                    graph=graph,
                    batch_size=self.scale.batch_size,
                )
                for with_bias in (True, False):
                    trainer.step_function(with_bias)
                return trainer
            except Exception:
                self.say(f"{model}, {pooling}: FAILED, graph = {graph}\n{traceback.format_exc()}")
        return None

    def run(self, trainer: Trainer, part: str, setting: Setting, data: str, epochs: float, seed: int) -> float:
        """Do a run of airbench and write its record; return its error: held out in stage 1, else of the test."""
        began = time.perf_counter()
        train = self.images(data)
        speed = trainer.train(train, epochs, setting.augment, seed)
        fitted = scores(trainer.logits(train.plain), train.labels)
        stage1 = part == "stage1"
        measured = self.images("held out" if stage1 else "test")
        found = trainer.test(measured, ("single",) if stage1 else ("single", "tta"))
        trainer.recalibrate(len(train))
        found |= {
            f"recalibrated{'-tta' * rule.endswith('tta')}": result
            for rule, result in trainer.test(measured, tuple(found)).items()
        }
        single = found["single"]
        name = "validation" if stage1 else "test"
        self.write(
            part=part,
            setting=setting.name,
            model=trainer.model,
            pooling=trainer.pooling,
            seed=seed,
            epochs=epochs,
            batch_size=trainer.batch_size,
            train_limit=None if data in ("all", "rest") else len(train),
            test_limit=self.scale.test_limit,
            train_images=len(train),
            **{f"{name}_images": len(measured)},
            augment=PUBLISHED if setting.augment else "none",
            **{f"{name}_error": single["error"], f"{name}_nll": single["nll"], f"{name}_loss": single["nll"]},
            **{f"{name}_ece": single["ece"], f"{name}_top5_error": single["top5_error"]},
            correct=single.get("correct"),
            calibration=single.get("calibration"),
            train_error=fitted["error"],
            train_loss=fitted["nll"],
            converged=single["nll"] is not None and single["error"] < 85,
            rules=found | {"single": {name: single[name] for name in ("error", "nll", "ece", "top5_error")}},
            precision=self.precision,
            seconds=time.perf_counter() - began,
            images_per_second=speed,
            seeds={purpose: derived_seed(seed, purpose) for purpose in ("weights", "order", "draws")},
            parameters=sum(parameter.numel() for parameter in trainer.network.parameters()),
        )
        self.say(
            f"{part} {setting.name} {trainer.pooling} seed {seed}: {name} {single['error']:.2f} "
            f"(recalibrated {found['recalibrated']['error']:.2f}), train {fitted['error']:.2f}, {speed:.0f} images/s, "
            f"{time.perf_counter() - began:.2f} s",
            also_print=False,
        )
        return float(single["error"])

    def pilot(self, trainer: Trainer, setting: Setting, data: str) -> float:
        """Settle the epochs of a setting with max alone, by its training error."""
        if setting.augment:
            return self.scale.augmented_epochs(trainer.model, setting.small)
        train = self.images(data)
        candidates = self.scale.candidates[setting.small]
        for epochs in candidates:
            trainer.train(train, epochs, False, seed=1000)
            error = scores(trainer.logits(train.plain), train.labels)["error"]
            self.say(f"pilot {trainer.model} {setting.name}: {epochs} epochs, training error {error:.2f} %")
            if error < 1:
                return epochs
        return candidates[-1]

    def stage1(self) -> None:
        """Choose a pooling for each setting by its held-out error."""
        capacity = len(self.index["rest"])
        trainers = {}
        for pooling in ("max", *self.scale.choices):
            trainer = self.trainer(self.scale.chooser, pooling, capacity)
            if trainer is not None:
                trainers[pooling] = trainer
        self.say(f"stage 1: {len(trainers)} poolings are ready")
        data = {setting: "small" if setting.small else "rest" for setting in SETTINGS}
        epochs = {setting: self.pilot(trainers["max"], setting, data[setting]) for setting in SETTINGS}
        errors: dict[Setting, dict[str, list[float]]] = {setting: {p: [] for p in trainers} for setting in SETTINGS}
        for seed in self.scale.seeds1:
            for setting in SETTINGS:
                if self.left() < self.reserve + 60 and all(errors[setting][pooling] for pooling in trainers):
                    self.say(f"stage 1: no time for seed {seed} of {setting.name}")
                    continue
                for pooling, trainer in trainers.items():
                    error = self.run(trainer, "stage1", setting, data[setting], epochs[setting], seed)
                    errors[setting][pooling].append(error)
                self.choose(errors, epochs)
            self.say(f"stage 1: seed {seed} is done")
        for name, chosen in self.choice.items():
            self.say(f"stage 1 {name}: {chosen['chosen']} of {chosen['held_out_error']} ({chosen['epochs']} epochs)")

    def choose(self, errors: dict[Setting, dict[str, list[float]]], epochs: dict[Setting, float]) -> None:
        """Take for each setting the pooling, other than max, of lowest mean held-out error; of equals the first."""
        for setting, of_setting in errors.items():
            means = {pooling: statistics.fmean(values) for pooling, values in of_setting.items() if values}
            rivals = {pooling: mean for pooling, mean in means.items() if pooling != "max"}
            if rivals:
                self.choice[setting.name] = {
                    "chosen": min(rivals, key=lambda pooling: rivals[pooling]),
                    "held_out_error": {pooling: round(mean, 3) for pooling, mean in means.items()},
                    "runs": {pooling: len(values) for pooling, values in of_setting.items()},
                    "epochs": epochs[setting],
                }
        (self.out / "choice.json").write_text(json.dumps(self.choice, indent=2) + "\n", encoding="utf-8")

    def stage2(self) -> None:
        """Compare max with the chosen poolings, seed after seed, until the clock or forty seeds end it."""
        if len(self.choice) < len(SETTINGS):
            raise RuntimeError(f"stage 1 has chosen for {list(self.choice)} alone")
        chosen = {setting: self.choice[setting.name]["chosen"] for setting in SETTINGS}
        capacity = len(self.index["all"])
        trainers = {}
        for pooling in dict.fromkeys(("max", *chosen.values())):
            trainer = self.trainer(self.scale.confirmer, pooling, capacity)
            assert trainer is not None
            trainers[pooling] = trainer
        data = {setting: "small" if setting.small else "all" for setting in SETTINGS}
        epochs = {setting: self.pilot(trainers["max"], setting, data[setting]) for setting in SETTINGS}
        self.say(f"stage 2: {len(trainers)} poolings are ready")
        errors: dict[tuple[Setting, str], list[float]] = {}
        longest = 0.0
        for number, seed in enumerate(self.scale.seeds2):
            if number and self.left() - self.reserve < 1.05 * longest:
                break
            began = time.perf_counter()
            for setting in SETTINGS:
                for pooling in ("max", chosen[setting]):
                    error = self.run(trainers[pooling], "stage2", setting, data[setting], epochs[setting], seed)
                    errors.setdefault((setting, pooling), []).append(error)
            longest = max(longest, time.perf_counter() - began)
        for (setting, pooling), values in errors.items():
            self.say(f"stage 2 {setting.name} {pooling}: {_summary(values)} ({epochs[setting]} epochs)")

    def check(self) -> None:
        """Train the published 64-128-128 with max, to be held against the published 93.00 %."""
        trainer = self.trainer(self.scale.checked, "max", len(self.index["all"]))
        assert trainer is not None
        setting = SETTINGS[0]
        epochs = self.scale.augmented_epochs(self.scale.checked, small=False)
        errors: list[float] = []
        for seed in self.scale.seeds_check:
            began = time.perf_counter()
            errors.append(self.run(trainer, "check", setting, "all", epochs, seed))
            if self.left() < 3 * (time.perf_counter() - began) + 2:
                break
        self.say(f"check {self.scale.checked}: {_summary(errors)}")

    def table1(self) -> None:
        """Train all rows of Table 1 by the lab's short protocol."""
        limit, epochs, seeds = self.scale.table1
        recipe = dataclasses.replace(models.network("cnn").recipe, epochs=epochs, augment="none", width=32)
        self._table("table1", "cnn", self.scale.rows1, recipe, limit, seeds)

    def table2(self) -> None:
        """Train DFN-MR of 20 layers by the lab's short protocol, tested on all test images."""
        limit, epochs, seeds = self.scale.table2
        choices = {"learning_rate": 0.03, "schedule": "cosine", "warmup": 1.0}
        recipe = dataclasses.replace(models.network("dfn_mr:20").recipe, epochs=epochs, augment="none", **choices)
        self._table("table2", "dfn_mr:20", self.scale.rows2, recipe, limit, seeds)

    def _table(
        self, part: str, model: str, poolings: Sequence[str], recipe: Any, limit: int, seeds: tuple[int, ...]
    ) -> None:
        chosen = stratified(self.arrays["train_labels"], limit)
        self.check_images(chosen)
        images, labels = (torch.as_tensor(self.arrays[f"train_{what}"][chosen]) for what in ("images", "labels"))
        tests = [torch.as_tensor(self.arrays[f"test_{what}"][self.test_index]) for what in ("images", "labels")]
        tests = [test.to(self.device) for test in tests]
        longest = 0.0
        for pooling in poolings:
            if self.left() < 1.1 * longest + 3:
                self.say(f"{part}: no time for {pooling}")
                continue
            began = time.perf_counter()
            try:
                group = Replicas(model, pooling, seeds, recipe, images, labels, self.device, self.graph)
                group.prepare()
                self.say(f"{part} {pooling}: ready in {time.perf_counter() - began:.1f} s", also_print=False)
                trained = group.train()
                self.say(f"{part} {pooling}: trained in {trained['seconds']:.1f} s", also_print=False)
                found = group.test(*tests)
            except Exception:
                self.failed = True
                self.say(f"{part} {pooling}: FAILED\n{traceback.format_exc()}")
                if self.strict:
                    return
                continue
            took = time.perf_counter() - began
            longest = max(longest, took)
            for place, seed in enumerate(seeds):
                single, fitted = found[place]["single"], found[place]["fitted"]
                losses = trained["loss"][place]
                self.write(
                    part=part,
                    model=model,
                    pooling=pooling,
                    seed=seed,
                    epochs=recipe.epochs,
                    batch_size=recipe.batch_size,
                    train_limit=limit,
                    test_limit=self.scale.test_limit,
                    train_images=len(labels),
                    test_images=len(tests[1]),
                    augment="none",
                    test_error=single["error"],
                    test_top5_error=single["top5_error"],
                    test_nll=single["nll"],
                    test_loss=single["nll"],
                    test_ece=single["ece"],
                    correct=single["correct"],
                    calibration=single.get("calibration"),
                    train_error=fitted["error"],
                    train_loss=fitted["nll"],
                    converged=None not in (single["nll"], fitted["nll"]) and bool(np.isfinite(losses[-1])),
                    rules={"recalibrated": found[place]["recalibrated"]},
                    history={"train_loss": losses, "train_error": trained["error"][place]},
                    precision="float32",
                    tf32=torch.backends.cudnn.allow_tf32 and self.device == "cuda",
                    at_once=len(seeds),
                    seconds=took / len(seeds),
                    images_per_second=len(labels) * recipe.epochs * len(seeds) / trained["seconds"],
                    seeds={purpose: derived_seed(seed, purpose) for purpose in ("weights", "order")}
                    | {"draws": derived_seed(seeds[0], "draws")},
                    parameters=sum(parameter.numel() for parameter in group.networks[place].parameters()),
                )
            self.say(f"{part} {pooling}: {_summary([one['single']['error'] for one in found])}, {took:.1f} s")
            del group, found
            _free()

    def do(self, parts: Iterable[str]) -> None:
        """Do parts; one that fails is logged, and the next one goes on, unless this is strict."""
        for part in parts:
            if self.strict and self.failed:
                break
            if self.left() < 5:
                self.say(f"{part}: no time left")
                continue
            self.say(f"{part} begins")
            try:
                getattr(self, part)()
            except Exception:
                self.failed = True
                self.say(f"{part} FAILED\n{traceback.format_exc()}")
            _free()
        self.say("the end")


def _summary(values: list[float]) -> str:
    spread = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"error {statistics.fmean(values):.3f}{spread} of {len(values)}"


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


AGREEMENT = (  # pooling, type, kernel, stride, padding: the layers of the study
    ("ensemble:0.3", torch.bfloat16, 2, 2, 0),
    ("ensemble:0.3", torch.bfloat16, 3, 3, 0),
    ("stochastic-max:0.5", torch.bfloat16, 2, 2, 0),
    ("ensemble:0.3", torch.float32, 3, 2, 1),
    ("max-dropout:0.3", torch.float32, 3, 2, 1),
    ("stochastic", torch.float32, 3, 2, 1),
)


def kernels_agree(device: str, say: Callable[[str], None]) -> bool:
    """Compare the device's kernels with the CPU's, the same seed, in the layout and types of the study."""
    fine = True
    generator = torch.Generator().manual_seed(1)
    for name, dtype, *window in AGREEMENT:
        input = torch.randn(4, 32, 31, 31, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last)
        try:
            found = []
            for place in ("cpu", device):
                leaf = input.to(place).requires_grad_()
                output = _pool(name, leaf, *window, training=True)
                (gradient,) = torch.autograd.grad(output.float().square().sum(), leaf)
                mean = _pool(name, input.to(place), *window, training=False)
                found.append([tensor.detach().float().cpu() for tensor in (output, gradient, mean)])
            torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=0)
            torch.testing.assert_close(found[1][1:], found[0][1:], rtol=2e-2, atol=2e-2)
        except Exception as error:
            fine = False
            say(f"{name} {dtype} {window}: DIFFERS: {str(error)[:300]}")
    return fine


def _pool(name: str, input: torch.Tensor, kernel: int, stride: int, padding: int, training: bool) -> torch.Tensor:
    pooling = empool.pooling(name)
    if isinstance(pooling, empool.Stochastic):
        output = empool.functional.stochastic_pool2d(input, kernel, stride, padding, training=training, seed=7)
    else:
        assert isinstance(pooling, empool.RankDistribution)
        output = empool.functional.rank_pool2d(
            input, kernel, stride, padding, distribution=pooling, training=training, seed=7
        )
    assert isinstance(output, torch.Tensor)
    return output


def time_steps(say: Callable[[str], None], device: str, left: Callable[[], float], scale: Scale | None) -> None:
    """Time a step of each network, with and without CUDA graphs, and check that both train alike."""
    arrays = synthetic(4096 if scale is None else 256, 10)
    precision = "bfloat16" if device == "cuda" else "float32"
    data = prepare(arrays["train_images"], arrays["train_labels"], device, precision)
    cases = (
        [(scale.chooser, "ensemble:0.3", (False,))]
        if scale
        else [
            ("airbench:64-256-256", "max", (True, False)),
            ("airbench:64-256-256", "ensemble:0.3", (True, False)),
            ("airbench:32-64-64", "max", (True, False)),
            ("airbench:32-64-64", "ensemble:0.3", (True,)),
            ("airbench:32-64-64", "stochastic-max:0.5", (True,)),
        ]
    )
    for model, pooling, graphs in cases:
        results = []
        for graph in graphs:
            if left() < 4:
                return
            began = time.perf_counter()
            size = scale.batch_size if scale else None
            trainer = Trainer(
                model, pooling, capacity=4096, device=device, precision=precision, graph=graph, batch_size=size
            )
            trainer.train(data, 1, True, seed=0)
            ready = time.perf_counter() - began
            speed = trainer.train(data, 1 if scale else 10, True, seed=0)
            loss = scores(trainer.logits(data.plain), data.labels)["nll"]
            results.append(
                f"{'graph' if graph else 'eager'} {1000 * trainer.batch_size / speed:.2f} ms a step, {speed:.0f} "
                f"images/s, ready in {ready:.1f} s, NLL {loss:.3f}"
            )
            del trainer
            _free()
        say(f"{model} {pooling}: " + "; ".join(results))
    images, labels = torch.as_tensor(arrays["train_images"]), torch.as_tensor(arrays["train_labels"])
    for model, count in (("cnn", 10), ("dfn_mr:20", 8)):
        results = []
        for graph, seeds in ((True, count), (True, 1), (False, 1)) if device == "cuda" else ((False, 2),):
            if left() < 4:
                return
            changes = {"width": 32} if model == "cnn" else {"schedule": "cosine"}
            recipe = dataclasses.replace(
                models.network(model).recipe,
                epochs=4 if scale is None else 1,
                augment="none",
                learning_rate=0.01,
                **changes,
            )
            group = Replicas(model, "ensemble:0.3", range(seeds), recipe, images, labels, device, graph)
            trained = group.train()
            steps = recipe.epochs * group.per_epoch
            kind = f"{'graph' if graph else 'eager'} x{seeds}"
            results.append(f"{kind} {1000 * trained['seconds'] / steps:.2f} ms, loss {trained['loss'][0][-1]:.3f}")
            del group
            _free()
        say(f"{model} ensemble:0.3: " + "; ".join(results))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of train-*.parquet and test-*.parquet")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/empool-cifar10.npz"), help="keeps decoded images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=400, help="seconds until the program ends itself")
    parser.add_argument("--reserve", type=float, default=130, help="seconds that stage 2 leaves to what follows")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--table1", nargs="+", default=TABLE_1, metavar="POOLING", help="rows, in this order")
    parser.add_argument("--table2", nargs="+", default=TABLE_2, metavar="POOLING")
    parser.add_argument("--strict", action="store_true", help="end at the first failure, with status 4")
    parser.add_argument("--choice", type=Path, help="choice.json of an earlier call, for stage 2 without stage 1")
    parser.add_argument(
        "--smoke", type=float, metavar="SECONDS", help="try every part at a tiny scale, on made-up images"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default=None)
    parser.add_argument("--no-graph", action="store_true")
    parser.add_argument("--commit", default=None, help="of the source, for the records")
    options = parser.parse_args()
    device = options.device
    # Records are on the disk as soon as they are made, so nothing is lost.
    watchdog = threading.Timer((options.smoke or options.limit) + 5, os._exit, (3,))
    watchdog.daemon = True
    watchdog.start()
    torch.backends.cudnn.benchmark = True
    precision = options.precision or ("bfloat16" if device == "cuda" else "float32")
    graph = False if options.no_graph else None
    if options.smoke:
        study = Study(
            *(synthetic(600, 100), options.out, TINY, options.smoke, 0.3 * options.smoke),
            *(device, precision, graph, options.commit),
        )
        if device == "cuda":
            agree = kernels_agree(device, study.say)
            study.say(f"kernels agree with the CPU's: {agree}; {empool.kernels()['rank_draw']}")
        time_steps(study.say, device, lambda: study.left() - 0.4 * options.smoke, None if device == "cuda" else TINY)
        study.do(PARTS)
        return
    arrays = cifar10(options.data, options.cache)
    scale = Scale(rows1=tuple(options.table1), rows2=tuple(options.table2))
    study = Study(
        *(arrays, options.out, scale, options.limit, options.reserve, device, precision, graph, options.commit),
    )
    study.strict = options.strict
    study.say(f"{len(arrays['train_labels'])} training images are read; {study.common['device']}, {precision}")
    if options.choice:
        study.choice = json.loads(options.choice.read_text(encoding="utf-8"))
    study.do(options.parts.split(","))
    if study.failed:
        sys.exit(4)


if __name__ == "__main__":
    sys.exit(main())
