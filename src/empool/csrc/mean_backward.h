// The gradients of means: every window gives a share of its gradient to each of its activations.
//
// A unit is a tile of input positions of a block of planes, whose sums are held in the compute type while all windows
// that touch the tile pass in ascending order, so that they are added in that order whatever the tiles. Where windows
// do not overlap there is nothing to add up: they write their gradients at once, and a unit is all of its planes.
#pragma once

#include "rank_mean.h"
#include "small_planes_backward.h"
#include "stride2_backward.h"
#include "stride2_value.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// One window, and where its activations' gradients are summed or (if `out` is set) written, for `count` lanes.
template <class T>
struct BackwardWindow {
    using C = Compute<T>;
    using V = Vec<C, lanes<T>>;
    const T* in;
    const int64_t* in_offset;
    const T* grad_output;
    C* sums;
    T* out;
    const int64_t* sum_offset;
    int n;
    int64_t count, channel;

    EMPOOL_INLINE BackwardWindow at(int64_t c) const {
        return {in + c, in_offset, grad_output + c, out ? nullptr : sums + c, out ? out + c : nullptr, sum_offset,
                n,      lanes<T>,  channel + c};
    }

    EMPOOL_INLINE void give(int k, V part) const {
        if (out) {
            store<lanes<T>>(out + sum_offset[k], part + V{});  // 0, not -0
        } else {
            C* sum = sums + sum_offset[k];
            store_raw(sum, load_raw<V>(sum) + part);
        }
    }
    // What a share of 0 multiplies may be infinite.
    EMPOOL_INLINE void give(int k, V share, V grad) const { give(k, select(unequal(share, V{}), share * grad, V{})); }

    // The last NaN of a lane, or -1.
    int last_nan(int lane) const {
        for (int k = n - 1; k >= 0; --k) {
            const C value = load_one(in + in_offset[k] + lane);
            if (value != value) return k;
        }
        return -1;
    }

    // The gradient without the lanes that hold a NaN.
    EMPOOL_NOINLINE V without_nan(V grad) const {
        for (int lane = 0; lane < lanes<T>; ++lane) grad[lane] = last_nan(lane) < 0 ? grad[lane] : C{};
        return grad;
    }

    // In lanes that hold a NaN the last NaN gets the whole gradient. Called after the other lanes have theirs.
    EMPOOL_NOINLINE void give_to_nan(V grad) const {
        for (int lane = 0; lane < lanes<T>; ++lane) {
            const int k = last_nan(lane);
            if (k < 0) continue;
            if (out) {
                out[sum_offset[k] + lane] = round_one<T>(grad[lane] + C{});
            } else {
                sums[sum_offset[k] + lane] += grad[lane];
            }
        }
    }
};

// Whether channels fill the lanes where they lie, with none left over: a sum must not be added to twice.
template <class T>
EMPOOL_INLINE bool backward_in_place(const Geometry& g) {
    return in_place(g, lanes<T>) && g.C % lanes<T> == 0;
}

EMPOOL_INLINE bool windows_overlap(const Geometry& g) {
    for (const Axis& axis : g.axis) {
        if (axis.adaptive || axis.dilation != 1 || axis.stride < axis.kernel) return true;
    }
    return false;
}

// Whether every position is in a window, if none overlap.
EMPOOL_INLINE bool windows_cover(const Geometry& g) {
    for (const Axis& axis : g.axis) {
        if (axis.stride != axis.kernel || axis.end(axis.out - 1) < axis.in) return false;
    }
    return true;
}

// Whether a unit is an image whose windows write at once.
template <class T>
EMPOOL_INLINE bool writes_in_place(const Geometry& g) {
    return backward_in_place<T>(g) && !windows_overlap(g);
}

// Channels that a unit sums at once, where they lie in place.
template <class T>
EMPOOL_INLINE int64_t backward_channels(const Geometry& g) {
    const int64_t most = 256 / sizeof(Compute<T>);
    if (writes_in_place<T>(g)) return g.C;
    return !backward_in_place<T>(g) ? lanes<T> : g.C % most == 0 ? most : lanes<T>;
}

template <class T>
EMPOOL_INLINE Tiling mean_backward_tiling(const Geometry& g) {
    // What lies in place needs no room; the sums should stay in the first cache.
    const int64_t bytes = (backward_in_place<T>(g) ? 4 : 2) * sizeof(Compute<T>);
    return Tiling(g.axis[0].in, g.axis[1].in, g.axis[2].in, backward_channels<T>(g), writes_in_place<T>(g) ? 0 : bytes,
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
    const bool placed = backward_in_place<T>(g), writes = !windows_overlap(g) && tiling.tiles() == 1;
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
        T* rounded =
            placed ? grad_input + g.plane(block.first, g.in_size()) : scratch<T, Buffer::output>(tile.positions() * L);
        const Box into = placed ? whole_input(g, g.C) : tile;
        C* sums = writes ? nullptr : scratch<C, Buffer::sums>(inputs.positions() * S);
        if (writes) {
            if (!windows_cover(g)) std::memset(static_cast<void*>(rounded), 0, tile.positions() * S * sizeof(T));
        } else {
            for (int64_t i = 0; i < inputs.positions() * S; ++i) sums[i] = 0;
        }
        if (unit == begin || unit % tiling.tiles() == 0) set_block(block);
        RowWindows<Buffer::sum_offsets> sum_windows(g, writes ? into : inputs);
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
                    visit(BackwardWindow<T>{in + in_base, taps.offset, grad + from.offset(od, oh, ow),
                                            writes ? nullptr : sums + sum_base, writes ? rounded + sum_base : nullptr,
                                            to.offset, taps.n, S, placed ? block.first % g.C : 0});
                }
            });
        for (int64_t d = tile.origin[0]; !writes && d < tile.origin[0] + tile.size[0]; ++d) {
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

// Windows of N activations.
template <int N, class T, class Shares>
EMPOOL_INLINE void rank_backward_of_few(const BackwardWindow<T>& w, const Shares& shares) {
    constexpr int L = lanes<T>;
    Vec<Compute<T>, L> v[N], part[N];
    repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA { v[k] = load<L>(w.in + w.in_offset[k]); });
    parts_of<N, T, true>(v, load<L>(w.grad_output), shares, w.channel, part);
    repeat<N, 0>(N, [&](int k) EMPOOL_LAMBDA { w.give(k, part[k]); });
}

// M weights or fewer: the M largest values are found, then the activations that have them, equal ones in order.
template <int M, class T, class Shares>
EMPOOL_INLINE void rank_backward_of_first(const BackwardWindow<T>& w, const Shares& shares,
                                          Vec<Compute<T>, lanes<T>>* held) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    V sum{}, ranked[M], weight[M];
    Vec<Int<C>, L> before[M];  // how many activations of a rank's value come before its own
    for (int k = 0; k < w.n; ++k) sum += held[k] = load<L>(w.in + w.in_offset[k]);
    insert_ranks<M>([&](int k) EMPOOL_LAMBDA { return held[k]; }, w.n, ranked);
    repeat<M, 0>(0, [&](int m) EMPOOL_LAMBDA {
        weight[m] = m < shares.columns ? shares.at(m, w.channel) : V{};
        before[m] = fill<Vec<Int<C>, L>>(0);
        for (int i = 0; i < m; ++i)
            before[m] = add_where(same(ranked[i], ranked[m]), before[m], fill<Vec<Int<C>, L>>(1));
    });
    const V all = load<L>(w.grad_output);
    const bool has_nan = any(unordered(sum, sum));
    const V grad = has_nan ? w.without_nan(all) : all;
    for (int k = 0; k < w.n; ++k) {
        const V v = held[k];
        V share{};
        repeat<M, 0>(0, [&](int m) EMPOOL_LAMBDA {
            const auto equals = same(v, ranked[m]);
            share = select(zero_where(equals, before[m]), weight[m], share);
            before[m] = add_where(equals, before[m], fill<Vec<Int<C>, L>>(-1));
        });
        w.give(k, share, grad);
    }
    if (has_nan) w.give_to_nan(all);
}

// Any weights: every pair is compared. `held` has room for the window and `rank` for its ranks.
template <class T, class Shares>
EMPOOL_INLINE void rank_backward_of_many(const BackwardWindow<T>& w, const Shares& shares,
                                         Vec<Compute<T>, lanes<T>>* held, Vec<Int<Compute<T>>, lanes<T>>* rank) {
    constexpr int L = lanes<T>;
    using V = Vec<Compute<T>, L>;
    V sum{};
    for (int k = 0; k < w.n; ++k) sum += held[k] = load<L>(w.in + w.in_offset[k]);
    find_ranks<Compute<T>, L>(held, w.n, rank);
    const V all = load<L>(w.grad_output);
    const bool has_nan = any(unordered(sum, sum));
    const V grad = has_nan ? w.without_nan(all) : all;
    for (int k = 0; k < w.n; ++k) w.give(k, shares.of_any(rank[k], w.n, w.channel), grad);
    if (has_nan) w.give_to_nan(all);
}

template <class T, class Shares>
EMPOOL_NOINLINE void rank_backward_window(const BackwardWindow<T>& w, const Shares& shares,
                                          Vec<Compute<T>, lanes<T>>* held) {
    for (int64_t c = 0; c < w.count; c += lanes<T>) {
        const auto at = w.at(c);
        if (w.n == 4) {
            rank_backward_of_few<4>(at, shares);
        } else if (w.n == 6) {
            rank_backward_of_few<6>(at, shares);
        } else if (w.n == 9) {
            rank_backward_of_few<9>(at, shares);
        } else if (shares.columns <= 2) {
            rank_backward_of_first<2>(at, shares, held);
        } else if (shares.columns <= 3) {
            rank_backward_of_first<3>(at, shares, held);
        } else {
            using Ranks = Vec<Int<Compute<T>>, lanes<T>>;
            rank_backward_of_many(at, shares, held, reinterpret_cast<Ranks*>(held + sorted_room(w.n)));
        }
    }
}

template <class T, bool by_lane>
void rank_mean_backward_as(const RankMean& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    auto* held = scratch<Vec<Compute<T>, lanes<T>>, Buffer::ranked>(2 * sorted_room(g.window()));
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

// `held` has room for a vector for each activation. Few divisions where sums stay in range (as ValueShares does it).
template <bool soft, class T>
EMPOOL_NOINLINE void value_backward_window(const BackwardWindow<T>& window, const Beta<T>& beta,
                                           Vec<Compute<T>, lanes<T>>* held) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    for (int64_t c = 0; c < window.count; c += L) {
        const auto w = window.at(c);
        const auto tap = [&](int k) EMPOOL_LAMBDA { return load<L>(w.in + w.in_offset[k]); };
        const V grad = load<L>(w.grad_output), factor = soft ? beta.at(w.channel) : V{};
        if constexpr (sizeof(C) == 4) {
            V total{}, sum{};
            for (int k = 0; k < w.n; ++k) {
                // A NaN stays.
                const V a = tap(k), weight = soft ? exp2_near<T, L>(a, factor * log2e) : larger(V{}, a);
                held[k] = weight;
                total += weight;
                sum += weight * (soft ? a : weight);
            }
            const V divisor = soft ? total : total == 0 ? fill<V>(C(1)) : total;
            const V mean = sum / divisor, g = grad / divisor;
            if (!any(~(is_near<soft>(total, sum) & (g - g == 0) & (mean - mean == 0)))) {
                for (int k = 0; k < w.n; ++k) {
                    const V a = tap(k);
                    w.give(k, soft ? held[k] * g * (1 + factor * (a - mean))
                                   : select(greater(a, V{}), (a + (a - mean)) * g, V{}));
                }
                continue;
            }
        }
        if constexpr (soft) {
            const auto [mean, total] = soft_mean<T, L, 0, true>(w.n, tap, factor, held);
            for (int k = 0; k < w.n; ++k) w.give(k, soft_slope<C, L>(held[k], tap(k), factor, mean, total), grad);
        } else {
            const auto mean = positive_mean<C, L, 0>(w.n, tap);
            for (int k = 0; k < w.n; ++k) w.give(k, positive_slope<C, L>(tap(k), mean), grad);
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
        [&](const BackwardWindow<T>& w) {
            const Beta<T> beta(betas, 0);
            beta.none() ? value_backward_window<false>(w, beta, held) : value_backward_window<true>(w, beta, held);
        });
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
