"""Where images come from: scikit-learn, the hub, folders of parquet files or of class folders."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from empool.lab.errors import LabError

if TYPE_CHECKING:
    from PIL import Image

_log = logging.getLogger(__name__)
SPLITS = ("train", "test")
VALIDATION = ("validation", "valid", "val", "dev")  # splits that are tested on where there is no "test"
_LEFT_OUT = (*VALIDATION, "extra", "unsupervised")  # splits that are there and otherwise not used
_LABELS = ("label", "labels", "fine_label", "target", "class", "y")  # names of columns that can be nothing else
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}


@dataclass(frozen=True)
class Known:
    """A data set with a name.

    Attributes:
        title: what it is.
        augment: augmentation that suits it, as `Recipe.augment` spells it.
        epochs: epochs for a first look, if it needs fewer than the recipe says.
        hub: repository, configuration and label column on the hub; None if it ships with scikit-learn.
        shipped: whether it comes with this project's repository.
    """

    title: str
    augment: str
    epochs: int | None = None
    hub: tuple[str, str | None, str] | None = None
    shipped: bool = False


# Digits read differently in a mirror; clothes and animals do not.
KNOWN = {
    "digits": Known("8x8 handwritten digits, shipped with scikit-learn", "crop:1", epochs=5),
    "cifar10": Known("32x32 photographs of 10 things", "crop:4,mirror", hub=("uoft-cs/cifar10", None, "label")),
    "cifar10-mini": Known("2,000 + 2,000 photographs of CIFAR-10", "crop:4,mirror", shipped=True),
    "cifar100": Known("32x32 photographs of 100 things", "crop:4,mirror", hub=("uoft-cs/cifar100", None, "fine_label")),
    "svhn": Known("32x32 house numbers", "crop:4", hub=("ufldl-stanford/svhn", "cropped_digits", "label")),
    "fashion_mnist": Known(
        "28x28 pieces of clothing", "crop:4,mirror", hub=("zalando-datasets/fashion_mnist", None, "label")
    ),
}
PATH_AUGMENT = "crop:4,mirror"


@dataclass(frozen=True)
class Decoded:
    """A data set as arrays.

    Attributes:
        images: of each split, ``(N, H, W, C)`` uint8, C being 1 or 3.
        labels: of each split, ``(N,)`` int64.
        classes: their names.
    """

    images: dict[str, npt.NDArray[np.uint8]]
    labels: dict[str, npt.NDArray[np.int64]]
    classes: tuple[str, ...]


def digests(source: str) -> dict[str, str]:
    """Give the hash of each file of a folder, by its path in there; none for a data set with a name.

    Raises:
        LabError: if there is no such source.
    """
    if source in KNOWN:
        return {}
    folder = Path(source)
    if not folder.exists():
        raise LabError(f'no data set "{source}": expected one of {", ".join(KNOWN)}, or a folder')
    if not folder.is_dir():
        raise LabError(f"{folder} is a file: expected a folder of parquet files or of class folders")
    files = {}
    for path in _files(folder):
        digest = hashlib.blake2b(digest_size=16)
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        files[path.relative_to(folder).as_posix()] = digest.hexdigest()
    return files


def key(source: str, files: Mapping[str, str]) -> str:
    """Give a name for what is decoded from a source: of a folder, the hash of its `digests`."""
    if source in KNOWN:
        return source
    listed = "".join(f"{name}\0{digest}\0" for name, digest in files.items())
    return f"folder-{hashlib.blake2b(listed.encode(), digest_size=16).hexdigest()}"


def decode(source: str, label_column: str | None = None) -> Decoded:
    """Decode a whole data set.

    Args:
        source: a name of `KNOWN`, or a folder.
        label_column: of parquet files; None chooses it if there is no doubt.

    Raises:
        LabError: naming the file and what is wrong with it.
    """
    if label_column is not None and source in KNOWN:
        raise LabError(f"--label-column is for a folder of parquet files, and {source} is a name")
    if source == "digits":
        return _digits()
    if source in KNOWN and not KNOWN[source].shipped:
        return _hub(source)
    folder = _shipped(source) if source in KNOWN else Path(source)
    files = _files(folder)
    parquet = [path for path in files if path.suffix == ".parquet"]
    if parquet:
        return _parquet(folder, parquet, label_column)
    if label_column is not None:
        raise LabError(f"--label-column is for parquet files, and {folder} holds none")
    if (folder / "train").is_dir() or test_folder(folder).is_dir():
        return _class_folders(folder)
    expected = "expected train-*.parquet and test-*.parquet, or train/CLASS/IMAGE and test/CLASS/IMAGE"
    others = sorted({path.suffix or path.name for path in folder.rglob("*") if path.is_file()})
    if not others:
        raise LabError(f"{folder} is empty: {expected}")
    raise LabError(f"{folder} holds neither parquet files nor class folders, but {', '.join(others[:3])}: {expected}")


def _shipped(name: str) -> Path:
    """Find a data set of the repository: in $EMPOOL_DATA, or beside the source."""
    given = os.environ.get("EMPOOL_DATA")
    folder = (Path(given) if given else Path(__file__).resolve().parents[4] / "data") / name
    if not folder.is_dir():
        raise LabError(
            f"{name} comes with the repository: clone it, or use --data cifar10 --train-limit 2000 --test-limit 2000"
        )
    return folder


def test_folder(folder: Path) -> Path:
    """Find the folder of test images: "test" if it has class folders, or else that of a validation split."""
    found = [folder / name for name in ("test", *VALIDATION) if (folder / name).is_dir()]
    return next((path for path in found if any(part.is_dir() for part in path.iterdir())), (*found, folder / "test")[0])


def _files(folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return sorted(path for path in files if path.suffix.lower() in {".parquet", *IMAGE_SUFFIXES})


def _digits() -> Decoded:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # (N, 8, 8, 1)
    labels = digits.target.astype(np.int64)
    # Every fifth image of each class is a test image; the classes' order in the file is that of their writers.
    within = np.zeros(len(labels), dtype=np.int64)
    for number in range(10):
        within[labels == number] = np.arange(np.count_nonzero(labels == number))
    chosen = {"train": within % 5 != 4, "test": within % 5 == 4}
    return Decoded(
        {split: images[chosen[split]] for split in SPLITS},
        {split: labels[chosen[split]] for split in SPLITS},
        tuple(str(number) for number in range(10)),
    )


def _hub(name: str) -> Decoded:
    import datasets

    hub = KNOWN[name].hub
    assert hub is not None
    repository, configuration, label_column = hub
    try:
        splits = datasets.load_dataset(repository, configuration)
    except Exception as error:  # The client raises its own and several HTTP libraries' errors.
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise LabError(
            f"cannot get {name} from the hub ({reason}); with a copy on disk, give its folder: --data PATH"
        ) from error
    decoded = {}
    labels = {}
    classes: tuple[str, ...] = ()
    for split in SPLITS:
        table = splits[split]
        image_column = "img" if "img" in table.column_names else "image"
        classes = tuple(table.features[label_column].names)
        table = table.cast_column(image_column, datasets.Image(decode=False))
        rows = ((f"{name}, {split}: row {n}", row["bytes"]) for n, row in enumerate(table[image_column]))
        decoded[split] = _stacked(list(_decoded(rows)), f"{name}, {split}")
        labels[split] = _labels(table[label_column], len(classes), f"{name}, {split}")
    return _same_shape(name, decoded, labels, classes)


def _parquet(folder: Path, files: list[Path], label_column: str | None) -> Decoded:
    import pyarrow.parquet as pq

    splits = {path: _split(path, folder) for path in files}
    by_split = {split: [path for path in files if splits[path] == split] for split in SPLITS}
    if not by_split["test"]:
        by_split["test"] = next(filter(None, ([p for p in files if splits[p] == name] for name in VALIDATION)), [])
    for split, paths in by_split.items():
        if not paths:
            raise LabError(f"{folder} has no {split} split: expected {split}-*.parquet")
    columns = {
        path: _columns(path, _parquet_file(pq.read_schema, path), label_column)
        for paths in by_split.values()
        for path in paths
    }
    classes = _same_classes({path: names for path, (*_, names) in columns.items()})
    images = {}
    labels = {}
    for split, paths in by_split.items():
        decoded: list[tuple[str, npt.NDArray[np.uint8]]] = []
        split_labels = []
        for path in paths:
            table = _parquet_file(pq.read_table, path)
            image_column, label_column, _ = columns[path]
            rows = table.column(image_column).to_pylist()
            named = ((f"{path}: row {n}", row["bytes"] if isinstance(row, dict) else row) for n, row in enumerate(rows))
            decoded.extend(_decoded(named))
            split_labels.append(_labels(table.column(label_column).to_pylist(), len(classes) or None, str(path)))
        images[split] = _stacked(decoded, f"{folder}, {split}")
        labels[split] = np.concatenate(split_labels)
    return _same_shape(str(folder), images, labels, classes)


def _split(path: Path, folder: Path) -> str:
    """Tell which split a parquet file is of, by its name or else by the nearest folder that says it."""
    below = path.relative_to(folder)
    for part in (below.name, *reversed(below.parent.parts)):
        found = [split for split in (*SPLITS, *_LEFT_OUT) if re.search(rf"(^|[._-]){split}([._-]|$)", part)]
        if len(found) > 1:
            raise LabError(f"{path} is of two splits by its name, {' and '.join(found)}: name it for one of them")
        if found:
            return found[0]
    raise LabError(f"{path} is of no split by its name: expected train-*.parquet or test-*.parquet; or move it away")


def _parquet_file(read: Callable[[Path], Any], path: Path) -> Any:
    import pyarrow as pa

    try:
        return read(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise LabError(f"{path} is damaged or no parquet file ({reason}); fetch it again") from None


def _same_classes(names: Mapping[Path, tuple[str, ...]]) -> tuple[str, ...]:
    """Give the names of the classes, which a file may leave to the others."""
    named = {path: classes for path, classes in names.items() if classes}
    first = next(iter(named), None)
    if first is None:
        return ()
    for path, classes in named.items():
        if classes != named[first]:
            raise LabError(
                f"{path} names other classes than {first} ({', '.join(classes)}, not {', '.join(named[first])}): "
                "give files of one data set"
            )
    return named[first]


def _columns(path: Path, schema: Any, label_column: str | None) -> tuple[str, str, tuple[str, ...]]:
    """Find the image column, the label column and the class names, as the hub's metadata or the names tell."""
    import pyarrow as pa

    metadata = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(metadata)["info"]["features"] if metadata else {}
        kinds = {name: feature.get("_type") for name, feature in features.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        features, kinds = {}, {}
    structs = [f.name for f in schema if pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    image_columns = [name for name, kind in kinds.items() if kind == "Image" and name in schema.names] or structs
    integers = [f.name for f in schema if pa.types.is_integer(f.type)]
    if not image_columns:
        raise LabError(f"{path} has no column of images; its columns are {', '.join(schema.names)}")
    if not integers:
        raise LabError(f"{path} has no column of integer labels; its columns are {', '.join(schema.names)}")
    classes = [name for name, kind in kinds.items() if kind == "ClassLabel" and name in integers]
    named = [name for name in _LABELS if name in integers]
    clear = classes if len(classes) == 1 else [name for name in named if name in classes] or named
    label = label_column if label_column in integers else None if label_column else next(iter(clear), None)
    if label is None:
        wanted = f"no integer column {label_column}" if label_column else "no column that is clearly the label"
        raise LabError(f"{path} has {wanted}: name one with --label-column, of {', '.join(integers)}")
    return image_columns[0], label, tuple(features.get(label, {}).get("names", ()))


def _class_folders(folder: Path) -> Decoded:
    names: tuple[str, ...] = ()
    images = {}
    labels = {}
    for split, root in zip(SPLITS, (folder / "train", test_folder(folder)), strict=True):
        if not root.is_dir():
            raise LabError(f"{folder} has no {split} split: expected {split}/CLASS/IMAGE")
        found = tuple(sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")))
        if not found:
            raise LabError(f"{root} is empty: expected a folder of images for each class")
        names = names or found
        if unknown := sorted(set(found) - set(names)):
            raise LabError(f"{root / unknown[0]}: no class of that name in {folder / 'train'}")
        paths = [path for name in found for path in _class_images(root / name)]
        labels[split] = np.array([names.index(path.parent.name) for path in paths], dtype=np.int64)
        decoded = list(_decoded((str(path), path.read_bytes()) for path in paths))
        images[split] = _stacked(decoded, str(root))
    return _same_shape(str(folder), images, labels, names)


def _class_images(folder: Path) -> list[Path]:
    images = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if not images:
        raise LabError(f"{folder} is empty: expected images")
    for path in images:
        if path.is_dir():
            raise LabError(f"{path} is a folder in that of a class: expected images alone")
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise LabError(f"{path} is no image: expected one of {', '.join(sorted(IMAGE_SUFFIXES))}")
    return images


def _decoded(images: Iterable[tuple[str, bytes | None]]) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """Decode images, each with the name to use in a message, to ``(H, W)`` or ``(H, W, 3)``."""
    from PIL import Image

    transparent = []
    for name, content in images:
        if not content:
            raise LabError(f"{name}: no image")
        try:
            with Image.open(io.BytesIO(content)) as image:
                if image.has_transparency_data:
                    transparent.append(name)
                yield name, np.asarray(eight_bits(image))
        except Exception as error:  # Decoders raise OSError, SyntaxError, ValueError, struct.error and others.
            raise undecodable(name, error) from None
    if transparent:
        _log.warning("%d images are transparent, which is left out; the first is %s", len(transparent), transparent[0])


def eight_bits(image: Image.Image) -> Image.Image:
    """Convert an image to eight bits a channel, grey or RGB.

    Raises:
        ValueError: for one of 32 bits, of which nobody knows which number is white.
    """
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


def _stacked(images: list[tuple[str, npt.NDArray[np.uint8]]], name: str) -> npt.NDArray[np.uint8]:
    """Make one array ``(N, H, W, C)``, in colour if any image is."""
    if not images:
        raise LabError(f"{name}: no images")
    height, width = images[0][1].shape[:2]
    colour = any(image.ndim == 3 for _, image in images)
    stacked = np.empty((len(images), height, width, 3 if colour else 1), dtype=np.uint8)
    for n, (name, image) in enumerate(images):
        if image.shape[:2] != (height, width):
            found = "x".join(map(str, image.shape[:2]))
            raise LabError(f"{name}: the image is {found}, but {images[0][0]} is {height}x{width}; make them one size")
        stacked[n] = image if image.ndim == 3 else image[:, :, None]
    return stacked


def _labels(labels: Iterable[Any], classes: int | None, name: str) -> npt.NDArray[np.int64]:
    checked = []
    for n, label in enumerate(labels):
        if label is None:
            raise LabError(f"{name}: row {n} has no label")
        if label < 0 or (classes is not None and label >= classes):
            expected = f"0 to {classes - 1}" if classes is not None else "0 or more"
            raise LabError(f"{name}: row {n} has label {label}, expected {expected}")
        checked.append(label)
    return np.array(checked, dtype=np.int64)


def _same_shape(
    name: str,
    images: dict[str, npt.NDArray[np.uint8]],
    labels: dict[str, npt.NDArray[np.int64]],
    classes: tuple[str, ...],
) -> Decoded:
    train, test = images["train"].shape[1:], images["test"].shape[1:]
    if train != test:
        shapes = " and ".join("x".join(map(str, shape)) for shape in (train, test))
        raise LabError(f"{name}: training and test images differ in size ({shapes})")
    if not classes:  # Labels need not begin at 0, or be without gaps.
        found = np.unique(labels["train"])
        classes = tuple(str(number) for number in found)
        if unknown := sorted(set(np.unique(labels["test"]).tolist()) - set(found.tolist())):
            raise LabError(f"{name}: a test image has label {unknown[0]}, and no training image has it")
        labels = {split: np.searchsorted(found, of_split) for split, of_split in labels.items()}
    if len(classes) < 2 or len(np.unique(labels["train"])) < 2:
        raise LabError(f"{name}: all training images are of one class: there is nothing to tell apart")
    return Decoded(images, labels, classes)
