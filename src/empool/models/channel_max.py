"""Channel-Max and Channel-Drop (Huang et al. 2015): a maximum over pathways, half of which training skips."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from empool.models._residual import pass_over, require_positive

ASSUMPTIONS = (
    "Only the paper's abstract was available: the subsets of the input channels are consecutive and of nearly equal "
    "size, and of an odd number of pathways the smaller half is skipped.",
    "Pathways are skipped for a whole mini-batch, so that they are not convolved.",
    "In eval mode the maximum is over all pathways.",
)


class ChannelDrop(nn.Module):
    """Choose which of several pathways take part in a mini-batch: a random half in training, all in eval mode.

    Of an odd number the larger half takes part.

    Source: Huang et al., "Channel-max, channel-drop and stochastic max-pooling", CVPRW 2015.
    """

    def forward(self, pathways: int) -> list[int]:
        """Return the numbers of the pathways that take part, ascending, of 0 to `pathways` - 1."""
        if not self.training:
            return list(range(pathways))
        kept: list[int] = torch.randperm(pathways, device="cpu")[: math.ceil(pathways / 2)].sort().values.tolist()
        return kept


class ChannelMax2d(nn.Module):
    """The maximum over convolutions of different kernel sizes, each of its own part of the input channels.

    Args:
        in_channels: channels of the input, divided among the pathways.
        out_channels: channels of the output, and of each pathway.
        kernel_sizes: odd; one pathway for each.
        channel_drop: skip a random half of the pathways in training.

    Raises:
        ValueError: for a number out of range, an even kernel size, or fewer channels than pathways.

    Source: Huang et al., "Channel-max, channel-drop and stochastic max-pooling", CVPRW 2015.

    Example:
        >>> import torch
        >>> from empool.models import ChannelMax2d
        >>> ChannelMax2d(6, 8, kernel_sizes=(1, 3, 5))(torch.randn(2, 6, 9, 9)).shape
        torch.Size([2, 8, 9, 9])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_sizes: Sequence[int] = (1, 3, 5, 7),
        channel_drop: bool = False,
    ) -> None:
        super().__init__()
        require_positive("ChannelMax2d", out_channels=out_channels, kernel_sizes=min(kernel_sizes, default=0))
        if any(kernel_size % 2 == 0 for kernel_size in kernel_sizes):
            raise ValueError(f"ChannelMax2d: expected odd kernel_sizes, got {tuple(kernel_sizes)}")
        if in_channels < len(kernel_sizes):
            raise ValueError(
                f"ChannelMax2d: expected at least as many in_channels as pathways, {len(kernel_sizes)}, "
                f"got {in_channels}"
            )
        shares = [len(share) for share in torch.arange(in_channels, device="cpu").tensor_split(len(kernel_sizes))]
        self.shares = shares
        self.pathways = nn.ModuleList(
            nn.Conv2d(share, out_channels, kernel_size, padding=kernel_size // 2)
            for share, kernel_size in zip(shares, kernel_sizes, strict=True)
        )
        for pathway in self.pathways:
            nn.init.kaiming_normal_(pathway.weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(pathway.bias)  # type: ignore[arg-type]
        self.drop = ChannelDrop() if channel_drop else None

    def forward(self, input: Tensor) -> Tensor:
        """Compute ``(N, out_channels, H, W)`` from ``(N, in_channels, H, W)``."""
        parts = torch.split(input, self.shares, dim=1)
        kept = range(len(parts)) if self.drop is None else self.drop(len(parts))
        output = torch.stack([self.pathways[n](parts[n]) for n in kept]).amax(0)
        left_out = [p for n, pathway in enumerate(self.pathways) if n not in kept for p in pathway.parameters()]
        return pass_over(output, left_out) if left_out else output
