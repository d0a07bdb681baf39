"""Trained networks tested by every rule: one pass, recalibrated, members sampled and averaged, plain max."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from pathlib import Path
from typing import Any

import torch

from empool import Average, Max, monte_carlo, recalibrate_, set_p
from empool.lab import provenance
from empool.lab.analyse.records import RULES, read_evaluation
from empool.lab.data import sources
from empool.lab.data.load import load_data
from empool.lab.data.sets import DataSet
from empool.lab.errors import LabError, first_line
from empool.lab.files import read_json, write_json
from empool.lab.study import networks
from empool.lab.study.folder import opened
from empool.lab.study.run import RunConfig, derived_seed, results
from empool.lab.study.run import poolings as read_poolings
from empool.lab.train import schedule
from empool.lab.train.checkpoint import read_checkpoint
from empool.lab.train.device import device_named, keep_freed
from empool.lab.train.experiment import Experiment, finite
from empool.lab.train.metrics import Tally

_log = logging.getLogger(__name__)


def evaluate(
    directory: Path, *, samples: int, source: str | None, device: str, poolings: str | None, label_column: str | None
) -> list[dict[str, Any]]:
    """Test the finished runs of a folder by every rule, and write evaluation.json there after each.

    What evaluation.json already says of the same weights, tested in the same way, is not done again; what it says of
    poolings that are not asked for stays. The arguments are the options of `empool evaluate`; LabError says what lacks.

    Returns:
        One record a run that was tested, with the scores of each rule: "expectation" is one deterministic pass in
        inference mode; "recalibrated" the same after `empool.recalibrate_` on the training images without augmentation,
        None without batch normalisation; "monte_carlo" the mean of the probabilities of `samples` members, None where
        nothing is sampled; "plain_max" the single pass with p = 0, None without p. What is not finite is None, too.
    """
    runs = _finished(directory, poolings)
    device = device_named(device)
    if device == "cpu":
        keep_freed()
    first = runs[0][1]
    if source is None and first.data not in sources.KNOWN:
        raise LabError(f"the runs were trained on a folder called {first.data}: say where it is with --data")
    network, source = networks.network(first.model), source or first.data
    limits = first.train_limit, first.test_limit
    loaded = load_data(network, source, *limits, validation=first.validation, label_column=label_column)
    records: list[dict[str, Any]] = []
    _write(directory, records)  # A folder that can't be written to is refused before the work.
    for folder, config in runs:
        if config.fingerprint != loaded.fingerprint:
            now = f"{source} is not what {folder} was trained on, or has changed since"
            prints = f"fingerprint {loaded.fingerprint}, not {config.fingerprint}"
            raise LabError(f"{now} ({prints}): evaluate with the data set of then")
        config = dataclasses.replace(config, device=device)
        # `empool.layer` makes PyTorch's own layers of these, which draw nothing.
        draws = not isinstance(config.layer, (Max, Average, type(None)))
        test: dict[str, Any] = {  # which weights are tested, and how: what an evaluation is known by
            "pooling": config.pooling,
            "seed": config.seed,
            "rules": list(RULES),
            "samples": samples if draws else None,
            "checkpoint": hashlib.sha256((folder / "last.ckpt").read_bytes()).hexdigest(),
            "device": provenance.device_name(device),
            "versions": provenance.versions(),
        }
        known = [one for one in read_evaluation(directory) if one.items() >= test.items()]
        _log.info("%s, seed %d%s", config.pooling, config.seed, ": evaluated before" if known else "")
        records.append(known[0] if known else _evaluate(folder, config, loaded, test["samples"]) | test)
        _write(directory, records)
    return records


def _write(directory: Path, records: list[dict[str, Any]]) -> None:
    """Put records in the place of what the file says of the same runs; another evaluation may be writing there too."""
    tested = {(record["pooling"], record["seed"]) for record in records}
    with opened(directory, ".evaluation.lock", patience=-1):
        others = [record for record in read_evaluation(directory) if (record["pooling"], record["seed"]) not in tested]
        write_json(directory / "evaluation.json", records + others)


def _finished(directory: Path, poolings: str | None) -> list[tuple[Path, RunConfig]]:
    """List the finished runs with their folders, in the order of the study's poolings and seeds."""
    finished = {}
    for path in (*directory.glob("config.json"), *sorted(directory.glob("*/*/config.json"))):
        if (path.parent / "result.json").exists():
            finished[path.parent] = RunConfig.from_json(read_json(path), str(path))
        else:
            _log.info("%s is not finished: left out", path.parent)
    if not finished:
        raise LabError(f"{directory} holds no finished run: expected a folder that empool train or compare made")
    order = [record["pooling"] for record in results(directory)] + [config.pooling for config in finished.values()]
    wanted = order if poolings is None else read_poolings(poolings, next(iter(finished.values())).model)
    if missing := [pooling for pooling in wanted if pooling not in order]:
        raise LabError(f"{directory} holds no finished run with {', '.join(missing)}")
    runs = [(folder, config) for folder, config in finished.items() if config.pooling in wanted]
    for folder, _ in runs:
        if not (folder / "last.ckpt").exists():
            raise LabError(f"{folder} has no last.ckpt, so there are no weights to evaluate: train that run again")
    return sorted(runs, key=lambda run: (order.index(run[1].pooling), run[1].seed))


def _evaluate(folder: Path, config: RunConfig, loaded: DataSet, samples: int | None) -> dict[str, Any]:
    """Test a run by every rule that it has; `samples` is None where nothing is drawn."""
    checkpoint = read_checkpoint(folder / "last.ckpt", "delete that folder, and train the run again")
    try:
        experiment, plan = Experiment(config, loaded), schedule.parse(config.p_schedule)
        experiment.load_state_dict(checkpoint["state_dict"])
    except ValueError as error:
        raise LabError(f"{folder}/config.json: {error}; delete that folder, and train the run again") from None
    except RuntimeError as error:
        raise LabError(f"{folder}/last.ckpt holds another network than {config.model} ({first_line(error)})") from None
    experiment.to(config.device)
    p, trained = config.p, checkpoint["history"][-1]["epoch"]
    if p is not None:
        p = plan.value(p, trained, config.training.epochs)
        set_p(experiment, p)
    tested = experiment.tally(experiment.test_images)
    rules = {"expectation": tested.scores()}
    if samples is not None:
        torch.manual_seed(derived_seed(config.seed, "members"))
        members = Tally(experiment.num_classes, config.device)
        for images, labels in experiment.plain_batches(experiment.test_images):
            members.add_probabilities(monte_carlo(experiment, images, samples).probs, labels)
        rules["monte_carlo"] = members.scores()
    if p is not None:
        set_p(experiment, 0)
        rules["plain_max"] = experiment.tally(experiment.test_images).scores()
        set_p(experiment, p)
    if any(getattr(module, "running_mean", None) is not None for module in experiment.modules()):
        recalibrate_(experiment, experiment.plain_batches(experiment.batches.images))
        rules["recalibrated"] = experiment.tally(experiment.test_images).scores()
    return {
        "data": config.data,
        "model": config.model,
        "p": p,
        "draws": samples is not None,
        "test_images": len(loaded.test),
        **dict.fromkeys(RULES),
        **{rule: {name: finite(score) for name, score in scores._asdict().items()} for rule, scores in rules.items()},
        "calibration": tested.reliability(),
        "commit": provenance.commit(),
    }
