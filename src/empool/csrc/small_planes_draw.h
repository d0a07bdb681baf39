// rank_draw in small planes (small_planes.h).
#pragma once

#include "small_planes.h"
#include "stride2_draw.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

template <class T>
EMPOOL_INLINE bool small_planes_draws(const RankDraw& a) {
    return stride2_draws(a) && small_planes_pitch<T>(a.geometry) > 0;
}

// The four planes of activations. Elements that no output reads are 0 in the odd columns, so that windows of such
// elements only, in the lanes between rows, are never taken for windows of padding.
template <class T, int side>
class SplitPlane {
    using C = Compute<T>;

  public:
    SplitPlane(const Geometry& g, int64_t pitch) : H_(g.axis[1]), W_(g.axis[2]), pitch_(pitch) {
        const C padding = -static_cast<C>(__builtin_inf());
        const int64_t rows = H_.out + 1;
        plane_[0][0] = small_planes_scratch<C, Buffer::input>(rows, pitch, padding);
        plane_[1][0] = small_planes_scratch<C, Buffer::input_odd_rows>(rows, pitch, padding);
        plane_[0][1] = small_planes_scratch<C, Buffer::input_odd_columns>(rows, pitch, C{});
        plane_[1][1] = small_planes_scratch<C, Buffer::input_odd_both>(rows, pitch, C{});
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

template <class T, int side, Ranks ranks>
void small_planes_draw(const RankDraw& a, int64_t begin, int64_t end) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    using O = Vec<Int<C>, L>;
    const Geometry& g = a.geometry;
    const int64_t OH = g.axis[1].out, OW = g.axis[2].out, pitch = small_planes_pitch<T>(g), size = OH * OW;
    RowNumbers numbers(g, a.seeds, OH, pitch);
    OutputLimits tables(a, ranks, OH, pitch);
    SplitPlane<T, side> planes(g, pitch);
    T* const values = small_planes_scratch<T, Buffer::output>(OH, pitch, T{});
    uint8_t* const codes = small_planes_scratch<uint8_t, Buffer::drawn>(OH, pitch, 0);
    T* const out_end = static_cast<T*>(a.output) + end * size;
    uint8_t* const drawn_end = static_cast<uint8_t*>(a.drawn) + end * size;
    for (int64_t plane = begin; plane < end; ++plane) {
        const T* in = static_cast<const T*>(a.input) + plane * g.in_size();
        const bool nan = planes.set(in);
        numbers.make(plane, 0, OH);
        for (int64_t oh = 0; oh < OH && (plane == begin || a.limits.sets > 1); ++oh) {
            tables.set_row(oh, valid_rows(g.axis[1], oh), plane % g.C);
        }
        const uint32_t* u = a.seeds.seed ? numbers.row(0) : nullptr;
        O special{};
        for (int64_t f = 0; f < OH * pitch; f += L) {
            const auto [value, code, unused] = stride2_draw_lanes<C, L, side, ranks>(
                [&](int kh, int kw) EMPOOL_LAMBDA { return load_raw<V>(planes.tap(kh, kw) + f); }, u ? u + f : nullptr,
                tables, 0, f);
            special |= value == -static_cast<C>(__builtin_inf());
            store_exact<L>(values + f, value);
            store_codes<uint8_t, L>(codes + f, code);
        }
        T* out = static_cast<T*>(a.output) + plane * size;
        uint8_t* drawn = static_cast<uint8_t*>(a.drawn) + plane * size;
        if (nan || any(special)) {
            for (int64_t i = 0; i < size; ++i) {
                const int64_t oh = i / OW, ow = i % OW;
                draw_one(g, in, oh, ow, rank_of_one(a, plane % g.C, oh, ow, u ? u[oh * pitch + ow] : 0), out + i,
                         drawn + i);
            }
        } else {
            for (int64_t oh = 0; oh < OH; ++oh) {
                copy_row<L>(values + oh * pitch, OW, out + oh * OW, out_end);
                copy_row<L>(codes + oh * pitch, OW, drawn + oh * OW, drawn_end);
            }
        }
    }
}

template <class T, int side>
void small_planes_draw_side(const RankDraw& a, int64_t begin, int64_t end) {
    switch (drawn_ranks(a)) {
        case Ranks::first:
            return small_planes_draw<T, side, Ranks::first>(a, begin, end);
        case Ranks::two:
            return small_planes_draw<T, side, Ranks::two>(a, begin, end);
        case Ranks::any:
            return small_planes_draw<T, side, Ranks::any>(a, begin, end);
    }
}

template <class T>
void small_planes_rank_draw(const RankDraw& a, int64_t begin, int64_t end) {
    stride2_side(a.geometry) == 2 ? small_planes_draw_side<T, 2>(a, begin, end)
                                  : small_planes_draw_side<T, 3>(a, begin, end);
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
