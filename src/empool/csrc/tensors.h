// Between PyTorch's tensors and the kernels' pointers: dtypes, the two memory layouts, windows from an operator's
// arguments.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

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

struct WindowArguments {
    const Ints &kernel_size, &stride, &padding, &dilation;
};

// `out` is filled in from `in`, or is the size of a tensor that is there.
inline Geometry geometry_of(int64_t N, int64_t C, const int64_t* in, const int64_t* out, const WindowArguments& window,
                            bool ceil_mode, bool channels_last) {
    const size_t dims = window.kernel_size.size();
    STD_TORCH_CHECK(dims >= 1 && dims <= 3 && window.stride.size() == dims && window.padding.size() == dims &&
                        window.dilation.size() == dims,
                    "empool: expected kernel_size, stride, padding and dilation of 1, 2 or 3 dimensions");
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
        STD_TORCH_CHECK(a.kernel > 0 && a.stride > 0 && a.padding >= 0 && a.dilation > 0,
                        "empool: expected positive kernel_size, stride and dilation, and padding of at least 0");
        a.out = out ? out[i] : output_size(a, ceil_mode);
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

}  // namespace empool
