"""A study: one network with several poolings and seeds, in a folder, done once however often it is started."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from empool.lab.data.sets import Data
from empool.lab.errors import LabError, is_disk_full, refusal
from empool.lab.execute.launch import Launcher
from empool.lab.files import read_json, remove_unfinished, write_json
from empool.lab.study.run import RunConfig, difference, planned, results
from empool.lab.watch.loggers import Loggers
from empool.lab.watch.progress import Progress


def plan(config: RunConfig, poolings: Sequence[str], seeds: Sequence[int]) -> list[RunConfig]:
    """List the runs of a study: all poolings with the first seed, then with the second, ..."""
    return [dataclasses.replace(config, pooling=pooling, seed=seed) for seed in seeds for pooling in poolings]


def run(
    directory: Path,
    runs: Sequence[RunConfig],
    data: Data,
    launcher: Launcher,
    progress: Progress,
    command: str,
    loggers: Loggers = Loggers(),  # noqa: B008  # frozen
) -> list[dict[str, Any]]:
    """Do the runs of a study that are missing, and gather all results in results.json after each.

    Args:
        directory: of the study; made if it is not there.
        runs: all of one configuration, apart from pooling and seed.
        data: what they are trained on.
        launcher: does them.
        progress: shows them.
        command: what was typed, for study.json.
        loggers: are told of the runs that are missing.

    Returns:
        The records of all finished runs in the folder, in the order of its poolings and seeds.

    Raises:
        LabError: if the folder holds a study of another configuration or of images that have changed since, another
            process writes there, it cannot be written to, or the disk is full.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory):
            _claim(directory, runs, data, command)
            remove_unfinished(directory)
            missing = [config for config in runs if not (config.folder(directory) / "result.json").exists()]
            _gather(directory)
            if missing:
                loggers.prepare(directory)
            progress.begin(runs, results(directory), len(data.train))
            try:
                for _ in launcher.launch(missing, data, directory, progress, loggers):
                    _gather(directory)
            except KeyboardInterrupt:
                _gather(directory)  # A run may have ended just before.
                raise
            return results(directory)
    except OSError as error:
        refused = refusal(error)
        if refused is None:
            raise
        path = refused.filename or directory
        if is_disk_full(refused):
            raise LabError(
                f"no space left to write {path}: make room and start again, and the study goes on where it was"
            ) from error
        raise LabError(
            f"cannot write to {path} ({refused.strerror}): make it writable or choose another --out"
        ) from error


def _gather(directory: Path) -> None:
    write_json(directory / "results.json", results(directory))


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise LabError(f"another process is writing to {directory}; wait for it, or choose another --out") from None
    try:
        yield
    finally:
        lock.release()


def _claim(directory: Path, runs: Sequence[RunConfig], data: Data, command: str) -> None:
    """Write study.json and data.json, or add to them; refuse a folder of another configuration."""
    path = directory / "study.json"
    settings = runs[0].settings()
    assert all(config.settings() == settings for config in runs)
    typed: dict[str, Any] = {
        "command": command,
        "poolings": list(dict.fromkeys(config.pooling for config in runs)),
        "seeds": sorted({config.seed for config in runs}),
    }
    commands = [typed]
    if path.exists():
        study = read_json(path)
        _check_files(directory, settings, study["configuration"], data)
        other = difference(settings, study["configuration"])
        if other is not None:
            raise LabError(f"{directory} holds a study with {other}: choose another --out, or delete that folder")
        commands = _with(typed, study.get("commands") or [{name: study[name] for name in typed}])
    elif any(directory.glob("*/*/config.json")) or (directory / "results.json").exists():
        raise LabError(f"{directory} holds runs but no study.json: choose another --out")
    content = {
        "command": commands[-1]["command"],
        "configuration": settings,
        "poolings": list(dict.fromkeys(pooling for one in commands for pooling in one["poolings"])),
        "seeds": sorted({seed for one in commands for seed in one["seeds"]}),
        "commands": commands,
    }
    write_json(path, content)
    if data.files:
        write_json(directory / "data.json", data.files)


def _with(typed: dict[str, Any], commands: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add a command to those that added runs, if it does so; in the place of itself, typed for fewer runs."""
    if planned([typed]).keys() <= planned(commands).keys():
        return list(commands)
    covered = planned([typed]).keys()
    return [
        *(one for one in commands if one["command"] != typed["command"] or not planned([one]).keys() <= covered),
        typed,
    ]


def _check_files(directory: Path, ours: Mapping[str, Any], theirs: Mapping[str, Any], data: Data) -> None:
    """Refuse images that have changed since the study began, and say in which files."""
    written = directory / "data.json"
    if ours["fingerprint"] == theirs["fingerprint"] or ours["data"] != theirs["data"] or not written.exists():
        return
    before = read_json(written)
    changed = sorted(name for name in {*before, *data.files} if before.get(name) != data.files.get(name))
    if changed:
        name = changed[0]
        how = "is new" if name not in before else "has changed" if name in data.files else "is missing"
        more = f", and {len(changed) - 1} other files are not what they were" if len(changed) > 1 else ""
        raise LabError(
            f"{directory} holds a study of other images: {data.name}/{name} {how}{more}; "
            "put back what was there, or choose another --out"
        )
