// rank_draw: output the activation of a drawn rank, and its offset in the window.
//
// The rank of an output is the number of thresholds that its Philox word reaches, counted from 0; n, the number of
// valid activations, stands for "zero". Where ranks are 0 and 1 only, the two largest are tracked (ranks.h). Else a
// window of 4 compares every pair, and of another the largest values are found first, then where they are; a NaN is
// found by summing the window (inf - inf is a false alarm). A window with a NaN is put right one lane at a time.
//
// A unit is a row of outputs of one image, or a tile of a block of planes (tile.h).
#pragma once

#include "arguments.h"
#include "small_planes_draw.h"
#include "sorted.h"
#include "windows.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

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

// The limits of a window with n activations.
struct WindowLimits {
    const uint32_t *base, *limit;
    int64_t columns, step;
    bool based;
};

// The two largest of n >= 2 activations; the second where the number passes the limit.
template <int N, bool by_lane, class T, class I>
void draw_of_two(const Window<T, I>& w, const uint32_t* limits) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    using U = Vec<uint32_t, L>;
    const auto limit = fill<U>(*limits);
    const TapPointers<N, T> tap(w.in, w.taps);
    Mask<C, L> nan{};
    int64_t done = 0;
    if constexpr (N == 0) {
        // Several vectors at once: a tap is then a stream that the processor can foresee.
        constexpr int Q = 4;
        for (; done + Q * L <= w.count; done += Q * L) {
            using K = Codes<C, L, I>;
            V first[Q], second[Q], sum[Q];
            K first_code[Q], second_code[Q];
            repeat<Q, 0>(Q, [&](int q) EMPOOL_LAMBDA {
                const V v0 = load<L>(tap.in(0) + done + q * L), v1 = load<L>(tap.in(1) + done + q * L);
                const auto later = greater(v1, v0);
                const K code0 = fill_code<K>(tap.code(0)), code1 = fill_code<K>(tap.code(1));
                first[q] = larger(v1, v0);
                second[q] = smaller(v1, v0);
                first_code[q] = select(later, code1, code0);
                second_code[q] = select(later, code0, code1);
                sum[q] = v0 + v1;
            });
            for (int k = 2; k < w.taps.n; ++k) {
                const T* in = tap.in(k) + done;
                const K code = fill_code<K>(tap.code(k));
                repeat<Q, 0>(Q, [&](int q) EMPOOL_LAMBDA {
                    const V v = load<L>(in + q * L);
                    const auto passes_first = greater(v, first[q]), passes_second = greater(v, second[q]);
                    second_code[q] = select(passes_first, first_code[q], select(passes_second, code, second_code[q]));
                    // Of equal zeros the earlier: the largest until now, which came before the second.
                    second[q] = select(passes_first, first[q], larger(v, second[q]));
                    first_code[q] = select(passes_first, code, first_code[q]);
                    first[q] = larger(v, first[q]);
                    sum[q] += v;
                });
            }
            repeat<Q, 0>(Q, [&](int q) EMPOOL_LAMBDA {
                const int64_t c = done + q * L;
                const auto drop = passes<C, L>(load_raw<U>(w.u + c), by_lane ? load_raw<U>(limits + c) : limit);
                nan = nan | unordered(sum[q], sum[q]);
                store_exact<L>(w.out + c, select(drop, second[q], first[q]));
                store_codes<I, L>(w.drawn + c, select(drop, second_code[q], first_code[q]));
            });
        }
        if (done == w.count) {
            if (any(nan)) draw_nan(w);
            return;
        }
    }
    for_lanes_from<L>(done, w.count, [&](int64_t c) EMPOOL_LAMBDA {
        const auto drop = passes<C, L>(load_raw<U>(w.u + c), by_lane ? load_raw<U>(limits + c) : limit);
        const auto drawn = draw_lanes<C, L, I, N, true, true>(
            w.taps.n, [&](int k) EMPOOL_LAMBDA -> V { return load<L>(tap.in(k) + c); },
            [&](int k) EMPOOL_LAMBDA { return tap.code(k); }, drop);
        nan = nan | drawn.nan;
        store_exact<L>(w.out + c, drawn.value);
        store_codes<I, L>(w.drawn + c, drawn.code);
    });
    if (any(nan)) draw_nan(w);
}

// The ranks of a window's numbers; without numbers all are the base.
template <bool by_lane, class T, class I>
EMPOOL_INLINE Vec<Int<Compute<T>>, lanes<T>> window_ranks(const Window<T, I>& w, const WindowLimits& limits,
                                                          int64_t c) {
    constexpr int L = lanes<T>;
    using U = Vec<uint32_t, L>;
    const int64_t lane = by_lane ? c : 0;
    const U u = w.u ? load_raw<U>(w.u + c) : U{};
    const U rank = ranks_of<L, by_lane>(u, limits.base + lane, limits.limit + lane, limits.columns, limits.step);
    return __builtin_convertvector(bits<Vec<int32_t, L>>(rank), Vec<Int<Compute<T>>, L>);
}

// Any limits, windows of 4: every pair is compared.
template <bool by_lane, class T, class I>
void draw_of_few(const Window<T, I>& w, const WindowLimits& limits) {
    using C = Compute<T>;
    constexpr int L = lanes<T>, N = 4;
    using V = Vec<C, L>;
    const TapPointers<N, T> tap(w.in, w.taps);
    Mask<C, L> nan{};
    for_lanes<L>(w.count, [&](int64_t c) EMPOOL_LAMBDA {
        const auto rank = window_ranks<by_lane>(w, limits, c);
        const auto in = [&](int k) EMPOOL_LAMBDA -> V { return load<L>(tap.in(k) + c); };
        const auto code = [&](int k) EMPOOL_LAMBDA { return tap.code(k); };
        const auto drawn = draw_rank<C, L, I, N>(in, code, rank);
        nan = nan | drawn.nan;
        store_exact<L>(w.out + c, drawn.value);
        store_codes<I, L>(w.drawn + c, drawn.code);
    });
    if (any(nan)) draw_nan(w);
}

// Any limits, windows of N activations, or of any number if N is 0.
template <int N, bool by_lane, class T, class I>
void draw_of_many(const Window<T, I>& w, const WindowLimits& limits, Vec<Compute<T>, lanes<T>>* held) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    const int n = w.taps.n, most = limits.based ? n : static_cast<int>(limits.columns);
    const TapPointers<N, T> tap(w.in, w.taps);
    Mask<C, L> nan{};
    for_lanes<L>(w.count, [&](int64_t c) EMPOOL_LAMBDA {
        const auto drawn = draw_sorted<C, L, I, N>(
            n, [&](int k) EMPOOL_LAMBDA { return load<L>(tap.in(k) + c); },
            [&](int k) EMPOOL_LAMBDA { return tap.code(k); }, window_ranks<by_lane>(w, limits, c), most, held);
        nan = nan | drawn.nan;
        store_exact<L>(w.out + c, drawn.value);
        store_codes<I, L>(w.drawn + c, drawn.code);
    });
    if (any(nan)) draw_nan(w);
}

template <bool by_lane, class T, class I>
EMPOOL_NOINLINE void draw_window(const Window<T, I>& w, const WindowLimits& limits, Vec<Compute<T>, lanes<T>>* held) {
    constexpr bool common = sizeof(I) == 1;
    const int n = w.taps.n;
    if (n == 0) return draw_empty(w, -__builtin_inf());
    if (limits.columns == 1 && !limits.based && n > 1) {
        if (common && n == 4) return draw_of_two<4, by_lane>(w, limits.limit);
        if (common && n == 6) return draw_of_two<6, by_lane>(w, limits.limit);
        if (common && n == 9) return draw_of_two<9, by_lane>(w, limits.limit);
        return draw_of_two<0, by_lane>(w, limits.limit);
    }
    if (common && n == 4) return draw_of_few<by_lane>(w, limits);
    if (common && n == 9) return draw_of_many<9, by_lane>(w, limits, held);
    draw_of_many<0, by_lane>(w, limits, held);
}

template <class T, class I>
EMPOOL_NOINLINE void maximum_window(const Window<T, I>& w) {
    constexpr bool common = sizeof(I) == 1;
    if (w.taps.n == 0) return draw_empty(w, -__builtin_inf());
    if (common && w.taps.n == 4) return draw_maximum<4>(w);
    if (common && w.taps.n == 9) return draw_maximum<9>(w);
    draw_maximum<0>(w);
}

template <class T, class I>
void rank_draw_as(const RankDraw& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    const auto visit_all = [&](const auto& set_block, const auto& visit) {
        for_windows<T, I>(g, a.seeds, static_cast<const T*>(a.input), static_cast<T*>(a.output),
                          static_cast<I*>(a.drawn), begin, end, set_block, visit);
    };
    if (a.limits.columns == 0 && !a.based) {
        return visit_all([](const PlaneBlock&) {}, [](const Window<T, I>& w) { maximum_window(w); });
    }
    LaneTable<uint32_t, Buffer::table> limits(a.limits, in_place(g, lanes<T>), lanes<T>);
    LaneTable<uint32_t, Buffer::bases> bases(a.base, in_place(g, lanes<T>), lanes<T>);
    auto* held = scratch<Vec<Compute<T>, lanes<T>>, Buffer::ranked>(2 * sorted_room(g.window()));
    visit_all(
        [&](const PlaneBlock& block) {
            limits.set_block(g, block);
            bases.set_block(g, block);
        },
        [&](const Window<T, I>& w) {
            const WindowLimits row{bases.row(w.taps.n) + w.channel * limits.by_lane(),
                                   limits.row(w.taps.n) + w.channel * limits.by_lane(), limits.columns(), limits.step(),
                                   a.based};
            limits.by_lane() ? draw_window<true>(w, row, held) : draw_window<false>(w, row, held);
        });
}

template <class T>
void rank_draw_windows(const RankDraw& a, int64_t begin, int64_t end) {
    a.wide ? rank_draw_as<T, int32_t>(a, begin, end) : rank_draw_as<T, uint8_t>(a, begin, end);
}

template <class T>
constexpr Strategy<RankDraw> rank_draw[] = {
    {small_planes_draws<T>, [](const RankDraw& a) { return plane_units(a.geometry); }, small_planes_rank_draw<T>},
    {stride2_draws, [](const RankDraw& a) { return stride2_units(a.geometry); }, stride2_rank_draw<T>},
    {[](const RankDraw&) { return true; }, [](const RankDraw& a) { return lane_units<T>(a.geometry); },
     rank_draw_windows<T>},
};

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
