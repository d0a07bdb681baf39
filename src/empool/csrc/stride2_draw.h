// rank_draw for 2x2 and 3x3 windows with stride 2 in contiguous planes (stride2.h).
//
// Lanes are neighbouring outputs. Padding is -inf, which is right unless a drawn value is -inf itself, or a row holds a
// NaN: such rows are drawn again, one output at a time. Numbers are made for a strip of rows at once, one Philox lane
// for every four outputs of a row. Limits depend on the number of valid activations, so they are laid out beside the
// row.
#pragma once

#include "philox.h"
#include "ranks.h"
#include "stride2.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// The numbers of a strip of rows: u[(row * quads + quad) * 4 + j] belongs to output 4 * quad + j of the row.
class RowNumbers {
    static constexpr int H = EMPOOL_LANES / 2;
    using V = Vec<uint64_t, H>;

  public:
    RowNumbers(const Geometry& g, const Seeds& seeds, int64_t rows, int64_t OW)
        : seeds_(seeds), C_(g.C), group_(seeds.count > 0 ? g.N / seeds.count : 1), quads_((OW + 3) / 4) {
        if (!seeds.seed) return;
        const int64_t padded = rows * quads_ + 2 * H;
        quad_ = scratch<uint64_t, Buffer::counters>(2 * padded);
        row_ = quad_ + padded;
        for (int64_t i = 0, quad = 0, row = 0; i < padded; ++i) {
            quad_[i] = static_cast<uint64_t>(quad);
            row_[i] = static_cast<uint64_t>(row);
            if (++quad == quads_) quad = 0, ++row;
        }
        u_ = scratch<uint32_t, Buffer::numbers>(4 * padded + 2 * EMPOOL_LANES);
    }

    // The numbers of a plane's outputs from row `first_row` on. Two chains hide each other's latency.
    void make(int64_t plane, int64_t first_row, int64_t rows) {
        if (!seeds_.seed) return;
        const int64_t n = plane / C_;
        if (n / group_ != keyed_) {
            keyed_ = n / group_;
            keys_.set_all(seeds_.seed[keyed_]);
        }
        const V c1 = fill<V>(static_cast<uint64_t>(first_row));
        const V c2 = fill<V>(static_cast<uint64_t>(seeds_.ties_channels() ? 0 : plane % C_));
        const V c3 = fill<V>(static_cast<uint64_t>(n % group_ + seeds_.first_image));
        if (seeds_.ties_positions()) {
            V a[4] = {V{}, V{}, c2, c3};
            philox<H>(a[0], a[1], a[2], a[3], keys_);
            const auto number = static_cast<uint32_t>(a[0][0]);
            for (int64_t i = 0; i < 4 * rows * quads_; ++i) u_[i] = number;
            return;
        }
        for (int64_t i = 0; i < rows * quads_; i += 2 * H) {
            V a[4] = {load_raw<V>(quad_ + i), load_raw<V>(row_ + i) + c1, c2, c3};
            V b[4] = {load_raw<V>(quad_ + i + H), load_raw<V>(row_ + i + H) + c1, c2, c3};
            philox<H>(a[0], a[1], a[2], a[3], keys_);
            philox<H>(b[0], b[1], b[2], b[3], keys_);
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

    const Seeds& seeds_;
    int64_t C_, group_, quads_, keyed_ = -1;
    uint64_t *quad_ = nullptr, *row_ = nullptr;
    uint32_t* u_ = nullptr;
    PhiloxKeys<H> keys_;
};

EMPOOL_INLINE bool stride2_draws(const RankDraw& a) {
    const Geometry& g = a.geometry;
    return stride2_side(g) != 0 && !g.channels_last && !a.wide && for_counts(g, [](int64_t n) { return n > 0; });
}

// The ranks that outputs may draw: the first, the first two, or any.
enum class Ranks { first, two, any };

EMPOOL_INLINE Ranks drawn_ranks(const RankDraw& a) {
    if (a.limits.columns == 0 && !a.based) return Ranks::first;
    const bool two = a.limits.columns == 1 && !a.based && for_counts(a.geometry, [](int64_t n) { return n > 1; });
    return two ? Ranks::two : Ranks::any;
}

// The limits of outputs, their ranks' base and their numbers of valid activations.
class OutputLimits {
  public:
    OutputLimits(const RankDraw& a, Ranks ranks, int64_t rows, int64_t pitch)
        : a_(a),
          ranks_(ranks),
          limits(a.geometry, rows, ranks == Ranks::first ? 0 : a.limits.columns, pitch),
          bases(a.geometry, rows, ranks == Ranks::any, pitch),
          counts(a.geometry, rows, ranks == Ranks::any, pitch) {}

    // Lanes past the end of a row draw the largest.
    void set_row(int64_t row, int64_t valid, int64_t channel) {
        const int64_t set = a_.limits.sets > 1 ? channel : 0;
        if (ranks_ == Ranks::first) return;
        limits.set_row(row, valid, ~uint32_t{0},
                       [&](int64_t column, int64_t n) { return a_.limits.at(n, column)[set]; });
        if (ranks_ == Ranks::two) return;
        bases.set_row(row, valid, 0, [&](int64_t, int64_t n) { return a_.base.at(n, 0)[set]; });
        counts.set_row(row, valid, 1, [](int64_t, int64_t n) { return static_cast<uint32_t>(n); });
    }

    // The last rank that may be drawn.
    EMPOOL_INLINE int most() const { return a_.based ? 9 : static_cast<int>(a_.limits.columns); }

  private:
    const RankDraw& a_;
    Ranks ranks_;

  public:
    OutputTable<uint32_t, Buffer::table> limits;
    OutputTable<uint32_t, Buffer::bases> bases;
    OutputTable<uint32_t, Buffer::counts> counts;
};

// The rank that one output draws.
EMPOOL_INLINE int64_t rank_of_one(const RankDraw& a, int64_t channel, int64_t oh, int64_t ow, uint32_t number) {
    int64_t first, last;
    a.geometry.axis[2].taps(ow, first, last);
    const int64_t n = valid_rows(a.geometry.axis[1], oh) * (last - first), set = a.limits.sets > 1 ? channel : 0;
    int64_t rank = a.base.at(n, 0)[set];
    for (int64_t t = 0; t < a.limits.columns; ++t) rank += number > a.limits.at(n, t)[set];
    return rank;
}

// One output, with every special case.
template <class T>
EMPOOL_NOINLINE void draw_one(const Geometry& g, const T* plane, int64_t oh, int64_t ow, int64_t rank, T* out,
                              uint8_t* drawn) {
    using C = Compute<T>;
    const Axis &H = g.axis[1], &W = g.axis[2];
    const T* tap[9];
    uint8_t code[9];
    int n = 0;
    for (int64_t kh = 0; kh < H.kernel; ++kh) {
        for (int64_t kw = 0; kw < W.kernel; ++kw) {
            const int64_t ih = H.start(oh) + kh, iw = W.start(ow) + kw;
            if (ih < 0 || ih >= H.in || iw < 0 || iw >= W.in) continue;
            tap[n] = plane + ih * W.in + iw;
            code[n++] = static_cast<uint8_t>(kh * W.kernel + kw);
        }
    }
    *out = T{};
    *drawn = 255;
    for (int k = 0; k < n; ++k) {
        const C value = load_one(tap[k]);
        int64_t place = 0;
        for (int j = 0; j < n; ++j) {
            const C other = load_one(tap[j]);
            place += other > value || (other == value && j < k);
        }
        if (value != value || place == rank) {
            *out = *tap[k];
            *drawn = code[k];
        }
        if (value != value) rank = -1;  // The last NaN, and nothing else, may follow.
    }
}

// The draws of L outputs, `f` being the first one's place in the tables.
template <class C, int L, int side, Ranks ranks, class Tap>
EMPOOL_INLINE Drawn<C, L, uint8_t> stride2_draw_lanes(const Tap& tap, const uint32_t* u, const OutputLimits& tables,
                                                      int64_t row, int64_t f) {
    using U = Vec<uint32_t, L>;
    const auto in = [&](int k) EMPOOL_LAMBDA { return tap(k / side, k % side); };
    const auto code = [](int k) EMPOOL_LAMBDA { return k; };
    if constexpr (ranks != Ranks::any) {
        Mask<C, L> drop{};
        if constexpr (ranks == Ranks::two) drop = passes<C, L>(load_raw<U>(u), load_raw<U>(tables.limits.row(row) + f));
        return draw_lanes<C, L, uint8_t, side * side, ranks == Ranks::two, false>(side * side, in, code, drop);
    } else {
        const U number = u ? load_raw<U>(u) : U{};
        U rank = ranks_of<L, true>(number, tables.bases.row(row) + f, tables.limits.row(row) + f,
                                   tables.limits.columns(), tables.limits.step());
        // No activation has the rank that stands for "zero".
        const auto zero = rank >= load_raw<U>(tables.counts.row(row) + f);
        rank = zero ? fill<U>(side * side) : rank;
        const auto wanted = __builtin_convertvector(bits<Vec<int32_t, L>>(rank), Vec<Int<C>, L>);
        if constexpr (side == 2) return draw_rank<C, L, uint8_t, 4>(in, code, wanted);
        return draw_sorted<C, L, uint8_t, 9>(9, in, code, wanted, tables.most(), nullptr);
    }
}

template <class T, int side, Ranks ranks>
void stride2_draw(const RankDraw& a, int64_t begin, int64_t end) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    using O = Vec<Int<C>, L>;
    const Geometry& g = a.geometry;
    const Axis &H = g.axis[1], &W = g.axis[2];
    const int64_t OW = W.out;
    const Strips strips = stride2_strips(g);
    RowNumbers numbers(g, a.seeds, strips.strip, OW);
    OutputLimits tables(a, ranks, H.kernel, OW + L);
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
        numbers.make(plane, first, last - first);
        if (unit == begin || (a.limits.sets > 1 && first == 0)) {
            for (int64_t rows = 1; rows <= H.kernel; ++rows) tables.set_row(rows - 1, rows, plane % g.C);
        }
        for (int64_t oh = first; oh < last; ++oh) {
            const C *phase0[side], *phase1[side];
            const bool nan = split.at(oh, phase0, phase1);
            const uint32_t* u = a.seeds.seed ? numbers.row(oh - first) : nullptr;
            const int64_t row = valid_rows(H, oh) - 1;
            const int64_t at = (plane * H.out + oh) * OW;
            O special{};
            // What the next strip's row reads and writes.
            prefetch_row(in, (2 * (oh + strips.strip)) * W.in, 2 * W.in);
            for (int64_t ow = 0; ow < OW; ow += L) {
                const auto tap = [&](int kh, int kw) EMPOOL_LAMBDA {
                    return load_raw<V>(kw == 1 ? phase1[kh] + ow : phase0[kh] + ow + kw / 2);
                };
                const auto [value, code, unused] =
                    stride2_draw_lanes<C, L, side, ranks>(tap, u ? u + ow : nullptr, tables, row, ow);
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
                    draw_one(g, in, oh, ow, rank_of_one(a, plane % g.C, oh, ow, u ? u[ow] : 0), out + at + ow,
                             drawn + at + ow);
                }
            }
        }
    }
}

template <class T, int side>
void stride2_draw_side(const RankDraw& a, int64_t begin, int64_t end) {
    switch (drawn_ranks(a)) {
        case Ranks::first:
            return stride2_draw<T, side, Ranks::first>(a, begin, end);
        case Ranks::two:
            return stride2_draw<T, side, Ranks::two>(a, begin, end);
        case Ranks::any:
            return stride2_draw<T, side, Ranks::any>(a, begin, end);
    }
}

template <class T>
void stride2_rank_draw(const RankDraw& a, int64_t begin, int64_t end) {
    stride2_side(a.geometry) == 2 ? stride2_draw_side<T, 2>(a, begin, end) : stride2_draw_side<T, 3>(a, begin, end);
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
