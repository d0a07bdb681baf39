"""The working tree against a revision: the kernel tests as a gate, then the same cases in both, ratio by ratio."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import empool
from empool.bench import cases
from empool.bench.cases import Case
from empool.lab.errors import LabError
from empool.lab.train import signals

GATE = "tests/test_kernels.py"
SAME = 0.05
"""Ratios nearer than this share are called the same, and those whose quartiles overlap."""

# The revision's empool with this one's bench, so that both are measured by the same code.
_BOOTSTRAP = """
import importlib.util, sys
src, bench = sys.argv[1:3]
sys.path.insert(0, src)
import empool
spec = importlib.util.spec_from_file_location(
    "empool.bench", bench + "/__init__.py", submodule_search_locations=[bench]
)
module = importlib.util.module_from_spec(spec)
sys.modules["empool.bench"] = empool.bench = module
spec.loader.exec_module(module)
from empool.bench import worker
worker.main()
"""


def repository() -> Path:
    """Return the root of the git repository that empool is imported from.

    Raises:
        LabError: if it is not in one.
    """
    root = Path(empool.__file__).resolve().parents[2]
    if not (root / ".git").exists() or not (root / GATE).exists():
        raise LabError("bench: --base compares revisions: run it from a clone, installed with pip install --editable")
    return root


def check(root: Path) -> None:
    """Build the working tree's kernels, if it has any, and run their tests: where one fails, times mean nothing.

    Raises:
        LabError: if they don't build, or a test fails.
    """
    if _built(root):
        _build(root, "the working tree")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", GATE]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise LabError(f"bench: the kernel tests fail, so no speed-up is reported\n{done.stdout[-2000:]}")


@contextmanager
def built(root: Path, revision: str, say: Callable[[str], None]) -> Iterator[tuple[Path, str]]:
    """Check a revision out into a folder of its own and build its kernels there; yields its src and its commit.

    Nothing of it is left when the context ends, on SIGTERM too.

    Raises:
        LabError: if there is no such revision, or it does not build.
    """
    commit = _run(["git", "rev-parse", "--verify", f"{revision}^{{commit}}"], root, f"no revision {revision}").strip()
    with signals.raised(), tempfile.TemporaryDirectory(prefix="empool-base-") as folder:
        tree = Path(folder) / "tree"
        _run(["git", "worktree", "add", "--detach", str(tree), commit], root, f"git cannot check out {revision}")
        try:
            say(f"building {commit[:9]}")
            _build(tree, revision, wanted=bool(_built(root)))
            yield tree / "src", commit
        finally:
            _run(["git", "worktree", "remove", "--force", str(tree)], root, "git cannot remove the worktree")


def _built(tree: Path) -> list[Path]:
    return list((tree / "src/empool").glob("_C.*"))


def _is_fresh(tree: Path) -> bool:
    """Tell whether a tree has kernels that are younger than their sources."""
    sources = max((file.stat().st_mtime for file in (tree / "src/empool/csrc").glob("*")), default=0.0)
    return any(file.stat().st_mtime >= sources for file in _built(tree))


def _build(tree: Path, name: str, *, wanted: bool = True) -> None:
    """Build a tree's kernels: the setup itself carries on where they don't compile, and old or none would be timed."""
    if _is_fresh(tree):
        return
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode or (wanted and not _is_fresh(tree)):
        raise LabError(f"bench: {name} does not build: {done.stdout.strip()[-1000:]}")


def _run(command: Sequence[str], where: Path, problem: str) -> str:
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"bench: {problem}: {done.stderr.strip()[-1000:]}")
    return done.stdout


def worker(src: Path) -> list[str]:
    """Return the command that measures with the empool in `src`."""
    return [sys.executable, "-c", _BOOTSTRAP, str(src), str(Path(__file__).parent)]


def comparable(planned: Sequence[Case]) -> list[Case]:
    """Return the cases that a revision has too: layers by their public names, not operators, whose schemas change."""
    phases = (cases.STEP, cases.TEST, cases.FORWARD)
    others = (*cases.PEERS, cases.UNFOLD, cases.UNFOLD_COMPILED, cases.MAX_COMPILED)
    return [
        dataclasses.replace(case, contestants=tuple(name for name in case.contestants if name not in others))
        for case in planned
        if case.phase in phases
    ]


def compared(rows: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Pair the rows of the working tree with a revision's: each has its time relative to max-pooling in its process."""
    key = ("phase", "shape", "window", "layout", "dtype", "memory", "contestant")
    known = {tuple(map(str, (row[name] for name in key))): row for row in before}
    found = []
    for row in rows:
        old = known.get(tuple(map(str, (row[name] for name in key))))
        if old is None or row["contestant"] in (row["baseline"], cases.COPY):
            continue
        new_ratio, old_ratio = row["ratio"]["median"], old["ratio"]["median"]
        names = {name: row[name] for name in key}
        found.append(
            {
                **names,
                "ratio": new_ratio,
                "base_ratio": old_ratio,
                "speed_up": old_ratio / new_ratio,
                # Quartiles that overlap: the rounds of one process differ more than the two trees.
                "apart": max(row["ratio"]["lower"], old["ratio"]["lower"])
                > min(row["ratio"]["upper"], old["ratio"]["upper"]),
            }
        )
    return found


def lines(pairs: Sequence[Mapping[str, Any]], commit: str) -> Iterator[str]:
    """Yield the comparison for a terminal."""
    yield ""
    yield f"Relative to max-pooling: this tree, {commit[:9]}, and how many times as fast this tree is"
    for pair in pairs:
        shape = "x".join(map(str, pair["shape"]))
        what = f"{cases.PHASES[pair['phase']]}, {shape}, {pair['window']}, {pair['layout']}, {pair['dtype']}"
        if pair["memory"] == cases.AS_IT_COMES:
            what += ", memory as it comes"
        speed = pair["speed_up"]
        same = abs(speed - 1) <= SAME or not pair["apart"]
        verdict = "same" if same else "faster" if speed > 1 else "SLOWER"
        yield f"{what}: {pair['contestant']}  {pair['ratio']:.2f}  {pair['base_ratio']:.2f}  {speed:.2f} {verdict}"
