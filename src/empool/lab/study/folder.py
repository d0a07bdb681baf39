"""A study's folder: locked while it is written to, claimed for one configuration, its records gathered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from empool.lab.errors import LabError, refusal, unwritable
from empool.lab.files import REWRITE, checked, read_json, remove_unfinished, write_json
from empool.lab.study.run import RunConfig, difference, planned, read_study, results


@contextmanager
def opened(directory: Path, lock: str = ".lock", patience: float = 0) -> Iterator[None]:
    """Make a study's folder if it is not there, and keep others out who would lock the same file in it.

    They are waited for so many seconds, or with -1 as long as it takes.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / lock, timeout=patience):
            yield
    except Timeout:
        raise LabError(f"another process is writing to {directory}; wait for it, or choose another --out") from None
    except OSError as error:
        if (refused := refusal(error)) is None:
            raise
        raise unwritable(refused, refused.filename or directory) from error


def gather(directory: Path) -> list[dict[str, Any]]:
    """Write the records of all finished runs to results.json, and return them."""
    records = results(directory)
    write_json(directory / "results.json", records)
    return records


def claim(directory: Path, runs: Sequence[RunConfig], command: str) -> None:
    """Write study.json, or add to it what was typed for runs of one configuration; another one is refused."""
    path = directory / "study.json"
    settings = runs[0].settings()
    assert all(config.settings() == settings for config in runs)
    typed: dict[str, Any] = {
        "command": command,
        "poolings": list(dict.fromkeys(config.pooling for config in runs)),
        "seeds": sorted({config.seed for config in runs}),
    }
    commands, study = [typed], read_study(directory)
    if study is not None:
        checked(study["configuration"], f"{path}, configuration", {"recipe": dict}, REWRITE)
        known = [study["configuration"]]
    else:  # The runs say the same.
        began = sorted(directory.glob("*/*/config.json"))
        known = [RunConfig.from_json(read_json(one), str(one)).settings() for one in began]
        if not known and (directory / "results.json").exists():
            raise LabError(f"{directory} holds results without their runs: choose another --out")
    for other in filter(None, (difference(settings, one) for one in known)):
        if other.startswith("fingerprint"):
            other = f"other images than {settings['data']} has now"
        raise LabError(f"{directory} holds a study with {other}: choose another --out, or delete that folder")
    before, wanted = study["commands"] if study else [], planned(commands)
    done = {(record["pooling"], record["seed"]) for record in results(directory)}
    if before and wanted <= done and planned(before) <= done:
        commands = before  # Nothing is added.
    else:  # Of a command before this one, the finished runs count.
        commands = [one for one in before if planned([one]) & done - wanted] + commands
    content = {
        "command": commands[-1]["command"],
        "configuration": settings,
        "poolings": list(dict.fromkeys(pooling for one in commands for pooling in one["poolings"])),
        "seeds": sorted({seed for _, seed in done}.union(commands[-1]["seeds"])),
        "commands": commands,
    }
    remove_unfinished(directory)
    write_json(path, content)
