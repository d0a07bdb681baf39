// The largest values of a window in descending order, in lanes: sorting networks on blocks of 8 or 16 vectors, which
// stay in registers. Insertion would take as many steps as the window has activations, times the ranks asked for.
//
// Only the values are right: of equal zeros that differ in sign, either may come first.
#pragma once

#include "vec.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// Memory for a window's values.
constexpr int64_t sorted_room(int64_t n) { return (n + 15) / 16 * 16; }

template <class V>
EMPOOL_INLINE void put_in_order(V& a, V& b) {
    const V low = smaller(b, a);
    a = larger(b, a);
    b = low;
}

// The pairs of Batcher's odd-even merge sort of N values.
template <int N>
struct Network {
    int count = 0, first[N * N] = {}, second[N * N] = {};

    constexpr Network() {
        for (int p = 1; p < N; p *= 2) {
            for (int k = p; k > 0; k /= 2) {
                for (int j = k % p; j + k < N; j += 2 * k) {
                    for (int i = j; i < j + k && i + k < N; ++i) {
                        if (i / (2 * p) != (i + k) / (2 * p)) continue;
                        first[count] = i;
                        second[count++] = i + k;
                    }
                }
            }
        }
    }
};

template <int N, class V>
EMPOOL_INLINE void sort_block(V (&v)[N]) {
    static constexpr Network<N> network;
    repeat<network.count, 0>(
        0, [&](int pair) EMPOOL_LAMBDA { put_in_order(v[network.first[pair]], v[network.second[pair]]); });
}

// Sorts what first descends and then ascends, or is a rotation of such values.
template <int N, int step = N / 2, class V>
EMPOOL_INLINE void sort_bitonic(V (&v)[N]) {
    if constexpr (step > 0) {
        repeat<N, 0>(0, [&](int i) EMPOOL_LAMBDA {
            if ((i & step) == 0) put_in_order(v[i], v[i + step]);
        });
        sort_bitonic<N, step / 2>(v);
    }
}

// The first N of v become the N largest of n.
template <int N, class V>
EMPOOL_INLINE void sort_largest(V* v, int n) {
    V block[N];
    const auto load_block = [&](int at) EMPOOL_LAMBDA {
        repeat<N, 0>(0, [&](int i) EMPOOL_LAMBDA { block[i] = v[at + i]; });
        if (n - at > 1) sort_block(block);
    };
    const auto store_block = [&] EMPOOL_LAMBDA { repeat<N, 0>(0, [&](int i) EMPOOL_LAMBDA { v[i] = block[i]; }); };
    load_block(0);
    store_block();
    for (int at = N; at < n; at += N) {
        load_block(at);
        repeat<N / 2, 0>(0, [&](int i) EMPOOL_LAMBDA {
            const V early = larger(block[N - 1 - i], v[i]), late = larger(block[i], v[N - 1 - i]);
            block[i] = early;
            block[N - 1 - i] = late;
        });
        sort_bitonic(block);
        store_block();
    }
}

// Changes a block of 16, unless there is only one value in it.
template <class V, class Change>
EMPOOL_INLINE void change_block(V* v, int used, const Change& change) {
    if (used <= 1) return;
    V block[16];
    repeat<16, 0>(0, [&](int i) EMPOOL_LAMBDA { block[i] = v[i]; });
    change(block);
    repeat<16, 0>(0, [&](int i) EMPOOL_LAMBDA { v[i] = block[i]; });
}

// The first M of v[0..n) become the M largest in descending order. There is room for sorted_room(n) vectors.
template <class V>
EMPOOL_NOINLINE void sort_ranks(V* v, int n, int M) {
    using C = std::remove_cvref_t<decltype(v[0][0])>;
    const int room = static_cast<int>(sorted_room(n));
    for (int i = n; i < room; ++i) v[i] = fill<V>(-static_cast<C>(__builtin_inf()));
    if (M <= 8) return sort_largest<8>(v, n);
    if (M <= 16) return sort_largest<16>(v, n);
    for (int at = 0; at < n; at += 16)
        change_block(v + at, n - at, [](auto& block) EMPOOL_LAMBDA { sort_block(block); });
    // Two runs of p are one that descends and, read from its end, ascends. Padding stays where it is.
    for (int p = 16; p < n; p *= 2) {
        for (int run = 0; run + p < n; run += 2 * p) {
            for (int i = 0, k = 2 * p - 1; i < p; ++i, --k) {
                if (run + k < n) put_in_order(v[run + i], v[run + k]);
            }
            for (int step = p / 2; step >= 16; step /= 2) {
                for (int i = run; i < run + 2 * p && i + step < n; ++i) {
                    if ((i & step) == 0) put_in_order(v[i], v[i + step]);
                }
            }
            const int end = run + 2 * p < n ? run + 2 * p : n, wanted = 2 * p < n || M > end ? end : M;
            for (int at = run; at < wanted; at += 16) {
                change_block(v + at, n - at, [](auto& block) EMPOOL_LAMBDA { sort_bitonic(block); });
            }
        }
    }
}

// The M largest of n values where M is small: by insertion, in registers. Of equal zeros the earlier comes first.
template <int M, class V>
EMPOOL_INLINE void insert_ranks(const V* v, int n, V* ranked) {
    using C = std::remove_cvref_t<decltype(v[0][0])>;
    V held[M];
    repeat<M, 0>(0, [&](int m) EMPOOL_LAMBDA { held[m] = fill<V>(-static_cast<C>(__builtin_inf())); });
    for (int k = 0; k < n; ++k) {
        V carry = v[k];
        repeat<M, 0>(0, [&](int m) EMPOOL_LAMBDA {
            const V value = held[m];
            held[m] = larger(carry, value);
            if (m + 1 < M) carry = smaller(carry, value);
        });
    }
    repeat<M, 0>(0, [&](int m) EMPOOL_LAMBDA { ranked[m] = held[m]; });
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
