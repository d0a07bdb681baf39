"""Images that aren't held in memory: of class folders or the hub, read for networks of timm when their turn comes."""

from __future__ import annotations

import functools
import hashlib
import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from empool.lab.data import sources
from empool.lab.data.sets import DataSet, Streamed, stratified
from empool.lab.errors import LabError
from empool.lab.study.run import RunConfig, derived_seed

_HUB = "hfds/"  # prefix of data sets of the hub


def load(source: str, train_limit: int | None = None, test_limit: int | None = None) -> DataSet:
    """Find the images for a network of timm.

    Args:
        source: a folder with train/CLASS/IMAGE and val/CLASS/IMAGE (or test/), or "hfds/NAME" for a data set of the
            hub or a folder of parquet files with columns "image" and "label".
        train_limit: number of training images to keep, as many of each class as of any other; None keeps all.
        test_limit: of test images, likewise.

    Raises:
        LabError: for a source that is absent or incomplete.
    """
    of_hub = source.startswith(_HUB)
    classes, listed, digest = _of_hub(source) if of_hub else _of_folder(Path(source))
    chosen = []
    for images, limit in zip(listed, (train_limit, test_limit), strict=True):
        index = stratified(images.labels, limit)
        chosen.append(Streamed(len(index), functools.partial(View, images, index)))
    return DataSet(source if of_hub else Path(source).resolve().name, chosen[0], chosen[1], classes, digest)


class _Listed(NamedTuple):
    where: str  # name of their table, for messages
    files: Any  # paths, or a column of a table of `datasets`
    labels: npt.NDArray[np.int64]


class View(Dataset[tuple[Any, int]]):
    """A pass over images as timm's transforms make them; what is drawn for one does not depend on who draws it."""

    def __init__(self, images: _Listed, index: npt.NDArray[np.int64], config: RunConfig, training: bool) -> None:
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
        from PIL import Image

        index = int(self.index[place])
        file, label = self.images.files[index], int(self.images.labels[index])
        try:
            with Image.open(file if isinstance(file, str) else io.BytesIO(file["bytes"])) as image:
                pixels = sources.eight_bits(image).convert("RGB")
        except Exception as error:  # Decoders raise OSError, SyntaxError, ValueError, struct.error and others.
            where = file if isinstance(file, str) else f"{self.images.where}: row {index}"
            raise sources.undecodable(where, error) from None
        if self.seed is None:
            return self.transform(pixels), label
        with _drawing(derived_seed(self.seed, f"augment {index}", self.epoch)):
            return self.transform(pixels), label


@contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """Seed the generators that timm's and torchvision's transforms draw from, and leave them as they were."""
    state, torch_state = random.getstate(), torch.default_generator.get_state()
    random.seed(seed)
    torch.default_generator.manual_seed(seed)  # Not torch.manual_seed, which seeds GPUs as well.
    try:
        yield
    finally:
        random.setstate(state)
        torch.default_generator.set_state(torch_state)


_Found = tuple[tuple[str, ...], list[_Listed], str]  # classes, training and test images, fingerprint


def _of_folder(folder: Path) -> _Found:
    """List training and test images; hash their names and labels."""
    from timm.utils.misc import natural_key

    if not folder.is_dir():
        raise LabError(
            f'no folder "{folder}": networks of timm are trained on a folder (expected train/CLASS/IMAGE and '
            "val/CLASS/IMAGE), or hfds/NAME"
        )
    digest, listed = hashlib.blake2b(digest_size=16), []
    classes, splits = sources.class_folders(folder, natural_key)
    for images in splits.values():
        images.sort(key=lambda image: natural_key(str(image[0])))
        for path, label in images:
            digest.update(f"/{path.parent.name}/{path.name}\0{label}\0".encode())
        paths, labels = zip(*images, strict=True)
        listed.append(_Listed("", list(map(str, paths)), np.array(labels, dtype=np.int64)))
    return classes, listed, digest.hexdigest()


def _of_hub(source: str) -> _Found:
    """Fetch training and test images as tables of files; hash their labels."""
    splits = sources.fetched(source, source.removeprefix(_HUB))
    test = next((name for name in (*sources.VALIDATION, "test") if name in splits), None)
    if "train" not in splits or test is None:
        raise LabError(f"{source} has the splits {', '.join(splits)}: expected train and validation or test")
    names = tuple(getattr(splits["train"].features.get("label"), "names", None) or ())
    if not names or "image" not in splits["train"].features:
        raise LabError(f'{source}: expected a column "image" and the names of the classes with the column "label"')
    digest, listed = hashlib.blake2b(digest_size=16), []
    for split in ("train", test):
        labels = np.asarray(splits[split]["label"], dtype=np.int64)
        if labels.min() < 0 or labels.max() >= len(names):
            raise LabError(f"{source}, {split}: expected labels from 0 to {len(names) - 1}")
        digest.update(labels.astype("<i8").data)
        listed.append(_Listed(f"{source}, {split}", sources.encoded(splits[split], "image"), labels))
    return names, listed, digest.hexdigest()
