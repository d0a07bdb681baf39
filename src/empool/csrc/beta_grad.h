// value_mean_beta_grad: the gradient of soft pooling's beta, the variance of a window's activations under the softmax
// times the output's gradient. Work is split and summed as for rank_mean_weight_grad.
#pragma once

#include "value_mean.h"
#include "weight_grad.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// N is the number of taps if it is known, or 0; `memory` then has room for the window.
template <int N, class T>
EMPOOL_NOINLINE void beta_grad_window(const SummedWindow<T>& w, const Beta<T>& beta, double* sums,
                                      Vec<Compute<T>, lanes<T>>* memory) {
    using C = Compute<T>;
    constexpr int L = lanes<T>;
    using V = Vec<C, L>;
    const TapPointers<N, T> taps(w.in, w.taps);
    for_lanes<L>(w.count, [&](int64_t c) EMPOOL_LAMBDA {
        const auto tap = [&](int k) EMPOOL_LAMBDA -> V { return load<L>(taps.in(k) + c); };
        V registers[N ? N : 1], variance{};
        V* held = N ? registers : memory;
        const auto [mean, total] = soft_mean<C, L, N, true>(w.taps.n, tap, beta.at(c), held);
        const V middle = mean;
        repeat<N, 0>(w.taps.n, [&](int k) EMPOOL_LAMBDA {
            w.prefetch_below(taps.in(k) + c);
            const V apart = tap(k) - middle;
            variance = add_where(unequal(held[k], V{}), variance, held[k] * apart * apart);
        });
        variance = variance / total;
        const auto infinite = (mean == mean) & (mean - mean != 0);
        if (any(infinite)) variance = infinite ? V{} : variance;
        Wide<T>(load<L>(w.grad_output + c)).add_times(Wide<T>(variance), sums);
        sums += L;
    });
}

template <class T>
void value_mean_beta_grad_windows(const ValueMeanBetaGrad& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    auto* held = scratch<Vec<Compute<T>, lanes<T>>, Buffer::ranked>(g.window());
    LaneTable<double, Buffer::table> betas(a.beta, in_place(g, lanes<T>), lanes<T>);
    for_summed_windows<T>(
        g, a.input, a.grad_output, 1, a.sums, begin, end, [&](const PlaneBlock& block) { betas.set_block(g, block); },
        [&](const SummedWindow<T>& w, double* sums) {
            const Beta<T> beta(betas, w.channel);
            if (w.taps.n == 4) return beta_grad_window<4>(w, beta, sums, held);
            if (w.taps.n == 9) return beta_grad_window<9>(w, beta, sums, held);
            beta_grad_window<0>(w, beta, sums, held);
        });
}

template <class T>
constexpr Strategy<ValueMeanBetaGrad> value_mean_beta_grad[] = {
    {[](const ValueMeanBetaGrad&) { return true; },
     [](const ValueMeanBetaGrad& a) { return summed_units<T>(a.geometry); }, value_mean_beta_grad_windows<T>},
};

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
