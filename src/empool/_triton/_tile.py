"""How every kernel splits its work: which images, channels and windows a program serves.

A tile has two dimensions. Contiguous, a row of it is a block of `LANES` neighbouring positions along the width of one
plane (an image's channel). Channels last, a row is one place and the tile's second dimension runs over channels.
Rows are numbered (plane, depth, height, block), the last fastest, so that small planes share a program.

Numbers are cast by `tl.cast`: Inductor makes a constant, which has no `to`, of an argument that is 1.

`WINDOW` is the geometry: kernel size, stride, padding and dilation, (depth, height, width) each, and whether windows
are those of adaptive pooling. Of a window, `start` is where it begins along each dimension, negative in the padding,
and `ends` is before which position it ends; `size` are the input's sizes.
"""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment"
# ruff: noqa: RUF059

import triton
import triton.language as tl

from empool._philox import KEY_STEPS, MULTIPLIERS, ROUNDS

LANES = tl.constexpr(4)
"""Neighbouring outputs that share one call of the random number generator."""
DIVISORS = [f"{name}_{part}" for name in ("blocks", "plane", "height", "channels") for part in ("magic", "shift")]
"""The arguments with which `divide` divides, one pair for every number that a row's index is divided by."""

_ROUNDS, _MULTIPLIERS, _KEY_STEPS = tl.constexpr(ROUNDS), tl.constexpr(MULTIPLIERS), tl.constexpr(KEY_STEPS)
_PRODUCTS = tl.constexpr(
    tuple(
        f"{{ .reg .b64 product; mul.wide.u32 product, $2, {hex(multiplier)}; mov.b64 {{$1, $0}}, product; }}"
        for multiplier in MULTIPLIERS
    )
)
"""Both words of a product at once: two instructions, as the compiler makes of `tl.philox`, take longer."""


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
    OVERLAPPING: tl.constexpr = False,
    program=None,
):
    """Tell what the program's tile covers.

    OVERLAPPING: whether rows of windows share rows of the input. Channels last, rows of the tile are then numbered from
    above downwards, so that what they share is in the program's cache. `program` is its number, unless the grid tells.

    Returns:
        image, channel, place (depth * height + height), depth, height, block of every row, as ``(BLOCK, 1)`` or
        ``(1, CHANNELS)``; the plane's number; and which rows and channels exist.
    """
    if program is None:
        program = tl.program_id(0)
    if CHANNELS_LAST:
        groups = tl.cdiv(C, CHANNELS)
        group = program % groups
        program = program // groups
    if WIDE:
        program = program.to(tl.int64)
    row = program * BLOCK + tl.arange(0, BLOCK)[:, None]  # (BLOCK, 1)
    live = row < rows
    row = tl.minimum(row, rows - 1)  # Beyond the last, no image has a seed.
    if OVERLAPPING and CHANNELS_LAST and CHANNELS >= 32:
        column, place = divide(row, depth * height, plane_magic, plane_shift, WIDE)
        plane, block = divide(column, blocks, blocks_magic, blocks_shift, WIDE)
    else:
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
    SIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Return where a lane's outputs lie along the width, which exist, and where they are in memory.

    SIDE by side in the tile's second dimension, lane 0 stands for all of them.
    """
    if not SIDE:
        ow = block * LANES + lane
        live = row_live if ALIGNED == LANES else row_live & (ow < OW)
        at = (line_start + ow) * C + channel if CHANNELS_LAST else line_start + ow
    else:
        ow = block * LANES + tl.arange(0, LANES)[None, :]
        live = row_live & lane_exists(block, OW, ALIGNED)
        at = tl.multiple_of(line_start + block * LANES, [ALIGNED, ALIGNED]) + tl.arange(0, LANES)[None, :]
    return ow, live, at


@triton.jit
def side_by_side(rows, BLOCK: tl.constexpr, FLAT: tl.constexpr):
    """Number a program's outputs as they lie in memory, where lines of FLAT outputs have blocks that are not full.

    So they are stored without gaps: what fills a part of 32 bytes of memory alone costs as much as all of it.

    Returns:
        Where each is in memory, from which place of the tile it comes, and which exist, as `(BLOCK * LANES,)`.
    """
    BLOCKS: tl.constexpr = (FLAT + LANES - 1) // LANES
    NUMBER: tl.constexpr = BLOCK // BLOCKS * FLAT
    index = tl.arange(0, BLOCK * LANES)
    start = tl.multiple_of(tl.program_id(0) * NUMBER, [16])
    source = index + index // FLAT * (BLOCKS * LANES - FLAT)
    live = (index < NUMBER) & (start + index // LANES * LANES < rows // BLOCKS * FLAT)
    return tl.max_contiguous(start + index, [LANES]), tl.minimum(source, BLOCK * LANES - 1), live


@triton.jit
def moved(tile, source):
    """Take the elements of a tile from where `side_by_side` says."""
    return tl.gather(tl.reshape(tile, [tile.shape[0] * tile.shape[1]]), source, 0)


@triton.jit
def bounds(window, size, count, WINDOW: tl.constexpr, DIM: tl.constexpr):
    """Return where windows of a dimension begin, and before which position they end."""
    if WINDOW[12]:
        wide = window.to(tl.int64)
        start = (wide * size // count).to(window.dtype)
        end = (((wide + 1) * size + (count - 1)) // count).to(window.dtype)
    else:
        start = window * WINDOW[3 + DIM] - WINDOW[6 + DIM]
        end = size
    return start, end


@triton.jit
def first_window(position, size, count, WINDOW: tl.constexpr, DIM: tl.constexpr):
    """Return the first window that can reach a position of a dimension."""
    if WINDOW[12]:
        first = (position.to(tl.int64) * count // size).to(position.dtype)
    else:
        reach = position + WINDOW[6 + DIM] - (WINDOW[DIM] - 1) * WINDOW[9 + DIM]
        first = (tl.maximum(reach, 0) + (WINDOW[3 + DIM] - 1)) // WINDOW[3 + DIM]
    return first


@triton.jit
def offset_in(window, position, size, count, WINDOW: tl.constexpr, DIM: tl.constexpr):
    """Return at which offset a window of a dimension holds a position, and whether it does."""
    start, end = bounds(window, size, count, WINDOW, DIM)
    distance = position - start
    holds = (distance >= 0) & (window < count)
    if WINDOW[12]:
        holds = holds & (position < end)
        offset = distance
    elif WINDOW[9 + DIM] == 1:
        holds = holds & (distance < WINDOW[DIM])
        offset = distance
    else:
        offset = distance // WINDOW[9 + DIM]
        holds = holds & (distance % WINDOW[9 + DIM] == 0) & (offset < WINDOW[DIM])
    return offset, holds


@triton.jit
def _product(word, WHICH: tl.constexpr, PACKED: tl.constexpr):
    """Multiply by one of Philox's two numbers; return the product's high word and its low one."""
    if PACKED:
        assembly: tl.constexpr = _PRODUCTS[WHICH]
        high, low = tl.inline_asm_elementwise(
            assembly, "=r,=r,r", [word], dtype=(tl.uint32, tl.uint32), is_pure=True, pack=1
        )
    else:
        multiplier = tl.full([1, 1], _MULTIPLIERS[WHICH], tl.uint32)
        high, low = tl.umulhi(word, multiplier), word * multiplier
    return high, low


@triton.jit
def uniform32(
    seed,
    image,
    channel,
    place,
    block,
    share,
    first_image,
    SEEDS: tl.constexpr,
    TIED: tl.constexpr,
    PACKED: tl.constexpr,
):
    """Return the 32-bit numbers of the four outputs of every block: Philox4x32-7 (see `empool._philox`)."""
    if SEEDS:
        example = image // share
        key = tl.load(seed + example)
        image = image - example * share
    else:
        key = tl.load(seed)
    if TIED % 2 == 1:
        channel = tl.zeros([1, 1], tl.int32)
    if TIED >= 2:
        place = tl.zeros([1, 1], tl.int32)
        block = place
    image = image + first_image
    c0, c1, c2, c3 = block.to(tl.uint32), place.to(tl.uint32), channel.to(tl.uint32), image.to(tl.uint32)
    key0, key1 = key.to(tl.uint32), (key >> 32).to(tl.uint32)
    for i in tl.static_range(_ROUNDS):
        one, other = _product(c2, 1, PACKED), _product(c0, 0, PACKED)
        c0 = one[0] ^ c1 ^ (key0 + (i * _KEY_STEPS[0] & 0xFFFFFFFF))
        c2 = other[0] ^ c3 ^ (key1 + (i * _KEY_STEPS[1] & 0xFFFFFFFF))
        c1, c3 = one[1], other[1]
    return c0, c1, c2, c3


@triton.jit
def number_of_lane(numbers, lane: tl.constexpr, SIDE: tl.constexpr, TIED: tl.constexpr):
    """Take one lane's numbers, or lay the four lanes side by side along the tile's second dimension."""
    if TIED >= 2:
        number = numbers[0]
    elif SIDE:
        number = beside(numbers)
    else:
        number = numbers[lane]
    return number


@triton.jit
def beside(lanes):
    """Lay four lanes side by side."""
    return of_lanes(lanes[0], lanes[1], lanes[2], lanes[3])


@triton.jit
def lanes_of(tile):
    """Take the four columns of a tile apart: four vectors."""
    even, odd = tl.split(tl.reshape(tile, [tile.shape[0], LANES // 2, 2]))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def of_lanes(first, second, third, fourth):
    """Put four vectors side by side."""
    return tl.reshape(tl.join(tl.join(first, third), tl.join(second, fourth)), [first.shape[0], LANES])


@triton.jit
def after(tile, last):
    """Shift a tile by one lane to the left; `last` comes in on the right."""
    first, second, third, fourth = lanes_of(tile)
    return of_lanes(second, third, fourth, tl.reshape(last, [tile.shape[0]]))


@triton.jit
def before(tile, new):
    """Shift a tile by one lane to the right; `new` comes in on the left."""
    first, second, third, fourth = lanes_of(tile)
    return of_lanes(tl.reshape(new, [tile.shape[0]]), first, second, third)
