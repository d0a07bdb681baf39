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

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
