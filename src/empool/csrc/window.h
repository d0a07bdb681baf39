// Window arithmetic: sizes, the taps of a window, the windows that cover a position. The only place that knows it.
//
// Every tensor is (N, C, D, H, W); a missing spatial dimension has size 1, kernel 1, stride 1, padding 0, dilation 1.
// Tap k of the window of output o reads input position o * stride - padding + k * dilation, if that lies inside.
//
// Along an adaptive axis the window of output o is [floor(o * in / out), ceil((o + 1) * in / out)), and the kernel is
// the extent of the largest window.
#pragma once

#include <cstdint>

namespace empool {

struct Axis {
    int64_t in = 1, out = 1, kernel = 1, stride = 1, padding = 0, dilation = 1;
    bool adaptive = false;

    __attribute__((always_inline)) int64_t start(int64_t o) const {
        return adaptive ? o * in / out : o * stride - padding;
    }

    // One past the last position that output o may read.
    __attribute__((always_inline)) int64_t end(int64_t o) const {
        return adaptive ? ((o + 1) * in + out - 1) / out : start(o) + (kernel - 1) * dilation + 1;
    }

    // The taps [first, last) of output o that read inside the input.
    __attribute__((always_inline)) void taps(int64_t o, int64_t& first, int64_t& last) const {
        const int64_t s = start(o);
        if (adaptive) {
            first = 0;
            last = end(o) - s;
            return;
        }
        first = s >= 0 ? 0 : (-s + dilation - 1) / dilation;
        if (s + (kernel - 1) * dilation < in) {
            last = kernel;
        } else {
            last = s >= in ? 0 : (in - 1 - s) / dilation + 1;
        }
        if (first > last) first = last;
    }

    // The first output whose window may cover position i, and one past the last.
    __attribute__((always_inline)) void outputs(int64_t i, int64_t& first, int64_t& last) const {
        if (adaptive) {
            first = i * out / in;
            last = ((i + 1) * out + in - 1) / in;
            return;
        }
        const int64_t low = i + padding - (kernel - 1) * dilation;
        first = low <= 0 ? 0 : (low + stride - 1) / stride;
        last = (i + padding) / stride + 1;
        if (last > out) last = out;
        if (first > last) first = last;
    }

    // How many windows may cover a position, at most.
    int64_t most_outputs() const { return adaptive ? (out + in - 1) / in + 1 : kernel; }

    // The tap with which output o reads position i, or -1.
    __attribute__((always_inline)) int64_t tap(int64_t o, int64_t i) const {
        const int64_t distance = i - start(o);
        if (adaptive) return distance >= 0 && i < end(o) ? distance : -1;
        if (dilation == 1) return distance >= 0 && distance < kernel ? distance : -1;
        if (distance < 0 || distance % dilation != 0) return -1;
        return distance / dilation < kernel ? distance / dilation : -1;
    }
};

// As max_pool2d: the last window must start inside the input or its left padding. Negative if nothing fits.
static inline int64_t output_size(const Axis& a, bool ceil_mode) {
    const int64_t span = a.in + 2 * a.padding - a.dilation * (a.kernel - 1) - 1 + (ceil_mode ? a.stride - 1 : 0);
    const int64_t count = (span >= 0 ? span / a.stride : -((-span + a.stride - 1) / a.stride)) + 1;
    return ceil_mode && (count - 1) * a.stride >= a.in + a.padding ? count - 1 : count;
}

struct Geometry {
    int64_t N = 0, C = 0;
    Axis axis[3];  // D, H, W
    bool channels_last = false;

    int64_t window() const { return axis[0].kernel * axis[1].kernel * axis[2].kernel; }
    int64_t in_size() const { return axis[0].in * axis[1].in * axis[2].in; }
    int64_t out_size() const { return axis[0].out * axis[1].out * axis[2].out; }
    bool adaptive() const { return axis[0].adaptive || axis[1].adaptive || axis[2].adaptive; }
    int64_t planes() const { return N * C; }
    // Elements between neighbouring positions of one channel.
    int64_t step() const { return channels_last ? C : 1; }
    // Element 0 of plane p = n * C + c of a tensor with `size` positions a plane.
    int64_t plane(int64_t p, int64_t size) const { return channels_last ? (p / C) * C * size + p % C : p * size; }
};

}  // namespace empool
