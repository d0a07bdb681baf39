"""What the GPU studies share: CIFAR-10 from parquet files, CUDA graphs, and scores, all on the device."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ECE_BINS = 15


def derived_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """Derive the seed of one stream of random numbers, as `empool.lab` does."""
    digest = hashlib.blake2b(f"{seed} {purpose} {epoch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def stratified(labels: np.ndarray, limit: int, seed: int = 0) -> np.ndarray:
    """Choose `limit` images, the same number of each class, always the same ones, as `empool.lab` does."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_class[np.argsort(place, kind="stable")[:limit]])


def _decode(encoded: list[bytes]) -> np.ndarray:
    from PIL import Image

    return np.stack([np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in encoded])


def cifar10(folder: Path, cache: Path | None = None) -> dict[str, np.ndarray]:
    """Read ``train-*.parquet`` and ``test-*.parquet``, images decoded by all cores.

    A cache may hold a part of the training images, and which ones in ``train_index``: the others are black, and a study
    of those fails.

    Returns:
        ``train_images`` (50000, 32, 32, 3) uint8, ``train_labels`` int64, and the same of ``test``.
    """
    if cache is not None and cache.exists():
        with np.load(cache) as kept:
            arrays = {name: kept[name] for name in kept.files}
        if "train_index" in arrays:
            held = arrays["train_images"]
            arrays["train_images"] = np.zeros((len(arrays["train_labels"]), *held.shape[1:]), held.dtype)
            arrays["train_images"][arrays["train_index"]] = held
        return arrays
    import pyarrow.parquet as parquet

    found: dict[str, np.ndarray] = {}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for split in ("train", "test"):
            paths = sorted(folder.glob(f"{split}-*.parquet"))
            if not paths:
                raise FileNotFoundError(f"{folder} has no {split}-*.parquet")
            encoded: list[bytes] = []
            labels: list[int] = []
            for path in paths:
                table = parquet.read_table(path)
                image = next(name for name in ("img", "image") if name in table.column_names)
                encoded += [row["bytes"] for row in table[image].to_pylist()]
                labels += table["label"].to_pylist()
            parts = [encoded[first : first + 1000] for first in range(0, len(encoded), 1000)]
            found[f"{split}_images"] = np.concatenate(list(pool.map(_decode, parts)))
            found[f"{split}_labels"] = np.array(labels, dtype=np.int64)
    if cache is not None:
        unfinished = cache.with_suffix(".part.npz")
        np.savez(unfinished, **found)  # type: ignore[arg-type]
        unfinished.replace(cache)
    return found


def synthetic(train: int, test: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Make images that can be learnt a little: of each class a pattern of its own, and noise."""
    random = np.random.default_rng(seed)
    patterns = random.integers(0, 256, (10, 8, 8, 3)).repeat(4, 1).repeat(4, 2)
    found: dict[str, np.ndarray] = {}
    for split, count in (("train", train), ("test", test)):
        labels = np.arange(count, dtype=np.int64) % 10
        noise = random.normal(0, 70, (count, 32, 32, 3))
        found[f"{split}_images"] = (0.4 * patterns[labels] + 76 + noise).clip(0, 255).astype(np.uint8)
        found[f"{split}_labels"] = labels
    return found


def captured(step: Callable[[], None], state: Sequence[Tensor], warmup: int = 3) -> Callable[[], None]:
    """Capture a step as a CUDA graph, and return its replay.

    Args:
        step: reads and writes tensors that stay where they are, and waits for nothing.
        state: what the step changes; it is put back, so that capturing trains nothing.
        warmup: steps before it, in which kernels are compiled and algorithms chosen.
    """
    saved = [one.clone() for one in state]

    def put_back() -> None:
        for one, before in zip(state, saved, strict=True):
            one.copy_(before)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        for _ in range(warmup):
            with torch.enable_grad():
                step()
            put_back()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    with torch.no_grad():
        put_back()
    torch.cuda.synchronize()
    return graph.replay


def scores(logits: Tensor, labels: Tensor, bits: bool = False) -> dict[str, Any]:
    """Score predictions: error, top-5 error and ECE in percent, NLL in nats; ECE over 15 bins, as `empool.lab` does.

    Args:
        logits: ``(N, classes)``.
        labels: ``(N,)``.
        bits: also return which images were right, packed and in base 64.
    """
    logits = logits.double()
    probs = logits.softmax(1)
    confidence, predicted = probs.max(1)
    right = predicted == labels
    edges = torch.linspace(0, 1, ECE_BINS + 1, dtype=torch.float64, device=logits.device)
    bins = torch.bucketize(confidence, edges[1:-1], right=True)
    zeros = torch.zeros(ECE_BINS, dtype=torch.float64, device=logits.device)
    sums = zeros.index_add(0, bins, confidence)
    hits = zeros.index_add(0, bins, right.double())
    count = zeros.index_add(0, bins, torch.ones_like(confidence))
    top5 = (logits.topk(min(5, logits.shape[1]), 1).indices == labels[:, None]).any(1)
    numbers = torch.stack(
        (
            100 * (1 - right.double().mean()),
            F.cross_entropy(logits, labels),
            100 * (sums - hits).abs().sum() / len(labels),
            100 * (1 - top5.double().mean()),
        )
    )
    error, nll, ece, top5_error = numbers.tolist()
    finite = nll == nll and abs(nll) != float("inf")
    found: dict[str, Any] = {
        "error": error,
        "nll": nll if finite else None,
        "ece": ece if finite else None,
        "top5_error": top5_error,
    }
    if bits:
        found["correct"] = base64.b64encode(np.packbits(right.cpu().numpy())).decode()
        if finite:
            means = torch.stack((sums, hits)) / count.clamp_min(1)
            empty = (count == 0).tolist()
            named = zip(("confidence", "accuracy"), means.tolist(), strict=True)
            found["calibration"] = {
                name: [None if none else round(value, 6) for value, none in zip(values, empty, strict=True)]
                for name, values in named
            }
            found["calibration"]["count"] = [int(number) for number in count.tolist()]
    return found
