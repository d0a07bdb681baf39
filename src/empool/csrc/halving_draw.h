// rank_draw and rank_mean for 2x2 and 3x3 windows with stride 2 in contiguous planes (halving.h).
//
// The two largest of each window are tracked (two_largest.h), lanes being neighbouring outputs. Padding is -inf,
// which is right unless a drawn value is -inf itself, or a row holds a NaN: such rows are drawn again, one output at a
// time. Numbers are made for a strip of rows at once, one Philox lane for every four outputs of a row. Thresholds and
// weights depend on the number of valid activations, so they are laid out beside the row, once for every number of
// valid rows.
#pragma once

#include "halving.h"
#include "philox.h"
#include "two_largest.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// value[(rows - 1) * stride + ow] is the table's entry for windows with so many valid rows.
template <class E>
struct RowTable {
    E* value;
    int64_t stride;

    template <int slot, class Entry>
    static RowTable make(const Geometry& g, int64_t pad, const Entry& entry) {
        const Axis &H = g.axis[1], &W = g.axis[2];
        RowTable table{nullptr, W.out + pad};
        table.value = scratch<E, slot>(H.kernel * table.stride);
        for (int64_t rows = 1; rows <= H.kernel; ++rows) {
            for (int64_t ow = 0; ow < table.stride; ++ow) {
                int64_t first = 0, last = W.kernel;
                if (ow < W.out) W.taps(ow, first, last);
                table.value[(rows - 1) * table.stride + ow] = entry(rows * (last - first));
            }
        }
        return table;
    }
    const E* row(int64_t rows) const { return value + (rows - 1) * stride; }
};

EMPOOL_INLINE int64_t valid_rows(const Axis& H, int64_t oh) {
    int64_t first, last;
    H.taps(oh, first, last);
    return last - first;
}

// The numbers of a strip of rows: u[(row * quads + quad) * 4 + j] belongs to output 4 * quad + j of the row.
class RowNumbers {
    static constexpr int H = EMPOOL_LANES / 2;
    using V = Vec<uint64_t, H>;

  public:
    RowNumbers(int64_t rows, int64_t OW) : quads_((OW + 3) / 4) {
        const int64_t padded = rows * quads_ + 2 * H;
        quad_ = scratch<uint64_t, 7>(2 * padded);
        row_ = quad_ + padded;
        for (int64_t i = 0; i < padded; ++i) {
            quad_[i] = static_cast<uint64_t>(i % quads_);
            row_[i] = static_cast<uint64_t>(i / quads_);
        }
        u_ = scratch<uint32_t, 8>(4 * padded + 2 * EMPOOL_LANES);
    }

    // Two chains hide each other's latency.
    void make(int64_t first_row, int64_t rows, int64_t channel, int64_t image, const PhiloxKeys<H>& keys) {
        const V c1 = fill<V>(static_cast<uint64_t>(first_row)), c2 = fill<V>(static_cast<uint64_t>(channel));
        const V c3 = fill<V>(static_cast<uint64_t>(image));
        for (int64_t i = 0; i < rows * quads_; i += 2 * H) {
            V a[4] = {load_raw<V>(quad_ + i), load_raw<V>(row_ + i) + c1, c2, c3};
            V b[4] = {load_raw<V>(quad_ + i + H), load_raw<V>(row_ + i + H) + c1, c2, c3};
            philox<H>(a[0], a[1], a[2], a[3], keys);
            philox<H>(b[0], b[1], b[2], b[3], keys);
            store(i, a);
            store(i + H, b);
        }
    }

    const uint32_t* row(int64_t row) const { return u_ + 4 * quads_ * row; }

  private:
    EMPOOL_INLINE void store(int64_t i, const V (&x)[4]) {
        const V low = bits<V>(join_low_halves<H>(x[0], x[1])), high = bits<V>(join_low_halves<H>(x[2], x[3]));
        store_raw(u_ + 4 * i, zip<0>(low, high));
        store_raw(u_ + 4 * i + 2 * H, zip<1>(low, high));
    }

    int64_t quads_;
    uint64_t *quad_, *row_;
    uint32_t* u_;
};

EMPOOL_INLINE Strips halving_strips(const Geometry& g) {
    return Strips(g.axis[1].out, 1024 / (g.axis[2].out > 0 ? g.axis[2].out : 1));
}

EMPOOL_INLINE Units halving_units(const Geometry& g) {
    const Strips strips = halving_strips(g);
    return {g.planes() * strips.count, strips.strip * g.axis[2].out * g.window()};
}

// One threshold, or none; never 0, which no comparison with a number minus 1 can express; n >= 2 throughout.
EMPOOL_INLINE bool halving_draws(const RankDraw& a) {
    const Geometry& g = a.geometry;
    if (halving_side(g) == 0 || g.channels_last || a.T > 1 || a.wide) return false;
    return for_counts(g, [&](int64_t n) { return n >= 2 && (a.T == 0 || a.thresholds[a.row[n]] != 0); });
}

// One output, with every special case; the window holds at least 2 activations.
template <class T>
EMPOOL_NOINLINE void draw_one(const Geometry& g, const T* plane, int64_t oh, int64_t ow, bool drop, T* out,
                              uint8_t* drawn) {
    using C = Compute<T>;
    const Axis &H = g.axis[1], &W = g.axis[2];
    const T *best = nullptr, *second = nullptr;
    int64_t best_code = 0, second_code = 0;
    bool nan = false;
    for (int64_t kh = 0; kh < H.kernel; ++kh) {
        for (int64_t kw = 0; kw < W.kernel; ++kw) {
            const int64_t ih = H.start(oh) + kh, iw = W.start(ow) + kw, code = kh * W.kernel + kw;
            if (ih < 0 || ih >= H.in || iw < 0 || iw >= W.in) continue;
            const T* p = plane + ih * W.in + iw;
            const C value = load_one(p);
            if (value != value) {
                nan = true;
                best = second = p;
                best_code = second_code = code;
            } else if (!nan && (!best || value > load_one(best))) {
                second = best;
                second_code = best_code;
                best = p;
                best_code = code;
            } else if (!nan && (!second || value > load_one(second))) {
                second = p;
                second_code = code;
            }
        }
    }
    *out = drop ? *second : *best;
    *drawn = static_cast<uint8_t>(drop ? second_code : best_code);
}

// The draws of L outputs; the second largest where the number passes the limit.
template <class C, int L, int side, bool draws, class Tap>
EMPOOL_INLINE Drawn<C, L, uint8_t> halving_draw_lanes(const Tap& tap, const uint32_t* u, const uint32_t* limit) {
    Mask<C, L> drop{};
    if constexpr (draws) drop = passes<C, L>(load_raw<Vec<uint32_t, L>>(u), load_raw<Vec<uint32_t, L>>(limit));
    return draw_lanes<C, L, uint8_t, side * side, draws, false>(
        side * side, [&](int k) EMPOOL_LAMBDA { return tap(k / side, k % side); },
        [](int k) EMPOOL_LAMBDA { return k; }, drop);
}

template <class T, int side, bool draws>
void halving_draw(const RankDraw& a, int64_t begin, int64_t end) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    using O = Vec<Int<C>, L>;
    const Geometry& g = a.geometry;
    const Axis &H = g.axis[1], &W = g.axis[2];
    const int64_t OW = W.out, group = a.seeds > 0 ? g.N / a.seeds : 1;
    const Strips strips = halving_strips(g);
    RowNumbers numbers(draws ? strips.strip : 1, OW);
    RowTable<uint32_t> limits{};
    if (draws) {
        limits = RowTable<uint32_t>::make<9>(
            g, L, [&](int64_t n) { return static_cast<uint32_t>(a.thresholds[a.row[n]] - 1); });
    }
    PhiloxKeys<EMPOOL_LANES / 2> keys;
    int64_t keyed = -1;
    SplitRows<T, side> split(g, strips.strip);
    T* out = static_cast<T*>(a.output);
    uint8_t* drawn = static_cast<uint8_t*>(a.drawn);
    T* const out_end = out + strips.before(end) * OW;
    uint8_t* const drawn_end = drawn + strips.before(end) * OW;
    const O lane = iota<O>();
    for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t plane = unit / strips.count, first = strips.first(unit), last = strips.last(unit);
        const T* in = static_cast<const T*>(a.input) + plane * g.in_size();
        split.set_strip(in, first, last);
        if (draws) {
            const int64_t n = plane / g.C;
            if (n / group != keyed) {
                keyed = n / group;
                for (int l = 0; l < EMPOOL_LANES / 2; ++l) keys.set(l, a.seed[keyed]);
            }
            numbers.make(first, last - first, plane % g.C, n % group, keys);
        }
        for (int64_t oh = first; oh < last; ++oh) {
            const C *phase0[side], *phase1[side];
            const bool nan = split.at(oh, phase0, phase1);
            const uint32_t* u = draws ? numbers.row(oh - first) : nullptr;
            const uint32_t* limit = draws ? limits.row(valid_rows(H, oh)) : nullptr;
            const int64_t at = (plane * H.out + oh) * OW;
            O special{};
            for (int64_t ow = 0; ow < OW; ow += L) {
                const auto tap = [&](int kh, int kw) EMPOOL_LAMBDA {
                    return load_raw<V>(kw == 1 ? phase1[kh] + ow : phase0[kh] + ow + kw / 2);
                };
                const auto [value, code, unused] = halving_draw_lanes<C, L, side, draws>(tap, u + ow, limit + ow);
                special |= (value == -static_cast<C>(__builtin_inf())) &
                           (lane < static_cast<Int<C>>(OW - ow < L ? OW - ow : L));
                store_until<L>(out + at + ow, value, out_end);
                const auto bytes = convert<uint8_t, std::remove_cvref_t<decltype(code[0])>, L>(code);
                if (drawn + at + ow + L <= drawn_end) {
                    store_raw(drawn + at + ow, bytes);
                } else {
                    for (int i = 0; drawn + at + ow + i < drawn_end; ++i) drawn[at + ow + i] = bytes[i];
                }
            }
            if (nan || any(special)) {
                for (int64_t ow = 0; ow < OW; ++ow) {
                    draw_one(g, in, oh, ow, draws && u[ow] > limit[ow], out + at + ow, drawn + at + ow);
                }
            }
        }
    }
}

template <class T>
void halving_rank_draw(const RankDraw& a, int64_t begin, int64_t end) {
    if (halving_side(a.geometry) == 2) {
        return a.T ? halving_draw<T, 2, true>(a, begin, end) : halving_draw<T, 2, false>(a, begin, end);
    }
    return a.T ? halving_draw<T, 3, true>(a, begin, end) : halving_draw<T, 3, false>(a, begin, end);
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
