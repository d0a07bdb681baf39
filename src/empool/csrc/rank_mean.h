// rank_mean: the weighted sum over ranks, sum over r of w_r a(r).
//
// The R largest values, by min and max alone (few by insertion, many by sorted.h); products are summed in rank order in
// the compute type and rounded once. A rank of weight 0 takes no part. Work is split as for rank_draw.
#pragma once

#include "sorted.h"
#include "stride2_mean.h"
#include "windows.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// Copies the last NaN of the windows that hold one.
template <class T, class I>
EMPOOL_NOINLINE void mean_nan(const Window<T, I>& w) {
    for (int64_t c = 0; c < w.count; ++c) {
        for (int k = w.taps.n - 1; k >= 0; --k) {
            const T* p = w.in + w.taps.offset[k] + c;
            const Compute<T> value = load_one(p);
            if (value != value) {
                w.out[c] = *p;
                break;
            }
        }
    }
}

// The weights of the windows with n activations: one for all lanes, or one for each.
template <class T, bool by_lane>
class WindowWeights {
    using C = Compute<T>;
    using V = Vec<C, lanes<T>>;

  public:
    template <class Weights, class Start>
    WindowWeights(const Weights& weights, const Start& start, int n)
        : start_(start.row(n)), step_(weights.step()), columns(static_cast<int>(weights.columns())) {
        const double* row = weights.row(n);
        if constexpr (by_lane) {
            weight_ = row;
        } else {
            C* value = scratch<C, Buffer::spare>(columns);
            for (int r = 0; r < columns; ++r) value[r] = static_cast<C>(row[r * step_]);
            while (columns > 1 && value[columns - 1] == 0) --columns;
            weight_ = value;
            // A quarter of what mean_of_many can leave out, for windows whose mean is below their largest activation.
            const C limit = *value * (sizeof(C) == 4 ? C(0x1p-28) : C(0x1p-57));
            for (enough = columns; enough > 1 && larger_size(rest, value[enough - 1]) <= limit; --enough) {
                rest = larger_size(rest, value[enough - 1]);
            }
            return;
        }
        enough = columns;
    }

    EMPOOL_INLINE V start(int64_t c) const {
        return by_lane ? load_wide(start_ + c) : fill<V>(static_cast<C>(*start_));
    }
    // sum + weight * value, for the weight of rank r; a weight of 0 takes no part.
    EMPOOL_INLINE V add(int r, int64_t c, V sum, V value) const {
        if (r >= columns) return sum;
        if constexpr (by_lane) {
            const V weight = load_wide(weight_ + r * step_ + c);
            return select(unequal(weight, V{}), sum + weight * value, sum);
        } else {
            return weight_[r] != 0 ? sum + weight_[r] * value : sum;
        }
    }

  private:
    static C larger_size(C a, C b) { return a > (b < 0 ? -b : b) ? a : (b < 0 ? -b : b); }
    static EMPOOL_INLINE V load_wide(const double* p) {
        return __builtin_convertvector((load_raw<Vec<double, lanes<T>>>(p)), V);
    }
    const double* start_;
    int64_t step_;
    std::conditional_t<by_lane, const double, const C>* weight_;

  public:
    int columns, enough;  // the ranks that have weights; those beyond `enough` have weights of at most `rest`
    C rest{};
};

// The M largest of N activations; N is n if it is known, or 0.
template <int N, int M, class T, class I, class Weights>
EMPOOL_INLINE void mean_of_few(const Window<T, I>& w, const Weights& weights) {
    constexpr int L = lanes<T>;
    using V = Vec<Compute<T>, L>;
    const TapPointers<N, T> tap(w.in, w.taps);
    Mask<Compute<T>, L> nan{};
    int64_t done = 0;
    if constexpr (N == 0) {
        // Several vectors at once: a tap is then a stream that the processor can foresee.
        constexpr int U = 4;
        for (; done + U * L <= w.count; done += U * L) {
            V held[U][M], sum[U];
            repeat<U, 0>(U, [&](int u) EMPOOL_LAMBDA {
                held[u][0] = sum[u] = load<L>(tap.in(0) + done + u * L);
                repeat<M, 1>(
                    M, [&](int m) EMPOOL_LAMBDA { held[u][m] = fill<V>(-static_cast<Compute<T>>(__builtin_inf())); });
            });
            for (int k = 1; k < w.taps.n; ++k) {
                const T* in = tap.in(k) + done;
                repeat<U, 0>(U, [&](int u) EMPOOL_LAMBDA {
                    V v = load<L>(in + u * L);
                    sum[u] += v;
                    repeat<M, 0>(M, [&](int m) EMPOOL_LAMBDA {
                        const V value = held[u][m];
                        held[u][m] = larger(v, value);
                        if (m + 1 < M) v = smaller(v, value);
                    });
                });
            }
            repeat<U, 0>(U, [&](int u) EMPOOL_LAMBDA {
                V mean = weights.start(w.channel + done + u * L);
                repeat<M, 0>(
                    M, [&](int m) EMPOOL_LAMBDA { mean = weights.add(m, w.channel + done + u * L, mean, held[u][m]); });
                nan = nan | unordered(sum[u], sum[u]);
                store<L>(w.out + done + u * L, mean);
            });
        }
        if (done == w.count) {
            if (any(nan)) mean_nan(w);
            return;
        }
    }
    for_lanes_from<L>(done, w.count, [&](int64_t c) EMPOOL_LAMBDA {
        V sum;
        const V mean = mean_of_ranks<Compute<T>, L, N, M>(
            w.taps.n, [&](int k) EMPOOL_LAMBDA -> V { return load<L>(tap.in(k) + c); },
            [&](int m, V total, V value) EMPOOL_LAMBDA { return weights.add(m, w.channel + c, total, value); },
            weights.start(w.channel + c), sum);
        nan = nan | unordered(sum, sum);
        store<L>(w.out + c, mean);
    });
    if (any(nan)) mean_nan(w);
}

// Any weights. `held` has room for the window.
//
// Weights that decline fast end in ranks whose products are too small to change the sum. They are left out where the
// largest of them could not: a product of less than a quarter of a unit in the last place is rounded away.
template <class T, class I, class Weights>
void mean_of_many(const Window<T, I>& w, const Weights& weights, Vec<Compute<T>, lanes<T>>* held) {
    using C = Compute<T>;
    using V = Vec<C, lanes<T>>;
    constexpr C too_small = sizeof(C) == 4 ? C(0x1p-26) : C(0x1p-55);
    const int n = w.taps.n, M = weights.columns < n ? weights.columns : n;
    const int enough = weights.enough < M ? weights.enough : M;
    Vec<Int<C>, lanes<T>> nan{};
    for_lanes<lanes<T>>(w.count, [&](int64_t c) {
        V sum{}, largest = fill<V>(-static_cast<C>(__builtin_inf())), least = -largest;
        const auto load_all = [&] EMPOOL_LAMBDA {
            for (int k = 0; k < n; ++k) {
                const V v = held[k] = load<lanes<T>>(w.in + w.taps.offset[k] + c);
                sum += v;
                largest = larger(v, largest);
                least = smaller(v, least);
            }
        };
        const auto mean_of = [&](int ranks) EMPOOL_LAMBDA {
            sort_ranks(held, n, ranks);
            V mean = weights.add(0, w.channel + c, weights.start(w.channel + c), largest);  // with its sign, if 0
            for (int m = 1; m < ranks; ++m) mean = weights.add(m, w.channel + c, mean, held[m]);
            return mean;
        };
        load_all();
        V mean = mean_of(enough);
        if (enough < M) {
            const V most = larger(largest, -least), size = larger(mean, -mean);
            if (any(~((weights.rest * most <= size * too_small) & (most - most == 0)))) {
                load_all();
                mean = mean_of(M);
            }
        }
        nan |= sum != sum;
        store<lanes<T>>(w.out + c, mean);
    });
    if (any(nan)) mean_nan(w);
}

template <class T, class I, class Weights>
EMPOOL_NOINLINE void mean_window(const Window<T, I>& w, const Weights& weights, Vec<Compute<T>, lanes<T>>* held) {
    const int n = w.taps.n, M = weights.columns;
    if (n == 0) {
        for (int64_t c = 0; c < w.count; ++c) w.out[c] = round_one<T>(-__builtin_inf());
        return;
    }
    if (M == 1) {
        if (n == 4) return mean_of_few<4, 1>(w, weights);
        if (n == 9) return mean_of_few<9, 1>(w, weights);
        return mean_of_few<0, 1>(w, weights);
    }
    if (M == 2 && n > 1) {
        if (n == 4) return mean_of_few<4, 2>(w, weights);
        if (n == 6) return mean_of_few<6, 2>(w, weights);
        if (n == 9) return mean_of_few<9, 2>(w, weights);
        return mean_of_few<0, 2>(w, weights);
    }
    if (M == 3 && n > 4 && n != 9) return mean_of_few<0, 3>(w, weights);
    if (n == 4) return mean_of_few<4, 4>(w, weights);
    if (n == 9 && M == 3) return mean_of_few<9, 3>(w, weights);
    if (n == 9 && M <= 5) return mean_of_few<9, 5>(w, weights);
    if (n == 9) return mean_of_few<9, 9>(w, weights);
    mean_of_many(w, weights, held);
}

template <class T, bool by_lane>
void rank_mean_windows_as(const RankMean& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    auto* held = scratch<Vec<Compute<T>, lanes<T>>, Buffer::ranked>(sorted_room(g.window()));
    LaneTable<double, Buffer::table> weights(a.weights, in_place(g, lanes<T>), lanes<T>);
    LaneTable<double, Buffer::bases> start(a.start, in_place(g, lanes<T>), lanes<T>);
    int n = 0;
    WindowWeights<T, by_lane> row(weights, start, n);
    for_windows<T, uint8_t>(
        g, {}, static_cast<const T*>(a.input), static_cast<T*>(a.output), nullptr, begin, end,
        [&](const PlaneBlock& block) {
            weights.set_block(g, block);
            start.set_block(g, block);
        },
        [&](const Window<T, uint8_t>& w) {
            if (w.taps.n != n) {
                n = w.taps.n;
                row = WindowWeights<T, by_lane>(weights, start, n);
            }
            mean_window(w, row, held);
        });
}

template <class T>
void rank_mean_windows(const RankMean& a, int64_t begin, int64_t end) {
    a.weights.sets > 1 ? rank_mean_windows_as<T, true>(a, begin, end) : rank_mean_windows_as<T, false>(a, begin, end);
}

template <class T>
constexpr Strategy<RankMean> rank_mean[] = {
    {stride2_means, [](const RankMean& a) { return stride2_units(a.geometry); }, stride2_rank_mean<T>},
    {[](const RankMean&) { return true; }, [](const RankMean& a) { return lane_units<T>(a.geometry); },
     rank_mean_windows<T>},
};

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
