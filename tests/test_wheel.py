"""What a wheel holds: all that is imported or read at run time, and no sources of what is compiled."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """Build a wheel of a copy, without its kernels."""
    tree = tmp_path_factory.mktemp("tree")
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / file, tree)
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("*.so", "*.egg-info", "__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", "dist", "."]
    subprocess.run(
        command, cwd=tree, env={**os.environ, "EMPOOL_BUILD": "0"}, check=True, capture_output=True, timeout=300
    )
    (path,) = (tree / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def names(wheel: zipfile.ZipFile) -> set[str]:
    """List its files."""
    return set(wheel.namelist())


def test_the_links_of_its_page_lead_out_of_the_repository(wheel: zipfile.ZipFile) -> None:
    """PyPI's page stands alone, so no link is relative; the README's are."""
    (name,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
    page = wheel.read(name).decode()
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert len(links) > 8
    assert [link for link in links if not link.startswith("https://")] == []
    assert page.count('<img src="https://github.com/empool/empool/raw/main/docs/images/') == 2


def test_every_module_is_there(names: set[str]) -> None:
    modules = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    assert len(modules) > 90
    assert modules <= names


def test_so_is_what_the_package_reads(names: set[str]) -> None:
    report = ROOT / "src/empool/lab/report"
    read = {f"empool/lab/report/{path.name}" for path in report.iterdir() if path.suffix in (".jinja", ".css", ".js")}
    assert len(read) == 3
    assert read | {"empool/py.typed"} <= names


def test_sources_of_the_kernels_are_not(names: set[str]) -> None:
    assert not [name for name in names if name.endswith((".cpp", ".h")) or "csrc" in name]


def test_an_isolated_build_finds_the_environments_pytorch(tmp_path: Path) -> None:
    """`pip install .` builds where only setuptools is: without PyTorch it would leave the kernels out."""
    setuptools = Path(importlib.util.find_spec("setuptools").origin).parent
    (tmp_path / "setuptools").symlink_to(setuptools)
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.path[:] = [path for path in sys.path if not path.endswith('-packages')]\n"
    )
    script = (
        "import runpy, setuptools, sys\n"
        "assert 'torch' not in sys.modules and not any(path.endswith('-packages') for path in sys.path)\n"
        "setuptools.setup = lambda **options: print(options['ext_modules'][0].name)\n"
        "runpy.run_path('setup.py')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "EMPOOL_BUILD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, check=False, capture_output=True, text=True
    )
    assert done.stdout.strip() == "empool._C", done.stderr
