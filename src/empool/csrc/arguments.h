// What an operator hands to its kernels: plain pointers and sizes, so that the kernels need no PyTorch header.
#pragma once

#include <cstdint>

#include "window.h"

namespace empool {

enum class DType { float32, float64, bfloat16, float16 };
constexpr int dtypes = 4;

// Seeds: image n uses seed[n / (N / seeds)] and counts images from 0 within its group.
struct RankDraw {
    Geometry geometry;
    const void* input;
    void* output;
    void* drawn;  // uint8, or int32 if `wide`
    bool wide;
    const int64_t* seed;
    int64_t seeds;
    const int64_t* thresholds;  // (counts, T), ascending in a row
    int64_t T;
    const int32_t* row;  // of the thresholds, for n = 0..K valid activations
};

struct ValueDraw {
    Geometry geometry;
    const void* input;
    void* output;
    void* drawn;
    bool wide;
    const int64_t* seed;
    int64_t seeds;
};

struct DrawnScatter {
    Geometry geometry;
    const void* grad_output;
    const void* drawn;
    void* grad_input;
    bool wide;
};

struct DrawnGather {
    Geometry geometry;
    const void* input;
    const void* drawn;
    void* output;
    bool wide;
};

struct RankMean {
    Geometry geometry;
    const void* input;
    const void* grad_output;  // backward only
    void* output;             // backward: grad_input
    const double* weights;    // (counts, R)
    int64_t R;
    bool maximum;        // R = 1 with weight 1: values are copied, not summed
    const int32_t* row;  // of the weights, for n = 0..K valid activations
};

// A kernel works on the units [begin, end) of `units`, which are independent of each other; `work` is the cost of a
// unit in input elements.
struct Units {
    int64_t count;
    int64_t work;
};

template <class Arguments>
struct Kernel {
    Units (*units)(const Arguments&);
    void (*run)(const Arguments&, int64_t begin, int64_t end);
};

// One table for each instruction set, indexed by DType.
struct Kernels {
    const char* name;
    Kernel<RankDraw> rank_draw[dtypes];
    Kernel<ValueDraw> value_draw[dtypes];
    Kernel<DrawnScatter> drawn_scatter[dtypes];
    Kernel<DrawnGather> drawn_gather[dtypes];
    Kernel<RankMean> rank_mean[dtypes];
    Kernel<RankMean> rank_mean_backward[dtypes];
};

}  // namespace empool
