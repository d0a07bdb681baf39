// Kernels for AVX2. What the kernels share with code for any processor is included before the instruction set changes,
// so that no function compiled for AVX2 can be picked by the linker for a processor without it.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>

#include "arguments.h"
#include "window.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,f16c")
#endif
#define EMPOOL_CAPABILITY avx2
#define EMPOOL_NAME "avx2"
#define EMPOOL_LANES 8
#include "kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
