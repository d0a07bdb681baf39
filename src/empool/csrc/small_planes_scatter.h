// drawn_scatter in small planes (small_planes.h).
#pragma once

#include "small_planes.h"
#include "stride2_scatter.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

template <class T>
EMPOOL_INLINE bool small_planes_scatters(const Geometry& g) {
    return stride2_side(g) && !g.channels_last && small_planes_pitch<T>(g) > 0;
}

// Counted from the padding, the positions (2i, 2j), (2i, 2j + 1), (2i + 1, 2j) and (2i + 1, 2j + 1) form a block, as in
// stride2_scatter_channels.h: outputs (i - 1 .. i, j - 1 .. j) give to it, here f - P - 1, f - P, f - 1 and f.
template <class T, int side>
void small_planes_scatter(const DrawnScatter& a, int64_t begin, int64_t end) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    using O = Vec<Int<C>, L>;
    const Geometry& g = a.geometry;
    const Axis &H = g.axis[1], &W = g.axis[2];
    const int64_t OH = H.out, OW = W.out, rows = (H.in + H.padding + 1) / 2, columns = (W.in + W.padding + 1) / 2;
    const int64_t reach = OW + side - 2 > columns ? OW + side - 2 : columns, pitch = (reach + 3) / 4 * 4;
    // Two rows that nobody drew come first, and between rows nobody has drawn.
    C* const grad = small_planes_scratch<C, Buffer::gradient>(rows + 2, pitch, C{}) + 2 * pitch;
    Int<C>* const code = small_planes_scratch<Int<C>, Buffer::drawn>(rows + 2, pitch, -1) + 2 * pitch;
    T* const sums[2] = {small_planes_scratch<T, Buffer::output>(rows, 2 * pitch, T{}),
                        small_planes_scratch<T, Buffer::spare>(rows, 2 * pitch, T{})};
    T* const to_end = static_cast<T*>(a.grad_input) + end * g.in_size();
    for (int64_t plane = begin; plane < end; ++plane) {
        const T* from = static_cast<const T*>(a.grad_output) + plane * g.out_size();
        const uint8_t* drawn = static_cast<const uint8_t*>(a.drawn) + plane * g.out_size();
        for (int64_t oh = 0; oh < OH; ++oh) {
            lay_out_drawn<T, L>(from + oh * OW, drawn + oh * OW, OW, grad + oh * pitch, code + oh * pitch);
        }
        for (int64_t f = 0; f < rows * pitch; f += L) {
            const auto given = [&](int64_t at, int k) EMPOOL_LAMBDA {
                return load_raw<O>(code + at) == fill<O>(k) ? load_raw<V>(grad + at) : V{};
            };
            if constexpr (side == 2) {
                store_pairs<L>(sums[0] + 2 * f, rounded_sum<T>(given(f, 0)), rounded_sum<T>(given(f, 1)));
                store_pairs<L>(sums[1] + 2 * f, rounded_sum<T>(given(f, 2)), rounded_sum<T>(given(f, 3)));
            } else {
                const int64_t up = f - pitch;
                store_pairs<L>(sums[0] + 2 * f,
                               rounded_sum<T>(given(up - 1, 8), given(up, 6), given(f - 1, 2), given(f, 0)),
                               rounded_sum<T>(given(up, 7), given(f, 1)));
                store_pairs<L>(sums[1] + 2 * f, rounded_sum<T>(given(f - 1, 5), given(f, 3)),
                               rounded_sum<T>(given(f, 4)));
            }
        }
        T* to = static_cast<T*>(a.grad_input) + plane * g.in_size();
        for (int64_t y = H.padding; y < H.in + H.padding; ++y, to += W.in) {
            copy_row<L>(sums[y & 1] + y / 2 * 2 * pitch + W.padding, W.in, to, to_end);
        }
    }
}

template <class T>
void small_planes_drawn_scatter(const DrawnScatter& a, int64_t begin, int64_t end) {
    stride2_side(a.geometry) == 2 ? small_planes_scatter<T, 2>(a, begin, end)
                                  : small_planes_scatter<T, 3>(a, begin, end);
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
