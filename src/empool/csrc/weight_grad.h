// rank_mean_weight_grad: the gradient of the weights, the activations by rank times the output's gradient; and how
// gradients of a table are summed.
//
// A plane has sums of its own, in float64. A unit is a block of planes, or where channels lie in place some of an
// image's channels.
#pragma once

#include "sorted.h"
#include "windows.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// The window of one output and its gradient, for `count` lanes.
template <class T>
struct SummedWindow {
    const T* in;
    Taps taps;
    const T* grad_output;
    int64_t count;
    int64_t channel;  // where a table by lane (LaneTable) begins for these lanes
    int64_t below;    // how far the window below is, to be asked for ahead; or 0

    EMPOOL_INLINE void prefetch_below(const T* tap) const {
        if (below) prefetch(tap, below);
    }
};

// A vector in float64, in as many registers as it needs.
template <class T>
struct Wide {
    static constexpr int parts = sizeof(double) / sizeof(Compute<T>), L = lanes<T> / parts;
    using Part = Vec<double, L>;
    Part part[parts];

    explicit EMPOOL_INLINE Wide(Vec<Compute<T>, lanes<T>> v) {
        [&]<int... l>(std::integer_sequence<int, l...>) EMPOOL_LAMBDA {
            part[0] = __builtin_convertvector(__builtin_shufflevector(v, v, l...), Part);
            if constexpr (parts == 2) {
                part[1] = __builtin_convertvector(__builtin_shufflevector(v, v, (L + l)...), Part);
            }
        }(std::make_integer_sequence<int, L>{});
    }
    // Adds the product to sums.
    EMPOOL_INLINE void add_times(const Wide& factor, double* sums) const {
        repeat<parts, 0>(0, [&](int p) EMPOOL_LAMBDA {
            store_raw(sums + p * L, load_raw<Part>(sums + p * L) + part[p] * factor.part[p]);
        });
    }
};

// Channels in place are cut into groups of this many; the last may have up to twice as many.
template <class T>
constexpr int64_t summed_channels = 256 / sizeof(Compute<T>);

template <class T>
EMPOOL_INLINE int64_t channel_groups(const Geometry& g) {
    return g.C < 2 * summed_channels<T> ? 1 : g.C / summed_channels<T>;
}

template <class T>
Units summed_units(const Geometry& g) {
    const int64_t work = g.out_size() * g.window();
    if (!in_place(g, lanes<T>)) return {plane_blocks(g, lanes<T>), lanes<T> * work};
    return {g.N * channel_groups<T>(g), g.C / channel_groups<T>(g) * work};
}

// Visits every window of units [begin, end) that is not empty: visit(window, sums), after set_block(block) where a new
// block of planes begins. Vector v of the window's lanes adds to sums[v * size * lanes ...], which has vectors of
// lanes; the `size` sums of every plane go to `planes`.
template <class T, class SetBlock, class Visit>
EMPOOL_INLINE void for_summed_windows(const Geometry& g, const void* input, const void* grad_output, int64_t size,
                                      double* planes, int64_t begin, int64_t end, const SetBlock& set_block,
                                      const Visit& visit) {
    constexpr int L = lanes<T>;
    const bool placed = in_place(g, L);
    const int64_t groups = channel_groups<T>(g), vectors = placed ? 2 * summed_channels<T> / L : 1;
    double* sums = scratch<double, Buffer::sums>(vectors * size * L);
    const Tiling tiling(g.axis[0].out, g.axis[1].out, g.axis[2].out, L, sizeof(T),
                        [&](const Box& box) { return inputs_of(g, box); });
    for (int64_t unit = begin; unit < end; ++unit) {
        for (int64_t i = 0; i < vectors * size * L; ++i) sums[i] = 0;
        const PlaneBlock block(g, unit, L);
        const int64_t channel = placed ? unit % groups * summed_channels<T> : 0,
                      count = !placed                      ? L
                              : unit % groups + 1 < groups ? summed_channels<T>
                                                           : g.C - channel,
                      first = placed ? unit / groups * g.C + channel : block.first;
        if (!placed) set_block(block);
        for (int64_t index = 0; index < (placed ? 1 : tiling.tiles()); ++index) {
            const Box outputs = placed ? whole_output(g, g.C) : tiling.box(index), inputs = inputs_of(g, outputs);
            const T *in = static_cast<const T*>(input) + g.plane(first, g.in_size()),
                    *grad = static_cast<const T*>(grad_output) + g.plane(first, g.out_size());
            if (!placed) {
                T* in_tile = scratch<T, Buffer::input>(inputs.positions() * L);
                T* grad_tile = scratch<T, Buffer::gradient>(outputs.positions() * L);
                interleave<L>(g, static_cast<const T*>(input), whole_input(g, 1), block, inputs, in_tile);
                interleave<L>(g, static_cast<const T*>(grad_output), whole_output(g, 1), block, outputs, grad_tile);
                in = in_tile;
                grad = grad_tile;
            }
            RowWindows<> windows(g, placed ? whole_input(g, g.C) : inputs);
            const int64_t below = placed ? g.axis[1].stride * g.axis[2].in * g.C : 0;
            for_rows(
                outputs, [&](int64_t od, int64_t oh) { windows.set_row(od, oh); },
                [&](int64_t od, int64_t oh, int64_t ow, int64_t last) {
                    for (; ow < last; ++ow) {
                        int64_t base;
                        const Taps taps = windows.at(ow, base);
                        if (taps.n == 0) continue;
                        visit(
                            SummedWindow<T>{in + base, taps, grad + outputs.offset(od, oh, ow), count, channel, below},
                            sums);
                    }
                });
        }
        // The last vector may overlap the one before it, whose sums in these lanes are the same.
        const double* from = sums;
        for_lanes<L>(count, [&](int64_t c) {
            for (int l = 0; l < (placed ? L : block.used); ++l) {
                for (int64_t i = 0; i < size; ++i) planes[(first + c + l) * size + i] = from[i * L + l];
            }
            from += size * L;
        });
    }
}

// N is the number of taps if it is known, or 0; `memory` then has room for the window.
template <int N, class T>
EMPOOL_NOINLINE void weight_grad_window(const SummedWindow<T>& w, int64_t columns, double* sums, int64_t step,
                                        Vec<Compute<T>, lanes<T>>* memory) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    const TapPointers<N, T> taps(w.in, w.taps);
    const int n = w.taps.n, M = static_cast<int>(columns < n ? columns : n);
    for_lanes<L>(w.count, [&](int64_t c) EMPOOL_LAMBDA {
        V registers[N ? N : 1], sum{}, grad = load<L>(w.grad_output + c);
        V* held = N ? registers : memory;
        repeat<N, 0>(n, [&](int k) EMPOOL_LAMBDA {
            held[k] = load<L>(taps.in(k) + c);
            w.prefetch_below(taps.in(k) + c);
            sum += held[k];
        });
        if constexpr (N > 0) {
            sort_block(registers);
        } else {
            sort_ranks(held, n, M);
        }
        if (any(unordered(sum, sum))) {
            // A window with a NaN, whose output no weight changes, adds nothing.
            auto nan = unordered(V{}, V{});
            for (int k = 0; k < n; ++k) {
                const V a = load<L>(taps.in(k) + c);
                nan = nan | unordered(a, a);
            }
            grad = select(nan, V{}, grad);
            repeat<N, 0>(M, [&](int m) EMPOOL_LAMBDA { held[m] = select(nan, V{}, held[m]); });
        }
        const Wide<T> gradient(grad);
        repeat<N, 0>(M, [&](int m) EMPOOL_LAMBDA {
            if (m < M) gradient.add_times(Wide<T>(held[m]), sums + m * L);
        });
        sums += step;
    });
}

template <class T>
void rank_mean_weight_grad_windows(const RankMeanWeightGrad& a, int64_t begin, int64_t end) {
    constexpr int L = lanes<T>;
    const Geometry& g = a.geometry;
    const int64_t size = a.rows * a.columns;
    auto* held = scratch<Vec<Compute<T>, L>, Buffer::ranked>(sorted_room(g.window()));
    for_summed_windows<T>(
        g, a.input, a.grad_output, size, a.sums, begin, end, [](const PlaneBlock&) {},
        [&](const SummedWindow<T>& w, double* sums) {
            double* to = sums + a.row[w.taps.n] * a.columns * L;
            const int64_t step = size * L;
            if (w.taps.n == 4) return weight_grad_window<4>(w, a.columns, to, step, held);
            if (w.taps.n == 6) return weight_grad_window<6>(w, a.columns, to, step, held);
            if (w.taps.n == 9) return weight_grad_window<9>(w, a.columns, to, step, held);
            weight_grad_window<0>(w, a.columns, to, step, held);
        });
}

template <class T>
constexpr Strategy<RankMeanWeightGrad> rank_mean_weight_grad[] = {
    {[](const RankMeanWeightGrad&) { return true; },
     [](const RankMeanWeightGrad& a) { return summed_units<T>(a.geometry); }, rank_mean_weight_grad_windows<T>},
};

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
