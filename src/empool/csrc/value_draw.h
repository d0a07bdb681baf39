// value_draw: output an activation drawn with a probability in proportion to relu(a) (Zeiler and Fergus, 2013), or to
// exp(beta a).
//
// Two passes over the window: the first sums the weights in window order, the second sums again and takes the first
// activation whose running sum exceeds (number * 2^-32) * total, or reaches the total. Both add the same terms in the
// same order, so that the last running sum is the total. Work is split as for rank_draw.
#pragma once

#include "exp.h"
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
EMPOOL_NOINLINE void value_draw_window(const Window<T, I>& w, const Beta<T>& beta, Vec<Compute<T>, lanes<T>>* held) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    using O = Vec<Int<C>, L>;
    const int n = w.taps.n;
    if (n == 0) return draw_empty(w, Compute<T>(0));
    O nan{};
    for_lanes<L>(w.count, [&](int64_t c) EMPOOL_LAMBDA {
        const auto tap = [&](int k) EMPOOL_LAMBDA -> V { return load<L>(w.in + w.taps.offset[k] + c); };
        V total{}, sum{};
        if (beta.none()) {
            for (int k = 0; k < n; ++k) {
                const V v = tap(k);
                held[k] = larger(v, V{});
                total += held[k];
                sum += v;
            }
        } else {
            const V largest = scores_of<C, L, 0>(n, tap, beta.at(c), held);
            for (int k = 0; k < n; ++k) {
                held[k] = exp2_of<C, L>(power_of<C, L>(held[k], largest));
                total += held[k];
                sum += tap(k);
            }
        }
        nan |= sum != sum;
        const V target = to_fraction<C, L>(load_raw<Vec<uint32_t, L>>(w.u + c)) * total;
        V running{}, value{};
        O code = fill<O>(zero_drawn<I>), found = ~(total > 0);
        for (int k = 0; k < n; ++k) {
            running += held[k];
            const O reached = (running > target) | (running >= total);
            const O here = reached & ~found;
            value = here ? tap(k) : value;
            code = here ? fill<O>(w.taps.code[k]) : code;
            found |= reached;
        }
        store_exact<L>(w.out + c, value);
        store_raw(w.drawn + c, convert<I, Int<C>, L>(code));
    });
    if (any(nan)) draw_nan(w);
}

template <class T, class I>
void value_draw_as(const ValueDraw& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    auto* held = scratch<Vec<Compute<T>, lanes<T>>, Buffer::ranked>(g.window());
    LaneTable<double, Buffer::table> betas(a.beta, in_place(g, lanes<T>), lanes<T>);
    for_windows<T, I>(
        g, a.seeds, static_cast<const T*>(a.input), static_cast<T*>(a.output), static_cast<I*>(a.drawn), begin, end,
        [&](const PlaneBlock& block) { betas.set_block(g, block); },
        [&](const Window<T, I>& w) { value_draw_window(w, Beta<T>(betas, w.channel), held); });
}

template <class T>
void value_draw_windows(const ValueDraw& a, int64_t begin, int64_t end) {
    a.wide ? value_draw_as<T, int32_t>(a, begin, end) : value_draw_as<T, uint8_t>(a, begin, end);
}

template <class T>
constexpr Strategy<ValueDraw> value_draw[] = {
    {[](const ValueDraw&) { return true; }, [](const ValueDraw& a) { return lane_units<T>(a.geometry); },
     value_draw_windows<T>},
};

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
