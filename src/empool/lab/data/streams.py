"""Data sets that aren't held in memory: folders and the hub by timm's readers, and a user's own data sets."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from empool.lab.data.sets import DataSet, fingerprint_of, of_arrays, stratified
from empool.lab.data.sources import SPLITS, VALIDATION, Decoded, eight_bits, test_folder, undecodable
from empool.lab.errors import LabError, first_line
from empool.lab.study.networks import imported
from empool.lab.study.run import RunConfig, derived_seed

_HUB = "hfds"  # timm's prefix of data sets of the hub
_EXPECTED = "expected train/CLASS/IMAGE and val/CLASS/IMAGE"


@dataclass(frozen=True)
class Streamed:
    """A data set whose images are loaded when their turn comes.

    Attributes:
        name: of its folder, or as it was given.
        fingerprint: of the names of all images and their labels, before any limit, hexadecimal.
        classes: their names.
        train: training images.
        test: test images.
        image_size: height and width; None where every image has a size of its own.
        in_channels: 1 or 3.
    """

    name: str
    fingerprint: str
    classes: tuple[str, ...]
    train: Sized
    test: Sized
    image_size: tuple[int, int] | None = None
    in_channels: int = 3

    @property
    def files(self) -> dict[str, str]:
        """None: reading all images would take as long as an epoch."""
        return {}

    @property
    def chance_error(self) -> None:
        """None: the labels aren't counted."""


def load(source: str, train_limit: int | None = None, test_limit: int | None = None) -> Streamed:
    """Find the images for a network of timm.

    Args:
        source: a folder with train/CLASS/IMAGE and val/CLASS/IMAGE (or test/), or "hfds/NAME" for a data set of the
            hub or a folder of parquet files with columns "image" and "label".
        train_limit: number of training images to keep, as many of each class as of any other; None keeps all.
        test_limit: of test images, likewise.

    Raises:
        LabError: for a source that is absent or incomplete.
    """
    if source.startswith("hub:"):
        source = f"{_HUB}/{source.removeprefix('hub:')}"
    readers = _of_hub(source) if source.startswith(f"{_HUB}/") else _of_folder(Path(source))
    classes = tuple(readers[0][1].class_to_idx or ())
    if not classes:
        raise LabError(f'{source}: expected the names of the classes with the column "label"')
    digest = hashlib.blake2b(digest_size=16)
    views = []
    for (where, reader), limit in zip(readers, (train_limit, test_limit), strict=True):
        labels = _labels(where, reader, digest)
        if labels.min() < 0 or labels.max() >= len(classes):
            raise LabError(f"{where}: expected labels from 0 to {len(classes) - 1}")
        chosen = np.arange(len(labels)) if limit is None else stratified(labels, limit)
        views.append(_Chosen(reader, where, chosen))
    name = source if source.startswith(f"{_HUB}/") else Path(source).resolve().name
    return Streamed(name, digest.hexdigest(), classes, views[0], views[1])


def own(spelling: str, train_limit: int | None, test_limit: int | None, validation: float = 0.0) -> Streamed | DataSet:
    """Load what a user's factory gives: ``package.module:factory``, which returns a training and a test data set.

    Each is a `torch.utils.data.Dataset` of images and labels. Images of eight bits (of PIL, or uint8) are held in
    memory, and augmented as the recipe says; float tensors ``(C, H, W)`` are taken as they come, every epoch anew.

    Raises:
        LabError: if the factory gives something else.
    """
    made = imported("--data", spelling)()
    if not (isinstance(made, tuple) and len(made) == 2 and all(hasattr(part, "__getitem__") for part in made)):
        raise LabError(f"--data {spelling}: expected a training and a test Dataset, got {type(made).__name__}")
    try:
        image, label = made[0][0]
        int(label)
    except (TypeError, ValueError):
        raise LabError(f"--data {spelling}: expected items of an image and an integer label") from None
    if not (isinstance(image, torch.Tensor) and image.is_floating_point()):
        decoded = Decoded(*_in_memory(spelling, made), _named(made[0]))
        highest = max(int(labels.max()) for labels in decoded.labels.values())
        classes = decoded.classes or tuple(map(str, range(highest + 1)))
        decoded = Decoded(decoded.images, decoded.labels, classes)
        return of_arrays(spelling, decoded, fingerprint_of(decoded), {}, train_limit, test_limit, validation)
    if validation or train_limit or test_limit:
        raise LabError(f"--data {spelling}: its images come as float tensors; choose among them in the factory itself")
    classes = _named(made[0])
    if not classes:
        raise LabError(f"--data {spelling}: expected the training Dataset to have `classes`, their names")
    channels, *size = image.shape
    digest = hashlib.blake2b(f"{spelling} {len(made[0])} {len(made[1])} {classes}".encode(), digest_size=16)
    return Streamed(spelling, digest.hexdigest(), classes, *made, image_size=(size[0], size[1]), in_channels=channels)


def _named(data: Any) -> tuple[str, ...]:
    return tuple(map(str, getattr(data, "classes", ())))


def _in_memory(
    spelling: str, parts: tuple[Any, Any]
) -> tuple[dict[str, npt.NDArray[np.uint8]], dict[str, npt.NDArray[np.int64]]]:
    images, labels = {}, {}
    for split, part in zip(SPLITS, parts, strict=True):
        items = [part[index] for index in range(len(part))]
        arrays = [_eight_bits(image) for image, _ in items]
        if len({array.shape for array in arrays}) != 1:
            raise LabError(f"--data {spelling}: expected {split} images of one size; or give float tensors")
        images[split] = np.stack(arrays)
        labels[split] = np.array([int(label) for _, label in items], dtype=np.int64)
    if images["train"].shape[1:] != images["test"].shape[1:]:
        raise LabError(f"--data {spelling}: training and test images differ in size")
    return images, labels


def _eight_bits(image: Any) -> npt.NDArray[np.uint8]:
    """Give ``(H, W, C)`` of an image of PIL, an array ``(H, W[, C])`` or a tensor ``(C, H, W)``."""
    if isinstance(image, torch.Tensor):
        image = image.movedim(0, -1).numpy() if image.ndim == 3 else image.numpy()
    array = np.asarray(eight_bits(image) if hasattr(image, "mode") else image)
    if array.dtype != np.uint8:
        raise LabError(f"--data: expected images of eight bits or float tensors, got {array.dtype}")
    return array if array.ndim == 3 else array[:, :, None]


class _Chosen:
    """Images of a folder or of the hub.

    Args:
        reader: timm's; gives an open file and a label for an index.
        where: name of the images' folder or table, for messages.
        index: which of them.
    """

    def __init__(self, reader: Any, where: str, index: npt.NDArray[np.int64]) -> None:
        self.reader, self.where, self.index = reader, where, index

    def __len__(self) -> int:
        return len(self.index)

    def view(self, config: RunConfig, *, training: bool) -> Dataset[tuple[Any, int]]:
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

    def __init__(self, images: _Chosen, transform: Callable[[Any], Any], seed: int | None) -> None:
        self.images, self.transform, self.seed, self.epoch = images, transform, seed, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        from PIL import Image

        index = int(self.images.index[place])
        try:
            file, label = self.images.reader[index]
            with file, Image.open(file) as image:
                pixels = eight_bits(image).convert("RGB")
        except Exception as error:  # Decoders raise OSError, SyntaxError, ValueError, struct.error and others.
            named = getattr(self.images.reader, "samples", None)
            where = named[index][0] if named else f"{self.images.where}: row {index}"
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


def _labels(where: str, reader: Any, digest: Any) -> npt.NDArray[np.int64]:
    """Read all labels, and hash them with the names of the images."""
    if hasattr(reader, "samples"):
        for path, label in reader.samples:
            digest.update(f"{path[len(where) :]}\0{label}\0".encode())
        return np.fromiter((label for _, label in reader.samples), np.int64, len(reader.samples))
    with _from_the_hub(where):
        table = reader.dataset.select_columns([reader.label_key]).with_format("numpy")
        labels = np.asarray(table[:][reader.label_key])
    if labels.dtype.kind not in "iu":
        raise LabError(f"{where}: expected integers for labels")
    digest.update(labels.astype("<i8").data)
    return labels.astype(np.int64)


def _of_folder(folder: Path) -> list[tuple[str, Any]]:
    """Open the folders of training and test images, with one numbering of their classes."""
    from timm.data import create_dataset

    if not folder.is_dir():
        raise LabError(f'no folder "{folder}": networks of timm are trained on a folder ({_EXPECTED}), or hfds/NAME')
    readers: list[tuple[str, Any]] = []
    for root in (folder / "train", test_folder(folder)):
        if not root.is_dir():
            raise LabError(f"{folder} has no folder {root.name if root.name == 'train' else 'val'}: {_EXPECTED}")
        try:
            numbers = readers[0][1].class_to_idx if readers else None
            reader = create_dataset("", root=str(root), search_split=False, class_map=numbers or "").reader
        except (RuntimeError, AssertionError) as error:
            raise LabError(f"{root}: {first_line(error)}") from None
        classes = {path.name for path in root.iterdir() if path.is_dir() and any(path.iterdir())}
        outside = next((path for path in sorted(root.iterdir()) if path.is_file() and path.name[0] != "."), None)
        if outside:
            raise LabError(f"{outside} is in no class: {_EXPECTED}")
        if readers and (unknown := sorted(classes - set(readers[0][1].class_to_idx))):
            raise LabError(f"{root / unknown[0]}: no class of that name in {folder / 'train'}")
        readers.append((str(root), reader))
    return readers


def _of_hub(source: str) -> list[tuple[str, Any]]:
    import datasets
    from timm.data import create_dataset

    with _from_the_hub(source):
        found = datasets.get_dataset_split_names(source.partition("/")[2])
    test = next((name for name in (*VALIDATION, "test") if name in found), None)
    if "train" not in found or test is None:
        raise LabError(f"{source} has the splits {', '.join(found)}: expected train and validation or test")
    with _from_the_hub(source):
        return [(f"{source}, {split}", create_dataset(source, split=split).reader) for split in ("train", test)]


@contextmanager
def _from_the_hub(source: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # The client raises its own and several HTTP libraries' errors.
        reason = first_line(error)
        raise LabError(f"cannot get {source} ({reason}); with a copy on disk, give its folder: --data PATH") from error
