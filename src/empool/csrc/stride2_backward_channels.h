// The gradients of means for 2x2 and 3x3 windows with stride 2 where channels are neighbours in memory.
//
// Counted from the padding, output (i, j) reads rows 2i .. 2i + 2 and columns 2j .. 2j + 2 (3x3). What it gives to its
// nine taps is added up as outputs pass, row by row: rows 2i and 2i + 1 are then complete but for column 2j + 2, which
// the next output shares (`next_`), and row 2i + 2, which the next row does (`below_`). Sums take windows in ascending
// order. A tap that lies in the padding receives nothing, and what is given to it goes to a row that nobody reads.
#pragma once

#include "backward_window.h"
#include "stride2.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// At least eight rows, since a strip ranks a row of windows again that the one before has ranked.
EMPOOL_INLINE Strips channel_strips(const Geometry& g) {
    const int64_t row = g.axis[2].out * g.C, rows = 16384 / (row > 0 ? row : 1);
    return Strips(g.axis[1].out, rows < 8 ? 8 : rows);
}

EMPOOL_INLINE Units channel_strip_units(const Geometry& g) {
    const Strips strips = channel_strips(g);
    return {g.N * strips.count, 2 * strips.strip * g.axis[2].in * g.C};
}

// What windows with n activations give, for the channels of an image.
template <class T, bool by_lane>
class RankChannels {
  public:
    using Shares = RankShares<T, by_lane>;
    explicit RankChannels(const RankMean& a) : weights_(a.weights, true, lanes<T>) {}
    Shares of(int n) const { return Shares(weights_.row(n), weights_.columns(), weights_.step()); }

  private:
    LaneTable<double, Buffer::table> weights_;
};

template <class T, bool soft>
class ValueChannels {
  public:
    using Shares = ValueShares<T, soft>;
    explicit ValueChannels(const ValueMean& a) : betas_(a.beta, true, lanes<T>) {}
    Shares of(int) const { return Shares(Beta<T>(betas_, 0)); }

  private:
    LaneTable<double, Buffer::table> betas_;
};

// `known` is the number of channels if the compiler is to know it: planes side by side in the cache; or 0.
template <class T, int side, class Channels, class Mean, int known = 0>
class ChannelGradients {
    using C = Compute<T>;
    static constexpr int L = lanes<T>, taps = side * side;
    using V = Vec<C, L>;

  public:
    explicit ChannelGradients(const Mean& a)
        : a_(a),
          g_(a.geometry),
          H_(g_.axis[1]),
          W_(g_.axis[2]),
          channels_(a),
          shares_(channels_.of(0)),
          below_(scratch<C, Buffer::sums>((2 * W_.out + 1) * count())),
          next_(scratch<C, Buffer::ranked>(side * count())),
          sink_(scratch<T, Buffer::output>(count())) {}

    void set_image(int64_t n) {
        in_ = static_cast<const T*>(a_.input) + n * g_.in_size() * count();
        grad_ = static_cast<const T*>(a_.grad_output) + n * g_.out_size() * count();
        out_ = static_cast<T*>(a_.output) + n * g_.in_size() * count();
        clear(below_, (2 * W_.out + 1) * count());
    }

    // One row of outputs; the input's rows that it completes are stored if asked for.
    void pass(int64_t oh, bool store) {
        clear(next_, side * count());
        T* row[2] = {row_of(H_.start(oh), store), row_of(H_.start(oh) + 1, store)};
        for (int64_t ow = 0; ow < W_.out; ++ow) {
            const int64_t x = W_.start(ow);
            const Target to = {at(row[0], x), at(row[0], x + 1), at(row[1], x), at(row[1], x + 1),
                               below_ + 2 * ow * count()};
            visit(oh, ow, to);
        }
        const int64_t x = W_.start(W_.out);
        if (side == 3) {
            C* below = below_ + 2 * W_.out * count();
            T *to0 = at(row[0], x), *to1 = at(row[1], x);
            for (int64_t c = 0; c < count(); c += L) {
                store_rounded(to0 + c, load_raw<V>(below + c) + load_raw<V>(next_ + c));
                store_rounded(to1 + c, load_raw<V>(next_ + count() + c));
                store_raw(below + c, load_raw<V>(next_ + 2 * count() + c));
            }
        }
        for (T* to : row) clear_from(to, x + (side == 3));
    }

    // The rows after those of the last output.
    void finish() {
        int64_t ih = H_.start(H_.out);
        if (side == 3 && ih < H_.in) {
            T* row = row_of(ih, true);
            for (int64_t column = 0; column <= 2 * W_.out; ++column) {
                T* to = at(row, column - W_.padding);
                for (int64_t c = 0; c < count(); c += L)
                    store_rounded(to + c, load_raw<V>(below_ + column * count() + c));
            }
            clear_from(row, W_.start(W_.out) + 1);
            ++ih;
        }
        for (; ih < H_.in; ++ih) clear_from(row_of(ih, true), 0);
    }

  private:
    EMPOOL_INLINE int64_t count() const { return known ? known : g_.C; }

    // The two columns of rows 2i and 2i + 1, and of row 2i + 2.
    struct Target {
        T *even0, *odd0, *even1, *odd1;
        C* below;
    };

    template <class E>
    static void clear(E* p, int64_t count) {
        for (int64_t i = 0; i < count; ++i) p[i] = E{};
    }
    static EMPOOL_INLINE void store_rounded(T* p, V v) { store<L>(p, v); }

    T* row_of(int64_t ih, bool store) const {
        return store && ih >= 0 && ih < H_.in ? out_ + ih * W_.in * count() : nullptr;
    }
    EMPOOL_INLINE T* at(T* row, int64_t iw) const { return row && iw >= 0 && iw < W_.in ? row + iw * count() : sink_; }
    void clear_from(T* row, int64_t iw) const {
        if (row && iw < W_.in) clear(row + iw * count(), (W_.in - iw) * count());
    }

    EMPOOL_INLINE void visit(int64_t oh, int64_t ow, const Target& to) {
        const int64_t ih0 = H_.start(oh), iw0 = W_.start(ow);
        const T* grad = grad_ + (oh * W_.out + ow) * count();
        if (ih0 >= 0 && ih0 + side <= H_.in && iw0 >= 0 && iw0 + side <= W_.in) {
            if (n_ != taps) set_count(taps);
            return give_all<taps>(in_ + (ih0 * W_.in + iw0) * count(), nullptr, nullptr, grad, to);
        }
        const T* in[taps];
        int place[taps], n = 0;
        for (int k = 0; k < taps; ++k) {
            const int64_t ih = ih0 + k / side, iw = iw0 + k % side;
            if (ih < 0 || ih >= H_.in || iw < 0 || iw >= W_.in) continue;
            in[n] = in_ + (ih * W_.in + iw) * count();
            place[n++] = k;
        }
        if (n != n_) set_count(n);
        if constexpr (side == 3) {
            if (n == 6) return give_all<6>(nullptr, in, place, grad, to);
            if (n == 4) return give_all<4>(nullptr, in, place, grad, to);
            if (n == 3) return give_all<3>(nullptr, in, place, grad, to);
        }
        if (n == 2) return give_all<2>(nullptr, in, place, grad, to);
        give_all<1>(nullptr, in, place, grad, to);
    }

    void set_count(int n) {
        n_ = n;
        shares_ = channels_.of(n);
    }

    // A window whose taps are all valid is given by the first; of others, all valid ones and their places are given.
    template <int N>
    EMPOOL_NOINLINE void give_all(const T* first, const T* const* tap, const int* place, const T* grad,
                                  const Target& target) {
        const Target to = target;
        const T* in[N];
        const int64_t row = W_.in * count();
        repeat<N, 0>(
            N, [&](int k) EMPOOL_LAMBDA { in[k] = N == taps ? first + k / side * row + k % side * count() : tap[k]; });
        const typename Channels::Shares shares = shares_;
        C *const next = next_, *const next1 = next_ + count(), *const next2 = next_ + 2 * count();
        C* const below1 = to.below + count();
        const int64_t ahead = 2 * W_.in * count();
        for (int64_t c = 0; c < count(); c += L) {
            V v[N], part[N], given[taps];
            if constexpr (N == taps && known == 0) {
                // What the window below reads and writes for the first time.
                repeat<taps, taps - 2 * side>(taps, [&](int k) EMPOOL_LAMBDA {
                    if (k % side < 2) prefetch(in[k] + c, ahead);
                });
                for (T* p : {to.even0, to.odd0, to.even1, to.odd1}) prefetch<true>(p + c, ahead);
            }
            repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA { v[k] = load<L>(in[k] + c); });
            shares.template parts<N>(v, load<L>(grad + c), c, part);
            if constexpr (N == taps) {
                repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA { given[k] = part[k]; });
            } else {
                for (V& p : given) p = V{};
                for (int k = 0; k < N; ++k) given[place[k]] = part[k];
            }
            const V zero{};  // Sums begin with it, so that none is -0.
            if constexpr (side == 2) {
                store_rounded(to.even0 + c, zero + given[0]);
                store_rounded(to.odd0 + c, zero + given[1]);
                store_rounded(to.even1 + c, zero + given[2]);
                store_rounded(to.odd1 + c, zero + given[3]);
            } else {
                store_rounded(to.even0 + c, load_raw<V>(to.below + c) + load_raw<V>(next + c) + given[0]);
                store_rounded(to.odd0 + c, load_raw<V>(below1 + c) + given[1]);
                store_rounded(to.even1 + c, load_raw<V>(next1 + c) + given[3]);
                store_rounded(to.odd1 + c, zero + given[4]);
                store_raw(to.below + c, load_raw<V>(next2 + c) + given[6]);
                store_raw(below1 + c, zero + given[7]);
                store_raw(next + c, given[2]);
                store_raw(next1 + c, zero + given[5]);
                store_raw(next2 + c, zero + given[8]);
            }
        }
    }

    const Mean& a_;
    const Geometry& g_;
    const Axis &H_, &W_;
    const Channels channels_;
    typename Channels::Shares shares_;
    int n_ = 0;
    C *below_, *next_;
    T* sink_;
    const T *in_ = nullptr, *grad_ = nullptr;
    T* out_ = nullptr;
};

template <class T, int side, class Channels, class Mean>
void backward_of_channels_as(const Mean& a, int64_t begin, int64_t end) {
    const Strips strips = channel_strips(a.geometry);
    ChannelGradients<T, side, Channels, Mean> gradients(a);
    for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t first = strips.first(unit), last = strips.last(unit);
        if (unit == begin || first == 0) {
            gradients.set_image(unit / strips.count);
            if (side == 3 && first > 0) gradients.pass(first - 1, false);
        }
        for (int64_t oh = first; oh < last; ++oh) gradients.pass(oh, true);
        if (last == a.geometry.axis[1].out) gradients.finish();
    }
}

template <class T, class Channels, class Mean>
void backward_of_channels_by(const Mean& a, int64_t begin, int64_t end) {
    (stride2_side(a.geometry) == 2 ? backward_of_channels_as<T, 2, Channels, Mean>
                                   : backward_of_channels_as<T, 3, Channels, Mean>)(a, begin, end);
}

template <class T>
void rank_backward_of_channels(const RankMean& a, int64_t begin, int64_t end) {
    (a.weights.sets > 1 ? backward_of_channels_by<T, RankChannels<T, true>, RankMean>
                        : backward_of_channels_by<T, RankChannels<T, false>, RankMean>)(a, begin, end);
}

template <class T>
void value_backward_of_channels(const ValueMean& a, int64_t begin, int64_t end) {
    (a.beta.value ? backward_of_channels_by<T, ValueChannels<T, true>, ValueMean>
                  : backward_of_channels_by<T, ValueChannels<T, false>, ValueMean>)(a, begin, end);
}

template <class T>
bool serves_channels(const Geometry& g) {
    return stride2_side(g) != 0 && g.channels_last && g.C >= lanes<T> && g.C % lanes<T> == 0 &&
           for_counts(g, [](int64_t n) { return n > 0; });
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
