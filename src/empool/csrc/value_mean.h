// value_mean: the average of a window's activations, weighted by their positive parts, sum of relu(a)^2 / sum of
// relu(a) (Zeiler and Fergus, 2013), or by their softmax, sum of exp(beta a) a / sum of exp(beta a) (Stergiou, 2021).
//
// Squares may leave the type's range: a window whose largest activation is very large or small is scaled by it. Work is
// split as for rank_draw.
#pragma once

#include "exp.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// A mean, and what its derivative needs.
template <class C, int L>
struct ValueMeanOf {
    Vec<C, L> mean, total;
};

// By value, activation a > 0 has the slope (2 a - mean) * unit / total, where `unit` keeps the total in range.
template <class C, int L>
struct PositiveMeanOf {
    Vec<C, L> mean, total, unit = fill<Vec<C, L>>(C(1));
};

// N is n if it is known, or 0.
template <class C, int L, int N, class Tap>
EMPOOL_INLINE PositiveMeanOf<C, L> positive_mean(int n, const Tap& tap) {
    using V = Vec<C, L>;
    V largest{}, total{}, squares{};
    repeat<N, 0>(n, [&](int k) EMPOOL_LAMBDA {
        const V a = tap(k), positive = larger(V{}, a);  // A NaN stays.
        largest = larger(positive, largest);
        total += positive;
        squares += positive * positive;
    });
    constexpr C large = C(1125899906842624.0);  // 2^50
    const auto ordinary = (largest <= large) & ((largest >= 1 / large) | (largest == 0));
    if (any(~ordinary)) {
        const V scale = ordinary ? fill<V>(C(1)) : largest;
        const V unit = largest > large ? fill<V>(C(0x1p-32)) : fill<V>(C(1));
        V scaled_total{};
        total = squares = V{};
        for (int k = 0; k < n; ++k) {
            const V a = larger(V{}, tap(k)), positive = a / scale;
            total += a * unit;
            scaled_total += positive;
            squares += positive * positive;
        }
        const V mean = squares / (scaled_total == 0 ? fill<V>(C(1)) : scaled_total) * scale;
        const auto infinite = (largest == static_cast<C>(__builtin_inf())) & (total == total);
        return {infinite ? largest : mean, total, unit};
    }
    return {squares / (total == 0 ? fill<V>(C(1)) : total), total};
}

// How much the mean changes with activation a > 0.
template <class C, int L>
EMPOOL_INLINE Vec<C, L> positive_slope(Vec<C, L> a, const PositiveMeanOf<C, L>& of) {
    using V = Vec<C, L>;
    const V mean = of.mean, slope = a * of.unit / of.total + (a - mean) * of.unit / of.total;
    const V share = a > 0 ? slope : (a == a ? V{} : a);
    return (mean - mean == 0) | (mean != mean) ? share : V{};
}

// held[0..n) are scores and become the weights; the largest weight is 1.
template <class C, int L, int N, class Tap>
EMPOOL_INLINE ValueMeanOf<C, L> soft_mean_of_scores(int n, const Tap& tap, Vec<C, L>* held, Vec<C, L> largest) {
    using V = Vec<C, L>;
    V total{}, sum{};
    repeat<N, 0>(n, [&](int k) EMPOOL_LAMBDA {
        const V a = tap(k);
        held[k] = weight_of<C, L>(held[k], largest);
        total += held[k];
        sum = add_where(unequal(held[k], V{}), sum, held[k] * a);
    });
    V mean = sum / total;
    if (any(~(mean - mean == 0))) {
        // The sum left the type's range, unless an activation is infinite or a NaN: each is divided first.
        V divided{};
        for (int k = 0; k < n; ++k) divided += held[k] == 0 ? V{} : held[k] / total * tap(k);
        mean = mean - mean == 0 ? mean : divided;
    }
    return {mean, total};
}

// held[0..n) become the weights, up to a common factor, if `keeps`; else it is memory. Where the sums stay in range,
// the first activation takes the place of the largest.
template <class T, int L, int N, bool keeps, class Tap>
EMPOOL_INLINE ValueMeanOf<Compute<T>, L> soft_mean(int n, const Tap& tap, Vec<Compute<T>, L> beta,
                                                   Vec<Compute<T>, L>* held) {
    using C = Compute<T>;
    using V = Vec<C, L>;
    if constexpr (sizeof(C) == 4) {
        const V first = tap(0), scale = beta * log2e;
        V total = fill<V>(C(1)), sum = first;
        if (keeps) held[0] = total;
        repeat<N, 1>(n, [&](int k) EMPOOL_LAMBDA {
            const V a = tap(k), e = exp2_near<T, L>(a - first, scale);
            if (keeps) held[k] = e;
            total += e;
            sum = multiply_add(e, a, sum);
        });
        if (!any(~is_near<true>(total, sum))) return {sum / total, total};
    }
    const V largest = scores_of<C, L, N>(n, tap, beta, held);
    return soft_mean_of_scores<C, L, N>(n, tap, held, largest);
}

// How much the mean changes with activation a of a weight.
template <class C, int L>
EMPOOL_INLINE Vec<C, L> soft_slope(Vec<C, L> weight, Vec<C, L> a, Vec<C, L> beta, Vec<C, L> mean, Vec<C, L> total) {
    using V = Vec<C, L>;
    const V share = weight / total;
    const auto none = (share == 0) | ((mean == mean) & (mean - mean != 0));
    return none ? V{} : share * (1 + beta * (a - mean));
}

template <int N, class T, class I>
EMPOOL_INLINE void value_mean_lanes(const Window<T, I>& w, const Beta<T>& beta, Vec<Compute<T>, lanes<T>>* memory) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    const TapPointers<N, T> taps(w.in, w.taps);
    for_lanes<L>(w.count, [&](int64_t c) EMPOOL_LAMBDA {
        const auto tap = [&](int k) EMPOOL_LAMBDA -> V {
            if (N == 0) prefetch(taps.in(k) + c, L);
            return load<L>(taps.in(k) + c);
        };
        if (beta.none()) {
            store<L>(w.out + c, positive_mean<C, L, N>(w.taps.n, tap).mean);
        } else {
            V registers[N ? N : 1];
            const auto mean = soft_mean<T, L, N, false>(w.taps.n, tap, beta.at(c), N ? registers : memory);
            store<L>(w.out + c, mean.mean);
        }
    });
}

template <class T, class I>
EMPOOL_NOINLINE void value_mean_window(const Window<T, I>& w, const Beta<T>& beta, Vec<Compute<T>, lanes<T>>* memory) {
    if (w.taps.n == 4) return value_mean_lanes<4>(w, beta, memory);
    if (w.taps.n == 9) return value_mean_lanes<9>(w, beta, memory);
    if (w.taps.n > 0) return value_mean_lanes<0>(w, beta, memory);
    for (int64_t c = 0; c < w.count; ++c) w.out[c] = T{};
}

template <class T>
void value_mean_windows(const ValueMean& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    auto* held = scratch<Vec<Compute<T>, lanes<T>>, Buffer::ranked>(g.window());
    LaneTable<double, Buffer::table> betas(a.beta, in_place(g, lanes<T>), lanes<T>);
    for_windows<T, uint8_t>(
        g, {}, static_cast<const T*>(a.input), static_cast<T*>(a.output), nullptr, begin, end,
        [&](const PlaneBlock& block) { betas.set_block(g, block); },
        [&](const Window<T, uint8_t>& w) { value_mean_window(w, Beta<T>(betas, w.channel), held); });
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
