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

// What comes after all values.
template <class C>
constexpr C least_of = static_cast<C>(-__builtin_inf());
template <>
inline constexpr int16_t least_of<int16_t> = -0x8000;

template <class V>
EMPOOL_INLINE void put_in_order(V& a, V& b) {
    const V low = smaller(b, a);
    a = larger(b, a);
    b = low;
}

// The pairs of a network that sorts N values: Floyd's for 9, else Batcher's odd-even merge sort. Steps for ranks that
// nobody reads cost nothing, since the compiler leaves them out.
template <int N>
struct Network {
    int count = 0, first[N * N] = {}, second[N * N] = {};

    constexpr Network() {
        if (N == 9) {
            for (const auto [i, k] : {std::pair{0, 1}, {3, 4}, {6, 7}, {1, 2}, {4, 5}, {7, 8}, {0, 1}, {3, 4}, {6, 7},
                                      {0, 3},          {3, 6}, {0, 3}, {1, 4}, {4, 7}, {1, 4}, {2, 5}, {5, 8}, {2, 5},
                                      {1, 3},          {5, 7}, {2, 6}, {4, 6}, {2, 4}, {2, 3}, {5, 6}}) {
                first[count] = i;
                second[count++] = k;
            }
            return;
        }
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

// How activations are sorted: as they are.
template <class C, class T>
struct Plain {
    static constexpr int lanes = empool::EMPOOL_CAPABILITY::lanes<T>, parts = 1;
    static constexpr C least = least_of<C>, most = -least;
    static constexpr bool nan_stays = true;  // where all values are sorted, since no step drops one
    using V = Vec<C, lanes>;
    using K = V;

    static EMPOOL_INLINE K load(const T* p) { return empool::EMPOOL_CAPABILITY::load<lanes>(p); }
    static EMPOOL_INLINE V part(K v, int) { return v; }
    static EMPOOL_INLINE void store(T* p, const V (&mean)[1]) { empool::EMPOOL_CAPABILITY::store<lanes>(p, mean[0]); }

    struct Seen {
        V sum{};
        EMPOOL_INLINE void see(V v) { sum += v; }
        EMPOOL_INLINE void see(const V (&mean)[1]) { sum = mean[0]; }
    };
    // Whether one of the activations was a NaN, or may have been.
    struct Nan {
        Mask<C, lanes> mask{};
        EMPOOL_INLINE void add(const Seen& seen, K) { mask = mask | unordered(seen.sum, seen.sum); }
        bool found() const { return any(mask); }
    };
};

// bfloat16 and float16 as integers in the same order, twice as many to a vector; a NaN is above infinity or below
// -infinity. They come back as two vectors: the even and the odd ones, or the first half and the second. Of equal zeros
// the positive one comes first.
template <class T, int L>
struct Keys {
    static constexpr int lanes = 2 * L, parts = 2;
    static constexpr int16_t least = least_of<int16_t>, most = 0x7fff;
    static constexpr bool nan_stays = false;
    using V = Vec<float, L>;
    using U = Vec<uint32_t, L>;
    using K = Vec<int16_t, lanes>;

    static EMPOOL_INLINE K load(const T* p) { return turned(load_raw<K>(p)); }
    static EMPOOL_INLINE V part(K keys, int p) {
        const K raw = turned(keys);
        if constexpr (std::is_same_v<T, BFloat16>) {
            return bits<V>(p == 0 ? bits<U>(raw) << 16 : bits<U>(raw) & 0xffff0000u);
        } else {
            Vec<uint16_t, L> half[2];
            std::memcpy(half, &raw, sizeof(raw));
            return widen<L>(half[p], T{});
        }
    }
    static EMPOOL_INLINE void store(T* p, const V (&mean)[2]) {
        if constexpr (std::is_same_v<T, BFloat16>) {
            store_raw(p, bits<U>(round_to<T, L>(mean[0])) >> 16 | bits<U>(round_to<T, L>(mean[1])));
        } else {
            empool::EMPOOL_CAPABILITY::store<L>(p, mean[0]);
            empool::EMPOOL_CAPABILITY::store<L>(p + L, mean[1]);
        }
    }

    struct Seen {
        K least{};
        EMPOOL_INLINE void see(K v) { least = smaller(v, least); }
        EMPOOL_INLINE void see(const V (&)[2]) {}
    };
    struct Nan {
        K most{}, least{};
        EMPOOL_INLINE void add(const Seen& seen, K largest) {
            most = larger(largest, most);
            least = smaller(seen.least, least);
        }
        bool found() const {
            constexpr int16_t infinity = std::is_same_v<T, BFloat16> ? 0x7f80 : 0x7c00;
            return any((most > infinity) | (least < ~infinity));
        }
    };

  private:
    static EMPOOL_INLINE K turned(K raw) { return raw ^ ((raw >> 15) & 0x7fff); }
};

// The same where n is known, in registers.
template <int N, int M, class V>
EMPOOL_INLINE void sort_known(V* v) {
    V block[N];
    repeat<N, 0>(0, [&](int i) EMPOOL_LAMBDA { block[i] = v[i]; });
    sort_block(block);
    repeat<M, 0>(0, [&](int i) EMPOOL_LAMBDA { v[i] = block[i]; });
}

// The first M of v[0..n) become the M largest in descending order. There is room for sorted_room(n) vectors.
template <class V>
EMPOOL_NOINLINE void sort_ranks(V* v, int n, int M) {
    using C = std::remove_cvref_t<decltype(v[0][0])>;
    if (n == 25) return M <= 16 ? sort_known<25, 16>(v) : sort_known<25, 25>(v);
    const int room = static_cast<int>(sorted_room(n));
    for (int i = n; i < room; ++i) v[i] = fill<V>(least_of<C>);
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

// Inserts a value into M sorted ones. Of equal zeros the earlier comes first.
template <int M, class V>
EMPOOL_INLINE void insert(V v, V (&held)[M]) {
    repeat<M, 0>(M, [&](int m) EMPOOL_LAMBDA {
        const V value = held[m];
        held[m] = larger(v, value);
        if (m + 1 < M) v = smaller(v, value);
    });
}

// The first M of N values become the M largest, in registers; of equal zeros the earlier comes first if `stable`.
template <int M, bool stable, int N, class V>
EMPOOL_INLINE void sort_first(V (&v)[N]) {
    if constexpr (M > 3 && !stable) {
        sort_block(v);
    } else {
        repeat<N, 1>(N, [&](int k) EMPOOL_LAMBDA {
            V carry = v[k];
            repeat<M, 0>(M, [&](int m) EMPOOL_LAMBDA {
                if (m > k) return;
                const V value = v[m];
                v[m] = m < k ? larger(carry, value) : carry;
                if (m < k) carry = smaller(carry, value);
            });
        });
    }
}

// The M largest of n values where M is small: by insertion, in registers. N is n if it is known, or 0.
template <int M, int N = 0, class V, class Tap>
EMPOOL_INLINE void insert_ranks(const Tap& tap, int n, V* ranked) {
    using C = std::remove_cvref_t<decltype(ranked[0][0])>;
    V held[M];
    repeat<M, 0>(0, [&](int m) EMPOOL_LAMBDA { held[m] = fill<V>(least_of<C>); });
    repeat<N, 0>(n, [&](int k) EMPOOL_LAMBDA { insert(tap(k), held); });
    repeat<M, 0>(0, [&](int m) EMPOOL_LAMBDA { ranked[m] = held[m]; });
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
