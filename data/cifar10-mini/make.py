"""Make cifar10-mini from a copy of CIFAR-10: `python data/cifar10-mini/make.py FOLDER`.

FOLDER holds CIFAR-10 as parquet files with the columns `img` and `label`, as the data set uoft-cs/cifar10 of the public
hub has it. The images of each class whose pixels have the smallest SHA-256 are taken: the order of the rows doesn't
matter.
"""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HERE = Path(__file__).parent
SIZES = {"train": 2000, "test": 2000}
CLASSES = 10


def choose(folder: Path, split: str) -> pa.Table:
    """Choose a split's images, the same number of each class, sorted by the hash of their pixels."""
    table = pa.concat_tables([pq.read_table(path) for path in sorted(folder.rglob(f"{split}-*.parquet"))])
    labels = table["label"].to_pylist()
    by_class: list[list[tuple[str, bytes]]] = [[] for _ in range(CLASSES)]
    for label, row in zip(labels, table["img"].to_pylist(), strict=True):
        pixels = Image.open(io.BytesIO(row["bytes"])).convert("RGB").tobytes()
        by_class[label].append((hashlib.sha256(pixels).hexdigest(), pixels))
    each = SIZES[split] // CLASSES
    chosen = sorted((*image, label) for label, images in enumerate(by_class) for image in sorted(images)[:each])
    images = [{"bytes": lossless(pixels), "path": None} for _, pixels, _ in chosen]
    arrays = [pa.array(images, table["img"].type), pa.array([label for *_, label in chosen], pa.int64())]
    return pa.Table.from_arrays(arrays, schema=table.schema)


def lossless(pixels: bytes) -> bytes:
    """Encode the 32x32 pixels as the smallest lossless WebP."""
    file = io.BytesIO()
    Image.frombytes("RGB", (32, 32), pixels).save(file, "WebP", lossless=True, quality=100, method=6)
    return file.getvalue()


if __name__ == "__main__":
    for split in SIZES:
        pq.write_table(
            choose(Path(sys.argv[1]), split), HERE / f"{split}.parquet", compression="none", use_dictionary=False
        )
