"""Images that aren't held in memory: read, and transformed as timm does, when their turn comes."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from empool.lab.data import sources
from empool.lab.data.sets import DataSet, Streamed, stratified
from empool.lab.errors import LabError, first_line
from empool.lab.study.run import RunConfig, derived_seed


def load(folder: Path, train_limit: int | None = None, test_limit: int | None = None) -> DataSet:
    """List the images of a folder for a network of timm; hash their names and labels. See `load.load_data`."""
    from timm.utils.misc import natural_key

    if not folder.is_dir():
        kinds = "a folder (expected train/CLASS/IMAGE and val/CLASS/IMAGE), or on what package.module:factory gives"
        raise LabError(f'no folder "{folder}": networks of timm are trained on {kinds}')
    digest, chosen = hashlib.blake2b(digest_size=16), []
    classes, splits = sources.class_folders(folder, natural_key)
    for listed, limit in zip(splits.values(), (train_limit, test_limit), strict=True):
        listed.sort(key=lambda image: natural_key(str(image[0])))
        for path, label in listed:
            digest.update(f"/{path.parent.name}/{path.name}\0{label}\0".encode())
        images = _Files(listed)
        index = stratified(images.labels, limit)
        chosen.append(Streamed(len(index), functools.partial(View, images, index)))
    return DataSet(folder.resolve().name, chosen[0], chosen[1], classes, digest.hexdigest())


def check_timm() -> None:
    """Import timm, or say what keeps it from being imported."""
    try:
        import timm.data  # noqa: F401
    except ModuleNotFoundError:
        raise
    except (AttributeError, ImportError, OSError, RuntimeError) as error:  # Of a torchvision of another build.
        raise LabError(f"timm: {first_line(error)}: install the torchvision for PyTorch {torch.__version__}") from error


class _Files(Dataset[tuple[Any, int]]):
    """Files of images, with their labels."""

    def __init__(self, listed: Sequence[tuple[Path, int]]) -> None:
        self.paths = [str(path) for path, _ in listed]
        self.labels = np.array([label for _, label in listed], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        try:
            with Image.open(self.paths[index]) as image:
                return sources.eight_bits(image), int(self.labels[index])
        except Exception as error:  # Decoders raise OSError, SyntaxError, ValueError, struct.error and others.
            raise sources.undecodable(self.paths[index], error) from None


class View(Dataset[tuple[Any, int]]):
    """A pass over images of PIL as timm's transforms make them; draws for one don't depend on who makes them."""

    def __init__(self, images: Dataset[Any], index: Any, config: RunConfig, training: bool) -> None:
        from timm.data import create_transform

        self.images, self.index = images, index
        self.seed, self.epoch = config.seed if training else None, 0
        recipe: Any = config.training
        resized, *others = recipe.augment.split(",")
        jitter = [float(part.removeprefix("jitter:")) for part in others if part != "mirror"]
        self.transform = create_transform(
            recipe.image_size,
            is_training=training,
            no_aug=resized == "none",
            hflip=0.5 * ("mirror" in others),
            color_jitter=jitter[0] if jitter else None,
            interpolation="bilinear",
            crop_pct=recipe.test_crop,
        )

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        index = int(self.index[place])
        image, label = self.images[index]
        pixels = sources.eight_bits(image).convert("RGB")
        if self.seed is None:
            return self.transform(pixels), int(label)
        with _drawing(derived_seed(self.seed, f"augment {index}", self.epoch)):
            return self.transform(pixels), int(label)


@contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """Seed the generators that timm's and torchvision's transforms draw from, and leave them as they were."""
    state = random.getstate()
    random.seed(seed)
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)  # Not torch.manual_seed, which seeds GPUs as well.
        yield
    random.setstate(state)
