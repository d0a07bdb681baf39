// drawn_gather: output the input at the drawn positions, 0 for "zero"; the adjoint of drawn_scatter.
//
// One look-up an output, in the order of memory. A unit is a row of outputs of an image (channels last) or a plane.
#pragma once

#include "arguments.h"
#include "tile.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

template <class T>
Units drawn_gather_units(const DrawnGather& a) {
    const Geometry& g = a.geometry;
    const int64_t rows = g.axis[0].out * g.axis[1].out;
    if (g.channels_last) return {g.N * rows, 4 * g.C * g.axis[2].out};
    return {g.planes() * rows, 4 * g.axis[2].out};
}

template <class T, class I>
void drawn_gather_as(const DrawnGather& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    const Axis &D = g.axis[0], &H = g.axis[1], &W = g.axis[2];
    const int64_t step = g.step();
    for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t outer = unit / (D.out * H.out), od = unit / H.out % D.out, oh = unit % H.out;
        const T* in = static_cast<const T*>(a.input) + outer * g.in_size() * step;
        const I* drawn = static_cast<const I*>(a.drawn) + unit * W.out * step;
        T* out = static_cast<T*>(a.output) + unit * W.out * step;
        for (int64_t ow = 0; ow < W.out; ++ow) {
            for (int64_t c = 0; c < step; ++c) {
                const int64_t code = drawn[ow * step + c];
                const int64_t id = D.start(od) + code / (H.kernel * W.kernel) * D.dilation;
                const int64_t ih = H.start(oh) + code / W.kernel % H.kernel * H.dilation;
                const int64_t iw = W.start(ow) + code % W.kernel * W.dilation;
                const bool inside = code >= 0 && code < g.window() && id >= 0 && id < D.in && ih >= 0 && ih < H.in &&
                                    iw >= 0 && iw < W.in;
                out[ow * step + c] = inside ? in[((id * H.in + ih) * W.in + iw) * step + c] : T{};
            }
        }
    }
}

template <class T>
void drawn_gather_lookups(const DrawnGather& a, int64_t begin, int64_t end) {
    a.wide ? drawn_gather_as<T, int32_t>(a, begin, end) : drawn_gather_as<T, uint8_t>(a, begin, end);
}

template <class T>
constexpr Strategy<DrawnGather> drawn_gather[] = {
    {[](const DrawnGather&) { return true; }, drawn_gather_units<T>, drawn_gather_lookups<T>},
};

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
