// The common windows, 2x2 and 3x3 with stride 2, in contiguous planes: rows are handled where they lie.
//
// With stride 2, the taps of neighbouring outputs alternate between two phases of a row: counted from the left padding,
// output ow reads 2 * ow + kw, that is phase0[ow], phase1[ow] and (3x3) phase0[ow + 1]. So a row is split once into its
// phases, in the compute type, with padding as -inf, and from then on every load is a plain one and lanes are
// neighbouring outputs. Rows are processed in ascending order; a vector may write past the end of its row, because the
// next row, of the same thread, comes after it.
#pragma once

#include "arguments.h"
#include "tile.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// Reads L pairs: even elements and odd elements.
template <int L, class T>
EMPOOL_INLINE void load_pairs(const T* p, Vec<Compute<T>, L>& even, Vec<Compute<T>, L>& odd) {
    using V = Vec<Compute<T>, L>;
    if constexpr (std::is_same_v<T, BFloat16>) {
        const auto pairs = load_raw<Vec<uint32_t, L>>(p);
        even = bits<V>(pairs << 16);
        odd = bits<V>(pairs & 0xffff0000u);
    } else {
        const V low = load<L>(p), high = load<L>(p + L);
        even = unzip<0>(low, high);
        odd = unzip<1>(low, high);
    }
}

// Writes L pairs of values that T holds exactly.
template <int L, class T>
EMPOOL_INLINE void store_pairs(T* p, Vec<Compute<T>, L> even, Vec<Compute<T>, L> odd) {
    if constexpr (std::is_same_v<T, BFloat16>) {
        using U = Vec<uint32_t, L>;
        store_raw(p, (bits<U>(even) >> 16) | (bits<U>(odd) & 0xffff0000u));
    } else {
        store_exact<L>(p, zip<0>(even, odd));
        store_exact<L>(p + L, zip<1>(even, odd));
    }
}

// Splits `size` elements into even and odd ones; returns whether there is a NaN. The last vectors overlap the ones
// before; short rows take shorter vectors.
template <int L, class T>
EMPOOL_INLINE bool split_row(const T* row, int64_t size, Compute<T>* even, Compute<T>* odd) {
    using V = Vec<Compute<T>, L>;
    bool found = false;
    int64_t done = 0;
    if (size >= 2 * L) {
        Vec<Int<Compute<T>>, L> nan{};
        done = size / 2 * 2;
        for_lanes<2 * L>(done, [&](int64_t i) EMPOOL_LAMBDA {
            V a, b;
            load_pairs<L>(row + i, a, b);
            nan |= (a != a) | (b != b);
            store_raw(even + i / 2, a);
            store_raw(odd + i / 2, b);
        });
        found = any(nan);
    } else if constexpr (L > 4) {
        return split_row<L / 2>(row, size, even, odd);
    }
    for (int64_t i = done; i < size; ++i) {
        const Compute<T> value = load_one(row + i);
        found |= value != value;
        Compute<T>* phase = i & 1 ? odd : even;
        phase[i / 2] = value;
    }
    return found;
}

// The side of a window that these kernels serve, else 0.
EMPOOL_INLINE int stride2_side(const Geometry& g) {
    const Axis &D = g.axis[0], &H = g.axis[1], &W = g.axis[2];
    if (g.adaptive() || D.in != 1 || D.kernel != 1 || D.padding != 0 || D.out != 1) return 0;
    if (H.kernel != W.kernel || H.stride != 2 || W.stride != 2) return 0;
    if (W.kernel == 2) return H.padding == 0 && W.padding == 0 && H.dilation == 1 && W.dilation == 1 ? 2 : 0;
    if (W.kernel == 3) return H.padding <= 1 && W.padding <= 1 && H.dilation == 1 && W.dilation == 1 ? 3 : 0;
    return 0;
}

// The least number of valid positions that a window has along an axis; 0 <= padding <= 1, stride 2.
EMPOOL_INLINE int64_t fewest_taps(const Axis& a) {
    int64_t fewest = a.kernel;
    for (const int64_t o : {int64_t(0), a.out - 1}) {
        int64_t first, last;
        a.taps(o, first, last);
        if (last - first < fewest) fewest = last - first;
    }
    return fewest;
}

// Whether holds(n) for every number n of valid activations that a window may have.
template <class Holds>
EMPOOL_INLINE bool for_counts(const Geometry& g, const Holds& holds) {
    for (int64_t rows = fewest_taps(g.axis[1]); rows <= g.axis[1].kernel; ++rows) {
        for (int64_t columns = fewest_taps(g.axis[2]); columns <= g.axis[2].kernel; ++columns) {
            if (!holds(rows * columns)) return false;
        }
    }
    return true;
}

// What a table says of every output of a row, laid out as lanes are, neighbouring outputs side by side; a row of
// outputs depends on the number of its valid rows of input. Rows are `pitch` elements long; past a row's end lies
// `rest`.
template <class E, Buffer name>
class OutputTable {
  public:
    OutputTable(const Geometry& g, int64_t rows, int64_t columns, int64_t pitch)
        : W_(g.axis[2]), rows_(rows), columns_(columns), pitch_(pitch), step_(rows * pitch + 2 * EMPOOL_LANES) {
        value_ = scratch<E, name>(columns * step_);
    }

    // entry(column, n) for the outputs of row `row`, whose windows have `valid` rows.
    template <class Entry>
    void set_row(int64_t row, int64_t valid, E rest, const Entry& entry) {
        for (int64_t column = 0; column < columns_; ++column) {
            E* to = value_ + column * step_ + row * pitch_;
            const E inner = entry(column, valid * W_.kernel);
            for (int64_t ow = 0; ow < W_.out; ++ow) to[ow] = inner;
            for (int64_t ow = W_.out; ow < pitch_; ++ow) to[ow] = rest;
            if (row + 1 == rows_) {
                for (int64_t ow = pitch_; ow < pitch_ + 2 * EMPOOL_LANES; ++ow) to[ow] = rest;
            }
            // Only the first and the last window of a row may hang over a border.
            for (const int64_t ow : {int64_t(0), W_.out - 1}) {
                int64_t first, last;
                W_.taps(ow, first, last);
                to[ow] = entry(column, valid * (last - first));
            }
        }
    }

    EMPOOL_INLINE const E* row(int64_t row) const { return value_ + row * pitch_; }
    int64_t step() const { return step_; }  // between columns
    int64_t columns() const { return columns_; }

  private:
    const Axis& W_;
    int64_t rows_, columns_, pitch_, step_;
    E* value_;
};

EMPOOL_INLINE int64_t valid_rows(const Axis& H, int64_t oh) {
    int64_t first, last;
    H.taps(oh, first, last);
    return last - first;
}

// Strips of rows of a plane.
struct Strips {
    int64_t rows, strip, count;

    Strips(int64_t all_rows, int64_t rows_of_a_strip) : rows(all_rows) {
        strip = rows_of_a_strip < 1 ? 1 : (rows_of_a_strip < rows ? rows_of_a_strip : rows);
        count = (rows + strip - 1) / strip;
    }
    int64_t first(int64_t unit) const { return unit % count * strip; }
    int64_t last(int64_t unit) const { return first(unit) + strip < rows ? first(unit) + strip : rows; }
    // Rows of all planes that come before a unit.
    int64_t before(int64_t unit) const { return unit / count * rows + first(unit); }
};

EMPOOL_INLINE Strips stride2_strips(const Geometry& g) {
    return Strips(g.axis[1].out, 1024 / (g.axis[2].out > 0 ? g.axis[2].out : 1));
}

EMPOOL_INLINE Units stride2_units(const Geometry& g) {
    const Strips strips = stride2_strips(g);
    return {g.planes() * strips.count, strips.strip * g.axis[2].out * g.window()};
}

// The split rows that a strip of outputs reads. They are all split before the first is used: a vector that is read
// right after its parts were written waits for them.
template <class T, int side>
class SplitRows {
    using C = Compute<T>;

  public:
    SplitRows(const Geometry& g, int64_t strip) : H_(g.axis[1]), W_(g.axis[2]), slots_(2 * strip + side) {
        constexpr int L = lanes<T>;
        length_ = (W_.out + L) / L * L + 2 * L;
        rows_ = scratch<C, Buffer::input>((2 * slots_ + 1) * length_);
        nan_ = scratch<bool, Buffer::nan>(slots_);
        for (int64_t i = 0; i < (2 * slots_ + 1) * length_; ++i) rows_[i] = -static_cast<C>(__builtin_inf());
    }

    void set_strip(const T* plane, int64_t first_output, int64_t last_output) {
        const int64_t first = H_.start(first_output), last = H_.start(last_output - 1) + side;
        first_ = first < 0 ? 0 : first;
        // Rows are read only as far as windows reach, so that what lies past them stays -inf.
        const int64_t reach = 2 * W_.out + side - 2 - W_.padding, size = reach < W_.in ? reach : W_.in;
        for (int64_t ih = first_; ih < last && ih < H_.in; ++ih) {
            C *phase0 = rows_ + 2 * (ih - first_) * length_, *phase1 = phase0 + length_;
            const T* row = plane + ih * W_.in;
            nan_[ih - first_] = W_.padding ? split_row<lanes<T>>(row, size, phase1, phase0 + 1)
                                           : split_row<lanes<T>>(row, size, phase0, phase1);
        }
    }

    // The rows of output oh; returns whether one holds a NaN. Rows of padding are -inf.
    EMPOOL_INLINE bool at(int64_t oh, const C* (&phase0)[side], const C* (&phase1)[side]) const {
        bool nan = false;
        for (int kh = 0; kh < side; ++kh) {
            const int64_t ih = H_.start(oh) + kh;
            const bool inside = ih >= 0 && ih < H_.in;
            phase0[kh] = rows_ + 2 * (inside ? ih - first_ : slots_) * length_;
            phase1[kh] = inside ? phase0[kh] + length_ : phase0[kh];
            nan |= inside && nan_[ih - first_];
        }
        return nan;
    }

  private:
    const Axis &H_, &W_;
    int64_t slots_, length_, first_ = 0;
    C* rows_;
    bool* nan_;
};

// Adds what windows give to a position, from +0 on, rounding to the dtype after every addition.
template <class T, class... Given>
EMPOOL_INLINE Vec<Compute<T>, lanes<T>> rounded_sum(Given... given) {
    Vec<Compute<T>, lanes<T>> sum{};
    int terms = 0;
    ((sum += given, sum = terms++ ? round_to<T, lanes<T>>(sum) : sum), ...);
    return sum;
}

// Stores at `p`, but nothing at or past `end`.
template <int L, class T>
EMPOOL_INLINE void store_until(T* p, Vec<Compute<T>, L> v, const T* end) {
    if (p + L <= end) return store_exact<L>(p, v);
    T values[L];
    store_exact<L>(values, v);
    for (int i = 0; p + i < end; ++i) p[i] = values[i];
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
