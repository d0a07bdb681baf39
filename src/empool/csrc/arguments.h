// What an operator hands to its kernels: plain pointers and sizes, so that the kernels need no PyTorch header.
#pragma once

#include <cstdint>

#include "window.h"

namespace empool {

enum class DType { float32, float64, bfloat16, float16 };
constexpr int dtypes = 4;

// What shares a random number.
enum class Tied : int64_t { none, channel, position, image };

// A table with a row for every number of valid activations: one set of rows for all channels, or one for each, which
// then lie side by side: value[(row * columns + column) * sets + set].
template <class E>
struct Table {
    const E* value = nullptr;
    int64_t rows = 0, columns = 0, sets = 1;
    const int32_t* row = nullptr;  // for n = 0..K valid activations

    const E* at(int64_t n, int64_t column) const { return value + (row[n] * columns + column) * sets; }
};

// Image n uses seed[n / (N / count)], and its number is that within its group of images, from `first_image` on.
struct Seeds {
    const int64_t* seed = nullptr;  // null where nothing is random
    int64_t count = 0;
    Tied tied = Tied::none;
    int64_t first_image = 0;

    bool ties_channels() const { return tied == Tied::channel || tied == Tied::image; }
    bool ties_positions() const { return tied == Tied::position || tied == Tied::image; }
};

// Ranks are counted from 0. A number has the rank `base`, and one more for each limit that it is greater than; limits
// ascend.
struct RankDraw {
    Geometry geometry;
    const void* input;
    void* output;
    void* drawn;  // uint8, or int32 if `wide`
    bool wide;
    Seeds seeds;
    Table<uint32_t> limits;
    Table<uint32_t> base;  // one column
    bool based;            // whether a base is not 0
};

struct ValueDraw {
    Geometry geometry;
    const void* input;
    void* output;
    void* drawn;
    bool wide;
    Seeds seeds;
    Table<double> beta;  // one row and column; no value: in proportion to relu(a)
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
    Table<double> weights;    // without the last columns that are 0
    Table<double> start;      // of the sums, one column: -0.0 where the weights are 1, 0, 0, ..., so that they copy
};

struct RankMeanWeightGrad {
    Geometry geometry;
    const void* input;
    const void* grad_output;
    int64_t columns;
    int64_t rows;
    const int32_t* row;
    double* sums;  // (planes, rows, columns)
};

struct ValueMean {
    Geometry geometry;
    const void* input;
    const void* grad_output;  // backward only
    void* output;
    Table<double> beta;
};

struct ValueMeanBetaGrad {
    Geometry geometry;
    const void* input;
    const void* grad_output;
    Table<double> beta;
    double* sums;  // (planes)
};

// A kernel works on the units [begin, end) of `units`, which are independent of each other; `work` is the cost of a
// unit in input elements.
struct Units {
    int64_t count;
    int64_t work;
};

// One way to run an operator.
template <class Arguments>
struct Strategy {
    bool (*serves)(const Arguments&);
    Units (*units)(const Arguments&);
    void (*run)(const Arguments&, int64_t begin, int64_t end);
};

// The ways to run an operator in one dtype: the first that serves the arguments runs, and the last serves all.
template <class Arguments>
using Strategies = const Strategy<Arguments>*;

// One table for each instruction set, indexed by DType.
struct Kernels {
    const char* name;
    Strategies<RankDraw> rank_draw[dtypes];
    Strategies<ValueDraw> value_draw[dtypes];
    Strategies<DrawnScatter> drawn_scatter[dtypes];
    Strategies<DrawnGather> drawn_gather[dtypes];
    Strategies<RankMean> rank_mean[dtypes];
    Strategies<RankMean> rank_mean_backward[dtypes];
    Strategies<RankMeanWeightGrad> rank_mean_weight_grad[dtypes];
    Strategies<ValueMean> value_mean[dtypes];
    Strategies<ValueMean> value_mean_backward[dtypes];
    Strategies<ValueMeanBetaGrad> value_mean_beta_grad[dtypes];
};

}  // namespace empool
