"""Images decoded to arrays: from scikit-learn, the hub, folders of parquet files or of class folders."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import operator
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from empool.lab.data.sets import DataSet, Split, place_in_class
from empool.lab.errors import LabError, first_line

if TYPE_CHECKING:
    from PIL import Image

_log = logging.getLogger(__name__)
SPLITS = ("train", "test")
VALIDATION = ("validation", "valid", "val", "dev")  # splits that are tested on where there is no "test"
_NAMED = (*SPLITS, *VALIDATION, "extra", "unsupervised")  # splits that a file may be of; the rest is left out
_LABELS = ("label", "labels", "fine_label", "target", "class", "y")  # names of columns that can be nothing else
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}

Row = tuple[str, Any, Any]  # name for messages; image as bytes, of PIL, array or tensor; label


class Known(NamedTuple):
    """A data set with a name."""

    augment: str = "crop:4,mirror"  # that suits it, as `Recipe.augment` spells it
    epochs: int | None = None  # for a first look, if it needs fewer than the recipe says
    hub: tuple[str, str | None, str] | None = None  # repository, configuration and label column, if it is on the hub


# Digits read differently in a mirror; clothes and animals do not.
KNOWN = {
    "digits": Known("crop:1", epochs=5),  # shipped with scikit-learn
    "cifar10": Known(hub=("uoft-cs/cifar10", None, "label")),
    "cifar10-mini": Known(),  # shipped with this project's repository
    "cifar100": Known(hub=("uoft-cs/cifar100", None, "fine_label")),
    "svhn": Known("crop:4", hub=("ufldl-stanford/svhn", "cropped_digits", "label")),
    "fashion_mnist": Known(hub=("zalando-datasets/fashion_mnist", None, "label")),
}


def decode(source: str, label_column: str | None = None) -> DataSet:
    """Decode a whole data set, of a name of `KNOWN` or a folder; what is wrong with it is named with its file."""
    if source == "digits":
        return _digits()
    known = KNOWN.get(source)
    if known and known.hub:
        return _hub(source, *known.hub)
    folder = _shipped(source) if known else Path(source)
    if not folder.is_dir():
        kinds = "a folder of parquet files or of class folders, or package.module:factory"
        raise LabError(f'no data set "{source}": expected one of {", ".join(KNOWN)}, or {kinds}')
    files = (path for path in folder.rglob("*.parquet") if path.is_file() and not path.name.startswith("."))
    if parquet := sorted(files):
        return _parquet(folder, parquet, label_column)
    if label_column is not None:
        raise LabError(f"--label-column is for parquet files, and {folder} holds none")
    if (folder / "train").is_dir() or _test_folder(folder).is_dir():
        classes, listed = class_folders(folder)
        train, test = (((str(path), path.read_bytes(), n) for path, n in listed[split]) for split in SPLITS)
        return arrays(str(folder), train, test, classes)
    others = sorted({path.suffix or path.name for path in folder.rglob("*") if path.is_file()})
    holds = f"holds neither parquet files nor class folders, but {', '.join(others[:3])}" if others else "is empty"
    expected = "train-*.parquet and test-*.parquet, or train/CLASS/IMAGE and test/CLASS/IMAGE"
    raise LabError(f"{folder} {holds}: expected {expected}")


def _shipped(name: str) -> Path:
    """Find a data set of the repository: in $EMPOOL_DATA, or beside the source."""
    folder = Path(os.environ.get("EMPOOL_DATA") or Path(__file__).resolve().parents[4] / "data") / name
    if not folder.is_dir():
        instead = "--data cifar10 --train-limit 2000 --test-limit 2000"
        raise LabError(f"{name} comes with the repository: clone it, or use {instead}")
    return folder


def _digits() -> DataSet:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # (N, 8, 8, 1)
    whole = Split(torch.from_numpy(images), torch.from_numpy(digits.target.astype(np.int64)))
    # Every fifth image of each class is a test image; the classes' order in the file is that of their writers.
    tested = place_in_class(whole.labels.numpy()) % 5 == 4
    return _data_set("digits", whole[~tested], whole[tested], tuple("0123456789"))


def _hub(name: str, repository: str, configuration: str | None, label_column: str) -> DataSet:
    import datasets

    try:
        splits = datasets.load_dataset(repository, configuration)
    except Exception as error:  # The client raises its own and several HTTP libraries' errors.
        raise LabError(
            f"cannot get {name} from the hub ({first_line(error)}); with a copy on disk, give its folder: --data PATH"
        ) from error

    def rows(split: str) -> Iterator[Row]:
        image_column = "img" if "img" in splits[split].column_names else "image"
        for n, row in enumerate(splits[split]):
            yield f"{name}, {split}: row {n}", row[image_column], row[label_column]

    classes = tuple(splits["train"].features[label_column].names)
    return arrays(name, rows("train"), rows("test"), classes)


def _parquet(folder: Path, files: list[Path], label_column: str | None) -> DataSet:
    import pyarrow.parquet as pq

    of_split: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        of_split[_split(path, folder)].append(path)
    of_split["test"] = next((of_split[name] for name in ("test", *VALIDATION) if name in of_split), [])
    for split in SPLITS:
        if not of_split[split]:
            raise LabError(f"{folder} has no {split} split: expected {split}-*.parquet")
    read = [path for split in SPLITS for path in of_split[split]]
    columns = {path: _columns(path, _read_parquet(pq.read_schema, path), label_column) for path in read}
    named = {names: path for path, (*_, names) in columns.items() if names}  # A file may leave them to the others.
    if len(named) > 1:
        both = " and ".join(f"{path} ({', '.join(names)})" for names, path in named.items())
        raise LabError(f"{both} name different classes: give files of one data set")

    def rows(split: str) -> Iterator[Row]:
        for path in of_split[split]:
            table = _read_parquet(pq.read_table, path)
            images, labels = (table.column(column).to_pylist() for column in columns[path][:2])
            for n, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield f"{path}: row {n}", image and image["bytes"], label

    return arrays(str(folder), rows("train"), rows("test"), next(iter(named), ()))


def _split(path: Path, folder: Path) -> str:
    """Tell which split a parquet file is of, by its name or else by the nearest folder that says it."""
    below = path.relative_to(folder)
    for part in (below.name, *reversed(below.parent.parts)):
        if found := [split for split in _NAMED if re.search(rf"(^|[._-]){split}([._-]|$)", part)]:
            break
    if len(found) != 1:
        expected = "name it train-*.parquet or test-*.parquet, or move it away"
        raise LabError(f"{path} is of no one split by its name: {expected}")
    return found[0]


def _read_parquet(read: Callable[[Path], Any], path: Path) -> Any:
    import pyarrow as pa

    try:
        return read(path)
    except (pa.ArrowException, OSError) as error:
        raise LabError(f"{path} is damaged or no parquet file ({first_line(error)}); fetch it again") from None


def _columns(path: Path, schema: Any, label_column: str | None) -> tuple[str, str, tuple[str, ...]]:
    """Find the image column, the label column and the class names, as the hub's metadata or the names tell."""
    import pyarrow as pa

    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = {name: tuple(of["names"]) for name, of in features.items() if of.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):  # Another program wrote something else, or nothing.
        names = {}
    images = [f.name for f in schema if pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    integers = [f.name for f in schema if pa.types.is_integer(f.type)]
    for found, what in ((images, "images"), (integers, "integer labels")):
        if not found:
            raise LabError(f"{path} has no column of {what}; its columns are {', '.join(schema.names)}")
    classes = [name for name in integers if name in names]
    named = [name for name in _LABELS if name in integers]
    clear = classes if len(classes) == 1 else [name for name in named if name in classes] or named
    label = label_column or next(iter(clear), None)
    if label is None or label not in integers:
        wanted = f"no integer column {label_column}" if label_column else "no column that is clearly the label"
        raise LabError(f"{path} has {wanted}: name one with --label-column, of {', '.join(integers)}")
    return images[0], label, names.get(label, ())


def class_folders(
    folder: Path, order: Callable[[str], Any] = str
) -> tuple[tuple[str, ...], dict[str, list[tuple[Path, int]]]]:
    """List the classes of train/CLASS/IMAGE and test/CLASS/IMAGE in an order, and the images of both with their labels.

    What is missing is refused, and so is what would be left out.
    """
    classes: tuple[str, ...] = ()
    listed = {}
    for split, root in zip(SPLITS, (folder / "train", _test_folder(folder)), strict=True):
        if not root.is_dir():
            raise LabError(f"{folder} has no {split} split: expected {root.name}/CLASS/IMAGE")
        found = {path.name: _class_images(path) for path in root.iterdir() if path.is_dir() and path.name[0] != "."}
        if outside := sorted(path for path in root.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file()):
            raise LabError(f"{outside[0]} is in no class: expected {root.name}/CLASS/IMAGE")
        classes = classes or tuple(sorted(found, key=order))
        if unknown := sorted(found.keys() - set(classes)):
            raise LabError(f"{root / unknown[0]}: no class of that name in {folder / 'train'}")
        listed[split] = [(path, n) for n, name in enumerate(classes) for path in found.get(name, ())]
    return classes, listed


def _test_folder(folder: Path) -> Path:
    """Find the folder of test images: "test" if it has class folders, or else that of a validation split."""
    found = [folder / name for name in ("test", *VALIDATION) if (folder / name).is_dir()]
    return next((path for path in found if any(part.is_dir() for part in path.iterdir())), (*found, folder / "test")[0])


def _class_images(folder: Path) -> list[Path]:
    images = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if not images:
        raise LabError(f"{folder} is empty: expected images")
    if others := [path for path in images if path.is_dir() or path.suffix.lower() not in _SUFFIXES]:
        raise LabError(f"{others[0]} is no image: expected files alone, each one of {', '.join(sorted(_SUFFIXES))}")
    return images


def arrays(name: str, train_rows: Iterable[Row], test_rows: Iterable[Row], classes: tuple[str, ...]) -> DataSet:
    """Decode the rows of both splits, and check that they belong together; without classes, the labels name them."""
    splits = zip(SPLITS, (train_rows, test_rows), strict=True)
    train, test = (_decoded(f"{name}, {split}", rows, len(classes)) for split, rows in splits)
    if train.images.shape[1:] != test.images.shape[1:]:
        shapes = " and ".join("x".join(map(str, split.images.shape[1:])) for split in (train, test))
        raise LabError(f"{name}: training and test images differ in shape ({shapes})")
    found = train.labels.unique(sorted=True)  # type: ignore[no-untyped-call]
    if len(found) < 2:
        raise LabError(f"{name}: all training images are of one class: there is nothing to tell apart")
    if not classes:  # Labels need not begin at 0, or be without gaps.
        classes = tuple(map(str, found.tolist()))
        if unknown := sorted(set(test.labels.tolist()) - set(found.tolist())):
            raise LabError(f"{name}: a test image has label {unknown[0]}, and no training image has it")
        train, test = (Split(split.images, torch.searchsorted(found, split.labels)) for split in (train, test))
    return _data_set(name, train, test, classes)


def _data_set(name: str, train: Split, test: Split, classes: tuple[str, ...]) -> DataSet:
    """Put a data set together, with a hash of all its images and labels."""
    digest = hashlib.blake2b(digest_size=16)
    for split in (train, test):
        digest.update(str(tuple(split.images.shape)).encode())
        digest.update(split.images.contiguous().numpy().data)
        digest.update(split.labels.numpy().astype("<i8").data)
    return DataSet(name, train, test, classes, digest.hexdigest())


def _decoded(where: str, rows: Iterable[Row], classes: int) -> Split:
    """Decode images, in colour if any image is, and check their labels, of so many classes if it is known."""
    images: list[npt.NDArray[np.uint8]] = []
    labels: list[int] = []
    transparent: list[str] = []
    first = ""
    for name, content, label in rows:
        labels.append(checked_label(name, label, classes))
        image = _pixels(name, content, transparent)
        first = first or name
        if images and image.shape[:2] != images[0].shape[:2]:
            this, other = ("x".join(map(str, array.shape[:2])) for array in (image, images[0]))
            raise LabError(f"{name}: the image is {this}, but {first} is {other}; make them one size")
        images.append(image)
    if not images:
        raise LabError(f"{where}: expected images, got none")
    if transparent:
        _log.warning("%d images are transparent, which is left out; the first is %s", len(transparent), transparent[0])
    channels = max(image.shape[2] for image in images)
    stacked = np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in images])
    return Split(torch.from_numpy(stacked), torch.tensor(labels))


def checked_label(name: str, label: Any, classes: int) -> int:
    """Return a label as a number; refuse one that is none, or is not of so many classes if it is known."""
    try:
        number = operator.index(label)
    except TypeError:
        raise LabError(f"{name}: expected an integer label, got {label!r}") from None
    if number < 0 or number >= (classes or math.inf):
        raise LabError(f"{name} has label {number}, expected {f'0 to {classes - 1}' if classes else '0 or more'}")
    return number


def _pixels(name: str, content: Any, transparent: list[str]) -> npt.NDArray[np.uint8]:
    """Make ``(H, W, C)`` of bytes, an image of PIL, an array ``(H, W[, C])`` or a tensor ``([C, ]H, W)``."""
    from PIL import Image

    if not (isinstance(content, bytes | np.ndarray | torch.Tensor) or hasattr(content, "convert")):
        raise LabError(f"{name}: expected an image of PIL, an array or a tensor, got {type(content).__name__}")
    if isinstance(content, torch.Tensor):
        array = (content.movedim(0, -1) if content.ndim == 3 else content).numpy()
    elif isinstance(content, np.ndarray):
        array = content
    else:
        try:
            image = Image.open(io.BytesIO(content)) if isinstance(content, bytes) else content
            if image.has_transparency_data:
                transparent.append(name)
            array = np.asarray(eight_bits(image))
        except Exception as error:  # Decoders raise OSError, SyntaxError, ValueError, struct.error and others.
            raise undecodable(name, error) from None
    if array.dtype != np.uint8:
        raise LabError(f"{name}: expected an image of eight bits, or of float tensors, got {array.dtype}")
    return array if array.ndim == 3 else array[:, :, None]


def eight_bits(image: Image.Image) -> Image.Image:
    """Convert an image to eight bits a channel, grey or RGB; of 32 bits nobody knows which number is white."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))  # 65535 = 257 * 255
    if image.mode in ("I", "F"):
        raise ValueError(f"expected 8 or 16 bits a channel, got 32 in its mode {image.mode}; save it with 8")
    return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")


def undecodable(name: str, error: Exception) -> LabError:
    """Say which image cannot be decoded, and why."""
    reason = "unknown image format" if "cannot identify" in str(error) else str(error)
    return LabError(f"{name}: cannot decode the image ({reason})")
