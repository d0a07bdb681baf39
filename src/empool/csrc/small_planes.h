// The common windows of stride2.h in small planes, whose rows of outputs are shorter than a vector.
//
// The rows of a whole plane lie one after the other in scratch memory, at a pitch of P elements, P a multiple of 4 and
// a little more than a row: lanes are then outputs of several rows, and a row costs no more than its share. Counted
// from the padding, row 2i of the input is row i of plane `a` = 0, row 2i + 1 row i of `a` = 1; columns likewise split
// into b = 0 and b = 1. Tap (kh, kw) of the output at f = oh * P + ow is then element f + kh / 2 * P + kw / 2 of plane
// (kh & 1, kw & 1). Results go back row by row.
#pragma once

#include "stride2.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// The pitch of a plane's rows, or 0 where these kernels do not serve. A row of the input has an element more than one
// of outputs where windows are 3 wide.
template <class T>
EMPOOL_INLINE int64_t small_planes_pitch(const Geometry& g) {
    const int64_t OW = g.axis[2].out, OH = g.axis[1].out;
    if (OW < 1 || OW >= lanes<T> || OH * OW > 1024) return 0;
    return (OW + stride2_side(g) - 2 + 3) / 4 * 4;
}

EMPOOL_INLINE Units plane_units(const Geometry& g) { return {g.planes(), g.out_size() * g.window()}; }

// Memory for the rows of a plane at their pitch, and for a vector that begins at the last of them.
template <class E, Buffer name>
EMPOOL_INLINE E* small_planes_scratch(int64_t rows, int64_t pitch, E value) {
    const int64_t count = (rows + 1) * pitch + 2 * EMPOOL_LANES;
    E* memory = scratch<E, name>(count);
    for (int64_t i = 0; i < count; ++i) memory[i] = value;
    return memory;
}

// Copies `width` elements, and whatever follows them, which is overwritten later, but nothing at or past `end`.
template <int L, class E>
EMPOOL_INLINE void copy_row(const E* from, int64_t width, E* to, const E* end) {
    for (int64_t i = 0; i < width; i += L) {
        if (to + i + L <= end) {
            store_raw(to + i, load_raw<Vec<Bits<E>, L>>(from + i));
        } else {
            for (int64_t j = i; j < width && j < i + L; ++j) to[j] = from[j];
        }
    }
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
