// What a window's gradient gives to each of its activations, by their ranks.
#pragma once

#include "ranks.h"
#include "windows.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

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

    int columns;

  private:
    int64_t step_;
    std::conditional_t<by_lane, const double, const C>* weight_;
};

// The last NaN receives all of a window's gradient.
template <int N, class V>
EMPOOL_NOINLINE void parts_of_nan(const V (&v)[N], V grad, V (&part)[N]) {
    for (int lane = 0; lane < size_of<V>; ++lane) {
        int last = -1;
        for (int k = 0; k < N; ++k) last = v[k][lane] == v[k][lane] ? last : k;
        for (int k = 0; k < N && last >= 0; ++k) part[k][lane] = k == last ? grad[lane] : 0;
    }
}

// The parts of N activations. With one or two weights the two largest are tracked; else every pair is compared, which
// gives all ranks. What a share of 0 multiplies may be infinite.
template <int N, class T, bool finds_nan, class Shares>
EMPOOL_INLINE void parts_of(const Vec<Compute<T>, lanes<T>> (&v)[N], Vec<Compute<T>, lanes<T>> grad,
                            const Shares& shares, int64_t channel, Vec<Compute<T>, lanes<T>> (&part)[N]) {
    using C = Compute<T>;
    using V = Vec<C, lanes<T>>;
    using O = Vec<Int<C>, lanes<T>>;
    const auto times = [&](V share) EMPOOL_LAMBDA { return select(unequal(share, V{}), share * grad, V{}); };
    V sum = v[0];
    repeat<N, 1>(N, [&](int k) EMPOOL_LAMBDA { sum += v[k]; });
    if (N >= 6 && shares.columns <= 2) {
        const auto later = greater(v[1], v[0]);
        V first = larger(v[1], v[0]), second = smaller(v[1], v[0]);
        O first_tap = select(later, fill<O>(1), O{}), second_tap = select(later, O{}, fill<O>(1));
        repeat<N, 2>(N, [&](int k) EMPOOL_LAMBDA {
            const auto passes_first = greater(v[k], first), passes_second = greater(v[k], second);
            second_tap = select(passes_first, first_tap, select(passes_second, fill<O>(k), second_tap));
            second = select(passes_first, first, larger(v[k], second));
            first_tap = select(passes_first, fill<O>(k), first_tap);
            first = larger(v[k], first);
        });
        const V part0 = times(shares.at(0, channel)), part1 = shares.columns > 1 ? times(shares.at(1, channel)) : V{};
        repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA {
            part[k] = select(equal<C>(first_tap, k), part0, select(equal<C>(second_tap, k), part1, V{}));
        });
    } else {
        O rank[N];
        repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA { rank[k] = fill<O>(k); });
        repeat<N, 1>(N, [&](int k) EMPOOL_LAMBDA {
            for (int j = 0; j < k; ++j) {
                const auto later = greater(v[k], v[j]);
                rank[k] = add_where(later, rank[k], fill<O>(-1));
                rank[j] = add_where(later, rank[j], fill<O>(1));
            }
        });
        repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA { part[k] = times(shares.template of<N>(rank[k], channel)); });
    }
    if (finds_nan && any(unordered(sum, sum))) parts_of_nan(v, grad, part);
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
