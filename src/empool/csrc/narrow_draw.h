// rank_draw in small planes (narrow.h).
#pragma once

#include "halving_draw.h"
#include "narrow.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

template <class T>
EMPOOL_INLINE bool narrow_draws(const RankDraw& a) {
    return narrow_pitch<T>(a.geometry) > 0 && halving_draws(a);
}

// The four planes of activations. Elements that no output reads are 0 in the odd columns, so that windows of such
// elements only, in the lanes between rows, are never taken for windows of padding.
template <class T, int side>
class NarrowPlanes {
    using C = Compute<T>;

  public:
    NarrowPlanes(const Geometry& g, int64_t pitch) : H_(g.axis[1]), W_(g.axis[2]), pitch_(pitch) {
        const C padding = -static_cast<C>(__builtin_inf());
        const int64_t rows = H_.out + 1;
        plane_[0][0] = narrow_scratch<C, 3>(rows, pitch, padding);
        plane_[1][0] = narrow_scratch<C, 4>(rows, pitch, padding);
        plane_[0][1] = narrow_scratch<C, 5>(rows, pitch, C{});
        plane_[1][1] = narrow_scratch<C, 6>(rows, pitch, C{});
        for (int64_t i = 0; i < (H_.out + side - 2) * pitch; ++i) {
            if (i % pitch < W_.out) plane_[0][1][i] = plane_[1][1][i] = padding;
        }
    }

    // Returns whether the plane holds a NaN that a window reads.
    EMPOOL_INLINE bool set(const T* plane) {
        const int64_t reach = 2 * W_.out + side - 2 - W_.padding, size = reach < W_.in ? reach : W_.in;
        bool nan = false;
        const T* row = plane;
        for (int64_t y = H_.padding; y < H_.in + H_.padding && y < 2 * H_.out + side - 2; ++y, row += W_.in) {
            C *const even = plane_[y & 1][0] + y / 2 * pitch_, *const odd = plane_[y & 1][1] + y / 2 * pitch_;
            nan |=
                W_.padding ? split_row<lanes<T>>(row, size, odd, even + 1) : split_row<lanes<T>>(row, size, even, odd);
        }
        return nan;
    }

    EMPOOL_INLINE const C* tap(int kh, int kw) const { return plane_[kh & 1][kw & 1] + kh / 2 * pitch_ + kw / 2; }

  private:
    const Axis &H_, &W_;
    int64_t pitch_;
    C* plane_[2][2];
};

// The thresholds less 1 of a plane's outputs; lanes between rows never drop.
EMPOOL_INLINE const uint32_t* narrow_limits(const RankDraw& a, int64_t pitch) {
    const Geometry& g = a.geometry;
    uint32_t* limits = narrow_scratch<uint32_t, 9>(g.axis[1].out, pitch, ~uint32_t{0});
    for (int64_t oh = 0; oh < g.axis[1].out; ++oh) {
        for (int64_t ow = 0; ow < g.axis[2].out; ++ow) {
            int64_t first, last;
            g.axis[2].taps(ow, first, last);
            const int64_t n = valid_rows(g.axis[1], oh) * (last - first);
            limits[oh * pitch + ow] = static_cast<uint32_t>(a.thresholds[a.row[n]] - 1);
        }
    }
    return limits;
}

template <class T, int side, bool draws>
void narrow_draw(const RankDraw& a, int64_t begin, int64_t end) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    using O = Vec<Int<C>, L>;
    const Geometry& g = a.geometry;
    const int64_t OH = g.axis[1].out, OW = g.axis[2].out, pitch = narrow_pitch<T>(g), size = OH * OW;
    const int64_t group = a.seeds > 0 ? g.N / a.seeds : 1;
    RowNumbers numbers(draws ? OH : 1, pitch);
    const uint32_t* limits = draws ? narrow_limits(a, pitch) : nullptr;
    PhiloxKeys<EMPOOL_LANES / 2> keys;
    int64_t keyed = -1;
    NarrowPlanes<T, side> planes(g, pitch);
    T* const values = narrow_scratch<T, 10>(OH, pitch, T{});
    uint8_t* const codes = narrow_scratch<uint8_t, 11>(OH, pitch, 0);
    T* const out_end = static_cast<T*>(a.output) + end * size;
    uint8_t* const drawn_end = static_cast<uint8_t*>(a.drawn) + end * size;
    for (int64_t plane = begin; plane < end; ++plane) {
        const T* in = static_cast<const T*>(a.input) + plane * g.in_size();
        const bool nan = planes.set(in);
        if (draws) {
            const int64_t n = plane / g.C;
            if (n / group != keyed) {
                keyed = n / group;
                for (int l = 0; l < EMPOOL_LANES / 2; ++l) keys.set(l, a.seed[keyed]);
            }
            numbers.make(0, OH, plane % g.C, n % group, keys);
        }
        O special{};
        for (int64_t f = 0; f < OH * pitch; f += L) {
            const auto [value, code, unused] = halving_draw_lanes<C, L, side, draws>(
                [&](int kh, int kw) EMPOOL_LAMBDA { return load_raw<V>(planes.tap(kh, kw) + f); }, numbers.row(0) + f,
                limits + f);
            special |= value == -static_cast<C>(__builtin_inf());
            store_exact<L>(values + f, value);
            store_codes<uint8_t, L>(codes + f, code);
        }
        T* out = static_cast<T*>(a.output) + plane * size;
        uint8_t* drawn = static_cast<uint8_t*>(a.drawn) + plane * size;
        if (nan || any(special)) {
            for (int64_t i = 0; i < size; ++i) {
                const int64_t f = i / OW * pitch + i % OW;
                draw_one(g, in, i / OW, i % OW, draws && numbers.row(0)[f] > limits[f], out + i, drawn + i);
            }
        } else {
            for (int64_t oh = 0; oh < OH; ++oh) {
                copy_row<L>(values + oh * pitch, OW, out + oh * OW, out_end);
                copy_row<L>(codes + oh * pitch, OW, drawn + oh * OW, drawn_end);
            }
        }
    }
}

template <class T>
void narrow_rank_draw(const RankDraw& a, int64_t begin, int64_t end) {
    if (halving_side(a.geometry) == 2) {
        return a.T ? narrow_draw<T, 2, true>(a, begin, end) : narrow_draw<T, 2, false>(a, begin, end);
    }
    return a.T ? narrow_draw<T, 3, true>(a, begin, end) : narrow_draw<T, 3, false>(a, begin, end);
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
