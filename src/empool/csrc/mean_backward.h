// The gradients of means: every window gives a share of its gradient to each of its activations.
//
// A unit is a tile of input positions of a block of planes, whose sums are held in the compute type while all windows
// that touch the tile pass in ascending order, so that they are added in that order whatever the tiles.
#pragma once

#include "rank_mean.h"
#include "small_planes_backward.h"
#include "stride2_backward.h"
#include "stride2_value.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// One window, and where its activations' gradients are summed, for `count` lanes.
template <class T>
struct BackwardWindow {
    const T* in;
    const int64_t* in_offset;
    const T* grad_output;
    Compute<T>* sums;
    const int64_t* sum_offset;
    int n;
    int64_t count, channel;

    BackwardWindow at(int64_t c) const {
        return {in + c, in_offset, grad_output + c, sums + c, sum_offset, n, lanes<T>, channel + c};
    }
};

// Whether channels fill the lanes where they lie, with none left over: a sum must not be added to twice.
template <class T>
EMPOOL_INLINE bool backward_in_place(const Geometry& g) {
    return in_place(g, lanes<T>) && g.C % lanes<T> == 0;
}

// Channels that a unit sums at once, where they lie in place.
template <class T>
EMPOOL_INLINE int64_t backward_channels(const Geometry& g) {
    const int64_t most = 256 / sizeof(Compute<T>);
    return !backward_in_place<T>(g) ? lanes<T> : g.C % most == 0 ? most : lanes<T>;
}

template <class T>
EMPOOL_INLINE Tiling mean_backward_tiling(const Geometry& g) {
    // What lies in place needs no room; the sums should stay in the first cache.
    return Tiling(g.axis[0].in, g.axis[1].in, g.axis[2].in, backward_channels<T>(g),
                  (backward_in_place<T>(g) ? 4 : 2) * sizeof(Compute<T>),
                  [&](const Box& box) { return outputs_of(g, box); });
}

template <class T>
Units mean_backward_units(const Geometry& g) {
    const Tiling tiling = mean_backward_tiling<T>(g);
    const int64_t channels = backward_channels<T>(g);
    return {plane_blocks(g, static_cast<int>(channels)) * tiling.tiles(),
            channels * tiling.tile[0] * tiling.tile[1] * tiling.tile[2] * g.window()};
}

// Visits the windows of units [begin, end), after set_block(block) where a new block of planes begins.
template <class T, class SetBlock, class Visit>
EMPOOL_INLINE void for_backward_windows(const Geometry& g, const T* input, const T* grad_output, T* grad_input,
                                        int64_t begin, int64_t end, const SetBlock& set_block, const Visit& visit) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    const Tiling tiling = mean_backward_tiling<T>(g);
    const bool placed = backward_in_place<T>(g);
    const int64_t S = tiling.step;  // lanes of a position
    for (int64_t unit = begin; unit < end; ++unit) {
        const PlaneBlock block(g, unit / tiling.tiles(), static_cast<int>(S));
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
        C* sums = scratch<C, Buffer::sums>(inputs.positions() * S);
        for (int64_t i = 0; i < inputs.positions() * S; ++i) sums[i] = 0;
        if (unit == begin || unit % tiling.tiles() == 0) set_block(block);
        RowWindows<Buffer::sum_offsets> sum_windows(g, inputs);
        const T *in = input + g.plane(block.first, g.in_size()),
                *grad = grad_output + g.plane(block.first, g.out_size());
        if (!placed) {
            T* in_tile = scratch<T, Buffer::input>(inputs.positions() * L);
            T* grad_tile = scratch<T, Buffer::gradient>(outputs.positions() * L);
            interleave<L>(g, input, whole_input(g, 1), block, inputs, in_tile);
            interleave<L>(g, grad_output, whole_output(g, 1), block, outputs, grad_tile);
            in = in_tile;
            grad = grad_tile;
        }
        RowWindows<> in_windows(g, placed ? whole_input(g, g.C) : inputs);
        const Box from = placed ? whole_output(g, g.C) : outputs;
        for_rows(
            outputs,
            [&](int64_t od, int64_t oh) {
                in_windows.set_row(od, oh);
                sum_windows.set_row(od, oh);
            },
            [&](int64_t od, int64_t oh, int64_t first, int64_t last) {
                if (placed) in_windows.prefetch_below(in, first, last - first);
                for (int64_t ow = first; ow < last; ++ow) {
                    int64_t in_base, sum_base;
                    const Taps taps = in_windows.at(ow, in_base), to = sum_windows.at(ow, sum_base);
                    if (taps.n == 0) continue;
                    visit(BackwardWindow<T>{in + in_base, taps.offset, grad + from.offset(od, oh, ow), sums + sum_base,
                                            to.offset, taps.n, S, placed ? block.first % g.C : 0});
                }
            });
        T* rounded =
            placed ? grad_input + g.plane(block.first, g.in_size()) : scratch<T, Buffer::output>(tile.positions() * L);
        const Box into = placed ? whole_input(g, g.C) : tile;
        for (int64_t d = tile.origin[0]; d < tile.origin[0] + tile.size[0]; ++d) {
            for (int64_t h = tile.origin[1]; h < tile.origin[1] + tile.size[1]; ++h) {
                const C* sum = sums + inputs.offset(d, h, tile.origin[2]);
                T* to = rounded + into.offset(d, h, tile.origin[2]);
                for (int64_t w = 0; w < tile.size[2]; ++w, sum += S, to += into.step) {
                    for (int64_t c = 0; c < S; c += L) store<L>(to + c, load<L>(sum + c));
                }
            }
        }
        if (!placed) deinterleave<L>(g, grad_input, whole_input(g, 1), block, tile, static_cast<const T*>(rounded));
    }
}

// Adds to an activation's sum where there is something to add: what a share of 0 multiplies may be infinite.
template <class C, int L>
EMPOOL_INLINE void give(C* sum, Vec<C, L> share, Vec<C, L> grad) {
    store_raw(sum, add_where(unequal(share, Vec<C, L>{}), load_raw<Vec<C, L>>(sum), share * grad));
}

// The gradient of windows with a NaN goes to the last one, all of it; other lanes keep theirs.
template <class T>
EMPOOL_NOINLINE Vec<Compute<T>, lanes<T>> give_to_nan(const BackwardWindow<T>& w, Vec<Compute<T>, lanes<T>> grad) {
    for (int lane = 0; lane < lanes<T>; ++lane) {
        for (int k = w.n - 1; k >= 0; --k) {
            const Compute<T> value = load_one(w.in + w.in_offset[k] + lane);
            if (value == value) continue;
            w.sums[w.sum_offset[k] + lane] += grad[lane];
            grad[lane] = 0;
            break;
        }
    }
    return grad;
}

// Windows of N activations.
template <int N, class T, class Shares>
EMPOOL_INLINE void rank_backward_of_few(const BackwardWindow<T>& w, const Shares& shares) {
    constexpr int L = lanes<T>;
    Vec<Compute<T>, L> v[N], part[N];
    repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA { v[k] = load<L>(w.in + w.in_offset[k]); });
    parts_of<N, T, true>(v, load<L>(w.grad_output), shares, w.channel, part);
    repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA {
        auto* sum = w.sums + w.sum_offset[k];
        store_raw(sum, load_raw<Vec<Compute<T>, L>>(sum) + part[k]);
    });
}

// One or two weights: the two largest are tracked.
template <class T, class Shares>
EMPOOL_INLINE void rank_backward_of_two(const BackwardWindow<T>& w, const Shares& shares) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    using O = Vec<Int<C>, L>;
    const int n = w.n;
    const C low = -static_cast<C>(__builtin_inf());
    V first = load<L>(w.in + w.in_offset[0]), second = fill<V>(low), sum = first;
    O first_tap{}, second_tap = fill<O>(-1);
    for (int k = 1; k < n; ++k) {
        const V v = load<L>(w.in + w.in_offset[k]);
        const O tap = fill<O>(k);
        sum += v;
        const auto passes_first = greater(v, first), passes_second = greater(v, second) | equal<C>(second_tap, -1);
        second_tap = select(passes_first, first_tap, select(passes_second, tap, second_tap));
        second = select(passes_first, first, select(passes_second, v, second));
        first_tap = select(passes_first, tap, first_tap);
        first = select(passes_first, v, first);
    }
    V grad = load<L>(w.grad_output);
    if (any(unordered(sum, sum))) grad = give_to_nan(w, grad);
    const V weight0 = shares.at(0, w.channel), weight1 = shares.columns > 1 ? shares.at(1, w.channel) : V{};
    for (int k = 0; k < n; ++k) {
        const V share = select(equal<C>(first_tap, k), weight0, select(equal<C>(second_tap, k), weight1, V{}));
        give<C, L>(w.sums + w.sum_offset[k], share, grad);
    }
}

// Any weights, by insertion. `held` has room for two vectors a column.
template <class T, class Shares>
EMPOOL_INLINE void rank_backward_of_many(const BackwardWindow<T>& w, const Shares& shares, void* held) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    using O = Vec<Int<C>, L>;
    const int n = w.n, M = shares.columns < n ? shares.columns : n;
    V *values = static_cast<V*>(held), sum{};
    O* taken = static_cast<O*>(held) + M;
    for (int k = 0; k < n; ++k) {
        const V v = load<L>(w.in + w.in_offset[k]);
        V carry = v;
        O carry_tap = fill<O>(k);
        sum += v;
        const int size = k < M ? k : M;
        for (int m = 0; m < size; ++m) {
            const auto passes = greater(v, values[m]);
            const V value = values[m];
            const O at = taken[m];
            values[m] = select(passes, carry, value);
            taken[m] = select(passes, carry_tap, at);
            carry = select(passes, value, carry);
            carry_tap = select(passes, at, carry_tap);
        }
        if (size < M) {
            values[size] = carry;
            taken[size] = carry_tap;
        }
    }
    V grad = load<L>(w.grad_output);
    if (any(unordered(sum, sum))) grad = give_to_nan(w, grad);
    for (int m = 0; m < M; ++m) {
        const V weight = shares.at(m, w.channel), part = weight * grad;
        for (int lane = 0; lane < L; ++lane) {
            if (weight[lane] != 0) w.sums[w.sum_offset[taken[m][lane]] + lane] += part[lane];
        }
    }
}

template <class T, class Shares>
EMPOOL_NOINLINE void rank_backward_window(const BackwardWindow<T>& w, const Shares& shares, void* held) {
    for (int64_t c = 0; c < w.count; c += lanes<T>) {
        const auto at = w.at(c);
        if (w.n == 4) {
            rank_backward_of_few<4>(at, shares);
        } else if (w.n == 6) {
            rank_backward_of_few<6>(at, shares);
        } else if (w.n == 9) {
            rank_backward_of_few<9>(at, shares);
        } else if (shares.columns <= 2) {
            rank_backward_of_two(at, shares);
        } else {
            rank_backward_of_many(at, shares, held);
        }
    }
}

template <class T, bool by_lane>
void rank_mean_backward_as(const RankMean& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    void* held = scratch<Vec<Compute<T>, lanes<T>>, Buffer::ranked>(2 * a.weights.columns);
    LaneTable<double, Buffer::table> weights(a.weights, backward_in_place<T>(g), lanes<T>);
    int n = 0;
    RankShares<T, by_lane> shares(weights.row(0), weights.columns(), weights.step());
    for_backward_windows<T>(
        g, static_cast<const T*>(a.input), static_cast<const T*>(a.grad_output), static_cast<T*>(a.output), begin, end,
        [&](const PlaneBlock& block) { weights.set_block(g, block); },
        [&](const BackwardWindow<T>& w) {
            if (w.n != n) {
                n = w.n;
                shares = RankShares<T, by_lane>(weights.row(n), weights.columns(), weights.step());
            }
            rank_backward_window(w, shares, held);
        });
}

template <class T>
void rank_mean_backward_windows(const RankMean& a, int64_t begin, int64_t end) {
    a.weights.sets > 1 ? rank_mean_backward_as<T, true>(a, begin, end) : rank_mean_backward_as<T, false>(a, begin, end);
}

template <class T>
constexpr Strategy<RankMean> rank_mean_backward[] = {
    // Rows shorter than a vector are better off as planes side by side.
    {[](const RankMean& a) { return a.geometry.axis[2].out >= lanes<T> && stride2_means(a); },
     [](const RankMean& a) { return stride2_units(a.geometry); }, stride2_rank_mean_backward<T>},
    {[](const RankMean& a) { return serves_channels<T>(a.geometry); },
     [](const RankMean& a) { return channel_strip_units(a.geometry); }, rank_backward_of_channels<T>},
    {[](const RankMean& a) { return small_planes<T>(a.geometry, a.weights.sets); },
     [](const RankMean& a) { return small_plane_units<T>(a.geometry); }, rank_backward_of_small_planes<T>},
    {[](const RankMean&) { return true; }, [](const RankMean& a) { return mean_backward_units<T>(a.geometry); },
     rank_mean_backward_windows<T>},
};

// The weights' gradient: a unit is a block of planes, each of which has sums of its own.
template <class T>
void rank_mean_weight_grad_windows(const RankMeanWeightGrad& a, int64_t begin, int64_t end) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    const Geometry& g = a.geometry;
    const Tiling tiling(g.axis[0].out, g.axis[1].out, g.axis[2].out, L, sizeof(T),
                        [&](const Box& box) { return inputs_of(g, box); });
    V* held = scratch<V, Buffer::ranked>(a.columns);
    using Wide = Vec<double, L>;
    Wide* sums = scratch<Wide, Buffer::sums>(a.rows * a.columns);
    for (int64_t unit = begin; unit < end; ++unit) {
        const PlaneBlock block(g, unit, L);
        for (int64_t i = 0; i < a.rows * a.columns; ++i) sums[i] = Wide{};
        for (int64_t index = 0; index < tiling.tiles(); ++index) {
            const Box outputs = tiling.box(index), inputs = inputs_of(g, outputs);
            T* in = scratch<T, Buffer::input>(inputs.positions() * L);
            T* grads = scratch<T, Buffer::gradient>(outputs.positions() * L);
            interleave<L>(g, static_cast<const T*>(a.input), whole_input(g, 1), block, inputs, in);
            interleave<L>(g, static_cast<const T*>(a.grad_output), whole_output(g, 1), block, outputs, grads);
            RowWindows<> windows(g, inputs);
            for_rows(
                outputs, [&](int64_t od, int64_t oh) { windows.set_row(od, oh); },
                [&](int64_t od, int64_t oh, int64_t first, int64_t last) {
                    for (int64_t ow = first; ow < last; ++ow) {
                        int64_t base;
                        const Taps taps = windows.at(ow, base);
                        const int M = static_cast<int>(a.columns < taps.n ? a.columns : taps.n);
                        V total{};
                        for (int k = 0; k < taps.n; ++k) {
                            V v = load<L>(in + base + taps.offset[k]);
                            total += v != v ? v : V{};
                            const int size = k < M ? k : M;
                            for (int m = 0; m < size; ++m) {
                                const V value = held[m];
                                held[m] = larger(v, value);
                                v = smaller(v, value);
                            }
                            if (size < M) held[size] = v;
                        }
                        // A window with a NaN, whose output no weight changes, adds nothing.
                        const auto grad = __builtin_convertvector(load<L>(grads + outputs.offset(od, oh, ow)), Wide);
                        const auto served = __builtin_convertvector(total == total, Vec<int64_t, L>);
                        Wide* to = sums + a.row[taps.n] * a.columns;
                        for (int m = 0; m < M; ++m) {
                            to[m] += served ? grad * __builtin_convertvector(held[m], Wide) : Wide{};
                        }
                    }
                });
        }
        for (int64_t i = 0; i < a.rows * a.columns; ++i) {
            for (int l = 0; l < block.used; ++l) a.sums[block.plane(l) * a.rows * a.columns + i] = sums[i][l];
        }
    }
}

template <class T>
constexpr Strategy<RankMeanWeightGrad> rank_mean_weight_grad[] = {
    {[](const RankMeanWeightGrad&) { return true; },
     [](const RankMeanWeightGrad& a) {
         return Units{plane_blocks(a.geometry, lanes<T>), lanes<T> * a.geometry.out_size() * a.geometry.window()};
     },
     rank_mean_weight_grad_windows<T>},
};

// `held` has room for a vector for each activation.
template <class T>
EMPOOL_NOINLINE void value_backward_window(const BackwardWindow<T>& window, const Beta<T>& beta,
                                           Vec<Compute<T>, lanes<T>>* held) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    for (int64_t c = 0; c < window.count; c += L) {
        const auto w = window.at(c);
        const auto tap = [&](int k) EMPOOL_LAMBDA { return load<L>(w.in + w.in_offset[k]); };
        const V grad = load<L>(w.grad_output);
        if (beta.none()) {
            const auto mean = positive_mean<C, L, 0>(w.n, tap);
            for (int k = 0; k < w.n; ++k) {
                give<C, L>(w.sums + w.sum_offset[k], positive_slope<C, L>(tap(k), mean), grad);
            }
            continue;
        }
        const V factor = beta.at(w.channel);
        const auto [mean, total] = soft_mean<C, L, 0>(w.n, tap, factor, held);
        for (int k = 0; k < w.n; ++k) {
            give<C, L>(w.sums + w.sum_offset[k], soft_slope<C, L>(held[k], tap(k), factor, mean, total), grad);
        }
    }
}

template <class T>
void value_mean_backward_windows(const ValueMean& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    auto* held = scratch<Vec<Compute<T>, lanes<T>>, Buffer::ranked>(g.window());
    LaneTable<double, Buffer::table> betas(a.beta, backward_in_place<T>(g), lanes<T>);
    for_backward_windows<T>(
        g, static_cast<const T*>(a.input), static_cast<const T*>(a.grad_output), static_cast<T*>(a.output), begin, end,
        [&](const PlaneBlock& block) { betas.set_block(g, block); },
        [&](const BackwardWindow<T>& w) { value_backward_window(w, Beta<T>(betas, 0), held); });
}

template <class T>
constexpr Strategy<ValueMean> value_mean_backward[] = {
    {[](const ValueMean& a) { return !a.geometry.channels_last && stride2_values<T>(a); },
     [](const ValueMean& a) { return stride2_units(a.geometry); }, stride2_value_mean_backward<T>},
    {[](const ValueMean& a) { return serves_channels<T>(a.geometry); },
     [](const ValueMean& a) { return channel_strip_units(a.geometry); }, value_backward_of_channels<T>},
    {[](const ValueMean& a) { return sizeof(Compute<T>) == 4 && small_planes<T>(a.geometry, a.beta.sets); },
     [](const ValueMean& a) { return small_plane_units<T>(a.geometry); }, value_backward_of_small_planes<T>},
    {[](const ValueMean&) { return true; }, [](const ValueMean& a) { return mean_backward_units<T>(a.geometry); },
     value_mean_backward_windows<T>},
};

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
