"""The notebook runs from its top, only shorter, and finds what it says."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tiny_data import python_path

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
NOTEBOOK = Path(__file__).parents[1] / "examples" / "poolings.ipynb"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook(tmp_path, monkeypatch):
    for name, value in (
        ("EMPOOL_QUICK", str(tmp_path / "study")),
        ("PYTHONPATH", python_path()),
        ("OMP_NUM_THREADS", "1"),
        ("JUPYTER_PLATFORM_DIRS", "1"),
        ("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME", str(tmp_path / "cache"))),
    ):
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    shares = [int(share) for share in re.findall(r"in (\d+)% of windows", printed)]
    assert len(shares) == 3
    assert min(shares) > 55  # four of a window's eight other places touch its middle; fewer touch a corner
