"""Batches on the device: normalised, in training cropped at random and mirrored."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Augment:
    """Random crop and mirror.

    Attributes:
        pad: pixels of padding on every side before a crop of the original size; 0 crops nothing.
        mirror: whether half of the images are mirrored, left to right.
        reflect: pad with the image's reflection, in place of the mean.
        alternating: an image is mirrored in every other epoch, in place of half of them at random.
    """

    pad: int = 0
    mirror: bool = False
    reflect: bool = False
    alternating: bool = False

    def __str__(self) -> str:
        parts = [f"{'shift' if self.reflect else 'crop'}:{self.pad}"] * (self.pad > 0)
        parts += ["alternating-mirror" if self.alternating else "mirror"] * self.mirror
        return ",".join(parts) or "none"


def parse(spelling: str) -> Augment:
    """Read "none", or "crop:P" or "shift:P", "mirror" or "alternating-mirror", or one of each with a comma between.

    Raises:
        ValueError: for anything else.
    """
    if spelling == "none":
        return Augment()
    match = re.fullmatch(r"(?:(crop|shift):([1-9]\d?))?(,?)((?:alternating-)?mirror)?", spelling, re.ASCII)
    if not match or not spelling or bool(match[3]) != bool(match[2] and match[4]):
        raise ValueError(f'augment: expected none, crop:P, mirror or crop:P,mirror, got "{spelling}"')
    mirror = match[4] or ""
    return Augment(int(match[2] or 0), bool(mirror), match[1] == "shift", mirror.startswith("alternating"))


@dataclass(frozen=True)
class Draws:
    """Where each image of an epoch is cropped, and whether it is mirrored.

    Attributes:
        shift: ``(N, 2)`` int64 rows and columns in [-pad, pad].
        mirrored: ``(N,)`` bool.
    """

    shift: Tensor
    mirrored: Tensor

    @classmethod
    def sample(cls, augment: Augment, count: int, generator: torch.Generator) -> Draws:
        """Draw for `count` images, on the generator's device."""
        shift = torch.randint(-augment.pad, augment.pad + 1, (count, 2), generator=generator)
        mirrored = torch.rand(count, generator=generator) < (0.5 if augment.mirror else 0.0)
        return cls(shift, mirrored)

    def to(self, device: torch.device | str) -> Draws:
        """Move to a device."""
        return Draws(self.shift.to(device), self.mirrored.to(device))

    def __getitem__(self, part: slice) -> Draws:
        return Draws(self.shift[part], self.mirrored[part])


class Normaliser:
    """Make network input of stored images: mean 0 and standard deviation 1 in each channel.

    Args:
        mean: of each channel, in [0, 255].
        std: standard deviation, likewise.
        device: where the images are.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device | str) -> None:
        self.mean = torch.tensor(mean, dtype=torch.float32, device=device)
        self.scale = 1 / torch.tensor(std, dtype=torch.float32, device=device)

    def plain(self, images: Tensor) -> Tensor:
        """Normalise images ``(N, H, W, C)`` uint8 to ``(N, C, H, W)`` float32, channels last."""
        return self._normal(images.flatten(2)).view(images.shape).permute(0, 3, 1, 2)

    def augmented(self, images: Tensor, index: Tensor, draws: Draws, *, reflect: bool = False) -> Tensor:
        """Normalise the images chosen, shifted and mirrored; what comes in at the border is 0, that is the mean.

        Args:
            images: ``(M, H, W, C)`` uint8.
            index: ``(N,)`` which of them.
            draws: N draws.
            reflect: what comes in at the border is the image's reflection.

        Returns:
            ``(N, C, H, W)`` float32, channels last.
        """
        # Whole rows are copied first, since picking pixels by their place in the data set takes five times as long.
        height, width, channels = images.shape[1:]
        rows = torch.arange(height, device=images.device) + draws.shift[:, :1]  # (N, H)
        columns = torch.arange(width, device=images.device).expand(len(index), width)
        columns = torch.where(draws.mirrored[:, None], width - 1 - columns, columns) + draws.shift[:, 1:]  # (N, W)
        if reflect:
            rows, columns = _reflected(rows, height), _reflected(columns, width)
        row = index[:, None] * height + rows.clamp(0, height - 1)  # (N, H)
        chosen = images.reshape(-1, width * channels).index_select(0, row.flatten()).view(len(index), height, -1)
        value = columns.clamp(0, width - 1)[:, :, None] * channels + torch.arange(channels, device=images.device)
        shifted = chosen.gather(2, value.flatten(1)[:, None].expand_as(chosen))  # (N, H, W*C)
        if reflect:
            return self._normal(shifted).view(len(index), height, width, channels).permute(0, 3, 1, 2)
        inside = ((columns >= 0) & (columns < width))[:, :, None].expand_as(value).flatten(1)  # (N, W*C)
        normal = self._normal(shifted).mul_(inside[:, None].float())
        normal.mul_(((rows >= 0) & (rows < height))[:, :, None].float())
        return normal.view(len(index), height, width, channels).permute(0, 3, 1, 2)

    def _normal(self, rows: Tensor) -> Tensor:
        """Normalise rows ``(N, H, W*C)``: of three channels alone, the CPU's vectors would be mostly empty."""
        width = rows.shape[2] // len(self.mean)
        return rows.float().sub_(self.mean.repeat(width)).mul_(self.scale.repeat(width))


def _reflected(places: Tensor, size: int) -> Tensor:
    """Fold places beyond the ends of ``[0, size - 1]`` back at them."""
    return (size - 1) - ((size - 1) - places.abs()).abs()
