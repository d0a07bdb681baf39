// value_mean for 2x2 and 3x3 windows with stride 2, in either layout.
//
// With weight e of an activation a, the mean is S / T, where T sums e and S sums e * a over the window. Soft pooling's
// e is exp(beta * a): the largest of the window need not be known as long as T stays in range, so e belongs to the
// activation and windows share it. Every row of the input is weighed once and summed along the row; then outputs add
// the sums of their rows. A window whose sums leave the range goes through soft_mean or positive_mean, which take
// everything. A row is W * C positions long in channels-last, W in contiguous planes, where columns are unzipped.
#pragma once

#include "stride2.h"
#include "value_mean.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// Lanes that are neighbours in a row: channels of a position, or positions of a plane.
struct RowShape {
    int64_t inner, planes, in, out;  // elements between positions, rows' planes, elements of a row

    explicit RowShape(const Geometry& g)
        : inner(g.step()),
          planes(g.channels_last ? g.N : g.planes()),
          in(g.axis[2].in * inner),
          out(g.axis[2].out * inner) {}
};

template <class T>
bool stride2_values(const ValueMean& a) {
    const Geometry& g = a.geometry;
    // Rows shorter than a vector are better off as planes side by side.
    if (sizeof(Compute<T>) != 4 || stride2_side(g) == 0 || (g.channels_last ? g.C : g.axis[2].out) < lanes<T>) {
        return false;
    }
    return for_counts(g, [](int64_t n) { return n > 0; });
}

// At least eight rows, since a strip weighs rows that the one before has weighed too.
EMPOOL_INLINE Strips value_strips(const Geometry& g) {
    const RowShape row(g);
    const int64_t rows = 16384 / (row.out > 0 ? row.out : 1);
    return Strips(g.axis[1].out, rows < 8 ? 8 : rows);
}

EMPOOL_INLINE Units stride2_value_units(const Geometry& g) {
    const Strips strips = value_strips(g);
    return {RowShape(g).planes * strips.count, 2 * strips.strip * RowShape(g).in};
}

// A ring of rows of a kind; what lies beside them is 0.
template <class C, Buffer name>
class RowRing {
    static constexpr int64_t slots = 4, room = 2 * EMPOOL_LANES;

  public:
    explicit RowRing(int64_t length) : pitch_(length) {
        memory_ = scratch<C, name>((slots + 1) * pitch_ + 3 * room);
        for (int64_t i = 0; i < (slots + 1) * pitch_ + 3 * room; ++i) memory_[i] = 0;
    }
    EMPOOL_INLINE C* at(int64_t row) const { return memory_ + room + (row & (slots - 1)) * pitch_; }
    C* zeros() const { return memory_ + 2 * room + slots * pitch_; }

  private:
    int64_t pitch_;
    C* memory_;
};

template <class T, int side, bool soft>
class ValueRows {
    using C = Compute<T>;
    static constexpr int L = lanes<T>, taps = side * side;
    using V = Vec<C, L>;
    using O = Vec<Int<C>, L>;

  public:
    explicit ValueRows(const ValueMean& a)
        : a_(a),
          g_(a.geometry),
          H_(g_.axis[1]),
          W_(g_.axis[2]),
          shape_(g_),
          first_slot_(side == 3 ? H_.padding + 1 : 0),
          weights_(shape_.in),
          products_(shape_.in),
          totals_(shape_.out + 3 * L),
          sums_(shape_.out + 3 * L),
          by_position_(soft && g_.channels_last && a.beta.sets > 1) {
        if (!by_position_) return;
        betas_ = scratch<C, Buffer::table>(shape_.in + L);
        for (int64_t i = 0; i < shape_.in + L; ++i) betas_[i] = static_cast<C>(a.beta.value[i % g_.C]);
    }

    void set_plane(int64_t plane) {
        in_ = static_cast<const T*>(a_.input) + plane * H_.in * shape_.in;
        const int64_t channel = g_.channels_last || a_.beta.sets == 1 ? 0 : plane % g_.C;
        if (soft) beta_ = static_cast<C>(a_.beta.value[channel]);
        made_ = -1;
    }

    // Sums the rows that output row oh reads; rows ascend.
    EMPOOL_INLINE void make(int64_t oh) {
        int64_t first = H_.start(oh) < 0 ? 0 : H_.start(oh), last = H_.start(oh) + side;
        last = last < H_.in ? last : H_.in;
        first = first < made_ ? made_ : first;
        // Two rows, neighbours in the ring too, are one run.
        if (last > first) weigh(in_ + first * shape_.in, (last - first) * shape_.in, first);
        for (int64_t ih = first; ih < last; ++ih) g_.channels_last ? add_columns_of_channels(ih) : add_columns(ih);
        made_ = last > made_ ? last : made_;
    }

    // The sums of row oh's outputs from the i-th of the row on.
    class Outputs {
      public:
        EMPOOL_INLINE Outputs(const ValueRows& rows, int64_t oh) {
            for (int kh = 0; kh < side; ++kh) {
                const int64_t ih = rows.H_.start(oh) + kh;
                const bool inside = ih >= 0 && ih < rows.H_.in;
                total_[kh] = inside ? rows.totals_.at(ih) : rows.totals_.zeros();
                sum_[kh] = inside ? rows.sums_.at(ih) : rows.sums_.zeros();
            }
        }
        EMPOOL_INLINE ValueMeanOf<C, L> at(int64_t i) const {
            V total = load_raw<V>(total_[0] + i), sum = load_raw<V>(sum_[0] + i);
            for (int kh = 1; kh < side; ++kh) {
                total += load_raw<V>(total_[kh] + i);
                sum += load_raw<V>(sum_[kh] + i);
            }
            return {sum, total};
        }

      private:
        const C *total_[side], *sum_[side];
    };

    // The means of outputs, whatever their activations.
    EMPOOL_NOINLINE V any_mean(int64_t oh, int64_t i, int64_t count) const {
        V value[taps], beta{};
        O valid[taps];
        for (int l = 0; l < L; ++l) {
            const int64_t index = i + (l < count ? l : count - 1), ow = index / shape_.inner, c = index % shape_.inner;
            if (soft) beta[l] = by_position_ ? betas_[c] : beta_;
            for (int k = 0; k < taps; ++k) {
                const int64_t ih = H_.start(oh) + k / side, iw = W_.start(ow) + k % side;
                const bool inside = ih >= 0 && ih < H_.in && iw >= 0 && iw < W_.in;
                const int64_t from = inside ? ih * shape_.in + iw * shape_.inner + c : -1;
                value[k][l] = inside ? load_one(in_ + from) : C{};
                valid[k][l] = inside ? -1 : 0;
            }
        }
        const auto tap = [&](int k) { return value[k]; };
        if constexpr (!soft) {
            return positive_mean<C, L, taps>(taps, tap).mean;
        } else {
            V held[taps], largest = fill<V>(-static_cast<C>(__builtin_inf()));
            for (int k = 0; k < taps; ++k) {
                held[k] = valid[k] ? (beta == 0 ? V{} : beta * value[k]) : -static_cast<C>(__builtin_inf());
                largest = larger(held[k], largest);
            }
            return soft_mean_of_scores<C, L, taps>(taps, tap, held, largest).mean;
        }
    }

    EMPOOL_INLINE const C* weights(int64_t ih) const { return weights_.at(ih + first_slot_); }
    EMPOOL_INLINE V beta(int64_t i) const { return by_position_ ? load_raw<V>(betas_ + i) : fill<V>(beta_); }

  private:
    EMPOOL_INLINE void weigh(const T* from, int64_t count, int64_t ih) {
        C *weight = weights_.at(ih + first_slot_), *product = products_.at(ih + first_slot_);
        const auto step = [&](int64_t i, V a, int64_t position) EMPOOL_LAMBDA {
            if constexpr (soft) {
                const V e = exp2_near<T, L>(a, beta(position) * log2e);
                store_raw(weight + i, e);
                store_raw(product + i, e * a);
            } else {
                const V positive = larger(V{}, a);  // A NaN stays.
                store_raw(weight + i, positive);
                store_raw(product + i, positive * positive);
            }
        };
        if (!by_position_) {
            return for_lanes<L>(count, [&](int64_t i) EMPOOL_LAMBDA {
                prefetch(from + i, count);
                step(i, load<L>(from + i), 0);
            });
        }
        for (int64_t i = 0; i < count; i += shape_.in) {
            for_lanes<L>(shape_.in, [&](int64_t j) EMPOOL_LAMBDA { step(i + j, load<L>(from + i + j), j); });
        }
    }

    EMPOOL_INLINE void add_columns_of_channels(int64_t ih) {
        const C *weight = weights(ih), *product = products_.at(ih + first_slot_);
        C *total = totals_.at(ih), *sum = sums_.at(ih);
        for (int64_t ow = 0; ow < W_.out; ++ow) {
            const C *w[side], *p[side];
            for (int kw = 0; kw < side; ++kw) {
                const int64_t iw = W_.start(ow) + kw;
                const bool inside = iw >= 0 && iw < W_.in;
                w[kw] = inside ? weight + iw * shape_.inner : weights_.zeros();
                p[kw] = inside ? product + iw * shape_.inner : products_.zeros();
            }
            const int64_t to = ow * shape_.inner;
            for_lanes<L>(shape_.inner, [&](int64_t c) EMPOOL_LAMBDA {
                V t = load_raw<V>(w[0] + c), s = load_raw<V>(p[0] + c);
                repeat<side, 1>(side, [&](int kw) EMPOOL_LAMBDA {
                    t += load_raw<V>(w[kw] + c);
                    s += load_raw<V>(p[kw] + c);
                });
                store_raw(total + to + c, t);
                store_raw(sum + to + c, s);
            });
        }
    }

    EMPOOL_INLINE void add_columns(int64_t ih) {
        const C *weight = weights(ih) - W_.padding, *product = products_.at(ih + first_slot_) - W_.padding;
        C *total = totals_.at(ih), *sum = sums_.at(ih);
        const O lane = iota<O>();
        for (int64_t ow = 0; ow < W_.out; ow += L) {
            // Beside the row lie other rows.
            const bool at_first = ow == 0 && W_.padding, at_last = 2 * (ow + L) + side - 2 - W_.padding > W_.in;
            const auto add = [&](const C* p, C* to) EMPOOL_LAMBDA {
                p += 2 * ow;
                const V low = load_raw<V>(p), high = load_raw<V>(p + L);
                V column[3] = {unzip<0>(low, high), unzip<1>(low, high), V{}};
                if (side == 3) column[2] = unzip<0>(load_raw<V>(p + 2), load_raw<V>(p + 2 + L));
                if (at_first) column[0] = lane == 0 ? V{} : column[0];
                for (int kw = 0; at_last && kw < side; ++kw) {
                    // Columns kw - padding + 2 * (ow + lane) below W_.in.
                    const int64_t inside = (W_.in + W_.padding - kw + 1) / 2 - ow;
                    column[kw] = lane < static_cast<Int<C>>(inside) ? column[kw] : V{};
                }
                store_raw(to + ow, side == 3 ? column[0] + column[1] + column[2] : column[0] + column[1]);
            };
            add(weight, total);
            add(product, sum);
        }
    }

    const ValueMean& a_;
    const Geometry& g_;
    const Axis &H_, &W_;
    const RowShape shape_;
    const int64_t first_slot_;
    RowRing<C, Buffer::input> weights_;
    RowRing<C, Buffer::input_odd_rows> products_;
    RowRing<C, Buffer::sums> totals_;
    RowRing<C, Buffer::ranked> sums_;
    bool by_position_;
    C* betas_ = nullptr;
    C beta_{};
    const T* in_ = nullptr;
    int64_t made_ = -1;
};

// Whether all of the next `count` outputs' means may be trusted.
template <bool soft, class V>
EMPOOL_INLINE bool all_near(V sum, V total, int64_t count) {
    constexpr int L = size_of<V>;
    using O = decltype(sum == sum);
    const O far = ~is_near<soft>(total, sum);
    if (!any(far)) return true;
    return count < L && !any(far & (iota<O>() < static_cast<std::remove_cvref_t<decltype(far[0])>>(count)));
}

template <class T, int side, bool soft>
void stride2_value_mean_as(const ValueMean& a, int64_t begin, int64_t end) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    const Axis& H = a.geometry.axis[1];
    const RowShape shape(a.geometry);
    const Strips strips = value_strips(a.geometry);
    ValueRows<T, side, soft> rows(a);
    T* const out_end = static_cast<T*>(a.output) + strips.before(end) * shape.out;
    for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t plane = unit / strips.count, first = strips.first(unit), last = strips.last(unit);
        if (unit == begin || first == 0) rows.set_plane(plane);
        for (int64_t oh = first; oh < last; ++oh) {
            rows.make(oh);
            const typename ValueRows<T, side, soft>::Outputs outputs(rows, oh);
            T* to = static_cast<T*>(a.output) + (plane * H.out + oh) * shape.out;
            for (int64_t i = 0; i < shape.out; i += L) {
                const auto [sum, total] = outputs.at(i);
                V mean = sum / (soft ? total : total == 0 ? fill<V>(C(1)) : total);
                if (!all_near<soft>(sum, total, shape.out - i)) {
                    const int64_t count = shape.out - i < L ? shape.out - i : L;
                    mean = rows.any_mean(oh, i, count);
                }
                if (to + i + L <= out_end) {
                    store<L>(to + i, mean);
                } else {
                    T values[L];
                    store<L>(values, mean);
                    for (int l = 0; to + i + l < out_end; ++l) to[i + l] = values[l];
                }
            }
        }
    }
}

template <class T>
void stride2_value_mean(const ValueMean& a, int64_t begin, int64_t end) {
    if constexpr (sizeof(Compute<T>) == 4) {
        const bool two = stride2_side(a.geometry) == 2, soft = a.beta.value != nullptr;
        if (two) return (soft ? stride2_value_mean_as<T, 2, true> : stride2_value_mean_as<T, 2, false>)(a, begin, end);
        (soft ? stride2_value_mean_as<T, 3, true> : stride2_value_mean_as<T, 3, false>)(a, begin, end);
    }
}

template <class T>
constexpr Strategy<ValueMean> value_mean[] = {
    // In channels-last, windows without shared exponentials are read directly.
    {[](const ValueMean& a) {
         const bool shared = a.beta.value && stride2_side(a.geometry) == 3;
         return stride2_values<T>(a) && (shared || !a.geometry.channels_last);
     },
     [](const ValueMean& a) { return stride2_value_units(a.geometry); }, stride2_value_mean<T>},
    {[](const ValueMean&) { return true; }, [](const ValueMean& a) { return lane_units<T>(a.geometry); },
     value_mean_windows<T>},
};

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
