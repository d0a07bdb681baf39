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
template <class T, bool lane>
class WindowWeights {
    using C = Compute<T>;
    using V = Vec<C, lanes<T>>;

  public:
    static constexpr bool by_lane = lane;
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
            for (int r = 0; r < columns && r < 64; ++r) present_ |= uint64_t(value[r] != 0) << r;
            return;
        }
        enough = columns;
    }

    EMPOOL_INLINE V start(int64_t c) const {
        return by_lane ? load_wide(start_ + c) : fill<V>(static_cast<C>(*start_));
    }
    // Whether the first `count` <= 64 ranks have weights, one for all lanes.
    EMPOOL_INLINE bool has_first(int count) const { return !by_lane && (~present_ << (64 - count)) == 0; }
    EMPOOL_INLINE V at(int r, int64_t c) const {
        if constexpr (by_lane) {
            return load_wide(weight_ + r * step_ + c);
        } else {
            return fill<V>(weight_[r]);
        }
    }
    // sum + weight * value, for the weight of rank r; a weight of 0 takes no part.
    EMPOOL_INLINE V add(int r, int64_t c, V sum, V value) const {
        if constexpr (by_lane) {
            if (r >= columns) return sum;
            const V weight = at(r, c);
            return select(unequal(weight, V{}), sum + weight * value, sum);
        } else {
            const bool present = r < 64 ? present_ >> r & 1 : r < columns && weight_[r] != 0;
            return present ? sum + weight_[r] * value : sum;
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
    uint64_t present_ = 0;  // a bit for each weight that is not 0

  public:
    int columns, enough;  // the ranks that have weights; those beyond `enough` have weights of at most `rest`
    C rest{};
};

// The M largest of N activations; N is n if it is known, or 0. Values are Plain or Keys (sorted.h).
template <class Values, int N, int M, class T, class I, class Weights>
EMPOOL_INLINE void mean_of_few(const Window<T, I>& w, const Weights& given) {
    constexpr int L = Values::lanes, P = Values::parts;
    using K = typename Values::K;
    using V = typename Values::V;
    const TapPointers<N, T> tap(w.in, w.taps);
    const Weights weights = given;
    const bool all = weights.has_first(M);
    typename Values::Nan nan;
    const auto mean_of = [&](int64_t c, const auto& ranked, V(&mean)[P]) EMPOOL_LAMBDA {
        repeat<P, 0>(P, [&](int p) EMPOOL_LAMBDA {
            V sum = weights.start(w.channel + c);
            if (all) {
                repeat<M, 0>(
                    M, [&](int m) EMPOOL_LAMBDA { sum += weights.at(m, w.channel + c) * Values::part(ranked[m], p); });
            } else {
                repeat<M, 0>(M, [&](int m) EMPOOL_LAMBDA {
                    sum = weights.add(m, w.channel + c, sum, Values::part(ranked[m], p));
                });
            }
            mean[p] = sum;
        });
        Values::store(w.out + c, mean);
    };
    int64_t done = 0;
    if constexpr (N == 0) {
        // Several vectors at once: a tap is then a stream that the processor can foresee.
        constexpr int U = 4 / P;
        const auto some = [&]<int count>(int64_t c, std::integral_constant<int, count>) EMPOOL_LAMBDA {
            K held[count][M];
            typename Values::Seen seen[count];
            repeat<count, 0>(count, [&](int u) EMPOOL_LAMBDA {
                repeat<M, 0>(M, [&](int m) EMPOOL_LAMBDA { held[u][m] = fill<K>(Values::least); });
            });
            for (int k = 0; k < w.taps.n; ++k) {
                const T* in = tap.in(k) + c;
                repeat<count, 0>(count, [&](int u) EMPOOL_LAMBDA {
                    prefetch(in, (count + u) * L);
                    const K v = Values::load(in + u * L);
                    seen[u].see(v);
                    insert(v, held[u]);
                });
            }
            repeat<count, 0>(count, [&](int u) EMPOOL_LAMBDA {
                V mean[P];
                nan.add(seen[u], held[u][0]);
                mean_of(c + u * L, held[u], mean);
            });
        };
        for (; done + U * L <= w.count; done += U * L) some(done, std::integral_constant<int, U>{});
        if (done < w.count) {
            for_lanes_from<L>(done, w.count,
                              [&](int64_t c) EMPOOL_LAMBDA { some(c, std::integral_constant<int, 1>{}); });
        }
    } else {
        for_lanes<L>(w.count, [&](int64_t c) EMPOOL_LAMBDA {
            K v[N];
            V mean[P];
            typename Values::Seen seen;
            const bool stays = M == N && Values::nan_stays && all;
            repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA { v[k] = Values::load(tap.in(k) + c); });
            if (!stays) repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA { seen.see(v[k]); });
            sort_first<M, Weights::by_lane>(v);
            mean_of(c, v, mean);
            if (stays) seen.see(mean);
            nan.add(seen, v[0]);
        });
    }
    if (nan.found()) mean_nan(w);
}

// Any weights. `held` has room for the window.
//
// Weights that decline fast end in ranks whose products are too small to change the sum. They are left out where the
// largest of them could not: a product of less than a quarter of a unit in the last place is rounded away.
template <class Values, class T, class I, class Weights>
void mean_of_many(const Window<T, I>& w, const Weights& weights, typename Values::K* held) {
    constexpr int P = Values::parts;
    using C = Compute<T>;
    using K = typename Values::K;
    using V = typename Values::V;
    constexpr C too_small = sizeof(C) == 4 ? C(0x1p-26) : C(0x1p-55);
    const int n = w.taps.n, M = weights.columns < n ? weights.columns : n;
    const int enough = weights.enough < M ? weights.enough : M;
    typename Values::Nan nan;
    for_lanes<Values::lanes>(w.count, [&](int64_t c) {
        K largest, least;
        typename Values::Seen seen;
        V mean[P];
        const auto load_all = [&] EMPOOL_LAMBDA {
            largest = fill<K>(Values::least);
            least = fill<K>(Values::most);
            for (int k = 0; k < n; ++k) {
                const T* in = w.in + w.taps.offset[k] + c;
                prefetch(in, Values::lanes);
                const K v = held[k] = Values::load(in);
                seen.see(v);
                largest = larger(v, largest);
                least = smaller(v, least);
            }
        };
        const auto mean_of = [&](int ranks) EMPOOL_LAMBDA {
            sort_ranks(held, n, ranks);
            for (int p = 0; p < P; ++p) {
                // The largest with its sign, if it is 0.
                mean[p] = weights.add(0, w.channel + c, weights.start(w.channel + c), Values::part(largest, p));
                for (int m = 1; m < ranks; ++m) {
                    mean[p] = weights.add(m, w.channel + c, mean[p], Values::part(held[m], p));
                }
            }
        };
        load_all();
        mean_of(enough);
        bool changes = false;
        for (int p = 0; enough < M && p < P; ++p) {
            const V most = larger(Values::part(largest, p), -Values::part(least, p)), size = larger(mean[p], -mean[p]);
            changes = changes || any(~((weights.rest * most <= size * too_small) & (most - most == 0)));
        }
        if (changes) {
            load_all();
            mean_of(M);
        }
        nan.add(seen, largest);
        Values::store(w.out + c, mean);
    });
    if (nan.found()) mean_nan(w);
}

// The windows of N activations that are the commonest.
template <class Values, int N, class T, class I, class Weights>
EMPOOL_INLINE void mean_of_common(const Window<T, I>& w, const Weights& weights) {
    const int M = weights.columns;
    if (M <= 2) return mean_of_few<Values, N, 2>(w, weights);
    if (M == 3 && N > 4) return mean_of_few<Values, N, 3>(w, weights);
    if (M <= 5 && N > 6) return mean_of_few<Values, N, 5>(w, weights);
    mean_of_few<Values, N, N>(w, weights);
}

template <class Values, class T, class I, class Weights>
EMPOOL_INLINE void mean_of_several(const Window<T, I>& w, const Weights& weights, typename Values::K* held) {
    const int n = w.taps.n, M = weights.columns;
    if (n == 4) return mean_of_common<Values, 4>(w, weights);
    if (n == 6) return mean_of_common<Values, 6>(w, weights);
    if (n == 9) return mean_of_common<Values, 9>(w, weights);
    if (M == 2 && n > 1) return mean_of_few<Values, 0, 2>(w, weights);
    if (M == 3 && n > 4) return mean_of_few<Values, 0, 3>(w, weights);
    mean_of_many<Values>(w, weights, held);
}

template <class T, class I, class Weights>
EMPOOL_NOINLINE void mean_window(const Window<T, I>& w, const Weights& weights, Vec<Compute<T>, lanes<T>>* held) {
    const int n = w.taps.n, M = weights.columns;
    if (n == 0) {
        for (int64_t c = 0; c < w.count; ++c) w.out[c] = round_one<T>(-__builtin_inf());
        return;
    }
    using Values = Plain<Compute<T>, T>;
    if (M == 1) {
        if (n == 4) return mean_of_few<Values, 4, 1>(w, weights);
        if (n == 9) return mean_of_few<Values, 9, 1>(w, weights);
        return mean_of_few<Values, 0, 1>(w, weights);
    }
    if constexpr (sizeof(T) == 2 && !Weights::by_lane) {
        using Halves = Keys<T, lanes<T>>;
        if (w.count >= Halves::lanes) {
            return mean_of_several<Halves>(w, weights, reinterpret_cast<typename Halves::K*>(held));
        }
    }
    mean_of_several<Values>(w, weights, held);
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
