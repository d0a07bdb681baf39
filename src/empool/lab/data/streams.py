"""Images that aren't held in memory: of class folders or the hub, read for networks of timm when their turn comes."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from empool.lab.data.sets import DataSet, Streamed, stratified
from empool.lab.data.sources import VALIDATION, eight_bits, test_folder, undecodable
from empool.lab.errors import LabError, first_line
from empool.lab.study.run import RunConfig, derived_seed

_HUB = "hfds/"  # prefix of data sets of the hub
_EXPECTED = "expected train/CLASS/IMAGE and val/CLASS/IMAGE"


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
    digest = hashlib.blake2b(digest_size=16)
    of_hub = source.startswith(_HUB)
    classes, whole = _of_hub(source, digest) if of_hub else _of_folder(Path(source), digest)
    chosen = []
    for images, limit in zip(whole, (train_limit, test_limit), strict=True):
        index = stratified(images.labels, limit)
        chosen.append(Streamed(len(index), Images(images.where, images.files, images.labels, index).view))
    name = source if of_hub else Path(source).resolve().name
    return DataSet(name, chosen[0], chosen[1], classes, digest.hexdigest())


@dataclass(frozen=True)
class Images:
    """Images that are read one by one.

    Attributes:
        where: name of their table, for messages.
        files: their paths, or a column of a table of `datasets`.
        labels: ``(N,)``.
        index: which of them are used.
    """

    where: str
    files: Any
    labels: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]

    def view(self, config: RunConfig, training: bool) -> Dataset[Any]:
        """Make a pass over them, augmented in training by timm's transforms."""
        from timm.data import create_transform

        recipe: Any = config.training
        resized, *others = recipe.augment.split(",")
        jitter = [float(part.removeprefix("jitter:")) for part in others if part != "mirror"]
        transform = create_transform(
            recipe.image_size,
            is_training=training,
            no_aug=resized == "none",
            hflip=0.5 * ("mirror" in others),
            color_jitter=jitter[0] if jitter else None,
            interpolation="bilinear",
            crop_pct=recipe.test_crop,
        )
        return _View(self, transform, config.seed if training else None)


class _View(Dataset[tuple[Any, int]]):
    """A pass over images; what is drawn for an image does not depend on who draws it.

    Args:
        images: which.
        transform: from an image to a tensor.
        seed: of what is drawn; None if nothing is.
    """

    def __init__(self, images: Images, transform: Callable[[Any], Any], seed: int | None) -> None:
        self.images, self.transform, self.seed, self.epoch = images, transform, seed, 0

    def __len__(self) -> int:
        return len(self.images.index)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        from PIL import Image

        index = int(self.images.index[place])
        file, label = self.images.files[index], int(self.images.labels[index])
        try:
            with Image.open(file if isinstance(file, str) else io.BytesIO(file["bytes"])) as image:
                pixels = eight_bits(image).convert("RGB")
        except Exception as error:  # Decoders raise OSError, SyntaxError, ValueError, struct.error and others.
            where = file if isinstance(file, str) else f"{self.images.where}: row {index}"
            raise undecodable(where, error) from None
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


def _of_folder(folder: Path, digest: Any) -> tuple[tuple[str, ...], list[Images]]:
    """List training and test images, with one numbering of their classes; hash their names and labels."""
    from timm.data.readers.reader_image_folder import find_images_and_targets

    if not folder.is_dir():
        raise LabError(f'no folder "{folder}": networks of timm are trained on a folder ({_EXPECTED}), or hfds/NAME')
    numbers: dict[str, int] = {}
    found = []
    for root in (folder / "train", test_folder(folder)):
        if not root.is_dir():
            raise LabError(f"{folder} has no folder {root.name if root.name == 'train' else 'val'}: {_EXPECTED}")
        samples, numbered = find_images_and_targets(str(root), class_to_idx=numbers or None)
        if not samples:
            raise LabError(f"{root}: no images; {_EXPECTED}")
        classes = {path.name for path in root.iterdir() if path.is_dir() and any(path.iterdir())}
        outside = next((path for path in sorted(root.iterdir()) if path.is_file() and path.name[0] != "."), None)
        if outside:
            raise LabError(f"{outside} is in no class: {_EXPECTED}")
        if numbers and (unknown := sorted(classes - set(numbers))):
            raise LabError(f"{root / unknown[0]}: no class of that name in {folder / 'train'}")
        numbers = numbers or numbered
        paths, labels = zip(*samples, strict=True)
        for path, label in samples:
            digest.update(f"{path[len(str(root)) :]}\0{label}\0".encode())
        found.append(Images(str(root), list(paths), np.array(labels, dtype=np.int64), np.arange(0)))
    return tuple(numbers), found


def _of_hub(source: str, digest: Any) -> tuple[tuple[str, ...], list[Images]]:
    """Fetch training and test images as tables of files, and hash their labels."""
    import datasets

    try:
        splits = datasets.load_dataset(source.removeprefix(_HUB))
    except Exception as error:  # The client raises its own and several HTTP libraries' errors.
        reason = first_line(error)
        raise LabError(f"cannot get {source} ({reason}); with a copy on disk, give its folder: --data PATH") from error
    test = next((name for name in (*VALIDATION, "test") if name in splits), None)
    if "train" not in splits or test is None:
        raise LabError(f"{source} has the splits {', '.join(splits)}: expected train and validation or test")
    names = tuple(getattr(splits["train"].features.get("label"), "names", None) or ())
    if not names or "image" not in splits["train"].features:
        raise LabError(f'{source}: expected a column "image" and the names of the classes with the column "label"')
    found = []
    for split in ("train", test):
        labels = np.asarray(splits[split]["label"], dtype=np.int64)
        if labels.min() < 0 or labels.max() >= len(names):
            raise LabError(f"{source}, {split}: expected labels from 0 to {len(names) - 1}")
        digest.update(labels.astype("<i8").data)
        files = splits[split].cast_column("image", datasets.Image(decode=False))["image"]
        found.append(Images(f"{source}, {split}", files, labels, np.arange(0)))
    return names, found
