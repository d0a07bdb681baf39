// drawn_scatter for 2x2 and 3x3 windows with stride 2 where channels are neighbours in memory.
//
// Counted from the padding, the positions (2i, 2j), (2i, 2j + 1), (2i + 1, 2j) and (2i + 1, 2j + 1) form a block. A 2x2
// window is a block. Four 3x3 windows touch a block, outputs (i - 1 .. i, j - 1 .. j), so a block reads four gradients
// where its positions one by one would read nine. A window or position that is not there is replaced by a row of zeros
// that nobody drew, or by a row that nobody reads. A unit is a row of blocks of one image.
#pragma once

#include "ranks.h"
#include "stride2.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

EMPOOL_INLINE int64_t block_rows(const Axis& a) { return (a.in + a.padding + 1) / 2; }

EMPOOL_INLINE Units block_units(const Geometry& g) { return {g.N * block_rows(g.axis[1]), 4 * g.axis[2].in * g.C}; }

template <class T>
struct DrawnAt {
    const T* grad;
    const uint8_t* drawn;
};

// A window's gradient and offsets in the lanes at hand.
template <class T>
struct DrawnLanes {
    using V = Vec<Compute<T>, lanes<T>>;
    V grad;
    Codes<Compute<T>, lanes<T>, uint8_t> code;

    EMPOOL_INLINE DrawnLanes(const DrawnAt<T>& at, int64_t c)
        : grad(load<lanes<T>>(at.grad + c)), code(load_codes<decltype(code), lanes<T>>(at.drawn + c)) {}

    // Adds the gradient where position k was drawn.
    EMPOOL_INLINE V add_to(V sum, int k) const { return add_where(equal<Compute<T>>(code, k), sum, grad); }
    EMPOOL_INLINE V round_sum(V sum, int k) const { return round_to<T, lanes<T>>(add_to(sum, k)); }
};

template <class T, int side>
EMPOOL_NOINLINE void scatter_block(const DrawnAt<T> (&from)[4], T* const (&to)[4], int64_t C, int64_t row_out,
                                   int64_t row_in) {
    constexpr int L = lanes<T>;
    const DrawnAt<T> f0 = from[0], f1 = from[1], f2 = from[2], f3 = from[3];
    T *const t0 = to[0], *const t1 = to[1], *const t2 = to[2], *const t3 = to[3];
    for_lanes<L>(C, [&](int64_t c) EMPOOL_LAMBDA {
        // What the block below reads and writes for the first time.
        prefetch(f3.grad + c, row_out);
        prefetch(f3.drawn + c, row_out);
        for (T* p : {t0, t1, t2, t3}) prefetch<true>(p + c, 2 * row_in);
        const DrawnLanes<T> d(f3, c);
        const typename DrawnLanes<T>::V zero{};
        if constexpr (side == 2) {
            store_exact<L>(t0 + c, d.add_to(zero, 0));
            store_exact<L>(t1 + c, d.add_to(zero, 1));
            store_exact<L>(t2 + c, d.add_to(zero, 2));
            store_exact<L>(t3 + c, d.add_to(zero, 3));
        } else {
            const DrawnLanes<T> a(f0, c), b(f1, c), e(f2, c);
            store_exact<L>(t0 + c, d.round_sum(e.round_sum(b.round_sum(a.add_to(zero, 8), 6), 2), 0));
            store_exact<L>(t1 + c, d.round_sum(b.add_to(zero, 7), 1));
            store_exact<L>(t2 + c, d.round_sum(e.add_to(zero, 5), 3));
            store_exact<L>(t3 + c, d.add_to(zero, 4));
        }
    });
}

template <class T, int side>
void scatter_blocks_of(const DrawnScatter& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    const Axis &H = g.axis[1], &W = g.axis[2];
    const int64_t C = g.C, rows = block_rows(H), columns = block_rows(W);
    T* zero = scratch<T, Buffer::gradient>(C);
    T* sink = scratch<T, Buffer::output>(C);
    uint8_t* nobody = scratch<uint8_t, Buffer::drawn>(C);
    for (int64_t c = 0; c < C; ++c) {
        zero[c] = T{};
        nobody[c] = 255;
    }
    const DrawnAt<T> none{zero, nobody};
    for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t n = unit / rows, i = unit % rows, outputs = n * H.out * W.out, inputs = n * H.in * W.in;
        const auto output = [&](int64_t oh, int64_t ow) -> DrawnAt<T> {
            if (oh < 0 || oh >= H.out || ow < 0 || ow >= W.out) return none;
            const int64_t at = (outputs + oh * W.out + ow) * C;
            return {static_cast<const T*>(a.grad_output) + at, static_cast<const uint8_t*>(a.drawn) + at};
        };
        const auto input = [&](int64_t y, int64_t x) -> T* {
            const int64_t ih = y - H.padding, iw = x - W.padding;
            if (ih < 0 || ih >= H.in || iw < 0 || iw >= W.in) return sink;
            return static_cast<T*>(a.grad_input) + (inputs + ih * W.in + iw) * C;
        };
        DrawnAt<T> from[4] = {output(i - 1, -1), output(i - 1, 0), output(i, -1), output(i, 0)};
        for (int64_t j = 0; j < columns; ++j) {
            T* const to[4] = {input(2 * i, 2 * j), input(2 * i, 2 * j + 1), input(2 * i + 1, 2 * j),
                              input(2 * i + 1, 2 * j + 1)};
            scatter_block<T, side>(from, to, C, W.out * C, W.in * C);
            from[0] = from[1];
            from[1] = side == 3 ? output(i - 1, j + 1) : none;
            from[2] = from[3];
            from[3] = output(i, j + 1);
        }
    }
}

template <class T>
void scatter_blocks(const DrawnScatter& a, int64_t begin, int64_t end) {
    stride2_side(a.geometry) == 2 ? scatter_blocks_of<T, 2>(a, begin, end) : scatter_blocks_of<T, 3>(a, begin, end);
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
