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
    const int64_t step = g.step(), outputs = g.out_size();
    const uint64_t window = static_cast<uint64_t>(g.window());
    struct Place {
        int64_t d, h, w, offset;
    };
    const auto place = [&](int64_t d, int64_t h, int64_t w) -> Place {
        return {d, h, w, ((d * H.in + h) * W.in + w) * step};
    };
    const auto inside = [&](const Place& p) {
        return p.d >= 0 && p.d < D.in && p.h >= 0 && p.h < H.in && p.w >= 0 && p.w < W.in;
    };
    Place *taps = scratch<Place, Buffer::tap_offsets>(g.window()), *starts = scratch<Place, Buffer::input>(outputs);
    for (int64_t k = 0; k < g.window(); ++k) {
        taps[k] = place(k / (H.kernel * W.kernel), k / W.kernel % H.kernel, k % W.kernel);
    }
    for (int64_t o = 0; o < outputs; ++o) {
        starts[o] = place(D.start(o / (H.out * W.out)), H.start(o / W.out % H.out), W.start(o % W.out));
    }
    const T* grad = static_cast<const T*>(a.grad_output) + begin * outputs * step;
    const I* drawn = static_cast<const I*>(a.drawn) + begin * outputs * step;
    // Small units are cleared together.
    const int64_t size = g.in_size() * step, together = 1 + 32768 / (size * static_cast<int64_t>(sizeof(T)));
    for (int64_t unit = begin, cleared = begin; unit < end; ++unit) {
        T* to = static_cast<T*>(a.grad_input) + unit * size;
        if (unit == cleared) {
            cleared = unit + together < end ? unit + together : end;
            std::memset(static_cast<void*>(to), 0, static_cast<size_t>((cleared - unit) * size) * sizeof(T));
        }
        for (int64_t o = 0; o < outputs; ++o, grad += step, drawn += step) {
            const Place& start = starts[o];
            for (int64_t c = 0; c < step; ++c) {
                const uint64_t code = static_cast<uint64_t>(drawn[c]);
                if (code >= window) continue;
                const Place& tap = taps[code];
                if (!inside({start.d + tap.d, start.h + tap.h, start.w + tap.w, 0})) continue;
                to[start.offset + tap.offset + c] = positive_zero(grad[c]);  // Added to 0, so that -0 becomes 0.
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
