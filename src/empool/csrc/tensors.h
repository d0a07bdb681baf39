// Between PyTorch's tensors and the kernels' pointers: dtypes, the two memory layouts, windows from an operator's
// arguments.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "arguments.h"

namespace empool {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Ints = std::vector<int64_t>;

inline DType dtype_of(const Tensor& tensor) {
    switch (tensor.scalar_type()) {
        case ScalarType::Float:
            return DType::float32;
        case ScalarType::Double:
            return DType::float64;
        case ScalarType::BFloat16:
            return DType::bfloat16;
        case ScalarType::Half:
            return DType::float16;
        default:
            STD_TORCH_CHECK(false, "empool: expected a float32, float64, bfloat16 or float16 tensor");
            return {};
    }
}

inline Ints sizes_of(const Tensor& tensor) {
    const auto sizes = tensor.sizes();
    return Ints(sizes.begin(), sizes.end());
}

// Channels are neighbours in memory (and there is more than one, and more than one position).
inline bool is_channels_last(const Tensor& tensor) {
    const auto sizes = tensor.sizes();
    int64_t positions = 1;
    for (size_t i = 2; i < sizes.size(); ++i) positions *= sizes[i];
    return sizes[1] > 1 && positions > 1 && tensor.stride(1) == 1;
}

inline Ints strides_of(const Ints& sizes, bool channels_last) {
    const auto at_least_one = [](int64_t size) { return size > 0 ? size : 1; };
    Ints strides(sizes.size());
    int64_t next = 1;
    if (channels_last) {
        strides[1] = next;
        next *= at_least_one(sizes[1]);
    }
    for (size_t i = sizes.size(); i-- > 0;) {
        if (channels_last && i == 1) continue;
        strides[i] = next;
        next *= at_least_one(sizes[i]);
    }
    return strides;
}

inline Tensor empty(const Ints& sizes, ScalarType dtype, bool channels_last) {
    const Ints strides = strides_of(sizes, channels_last);
    AtenTensorHandle handle;
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                                 torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
                                 aoti_torch_device_type_cpu(), 0, &handle));
    return Tensor(handle);
}

// The tensor itself if it has no gaps in this layout, else a copy.
inline Tensor dense(const Tensor& tensor, bool channels_last) {
    const Ints sizes = sizes_of(tensor), strides = strides_of(sizes, channels_last);
    bool same = true;
    for (size_t i = 0; i < sizes.size(); ++i) same = same && (sizes[i] <= 1 || tensor.stride(i) == strides[i]);
    if (same || tensor.numel() == 0) return tensor;
    Tensor copy = empty(sizes, tensor.scalar_type(), channels_last);
    torch::stable::copy_(copy, tensor);
    return copy;
}

// An adaptive grid's sizes; none or an empty list for a regular grid, of which AOTInductor makes the former.
using Outputs = std::optional<Ints>;

struct WindowArguments {
    const Ints &kernel_size, &stride, &padding, &dilation;
    const Outputs& output_size;
};

// The number of outputs is that of an adaptive grid, or of a tensor that is there (`out`), or follows from `in`.
inline Geometry geometry_of(int64_t N, int64_t C, const int64_t* in, const int64_t* out, const WindowArguments& window,
                            bool ceil_mode, bool channels_last) {
    const size_t dims = window.kernel_size.size();
    const bool adaptive = window.output_size && !window.output_size->empty();
    STD_TORCH_CHECK(dims >= 1 && dims <= 3 && window.stride.size() == dims && window.padding.size() == dims &&
                        window.dilation.size() == dims && (!adaptive || window.output_size->size() == dims),
                    "empool: expected kernel_size, stride, padding, dilation and output_size of 1, 2 or 3 dimensions");
    Geometry g;
    g.N = N;
    g.C = C;
    g.channels_last = channels_last;
    for (size_t i = 0; i < dims; ++i) {
        Axis& a = g.axis[3 - dims + i];
        a.in = in[i];
        a.kernel = window.kernel_size[i];
        a.stride = window.stride[i];
        a.padding = window.padding[i];
        a.dilation = window.dilation[i];
        a.adaptive = adaptive;
        STD_TORCH_CHECK(a.kernel > 0 && a.stride > 0 && a.padding >= 0 && a.dilation > 0,
                        "empool: expected positive kernel_size, stride and dilation, and padding of at least 0");
        if (adaptive) {
            a.out = (*window.output_size)[i];
            STD_TORCH_CHECK(a.in > 0 && a.out > 0 && a.stride == 1 && a.padding == 0 && a.dilation == 1 &&
                                (!out || out[i] == a.out),
                            "empool: expected positive sizes of an adaptive grid, and no stride, padding or dilation");
            for (int64_t o = 0; o < a.out; ++o) {
                STD_TORCH_CHECK(a.end(o) - a.start(o) <= a.kernel,
                                "empool: expected kernel_size to hold the largest adaptive window");
            }
        } else {
            a.out = out ? out[i] : output_size(a, ceil_mode);
        }
        STD_TORCH_CHECK(a.out >= 0, "empool: the window is larger than the padded input");
    }
    return g;
}

// The row of a table for each number of valid activations.
inline std::vector<int32_t> rows_of(const Ints& counts, int64_t window) {
    std::vector<int32_t> rows(static_cast<size_t>(window) + 1, 0);
    for (size_t row = 0; row < counts.size(); ++row) {
        if (counts[row] >= 0 && counts[row] <= window)
            rows[static_cast<size_t>(counts[row])] = static_cast<int32_t>(row);
    }
    return rows;
}

inline int64_t check_table(const Tensor& table, const Ints& counts, int64_t C) {
    STD_TORCH_CHECK(table.dim() == 3 && !counts.empty() && table.size(1) == static_cast<int64_t>(counts.size()) &&
                        (table.size(0) == 1 || table.size(0) == C),
                    "empool: expected a table of (1 or channels, counts, columns)");
    return table.size(0);
}

// Thresholds (sets, counts, T) as limits without what no number can tell apart: a threshold of 0 counts as base, and
// one that no 32-bit number reaches is left out.
struct Limits {
    std::vector<uint32_t> limit, base;
    std::vector<int32_t> row;
    int64_t columns = 0, sets = 1;
    bool based = false;

    // No limits.
    Limits(const Ints& counts, const Geometry& g) : base(counts.size(), 0), row(rows_of(counts, g.window())) {}

    Limits(const Tensor& table, const Ints& counts, const Geometry& g) : row(rows_of(counts, g.window())) {
        sets = check_table(table, counts, g.C);
        STD_TORCH_CHECK(table.scalar_type() == ScalarType::Long, "empool: expected thresholds of dtype int64");
        const Tensor whole = dense(table, false);
        const auto* value = static_cast<const int64_t*>(whole.const_data_ptr());
        const int64_t rows = static_cast<int64_t>(counts.size()), T = table.size(2);
        const auto reachable = [](int64_t threshold) { return threshold > 0 && threshold <= 0xffffffff; };
        base.assign(static_cast<size_t>(rows * sets), 0);
        for (int64_t i = 0; i < rows * sets; ++i) {
            int64_t count = 0;
            for (int64_t t = 0; t < T; ++t) {
                count += reachable(value[i * T + t]);
                if (value[i * T + t] <= 0) base[static_cast<size_t>(i % rows * sets + i / rows)] += 1, based = true;
            }
            if (count > columns) columns = count;
        }
        limit.assign(static_cast<size_t>(rows * sets * columns), 0xffffffffu);
        for (int64_t i = 0; i < rows * sets; ++i) {
            int64_t column = 0;
            for (int64_t t = 0; t < T; ++t) {
                if (!reachable(value[i * T + t])) continue;
                limit[static_cast<size_t>((i % rows * columns + column++) * sets + i / rows)] =
                    static_cast<uint32_t>(value[i * T + t] - 1);
            }
        }
    }

    int64_t rows() const { return static_cast<int64_t>(base.size()) / sets; }
    Table<uint32_t> table() const { return {limit.data(), rows(), columns, sets, row.data()}; }
    Table<uint32_t> bases() const { return {base.data(), rows(), 1, sets, row.data()}; }
};

// Weights (sets, counts, R) in double precision without the last columns, where all are 0.
struct Weights {
    std::vector<double> value, start;
    std::vector<int32_t> row;
    int64_t columns = 1, sets = 1;
    bool maximum = true;  // all rows are 1, 0, 0, ...

    Weights(const Tensor& table, const Ints& counts, const Geometry& g) : row(rows_of(counts, g.window())) {
        sets = check_table(table, counts, g.C);
        STD_TORCH_CHECK(table.scalar_type() == ScalarType::Double || table.scalar_type() == ScalarType::Float,
                        "empool: expected weights of dtype float64 or float32");
        const Tensor whole = dense(table, false);
        const bool wide = table.scalar_type() == ScalarType::Double;
        const void* data = whole.const_data_ptr();
        const auto at = [&](int64_t i) {
            return wide ? static_cast<const double*>(data)[i] : static_cast<const float*>(data)[i];
        };
        const int64_t rows = static_cast<int64_t>(counts.size()), R = table.size(2);
        STD_TORCH_CHECK(R > 0, "empool: expected weights of at least one rank");
        start.resize(static_cast<size_t>(rows * sets));
        for (int64_t i = 0; i < rows * sets; ++i) {
            bool copies = true;
            for (int64_t r = 0; r < R; ++r) {
                const double weight = at(i * R + r);
                if (weight != 0 && r >= columns) columns = r + 1;
                if (weight != (r == 0 ? 1 : 0)) copies = false;
            }
            start[static_cast<size_t>(i % rows * sets + i / rows)] = copies ? -0.0 : 0.0;
            maximum = maximum && copies;
        }
        value.resize(static_cast<size_t>(rows * sets * columns));
        for (int64_t i = 0; i < rows * sets; ++i) {
            for (int64_t r = 0; r < columns; ++r) {
                value[static_cast<size_t>((i % rows * columns + r) * sets + i / rows)] = at(i * R + r);
            }
        }
    }

    int64_t rows() const { return static_cast<int64_t>(start.size()) / sets; }
    Table<double> table() const { return {value.data(), rows(), columns, sets, row.data()}; }
    Table<double> starts() const { return {start.data(), rows(), 1, sets, row.data()}; }
};

// Soft pooling's factor, one or one a channel; none for stochastic pooling.
struct Factors {
    std::vector<double> value;
    std::vector<int32_t> row;

    Factors(const std::optional<Tensor>& beta, const Geometry& g) : row(rows_of({}, g.window())) {
        if (!beta) return;
        const int64_t count = beta->numel();
        const bool wide = beta->scalar_type() == ScalarType::Double;
        STD_TORCH_CHECK(
            beta->dim() <= 1 && (count == 1 || count == g.C) && (wide || beta->scalar_type() == ScalarType::Float),
            "empool: expected beta of dtype float32 or float64, one or one for each channel");
        const Tensor whole = beta->dim() == 1 ? dense(*beta, false) : *beta;
        const void* data = whole.const_data_ptr();
        for (int64_t i = 0; i < count; ++i) {
            value.push_back(wide ? static_cast<const double*>(data)[i] : static_cast<const float*>(data)[i]);
        }
    }

    Table<double> table() const {
        return {value.empty() ? nullptr : value.data(), 1, 1, static_cast<int64_t>(value.size()), row.data()};
    }
};

}  // namespace empool
