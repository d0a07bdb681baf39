// rank_draw: output the activation of a drawn rank, and its offset in the window.
//
// The rank of an output is the number of thresholds that its Philox word reaches, counted from 0; n, the number of
// valid activations, stands for "zero". Ranks go by value, equal values by position, so a later activation passes an
// earlier one only if it is greater. With one threshold (ensemble max-pooling) the two largest are tracked with their
// offsets, by compare and blend, and a mask selects; a 2x2 window does that as a tournament. With more, the M largest
// are kept by insertion, M - 1 being the largest rank drawn in the vector at hand. A NaN is found by summing the window
// (inf - inf is a false alarm) and put right one lane at a time.
//
// A unit is a row of outputs of one image, or a tile of a block of planes (tile.h).
#pragma once

#include "arguments.h"
#include "narrow_draw.h"
#include "windows.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// The thresholds of windows with n activations that can be reached at all.
struct Thresholds {
    const int64_t* value;
    int64_t count;
    int n = -1;

    void set(const RankDraw& a, int taps) {
        if (taps == n) return;
        n = taps;
        value = a.thresholds + a.row[taps] * a.T;
        count = a.T;
        while (count > 0 && value[count - 1] > 0xffffffffll) --count;
    }
};

// max_pool2d's rule: a window with NaN gives its last one.
template <class T, class I>
__attribute__((noinline)) void draw_nan(const Window<T, I>& w) {
    for (int64_t c = 0; c < w.count; ++c) {
        for (int k = w.taps.n - 1; k >= 0; --k) {
            const T* p = w.in + w.taps.offset[k] + c;
            const Compute<T> value = load_one(p);
            if (value != value) {
                w.out[c] = *p;
                w.drawn[c] = static_cast<I>(w.taps.code[k]);
                break;
            }
        }
    }
}

template <class T, class I>
void draw_empty(const Window<T, I>& w, Compute<T> value) {
    for (int64_t c = 0; c < w.count; ++c) {
        w.out[c] = round_one<T>(value);
        w.drawn[c] = zero_drawn<I>;
    }
}

// N is the number of taps if known (the loop is then unrolled), or 0.
template <int N, class T, class I>
void draw_maximum(const Window<T, I>& w) {
    using C = Compute<T>;
    using V = Vec<C, lanes<T>>;
    using O = Vec<Int<C>, lanes<T>>;
    const int n = N ? N : w.taps.n;
    const TapPointers<N, T> tap(w.in, w.taps);
    O nan{};
    for_lanes<lanes<T>>(w.count, [&](int64_t c) EMPOOL_LAMBDA {
        V best = load<lanes<T>>(tap.in(0) + c), sum = best;
        O code = fill<O>(tap.code(0));
        repeat<N, 1>(n, [&](int k) EMPOOL_LAMBDA {
            const V v = load<lanes<T>>(tap.in(k) + c);
            const O greater = v > best;
            code = greater ? fill<O>(tap.code(k)) : code;
            best = greater ? v : best;
            sum += v;
        });
        nan |= sum != sum;
        store_exact<lanes<T>>(w.out + c, best);
        store_raw(w.drawn + c, convert<I, Int<C>, lanes<T>>(code));
    });
    if (any(nan)) draw_nan(w);
}

// The two largest of n >= 2 activations; `drop` selects the second.
template <int N, class T, class I>
void draw_of_two(const Window<T, I>& w, uint32_t threshold) {
    using C = Compute<T>;
    using V = Vec<C, lanes<T>>;
    using O = Vec<Int<C>, lanes<T>>;
    const int n = N ? N : w.taps.n;
    const auto limit = fill<Vec<uint32_t, lanes<T>>>(threshold);
    const TapPointers<N, T> tap(w.in, w.taps);
    O nan{};
    for_lanes<lanes<T>>(w.count, [&](int64_t c) EMPOOL_LAMBDA {
        const auto reached = load_raw<Vec<uint32_t, lanes<T>>>(w.u + c) >= limit;
        const O drop = __builtin_convertvector(reached, O);
        const V v0 = load<lanes<T>>(tap.in(0) + c), v1 = load<lanes<T>>(tap.in(1) + c);
        const O g01 = v1 > v0;
        const O code0 = fill<O>(tap.code(0)), code1 = fill<O>(tap.code(1));
        V first = g01 ? v1 : v0, second = g01 ? v0 : v1, sum = v0 + v1;
        O first_code = g01 ? code1 : code0, second_code = g01 ? code0 : code1;
        if constexpr (N == 4) {
            const V v2 = load<lanes<T>>(tap.in(2) + c), v3 = load<lanes<T>>(tap.in(3) + c);
            const O code2 = fill<O>(tap.code(2)), code3 = fill<O>(tap.code(3));
            const O g23 = v3 > v2;
            const V high = g23 ? v3 : v2, low = g23 ? v2 : v3;
            const O high_code = g23 ? code3 : code2, low_code = g23 ? code2 : code3;
            sum += v2 + v3;
            // The winner's loser meets the loser of the final; the earlier pair wins ties.
            const O g = high > first;
            const V other = g ? first : high, rest = g ? low : second;
            const O other_code = g ? first_code : high_code, rest_code = g ? low_code : second_code;
            // If the first pair won, `rest` is the earlier of the two, else `other` is.
            const O rest_wins = g ? rest > other : ~(other > rest);
            first = g ? high : first;
            first_code = g ? high_code : first_code;
            second = rest_wins ? rest : other;
            second_code = rest_wins ? rest_code : other_code;
        } else {
            repeat<N, 2>(n, [&](int k) EMPOOL_LAMBDA {
                const V v = load<lanes<T>>(tap.in(k) + c);
                const O code = fill<O>(tap.code(k));
                const O passes_first = v > first, passes_second = v > second;
                second_code = passes_first ? first_code : (passes_second ? code : second_code);
                second = passes_first ? first : (passes_second ? v : second);
                first_code = passes_first ? code : first_code;
                first = passes_first ? v : first;
                sum += v;
            });
        }
        nan |= sum != sum;
        store_exact<lanes<T>>(w.out + c, drop ? second : first);
        store_raw(w.drawn + c, convert<I, Int<C>, lanes<T>>(drop ? second_code : first_code));
    });
    if (any(nan)) draw_nan(w);
}

// Any thresholds. `held` has room for 2 * min(n, thresholds + 1) vectors.
template <class T, class I>
void draw_ranked(const Window<T, I>& w, const Thresholds& thresholds, void* held) {
    using C = Compute<T>;
    using V = Vec<C, lanes<T>>;
    using O = Vec<Int<C>, lanes<T>>;
    const int n = w.taps.n;
    O nan{};
    for_lanes<lanes<T>>(w.count, [&](int64_t c) {
        const auto u = load_raw<Vec<uint32_t, lanes<T>>>(w.u + c);
        Vec<int32_t, lanes<T>> reached{};
        for (int64_t t = 0; t < thresholds.count; ++t) {
            const auto passes = u >= static_cast<uint32_t>(thresholds.value[t]);
            if (!any(passes)) break;
            reached -= passes;
        }
        const O rank = __builtin_convertvector(reached, O);
        const O zero = rank >= n;
        int M = 1;
        while (any(~zero & (rank >= M))) ++M;
        V* values = static_cast<V*>(held);
        O* codes = static_cast<O*>(held) + M;
        V sum{};
        for (int k = 0; k < n; ++k) {
            const V v = load<lanes<T>>(w.in + w.taps.offset[k] + c);
            sum += v;
            V carry = v;
            O carry_code = fill<O>(w.taps.code[k]);
            const int size = k < M ? k : M;
            for (int m = 0; m < size; ++m) {
                const O greater = v > values[m];
                const V value = values[m];
                const O code = codes[m];
                values[m] = greater ? carry : value;
                codes[m] = greater ? carry_code : code;
                carry = greater ? value : carry;
                carry_code = greater ? code : carry_code;
            }
            if (size < M) {
                values[size] = carry;
                codes[size] = carry_code;
            }
        }
        nan |= sum != sum;
        V value = values[0];
        O code = codes[0];
        for (int m = 1; m < M; ++m) {
            value = rank == m ? values[m] : value;
            code = rank == m ? codes[m] : code;
        }
        value = zero ? V{} : value;
        code = zero ? fill<O>(zero_drawn<I>) : code;
        store_exact<lanes<T>>(w.out + c, value);
        store_raw(w.drawn + c, convert<I, Int<C>, lanes<T>>(code));
    });
    if (any(nan)) draw_nan(w);
}

template <class T, class I>
EMPOOL_NOINLINE void draw_window(const Window<T, I>& w, const Thresholds& thresholds, void* held) {
    if (w.taps.n == 0) return draw_empty(w, -__builtin_inf());
    constexpr bool common = sizeof(I) == 1;
    if (thresholds.count == 0) {
        if (common && w.taps.n == 4) return draw_maximum<4>(w);
        if (common && w.taps.n == 9) return draw_maximum<9>(w);
        return draw_maximum<0>(w);
    }
    if (thresholds.count == 1 && w.taps.n > 1) {
        const uint32_t threshold = static_cast<uint32_t>(thresholds.value[0]);
        if (common && w.taps.n == 4) return draw_of_two<4>(w, threshold);
        if (common && w.taps.n == 6) return draw_of_two<6>(w, threshold);
        if (common && w.taps.n == 9) return draw_of_two<9>(w, threshold);
        return draw_of_two<0>(w, threshold);
    }
    draw_ranked(w, thresholds, held);
}

template <class T>
Units rank_draw_units(const RankDraw& a) {
    if (narrow_draws<T>(a)) return plane_units(a.geometry);
    return halving_draws(a) ? halving_units(a.geometry) : lane_units<T>(a.geometry);
}

template <class T, class I>
void rank_draw_as(const RankDraw& a, int64_t begin, int64_t end) {
    using V = Vec<Compute<T>, lanes<T>>;
    const int64_t most = a.geometry.window() < a.T + 1 ? a.geometry.window() : a.T + 1;
    void* held = scratch<V, 6>(2 * most);
    Thresholds thresholds{};
    for_windows<T, I>(a.geometry, a.seed, a.seeds, static_cast<const T*>(a.input), static_cast<T*>(a.output),
                      static_cast<I*>(a.drawn), begin, end, [&](const Window<T, I>& w) {
                          thresholds.set(a, w.taps.n);
                          draw_window(w, thresholds, held);
                      });
}

template <class T>
void rank_draw(const RankDraw& a, int64_t begin, int64_t end) {
    if (narrow_draws<T>(a)) return narrow_rank_draw<T>(a, begin, end);
    if (halving_draws(a)) return halving_rank_draw<T>(a, begin, end);
    a.wide ? rank_draw_as<T, int32_t>(a, begin, end) : rank_draw_as<T, uint8_t>(a, begin, end);
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
