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
    return stride2_side(g) != 0 && !g.channels_last && sets == 1 && bytes <= 64 * 1024 &&
           for_counts(g, [](int64_t n) { return n > 0; });
}

template <class T>
Units small_plane_units(const Geometry& g) {
    return {plane_blocks(g, lanes<T>), 2 * lanes<T> * g.in_size()};
}

template <class T, class Arguments>
void as_channels(const Arguments& a, int64_t begin, int64_t end,
                 void (&run)(const Arguments&, int64_t begin, int64_t end)) {
    constexpr int L = lanes<T>;
    const Geometry& g = a.geometry;
    Arguments side_by_side = a;
    Geometry& image = side_by_side.geometry;
    image.N = 1;
    image.C = L;
    image.channels_last = true;
    T* in = scratch<T, Buffer::tile_input>(g.in_size() * L);
    T* grad = scratch<T, Buffer::tile_gradient>(g.out_size() * L);
    T* out = scratch<T, Buffer::tile_output>(g.in_size() * L);
    side_by_side.input = in;
    side_by_side.grad_output = grad;
    side_by_side.output = out;
    const Box inputs = whole_input(g, L), outputs = whole_output(g, L);
    for (int64_t unit = begin; unit < end; ++unit) {
        const PlaneBlock block(g, unit, L);
        interleave<L>(g, static_cast<const T*>(a.input), whole_input(g, 1), block, inputs, in);
        interleave<L>(g, static_cast<const T*>(a.grad_output), whole_output(g, 1), block, outputs, grad);
        run(side_by_side, 0, channel_strip_units(image).count);
        deinterleave<L>(g, static_cast<T*>(a.output), whole_input(g, 1), block, inputs, static_cast<const T*>(out));
    }
}

template <class T>
void rank_backward_of_small_planes(const RankMean& a, int64_t begin, int64_t end) {
    as_channels<T>(a, begin, end, rank_backward_of_channels<T>);
}

template <class T>
void value_backward_of_small_planes(const ValueMean& a, int64_t begin, int64_t end) {
    as_channels<T>(a, begin, end, value_backward_of_channels<T>);
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
