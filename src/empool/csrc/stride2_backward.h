// rank_mean_backward for 2x2 and 3x3 windows with stride 2 in contiguous planes (stride2.h).
//
// Lanes are neighbouring outputs. Counted from the padding, output (i, j) reads rows 2i .. 2i + 2 and columns 2j ..
// 2j + 2 (3x3). What outputs give to their taps is added up row by row, even and odd columns apart: column 2j + 2 is
// column 2j of the next lane, and row 2i + 2 waits for the next row of outputs. Sums take windows in ascending order.
//
// Padding is -inf, which comes after every activation but another -inf: where a row holds one, or a NaN, its outputs
// are done one by one.
#pragma once

#include "backward_window.h"
#include "stride2.h"
#include "stride2_mean.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// The last lane of `before`, and then those of v but the last.
template <class V, int... i>
EMPOOL_INLINE V shift_in_at(V before, V v, std::integer_sequence<int, i...>) {
    return __builtin_shufflevector(before, v, (size_of<V> - 1 + i)...);
}
template <class V>
EMPOOL_INLINE V shift_in(V before, V v) {
    return shift_in_at(before, v, std::make_integer_sequence<int, size_of<V>>{});
}

template <class T, int side>
class PlaneGradients {
    using C = Compute<T>;
    static constexpr int L = lanes<T>, taps = side * side;
    using V = Vec<C, L>;
    using O = Vec<Int<C>, L>;

  public:
    PlaneGradients(const RankMean& a, int64_t strip, T* end)
        : a_(a),
          g_(a.geometry),
          H_(g_.axis[1]),
          W_(g_.axis[2]),
          split_(g_, strip),
          columns_(static_cast<int>(a.weights.columns)),
          end_(end) {
        const int64_t columns = (W_.in + 3) / 2, rounded = (W_.out / L + 1) * L;
        length_ = (columns > rounded ? columns : rounded) + 2 * L;
        sums_ = scratch<C, Buffer::sums>((6 + taps) * length_);
        for (int64_t i = 0; i < (6 + taps) * length_; ++i) sums_[i] = 0;
        grad_end_ = static_cast<const T*>(a.grad_output) + g_.planes() * g_.out_size();
        shares_ = scratch<C, Buffer::table>((taps + 1) * table_size);
    }

    void set_plane(int64_t plane) {
        in_ = static_cast<const T*>(a_.input) + plane * g_.in_size();
        grad_ = static_cast<const T*>(a_.grad_output) + plane * g_.out_size();
        out_ = static_cast<T*>(a_.output) + plane * g_.in_size();
        for (int64_t i = 0; i < 2 * length_; ++i) below(0)[i] = 0;
        const int64_t set = a_.weights.sets > 1 ? plane % g_.C : 0;
        if (set == set_) return;
        set_ = set;
        for (int64_t n = 1; n <= taps; ++n) {
            for (int64_t r = 0; r < table_size; ++r) {
                shares_[n * table_size + r] = r < columns_ && r < n ? static_cast<C>(a_.weights.at(n, r)[set]) : C{};
            }
        }
    }

    // The rows of outputs that `pass` will be asked for.
    void set_strip(int64_t first, int64_t last) { split_.set_strip(in_, first, last); }

    // One row of outputs; the input's rows that it completes are stored if asked for.
    void pass(int64_t oh, bool store) {
        const C *phase0[side], *phase1[side];
        if (split_.at(oh, phase0, phase1)) {
            for (int64_t ow = 0; ow < W_.out; ++ow) part_of_one(oh, ow);
            add_row([&](int64_t ow, V(&part)[taps]) EMPOOL_LAMBDA {
                repeat<taps, 0>(taps, [&](int k) EMPOOL_LAMBDA { part[k] = load_raw<V>(given(k) + ow); });
            });
        } else {
            const int64_t valid = valid_rows(H_, oh);
            const C* inner = shares_ + valid * side * table_size;
            const Edge first(*this, valid, 0), last(*this, valid, W_.out - 1);
            const T* grad = grad_ + oh * W_.out;
            const auto make = [&](int64_t ow, V(&part)[taps], const auto& share) EMPOOL_LAMBDA {
                V v[taps];
                repeat<taps, 0>(taps, [&](int k) EMPOOL_LAMBDA {
                    const int kh = k / side, kw = k % side;
                    v[k] = load_raw<V>(kw == 1 ? phase1[kh] + ow : phase0[kh] + ow + kw / 2);
                });
                parts_of<taps, T, false>(v, gradient_at(grad + ow, W_.out - ow), share, ow, part);
            };
            if (first.same && last.same) {
                const Shares share{inner, columns_};
                add_row([&](int64_t ow, V(&part)[taps]) EMPOOL_LAMBDA { make(ow, part, share); });
            } else {
                const EdgeShares share{inner, first.share, last.share, W_.out - 1, columns_};
                add_row([&](int64_t ow, V(&part)[taps]) EMPOOL_LAMBDA { make(ow, part, share); });
            }
        }
        for (int i = 0; i < 2; ++i) {
            const int64_t ih = H_.start(oh) + i;
            if (store && ih >= 0 && ih < H_.in) store_row(ih, sums_ + 2 * i * length_, sums_ + (2 * i + 1) * length_);
        }
    }

    // The rows after those of the last output.
    void finish() {
        int64_t ih = H_.start(H_.out);
        if (side == 3 && ih < H_.in) store_row(ih++, below(0), below(1));
        for (; ih < H_.in; ++ih) {
            for (int64_t iw = 0; iw < W_.in; ++iw) out_[ih * W_.in + iw] = T{};
        }
    }

  private:
    // The weights of a row's first or last window, and whether they are those of the windows between, as far as they
    // go.
    struct Edge {
        const C* share;
        bool same = true;

        Edge(const PlaneGradients& p, int64_t rows, int64_t ow) {
            int64_t first, last;
            p.W_.taps(ow, first, last);
            const int64_t n = rows * (last - first);
            share = p.shares_ + n * table_size;
            for (int64_t r = 0; r < n; ++r) same = same && share[r] == p.shares_[rows * side * table_size + r];
        }
    };

    struct Shares {
        const C* share;
        int columns;

        EMPOOL_INLINE V at(int r, int64_t) const { return fill<V>(share[r]); }
        template <int N>
        EMPOOL_INLINE V of(O rank, int64_t) const {
            return look_up<C, L>(share, rank, columns);
        }
    };

    struct EdgeShares {
        const C *share, *first, *last;
        int64_t end;
        int columns;

        template <class Of>
        EMPOOL_INLINE V chosen(int64_t ow, const Of& of) const {
            V found = of(share);
            if (ow == 0) found = iota<O>() == 0 ? of(first) : found;
            if (ow + L > end) found = iota<O>() == static_cast<Int<C>>(end - ow) ? of(last) : found;
            return found;
        }
        EMPOOL_INLINE V at(int r, int64_t ow) const {
            return chosen(ow, [&](const C* p) EMPOOL_LAMBDA { return fill<V>(p[r]); });
        }
        template <int N>
        EMPOOL_INLINE V of(O rank, int64_t ow) const {
            return chosen(ow, [&](const C* p) EMPOOL_LAMBDA { return look_up<C, L>(p, rank, columns); });
        }
    };

    // Adds a row's parts to rows 2i and 2i + 1, which are then complete, and puts those of row 2i + 2 in `below`.
    template <class Parts>
    EMPOOL_INLINE void add_row(const Parts& parts) {
        C *even0 = sums_, *odd0 = even0 + length_, *even1 = odd0 + length_, *odd1 = even1 + length_;
        C *even2 = below(0), *odd2 = below(1);
        V before[side] = {};
        const V zero{};  // Sums begin with it, so that none is -0.
        const auto add = [&](int64_t ow, const V(&part)[taps]) EMPOOL_LAMBDA {
            if constexpr (side == 2) {
                store_raw(even0 + ow, zero + part[0]);
                store_raw(odd0 + ow, zero + part[1]);
                store_raw(even1 + ow, zero + part[2]);
                store_raw(odd1 + ow, zero + part[3]);
            } else {
                V next[3];
                repeat<3, 0>(3, [&](int kh) EMPOOL_LAMBDA { next[kh] = zero + part[3 * kh + 2]; });
                store_raw(even0 + ow, load_raw<V>(even2 + ow) + shift_in(before[0], next[0]) + part[0]);
                store_raw(odd0 + ow, load_raw<V>(odd2 + ow) + part[1]);
                store_raw(even1 + ow, shift_in(before[1], next[1]) + part[3]);
                store_raw(odd1 + ow, zero + part[4]);
                store_raw(even2 + ow, shift_in(before[2], next[2]) + part[6]);
                store_raw(odd2 + ow, zero + part[7]);
                repeat<3, 0>(3, [&](int kh) EMPOOL_LAMBDA { before[kh] = next[kh]; });
            }
        };
        int64_t ow = 0;
        for (; ow < W_.out; ow += L) {
            V part[taps];
            parts(ow, part);
            add(ow, part);
        }
        // The column after those of the last output.
        const V none[taps] = {};
        if (side == 3 && ow == W_.out) add(ow, none);
    }

    void store_row(int64_t ih, const C* even, const C* odd) const {
        T* to = out_ + ih * W_.in;
        // With padding, pairs start at an odd position: (2j + 1, 2j + 2), else at an even one: (2j, 2j + 1).
        const C *low = W_.padding ? odd : even, *high = W_.padding ? even + 1 : odd;
        for (int64_t j = 0; j < (W_.in + 1) / 2; j += L) {
            const V a = round_to<T, L>(load_raw<V>(low + j)), b = round_to<T, L>(load_raw<V>(high + j));
            T* p = to + 2 * j;
            if (p + 2 * L <= end_) {
                store_pairs<L>(p, a, b);
            } else {
                T values[2 * L];
                store_pairs<L>(values, a, b);
                for (int i = 0; p + i < end_; ++i) p[i] = values[i];
            }
        }
    }

    // The gradients of the next outputs, 0 from the `count`-th on.
    EMPOOL_INLINE V gradient_at(const T* grad, int64_t count) const {
        if (count >= L) return load<L>(grad);
        const O valid = iota<O>() < static_cast<Int<C>>(count);
        if (grad + L <= grad_end_) return valid ? load<L>(grad) : V{};
        T values[L] = {};
        for (int64_t i = 0; i < count; ++i) values[i] = grad[i];
        return load<L>(values);
    }

    EMPOOL_INLINE C* below(int i) const { return sums_ + (4 + i) * length_; }
    EMPOOL_INLINE C* given(int k) const { return sums_ + (6 + k) * length_; }

    EMPOOL_NOINLINE void part_of_one(int64_t oh, int64_t ow) const {
        C value[taps];
        int code[taps], n = 0, nan = -1;
        for (int k = 0; k < taps; ++k) {
            const int64_t ih = H_.start(oh) + k / side, iw = W_.start(ow) + k % side;
            given(k)[ow] = 0;
            if (ih < 0 || ih >= H_.in || iw < 0 || iw >= W_.in) continue;
            value[n] = load_one(in_ + ih * W_.in + iw);
            if (value[n] != value[n]) nan = k;
            code[n++] = k;
        }
        const C grad = load_one(grad_ + oh * W_.out + ow);
        for (int i = 0; i < n && nan < 0; ++i) {
            int rank = 0;
            for (int j = 0; j < n; ++j) rank += value[j] > value[i] || (value[j] == value[i] && j < i);
            const C share = shares_[n * table_size + rank];
            given(code[i])[ow] = share != 0 ? share * grad : C{};
        }
        if (nan >= 0) given(nan)[ow] = grad;
    }

    const RankMean& a_;
    const Geometry& g_;
    const Axis &H_, &W_;
    SplitRows<T, side, true> split_;
    int columns_;
    T* end_;
    int64_t length_, set_ = -1;
    C *sums_, *shares_;  // four rows that are complete, two that wait, and what a row's outputs give to each tap
    const T *grad_end_, *in_ = nullptr, *grad_ = nullptr;
    T* out_ = nullptr;
};

template <class T, int side>
void stride2_backward(const RankMean& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    const Axis &H = g.axis[1], &W = g.axis[2];
    const Strips strips = stride2_strips(g);
    // The input's rows that a strip of outputs ends before: the last strip takes the rest.
    const int64_t last_output = strips.last(end - 1);
    const int64_t rows = last_output == H.out ? H.in : 2 * last_output - H.padding;
    T* const to_end = static_cast<T*>(a.output) + ((end - 1) / strips.count * H.in + rows) * W.in;
    PlaneGradients<T, side> gradients(a, strips.strip + 1, to_end);
    for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t first = strips.first(unit), last = strips.last(unit);
        const bool begins = unit == begin || first == 0, again = side == 3 && begins && first > 0;
        if (begins) gradients.set_plane(unit / strips.count);
        gradients.set_strip(again ? first - 1 : first, last);
        if (again) gradients.pass(first - 1, false);
        for (int64_t oh = first; oh < last; ++oh) gradients.pass(oh, true);
        if (last == H.out) gradients.finish();
    }
}

template <class T>
void stride2_rank_mean_backward(const RankMean& a, int64_t begin, int64_t end) {
    (stride2_side(a.geometry) == 2 ? stride2_backward<T, 2> : stride2_backward<T, 3>)(a, begin, end);
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
