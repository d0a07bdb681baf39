// Visits every window of a unit of work, with its taps, its random numbers and the places of its results.
//
// A unit is a row of outputs of one image where channels fill the lanes in place, else a tile of a block of planes.
#pragma once

#include "arguments.h"
#include "philox.h"
#include "tile.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

template <class I>
constexpr I zero_drawn = sizeof(I) == 1 ? static_cast<I>(255) : static_cast<I>(-1);

// The taps' pointers and offsets, in registers if their number is known to be N > 0: stores through other pointers
// would have them read again and again.
template <int N, class T>
class TapPointers {
  public:
    EMPOOL_INLINE TapPointers(const T* in, const Taps& taps) {
        for (int k = 0; k < N; ++k) {
            in_[k] = in + taps.offset[k];
            code_[k] = taps.code[k];
        }
    }
    EMPOOL_INLINE const T* in(int k) const { return in_[k]; }
    EMPOOL_INLINE int32_t code(int k) const { return code_[k]; }

  private:
    const T* in_[N];
    int32_t code_[N];
};

template <class T>
class TapPointers<0, T> {
  public:
    EMPOOL_INLINE TapPointers(const T* in, const Taps& taps) : in_(in), taps_(taps) {}
    EMPOOL_INLINE const T* in(int k) const { return in_ + taps_.offset[k]; }
    EMPOOL_INLINE int32_t code(int k) const { return taps_.code[k]; }

  private:
    const T* in_;
    const Taps taps_;
};

// Where the window of one output is read, and where its results go, for `count` lanes.
template <class T, class I>
struct Window {
    const T* in;
    Taps taps;
    const uint32_t* u;
    T* out;
    I* drawn;
    int64_t count;
};

template <class T>
Units lane_units(const Geometry& g) {
    if (in_place(g, lanes<T>)) {
        const int64_t rows = g.axis[0].out * g.axis[1].out;
        return {g.N * rows, g.C * g.axis[2].out * g.window()};
    }
    const Tiling tiling(g.axis[0].out, g.axis[1].out, g.axis[2].out, lanes<T>, sizeof(T),
                        [&](const Box& box) { return inputs_of(g, box); });
    return {plane_blocks(g, lanes<T>) * tiling.tiles(),
            lanes<T> * tiling.tile[0] * tiling.tile[1] * tiling.tile[2] * g.window()};
}

constexpr int64_t channel_block = 512;

// The numbers of a group of neighbours, for `count` lanes from channel `channel` on, in u[j][2 * channel_block].
template <class T>
EMPOOL_INLINE void fill_numbers(const PhiloxLanes<lanes<T>>& philox, const Geometry& g, int64_t od, int64_t oh,
                                int64_t ow, int64_t channel, int64_t count, uint32_t* u) {
    for_lanes<lanes<T>>(count, [&](int64_t c) {
        philox.fill_quad(static_cast<uint32_t>(ow >> 2), static_cast<uint32_t>(od * g.axis[1].out + oh),
                         static_cast<uint32_t>(channel + c), u + c, 2 * channel_block);
    });
}

// Cuts channels into blocks whose numbers stay in the cache; none is shorter than a vector.
template <class Body>
EMPOOL_INLINE void for_channel_blocks(int64_t C, const Body& body) {
    for (int64_t c = 0; c < C;) {
        const int64_t count = C - c < 2 * channel_block ? C - c : channel_block;
        body(c, count);
        c += count;
    }
}

// Visits the windows of all outputs of units [begin, end): visit(window). Random numbers are made
// if there is a seed.
template <class T, class I, class Visit>
EMPOOL_INLINE void for_windows(const Geometry& g, const int64_t* seed, int64_t seeds, const T* input, T* output,
                               I* drawn, int64_t begin, int64_t end, const Visit& visit) {
    const int64_t OD = g.axis[0].out, OH = g.axis[1].out, OW = g.axis[2].out;
    const bool numbers = seed != nullptr;
    uint32_t* u = numbers ? scratch<uint32_t, 2>(8 * channel_block) : nullptr;
    PhiloxLanes<lanes<T>> philox;
    const int64_t group = seeds > 0 ? g.N / seeds : g.N;  // images that share a seed
    if (in_place(g, lanes<T>)) {
        RowWindows windows(g, whole_input(g, g.C));
        int64_t image = -1;
        for (int64_t unit = begin; unit < end; ++unit) {
            const int64_t n = unit / (OD * OH), od = unit / OH % OD, oh = unit % OH;
            if (numbers && n != image) {
                image = n;
                for (int l = 0; l < lanes<T>; ++l) philox.set(l, seed[n / group], l, n % group);
            }
            const T* in = input + n * g.in_size() * g.C;
            const int64_t to = unit * OW * g.C;
            windows.set_row(od, oh);
            for (int64_t ow = 0; ow < OW; ow += 4) {
                for_channel_blocks(g.C, [&](int64_t c, int64_t count) {
                    if (numbers) fill_numbers<T>(philox, g, od, oh, ow, c, count, u);
                    for (int64_t j = 0; j < 4 && ow + j < OW; ++j) {
                        int64_t base;
                        const Taps taps = windows.at(ow + j, base);
                        const int64_t at = to + (ow + j) * g.C + c;
                        visit(Window<T, I>{in + base + c, taps, numbers ? u + j * 2 * channel_block : nullptr,
                                           output + at, drawn ? drawn + at : nullptr, count});
                    }
                });
            }
        }
        return;
    }
    const Tiling tiling(OD, OH, OW, lanes<T>, sizeof(T), [&](const Box& box) { return inputs_of(g, box); });
    for (int64_t unit = begin; unit < end; ++unit) {
        const PlaneBlock block(g, unit / tiling.tiles(), lanes<T>);
        const Box outputs = tiling.box(unit % tiling.tiles()), inputs = inputs_of(g, outputs);
        T* in = scratch<T, 3>(inputs.positions() * lanes<T>);
        T* out = scratch<T, 4>(outputs.positions() * lanes<T>);
        I* codes = scratch<I, 5>(outputs.positions() * lanes<T>);
        interleave<lanes<T>>(g, input, whole_input(g, 1), block, inputs, in);
        if (numbers) {
            for (int l = 0; l < lanes<T>; ++l) {
                const int64_t n = block.plane(l) / g.C, c = block.plane(l) % g.C;
                philox.set(l, seed[n / group], c, n % group);
            }
        }
        RowWindows windows(g, inputs);
        for_rows(
            outputs, [&](int64_t od, int64_t oh) { windows.set_row(od, oh); },
            [&](int64_t od, int64_t oh, int64_t first, int64_t last) {
                if (numbers) fill_numbers<T>(philox, g, od, oh, first, 0, lanes<T>, u);
                for (int64_t ow = first; ow < last; ++ow) {
                    int64_t base;
                    const Taps taps = windows.at(ow, base);
                    const int64_t at = outputs.offset(od, oh, ow);
                    visit(Window<T, I>{in + base, taps, numbers ? u + (ow & 3) * 2 * channel_block : nullptr, out + at,
                                       codes + at, lanes<T>});
                }
            });
        deinterleave<lanes<T>>(g, output, whole_output(g, 1), block, outputs, static_cast<const T*>(out));
        if (drawn) deinterleave<lanes<T>>(g, drawn, whole_output(g, 1), block, outputs, static_cast<const I*>(codes));
    }
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
