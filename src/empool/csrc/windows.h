// Visits every window of a unit of work, with its taps, its random numbers and the places of its results.
//
// A unit is a row of outputs of one image where channels fill the lanes in place, else a tile of a block of planes.
#pragma once

#include "arguments.h"
#include "philox.h"
#include "ranks.h"
#include "tile.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

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
    int64_t channel;  // where a table by lane (LaneTable) begins for these lanes
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

// The random numbers of groups of four neighbouring outputs, for lanes that are channels: u[j * 2 * channel_block +
// lane].
template <class T>
class LaneNumbers {
    static constexpr int L = lanes<T>;

  public:
    LaneNumbers(const Geometry& g, const Seeds& seeds)
        : g_(g),
          seeds_(seeds),
          group_(seeds.count > 0 ? g.N / seeds.count : 1),
          u_(seeds.seed ? scratch<uint32_t, Buffer::numbers>(8 * channel_block) : nullptr) {}

    void set_lane(int lane, int64_t n, int64_t channel) {
        philox_.set(lane, seeds_.seed[n / group_], seeds_.ties_channels() ? 0 : channel,
                    n % group_ + seeds_.first_image);
        made_ = false;
    }

    // Makes the numbers of outputs ow & ~3, ..., for `count` channels more than the lanes' own by `channel`.
    EMPOOL_INLINE void make(int64_t od, int64_t oh, int64_t ow, int64_t channel, int64_t count) {
        if (!u_) return;
        const int64_t stride = 2 * channel_block;
        if (seeds_.tied == Tied::none) {
            const auto quad = static_cast<uint32_t>(ow >> 2), row = static_cast<uint32_t>(od * g_.axis[1].out + oh);
            for_lanes<L>(count, [&](int64_t c) {
                philox_.fill_quad(quad, row, static_cast<uint32_t>(channel + c), u_ + c, stride);
            });
        } else {
            make_tied(od, oh, ow, channel, count);
        }
    }

    EMPOOL_INLINE const uint32_t* at(int64_t ow) const {
        return u_ ? u_ + (seeds_.ties_positions() ? 0 : ow & 3) * 2 * channel_block : nullptr;
    }

  private:
    EMPOOL_NOINLINE void make_tied(int64_t od, int64_t oh, int64_t ow, int64_t channel, int64_t count) {
        const bool positions = seeds_.ties_positions(), channels = seeds_.ties_channels();
        if (positions && made_ && made_channel_ == channel) return;
        made_ = true;
        made_channel_ = channel;
        const auto quad = static_cast<uint32_t>(positions ? 0 : ow >> 2);
        const auto row = static_cast<uint32_t>(positions ? 0 : od * g_.axis[1].out + oh);
        const int64_t stride = 2 * channel_block;
        for_lanes<L>(channels ? L : count, [&](int64_t c) {
            philox_.fill_quad(quad, row, channels ? 0 : static_cast<uint32_t>(channel + c), u_ + c, stride);
        });
        for (int j = 0; channels && j < 4; ++j) {
            const auto number = load_raw<Vec<uint32_t, L>>(u_ + j * stride);
            for_lanes<L>(count, [&](int64_t c) { store_raw(u_ + j * stride + c, number); });
        }
    }

    const Geometry& g_;
    const Seeds& seeds_;
    int64_t group_;
    uint32_t* u_;
    PhiloxLanes<L> philox_;
    bool made_ = false;
    int64_t made_channel_ = 0;
};

// A table with one set of rows for all channels, or with one a channel as lanes want it: neighbours side by side. Where
// channels lie in place, that is the table as it is; else it is copied for the planes of a block.
template <class E, Buffer name>
class LaneTable {
  public:
    LaneTable(const Table<E>& table, bool channels_in_place, int lanes)
        : table_(table), by_lane_(table.sets > 1), value_(table.value), step_(table.sets) {
        if (by_lane_ && !channels_in_place) {
            step_ = lanes;
            copy_ = scratch<E, name>(table.rows * table.columns * lanes);
            value_ = copy_;
        }
    }

    void set_block(const Geometry& g, const PlaneBlock& block) {
        if (!copy_) return;
        for (int64_t i = 0; i < table_.rows * table_.columns; ++i) {
            for (int l = 0; l < step_; ++l) copy_[i * step_ + l] = table_.value[i * table_.sets + block.plane(l) % g.C];
        }
    }

    bool by_lane() const { return by_lane_; }
    int64_t columns() const { return table_.columns; }
    int64_t step() const { return step_; }
    EMPOOL_INLINE const E* row(int n) const { return value_ + table_.row[n] * table_.columns * step_; }

  private:
    const Table<E>& table_;
    bool by_lane_;
    const E* value_;
    E* copy_ = nullptr;
    int64_t step_;
};

// Cuts channels into blocks whose numbers stay in the cache; none is shorter than a vector.
template <class Body>
EMPOOL_INLINE void for_channel_blocks(int64_t C, const Body& body) {
    for (int64_t c = 0; c < C;) {
        const int64_t count = C - c < 2 * channel_block ? C - c : channel_block;
        body(c, count);
        c += count;
    }
}

// Visits the windows of all outputs of units [begin, end): visit(window), after set_block(block) where a new block of
// planes begins. Random numbers are made if there is a seed.
template <class T, class I, class SetBlock, class Visit>
EMPOOL_INLINE void for_windows(const Geometry& g, const Seeds& seeds, const T* input, T* output, I* drawn,
                               int64_t begin, int64_t end, const SetBlock& set_block, const Visit& visit) {
    const int64_t OD = g.axis[0].out, OH = g.axis[1].out, OW = g.axis[2].out;
    LaneNumbers<T> numbers(g, seeds);
    if (in_place(g, lanes<T>)) {
        RowWindows<> windows(g, whole_input(g, g.C));
        int64_t image = -1;
        for (int64_t unit = begin; unit < end; ++unit) {
            const int64_t n = unit / (OD * OH), od = unit / OH % OD, oh = unit % OH;
            if (seeds.seed && n != image) {
                image = n;
                for (int l = 0; l < lanes<T>; ++l) numbers.set_lane(l, n, l);
            }
            const T* in = input + n * g.in_size() * g.C;
            const int64_t to = unit * OW * g.C;
            windows.set_row(od, oh);
            for (int64_t ow = 0; ow < OW; ow += 4) {
                windows.prefetch_below(in, ow, OW - ow < 4 ? OW - ow : 4);
                for_channel_blocks(g.C, [&](int64_t c, int64_t count) {
                    numbers.make(od, oh, ow, c, count);
                    for (int64_t j = 0; j < 4 && ow + j < OW; ++j) {
                        int64_t base;
                        const Taps taps = windows.at(ow + j, base);
                        const int64_t at = to + (ow + j) * g.C + c;
                        visit(Window<T, I>{in + base + c, taps, numbers.at(j), output + at,
                                           drawn ? drawn + at : nullptr, count, c});
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
        T* in = scratch<T, Buffer::input>(inputs.positions() * lanes<T>);
        T* out = scratch<T, Buffer::output>(outputs.positions() * lanes<T>);
        I* codes = scratch<I, Buffer::drawn>(outputs.positions() * lanes<T>);
        interleave<lanes<T>>(g, input, whole_input(g, 1), block, inputs, in);
        if (unit == begin || unit % tiling.tiles() == 0) {
            set_block(block);
            for (int l = 0; seeds.seed && l < lanes<T>; ++l) {
                numbers.set_lane(l, block.plane(l) / g.C, block.plane(l) % g.C);
            }
        }
        RowWindows<> windows(g, inputs);
        for_rows(
            outputs, [&](int64_t od, int64_t oh) { windows.set_row(od, oh); },
            [&](int64_t od, int64_t oh, int64_t first, int64_t last) {
                numbers.make(od, oh, first, 0, lanes<T>);
                for (int64_t ow = first; ow < last; ++ow) {
                    int64_t base;
                    const Taps taps = windows.at(ow, base);
                    const int64_t at = outputs.offset(od, oh, ow);
                    visit(Window<T, I>{in + base, taps, numbers.at(ow), out + at, codes + at, lanes<T>, 0});
                }
            });
        deinterleave<lanes<T>>(g, output, whole_output(g, 1), block, outputs, static_cast<const T*>(out));
        if (drawn) deinterleave<lanes<T>>(g, drawn, whole_output(g, 1), block, outputs, static_cast<const I*>(codes));
    }
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
