// The table of one instruction set's kernels: included, after everything else, by generic.cpp, avx2.cpp and avx512.cpp.
#pragma once

#include "beta_grad.h"
#include "drawn_gather.h"
#include "drawn_scatter.h"
#include "mean_backward.h"
#include "rank_draw.h"
#include "rank_mean.h"
#include "stride2_value.h"
#include "value_draw.h"

// In the order of DType.
#define EMPOOL_DTYPES(stem) {stem<float>, stem<double>, stem<BFloat16>, stem<Float16>}

namespace empool {
namespace EMPOOL_CAPABILITY {

extern const Kernels kernels;
const Kernels kernels = {
    EMPOOL_NAME,
    EMPOOL_DTYPES(rank_draw),
    EMPOOL_DTYPES(value_draw),
    EMPOOL_DTYPES(drawn_scatter),
    EMPOOL_DTYPES(drawn_gather),
    EMPOOL_DTYPES(rank_mean),
    EMPOOL_DTYPES(rank_mean_backward),
    EMPOOL_DTYPES(rank_mean_weight_grad),
    EMPOOL_DTYPES(value_mean),
    EMPOOL_DTYPES(value_mean_backward),
    EMPOOL_DTYPES(value_mean_beta_grad),
};

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
