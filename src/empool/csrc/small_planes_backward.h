// The gradients of means for 2x2 and 3x3 windows with stride 2 in contiguous planes whose rows are shorter than a
// vector: as many planes as there are lanes are laid side by side, and are then the channels of one image.
#pragma once

#include "stride2_backward_channels.h"
#include "tile.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// Whether planes may be laid side by side: the cache holds them, and all have the same tables.
template <class T>
bool small_planes(const Geometry& g, int64_t sets) {
    const int64_t bytes = g.in_size() * lanes<T> * static_cast<int64_t>(sizeof(T));
    return stride2_side(g) != 0 && !g.channels_last && sets <= 1 && bytes <= 64 * 1024 &&
           for_counts(g, [](int64_t n) { return n > 0; });
}

template <class T>
Units small_plane_units(const Geometry& g) {
    return {plane_blocks(g, lanes<T>), 2 * lanes<T> * g.in_size()};
}

// Asks for part `part` of `parts` of `count` elements.
template <bool writes, class T>
EMPOOL_INLINE void prefetch_part(const T* p, int64_t count, int64_t part, int64_t parts) {
    constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
    for (int64_t i = count * part / parts; i < count * (part + 1) / parts; i += line) prefetch<writes>(p, i);
}

// Gradients take the place of the activations: what a window completes, no later window reads. While a row of windows
// is computed, its part of what the next transposes touch comes into the cache: this block's output, and the next
// planes.
template <class T, int side, class Channels, class Mean>
void backward_of_small_planes_as(const Mean& a, int64_t begin, int64_t end) {
    constexpr int L = lanes<T>;
    const Geometry& g = a.geometry;
    const int64_t rows = g.axis[1].out, in_size = g.in_size(), out_size = g.out_size();
    const Box inputs = whole_input(g, L), outputs = whole_output(g, L);
    T* tile = scratch<T, Buffer::tile_input>(in_size * L);
    T* grad = scratch<T, Buffer::tile_gradient>(out_size * L);
    Mean image = a;
    image.geometry.N = 1;
    image.geometry.C = L;
    image.geometry.channels_last = true;
    image.input = image.output = tile;
    image.grad_output = grad;
    ChannelGradients<T, side, Channels, Mean, L> gradients(image);
    for (int64_t unit = begin; unit < end; ++unit) {
        const PlaneBlock block(g, unit, L);
        const T *in = static_cast<const T*>(a.input), *grad_output = static_cast<const T*>(a.grad_output);
        T* out = static_cast<T*>(a.output);
        interleave<L>(g, in, whole_input(g, 1), block, inputs, tile);
        interleave<L>(g, grad_output, whole_output(g, 1), block, outputs, grad);
        gradients.set_image(0);
        for (int64_t oh = 0; oh < rows; ++oh) {
            prefetch_part<true>(out + block.first * in_size, block.used * in_size, oh, rows);
            if (unit + 1 < end) {
                const int64_t next = block.first + L;
                prefetch_part<false>(in + next * in_size, L * in_size, oh, rows);
                prefetch_part<false>(grad_output + next * out_size, L * out_size, oh, rows);
            }
            gradients.pass(oh, true);
        }
        gradients.finish();
        deinterleave<L>(g, out, whole_input(g, 1), block, inputs, tile);
    }
}

template <class T, class Channels, class Mean>
void backward_of_small_planes(const Mean& a, int64_t begin, int64_t end) {
    (stride2_side(a.geometry) == 2 ? backward_of_small_planes_as<T, 2, Channels, Mean>
                                   : backward_of_small_planes_as<T, 3, Channels, Mean>)(a, begin, end);
}

template <class T>
void rank_backward_of_small_planes(const RankMean& a, int64_t begin, int64_t end) {
    backward_of_small_planes<T, RankChannels<T, false>>(a, begin, end);
}

template <class T>
void value_backward_of_small_planes(const ValueMean& a, int64_t begin, int64_t end) {
    (a.beta.value ? backward_of_small_planes<T, ValueChannels<T, true>, ValueMean>
                  : backward_of_small_planes<T, ValueChannels<T, false>, ValueMean>)(a, begin, end);
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
