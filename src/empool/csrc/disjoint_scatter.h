// drawn_scatter for windows that do not touch each other and hold many positions, global pooling's among them: the
// gradient is cleared and every output writes its own. A unit is an image, or a plane where channels do not lie last.
#pragma once

#include "arguments.h"
#include "tile.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

EMPOOL_INLINE bool disjoint_scatters(const DrawnScatter& a) {
    const Geometry& g = a.geometry;
    for (const Axis& axis : g.axis) {
        if (axis.adaptive || axis.dilation != 1 || axis.stride < axis.kernel) return false;
    }
    return g.window() >= 16;
}

EMPOOL_INLINE Units disjoint_scatter_units(const DrawnScatter& a) {
    const Geometry& g = a.geometry;
    return {g.channels_last ? g.N : g.planes(), g.in_size() * g.step()};
}

template <class T, class I>
void disjoint_scatter_as(const DrawnScatter& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    const Axis &D = g.axis[0], &H = g.axis[1], &W = g.axis[2];
    const int64_t step = g.step(), window = g.window();
    struct Tap {
        int64_t d, h, w, offset;
    };
    Tap* taps = scratch<Tap, Buffer::tap_offsets>(window);
    for (int64_t k = 0; k < window; ++k) {
        const int64_t d = k / (H.kernel * W.kernel), h = k / W.kernel % H.kernel, w = k % W.kernel;
        taps[k] = {d, h, w, ((d * H.in + h) * W.in + w) * step};
    }
    for (int64_t unit = begin; unit < end; ++unit) {
        T* to = static_cast<T*>(a.grad_input) + unit * g.in_size() * step;
        const T* grad = static_cast<const T*>(a.grad_output) + unit * g.out_size() * step;
        const I* drawn = static_cast<const I*>(a.drawn) + unit * g.out_size() * step;
        std::memset(static_cast<void*>(to), 0, static_cast<size_t>(g.in_size() * step) * sizeof(T));
        for (int64_t od = 0; od < D.out; ++od) {
            for (int64_t oh = 0; oh < H.out; ++oh) {
                for (int64_t ow = 0; ow < W.out; ++ow, grad += step, drawn += step) {
                    const int64_t d = D.start(od), h = H.start(oh), w = W.start(ow);
                    T* from = to + ((d * H.in + h) * W.in + w) * step;
                    for (int64_t c = 0; c < step; ++c) {
                        const int64_t code = drawn[c];
                        if (code < 0 || code >= window) continue;
                        const Tap& tap = taps[code];
                        const bool inside = d + tap.d >= 0 && d + tap.d < D.in && h + tap.h >= 0 && h + tap.h < H.in &&
                                            w + tap.w >= 0 && w + tap.w < W.in;
                        // Added to 0, so that -0 becomes 0.
                        if (inside) from[tap.offset + c] = positive_zero(grad[c]);
                    }
                }
            }
        }
    }
}

template <class T>
void disjoint_scatter(const DrawnScatter& a, int64_t begin, int64_t end) {
    a.wide ? disjoint_scatter_as<T, int32_t>(a, begin, end) : disjoint_scatter_as<T, uint8_t>(a, begin, end);
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
