"""Which test images runs got right, and intervals that take the images for a sample, too."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from empool.lab.errors import LabError

Right = NDArray[np.bool_]  # (images): whether a run got an image right
RESAMPLES = 2000
_AT_ONCE = 100  # resamples whose counts of images are in memory


def which_were_right(record: Mapping[str, Any]) -> Right | None:
    """Read which test images a run got right from its record's "correct", a bit each, and "test_images", if it says."""
    packed, images = record.get("correct"), record.get("test_images")
    if not packed or not images:
        return None
    try:
        bits = np.frombuffer(base64.b64decode(packed, validate=True), dtype=np.uint8)
        if len(bits) != -(-images // 8):
            raise ValueError(f"expected {images} bits, got {8 * len(bits)}")
        return np.unpackbits(bits, count=images).astype(bool)
    except (ValueError, TypeError) as error:
        raise LabError(f"results.json: which images a run got right is damaged ({error})") from None


def two_way(right: Mapping[str, Sequence[Right | None]], baseline: str) -> dict[str, tuple[float, float]]:
    """Give 95 % intervals of differences of test error from the baseline's, by resampling seeds and test images.

    Images are resampled for all poolings together, seeds for each. Deviations between seeds are scaled by
    sqrt(n / (n - 1)), since n resampled seeds spread less than n new ones. The intervals hold at once: each is as many
    bootstrap standard deviations wide as the largest of all differences needs. From few seeds a bootstrap is too
    narrow: it stands beside the test and decides nothing.

    Source: Owen and Eckles, Annals of Applied Statistics 6(3), 2012.
    """
    known = {name: [run for run in runs if run is not None] for name, runs in right.items()}
    images = len(known[baseline][0]) if known.get(baseline) else 0
    wrong = {name: 100.0 * ~np.stack(runs) for name, runs in known.items()
             if len(right[name]) == sum(len(run) == images for run in runs) > 1}  # fmt: skip
    others = [pooling for pooling in wrong if pooling != baseline]
    if baseline not in wrong or not others:
        return {}
    generator = np.random.default_rng(0)
    means: dict[str, list[float]] = {pooling: [] for pooling in wrong}
    for _ in range(RESAMPLES // _AT_ONCE):
        drawn = generator.integers(images, size=(_AT_ONCE, images))
        shares = np.stack([np.bincount(line, minlength=images) for line in drawn]) / images  # (resamples, images)
        for pooling, matrix in wrong.items():
            errors: NDArray[np.float64] = shares @ matrix.T  # (resamples, runs)
            runs = len(matrix)
            chosen = np.take_along_axis(errors, generator.integers(runs, size=errors.shape), axis=1).mean(1)
            centre = errors.mean(1)
            means[pooling].extend(centre + (chosen - centre) * (runs / (runs - 1)) ** 0.5)
    observed = np.array([wrong[pooling].mean() - wrong[baseline].mean() for pooling in others])
    away = np.array([means[pooling] for pooling in others]) - np.array(means[baseline]) - observed[:, None]
    deviations = away.std(1)
    varying = deviations > 0
    if not varying.any():
        return {}
    widths = deviations * np.quantile(np.abs(away[varying] / deviations[varying, None]).max(0), 0.95)
    ends = zip(others, (observed - widths).tolist(), (observed + widths).tolist(), varying, strict=True)
    return {pooling: (low, high) for pooling, low, high, varies in ends if varies}
