// The activations of a window by rank, in lanes, and which of them is drawn.
//
// Ranks go by value, equal values by position: a later activation passes an earlier one only if it is greater. So a
// maximum `b > a ? b : a` of an earlier a and a later b keeps the earlier of two zeros that differ in sign.
#pragma once

#include "sorted.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// Offsets in a window, in lanes: bytes where selecting bytes is possible, else integers of a lane's size.
template <class C, int L, class I>
using Codes = std::conditional_t<Mask<C, L>::selects_bytes && sizeof(I) == 1, Vec<uint8_t, L>, Vec<Int<C>, L>>;

template <class K, int L>
EMPOOL_INLINE K load_codes(const uint8_t* p) {
    return convert<std::remove_cvref_t<decltype(K{}[0])>, uint8_t, L>(load_raw<Vec<uint8_t, L>>(p));
}

template <class I, int L, class V>
EMPOOL_INLINE void store_codes(I* p, V codes) {
    using E = std::remove_cvref_t<decltype(codes[0])>;
    store_raw(p, convert<I, E, L>(codes));
}

template <class K>
EMPOOL_INLINE K fill_code(int32_t code) {
    return fill<K>(static_cast<std::remove_cvref_t<decltype(K{}[0])>>(code));
}

template <class I>
constexpr I zero_drawn = sizeof(I) == 1 ? static_cast<I>(255) : static_cast<I>(-1);

template <class C, int L, class I>
struct Drawn {
    Vec<C, L> value;
    Codes<C, L, I> code;
    Mask<C, L> nan;  // in the window; as far as it was asked for
};

// Four activations meet in a tournament. The winner's loser meets the loser of the final; the earlier pair wins ties.
template <class C, int L, class I, bool draws, bool finds_nan, class Tap, class Code>
EMPOOL_INLINE Drawn<C, L, I> draw_of_four(const Tap& tap, const Code& code, Mask<C, L> drop) {
    using V = Vec<C, L>;
    using M = Mask<C, L>;
    using K = Codes<C, L, I>;
    const V v0 = tap(0), v1 = tap(1), v2 = tap(2), v3 = tap(3);
    const K c0 = fill_code<K>(code(0)), c1 = fill_code<K>(code(1)), c2 = fill_code<K>(code(2)),
            c3 = fill_code<K>(code(3));
    const M m01 = greater(v1, v0), m23 = greater(v3, v2);
    const V high0 = larger(v1, v0), high1 = larger(v3, v2);
    const K high0_code = select(m01, c1, c0), high1_code = select(m23, c3, c2);
    const M late = greater(high1, high0);  // the pair that the largest comes from
    V value = larger(high1, high0);
    K found = select(late, high1_code, high0_code);
    if constexpr (draws) {
        const V other = smaller(high1, high0), rest = select(late, smaller(v3, v2), smaller(v1, v0));
        const K other_code = select(late, high0_code, high1_code);
        const K rest_code = select(late, select(m23, c2, c3), select(m01, c0, c1));
        // If the first pair won, `rest` is the earlier of the two, else `other` is.
        const M rest_wins = greater(rest, other) | (same(rest, other) & ~late);
        value = select(drop, select(rest_wins, rest, other), value);
        found = select(drop, select(rest_wins, rest_code, other_code), found);
    }
    M nan = drop;
    if constexpr (finds_nan) nan = unordered(v0, v1) | unordered(v2, v3);
    return {value, found, nan};
}

// Any number n >= 2 of activations, one after the other; N is n if it is known, or 0.
template <class C, int L, class I, int N, bool draws, bool finds_nan, class Tap, class Code>
EMPOOL_INLINE Drawn<C, L, I> draw_lanes(int n, const Tap& tap, const Code& code, Mask<C, L> drop) {
    if constexpr (N == 4) {
        return draw_of_four<C, L, I, draws, finds_nan>(tap, code, drop);
    } else {
        using V = Vec<C, L>;
        using M = Mask<C, L>;
        using K = Codes<C, L, I>;
        const int count = N ? N : n;
        const V v0 = tap(0), v1 = tap(1);
        const K code0 = fill_code<K>(code(0)), code1 = fill_code<K>(code(1));
        const M later = greater(v1, v0);
        V first = select(later, v1, v0), second = select(later, v0, v1);
        K first_code = select(later, code1, code0), second_code = select(later, code0, code1);
        M nan = finds_nan ? unordered(v0, v1) : later;
        repeat<N, 2>(count, [&](int k) EMPOOL_LAMBDA {
            const V v = tap(k);
            const K c = fill_code<K>(code(k));
            const M passes_first = greater(v, first);
            if constexpr (draws) {
                const M passes_second = greater(v, second);
                second_code = select(passes_first, first_code, select(passes_second, c, second_code));
                second = select(passes_first, first, select(passes_second, v, second));
            }
            first_code = select(passes_first, c, first_code);
            first = select(passes_first, v, first);
            if (finds_nan && k % 2 == 0) nan = nan | unordered(v, k + 1 < count ? tap(k + 1) : v);
        });
        if constexpr (!draws) return {first, first_code, nan};
        return {select(drop, second, first), select(drop, second_code, first_code), nan};
    }
}

// The ranks of numbers, counted from 0; tables are those of one window, by lane or one for all lanes.
template <int L, bool by_lane>
EMPOOL_INLINE Vec<uint32_t, L> ranks_of(Vec<uint32_t, L> u, const uint32_t* base, const uint32_t* limit,
                                        int64_t columns, int64_t step) {
    using U = Vec<uint32_t, L>;
    U rank = by_lane ? load_raw<U>(base) : fill<U>(*base);
    for (int64_t t = 0; t < columns; ++t) {
        const auto passes = u > (by_lane ? load_raw<U>(limit + t * step) : fill<U>(limit[t * step]));
        rank -= bits<U>(passes);
        if (t % 4 == 3 && !any(passes)) break;
    }
    return rank;
}

// The activation of a rank among N, 0 where there is none. Every pair is compared once: the later one comes before the
// earlier one if it is greater.
template <class C, int L, class I, int N, class Tap, class Code>
EMPOOL_INLINE Drawn<C, L, I> draw_rank(const Tap& tap, const Code& code, Vec<Int<C>, L> rank) {
    using V = Vec<C, L>;
    using O = Vec<Int<C>, L>;
    using K = Codes<C, L, I>;
    V v[N];
    O place[N];
    V sum{};
    repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA {
        v[k] = tap(k);
        place[k] = rank - static_cast<Int<C>>(k);
        sum += v[k];
    });
    for_pairs<N>([&](int j, int k) EMPOOL_LAMBDA {
        const auto later = greater(v[k], v[j]);
        place[k] = add_where(later, place[k], fill<O>(1));
        place[j] = add_where(later, place[j], fill<O>(-1));
    });
    V value{};
    K drawn = fill_code<K>(zero_drawn<I>);
    repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA {
        const auto here = equal<C>(place[k], 0);
        value = select(here, v[k], value);
        drawn = select(here, fill_code<K>(code(k)), drawn);
    });
    return {value, drawn, unordered(sum, sum)};
}

// The activation of a rank among n, 0 where there is none. Its value is found first, among values alone, then the
// activation that has it. No rank that there is exceeds `most`. N is n if it is known, or 0: `held` then has room for
// the window, twice. Which way a vector goes must be foreseeable: a wrong guess costs as much as 30 instructions.
template <class C, int L, class I, int N, class Tap, class Code>
EMPOOL_INLINE Drawn<C, L, I> draw_sorted(int n, const Tap& tap, const Code& code, Vec<Int<C>, L> rank, int most,
                                         Vec<C, L>* held) {
    using V = Vec<C, L>;
    using O = Vec<Int<C>, L>;
    using K = Codes<C, L, I>;
    V known[N ? N : 1], known_ranked[N ? N : 1];
    V* const v = N ? known : held;
    V* const ranked = N ? known_ranked : held + sorted_room(n);
    const auto is_zero = rank >= n;
    rank = is_zero ? fill<O>(-1) : rank;
    V sum{}, drawn;
    const auto read = [&](int k) EMPOOL_LAMBDA {
        v[k] = tap(k);
        sum += v[k];
        return v[k];
    };
    Mask<C, L> ties{};  // Equal activations come before the drawn one.
    const auto take = [&](int m) EMPOOL_LAMBDA {
        if (m == 0) {
            drawn = ranked[0];
        } else if (m <= most) {
            const auto here = equal<C>(rank, m);
            drawn = select(here, ranked[m], drawn);
            ties = ties | (here & same(ranked[m - 1], ranked[m]));
        }
    };
    int M = 3;
    if (!any(rank > 2)) {
        insert_ranks<3, N>(read, n, ranked);
        repeat<3, 0>(3, take);
    } else if constexpr (N > 0) {
        M = N;
        repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA { known_ranked[k] = read(k); });
        sort_block(known_ranked);
        repeat<N, 0>(N, take);
    } else {
        while (any(rank >= M)) ++M;
        for (int k = 0; k < n; ++k) ranked[k] = read(k);
        sort_ranks(ranked, n, M);
        for (int m = 0; m < M; ++m) take(m);
    }
    V value = drawn;
    K found = fill_code<K>(code(0));
    // A zero may have the sign of another.
    if (!any(ties | same(drawn, V{}))) {
        repeat<N, 0>(n, [&](int i) EMPOOL_LAMBDA {
            const int k = n - 1 - i;
            found = select(same(v[k], drawn), fill_code<K>(code(k)), found);
        });
    } else {
        O before = rank;
        for (int m = 0; m + 1 < M; ++m) before = add_where(greater(ranked[m], drawn), before, fill<O>(-1));
        repeat<N, 0>(n, [&](int k) EMPOOL_LAMBDA {
            const auto equals = same(v[k], drawn), here = zero_where(equals, before);
            value = select(here, v[k], value);
            found = select(here, fill_code<K>(code(k)), found);
            before = add_where(equals, before, fill<O>(-1));
        });
    }
    if (any(is_zero)) {
        const auto none = equal<C>(rank, -1);
        value = select(none, V{}, value);
        found = select(none, fill_code<K>(zero_drawn<I>), found);
    }
    return {value, found, unordered(sum, sum)};
}

// The ranks of n activations. Those of a block stay in registers while all later ones pass by. There is room for n
// rounded up to whole blocks.
template <class C, int L>
EMPOOL_NOINLINE void find_ranks(Vec<C, L>* v, int n, Vec<Int<C>, L>* rank) {
    using V = Vec<C, L>;
    using O = Vec<Int<C>, L>;
    constexpr int N = 8;
    const int room = (n + N - 1) / N * N;
    for (int k = n; k < room; ++k) v[k] = fill<V>(-static_cast<C>(__builtin_inf()));
    for (int k = 0; k < room; ++k) rank[k] = fill<O>(k);
    for (int first = 0; first < n; first += N) {
        V a[N];
        O r[N];
        repeat<N, 0>(0, [&](int i) EMPOOL_LAMBDA { a[i] = v[first + i], r[i] = rank[first + i]; });
        const auto meet = [&](V late, O& late_rank, int i) EMPOOL_LAMBDA {
            const auto passes = greater(late, a[i]);
            late_rank = add_where(passes, late_rank, fill<O>(-1));
            r[i] = add_where(passes, r[i], fill<O>(1));
        };
        for_pairs<N>([&](int j, int k) EMPOOL_LAMBDA { meet(a[k], r[k], j); });
        for (int k = first + N; k < n; ++k) {
            const V late = v[k];
            O late_rank = rank[k];
            repeat<N, 0>(0, [&](int i) EMPOOL_LAMBDA { meet(late, late_rank, i); });
            rank[k] = late_rank;
        }
        repeat<N, 0>(0, [&](int i) EMPOOL_LAMBDA { rank[first + i] = r[i]; });
    }
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
