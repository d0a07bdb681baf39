// How the kernels walk over a tensor.
//
// A kernel's lanes are channels: all lanes of a vector then share one window, its taps, its border and its counter, and
// nothing needs masking. Channels-last tensors are read in place. In a contiguous tensor (or one with fewer channels
// than lanes) neighbouring planes play the part of channels: the planes of a block are interleaved into a tile of
// scratch memory, [position][lane], and results go back the same way. Tiles are small enough to stay in the cache.
#pragma once

#include "vec.h"
#include "window.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// What a thread keeps memory for, from call to call. Two buffers that are in use at once have different names.
enum class Buffer {
    tap_offsets,
    sum_offsets,
    tap_codes,
    numbers,
    input,  // a tile of it, or its rows
    input_odd_rows,
    input_odd_columns,
    input_odd_both,
    output,  // likewise; of gradients, the one that is written
    drawn,
    gradient,  // a tile or rows of the output's gradient
    sums,
    ranked,  // values by rank
    table,   // thresholds or weights as the kernel wants them
    bases,
    counts,
    counters,  // Philox's
    nan,
    cover_first,
    cover_columns,
    cover_rows,
    cover_offsets,
    cover_codes,
    tile_input,  // planes side by side
    tile_gradient,
    spare,
};

template <class T, Buffer name>
EMPOOL_INLINE T* scratch(int64_t count) {
    struct Block {
        void* memory = nullptr;
        size_t size = 0;
        ~Block() { operator delete(memory, std::align_val_t(64)); }
    };
    static thread_local Block block;
    const size_t size = sizeof(T) * static_cast<size_t>(count) + 64;
    if (block.size < size) {
        operator delete(block.memory, std::align_val_t(64));
        block.memory = nullptr;
        block.size = 0;
        block.memory = operator new(size, std::align_val_t(64));
        block.size = size;
    }
    return static_cast<T*>(block.memory);
}

// A box of positions held in memory with `step` elements between neighbours of a row.
struct Box {
    int64_t origin[3], size[3], step;

    int64_t positions() const { return size[0] * size[1] * size[2]; }
    int64_t offset(int64_t d, int64_t h, int64_t w) const {
        return (((d - origin[0]) * size[1] + (h - origin[1])) * size[2] + (w - origin[2])) * step;
    }
};

EMPOOL_INLINE Box whole_input(const Geometry& g, int64_t step) {
    return {{0, 0, 0}, {g.axis[0].in, g.axis[1].in, g.axis[2].in}, step};
}

EMPOOL_INLINE Box whole_output(const Geometry& g, int64_t step) {
    return {{0, 0, 0}, {g.axis[0].out, g.axis[1].out, g.axis[2].out}, step};
}

// The input positions that the windows of a box of outputs read.
EMPOOL_INLINE Box inputs_of(const Geometry& g, const Box& outputs) {
    Box box{};
    for (int i = 0; i < 3; ++i) {
        const Axis& a = g.axis[i];
        int64_t first = a.start(outputs.origin[i]);
        int64_t last = a.end(outputs.origin[i] + outputs.size[i] - 1);
        first = first < 0 ? 0 : first;
        last = last > a.in ? a.in : last;
        box.origin[i] = first;
        box.size[i] = last > first ? last - first : 0;
    }
    box.step = outputs.step;
    return box;
}

// The outputs whose windows may cover a box of input positions.
EMPOOL_INLINE Box outputs_of(const Geometry& g, const Box& inputs) {
    Box box{};
    for (int i = 0; i < 3; ++i) {
        int64_t first, last, unused;
        g.axis[i].outputs(inputs.origin[i], first, unused);
        g.axis[i].outputs(inputs.origin[i] + inputs.size[i] - 1, unused, last);
        box.origin[i] = first;
        box.size[i] = last > first ? last - first : 0;
    }
    box.step = inputs.step;
    return box;
}

// Cuts `extent` positions (outputs or inputs) into tiles that, with their other side, found by `other`, fit the cache.
// `step` is the number of planes in a tile.
struct Tiling {
    int64_t extent[3], tile[3], count[3], step;

    template <class Other>
    Tiling(int64_t d, int64_t h, int64_t w, int64_t lanes, int64_t bytes, const Other& other) : step(lanes) {
        constexpr int64_t budget = 128 * 1024;
        extent[0] = tile[0] = d;
        extent[1] = tile[1] = h;
        extent[2] = tile[2] = w;
        for (int i = 0; i < 3; ++i) {
            // Rows are cut at multiples of 4: a Philox call serves 4 neighbours.
            while (tile[i] > (i == 2 ? 64 : 1)) {
                const Box box{{0, 0, 0}, {tile[0], tile[1], tile[2]}, 1};
                if ((box.positions() + other(box).positions()) * lanes * bytes <= budget) break;
                tile[i] = i == 2 ? (tile[i] / 2 + 3) / 4 * 4 : (tile[i] + 1) / 2;
            }
            count[i] = (extent[i] + tile[i] - 1) / (tile[i] > 0 ? tile[i] : 1);
        }
    }

    int64_t tiles() const { return count[0] * count[1] * count[2]; }

    Box box(int64_t index) const {
        const int64_t at[3] = {index / (count[1] * count[2]), index / count[2] % count[1], index % count[2]};
        Box box{};
        for (int i = 0; i < 3; ++i) {
            box.origin[i] = at[i] * tile[i];
            const int64_t rest = extent[i] - box.origin[i];
            box.size[i] = rest < tile[i] ? rest : tile[i];
        }
        box.step = step;
        return box;
    }
};

// The planes of a block, one to a lane; lanes past the last plane repeat it and are not written back.
struct PlaneBlock {
    int64_t first, used;

    PlaneBlock(const Geometry& g, int64_t index, int lanes) : first(index * lanes) {
        const int64_t rest = g.planes() - first;
        used = rest < lanes ? rest : lanes;
    }
    int64_t plane(int lane) const { return first + (lane < used ? lane : used - 1); }
};

EMPOOL_INLINE int64_t plane_blocks(const Geometry& g, int lanes) { return (g.planes() + lanes - 1) / lanes; }

// Whether channels fill the lanes where they lie.
EMPOOL_INLINE bool in_place(const Geometry& g, int lanes) { return g.channels_last && g.C >= lanes; }

// Turns L rows of `width` elements, one from each plane, into `width` positions of L lanes, and back. A round zips the
// first half of the vectors with the second; after log2(L) rounds every element has moved to its place.
template <class E, int L>
struct Transpose {
    static constexpr int width = L * sizeof(E) >= 16 ? L : 16 / sizeof(E);
    using V = Vec<E, width>;

    // Unrolled, so that the vectors stay in registers.
    template <int round = 1>
    static EMPOOL_INLINE void to_lanes(V (&v)[L]) {
        if constexpr (round < L) {
            V next[L];
            repeat<L / 2, 0>(0, [&](int i) EMPOOL_LAMBDA {
                next[2 * i] = zip<0>(v[i], v[i + L / 2]);
                next[2 * i + 1] = zip<1>(v[i], v[i + L / 2]);
            });
            to_lanes<2 * round>(next);
            repeat<L, 0>(0, [&](int i) EMPOOL_LAMBDA { v[i] = next[i]; });
        }
    }
    template <int round = 1>
    static EMPOOL_INLINE void to_rows(V (&v)[L]) {
        if constexpr (round < L) {
            V next[L];
            repeat<L / 2, 0>(0, [&](int i) EMPOOL_LAMBDA {
                next[i] = unzip<0>(v[2 * i], v[2 * i + 1]);
                next[i + L / 2] = unzip<1>(v[2 * i], v[2 * i + 1]);
            });
            to_rows<2 * round>(next);
            repeat<L, 0>(0, [&](int i) EMPOOL_LAMBDA { v[i] = next[i]; });
        }
    }
};

template <class T>
using Bits = std::conditional_t<
    sizeof(T) == 8, uint64_t,
    std::conditional_t<sizeof(T) == 4, uint32_t, std::conditional_t<sizeof(T) == 2, uint16_t, uint8_t>>>;

// Moves a row of positions between L planes and a tile.
template <int L, class T>
EMPOOL_NOINLINE void interleave_row(const T* const (&plane)[L], int64_t from, int64_t size, int64_t step, T* tile) {
    using Block = Transpose<Bits<T>, L>;
    int64_t w = 0;
    for (; step == 1 && w + Block::width <= size; w += Block::width) {
        typename Block::V v[L];
        repeat<L, 0>(0, [&](int l) EMPOOL_LAMBDA { v[l] = load_raw<typename Block::V>(plane[l] + from + w); });
        Block::to_lanes(v);
        repeat<L, 0>(0, [&](int l) EMPOOL_LAMBDA { store_raw(tile + w * L + l * Block::width, v[l]); });
    }
    for (; w < size; ++w) {
        for (int l = 0; l < L; ++l) tile[w * L + l] = plane[l][from + w * step];
    }
}

template <int L, class T>
EMPOOL_NOINLINE void deinterleave_row(T* const (&plane)[L], int used, int64_t to, int64_t size, int64_t step,
                                      const T* tile) {
    using Block = Transpose<Bits<T>, L>;
    int64_t w = 0;
    for (; step == 1 && w + Block::width <= size; w += Block::width) {
        typename Block::V v[L];
        repeat<L, 0>(0,
                     [&](int l) EMPOOL_LAMBDA { v[l] = load_raw<typename Block::V>(tile + w * L + l * Block::width); });
        Block::to_rows(v);
        repeat<L, 0>(0, [&](int l) EMPOOL_LAMBDA {
            if (l < used) store_raw(plane[l] + to + w, v[l]);
        });
    }
    for (; w < size; ++w) {
        for (int l = 0; l < used; ++l) plane[l][to + w * step] = tile[w * L + l];
    }
}

template <int L, class T, class Row>
EMPOOL_INLINE void for_tile_rows(const Geometry& g, T* tensor, const Box& whole, const PlaneBlock& block,
                                 const Box& box, const Row& row) {
    T* plane[L];
    for (int l = 0; l < L; ++l) plane[l] = tensor + g.plane(block.plane(l), whole.positions());
    // Rows that follow each other both in the tensor and in the tile are one row.
    const bool rows_join = box.size[2] == whole.size[2], planes_join = rows_join && box.size[1] == whole.size[1];
    const int64_t D = planes_join ? 1 : box.size[0], H = rows_join ? 1 : box.size[1];
    const int64_t size = box.positions() / (D * H > 0 ? D * H : 1);
    for (int64_t d = 0; d < D; ++d) {
        for (int64_t h = 0; h < H; ++h) {
            const int64_t at =
                ((box.origin[0] + d) * whole.size[1] + box.origin[1] + h) * whole.size[2] + box.origin[2];
            row(plane, at * g.step(), size, (d * H + h) * size * L);
        }
    }
}

// tile[position][lane] = tensor, for the positions of `box`; `whole` holds the tensor's sizes.
template <int L, class T>
void interleave(const Geometry& g, const T* tensor, const Box& whole, const PlaneBlock& block, const Box& box,
                T* tile) {
    for_tile_rows<L>(g, tensor, whole, block, box, [&](auto& plane, int64_t from, int64_t size, int64_t at) {
        interleave_row<L>(plane, from, size, g.step(), tile + at);
    });
}

template <int L, class T>
void deinterleave(const Geometry& g, T* tensor, const Box& whole, const PlaneBlock& block, const Box& box,
                  const T* tile) {
    for_tile_rows<L>(g, tensor, whole, block, box, [&](auto& plane, int64_t to, int64_t size, int64_t at) {
        deinterleave_row<L>(plane, static_cast<int>(block.used), to, size, g.step(), tile + at);
    });
}

// Calls body(c) for c = first, first + L, ... so that [c, c + L) covers [first, count), count >= L; the last step may
// overlap.
template <int L, class Body>
EMPOOL_INLINE void for_lanes_from(int64_t first, int64_t count, const Body& body) {
    int64_t c = first;
    for (; c + L <= count; c += L) body(c);
    if (c < count) body(count - L);
}

template <int L, class Body>
EMPOOL_INLINE void for_lanes(int64_t count, const Body& body) {
    for_lanes_from<L>(0, count, body);
}

// A list of positions, as offsets from a base, with the window offset at which each is read.
struct Taps {
    int n;
    const int64_t* offset;
    const int32_t* code;
};

// The taps of the windows of one row of outputs. Windows that lie inside the row share one list and differ in their
// base.
template <Buffer offsets = Buffer::tap_offsets>
class RowWindows {
  public:
    RowWindows(const Geometry& g, const Box& box)
        : axis_(g.axis),
          box_(box),
          offset_(scratch<int64_t, offsets>(2 * g.window())),
          code_(scratch<int32_t, Buffer::tap_codes>(2 * g.window())),
          window_(g.window()) {}

    void set_row(int64_t od, int64_t oh) {
        const Axis &D = axis_[0], &H = axis_[1], &W = axis_[2];
        int64_t kd0, kd1, kh0, kh1;
        D.taps(od, kd0, kd1);
        H.taps(oh, kh0, kh1);
        rows_of_slice_ = kh1 - kh0 > 0 ? kh1 - kh0 : 1;
        rows_ = 0;
        int64_t n = 0;
        for (int64_t kd = kd0; kd < kd1; ++kd) {
            for (int64_t kh = kh0; kh < kh1; ++kh, ++rows_) {
                const int64_t id = D.start(od) + kd * D.dilation, ih = H.start(oh) + kh * H.dilation;
                for (int64_t kw = 0; kw < W.kernel; ++kw, ++n) {
                    offset_[n] = box_.offset(id, ih, box_.origin[2] + kw * W.dilation);
                    code_[n] = static_cast<int32_t>((kd * H.kernel + kh) * W.kernel + kw);
                }
            }
        }
    }

    // Asks for what the windows below those of `count` outputs from ow on read for the first time; after the last row
    // of an image, for the first rows of the next.
    template <class T>
    EMPOOL_INLINE void prefetch_below(const T* in, int64_t ow, int64_t count) const {
        const Axis &H = axis_[1], &W = axis_[2];
        const int64_t first = W.start(ow) < 0 ? 0 : W.start(ow), end = W.start(ow + count);
        const int64_t size = ((end < W.in ? end : W.in) - first) * box_.step;
        const int64_t rows = H.stride < H.kernel ? H.stride : H.kernel;
        for (int64_t last = rows_of_slice_ - 1; last < rows_; last += rows_of_slice_) {
            const T* p = in + offset_[last * W.kernel] + (first - box_.origin[2]) * box_.step;
            for (int64_t row = 1; row <= rows; ++row) {
                const int64_t from = row * box_.size[2] * box_.step;
                for (int64_t i = 0; i < size; i += 64 / static_cast<int64_t>(sizeof(T))) prefetch(p, from + i);
            }
        }
    }

    // The taps of output ow; `base` is what to add to their offsets.
    Taps at(int64_t ow, int64_t& base) {
        const Axis& W = axis_[2];
        int64_t first, last;
        W.taps(ow, first, last);
        base = (W.start(ow) - box_.origin[2]) * box_.step;
        if (last - first == W.kernel) return {static_cast<int>(rows_ * W.kernel), offset_, code_};
        int64_t n = 0;
        for (int64_t row = 0; row < rows_; ++row) {
            for (int64_t kw = first; kw < last; ++kw, ++n) {
                offset_[window_ + n] = offset_[row * W.kernel + kw];
                code_[window_ + n] = code_[row * W.kernel + kw];
            }
        }
        return {static_cast<int>(n), offset_ + window_, code_ + window_};
    }

  private:
    const Axis* axis_;
    Box box_;
    int64_t* offset_;
    int32_t* code_;
    int64_t window_, rows_ = 0, rows_of_slice_ = 1;
};

// Visits every output that lies in `outputs`, row by row, in groups of up to four neighbours with the same ow >> 2:
// row(od, oh) and then group(od, oh, first, last) for the outputs from ow = first up to last.
template <class Row, class Group>
EMPOOL_INLINE void for_rows(const Box& outputs, const Row& row, const Group& group) {
    for (int64_t od = outputs.origin[0]; od < outputs.origin[0] + outputs.size[0]; ++od) {
        for (int64_t oh = outputs.origin[1]; oh < outputs.origin[1] + outputs.size[1]; ++oh) {
            row(od, oh);
            const int64_t end = outputs.origin[2] + outputs.size[2];
            for (int64_t ow = outputs.origin[2]; ow < end;) {
                const int64_t next = (ow / 4 + 1) * 4, last = next < end ? next : end;
                group(od, oh, ow, last);
                ow = last;
            }
        }
    }
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
