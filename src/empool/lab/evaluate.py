"""Trained networks tested by every rule: the expectation in one pass, members drawn and averaged, plain max."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rich.box
import rich.table
import torch

from empool import Average, Max, models, monte_carlo, set_p
from empool.lab import provenance, schedule, sources, statistics
from empool.lab.checkpoint import first_line, read_checkpoint
from empool.lab.data import Data
from empool.lab.errors import LabError
from empool.lab.experiment import Experiment, finite
from empool.lab.files import read_json, write_json
from empool.lab.metrics import Scores, Tally
from empool.lab.options import device_named, load_data
from empool.lab.report import table
from empool.lab.run import RunConfig, derived_seed, own_p
from empool.lab.training import make_experiment

RULES = {"expectation": "expectation", "monte_carlo": "Monte Carlo", "plain_max": "plain max"}
"""The testing rules, as the records and as people call them."""


def evaluate(
    directory: Path, *, samples: int, source: str | None, device: str, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Test the finished runs of a folder by every rule, and write evaluation.json there.

    Args:
        directory: of a run or of a study.
        samples: members of the ensemble that Monte Carlo draws for every image.
        source: name of the data set or a folder; None for the name that the runs have.
        device: "auto", "cpu" or "cuda".
        say: takes a line on what takes time.

    Returns:
        One record a run. "expectation" is the testing phase, one deterministic pass; "monte_carlo" the mean of the
        probabilities of `samples` members (`empool.monte_carlo`), None for a pooling that draws nothing, whose members
        are all the single pass; "plain_max" the single pass with p set to 0, None for a pooling without p. Each has
        "error" and "ece" in percent and "nll" in nats; what is not finite is None. "calibration" has the bins of the
        calibration error of the single pass (`Tally.reliability`), which a report takes where a run has none.

    Raises:
        LabError: if there is no finished run, or no checkpoint or data set of one.
    """
    folders = _finished(directory, say)
    configs = [RunConfig.from_json(read_json(folder / "config.json")) for folder in folders]
    loaded = _load(configs[0], source, say)
    records = []
    for folder, config in zip(folders, configs, strict=True):
        if config.fingerprint != loaded.fingerprint:
            raise LabError(
                f"{source or config.data} is not what {folder} was trained on, or has changed since (fingerprint "
                f"{loaded.fingerprint}, not {config.fingerprint}): evaluate with the data set of then"
            )
        say(f"{config.pooling}, seed {config.seed}")
        records.append(_evaluate(folder, dataclasses.replace(config, device=device_named(device)), loaded, samples))
    write_json(directory / "evaluation.json", records)
    return records


def _finished(directory: Path, say: Callable[[str], None]) -> list[Path]:
    """List the folders of the finished runs, in the order of the study's poolings and seeds."""
    configs = [directory / "config.json", *sorted(directory.glob("*/*/config.json"))]
    begun = [path.parent for path in configs if path.exists()]
    folders = [folder for folder in begun if (folder / "result.json").exists()]
    if not folders:
        raise LabError(
            f"{directory} holds no finished run: expected the folder of a run or a study of empool train or compare"
        )
    for folder in folders:
        if not (folder / "last.ckpt").exists():
            raise LabError(f"{folder} has no last.ckpt, so there are no weights to evaluate: train that run again")
    for folder in begun:
        if folder not in folders:
            say(f"{folder} is not finished: left out")
    study = directory / "study.json"
    order = read_json(study)["poolings"] if study.exists() else []

    def place(folder: Path) -> tuple[int, int]:
        config = read_json(folder / "config.json")
        return order.index(config["pooling"]) if config["pooling"] in order else len(order), config["seed"]

    return sorted(folders, key=place)


def _load(config: RunConfig, source: str | None, say: Callable[[str], None]) -> Data:
    if source is None and config.data not in sources.KNOWN:
        raise LabError(f"the runs were trained on a folder called {config.data}: say where it is with --data")
    network = models.network(config.model)
    return load_data(network, source or config.data, config.train_limit, config.test_limit, None, say)


def _evaluate(folder: Path, config: RunConfig, loaded: Data, samples: int) -> dict[str, Any]:
    checkpoint = read_checkpoint(folder / "last.ckpt", "delete that folder, and train the run again")
    experiment = make_experiment(config, loaded, lambda epochs, row: None)
    try:
        experiment.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise LabError(f"{folder}/last.ckpt holds another network than {config.model} ({first_line(error)})") from None
    experiment.to(config.device)
    p = own_p(config.pooling)
    if p is not None:
        epochs = checkpoint["history"][-1]["epoch"]
        p = schedule.parse(config.p_schedule).value(p, epochs, config.recipe.epochs)
        set_p(experiment, p)
    rules: dict[str, Scores | None] = dict.fromkeys(RULES)
    tested = experiment.tally(experiment.test_images)
    rules["expectation"] = tested.scores()
    # `empool.layer` makes PyTorch's own layers of these, which draw nothing.
    draws = not isinstance(models.read_pooling(config.pooling), (Max, Average, type(None)))
    if draws:
        rules["monte_carlo"] = _sampled(experiment, samples)
    if p is not None:
        set_p(experiment, 0)
        rules["plain_max"] = experiment.test(experiment.test_images)
    return {
        "data": config.data,
        "model": config.model,
        "pooling": config.pooling,
        "p": p,
        "seed": config.seed,
        "draws": draws,
        "samples": samples if draws else None,
        "test_images": len(loaded.test),
        **{
            name: None if scores is None else {score: finite(value) for score, value in scores._asdict().items()}
            for name, scores in rules.items()
        },
        "calibration": tested.reliability(),
        "device": provenance.device_name(config.device),
        "versions": provenance.versions(),
        "commit": provenance.commit(),
    }


def _sampled(experiment: Experiment, samples: int) -> Scores:
    torch.manual_seed(derived_seed(experiment.config.seed, "members"))
    tally = Tally(experiment.num_classes, experiment.config.device)
    for images, labels in experiment.plain_batches(experiment.test_images):
        tally.add_probabilities(monte_carlo(experiment, images, samples).probs, labels)
    return tally.scores()


def terminal(records: Sequence[dict[str, Any]]) -> rich.table.Table:
    """Lay the records out as a table of the terminal: a row for each pooling and rule, means over seeds."""
    shown = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for header in ("Pooling", "Testing rule"):
        shown.add_column(header, no_wrap=True)
    for header in ("Runs", "Error %", "NLL", "ECE %"):
        shown.add_column(header, justify="right")
    for pooling in dict.fromkeys(record["pooling"] for record in records):
        for rule, name in RULES.items():
            runs = [record[rule] for record in records if record["pooling"] == pooling and record[rule] is not None]
            if runs:
                shown.add_row(
                    pooling if rule == "expectation" else "",
                    name,
                    str(len(runs)),
                    *(
                        table.decimals(statistics.mean([run[score] for run in runs]), places)
                        for score, places in (("error", 2), ("nll", 4), ("ece", 2))
                    ),
                )
    return shown


def remarks(records: Sequence[dict[str, Any]]) -> list[str]:
    """Say what the rules are, and which poolings have only one."""
    samples = next((record["samples"] for record in records if record["draws"]), None)
    said = ["expectation: the testing phase, one deterministic pass."]
    if samples is not None:
        said.append(f"Monte Carlo: the mean of the probabilities of {samples} members, drawn for every image anew.")
    if any(record["plain_max"] is not None for record in records):
        said.append("plain max: one pass with p = 0.")
    still = dict.fromkeys(record["pooling"] for record in records if not record["draws"])
    if still:
        draw = "draws" if len(still) == 1 else "draw"
        said.append(f"{', '.join(still)} {draw} nothing: Monte Carlo would be the single pass.")
    return said
