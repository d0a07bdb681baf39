"""The same p gives the same bits as at the last release: outputs, indices and gradients."""

from __future__ import annotations

import json
from pathlib import Path

import golden


def test_every_call_gives_the_bits_that_were_written_down() -> None:
    expected = json.loads(Path(__file__).with_name("golden.json").read_text())
    assert len(expected) > 300
    assert dict(golden.calls()) == expected
