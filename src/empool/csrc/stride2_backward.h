// rank_mean_backward for 2x2 and 3x3 windows with stride 2 in contiguous planes (stride2.h).
//
// Lanes are neighbouring outputs. Every pair of a window's activations is compared, which gives all ranks; what an
// output gives to each of its taps is laid out in rows, and a row of the input's gradient is a sum of such rows, zipped
// as in stride2_scatter.h. Padding is -inf: where an activation is -inf too, or a NaN, the row is done output by
// output.
#pragma once

#include "ranks.h"
#include "stride2.h"
#include "stride2_mean.h"
#include "stride2_scatter.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// What the outputs of a few rows give to their taps. Nothing is given beside a row's outputs.
template <class T, int side>
class GivenRows {
    using C = Compute<T>;
    static constexpr int L = lanes<T>, slots = 4;
    using V = Vec<C, L>;
    using O = Vec<Int<C>, L>;

  public:
    GivenRows(const RankMean& a) : a_(a), g_(a.geometry), H_(g_.axis[1]), W_(g_.axis[2]) {
        const int64_t columns = (W_.in + 3) / 2, rounded = (W_.out + L - 1) / L * L;
        length_ = (columns > rounded ? columns : rounded) + 2 * L;
        given_ = scratch<C, Buffer::sums>(slots * side * side * length_);
        for (int64_t i = 0; i < slots * side * side * length_; ++i) given_[i] = 0;
        grad_end_ = static_cast<const T*>(a.grad_output) + g_.planes() * g_.out_size();
        shares_ = scratch<C, Buffer::table>((side * side + 1) * table_size);
    }

    void set_channel(int64_t channel) {
        const int64_t set = a_.weights.sets > 1 ? channel : 0;
        for (int64_t n = 1; n <= side * side; ++n) {
            for (int64_t r = 0; r < table_size; ++r) {
                shares_[n * table_size + r] =
                    r < a_.weights.columns && r < n ? static_cast<C>(a_.weights.at(n, r)[set]) : C{};
            }
        }
    }

    // What output ow of row oh gives to tap k; one may read from ow = -1 on.
    EMPOOL_INLINE const C* at(int64_t oh, int k) const { return row(oh, k); }

    void make(const T* plane, const T* grad, int64_t oh, const SplitRows<T, side>& split) {
        const C *phase0[side], *phase1[side];
        bool special = split.at(oh, phase0, phase1);
        const int64_t valid = valid_rows(H_, oh), inner = valid * side;
        const int64_t first = valid * taps(0), last = valid * taps(W_.out - 1);
        const O lane = iota<O>();
        const int count = static_cast<int>(a_.weights.columns);
        for (int64_t ow = 0; ow < W_.out; ow += L) {
            V v[side * side];
            O rank[side * side];
            repeat<side * side, 0>(0, [&](int k) EMPOOL_LAMBDA {
                const int kh = k / side, kw = k % side;
                v[k] = load_raw<V>(kw == 1 ? phase1[kh] + ow : phase0[kh] + ow + kw / 2);
                rank[k] = fill<O>(k);
            });
            repeat<side * side, 1>(0, [&](int k) EMPOOL_LAMBDA {
                for (int j = 0; j < k; ++j) {
                    const auto later = greater(v[k], v[j]);
                    rank[k] = add_where(later, rank[k], fill<O>(-1));
                    rank[j] = add_where(later, rank[j], fill<O>(1));
                }
            });
            const bool at_first = ow == 0 && first != inner, at_last = ow + L >= W_.out && last != inner;
            const O is_first = lane == 0, is_last = lane == static_cast<Int<C>>(W_.out - 1 - ow);
            if (at_first || at_last || inner != side * side) {
                // There is as much -inf as padding, or some of it is not.
                const V low = fill<V>(-static_cast<C>(__builtin_inf()));
                O lows = fill<O>(static_cast<Int<C>>(inner - side * side));
                if (at_first) lows = is_first ? fill<O>(static_cast<Int<C>>(first - side * side)) : lows;
                if (at_last) lows = is_last ? fill<O>(static_cast<Int<C>>(last - side * side)) : lows;
                repeat<side * side, 0>(
                    0, [&](int k) EMPOOL_LAMBDA { lows = add_where(~unequal(v[k], low), lows, fill<O>(1)); });
                special |= any((lows != 0) & (lane < static_cast<Int<C>>(W_.out - ow < L ? W_.out - ow : L)));
            }
            const V gradient = gradient_at(grad + ow, W_.out - ow);
            repeat<side * side, 0>(0, [&](int k) EMPOOL_LAMBDA {
                V share = look_up<C, L>(shares_ + inner * table_size, rank[k], count);
                if (at_first) share = is_first ? look_up<C, L>(shares_ + first * table_size, rank[k], count) : share;
                if (at_last) share = is_last ? look_up<C, L>(shares_ + last * table_size, rank[k], count) : share;
                store_raw(row(oh, k) + ow, select(unequal(share, V{}), share * gradient, V{}));
            });
        }
        for (int64_t ow = 0; special && ow < W_.out; ++ow) make_one(plane, grad, oh, ow);
    }

  private:
    // The gradients of the next outputs, 0 from the `count`-th on.
    EMPOOL_INLINE V gradient_at(const T* grad, int64_t count) const {
        if (count >= L) return load<L>(grad);
        const O valid = iota<O>() < static_cast<Int<C>>(count);
        if (grad + L <= grad_end_) return valid ? load<L>(grad) : V{};
        T values[L] = {};
        for (int64_t i = 0; i < count; ++i) values[i] = grad[i];
        return load<L>(values);
    }

    EMPOOL_INLINE C* row(int64_t oh, int k) const { return given_ + ((oh % slots) * side * side + k) * length_ + L; }

    int64_t taps(int64_t ow) const {
        int64_t first, last;
        W_.taps(ow, first, last);
        return last - first;
    }

    EMPOOL_NOINLINE void make_one(const T* plane, const T* grad, int64_t oh, int64_t ow) {
        C value[side * side];
        int code[side * side], n = 0, nan = -1;
        for (int k = 0; k < side * side; ++k) {
            const int64_t ih = H_.start(oh) + k / side, iw = W_.start(ow) + k % side;
            row(oh, k)[ow] = 0;
            if (ih < 0 || ih >= H_.in || iw < 0 || iw >= W_.in) continue;
            value[n] = load_one(plane + ih * W_.in + iw);
            if (value[n] != value[n]) nan = k;
            code[n++] = k;
        }
        for (int i = 0; i < n && nan < 0; ++i) {
            int rank = 0;
            for (int j = 0; j < n; ++j) rank += value[j] > value[i] || (value[j] == value[i] && j < i);
            const C share = shares_[n * table_size + rank];
            row(oh, code[i])[ow] = share != 0 ? share * load_one(grad + ow) : C{};
        }
        if (nan >= 0) row(oh, nan)[ow] = load_one(grad + ow);
    }

    const RankMean& a_;
    const Geometry& g_;
    const Axis &H_, &W_;
    int64_t length_;
    C *given_, *shares_;
    const T* grad_end_;
};

template <class T, int side, int padding>
void stride2_backward(const RankMean& a, int64_t begin, int64_t end) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    const Geometry& g = a.geometry;
    const Axis &H = g.axis[1], &W = g.axis[2];
    const Strips strips = stride2_strips(g);
    SplitRows<T, side> split(g, strips.strip + 1);
    GivenRows<T, side> given(a);
    // The input's rows that a strip of outputs ends before: the last strip takes the rest.
    const auto rows_before = [&](int64_t unit, int64_t output) {
        if (output == 0) return int64_t(0);
        return unit % strips.count + 1 == strips.count && output == H.out ? H.in : 2 * output - H.padding;
    };
    const int64_t last_unit = end - 1;
    T* const to_end = static_cast<T*>(a.output) +
                      (last_unit / strips.count * H.in + rows_before(last_unit, strips.last(last_unit))) * W.in;
    for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t plane = unit / strips.count, first = strips.first(unit), last = strips.last(unit);
        const int64_t start = side == 3 && first > 0 ? first - 1 : first;
        const T* in = static_cast<const T*>(a.input) + plane * g.in_size();
        const T* grad = static_cast<const T*>(a.grad_output) + plane * g.out_size();
        split.set_strip(in, start, last);
        if (unit == begin || (a.weights.sets > 1 && first == 0)) given.set_channel(plane % g.C);
        int64_t made = start;
        for (int64_t ih = rows_before(unit, first); ih < rows_before(unit, last); ++ih) {
            // One row more than is needed: a vector that is read right after its parts were written waits for them.
            const int64_t ahead = (ih + H.padding) / 2 + 2;
            for (; made < ahead && made < last; ++made) given.make(in, grad + made * W.out, made, split);
            const C* rows[2][side];
            int count = 0;
            int64_t oh, end_oh;
            for (H.outputs(ih, oh, end_oh); oh < end_oh; ++oh) {
                const int64_t kh = H.tap(oh, ih);
                if (kh < 0) continue;
                for (int kw = 0; kw < side; ++kw) rows[count][kw] = given.at(oh, static_cast<int>(kh) * side + kw);
                ++count;
            }
            T* to = static_cast<T*>(a.output) + (plane * H.in + ih) * W.in;
            for (int64_t j = 0; j < (W.in + 1) / 2; j += L) {
                const int64_t even = j + padding;
                V even_sum{}, odd_sum{};
                for (int r = 0; r < count; ++r) {
                    if (side == 3) even_sum += load_raw<V>(rows[r][side - 1] + even - 1);
                    even_sum += load_raw<V>(rows[r][0] + even);
                    odd_sum += load_raw<V>(rows[r][1] + j);
                }
                const V low = round_to<T, L>(padding ? odd_sum : even_sum);
                const V high = round_to<T, L>(padding ? even_sum : odd_sum);
                T* p = to + 2 * j;
                if (p + 2 * L <= to_end) {
                    store_pairs<L>(p, low, high);
                } else {
                    T values[2 * L];
                    store_pairs<L>(values, low, high);
                    for (int i = 0; p + i < to_end; ++i) p[i] = values[i];
                }
            }
        }
    }
}

template <class T>
void stride2_rank_mean_backward(const RankMean& a, int64_t begin, int64_t end) {
    if (stride2_side(a.geometry) == 2) return stride2_backward<T, 2, 0>(a, begin, end);
    a.geometry.axis[2].padding ? stride2_backward<T, 3, 1>(a, begin, end) : stride2_backward<T, 3, 0>(a, begin, end);
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
