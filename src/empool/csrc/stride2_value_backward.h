// value_mean_backward for 2x2 and 3x3 windows with stride 2, in either layout; stride2_value.h has the formulas.
//
// Output rows pass in ascending order, and a row of the input's gradient follows as soon as its last window has passed.
// Windows whose sums leave the range give nothing to A and B; their gradients are added up on the side.
#pragma once

#include "stride2_value.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

template <class T, int side, bool soft>
class ValueGradients {
    using C = Compute<T>;
    static constexpr int L = lanes<T>, taps = side * side;
    using V = Vec<C, L>;

  public:
    explicit ValueGradients(const ValueMean& a)
        : a_(a),
          g_(a.geometry),
          H_(g_.axis[1]),
          W_(g_.axis[2]),
          shape_(g_),
          rows_(a),
          shares_(shape_.out + 3 * L),
          means_(shape_.out + 3 * L),
          both_(2 * (shape_.out + 3 * L)) {
        in_end_ = static_cast<const T*>(a.input) + shape_.planes * H_.in * shape_.in;
        grad_end_ = static_cast<const T*>(a.grad_output) + shape_.planes * H_.out * shape_.out;
    }

    void set_plane(int64_t plane, int64_t first_output) {
        in_ = static_cast<const T*>(a_.input) + plane * H_.in * shape_.in;
        grad_ = static_cast<const T*>(a_.grad_output) + plane * H_.out * shape_.out;
        rows_.set_plane(plane);
        made_ = first_output;
    }

    // The rows [first, last) of the input are next.
    void set_rows(int64_t first, int64_t last) {
        aside_first_ = first;
        aside_last_ = last;
        has_aside_ = false;
    }

    bool has_aside() const { return has_aside_; }

    // The gradient of row ih; nothing is stored at or past `end`.
    void store_row(int64_t ih, T* to, T* end) {
        int64_t oh, last;
        H_.outputs(ih, oh, last);
        for (; made_ < last; ++made_) make(made_);
        // Tap 2 of a row, where there is one, and tap 0; or tap 1.
        const C *share = shares_.zeros(), *mean = means_.zeros();
        if (last - oh == 1) {
            share = shares_.at(oh);
            mean = means_.at(oh);
        } else if (last - oh == 2) {
            add_rows(shares_.at(oh), shares_.at(oh + 1), both_.at(0));
            add_rows(means_.at(oh), means_.at(oh + 1), both_.at(1));
            share = both_.at(0);
            mean = both_.at(1);
        }
        const C* aside = has_aside_ ? aside_ + (ih - aside_first_) * shape_.in : nullptr;
        g_.channels_last ? store_channels(ih, share, mean, aside, to) : store_plane(ih, share, mean, aside, to, end);
    }

  private:
    void make(int64_t oh) {
        rows_.make(oh);
        const typename ValueRows<T, side, soft>::Outputs outputs(rows_, oh);
        C *share = shares_.at(oh), *mean = means_.at(oh);
        const T* grad = grad_ + oh * shape_.out;
        for (int64_t i = 0; i < shape_.out; i += L) {
            const int64_t count = shape_.out - i < L ? shape_.out - i : L;
            const auto [sum, total] = outputs.at(i);
            prefetch(grad + i, shape_.out);
            const V gradient = load_until(grad + i, grad_end_);
            V g = gradient / (soft ? total : total == 0 ? fill<V>(C(1)) : total);
            if (!soft) g = total == 0 ? V{} : g;
            V h = g * (sum / (soft ? total : total == 0 ? fill<V>(C(1)) : total));
            auto near = is_near<soft>(total, sum) & (g - g == 0) & (h - h == 0);
            const auto asked = iota<Vec<Int<C>, L>>() < static_cast<Int<C>>(count);
            if (any(~near & asked)) put_aside(oh, i, count, gradient, near);
            near &= asked;
            store_raw(share + i, near ? g : V{});
            store_raw(mean + i, near ? h : V{});
        }
    }

    template <class Near>
    EMPOOL_NOINLINE void put_aside(int64_t oh, int64_t i, int64_t count, V gradient, Near near) {
        if (!has_aside_) {
            has_aside_ = true;
            const int64_t size = (aside_last_ - aside_first_) * shape_.in + 2 * L;
            aside_ = scratch<C, Buffer::spare>(size);
            for (int64_t j = 0; j < size; ++j) aside_[j] = 0;
        }
        V slope[taps];
        int64_t at[taps][L];
        rows_.any_mean(oh, i, count, slope, at);
        for (int k = 0; k < taps; ++k) {
            for (int l = 0; l < count; ++l) {
                const int64_t to = at[k][l] - aside_first_ * shape_.in;
                if (near[l] || slope[k][l] == 0 || at[k][l] < 0 || to < 0) continue;
                if (at[k][l] < aside_last_ * shape_.in) aside_[to] += slope[k][l] * gradient[l];
            }
        }
    }

    EMPOOL_INLINE void add_rows(const C* a, const C* b, C* to) const {
        for (int64_t i = -L; i < shape_.out + L; i += L) store_raw(to + i, load_raw<V>(a + i) + load_raw<V>(b + i));
    }

    static EMPOOL_INLINE V load_until(const T* p, const T* end) {
        if (p + L <= end) return load<L>(p);
        T values[L] = {};
        for (int i = 0; p + i < end; ++i) values[i] = p[i];
        return load<L>(values);
    }

    EMPOOL_INLINE V gradient_of(V a, V weight, V beta, V share, V mean) const {
        V slope;
        if constexpr (soft) {
            slope = weight * ((1 + beta * a) * share - beta * mean);
        } else {
            slope = a > 0 ? 2 * a * share - mean : V{};
        }
        // What no trusted window covers may be infinite or a NaN.
        return (share == 0) & (mean == 0) ? V{} : slope;
    }

    void store_channels(int64_t ih, const C* share, const C* mean, const C* aside, T* to) const {
        const C* weight = rows_.weights(ih);
        const T* in = in_ + ih * shape_.in;
        for (int64_t iw = 0; iw < W_.in; ++iw) {
            const int64_t x = iw + W_.padding, odd = x & 1, ow[2] = {x / 2, side == 3 && !odd ? x / 2 - 1 : -1};
            const C *s[2], *m[2];
            for (int j = 0; j < 2; ++j) {
                const bool inside = ow[j] >= 0 && ow[j] < W_.out;
                s[j] = inside ? share + ow[j] * shape_.inner : shares_.zeros();
                m[j] = inside ? mean + ow[j] * shape_.inner : means_.zeros();
            }
            const int64_t from = iw * shape_.inner;
            const auto body = [&](int64_t c, V total, V by_mean) EMPOOL_LAMBDA {
                prefetch<true>(to + from + c, shape_.in);
                const V beta = soft ? rows_.beta(from + c) : V{};
                V result = gradient_of(load<L>(in + from + c), soft ? load_raw<V>(weight + from + c) : V{}, beta, total,
                                       by_mean);
                if (aside) result += load_raw<V>(aside + from + c);
                store<L>(to + from + c, result);
            };
            if (ow[1] < 0) {
                for_lanes<L>(shape_.inner,
                             [&](int64_t c) EMPOOL_LAMBDA { body(c, load_raw<V>(s[0] + c), load_raw<V>(m[0] + c)); });
            } else {
                for_lanes<L>(shape_.inner, [&](int64_t c) EMPOOL_LAMBDA {
                    body(c, load_raw<V>(s[1] + c) + load_raw<V>(s[0] + c),
                         load_raw<V>(m[1] + c) + load_raw<V>(m[0] + c));
                });
            }
        }
    }

    void store_plane(int64_t ih, const C* share, const C* mean, const C* aside, T* to, T* end) const {
        const C* weight = rows_.weights(ih);
        const T* in = in_ + ih * shape_.in;
        const V beta = soft ? rows_.beta(0) : V{};
        for (int64_t j = 0; j < (W_.in + 1) / 2; j += L) {
            const int64_t even = j + W_.padding;
            const auto at_even = [&](const C* p) EMPOOL_LAMBDA {
                const V tap0 = load_raw<V>(p + even);
                return side == 3 ? load_raw<V>(p + even - 1) + tap0 : tap0;
            };
            V a[2], w[2] = {}, s[2], m[2];
            if (in + 2 * j + 2 * L <= in_end_) {
                load_pairs<L>(in + 2 * j, a[0], a[1]);
            } else {
                T values[2 * L] = {};
                for (int i = 0; in + 2 * j + i < in_end_; ++i) values[i] = in[2 * j + i];
                load_pairs<L>(values, a[0], a[1]);
            }
            if (soft) {
                const V low = load_raw<V>(weight + 2 * j), high = load_raw<V>(weight + 2 * j + L);
                w[0] = unzip<0>(low, high);
                w[1] = unzip<1>(low, high);
            }
            // With padding, pairs start at an odd position.
            const int odd = W_.padding ? 0 : 1;
            s[odd] = load_raw<V>(share + j);
            m[odd] = load_raw<V>(mean + j);
            s[1 - odd] = at_even(share);
            m[1 - odd] = at_even(mean);
            V result[2];
            for (int i = 0; i < 2; ++i) result[i] = gradient_of(a[i], w[i], beta, s[i], m[i]);
            if (aside) {
                const V low = load_raw<V>(aside + 2 * j), high = load_raw<V>(aside + 2 * j + L);
                result[0] += unzip<0>(low, high);
                result[1] += unzip<1>(low, high);
            }
            for (V& r : result) r = rounded(r);
            T* p = to + 2 * j;
            if (p + 2 * L <= end) {
                store_pairs<L>(p, result[0], result[1]);
            } else {
                T values[2 * L];
                store_pairs<L>(values, result[0], result[1]);
                for (int i = 0; p + i < end; ++i) p[i] = values[i];
            }
        }
    }

    // To T and back, a NaN too.
    static EMPOOL_INLINE V rounded(V v) {
        if constexpr (sizeof(T) == 2) return widen<L>(narrow<L>(v, T{}), T{});
        return v;
    }

    const ValueMean& a_;
    const Geometry& g_;
    const Axis &H_, &W_;
    const RowShape shape_;
    ValueRows<T, side, soft> rows_;
    RowRing<C, Buffer::gradient> shares_;
    RowRing<C, Buffer::output> means_;
    RowRing<C, Buffer::bases> both_;
    C* aside_ = nullptr;
    int64_t aside_first_ = 0, aside_last_ = 0, made_ = 0;
    bool has_aside_ = false;
    const T *in_ = nullptr, *grad_ = nullptr, *in_end_, *grad_end_;
};

template <class T, int side, bool soft>
void stride2_value_backward_as(const ValueMean& a, int64_t begin, int64_t end) {
    const Axis& H = a.geometry.axis[1];
    const RowShape shape(a.geometry);
    const Strips strips = value_strips(a.geometry);
    ValueGradients<T, side, soft> gradients(a);
    // The input's rows that a strip of outputs ends before: the last strip takes the rest.
    const auto rows_before = [&](int64_t unit, int64_t output) {
        if (output == 0) return int64_t(0);
        return unit % strips.count + 1 == strips.count && output == H.out ? H.in : 2 * output - H.padding;
    };
    T* const out = static_cast<T*>(a.output);
    T* const to_end = out + ((end - 1) / strips.count * H.in + rows_before(end - 1, strips.last(end - 1))) * shape.in;
    for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t plane = unit / strips.count, first = strips.first(unit), last = strips.last(unit);
        if (unit == begin || first == 0 || gradients.has_aside()) {
            gradients.set_plane(plane, side == 3 && first > 0 ? first - 1 : first);
        }
        const int64_t from = rows_before(unit, first), until = rows_before(unit, last);
        gradients.set_rows(from, until);
        for (int64_t ih = from; ih < until; ++ih) {
            gradients.store_row(ih, out + (plane * H.in + ih) * shape.in, to_end);
        }
    }
}

template <class T>
void stride2_value_mean_backward(const ValueMean& a, int64_t begin, int64_t end) {
    if constexpr (sizeof(Compute<T>) == 4) {
        const bool two = stride2_side(a.geometry) == 2, soft = a.beta.value != nullptr;
        if (two) {
            return (soft ? stride2_value_backward_as<T, 2, true> : stride2_value_backward_as<T, 2, false>)(a, begin,
                                                                                                           end);
        }
        (soft ? stride2_value_backward_as<T, 3, true> : stride2_value_backward_as<T, 3, false>)(a, begin, end);
    }
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
