// value_draw: output an activation drawn with a probability in proportion to relu(a) (Zeiler and Fergus, 2013), or to
// exp(beta a).
//
// The weights are summed in window order; the draw is the first activation whose running sum exceeds (number * 2^-32) *
// total, or reaches the total, which is the last running sum. Running sums are kept, and ascend: the draw is the first
// that is above a limit, the lesser of the target and of the greatest number below the total. Work is split as for
// rank_draw.
#pragma once

#include "exp.h"
#include "rank_draw.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// A 32-bit number as a fraction of 2^32, rounded once.
template <class C, int L>
EMPOOL_INLINE Vec<C, L> to_fraction(Vec<uint32_t, L> u) {
    using I = Vec<int32_t, L>;
    using V = Vec<C, L>;
    const V high = __builtin_convertvector(bits<I>(u >> 16), V), low = __builtin_convertvector(bits<I>(u & 0xffff), V);
    return (high * C(65536) + low) * C(1.0 / 4294967296.0);
}

// Stores what is drawn of activations with these running sums; N is n if it is known, or 0.
template <int N, class T, class I, class Tap, class Code>
EMPOOL_INLINE void store_value_drawn(const Window<T, I>& w, int64_t c, int n, const Tap& tap, const Code& code_of,
                                     const Vec<Compute<T>, lanes<T>>* running, Vec<Compute<T>, lanes<T>> total) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    using K = Codes<C, L, I>;
    const V target = to_fraction<C, L>(load_raw<Vec<uint32_t, L>>(w.u + c)) * total;
    const V limit = smaller(bits<V>(bits<Vec<Int<C>, L>>(total) - 1), target);
    V value = tap(n - 1);
    K code = fill_code<K>(code_of(n - 1));
    repeat<N, 1>(n, [&](int i) EMPOOL_LAMBDA {
        const int k = n - 1 - i;
        const auto reached = greater(running[k], limit);
        value = select(reached, tap(k), value);
        code = select(reached, fill_code<K>(code_of(k)), code);
    });
    const auto some = greater(total, V{});
    store_exact<L>(w.out + c, select(some, value, V{}));
    store_codes<I, L>(w.drawn + c, select(some, code, fill_code<K>(zero_drawn<I>)));
}

// The draws of the lanes from c on; returns where a window holds a NaN.
template <class T, class I>
EMPOOL_NOINLINE Vec<Int<Compute<T>>, lanes<T>> value_draw_lanes(const Window<T, I>& w, const Beta<T>& beta, int64_t c,
                                                                Vec<Compute<T>, lanes<T>>* held) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    const int n = w.taps.n;
    const auto tap = [&](int k) EMPOOL_LAMBDA -> V { return load<L>(w.in + w.taps.offset[k] + c); };
    V total{}, sum{};
    if (beta.none()) {
        for (int k = 0; k < n; ++k) {
            const V v = tap(k);
            held[k] = total += larger(v, V{});
            sum += v;
        }
    } else {
        const V largest = scores_of<C, L, 0>(n, tap, beta.at(c), held);
        for (int k = 0; k < n; ++k) {
            held[k] = total += exp2_of<C, L>(power_of<C, L>(held[k], largest));
            sum += tap(k);
        }
    }
    store_value_drawn<0>(w, c, n, tap, [&](int k) EMPOOL_LAMBDA { return w.taps.code[k]; }, held, total);
    return sum != sum;
}

// Windows of N activations.
template <int N, bool soft, class T, class I>
EMPOOL_INLINE void value_draw_of_few(const Window<T, I>& w, const Beta<T>& beta, Vec<Compute<T>, lanes<T>>* held) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    using O = Vec<Int<C>, L>;
    using K = Codes<C, L, I>;
    const TapPointers<N, T> taps(w.in, w.taps);
    O nan{};
    for_lanes<L>(w.count, [&](int64_t c) EMPOOL_LAMBDA {
        V running[N], total{}, sum{};
        const auto add = [&](int k, V weight) EMPOOL_LAMBDA { running[k] = total = total + weight; };
        if constexpr (soft) {
            const V factor = beta.at(c);
            V largest = fill<V>(-static_cast<C>(__builtin_inf()));
            repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA {
                const V a = load<L>(taps.in(k) + c);
                running[k] = factor * a;
                largest = larger(running[k], largest);
                sum += a;
            });
            // Infinite scores, and a beta of 0, which leaves no product of an infinity.
            if (any((factor == 0) | (largest - largest != 0))) {
                nan |= value_draw_lanes(w, beta, c, held);
                return;
            }
            repeat<N, 0>(
                N, [&](int k) EMPOOL_LAMBDA { add(k, exp2_of<C, L>((running[k] - largest) * C(1.4426950408889634))); });
        } else {
            repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA {
                const V a = load<L>(taps.in(k) + c);
                add(k, larger(a, V{}));
                sum += a;
            });
        }
        nan |= sum != sum;
        store_value_drawn<N>(
            w, c, N, [&](int k) EMPOOL_LAMBDA { return load<L>(taps.in(k) + c); },
            [&](int k) EMPOOL_LAMBDA { return taps.code(k); }, running, total);
    });
    if (any(nan)) draw_nan(w);
}

template <class T, class I>
EMPOOL_NOINLINE void value_draw_window(const Window<T, I>& w, const Beta<T>& beta, Vec<Compute<T>, lanes<T>>* held) {
    if (w.taps.n == 0) return draw_empty(w, Compute<T>(0));
    if constexpr (sizeof(I) == 1) {
        if (w.taps.n == 4 && beta.none()) return value_draw_of_few<4, false>(w, beta, held);
        if (w.taps.n == 9 && beta.none()) return value_draw_of_few<9, false>(w, beta, held);
        if (w.taps.n == 4) return value_draw_of_few<4, true>(w, beta, held);
        if (w.taps.n == 9) return value_draw_of_few<9, true>(w, beta, held);
    }
    Vec<Int<Compute<T>>, lanes<T>> nan{};
    for_lanes<lanes<T>>(w.count, [&](int64_t c) { nan |= value_draw_lanes(w, beta, c, held); });
    if (any(nan)) draw_nan(w);
}

template <class T, class I>
void value_draw_as(const ValueDraw& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    auto* held = scratch<Vec<Compute<T>, lanes<T>>, Buffer::ranked>(g.window());
    LaneTable<double, Buffer::table> betas(a.beta, in_place(g, lanes<T>), lanes<T>);
    for_windows<T, I>(
        g, a.seeds, static_cast<const T*>(a.input), static_cast<T*>(a.output), static_cast<I*>(a.drawn), begin, end,
        [&](const PlaneBlock& block) { betas.set_block(g, block); },
        [&](const Window<T, I>& w) { value_draw_window(w, Beta<T>(betas, w.channel), held); });
}

template <class T>
void value_draw_windows(const ValueDraw& a, int64_t begin, int64_t end) {
    a.wide ? value_draw_as<T, int32_t>(a, begin, end) : value_draw_as<T, uint8_t>(a, begin, end);
}

template <class T>
constexpr Strategy<ValueDraw> value_draw[] = {
    {[](const ValueDraw&) { return true; }, [](const ValueDraw& a) { return lane_units<T>(a.geometry); },
     value_draw_windows<T>},
};

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
