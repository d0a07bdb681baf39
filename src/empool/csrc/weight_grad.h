// rank_mean_weight_grad: the gradient of the weights, the activations by rank times the output's gradient. A unit is a
// block of planes, each of which has sums of its own.
#pragma once

#include "sorted.h"
#include "windows.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

template <class T>
void rank_mean_weight_grad_windows(const RankMeanWeightGrad& a, int64_t begin, int64_t end) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    const Geometry& g = a.geometry;
    const Tiling tiling(g.axis[0].out, g.axis[1].out, g.axis[2].out, L, sizeof(T),
                        [&](const Box& box) { return inputs_of(g, box); });
    V* held = scratch<V, Buffer::ranked>(sorted_room(g.window()));
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
                            const V v = held[k] = load<L>(in + base + taps.offset[k]);
                            total += v != v ? v : V{};
                        }
                        sort_ranks(held, taps.n, M);
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

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
