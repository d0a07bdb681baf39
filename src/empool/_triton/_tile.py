"""How every kernel splits its work: which images, channels and windows a program serves; and reading a window.

A tile has two dimensions. Contiguous, a row of it is a block of `LANES` neighbouring positions along the width of one
plane (an image's channel). Channels last, a row is one place and the tile's second dimension runs over channels.
Rows are numbered (plane, depth, height, block), the last fastest, so that small planes share a program.

Numbers are cast by `tl.cast`: Inductor makes a constant, which has no `to`, of an argument that is 1.

`WINDOW` is the geometry as twelve numbers: kernel size, stride, padding and dilation, (depth, height, width) each.
"""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment"
# ruff: noqa: RUF005

import triton
import triton.language as tl

LANES = tl.constexpr(4)
"""Neighbouring outputs that share one call of the random number generator."""
DIVISORS = [f"{name}_{part}" for name in ("blocks", "plane", "height", "channels") for part in ("magic", "shift")]
"""The arguments with which `divide` divides, one pair for every number that a row's index is divided by."""


@triton.jit
def divide(index, size, magic, shift, WIDE: tl.constexpr):
    """Divide an index by a size: by a multiplication (Granlund and Montgomery 1994) if the index is below 2^31."""
    if WIDE:
        quotient = index // size
    else:
        unsigned = index.to(tl.uint32)
        high = tl.umulhi(unsigned, tl.cast(magic, tl.uint32, bitcast=True))
        quotient = ((high + unsigned) >> tl.cast(shift, tl.uint32)).to(tl.int32)
    return quotient, index - quotient * size


@triton.jit
def index_sizes(D, H, W, OD, OH, OW, WIDE: tl.constexpr):
    """Return the sizes in the type that indices need: 64 bits if WIDE."""
    index = tl.int64 if WIDE else tl.int32
    return (
        tl.cast(D, index),
        tl.cast(H, index),
        tl.cast(W, index),
        tl.cast(OD, index),
        tl.cast(OH, index),
        tl.cast(OW, index),
    )


@triton.jit
def rows_and_channels(
    rows,
    C,
    depth,
    height,
    blocks,
    blocks_magic,
    blocks_shift,
    plane_magic,
    plane_shift,
    height_magic,
    height_shift,
    channels_magic,
    channels_shift,
    CHANNELS_LAST: tl.constexpr,
    DEEP: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Tell what the program's tile covers.

    Returns:
        image, channel, place (depth * height + height), depth, height, block of every row, as ``(BLOCK, 1)`` or
        ``(1, CHANNELS)``; the plane's number; and which rows and channels exist.
    """
    program = tl.program_id(0)
    if CHANNELS_LAST:
        groups = tl.cdiv(C, CHANNELS)
        group = program % groups
        program = program // groups
    if WIDE:
        program = program.to(tl.int64)
    row = program * BLOCK + tl.arange(0, BLOCK)[:, None]  # (BLOCK, 1)
    live = row < rows
    line, block = divide(row, blocks, blocks_magic, blocks_shift, WIDE)
    plane, place = divide(line, depth * height, plane_magic, plane_shift, WIDE)
    if DEEP:
        d, h = divide(place, height, height_magic, height_shift, WIDE)
    else:
        d, h = tl.zeros_like(place), place
    if CHANNELS_LAST:
        image = plane
        channel = group * CHANNELS + tl.arange(0, CHANNELS)[None, :]
        live = live & (channel < C)
    else:
        image, channel = divide(plane, C, channels_magic, channels_shift, WIDE)
    return image, channel, place, d, h, block, plane, live


@triton.jit
def lane_exists(block, width, ALIGNED: tl.constexpr):
    """Tell which lanes of a block lie within a width that ALIGNED divides: the same answer for all of a vector."""
    lanes = tl.arange(0, LANES)[None, :]
    return block * LANES + lanes // ALIGNED * ALIGNED < width


@triton.jit
def outputs_of_lane(
    lane: tl.constexpr,
    block,
    line_start,
    channel,
    row_live,
    OW,
    C,
    CHANNELS_LAST: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Return where a lane's outputs lie along the width, which exist, and where they are in memory.

    Contiguous, lane 0 stands for all of them, side by side in the tile's second dimension.
    """
    if CHANNELS_LAST:
        ow = block * LANES + lane
        live = row_live & (ow < OW)
        at = (line_start + ow) * C + channel
    else:
        ow = block * LANES + tl.arange(0, LANES)[None, :]
        live = row_live & lane_exists(block, OW, ALIGNED)
        at = tl.multiple_of(line_start + block * LANES, [ALIGNED, ALIGNED]) + tl.arange(0, LANES)[None, :]
    return ow, live, at


@triton.jit
def uniform32(seed, image, channel, place, block, share, SEEDS: tl.constexpr):
    """Return the 32-bit numbers of the four outputs of every block: Philox4x32-7 (see `empool._philox`)."""
    if SEEDS:
        example = image // share
        key = tl.load(seed + example)
        image = image - example * share
    else:
        key = tl.load(seed)
    return tl.philox(
        key, block.to(tl.uint32), place.to(tl.uint32), channel.to(tl.uint32), image.to(tl.uint32), n_rounds=7
    )


@triton.jit
def inside(position, size, LOW: tl.constexpr, HIGH: tl.constexpr):
    """Tell whether a position is no padding, as far as a window can reach over the low and the high border."""
    if LOW and HIGH:
        answer = (position >= 0) & (position < size)
    elif LOW:
        answer = position >= 0
    elif HIGH:
        answer = position < size
    else:
        answer = position == position
    return answer


@triton.jit
def activation(corner, d, h, w, kd, kh, kw, D, H, W, step, live, WINDOW: tl.constexpr, HIGH: tl.constexpr):
    """Load the activation at one position of every window, and tell which are valid; -inf where none is."""
    id = d + kd * WINDOW[9]
    ih = h + kh * WINDOW[10]
    iw = w + kw * WINDOW[11]
    valid = live
    if WINDOW[6] > 0 or HIGH[0]:
        valid = valid & inside(id, D, WINDOW[6] > 0, HIGH[0])
    if WINDOW[7] > 0 or HIGH[1]:
        valid = valid & inside(ih, H, WINDOW[7] > 0, HIGH[1])
    if WINDOW[8] > 0 or HIGH[2]:
        valid = valid & inside(iw, W, WINDOW[8] > 0, HIGH[2])
    offset = ((kd * WINDOW[9] * H + kh * WINDOW[10]) * W + kw * WINDOW[11]) * step
    return tl.load(corner + offset, mask=valid, other=-float("inf")), valid


@triton.jit
def load_window(
    input,
    plane_start,
    d,
    h,
    w,
    block,
    D,
    H,
    W,
    step,
    row_live,
    live,
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
    PAIRS: tl.constexpr,
    wide: tl.constexpr,
):
    """Load all of every window, in window order, as a tuple of tiles, and a tuple that tells which are valid.

    Args:
        plane_start: index of the plane's (or image's and channel's) first element.
        d, h, w: where the window starts; negative in the padding.
        row_live, live: which rows, and which windows of them, exist.
        PAIRS: 0, or, for stride 2, the power of two that divides the width: neighbouring columns are then read
            together, as vectors, and split.
    """
    KD: tl.constexpr = WINDOW[0]
    KH: tl.constexpr = WINDOW[1]
    KW: tl.constexpr = WINDOW[2]
    values = ()
    valids = ()
    corner = input + (plane_start + ((d * H + h) * W + w) * step)
    for kd in tl.static_range(KD):
        for kh in tl.static_range(KH):
            for kw in tl.static_range(KW):
                if PAIRS > 0:
                    id = d + kd * WINDOW[9]
                    ih = h + kh * WINDOW[10]
                    row = row_live
                    if WINDOW[6] > 0 or HIGH[0]:
                        row = row & inside(id, D, WINDOW[6] > 0, HIGH[0])
                    if WINDOW[7] > 0 or HIGH[1]:
                        row = row & inside(ih, H, WINDOW[7] > 0, HIGH[1])
                    left, right = _pair_of_columns(
                        input, plane_start + (id * H + ih) * W, block, W, row, (kw - WINDOW[8]) // 2 * 2, PAIRS
                    )
                    value = left if (kw - WINDOW[8]) % 2 == 0 else right
                    valid = live & row
                    if WINDOW[8] > 0 or HIGH[2]:
                        valid = valid & inside(w + kw, W, WINDOW[8] > 0, HIGH[2])
                else:
                    value, valid = activation(corner, d, h, w, kd, kh, kw, D, H, W, step, live, WINDOW, HIGH)
                values = values + (value.to(wide),)
                valids = valids + (valid,)
    return values, valids


@triton.jit
def _pair_of_columns(input, line, block, W, row, shift: tl.constexpr, PAIRS: tl.constexpr):
    """Load columns ``2 * ow + shift`` and the next one, of every lane, as vectors of a line.

    (For two positions of a window in the same columns the compiler keeps one of the two equal loads.)
    """
    columns = tl.arange(0, 2 * LANES)[None, :]
    start = tl.multiple_of(line + block * (2 * LANES), [PAIRS, PAIRS])
    first = block * (2 * LANES) + shift
    if shift % PAIRS == 0:
        within = row & (first + columns // PAIRS * PAIRS < W)
        if shift < 0:
            within = within & (first + columns // PAIRS * PAIRS >= 0)
    else:
        within = row & (first + columns // 2 * 2 < W)
        if shift < 0:
            within = within & (first + columns // 2 * 2 >= 0)
    both = tl.load(input + (start + (columns + shift)), mask=within, other=-float("inf"))
    return tl.split(tl.reshape(both, [both.shape[0], LANES, 2]))
