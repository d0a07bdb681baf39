// drawn_scatter: the gradient of a draw. Each input position sums the gradients of the outputs that drew it.
//
// Written as a gather, so that every position is stored once and no two threads meet: a position visits the windows
// that cover it in ascending order, and a window adds its gradient where its offset is the position's. Sums are rounded
// to the dtype after every addition, as PyTorch's max_pool2d does; they start from +0, so adding a masked 0 changes
// nothing. A unit is a row of input positions of one image, or a tile of a block of planes (tile.h).
#pragma once

#include "disjoint_scatter.h"
#include "small_planes_scatter.h"
#include "stride2_scatter.h"
#include "stride2_scatter_channels.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// The windows that cover the positions of one input row, as offsets into a box of outputs.
class RowCover {
  public:
    RowCover(const Geometry& g, const Box& outputs, int64_t first, int64_t size)
        : axis_(g.axis), outputs_(outputs), first_(first) {
        const Axis& W = axis_[2];
        begin_ = scratch<int64_t, Buffer::cover_first>(size + 1);
        int64_t entries = 0;
        for (int64_t i = 0; i < size; ++i) {
            int64_t o, last;
            W.outputs(first + i, o, last);
            entries += last - o;
        }
        w_ = scratch<Entry, Buffer::cover_columns>(entries);
        entries = 0;
        int64_t widest = 0;
        for (int64_t i = 0; i < size; ++i) {
            int64_t o, last;
            begin_[i] = entries;
            for (W.outputs(first + i, o, last); o < last; ++o) {
                const int64_t k = W.tap(o, first + i);
                if (k >= 0) w_[entries++] = {(o - outputs.origin[2]) * outputs.step, k};
            }
            if (entries - begin_[i] > widest) widest = entries - begin_[i];
        }
        begin_[size] = entries;
        const int64_t rows = axis_[0].most_outputs() * axis_[1].most_outputs();
        row_ = scratch<Entry, Buffer::cover_rows>(rows);
        offset_ = scratch<int64_t, Buffer::cover_offsets>(rows * widest);
        code_ = scratch<int32_t, Buffer::cover_codes>(rows * widest);
    }

    void set_row(int64_t id, int64_t ih) {
        const Axis &D = axis_[0], &H = axis_[1];
        int64_t od, od_last, oh_first, oh_last;
        rows_ = 0;
        H.outputs(ih, oh_first, oh_last);
        for (D.outputs(id, od, od_last); od < od_last; ++od) {
            const int64_t kd = D.tap(od, id);
            if (kd < 0) continue;
            for (int64_t oh = oh_first; oh < oh_last; ++oh) {
                const int64_t kh = H.tap(oh, ih);
                if (kh < 0) continue;
                row_[rows_++] = {outputs_.offset(od, oh, outputs_.origin[2]), (kd * H.kernel + kh) * axis_[2].kernel};
            }
        }
    }

    EMPOOL_INLINE Taps at(int64_t iw) {
        const int64_t first = begin_[iw - first_], last = begin_[iw - first_ + 1];
        int n = 0;
        for (int64_t row = 0; row < rows_; ++row) {
            for (int64_t j = first; j < last; ++j, ++n) {
                offset_[n] = row_[row].offset + w_[j].offset;
                code_[n] = static_cast<int32_t>(row_[row].code + w_[j].code);
            }
        }
        return {n, offset_, code_};
    }

  private:
    struct Entry {
        int64_t offset, code;
    };
    const Axis* axis_;
    Box outputs_;
    int64_t first_, rows_ = 0;
    int64_t* begin_;
    Entry *w_, *row_;
    int64_t* offset_;
    int32_t* code_;
};

// N is the number of windows if known (the loop is then unrolled), or -1.
template <int N, class T, class I>
EMPOOL_INLINE void scatter_position(const T* grad_output, const I* drawn, const Taps& taps, T* grad_input,
                                    int64_t count) {
    using C = Compute<T>;
    using V = Vec<C, lanes<T>>;
    using O = Vec<Int<C>, lanes<T>>;
    const int n = N >= 0 ? N : taps.n;
    for_lanes<lanes<T>>(count, [&](int64_t c) EMPOOL_LAMBDA {
        V sum{};
        repeat<N, 0>(n, [&](int k) EMPOOL_LAMBDA {
            const V grad = load<lanes<T>>(grad_output + taps.offset[k] + c);
            const O code = convert<Int<C>, I, lanes<T>>(load_raw<Vec<I, lanes<T>>>(drawn + taps.offset[k] + c));
            sum += code == fill<O>(taps.code[k]) ? grad : V{};
            if (k > 0) sum = round_to<T, lanes<T>>(sum);
        });
        store_exact<lanes<T>>(grad_input + c, sum);
    });
}

template <class T, class I>
EMPOOL_NOINLINE void scatter_any(const T* grad_output, const I* drawn, const Taps& taps, T* grad_input, int64_t count) {
    if (sizeof(I) == 1) {
        if (taps.n == 1) return scatter_position<1>(grad_output, drawn, taps, grad_input, count);
        if (taps.n == 2) return scatter_position<2>(grad_output, drawn, taps, grad_input, count);
        if (taps.n == 4) return scatter_position<4>(grad_output, drawn, taps, grad_input, count);
    }
    scatter_position<-1>(grad_output, drawn, taps, grad_input, count);
}

template <class T>
EMPOOL_INLINE Tiling input_tiling(const Geometry& g) {
    return Tiling(g.axis[0].in, g.axis[1].in, g.axis[2].in, lanes<T>, sizeof(T),
                  [&](const Box& box) { return outputs_of(g, box); });
}

template <class T>
Units drawn_scatter_units(const DrawnScatter& a) {
    const Geometry& g = a.geometry;
    if (in_place(g, lanes<T>)) return {g.N * g.axis[0].in * g.axis[1].in, 2 * g.C * g.axis[2].in};
    const Tiling tiling = input_tiling<T>(g);
    return {plane_blocks(g, lanes<T>) * tiling.tiles(),
            2 * lanes<T> * tiling.tile[0] * tiling.tile[1] * tiling.tile[2]};
}

template <class T, class I>
void drawn_scatter_as(const DrawnScatter& a, int64_t begin, int64_t end) {
    const Geometry& g = a.geometry;
    const T* grad_output = static_cast<const T*>(a.grad_output);
    const I* drawn = static_cast<const I*>(a.drawn);
    T* grad_input = static_cast<T*>(a.grad_input);
    const int64_t D = g.axis[0].in, H = g.axis[1].in, W = g.axis[2].in;
    if (in_place(g, lanes<T>)) {
        RowCover cover(g, whole_output(g, g.C), 0, W);
        for (int64_t unit = begin; unit < end; ++unit) {
            const int64_t n = unit / (D * H), from = n * g.out_size() * g.C;
            cover.set_row(unit / H % D, unit % H);
            for (int64_t iw = 0; iw < W; ++iw) {
                scatter_any(grad_output + from, drawn + from, cover.at(iw), grad_input + (unit * W + iw) * g.C, g.C);
            }
        }
        return;
    }
    const Tiling tiling = input_tiling<T>(g);
    for (int64_t unit = begin; unit < end; ++unit) {
        const PlaneBlock block(g, unit / tiling.tiles(), lanes<T>);
        const Box inputs = tiling.box(unit % tiling.tiles()), outputs = outputs_of(g, inputs);
        T* grad = scratch<T, Buffer::gradient>(outputs.positions() * lanes<T>);
        I* codes = scratch<I, Buffer::drawn>(outputs.positions() * lanes<T>);
        T* sums = scratch<T, Buffer::output>(inputs.positions() * lanes<T>);
        interleave<lanes<T>>(g, grad_output, whole_output(g, 1), block, outputs, grad);
        interleave<lanes<T>>(g, drawn, whole_output(g, 1), block, outputs, codes);
        RowCover cover(g, outputs, inputs.origin[2], inputs.size[2]);
        for (int64_t d = 0, at = 0; d < inputs.size[0]; ++d) {
            for (int64_t h = 0; h < inputs.size[1]; ++h) {
                cover.set_row(inputs.origin[0] + d, inputs.origin[1] + h);
                for (int64_t w = 0; w < inputs.size[2]; ++w, at += lanes<T>) {
                    scatter_any(grad, codes, cover.at(inputs.origin[2] + w), sums + at, lanes<T>);
                }
            }
        }
        deinterleave<lanes<T>>(g, grad_input, whole_input(g, 1), block, inputs, static_cast<const T*>(sums));
    }
}

template <class T>
void drawn_scatter_positions(const DrawnScatter& a, int64_t begin, int64_t end) {
    a.wide ? drawn_scatter_as<T, int32_t>(a, begin, end) : drawn_scatter_as<T, uint8_t>(a, begin, end);
}

template <class T>
constexpr Strategy<DrawnScatter> drawn_scatter[] = {
    {[](const DrawnScatter& a) { return stride2_side(a.geometry) && in_place(a.geometry, lanes<T>); },
     [](const DrawnScatter& a) { return block_units(a.geometry); }, scatter_blocks<T>},
    {[](const DrawnScatter& a) { return small_planes_scatters<T>(a.geometry); },
     [](const DrawnScatter& a) { return plane_units(a.geometry); }, small_planes_drawn_scatter<T>},
    {[](const DrawnScatter& a) { return stride2_side(a.geometry) && !a.geometry.channels_last; },
     [](const DrawnScatter& a) { return stride2_scatter_units(a.geometry); }, stride2_drawn_scatter<T>},
    {disjoint_scatters, disjoint_scatter_units, disjoint_scatter<T>},
    {[](const DrawnScatter&) { return true; }, drawn_scatter_units<T>, drawn_scatter_positions<T>},
};

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
