// rank_draw: output the activation of a drawn rank, and its offset in the window.
//
// The rank of an output is the number of thresholds that its Philox word reaches, counted from 0; n, the number of
// valid activations, stands for "zero". With one threshold (ensemble max-pooling) the two largest are tracked
// (two_largest.h). With more, the M largest are kept by insertion, M - 1 being the largest rank drawn in the vector at
// hand, and a NaN is found by summing the window (inf - inf is a false alarm). A window with a NaN is put right one
// lane at a time.
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
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    const TapPointers<N, T> tap(w.in, w.taps);
    Mask<C, L> nan{};
    for_lanes<L>(w.count, [&](int64_t c) EMPOOL_LAMBDA {
        const auto in = [&](int k) EMPOOL_LAMBDA -> V { return load<L>(tap.in(k) + c); };
        const auto code = [&](int k) EMPOOL_LAMBDA { return tap.code(k); };
        if (w.taps.n == 1) {
            nan = nan | unordered(in(0), in(0));
            store_exact<L>(w.out + c, in(0));
            store_codes<I, L>(w.drawn + c, fill_code<Codes<C, L, I>>(code(0)));
            return;
        }
        const auto drawn = draw_lanes<C, L, I, N, false, true>(w.taps.n, in, code, Mask<C, L>{});
        nan = nan | drawn.nan;
        store_exact<L>(w.out + c, drawn.value);
        store_codes<I, L>(w.drawn + c, drawn.code);
    });
    if (any(nan)) draw_nan(w);
}

// The two largest of n >= 2 activations; the second where the number reaches the threshold, which is greater than 0.
template <int N, class T, class I>
void draw_of_two(const Window<T, I>& w, uint32_t threshold) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    using U = Vec<uint32_t, L>;
    const auto limit = fill<U>(threshold - 1);
    const TapPointers<N, T> tap(w.in, w.taps);
    Mask<C, L> nan{};
    for_lanes<L>(w.count, [&](int64_t c) EMPOOL_LAMBDA {
        const auto drawn = draw_lanes<C, L, I, N, true, true>(
            w.taps.n, [&](int k) EMPOOL_LAMBDA -> V { return load<L>(tap.in(k) + c); },
            [&](int k) EMPOOL_LAMBDA { return tap.code(k); }, passes<C, L>(load_raw<U>(w.u + c), limit));
        nan = nan | drawn.nan;
        store_exact<L>(w.out + c, drawn.value);
        store_codes<I, L>(w.drawn + c, drawn.code);
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
    if (thresholds.count == 1 && thresholds.value[0] > 0 && w.taps.n > 1) {
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
