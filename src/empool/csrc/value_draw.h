// value_draw: output an activation drawn with probability relu(a) / sum of relu(a) (Zeiler and Fergus, 2013).
//
// Two passes over the window: the first sums relu(a) in window order, the second sums again and takes the first
// activation whose running sum exceeds (number * 2^-32) * total, or reaches the total. Both add the same terms in the
// same order, so that the last running sum is the total. Work is split as for rank_draw.
#pragma once

#include "rank_draw.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// A 32-bit number as a fraction of 2^32, rounded once.
template <class C, int L>
EMPOOL_INLINE Vec<C, L> to_fraction(Vec<uint32_t, L> u) {
    using I = Vec<int32_t, L>;
    using V = Vec<C, L>;
    const V high = __builtin_convertvector(bits<I>(u >> 16), V), low = __builtin_convertvector(bits<I>(u & 0xffff), V);
    return (high * C(65536) + low) * C(1.0 / 4294967296.0);
}

template <class T, class I>
EMPOOL_NOINLINE void value_draw_window(const Window<T, I>& w) {
    using C = Compute<T>;
    using V = Vec<C, lanes<T>>;
    using O = Vec<Int<C>, lanes<T>>;
    const int n = w.taps.n;
    if (n == 0) return draw_empty(w, Compute<T>(0));
    O nan{};
    for_lanes<lanes<T>>(w.count, [&](int64_t c) EMPOOL_LAMBDA {
        V total{}, sum{};
        for (int k = 0; k < n; ++k) {
            const V v = load<lanes<T>>(w.in + w.taps.offset[k] + c);
            total += v > 0 ? v : V{};
            sum += v;
        }
        nan |= sum != sum;
        const V target = to_fraction<C, lanes<T>>(load_raw<Vec<uint32_t, lanes<T>>>(w.u + c)) * total;
        V running{}, value{};
        O code = fill<O>(zero_drawn<I>), found = ~(total > 0);
        for (int k = 0; k < n; ++k) {
            const V v = load<lanes<T>>(w.in + w.taps.offset[k] + c);
            running += v > 0 ? v : V{};
            const O reached = (running > target) | (running >= total);
            const O here = reached & ~found;
            value = here ? v : value;
            code = here ? fill<O>(w.taps.code[k]) : code;
            found |= reached;
        }
        store_exact<lanes<T>>(w.out + c, value);
        store_raw(w.drawn + c, convert<I, Int<C>, lanes<T>>(code));
    });
    if (any(nan)) draw_nan(w);
}

template <class T>
Units value_draw_units(const ValueDraw& a) {
    return lane_units<T>(a.geometry);
}

template <class T, class I>
void value_draw_as(const ValueDraw& a, int64_t begin, int64_t end) {
    for_windows<T, I>(a.geometry, a.seed, a.seeds, static_cast<const T*>(a.input), static_cast<T*>(a.output),
                      static_cast<I*>(a.drawn), begin, end, [&](const Window<T, I>& w) { value_draw_window(w); });
}

template <class T>
void value_draw(const ValueDraw& a, int64_t begin, int64_t end) {
    a.wide ? value_draw_as<T, int32_t>(a, begin, end) : value_draw_as<T, uint8_t>(a, begin, end);
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
