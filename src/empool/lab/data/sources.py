"""Where images come from: scikit-learn, the hub, folders of parquet files or of class folders."""

from __future__ import annotations

import hashlib
import io
import json
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

SPLITS = ("train", "test")
_LEFT_OUT = ("validation", "valid", "val", "dev", "extra", "unsupervised")  # splits that are there and not used
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}


@dataclass(frozen=True)
class Known:
    """A data set with a name.

    Attributes:
        title: what it is.
        augment: augmentation that suits it, as `Recipe.augment` spells it.
        epochs: epochs for a first look, if it needs fewer than the recipe says.
        hub: repository, configuration and label column on the hub; None if it ships with scikit-learn.
    """

    title: str
    augment: str
    epochs: int | None = None
    hub: tuple[str, str | None, str] | None = None


# Digits read differently in a mirror; clothes and animals do not.
KNOWN = {
    "digits": Known("8x8 handwritten digits, shipped with scikit-learn", "crop:1", epochs=5),
    "cifar10": Known("32x32 photographs of 10 things", "crop:4,mirror", hub=("uoft-cs/cifar10", None, "label")),
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


def decode(source: str) -> Decoded:
    """Decode a whole data set.

    Raises:
        LabError: naming the file and what is wrong with it.
    """
    if source == "digits":
        return _digits()
    if source in KNOWN:
        return _hub(source)
    folder = Path(source)
    files = _files(folder)
    if any(path.suffix == ".parquet" for path in files):
        return _parquet(folder, [path for path in files if path.suffix == ".parquet"])
    if (folder / "train").is_dir() or (folder / "test").is_dir():
        return _class_folders(folder)
    if not files:
        raise LabError(f"{folder} is empty: expected train-*.parquet and test-*.parquet, or train/CLASS/IMAGE")
    raise LabError(f"{folder} holds neither parquet files (train-*.parquet) nor class folders (train/CLASS/IMAGE)")


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


def _parquet(folder: Path, files: list[Path]) -> Decoded:
    import pyarrow.parquet as pq

    splits = {path: _split(path, folder) for path in files}
    by_split = {split: [path for path in files if splits[path] == split] for split in SPLITS}
    for split, paths in by_split.items():
        if not paths:
            raise LabError(f"{folder} has no {split} split: expected {split}-*.parquet")
    columns = {
        path: _columns(path, _parquet_file(pq.read_schema, path)) for paths in by_split.values() for path in paths
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


def _columns(path: Path, schema: Any) -> tuple[str, str, tuple[str, ...]]:
    """Find the image column, the label column and the class names, as the hub's metadata or the types tell."""
    import pyarrow as pa

    metadata = (schema.metadata or {}).get(b"huggingface")
    features = json.loads(metadata).get("info", {}).get("features", {}) if metadata else {}
    structs = [f.name for f in schema if pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    image_columns = [name for name, feature in features.items() if feature.get("_type") == "Image"] or structs
    integers = [f.name for f in schema if pa.types.is_integer(f.type)]
    label_columns = [name for name in ("label", "fine_label", "labels") if name in integers] or integers
    if not image_columns or image_columns[0] not in schema.names:
        raise LabError(f"{path} has no column of images; its columns are {', '.join(schema.names)}")
    if not label_columns:
        raise LabError(f"{path} has no column of integer labels; its columns are {', '.join(schema.names)}")
    names = features.get(label_columns[0], {}).get("names", ())
    return image_columns[0], label_columns[0], tuple(names)


def _class_folders(folder: Path) -> Decoded:
    names: tuple[str, ...] = ()
    images = {}
    labels = {}
    for split in SPLITS:
        root = folder / split
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
    images = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    if not images:
        raise LabError(f"{folder} is empty: expected images")
    for path in images:
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise LabError(f"{path} is no image: expected one of {', '.join(sorted(IMAGE_SUFFIXES))}")
    return images


def _decoded(images: Iterable[tuple[str, bytes | None]]) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """Decode images, each with the name to use in a message, to ``(H, W)`` or ``(H, W, 3)``."""
    from PIL import Image

    for name, content in images:
        if not content:
            raise LabError(f"{name}: no image")
        try:
            with Image.open(io.BytesIO(content)) as image:
                yield name, np.asarray(eight_bits(image))
        except Exception as error:  # Decoders raise OSError, SyntaxError, ValueError, struct.error and others.
            raise undecodable(name, error) from None


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
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


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
    highest = int(labels["train"].max())
    classes = classes or tuple(str(number) for number in range(highest + 1))
    if int(labels["test"].max()) >= len(classes):
        raise LabError(f"{name}: a test image has label {labels['test'].max()}, training labels end at {highest}")
    return Decoded(images, labels, classes)
