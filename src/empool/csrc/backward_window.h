// What a window's gradient gives to each of its activations, by their ranks or by their values.
#pragma once

#include "ranks.h"
#include "value_mean.h"
#include "windows.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// The last NaN receives all of a window's gradient.
template <int N, class V>
EMPOOL_NOINLINE void parts_of_nan(const V (&v)[N], V grad, V (&part)[N]) {
    for (int lane = 0; lane < size_of<V>; ++lane) {
        int last = -1;
        for (int k = 0; k < N; ++k) last = v[k][lane] == v[k][lane] ? last : k;
        for (int k = 0; k < N && last >= 0; ++k) part[k][lane] = k == last ? grad[lane] : 0;
    }
}

// The parts of N activations: every pair is compared, which gives all ranks. A share of 0 gives 0, of an infinite
// gradient too.
template <int N, class T, bool finds_nan, class Shares>
EMPOOL_INLINE void parts_of(const Vec<Compute<T>, lanes<T>> (&v)[N], Vec<Compute<T>, lanes<T>> grad,
                            const Shares& shares, int64_t channel, Vec<Compute<T>, lanes<T>> (&part)[N]) {
    using V = Vec<Compute<T>, lanes<T>>;
    using O = Vec<Int<Compute<T>>, lanes<T>>;
    V sum = v[0];
    repeat<N, 1>(N, [&](int k) EMPOOL_LAMBDA { sum += v[k]; });
    O rank[N];
    repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA { rank[k] = fill<O>(k); });
    for_pairs<N>([&](int j, int k) EMPOOL_LAMBDA {
        const auto later = greater(v[k], v[j]);
        rank[k] = add_where(later, rank[k], fill<O>(-1));
        rank[j] = add_where(later, rank[j], fill<O>(1));
    });
    const auto share = [&](int k) EMPOOL_LAMBDA { return shares.template of<N>(rank[k], channel); };
    const V finite = grad - grad;  // else a NaN
    if (any(unordered(finite, finite))) {
        repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA { part[k] = select(unequal(share(k), V{}), share(k) * grad, V{}); });
    } else {
        repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA { part[k] = share(k) * grad; });
    }
    if (finds_nan && any(unordered(sum, sum))) {
        V value[N], found[N];  // Copies, so that all else stays in registers.
        repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA { value[k] = v[k], found[k] = part[k]; });
        parts_of_nan(value, grad, found);
        repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA { part[k] = found[k]; });
    }
}

// The weights of windows with n activations, by rank.
template <class T, bool by_lane>
class RankShares {
    using C = Compute<T>;
    using V = Vec<C, lanes<T>>;
    using O = Vec<Int<C>, lanes<T>>;

  public:
    RankShares(const double* weights, int64_t columns, int64_t step) : columns(static_cast<int>(columns)), step_(step) {
        if constexpr (by_lane) {
            weight_ = weights;
        } else {
            // With room for a vector, and 0 for the ranks that have no weight.
            C* table = scratch<C, Buffer::spare>(columns + table_size);
            for (int64_t r = 0; r < columns + table_size; ++r) {
                table[r] = r < columns ? static_cast<C>(weights[r * step]) : C{};
            }
            weight_ = table;
        }
    }
    EMPOOL_INLINE V at(int r, int64_t channel) const {
        if constexpr (by_lane) {
            return __builtin_convertvector((load_raw<Vec<double, lanes<T>>>(weight_ + r * step_ + channel)), V);
        } else {
            return fill<V>(weight_[r]);
        }
    }
    // The weights of ranks below N.
    template <int N>
    EMPOOL_INLINE V of(O rank, int64_t channel) const {
        static_assert(N <= table_size);
        if constexpr (!by_lane) return look_up<C, lanes<T>>(weight_, rank, columns < N ? columns : N);
        V share{};
        for (int r = 0; r < columns && r < N; ++r) share = select(equal<C>(rank, r), at(r, channel), share);
        return share;
    }

    // The weights of ranks below n.
    EMPOOL_INLINE V of_any(O rank, int n, int64_t channel) const {
        V share{};
        const int count = columns < n ? columns : n;
        if constexpr (by_lane) {
            for (int l = 0; l < lanes<T>; ++l) {
                if (rank[l] < count) share[l] = static_cast<C>(weight_[rank[l] * step_ + channel + l]);
            }
        } else {
            for (int r = 0; r < count; r += table_size) {
                const O index = rank - static_cast<Int<C>>(r);
                const V found = look_up<C, lanes<T>>(weight_ + r, index & (table_size - 1), table_size);
                share = select(~equal<C>(index & ~(table_size - 1), 0), share, found);
            }
        }
        return share;
    }

    template <int N>
    EMPOOL_INLINE void parts(const V (&v)[N], V grad, int64_t channel, V (&part)[N]) const {
        parts_of<N, T, true>(v, grad, *this, channel, part);
    }

    int columns;

  private:
    int64_t step_;
    std::conditional_t<by_lane, const double, const C>* weight_;
};

// By value, with the betas of the lanes or none: value_mean.h has the slopes.
template <class T, bool soft>
class ValueShares {
    using C = Compute<T>;
    static constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    using O = Vec<Int<C>, L>;

  public:
    explicit ValueShares(const Beta<T>& beta) : beta_(beta) {}

    template <int N>
    EMPOOL_INLINE void parts(const V (&v)[N], V grad, int64_t channel, V (&part)[N]) const {
        if (near_parts<N, false>(v, grad, channel, part)) return;
        V value[N], found[N];
        O valid[N];
        repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA { value[k] = v[k], valid[k] = fill<O>(-1); });
        any_parts(value, valid, grad, channel, found);
        repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA { part[k] = found[k]; });
    }

    // The parts of N activations, of which those that are -inf are none if `padded`; returns false where a sum leaves
    // the range in which the largest activation needn't be known.
    template <int N, bool padded>
    EMPOOL_INLINE bool near_parts(const V (&v)[N], V grad, int64_t channel, V (&part)[N]) const {
        if constexpr (sizeof(C) == 4) {
            const V low = fill<V>(-static_cast<C>(__builtin_inf())), beta = soft ? beta_.at(channel) : V{};
            V a[N], weight[N], total{}, sum{};
            repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA {
                const auto valid = greater(v[k], low);
                a[k] = padded ? select(valid, v[k], V{}) : v[k];
                weight[k] = soft ? exp2_near<T, L>(a[k], beta * log2e) : larger(V{}, a[k]);  // A NaN stays.
                if (padded && soft) weight[k] = select(valid, weight[k], V{});
                total += weight[k];
                sum += weight[k] * (soft ? a[k] : weight[k]);
            });
            const V divisor = soft ? total : total == 0 ? fill<V>(C(1)) : total;
            const V mean = sum / divisor, g = grad / divisor;
            if (any(~(is_near<soft>(total, sum) & (g - g == 0) & (mean - mean == 0)))) return false;
            repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA {
                if constexpr (soft) {
                    part[k] = weight[k] * g * (1 + beta * (a[k] - mean));
                } else {
                    part[k] = select(greater(a[k], V{}), (a[k] + (a[k] - mean)) * g, V{});
                }
            });
            return true;
        }
        return false;
    }

    // The parts of N activations, of which some lanes lack some.
    template <int N>
    EMPOOL_NOINLINE void any_parts(const V (&v)[N], const O (&valid)[N], V grad, int64_t channel, V (&part)[N]) const {
        V value[N];
        for (int k = 0; k < N; ++k) value[k] = valid[k] ? v[k] : V{};
        const auto tap = [&](int k) { return value[k]; };
        if constexpr (!soft) {
            const auto mean = positive_mean<C, L, N>(N, tap);
            for (int k = 0; k < N; ++k) part[k] = positive_slope<C, L>(value[k], mean);
        } else {
            const V beta = beta_.at(channel);
            V held[N], largest = fill<V>(-static_cast<C>(__builtin_inf()));
            for (int k = 0; k < N; ++k) {
                held[k] = valid[k] ? (beta == 0 ? V{} : beta * value[k]) : -static_cast<C>(__builtin_inf());
                largest = larger(held[k], largest);
            }
            const auto [mean, total] = soft_mean_of_scores<C, L, N>(N, tap, held, largest);
            for (int k = 0; k < N; ++k) part[k] = soft_slope<C, L>(held[k], value[k], beta, mean, total);
        }
        for (int k = 0; k < N; ++k) part[k] = part[k] == 0 ? V{} : part[k] * grad;
    }

  private:
    Beta<T> beta_;
};

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
