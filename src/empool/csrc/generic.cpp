// Kernels for any processor: SSE2 on x86-64, NEON on ARM.
#define EMPOOL_CAPABILITY generic
#define EMPOOL_NAME "default"
#define EMPOOL_LANES 4
#include "kernels.h"
