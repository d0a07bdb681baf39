// The gradients of means for 2x2 and 3x3 windows with stride 2 in contiguous planes (stride2.h).
//
// Lanes are neighbouring outputs. Counted from the padding, output (i, j) reads rows 2i .. 2i + 2 and columns 2j ..
// 2j + 2 (3x3). What outputs give to their taps is added up in registers, even and odd columns apart: column 2j + 2 is
// column 2j of the next lane, and row 2i + 2 waits for the next row of outputs in `below`. Sums take windows in
// ascending order.
//
// Padding is -inf, which comes after every activation but another -inf: where a vector's windows hold one, or a NaN,
// they are done with care, as are those that a way to share gradients does not serve.
#pragma once

#include "backward_window.h"
#include "stride2.h"
#include "stride2_mean.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// The lanes of v but the first, and then the first of `after`.
template <class V, int... i>
EMPOOL_INLINE V shift_out_at(V v, V after, std::integer_sequence<int, i...>) {
    return __builtin_shufflevector(v, after, (1 + i)...);
}
template <class V>
EMPOOL_INLINE V shift_out(V v, V after) {
    return shift_out_at(v, after, std::make_integer_sequence<int, size_of<V>>{});
}

// The last lane of `before`, and then those of v but the last.
template <class V, int... i>
EMPOOL_INLINE V shift_in_at(V before, V v, std::integer_sequence<int, i...>) {
    return __builtin_shufflevector(before, v, (size_of<V> - 1 + i)...);
}
template <class V>
EMPOOL_INLINE V shift_in(V before, V v) {
    return shift_in_at(before, v, std::make_integer_sequence<int, size_of<V>>{});
}

// How planes share gradients: set_plane, and row(valid, visit), which calls visit(shares) for a row of outputs whose
// windows have `valid` rows. Then parts(v, grad, ow, padded, part) does a vector of them and returns false where it
// does not serve; any_parts takes everything.
template <class T, int side>
class RankPlanes {
    using C = Compute<T>;
    static constexpr int L = lanes<T>, taps = side * side;
    using V = Vec<C, L>;
    using O = Vec<Int<C>, L>;

  public:
    explicit RankPlanes(const RankMean& a)
        : a_(a), W_(a.geometry.axis[2]), columns_(static_cast<int>(a.weights.columns)) {
        shares_ = scratch<C, Buffer::table>((taps + 1) * table_size);
    }

    void set_plane(int64_t plane) {
        const int64_t set = a_.weights.sets > 1 ? plane % a_.geometry.C : 0;
        if (set == set_) return;
        set_ = set;
        for (int64_t n = 1; n <= taps; ++n) {
            for (int64_t r = 0; r < table_size; ++r) {
                shares_[n * table_size + r] = r < columns_ && r < n ? static_cast<C>(a_.weights.at(n, r)[set]) : C{};
            }
        }
        for (int64_t rows = 1; rows <= side; ++rows) {
            edges_[rows][0] = edge_of(rows, 0);
            edges_[rows][1] = edge_of(rows, W_.out - 1);
        }
    }

    template <class Visit>
    EMPOOL_INLINE void row(int64_t valid, const Visit& visit) const {
        const C *inner = shares_ + valid * side * table_size, *first = edges_[valid][0], *last = edges_[valid][1];
        if (!first && !last) return visit(Shares{shares_, inner, columns_});
        visit(EdgeShares{{shares_, inner, columns_}, first ? first : inner, last ? last : inner, W_.out - 1});
    }

  private:
    // The weights of a window at a row's end, or null where they are those of the windows between, as far as they go.
    const C* edge_of(int64_t rows, int64_t ow) const {
        int64_t first, last;
        W_.taps(ow, first, last);
        const int64_t n = rows * (last - first);
        const C *share = shares_ + n * table_size, *inner = shares_ + rows * side * table_size;
        for (int64_t r = 0; r < n; ++r) {
            if (share[r] != inner[r]) return share;
        }
        return nullptr;
    }

    struct Shares {
        const C *all, *share;
        int columns;

        template <int N>
        EMPOOL_INLINE V of(O rank, int64_t) const {
            return look_up<C, L>(share, rank, columns);
        }
        EMPOOL_INLINE bool parts(const V (&v)[taps], V grad, int64_t ow, bool, V (&part)[taps]) const {
            parts_of<taps, T, false>(v, grad, *this, ow, part);
            return true;
        }
        EMPOOL_NOINLINE void any_parts(const V (&v)[taps], const O (&valid)[taps], V grad, V (&part)[taps]) const {
            for (V& p : part) p = V{};
            for (int lane = 0; lane < L; ++lane) {
                int code[taps], n = 0, nan = -1;
                for (int k = 0; k < taps; ++k) {
                    if (!valid[k][lane]) continue;
                    if (v[k][lane] != v[k][lane]) nan = k;
                    code[n++] = k;
                }
                for (int i = 0; i < n && nan < 0; ++i) {
                    const C value = v[code[i]][lane];
                    int rank = 0;
                    for (int j = 0; j < n; ++j) {
                        const C other = v[code[j]][lane];
                        rank += other > value || (other == value && j < i);
                    }
                    const C weight = all[n * table_size + rank];
                    part[code[i]][lane] = weight != 0 ? weight * grad[lane] : C{};
                }
                if (nan >= 0) part[nan][lane] = grad[lane];
            }
        }
    };

    struct EdgeShares : Shares {
        const C *first, *last;
        int64_t end;

        template <int N>
        EMPOOL_INLINE V of(O rank, int64_t ow) const {
            V found = look_up<C, L>(this->share, rank, this->columns);
            if (ow == 0) found = iota<O>() == 0 ? look_up<C, L>(first, rank, this->columns) : found;
            if (ow + L <= end) return found;
            return iota<O>() == static_cast<Int<C>>(end - ow) ? look_up<C, L>(last, rank, this->columns) : found;
        }
        EMPOOL_INLINE bool parts(const V (&v)[taps], V grad, int64_t ow, bool, V (&part)[taps]) const {
            parts_of<taps, T, false>(v, grad, *this, ow, part);
            return true;
        }
    };

    const RankMean& a_;
    const Axis& W_;
    int columns_;
    int64_t set_ = -1;
    C* shares_;
    const C* edges_[side + 1][2];
};

template <class T, int side, bool soft>
class ValuePlanes {
    static constexpr int L = lanes<T>, taps = side * side;
    using V = Vec<Compute<T>, L>;
    using O = Vec<Int<Compute<T>>, L>;

  public:
    explicit ValuePlanes(const ValueMean& a) : a_(a), shares_(Beta<T>(a.beta.value)) {}

    void set_plane(int64_t plane) {
        if (a_.beta.sets > 1) shares_ = Shares(Beta<T>(a_.beta.value + plane % a_.geometry.C));
    }

    template <class Visit>
    EMPOOL_INLINE void row(int64_t, const Visit& visit) const {
        visit(shares_);
    }

  private:
    struct Shares {
        ValueShares<T, soft> by_value;

        explicit Shares(const Beta<T>& beta) : by_value(beta) {}
        EMPOOL_INLINE bool parts(const V (&v)[taps], V grad, int64_t, bool padded, V (&part)[taps]) const {
            return padded ? by_value.template near_parts<taps, true>(v, grad, 0, part)
                          : by_value.template near_parts<taps, false>(v, grad, 0, part);
        }
        EMPOOL_INLINE void any_parts(const V (&v)[taps], const O (&valid)[taps], V grad, V (&part)[taps]) const {
            by_value.any_parts(v, valid, grad, 0, part);
        }
    };

    const ValueMean& a_;
    Shares shares_;
};

template <class T, int side, class Planes, class Mean>
class PlaneGradients {
    using C = Compute<T>;
    static constexpr int L = lanes<T>, taps = side * side;
    using V = Vec<C, L>;
    using O = Vec<Int<C>, L>;

  public:
    explicit PlaneGradients(const Mean& a)
        : a_(a),
          g_(a.geometry),
          H_(g_.axis[1]),
          W_(g_.axis[2]),
          planes_(a),
          shift_(side == 3 ? 1 - W_.padding : 0),
          right_cut_(W_.start(W_.out - 1) + side > W_.in),
          middle_cut_(side == 3 && W_.start(W_.out - 1) + 1 >= W_.in),
          length_((W_.out + L - 1) / L * L + L) {
        below_ = scratch<C, Buffer::sums>(2 * length_);
        // A row of padding, and room for rows that end where the input does.
        pitch_ = 2 * length_ + 1;
        edge_ = scratch<T, Buffer::input>((side + 1) * pitch_);
        for (int64_t i = 0; i < pitch_; ++i) edge_[i] = round_one<T>(-__builtin_inf());
        for (int64_t i = pitch_; i < (side + 1) * pitch_; ++i) edge_[i] = T{};
        in_end_ = static_cast<const T*>(a.input) + g_.planes() * g_.in_size();
        grad_end_ = static_cast<const T*>(a.grad_output) + g_.planes() * g_.out_size();
    }

    void set_plane(int64_t plane) {
        planes_.set_plane(plane);
        in_ = static_cast<const T*>(a_.input) + plane * g_.in_size();
        grad_ = static_cast<const T*>(a_.grad_output) + plane * g_.out_size();
        out_ = static_cast<T*>(a_.output) + plane * g_.in_size();
        for (int64_t i = 0; i < 2 * length_; ++i) below_[i] = 0;
    }

    // One row of outputs; the input's rows that it completes are stored if asked for.
    void pass(int64_t oh, bool store) {
        Rows rows;
        for (int kh = 0; kh < side; ++kh) rows.in[kh] = row_of(H_.start(oh) + kh, kh, rows.inside[kh]);
        for (int i = 0; i < 2; ++i) {
            const int64_t ih = H_.start(oh) + i;
            rows.out[i] = store && ih >= 0 && ih < H_.in ? out_ + ih * W_.in : nullptr;
        }
        planes_.row(valid_rows(H_, oh), [&](const auto& shares) EMPOOL_LAMBDA { add_row(oh, rows, shares); });
    }

    // The rows after those of the last output.
    void finish() {
        int64_t ih = H_.start(H_.out);
        if (side == 3 && ih < H_.in) {
            T* const to[2] = {out_ + ih * W_.in, nullptr};
            Pairs pairs;
            for (int64_t ow = 0; ow < length_; ow += L) {
                const V even = load_raw<V>(below_ + ow), odd = load_raw<V>(below_ + length_ + ow);
                store_columns(to, ow, {even, odd, even, odd}, pairs);
            }
            finish_row(to);
            ++ih;
        }
        for (; ih < H_.in; ++ih) {
            for (int64_t iw = 0; iw < W_.in; ++iw) out_[ih * W_.in + iw] = T{};
        }
    }

  private:
    struct Rows {
        const T* in[side];
        bool inside[side];
        T* out[2];
    };

    // The sums of rows 2i and 2i + 1, at even and at odd columns.
    struct Pairs {
        V even0{}, odd0{}, even1{}, odd1{};
    };

    // Row ih, from which whole vectors may be read.
    EMPOOL_INLINE const T* row_of(int64_t ih, int kh, bool& inside) {
        inside = ih >= 0 && ih < H_.in;
        if (!inside) return edge_;
        const T* row = in_ + ih * W_.in;
        if (row + pitch_ <= in_end_) return row;
        T* copy = edge_ + (kh + 1) * pitch_;
        for (int64_t iw = 0; iw < W_.in && iw < pitch_; ++iw) copy[iw] = row[iw];
        return copy;
    }

    template <class Shares>
    EMPOOL_INLINE void add_row(int64_t oh, const Rows& rows, const Shares& shares) {
        const V low = fill<V>(-static_cast<C>(__builtin_inf()));
        const T* grad = grad_ + oh * W_.out;
        V even[side], given[side] = {};  // of the vector before: the last taps, and what they receive
        bool with_care = false;          // whether a tap shared with the vector before is not an ordinary number
        const bool cut = valid_rows(H_, oh) < side;
        repeat<side, 0>(side, [&](int kh) EMPOOL_LAMBDA {
            even[kh] = low;
            if (side == 2 || W_.padding) return;
            const C value = load_one(rows.in[kh]);
            even[kh] = fill<V>(value);
            with_care |= rows.inside[kh] && !(value > low[0]);
        });
        Pairs pairs;
        int64_t ow = 0;
        for (; ow < W_.out; ow += L) {
            V v[taps], part[taps], sum{};
            repeat<side, 0>(side, [&](int kh) EMPOOL_LAMBDA {
                V one, two;
                load_pairs<L>(rows.in[kh] + shift_ + 2 * ow, one, two);
                if (rows.inside[kh]) sum += one + two;
                if (right_cut_ && ow + L >= W_.out) {
                    const O whole = iota<O>() < static_cast<Int<C>>(W_.out - 1 - ow);
                    two = whole ? two : low;
                    if (middle_cut_) one = whole ? one : low;
                }
                if constexpr (side == 2) {
                    v[2 * kh] = one;
                    v[2 * kh + 1] = two;
                } else {
                    v[3 * kh] = shift_in(even[kh], two);
                    v[3 * kh + 1] = one;
                    v[3 * kh + 2] = even[kh] = two;
                }
            });
            const bool special = any(~(sum > low));
            const bool padded = cut || (ow == 0 && W_.padding) || (right_cut_ && ow + L >= W_.out);
            const V gradient = gradient_at(grad + ow, W_.out - ow);
            if (special || with_care || !shares.parts(v, gradient, ow, padded, part)) {
                V value[taps], found[taps];  // Copies, so that all else stays in registers.
                O valid[taps];
                repeat<taps, 0>(taps, [&](int k) EMPOOL_LAMBDA { value[k] = v[k]; });
                find_valid(rows, ow, valid);
                shares.any_parts(value, valid, gradient, found);
                repeat<taps, 0>(taps, [&](int k) EMPOOL_LAMBDA { part[k] = found[k]; });
            }
            with_care = side == 3 && special;
            add(rows.out, ow, part, given, pairs);
        }
        // The column after those of the last output.
        const V none[taps] = {};
        if (side == 3) add(rows.out, ow, none, given, pairs);
        finish_row(rows.out);
    }

    // Adds what a vector of outputs gives to rows 2i and 2i + 1, which are then complete, and puts what it gives to row
    // 2i + 2 in `below`.
    EMPOOL_INLINE void add(T* const (&to)[2], int64_t ow, const V (&part)[taps], V (&given)[side], Pairs& pairs) {
        const V zero{};  // Sums begin with it, so that none is -0.
        if constexpr (side == 2) {
            store_columns(to, ow, {zero + part[0], zero + part[1], zero + part[2], zero + part[3]}, pairs);
        } else {
            C *below_even = below_ + ow, *below_odd = below_even + length_;
            V next[3], before[3];
            repeat<3, 0>(3, [&](int kh) EMPOOL_LAMBDA {
                next[kh] = zero + part[3 * kh + 2];
                before[kh] = shift_in(given[kh], next[kh]);
                given[kh] = next[kh];
            });
            const V even0 = load_raw<V>(below_even) + before[0] + part[0], odd0 = load_raw<V>(below_odd) + part[1];
            store_raw(below_even, before[2] + part[6]);
            store_raw(below_odd, zero + part[7]);
            store_columns(to, ow, {even0, odd0, before[1] + part[3], zero + part[4]}, pairs);
        }
    }

    // Stores columns 2j and 2j + 1, counted from the padding; with padding, the odd ones of the vector before come
    // with the even ones that follow them.
    EMPOOL_INLINE void store_columns(T* const (&to)[2], int64_t ow, const Pairs& now, Pairs& before) const {
        if (side == 2 || !W_.padding) {
            store_two(to[0], 2 * ow, now.even0, now.odd0);
            store_two(to[1], 2 * ow, now.even1, now.odd1);
            return;
        }
        if (ow > 0) {
            store_two(to[0], 2 * (ow - L), before.odd0, shift_out(before.even0, now.even0));
            store_two(to[1], 2 * (ow - L), before.odd1, shift_out(before.even1, now.even1));
        }
        before = now;
    }

    EMPOOL_INLINE void store_two(T* row, int64_t column, V a, V b) const {
        if (!row || column >= W_.in) return;
        prefetch<true>(row + column, 2 * W_.in);
        a = round_to<T, L>(a);
        b = round_to<T, L>(b);
        if (column + 2 * L <= W_.in) return store_pairs<L>(row + column, a, b);
        T values[2 * L];
        store_pairs<L>(values, a, b);
        copy_first(row + column, values, W_.in - column);
    }

    // The columns that no vector of outputs reaches.
    EMPOOL_INLINE void finish_row(T* const (&to)[2]) const {
        const int64_t done = 2 * (length_ - (side == 2 || W_.padding ? L : 0));
        for (T* row : to) {
            for (int64_t iw = done; row && iw < W_.in; ++iw) row[iw] = T{};
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

    // Which taps of the outputs from ow on lie in the input.
    EMPOOL_INLINE void find_valid(const Rows& rows, int64_t ow, O (&valid)[taps]) const {
        const O lane = iota<O>(), asked = lane < static_cast<Int<C>>(W_.out - ow);
        for (int k = 0; k < taps; ++k) {
            const O column = 2 * lane + static_cast<Int<C>>(2 * ow - W_.padding + k % side);
            valid[k] = rows.inside[k / side] ? asked & (column >= 0) & (column < static_cast<Int<C>>(W_.in)) : O{};
        }
    }

    const Mean& a_;
    const Geometry& g_;
    const Axis &H_, &W_;
    Planes planes_;
    int64_t shift_;  // from a row's start to the first pair of a middle (or first) tap and the tap after it
    bool right_cut_, middle_cut_;  // whether the last window has no last tap, and no middle one
    int64_t length_, pitch_;
    C* below_;
    T* edge_;
    const T *in_end_, *grad_end_, *in_ = nullptr, *grad_ = nullptr;
    T* out_ = nullptr;
};

template <class T, int side, class Planes, class Mean>
void stride2_backward_as(const Mean& a, int64_t begin, int64_t end) {
    const Strips strips = stride2_strips(a.geometry);
    PlaneGradients<T, side, Planes, Mean> gradients(a);
    for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t first = strips.first(unit), last = strips.last(unit);
        if (unit == begin || first == 0) {
            gradients.set_plane(unit / strips.count);
            if (side == 3 && first > 0) gradients.pass(first - 1, false);
        }
        for (int64_t oh = first; oh < last; ++oh) gradients.pass(oh, true);
        if (last == a.geometry.axis[1].out) gradients.finish();
    }
}

template <class T>
void stride2_rank_mean_backward(const RankMean& a, int64_t begin, int64_t end) {
    (stride2_side(a.geometry) == 2 ? stride2_backward_as<T, 2, RankPlanes<T, 2>, RankMean>
                                   : stride2_backward_as<T, 3, RankPlanes<T, 3>, RankMean>)(a, begin, end);
}

template <class T>
void stride2_value_mean_backward(const ValueMean& a, int64_t begin, int64_t end) {
    if (stride2_side(a.geometry) == 2) {
        return (a.beta.value ? stride2_backward_as<T, 2, ValuePlanes<T, 2, true>, ValueMean>
                             : stride2_backward_as<T, 2, ValuePlanes<T, 2, false>, ValueMean>)(a, begin, end);
    }
    (a.beta.value ? stride2_backward_as<T, 3, ValuePlanes<T, 3, true>, ValueMean>
                  : stride2_backward_as<T, 3, ValuePlanes<T, 3, false>, ValueMean>)(a, begin, end);
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
