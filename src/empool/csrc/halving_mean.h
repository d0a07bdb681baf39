// rank_mean with one or two weights for 2x2 and 3x3 windows with stride 2 in contiguous planes (halving.h).
//
// As rank_mean.h, lanes being neighbouring outputs and padding being -inf, which is never among the two largest of two
// or more activations unless they are -inf themselves. A row with a NaN is gone through again, output by output.
#pragma once

#include "halving_draw.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// One or two weights, positive for every number of activations that occurs; n >= 2 throughout.
EMPOOL_INLINE bool halving_means(const RankMean& a) {
    const Geometry& g = a.geometry;
    if (halving_side(g) == 0 || g.channels_last || a.R < 1 || a.R > 2) return false;
    return for_counts(g, [&](int64_t n) {
        bool served = n >= 2;
        for (int64_t r = 0; r < a.R; ++r) served = served && a.weights[a.row[n] * a.R + r] > 0;
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

template <class V>
EMPOOL_INLINE V larger(V a, V b) {
    return a > b ? a : b;
}

template <class V>
EMPOOL_INLINE V smaller(V a, V b) {
    return a < b ? a : b;
}

template <class T, int side, int R>
void halving_mean(const RankMean& a, int64_t begin, int64_t end) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    const Geometry& g = a.geometry;
    const Axis &H = g.axis[1], &W = g.axis[2];
    const int64_t OW = W.out;
    const Strips strips = halving_strips(g);
    const auto weight0 =
        RowTable<C>::template make<9>(g, L, [&](int64_t n) { return static_cast<C>(a.weights[a.row[n] * R]); });
    const auto weight1 = RowTable<C>::template make<10>(
        g, L, [&](int64_t n) { return static_cast<C>(a.weights[a.row[n] * R + R - 1]); });
    SplitRows<T, side> split(g, strips.strip);
    T* out = static_cast<T*>(a.output);
    T* const out_end = out + strips.before(end) * OW;
    for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t plane = unit / strips.count, first = strips.first(unit), last = strips.last(unit);
        const T* in = static_cast<const T*>(a.input) + plane * g.in_size();
        split.set_strip(in, first, last);
        for (int64_t oh = first; oh < last; ++oh) {
            const C *phase0[side], *phase1[side];
            const bool nan = split.at(oh, phase0, phase1);
            const int64_t rows = valid_rows(H, oh);
            const C *w0 = weight0.row(rows), *w1 = weight1.row(rows);
            T* to = out + (plane * H.out + oh) * OW;
            for (int64_t ow = 0; ow < OW; ow += L) {
                const auto tap = [&](int k) EMPOOL_LAMBDA {
                    const int kh = k / side, kw = k % side;
                    return load_raw<V>(kw == 1 ? phase1[kh] + ow : phase0[kh] + ow + kw / 2);
                };
                const V v0 = tap(0), v1 = tap(1);
                V best = larger(v1, v0), second = smaller(v1, v0);
                repeat<side * side, 2>(0, [&](int k) EMPOOL_LAMBDA {
                    const V v = tap(k);
                    if (R == 2) second = larger(smaller(v, best), second);
                    best = larger(v, best);
                });
                if (R == 1 && a.maximum) {
                    store_until<L>(to + ow, best, out_end);
                    continue;
                }
                V mean = V{} + load_raw<V>(w0 + ow) * best;
                if (R == 2) mean += load_raw<V>(w1 + ow) * second;
                store_until<L>(to + ow, round_to<T, L>(mean), out_end);
            }
            for (int64_t ow = 0; nan && ow < OW; ++ow) mean_nan_one(g, in, oh, ow, to + ow);
        }
    }
}

template <class T>
void halving_rank_mean(const RankMean& a, int64_t begin, int64_t end) {
    if (halving_side(a.geometry) == 2) {
        return a.R == 1 ? halving_mean<T, 2, 1>(a, begin, end) : halving_mean<T, 2, 2>(a, begin, end);
    }
    a.R == 1 ? halving_mean<T, 3, 1>(a, begin, end) : halving_mean<T, 3, 2>(a, begin, end);
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
