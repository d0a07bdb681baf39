"""Sort the records of `study_gpu.py` into the lab's folders, one study a folder.

    python benchmarks/study_records.py records.jsonl [--choice choice.json] [--out results]

Writes results.json in OUT/airbench/stage2/SETTING, OUT/airbench/check, OUT/table1-cuda and OUT/table2-cuda. Stage 1 has
no test error, only that on held-out images, so its records go to OUT/airbench/stage1/SETTING/validation.json.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import Any

from study_gpu import TABLE_1, TABLE_2

FOLDERS = {"check": "airbench/check", "table1": "table1-cuda", "table2": "table2-cuda"}
ROWS = {"table1-cuda": TABLE_1, "table2-cuda": TABLE_2}  # the order of the paper's rows


# PyTorch's gradient of padded average pooling was wrong on CUDA in channels-last (pytorch issue 188344); the layer
# avoids that now.
WRONG = ("table1", "average", "ac2b44bf1e1cd8725650c243f98dea592d4fe90c")


def folder(record: dict[str, Any]) -> str:
    """Give the folder of a record, within that of the results."""
    return FOLDERS.get(record["part"]) or f"airbench/{record['part']}/{record['setting']}"


def finite(value: Any) -> Any:
    """Put None in the place of every number that JSON lacks."""
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, nargs="+")
    parser.add_argument("--choice", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    studies: dict[str, dict[tuple[str, int], dict[str, Any]]] = {}
    for path in options.records:
        for line in path.read_text(encoding="utf-8").splitlines():
            record = finite(json.loads(line))
            if (record["part"], record["pooling"], record["commit"]) == WRONG:
                continue
            for rule in record["rules"].values():
                rule.pop("calibration", None)
            # A run that was done again, after a call was broken off, counts as it was done first.
            studies.setdefault(folder(record), {}).setdefault((record["pooling"], record["seed"]), record)
    for name, runs in studies.items():
        target = options.out / name
        target.mkdir(parents=True, exist_ok=True)
        records = list(runs.values())
        if rows := ROWS.get(name):
            records.sort(key=lambda record: rows.index(record["pooling"]))
        text = ",\n".join(json.dumps(record) for record in records)
        held_out = all("test_error" not in record for record in runs.values())
        (target / ("validation.json" if held_out else "results.json")).write_text(f"[\n{text}\n]\n", encoding="utf-8")
        print(f"{target}: {len(runs)} runs")
    if options.choice:
        shutil.copyfile(options.choice, options.out / "airbench" / "choice.json")


if __name__ == "__main__":
    main()
