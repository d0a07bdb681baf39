// rank_mean for 2x2 and 3x3 windows with stride 2 in contiguous planes (stride2.h).
//
// As rank_mean.h, lanes being neighbouring outputs and padding being -inf, which has a weight only beside activations
// that are -inf themselves. A row with a NaN is gone through again, output by output.
#pragma once

#include "sorted.h"
#include "stride2.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

EMPOOL_INLINE bool stride2_means(const RankMean& a) {
    const Geometry& g = a.geometry;
    if (stride2_side(g) == 0 || g.channels_last) return false;
    // A rank past the number of valid activations would find padding.
    return for_counts(g, [&](int64_t n) {
        bool served = n > 0;
        for (int64_t r = n; r < a.weights.columns; ++r) {
            for (int64_t set = 0; set < a.weights.sets; ++set) served = served && a.weights.at(n, r)[set] == 0;
        }
        return served;
    });
}

// Copies the last NaN of a window to its output.
template <class T>
EMPOOL_NOINLINE void mean_nan_one(const Geometry& g, const T* plane, int64_t oh, int64_t ow, T* out) {
    const Axis &H = g.axis[1], &W = g.axis[2];
    for (int64_t kh = 0; kh < H.kernel; ++kh) {
        for (int64_t kw = 0; kw < W.kernel; ++kw) {
            const int64_t ih = H.start(oh) + kh, iw = W.start(ow) + kw;
            if (ih < 0 || ih >= H.in || iw < 0 || iw >= W.in) continue;
            const Compute<T> value = load_one(plane + ih * W.in + iw);
            if (value != value) *out = plane[ih * W.in + iw];
        }
    }
}

template <class T, int side, int M>
void stride2_mean(const RankMean& a, int64_t begin, int64_t end) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    const Geometry& g = a.geometry;
    const Axis &H = g.axis[1], &W = g.axis[2];
    const int64_t OW = W.out;
    const Strips strips = stride2_strips(g);
    OutputTable<C, Buffer::table> weights(g, H.kernel, M, OW + L);
    OutputTable<C, Buffer::bases> start(g, H.kernel, 1, OW + L);
    SplitRows<T, side> split(g, strips.strip);
    T* out = static_cast<T*>(a.output);
    T* const out_end = out + strips.before(end) * OW;
    for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t plane = unit / strips.count, first = strips.first(unit), last = strips.last(unit);
        const T* in = static_cast<const T*>(a.input) + plane * g.in_size();
        split.set_strip(in, first, last);
        if (unit == begin || (a.weights.sets > 1 && first == 0)) {
            const int64_t set = a.weights.sets > 1 ? plane % g.C : 0;
            for (int64_t rows = 1; rows <= H.kernel; ++rows) {
                weights.set_row(rows - 1, rows, C{}, [&](int64_t r, int64_t n) {
                    return r < a.weights.columns ? static_cast<C>(a.weights.at(n, r)[set]) : C{};
                });
                start.set_row(rows - 1, rows, C{},
                              [&](int64_t, int64_t n) { return static_cast<C>(a.start.at(n, 0)[set]); });
            }
        }
        for (int64_t oh = first; oh < last; ++oh) {
            const C *phase0[side], *phase1[side];
            const bool nan = split.at(oh, phase0, phase1);
            const int64_t row = valid_rows(H, oh) - 1;
            const C *w = weights.row(row), *s = start.row(row);
            T* to = out + (plane * H.out + oh) * OW;
            for (int64_t ow = 0; ow < OW; ow += L) {
                V v[side * side], mean = load_raw<V>(s + ow);
                repeat<side * side, 0>(0, [&](int k) EMPOOL_LAMBDA {
                    const int kh = k / side, kw = k % side;
                    v[k] = load_raw<V>(kw == 1 ? phase1[kh] + ow : phase0[kh] + ow + kw / 2);
                });
                sort_first<M, true>(v);
                repeat<M, 0>(0, [&](int m) EMPOOL_LAMBDA {
                    const V weight = load_raw<V>(w + m * weights.step() + ow);
                    mean = select(unequal(weight, V{}), mean + weight * v[m], mean);
                });
                store_until<L>(to + ow, round_to<T, L>(mean), out_end);
            }
            for (int64_t ow = 0; nan && ow < OW; ++ow) mean_nan_one(g, in, oh, ow, to + ow);
        }
    }
}

template <class T>
void stride2_rank_mean(const RankMean& a, int64_t begin, int64_t end) {
    const int64_t M = a.weights.columns;
    if (stride2_side(a.geometry) == 2) {
        if (M == 1) return stride2_mean<T, 2, 1>(a, begin, end);
        if (M == 2) return stride2_mean<T, 2, 2>(a, begin, end);
        return stride2_mean<T, 2, 4>(a, begin, end);
    }
    if (M == 1) return stride2_mean<T, 3, 1>(a, begin, end);
    if (M == 2) return stride2_mean<T, 3, 2>(a, begin, end);
    if (M == 3) return stride2_mean<T, 3, 3>(a, begin, end);
    if (M <= 5) return stride2_mean<T, 3, 5>(a, begin, end);
    stride2_mean<T, 3, 9>(a, begin, end);
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
