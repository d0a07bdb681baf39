"""Trained networks tested by every rule: one pass, recalibrated, members sampled and averaged, plain max."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from empool import Average, Max, monte_carlo, recalibrate_, set_p
from empool.lab import provenance
from empool.lab.analyse.records import RULES, read_evaluation
from empool.lab.data import sources
from empool.lab.data.load import load_data
from empool.lab.data.sets import DataSet
from empool.lab.errors import LabError, first_line
from empool.lab.files import read_json, write_json
from empool.lab.study import networks
from empool.lab.study.run import RunConfig, derived_seed
from empool.lab.study.run import poolings as read_poolings
from empool.lab.train import schedule
from empool.lab.train.checkpoint import read_checkpoint
from empool.lab.train.device import device_named, keep_freed
from empool.lab.train.experiment import Experiment, finite
from empool.lab.train.metrics import Scores, Tally

_log = logging.getLogger(__name__)


def evaluate(
    directory: Path,
    *,
    samples: int,
    source: str | None,
    device: str,
    poolings: str | None = None,
    label_column: str | None = None,
) -> list[dict[str, Any]]:
    """Test the finished runs of a folder by every rule, and write evaluation.json there after each.

    What evaluation.json already says of the same weights, tested in the same way, is not done again.

    Args:
        directory: of a run or of a study.
        samples: members of the ensemble that Monte Carlo draws for every image.
        source: name of the data set or a folder; None for the name that the runs have.
        device: "auto", "cpu" or "cuda".
        poolings: spellings with commas between of those whose runs are tested; None for all. What evaluation.json says
            of others stays.
        label_column: of parquet files; None chooses it if there is no doubt.

    Returns:
        One record a run that was tested. "expectation" is inference mode, one deterministic pass; "recalibrated" the
        same after `empool.recalibrate_` on the training images without augmentation, None for a network without batch
        normalisation; "monte_carlo" the mean of the probabilities of `samples` members (`empool.monte_carlo`), None for
        a pooling that samples nothing, whose members are all the single pass; "plain_max" the single pass with p set
        to 0, None for a pooling without p. Each has "error" and "ece" in percent and "nll" in nats; what is not finite
        is None. "calibration" has the bins of the calibration error of the single pass (`Tally.reliability`).
        "checkpoint" is the SHA-256 of the file that held the weights.

    Raises:
        LabError: if there is no finished run, or no checkpoint or data set of one.
    """
    runs = _finished(directory, poolings)
    if device_named(device) == "cpu":
        keep_freed()
    loaded = _load(runs[0][1], source, label_column)
    path = directory / "evaluation.json"
    records: list[dict[str, Any]] = []
    for folder, config in runs:
        if config.fingerprint != loaded.fingerprint:
            raise LabError(
                f"{source or config.data} is not what {folder} was trained on, or has changed since (fingerprint "
                f"{loaded.fingerprint}, not {config.fingerprint}): evaluate with the data set of then"
            )
        config = dataclasses.replace(config, device=device_named(device))
        test = _test(folder, config, samples)
        done = next((record for record in _known(path) if all(record.get(name) == test[name] for name in test)), None)
        _log.info("%s, seed %d%s", config.pooling, config.seed, ": evaluated before" if done else "")
        records.append(done or {**_evaluate(folder, config, loaded, samples), **test})
        _write(path, records)
        if not done:
            gc.collect()  # The network may be part of a cycle, and the next one needs the memory.
    return records


def _known(path: Path) -> list[dict[str, Any]]:
    return read_evaluation(path) if path.exists() else []


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    """Put records in the place of what the file says of the same runs; another evaluation may be writing there too."""
    tested = {(record["pooling"], record["seed"]) for record in records}
    with FileLock(path.with_name(".evaluation.lock")):
        others = [record for record in _known(path) if (record["pooling"], record["seed"]) not in tested]
        write_json(path, records + others)


def _test(folder: Path, config: RunConfig, samples: int) -> dict[str, Any]:
    """Say which weights are tested, and how: what an evaluation is known by."""
    return {
        "pooling": config.pooling,
        "seed": config.seed,
        "rules": list(RULES),
        "samples": samples if _draws(config) else None,
        "checkpoint": hashlib.sha256((folder / "last.ckpt").read_bytes()).hexdigest(),
        "device": provenance.device_name(config.device),
        "versions": provenance.versions(),
    }


def _finished(directory: Path, poolings: str | None) -> list[tuple[Path, RunConfig]]:
    """List the finished runs with their folders, in the order of the study's poolings and seeds."""
    paths = [directory / "config.json", *sorted(directory.glob("*/*/config.json"))]
    begun = {path.parent: RunConfig.from_json(read_json(path)) for path in paths if path.exists()}
    finished = {config.pooling: config for folder, config in begun.items() if (folder / "result.json").exists()}
    if not finished:
        raise LabError(
            f"{directory} holds no finished run: expected the folder of a run or a study of empool train or compare"
        )
    wanted = read_poolings(poolings, next(iter(finished.values())).model) if poolings is not None else list(finished)
    if missing := [pooling for pooling in wanted if pooling not in finished]:
        raise LabError(f"{directory} holds no finished run with {', '.join(missing)}")
    runs = []
    for folder, config in begun.items():
        if poolings is not None and config.pooling not in wanted:
            continue
        if not (folder / "result.json").exists():
            _log.info("%s is not finished: left out", folder)
        elif not (folder / "last.ckpt").exists():
            raise LabError(f"{folder} has no last.ckpt, so there are no weights to evaluate: train that run again")
        else:
            runs.append((folder, config))
    study = directory / "study.json"
    order = read_json(study)["poolings"] if study.exists() else []
    places = {pooling: place for place, pooling in enumerate(order)}
    return sorted(runs, key=lambda run: (places.get(run[1].pooling, len(places)), run[1].seed))


def _load(config: RunConfig, source: str | None, label_column: str | None) -> DataSet:
    if source is None and config.data not in sources.KNOWN:
        raise LabError(f"the runs were trained on a folder called {config.data}: say where it is with --data")
    return load_data(
        networks.network(config.model),
        source or config.data,
        config.train_limit,
        config.test_limit,
        validation=config.validation,
        label_column=label_column,
    )


def _evaluate(folder: Path, config: RunConfig, loaded: DataSet, samples: int) -> dict[str, Any]:
    checkpoint = read_checkpoint(folder / "last.ckpt", "delete that folder, and train the run again")
    experiment = Experiment(config, loaded)
    try:
        experiment.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise LabError(f"{folder}/last.ckpt holds another network than {config.model} ({first_line(error)})") from None
    experiment.to(config.device)
    p = config.p
    if p is not None:
        epochs = checkpoint["history"][-1]["epoch"]
        p = schedule.parse(config.p_schedule).value(p, epochs, config.training.epochs)
        set_p(experiment, p)
    tested = experiment.tally(experiment.test_images)
    rules: dict[str, Scores | None] = {**dict.fromkeys(RULES), "expectation": tested.scores()}
    if _draws(config):
        rules["monte_carlo"] = _sampled(experiment, samples)
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
        "pooling": config.pooling,
        "p": p,
        "seed": config.seed,
        "draws": _draws(config),
        "test_images": len(loaded.test),
        **{
            name: None if scores is None else {score: finite(value) for score, value in scores._asdict().items()}
            for name, scores in rules.items()
        },
        "calibration": tested.reliability(),
        "commit": provenance.commit(),
    }


def _draws(config: RunConfig) -> bool:
    # `empool.layer` makes PyTorch's own layers of these, which draw nothing.
    return not isinstance(config.layer, (Max, Average, type(None)))


def _sampled(experiment: Experiment, samples: int) -> Scores:
    torch.manual_seed(derived_seed(experiment.config.seed, "members"))
    tally = Tally(experiment.num_classes, experiment.config.device)
    for images, labels in experiment.plain_batches(experiment.test_images):
        tally.add_probabilities(monte_carlo(experiment, images, samples).probs, labels)
    return tally.scores()
