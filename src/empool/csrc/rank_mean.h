// rank_mean: the expectation over ranks, sum over r of w_r a(r), and its gradient.
//
// Forward: the R largest values, by min and max alone (equal values need no order here); products are summed in rank
// order in the compute type and rounded once. Work is split as for rank_draw. Backward: every window gives w_r times
// its gradient to its activation of rank r. A unit is a tile of input positions of a block of planes, whose sums are
// held in the compute type while all windows that touch the tile pass in ascending order.
#pragma once

#include "halving_mean.h"
#include "windows.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// The weights of windows with n activations, in the compute type.
template <class C>
struct Weights {
    C* value = nullptr;
    int count = 0, n = -1;

    void set(const RankMean& a, int taps) {
        if (taps == n) return;
        n = taps;
        count = static_cast<int>(a.R < n ? a.R : n);
        value = scratch<C, 12>(a.R);
        for (int r = 0; r < count; ++r) value[r] = static_cast<C>(a.weights[a.row[taps] * a.R + r]);
        while (count > 0 && !(value[count - 1] > 0)) --count;
    }
};

template <class T, class I>
__attribute__((noinline)) void mean_nan(const Window<T, I>& w) {
    for (int64_t c = 0; c < w.count; ++c) {
        for (int k = w.taps.n - 1; k >= 0; --k) {
            const T* p = w.in + w.taps.offset[k] + c;
            const Compute<T> value = load_one(p);
            if (value != value) {
                w.out[c] = *p;
                break;
            }
        }
    }
}

// One weight; `copy` if it is 1 and the value is to be kept bit for bit.
template <int N, class T, class I>
void mean_of_one(const Window<T, I>& w, Compute<T> weight, bool copy) {
    using V = Vec<Compute<T>, lanes<T>>;
    const int n = N ? N : w.taps.n;
    const TapPointers<N, T> tap(w.in, w.taps);
    Vec<Int<Compute<T>>, lanes<T>> nan{};
    for_lanes<lanes<T>>(w.count, [&](int64_t c) EMPOOL_LAMBDA {
        V best = load<lanes<T>>(tap.in(0) + c), sum = best;
        repeat<N, 1>(n, [&](int k) EMPOOL_LAMBDA {
            const V v = load<lanes<T>>(tap.in(k) + c);
            best = larger(v, best);
            sum += v;
        });
        nan |= sum != sum;
        if (copy) {
            store_exact<lanes<T>>(w.out + c, best);
        } else {
            store<lanes<T>>(w.out + c, V{} + weight * best);
        }
    });
    if (any(nan)) mean_nan(w);
}

// Two weights, the second greater than 0; n >= 2.
template <int N, class T, class I>
void mean_of_two(const Window<T, I>& w, const Compute<T>* weights) {
    using V = Vec<Compute<T>, lanes<T>>;
    const int n = N ? N : w.taps.n;
    const Compute<T> w0 = weights[0], w1 = weights[1];
    const TapPointers<N, T> tap(w.in, w.taps);
    Vec<Int<Compute<T>>, lanes<T>> nan{};
    for_lanes<lanes<T>>(w.count, [&](int64_t c) EMPOOL_LAMBDA {
        const V v0 = load<lanes<T>>(tap.in(0) + c), v1 = load<lanes<T>>(tap.in(1) + c);
        V first = larger(v1, v0), second = smaller(v1, v0), sum = v0 + v1;
        if constexpr (N == 4) {
            const V v2 = load<lanes<T>>(tap.in(2) + c), v3 = load<lanes<T>>(tap.in(3) + c);
            const V high = larger(v3, v2), low = smaller(v3, v2);
            sum += v2 + v3;
            second = larger(smaller(first, high), larger(second, low));
            first = larger(first, high);
        } else {
            repeat<N, 2>(n, [&](int k) EMPOOL_LAMBDA {
                const V v = load<lanes<T>>(tap.in(k) + c);
                second = larger(smaller(v, first), second);
                first = larger(v, first);
                sum += v;
            });
        }
        nan |= sum != sum;
        V mean{};
        if (w0 > 0) mean += w0 * first;
        mean += w1 * second;
        store<lanes<T>>(w.out + c, mean);
    });
    if (any(nan)) mean_nan(w);
}

// Any weights. `held` has room for `weights.count` vectors.
template <class T, class I>
void mean_of_many(const Window<T, I>& w, const Weights<Compute<T>>& weights, Vec<Compute<T>, lanes<T>>* held) {
    using V = Vec<Compute<T>, lanes<T>>;
    const int n = w.taps.n, M = weights.count;
    Vec<Int<Compute<T>>, lanes<T>> nan{};
    for_lanes<lanes<T>>(w.count, [&](int64_t c) {
        V sum{};
        for (int k = 0; k < n; ++k) {
            V v = load<lanes<T>>(w.in + w.taps.offset[k] + c);
            sum += v;
            const int size = k < M ? k : M;
            for (int m = 0; m < size; ++m) {
                const V value = held[m];
                held[m] = larger(v, value);
                v = smaller(v, value);
            }
            if (size < M) held[size] = v;
        }
        nan |= sum != sum;
        V mean{};
        for (int m = 0; m < M; ++m) {
            if (weights.value[m] > 0) mean += weights.value[m] * held[m];
        }
        store<lanes<T>>(w.out + c, mean);
    });
    if (any(nan)) mean_nan(w);
}

template <class T, class I>
EMPOOL_NOINLINE void mean_window(const Window<T, I>& w, const Weights<Compute<T>>& weights, bool copy,
                                 Vec<Compute<T>, lanes<T>>* held) {
    if (w.taps.n == 0) {
        for (int64_t c = 0; c < w.count; ++c) w.out[c] = round_one<T>(-__builtin_inf());
        return;
    }
    if (weights.count == 1) {
        if (w.taps.n == 4) return mean_of_one<4>(w, weights.value[0], copy);
        if (w.taps.n == 9) return mean_of_one<9>(w, weights.value[0], copy);
        return mean_of_one<0>(w, weights.value[0], copy);
    }
    if (weights.count == 2) {
        if (w.taps.n == 4) return mean_of_two<4>(w, weights.value);
        if (w.taps.n == 6) return mean_of_two<6>(w, weights.value);
        if (w.taps.n == 9) return mean_of_two<9>(w, weights.value);
        return mean_of_two<0>(w, weights.value);
    }
    mean_of_many(w, weights, held);
}

template <class T>
Units rank_mean_units(const RankMean& a) {
    return halving_means(a) ? halving_units(a.geometry) : lane_units<T>(a.geometry);
}

template <class T>
void rank_mean(const RankMean& a, int64_t begin, int64_t end) {
    if (halving_means(a)) return halving_rank_mean<T>(a, begin, end);
    auto* held = scratch<Vec<Compute<T>, lanes<T>>, 6>(a.R);
    Weights<Compute<T>> weights;
    for_windows<T, uint8_t>(a.geometry, nullptr, 0, static_cast<const T*>(a.input), static_cast<T*>(a.output), nullptr,
                            begin, end, [&](const Window<T, uint8_t>& w) {
                                weights.set(a, w.taps.n);
                                mean_window(w, weights, a.maximum, held);
                            });
}

template <class T>
EMPOOL_INLINE Tiling mean_backward_tiling(const Geometry& g) {
    return Tiling(g.axis[0].in, g.axis[1].in, g.axis[2].in, lanes<T>, 2 * sizeof(Compute<T>),
                  [&](const Box& box) { return outputs_of(g, box); });
}

template <class T>
Units rank_mean_backward_units(const RankMean& a) {
    const Tiling tiling = mean_backward_tiling<T>(a.geometry);
    return {plane_blocks(a.geometry, lanes<T>) * tiling.tiles(),
            lanes<T> * tiling.tile[0] * tiling.tile[1] * tiling.tile[2] * a.geometry.window()};
}

// Adds what one window gives to `sums`, which lie as the window's inputs do.
template <class T>
EMPOOL_NOINLINE void mean_backward_window(const T* in, const Taps& taps, const Weights<Compute<T>>& weights,
                                          const T* grad_output, Compute<T>* sums, void* held) {
    using C = Compute<T>;
    using V = Vec<C, lanes<T>>;
    using O = Vec<Int<C>, lanes<T>>;
    const int M = weights.count;
    V* values = static_cast<V*>(held);
    O* taken = static_cast<O*>(held) + M;
    O last_nan = fill<O>(-1);
    for (int k = 0; k < taps.n; ++k) {
        const V v = load<lanes<T>>(in + taps.offset[k]);
        const O tap = fill<O>(k);
        last_nan = v != v ? tap : last_nan;
        V carry = v;
        O carry_tap = tap;
        const int size = k < M ? k : M;
        for (int m = 0; m < size; ++m) {
            const O greater = v > values[m];
            const V value = values[m];
            const O at = taken[m];
            values[m] = greater ? carry : value;
            taken[m] = greater ? carry_tap : at;
            carry = greater ? value : carry;
            carry_tap = greater ? at : carry_tap;
        }
        if (size < M) {
            values[size] = carry;
            taken[size] = carry_tap;
        }
    }
    const V grad = load<lanes<T>>(grad_output);
    const O nan = last_nan >= 0;
    for (int m = 0; m < M; ++m) {
        if (!(weights.value[m] > 0)) continue;
        const V part = weights.value[m] * grad;
        for (int lane = 0; lane < lanes<T>; ++lane) {
            if (!nan[lane]) sums[taps.offset[taken[m][lane]] + lane] += part[lane];
        }
    }
    if (any(nan)) {
        for (int lane = 0; lane < lanes<T>; ++lane) {
            if (nan[lane]) sums[taps.offset[last_nan[lane]] + lane] += grad[lane];
        }
    }
}

template <class T>
void rank_mean_backward(const RankMean& a, int64_t begin, int64_t end) {
    using C = Compute<T>;
    const Geometry& g = a.geometry;
    const Tiling tiling = mean_backward_tiling<T>(g);
    void* held = scratch<Vec<C, lanes<T>>, 6>(2 * a.R);
    Weights<C> weights;
    for (int64_t unit = begin; unit < end; ++unit) {
        const PlaneBlock block(g, unit / tiling.tiles(), lanes<T>);
        const Box tile = tiling.box(unit % tiling.tiles()), outputs = outputs_of(g, tile);
        Box inputs = inputs_of(g, outputs);
        if (outputs.positions() == 0) inputs = tile;
        // The windows' inputs need not contain the tile (a stride may skip positions), so the sums cover both.
        for (int i = 0; i < 3; ++i) {
            const int64_t first = inputs.origin[i] < tile.origin[i] ? inputs.origin[i] : tile.origin[i];
            const int64_t end_inputs = inputs.origin[i] + inputs.size[i], end_tile = tile.origin[i] + tile.size[i];
            inputs.origin[i] = first;
            inputs.size[i] = (end_inputs > end_tile ? end_inputs : end_tile) - first;
        }
        T* in = scratch<T, 3>(inputs.positions() * lanes<T>);
        T* grad = scratch<T, 4>(outputs.positions() * lanes<T>);
        C* sums = scratch<C, 5>(inputs.positions() * lanes<T>);
        T* rounded = scratch<T, 13>(tile.positions() * lanes<T>);
        interleave<lanes<T>>(g, static_cast<const T*>(a.input), whole_input(g, 1), block, inputs, in);
        interleave<lanes<T>>(g, static_cast<const T*>(a.grad_output), whole_output(g, 1), block, outputs, grad);
        for (int64_t i = 0; i < inputs.positions() * lanes<T>; ++i) sums[i] = 0;
        RowWindows windows(g, inputs);
        for_rows(
            outputs, [&](int64_t od, int64_t oh) { windows.set_row(od, oh); },
            [&](int64_t od, int64_t oh, int64_t first, int64_t last) {
                for (int64_t ow = first; ow < last; ++ow) {
                    int64_t base;
                    const Taps taps = windows.at(ow, base);
                    if (taps.n == 0) continue;
                    weights.set(a, taps.n);
                    mean_backward_window(in + base, taps, weights, grad + outputs.offset(od, oh, ow), sums + base,
                                         held);
                }
            });
        for (int64_t d = 0, at = 0; d < tile.size[0]; ++d) {
            for (int64_t h = 0; h < tile.size[1]; ++h) {
                for (int64_t w = 0; w < tile.size[2]; ++w, at += lanes<T>) {
                    const C* sum = sums + inputs.offset(tile.origin[0] + d, tile.origin[1] + h, tile.origin[2] + w);
                    store<lanes<T>>(rounded + at, load<lanes<T>>(sum));
                }
            }
        }
        deinterleave<lanes<T>>(g, static_cast<T*>(a.output), whole_input(g, 1), block, tile,
                               static_cast<const T*>(rounded));
    }
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
