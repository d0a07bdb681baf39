// drawn_scatter for 2x2 and 3x3 windows with stride 2 in contiguous planes (stride2.h).
//
// Counted from the padding, position 2j of a row is tap 0 of output j and (3x3) tap 2 of output j - 1, position 2j + 1
// is tap 1 of output j; rows likewise. The gradients and offsets of an output row are laid out once, in the compute
// type, with an offset that no tap has past both ends; then a row of the input's gradient is two sums of masked loads,
// zipped.
#pragma once

#include "stride2.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

EMPOOL_INLINE Strips stride2_scatter_strips(const Geometry& g) {
    // An even number of rows, so that most windows lie in one strip.
    return Strips(g.axis[1].in, 4096 / (g.axis[2].in > 0 ? g.axis[2].in : 1) / 2 * 2 + 2);
}

EMPOOL_INLINE Units stride2_scatter_units(const Geometry& g) {
    const Strips strips = stride2_scatter_strips(g);
    return {g.planes() * strips.count, 2 * strips.strip * g.axis[2].in};
}

// Copies a row of gradients and offsets in the types that lanes compute in. The last vector overlaps the one before;
// short rows take shorter vectors.
template <class T, int l>
EMPOOL_INLINE void lay_out_drawn(const T* grad, const uint8_t* drawn, int64_t OW, Compute<T>* to_grad,
                                 Int<Compute<T>>* to_code) {
    if (OW >= l) {
        for_lanes<l>(OW, [&](int64_t ow) EMPOOL_LAMBDA {
            store_raw(to_grad + ow, load<l>(grad + ow));
            store_raw(to_code + ow, convert<Int<Compute<T>>, uint8_t, l>(load_raw<Vec<uint8_t, l>>(drawn + ow)));
        });
    } else if constexpr (l > 4) {
        lay_out_drawn<T, l / 2>(grad, drawn, OW, to_grad, to_code);
    } else {
        for (int64_t ow = 0; ow < OW; ++ow) {
            to_grad[ow] = load_one(grad + ow);
            to_code[ow] = drawn[ow];
        }
    }
}

// The gradients and offsets of the output rows that a strip of the input's rows reads, all laid out before the first is
// used.
template <class T>
class DrawnRows {
    using C = Compute<T>;
    using O = Int<C>;
    static constexpr int L = lanes<T>;

  public:
    DrawnRows(const Geometry& g, int64_t strip) : H_(g.axis[1]), OW_(g.axis[2].out) {
        const int64_t slots = strip / 2 + 3;
        length_ = 1 + (g.axis[2].in / 2 + 2 > OW_ ? g.axis[2].in / 2 + 2 : OW_) + 2 * L;
        grad_ = scratch<C, Buffer::gradient>(slots * length_);
        code_ = scratch<O, Buffer::drawn>(slots * length_);
        for (int64_t i = 0; i < slots * length_; ++i) {
            grad_[i] = 0;
            code_[i] = -1;
        }
    }

    void set_strip(const T* grad, const uint8_t* drawn, int64_t first, int64_t last) {
        int64_t end, unused;
        H_.outputs(first, first_, unused);
        H_.outputs(last - 1, unused, end);
        for (int64_t oh = first_; oh < end; ++oh) {
            const int64_t to = (oh - first_) * length_ + 1;
            lay_out_drawn<T, L>(grad + oh * OW_, drawn + oh * OW_, OW_, grad_ + to, code_ + to);
        }
    }

    EMPOOL_INLINE void at(int64_t oh, const C*& grad, const O*& code) const {
        grad = grad_ + (oh - first_) * length_ + 1;
        code = code_ + (oh - first_) * length_ + 1;
    }

  private:
    const Axis& H_;
    int64_t OW_, length_, first_ = 0;
    C* grad_;
    O* code_;
};

template <class T>
struct DrawnRow {
    const Compute<T>* grad;
    const Int<Compute<T>>* code;
    int first_code;  // of the window's row
};

// What output j gives to tap kw, or rather to those lanes where that was drawn.
template <class T>
EMPOOL_INLINE Vec<Compute<T>, lanes<T>> given(const DrawnRow<T>& row, int64_t j, int kw) {
    using V = Vec<Compute<T>, lanes<T>>;
    using O = Vec<Int<Compute<T>>, lanes<T>>;
    return load_raw<O>(row.code + j) == fill<O>(row.first_code + kw) ? load_raw<V>(row.grad + j) : V{};
}

template <class T, int side, int padding, int rows>
EMPOOL_INLINE void stride2_scatter_row(const DrawnRow<T> (&row)[2], int64_t W, T* to, T* end) {
    constexpr int L = lanes<T>;
    using V = Vec<Compute<T>, L>;
    for (int64_t j = 0; j < (W + 1) / 2; j += L) {
        // With padding, pairs start at an odd position: (2j + 1, 2j + 2), else at an even one: (2j, 2j + 1).
        const int64_t even = j + padding;
        V even_sum{}, odd_sum{};
        for (int r = 0; r < rows; ++r) {
            if (side == 3) {
                even_sum += given(row[r], even - 1, 2);
                if (r > 0) even_sum = round_to<T, L>(even_sum);
            }
            even_sum += given(row[r], even, 0);
            if (side == 3) even_sum = round_to<T, L>(even_sum);
            odd_sum += given(row[r], j, 1);
            if (r > 0) odd_sum = round_to<T, L>(odd_sum);
        }
        const V low = padding ? odd_sum : even_sum, high = padding ? even_sum : odd_sum;
        T* p = to + 2 * j;
        if (p + 2 * L <= end) {
            store_pairs<L>(p, low, high);
        } else {
            T values[2 * L];
            store_pairs<L>(values, low, high);
            for (int i = 0; p + i < end; ++i) p[i] = values[i];
        }
    }
}

template <class T, int side, int padding>
void stride2_scatter(const DrawnScatter& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    const Axis H = g.axis[1], W = g.axis[2];
    const Strips strips = stride2_scatter_strips(g);
    T* grad_input = static_cast<T*>(a.grad_input);
    T* const to_end = grad_input + strips.before(end) * W.in;
    DrawnRows<T> rows(g, strips.strip);
    for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t plane = unit / strips.count;
        rows.set_strip(static_cast<const T*>(a.grad_output) + plane * g.out_size(),
                       static_cast<const uint8_t*>(a.drawn) + plane * g.out_size(), strips.first(unit),
                       strips.last(unit));
        for (int64_t ih = strips.first(unit); ih < strips.last(unit); ++ih) {
            DrawnRow<T> row[2] = {};
            int count = 0;
            const int64_t y = ih + H.padding;
            const auto add = [&](int kh) EMPOOL_LAMBDA {
                const int64_t oh = (y - kh) >> 1;
                if (oh < 0 || oh >= H.out) return;
                rows.at(oh, row[count].grad, row[count].code);
                row[count++].first_code = kh * side;
            };
            if (y & 1) {
                add(1);
            } else {
                if (side == 3) add(2);
                add(0);
            }
            T* to = grad_input + (plane * H.in + ih) * W.in;
            if (count == 0) stride2_scatter_row<T, side, padding, 0>(row, W.in, to, to_end);
            if (count == 1) stride2_scatter_row<T, side, padding, 1>(row, W.in, to, to_end);
            if (count == 2) stride2_scatter_row<T, side, padding, 2>(row, W.in, to, to_end);
        }
    }
}

template <class T>
void stride2_drawn_scatter(const DrawnScatter& a, int64_t begin, int64_t end) {
    if (stride2_side(a.geometry) == 2) return stride2_scatter<T, 2, 0>(a, begin, end);
    a.geometry.axis[2].padding ? stride2_scatter<T, 3, 1>(a, begin, end) : stride2_scatter<T, 3, 0>(a, begin, end);
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
