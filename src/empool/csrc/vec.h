// Vectors of L lanes, in the compiler's own vector types, so that one source serves every instruction set: an operation
// on more bytes than a register holds is split by the compiler. A lane holds a float (float32, bfloat16, float16) or a
// double.
//
// This header and the kernels are compiled once for each instruction set, in the namespace EMPOOL_CAPABILITY, so that
// the linker cannot mix them up.
#pragma once

#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define EMPOOL_INLINE inline __attribute__((always_inline))
#define EMPOOL_NOINLINE __attribute__((noinline))
#define EMPOOL_LAMBDA __attribute__((always_inline))

namespace empool {
namespace EMPOOL_CAPABILITY {

template <class T, int L>
struct VecOf {
    typedef T type __attribute__((vector_size(sizeof(T) * L)));
};
template <class T, int L>
using Vec = typename VecOf<T, L>::type;

struct BFloat16 {
    uint16_t bits;
};
struct Float16 {
    uint16_t bits;
};

// The type that a lane computes in, and the integers of its size.
template <class T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;
// Lanes in a register.
template <class T>
constexpr int lanes = EMPOOL_LANES * sizeof(float) / sizeof(Compute<T>);
template <class C>
using Int = std::conditional_t<std::is_same_v<C, double>, int64_t, int32_t>;

template <class To, class From>
EMPOOL_INLINE To bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

template <class V, class T>
EMPOOL_INLINE V load_raw(const T* p) {
    V v;
    std::memcpy(&v, p, sizeof(v));
    return v;
}

template <class V, class T>
EMPOOL_INLINE void store_raw(T* p, V v) {
    std::memcpy(p, &v, sizeof(v));
}

template <class V, class T>
EMPOOL_INLINE V fill(T value) {
    return value - V{};  // Not a sum, which would make 0 of -0.
}

template <class V>
EMPOOL_INLINE V iota() {
    V v{};
    for (unsigned i = 0; i < sizeof(V) / sizeof(v[0]); ++i) v[i] = i;
    return v;
}

// Whether any lane of a comparison's result is set.
template <class V>
EMPOOL_INLINE bool any(V mask) {
#if defined(__x86_64__)
    if constexpr (sizeof(V) == 16) return _mm_movemask_epi8(bits<__m128i>(mask)) != 0;
#if EMPOOL_LANES >= 8
    if constexpr (sizeof(V) == 32) return !_mm256_testz_si256(bits<__m256i>(mask), bits<__m256i>(mask));
#endif
#if EMPOOL_LANES >= 16
    if constexpr (sizeof(V) == 64) return _mm512_test_epi32_mask(bits<__m512i>(mask), bits<__m512i>(mask)) != 0;
#endif
#endif
    bool found = false;
    for (unsigned i = 0; i < sizeof(V) / sizeof(mask[0]); ++i) found = found || mask[i] != 0;
    return found;
}

// The result of comparing lanes. AVX512 keeps it in registers of its own, with logic that costs next to nothing.
template <class C, int L>
struct Mask {
    static constexpr bool selects_bytes = false;
    Vec<Int<C>, L> lanes;  // -1 or 0
};

#if defined(__x86_64__) && EMPOOL_LANES >= 16
template <>
struct Mask<float, 16> {
    static constexpr bool selects_bytes = true;
    __mmask16 lanes;
};
#endif

template <class C, int L>
EMPOOL_INLINE Mask<C, L> operator&(Mask<C, L> a, Mask<C, L> b) {
    return {static_cast<decltype(a.lanes)>(a.lanes & b.lanes)};
}
template <class C, int L>
EMPOOL_INLINE Mask<C, L> operator|(Mask<C, L> a, Mask<C, L> b) {
    return {static_cast<decltype(a.lanes)>(a.lanes | b.lanes)};
}
template <class C, int L>
EMPOOL_INLINE Mask<C, L> operator^(Mask<C, L> a, Mask<C, L> b) {
    return {static_cast<decltype(a.lanes)>(a.lanes ^ b.lanes)};
}
template <class C, int L>
EMPOOL_INLINE Mask<C, L> operator~(Mask<C, L> a) {
    return {static_cast<decltype(a.lanes)>(~a.lanes)};
}

template <class V>
using MaskOf =
    Mask<std::remove_reference_t<decltype(std::declval<V&>()[0])>, sizeof(V) / sizeof(std::declval<V&>()[0])>;

template <class V>
EMPOOL_INLINE MaskOf<V> greater(V a, V b) {
#if defined(__x86_64__) && EMPOOL_LANES >= 16
    if constexpr (MaskOf<V>::selects_bytes) {
        return {_mm512_cmp_ps_mask(bits<__m512>(a), bits<__m512>(b), _CMP_GT_OQ)};
    } else
#endif
        return {a > b};
}

template <class V>
EMPOOL_INLINE MaskOf<V> unequal(V a, V b) {
#if defined(__x86_64__) && EMPOOL_LANES >= 16
    if constexpr (MaskOf<V>::selects_bytes) {
        return {_mm512_cmp_ps_mask(bits<__m512>(a), bits<__m512>(b), _CMP_NEQ_UQ)};
    } else
#endif
        return {a != b};
}

template <class V>
EMPOOL_INLINE MaskOf<V> same(V a, V b) {
#if defined(__x86_64__) && EMPOOL_LANES >= 16
    if constexpr (MaskOf<V>::selects_bytes) {
        return {_mm512_cmp_ps_mask(bits<__m512>(a), bits<__m512>(b), _CMP_EQ_OQ)};
    } else
#endif
        return {a == b};
}

// Of two equal ones, `a` is the smaller and `b` the larger: where a is the later of the two, order is kept. That is
// what the processor's maximum and minimum do of their own, but compilers take comparisons for two instructions.
template <class V>
EMPOOL_INLINE V larger(V a, V b) {
    using C = std::remove_cvref_t<decltype(a[0])>;
#if defined(__x86_64__)
    if constexpr (sizeof(C) == 4 && sizeof(V) == 16) return bits<V>(_mm_max_ps(bits<__m128>(a), bits<__m128>(b)));
    if constexpr (sizeof(C) == 8 && sizeof(V) == 16) return bits<V>(_mm_max_pd(bits<__m128d>(a), bits<__m128d>(b)));
    if constexpr (sizeof(C) == 2 && sizeof(V) == 16) return bits<V>(_mm_max_epi16(bits<__m128i>(a), bits<__m128i>(b)));
#if EMPOOL_LANES >= 8
    if constexpr (sizeof(C) == 4 && sizeof(V) == 32) return bits<V>(_mm256_max_ps(bits<__m256>(a), bits<__m256>(b)));
    if constexpr (sizeof(C) == 8 && sizeof(V) == 32) return bits<V>(_mm256_max_pd(bits<__m256d>(a), bits<__m256d>(b)));
    if constexpr (sizeof(C) == 2 && sizeof(V) == 32)
        return bits<V>(_mm256_max_epi16(bits<__m256i>(a), bits<__m256i>(b)));
#endif
#if EMPOOL_LANES >= 16
    if constexpr (sizeof(C) == 4 && sizeof(V) == 64) return bits<V>(_mm512_max_ps(bits<__m512>(a), bits<__m512>(b)));
    if constexpr (sizeof(C) == 8 && sizeof(V) == 64) return bits<V>(_mm512_max_pd(bits<__m512d>(a), bits<__m512d>(b)));
    if constexpr (sizeof(C) == 2 && sizeof(V) == 64)
        return bits<V>(_mm512_max_epi16(bits<__m512i>(a), bits<__m512i>(b)));
#endif
#endif
    return a > b ? a : b;
}

template <class V>
EMPOOL_INLINE V smaller(V a, V b) {
    using C = std::remove_cvref_t<decltype(a[0])>;
#if defined(__x86_64__)
    if constexpr (sizeof(C) == 4 && sizeof(V) == 16) return bits<V>(_mm_min_ps(bits<__m128>(b), bits<__m128>(a)));
    if constexpr (sizeof(C) == 8 && sizeof(V) == 16) return bits<V>(_mm_min_pd(bits<__m128d>(b), bits<__m128d>(a)));
    if constexpr (sizeof(C) == 2 && sizeof(V) == 16) return bits<V>(_mm_min_epi16(bits<__m128i>(b), bits<__m128i>(a)));
#if EMPOOL_LANES >= 8
    if constexpr (sizeof(C) == 4 && sizeof(V) == 32) return bits<V>(_mm256_min_ps(bits<__m256>(b), bits<__m256>(a)));
    if constexpr (sizeof(C) == 8 && sizeof(V) == 32) return bits<V>(_mm256_min_pd(bits<__m256d>(b), bits<__m256d>(a)));
    if constexpr (sizeof(C) == 2 && sizeof(V) == 32)
        return bits<V>(_mm256_min_epi16(bits<__m256i>(b), bits<__m256i>(a)));
#endif
#if EMPOOL_LANES >= 16
    if constexpr (sizeof(C) == 4 && sizeof(V) == 64) return bits<V>(_mm512_min_ps(bits<__m512>(b), bits<__m512>(a)));
    if constexpr (sizeof(C) == 8 && sizeof(V) == 64) return bits<V>(_mm512_min_pd(bits<__m512d>(b), bits<__m512d>(a)));
    if constexpr (sizeof(C) == 2 && sizeof(V) == 64)
        return bits<V>(_mm512_min_epi16(bits<__m512i>(b), bits<__m512i>(a)));
#endif
#endif
    return b < a ? b : a;
}

// Where one of the two is a NaN.
template <class V>
EMPOOL_INLINE MaskOf<V> unordered(V a, V b) {
#if defined(__x86_64__) && EMPOOL_LANES >= 16
    if constexpr (MaskOf<V>::selects_bytes) {
        return {_mm512_cmp_ps_mask(bits<__m512>(a), bits<__m512>(b), _CMP_UNORD_Q)};
    } else
#endif
        return {(a != a) | (b != b)};
}

// Where a number is greater than a limit.
template <class C, int L>
EMPOOL_INLINE Mask<C, L> passes(Vec<uint32_t, L> u, Vec<uint32_t, L> limit) {
#if defined(__x86_64__) && EMPOOL_LANES >= 16
    if constexpr (Mask<C, L>::selects_bytes) {
        return {_mm512_cmpgt_epu32_mask(bits<__m512i>(u), bits<__m512i>(limit))};
    } else
#endif
        return {__builtin_convertvector(u > limit, Vec<Int<C>, L>)};
}

// Where offsets are k. Offsets are bytes, or integers of a lane's size.
template <class C, class K>
EMPOOL_INLINE Mask<C, sizeof(K) / sizeof(K{}[0])> equal(K codes, int k) {
#if defined(__x86_64__) && EMPOOL_LANES >= 16
    if constexpr (sizeof(K) == 16 && sizeof(K{}[0]) == 1) {
        return {_mm_cmpeq_epi8_mask(bits<__m128i>(codes), _mm_set1_epi8(static_cast<char>(k)))};
    } else if constexpr (sizeof(K) == 64 && Mask<C, sizeof(K) / sizeof(K{}[0])>::selects_bytes) {
        return {_mm512_cmpeq_epi32_mask(bits<__m512i>(codes), _mm512_set1_epi32(k))};
    } else
#endif
        return {codes == k};
}

// Where the mask is set and a count of a lane's size is 0.
template <class C, int L>
EMPOOL_INLINE Mask<C, L> zero_where(Mask<C, L> mask, Vec<Int<C>, L> count) {
#if defined(__x86_64__) && EMPOOL_LANES >= 16
    if constexpr (Mask<C, L>::selects_bytes) {
        return {_mm512_mask_testn_epi32_mask(mask.lanes, bits<__m512i>(count), bits<__m512i>(count))};
    } else
#endif
        return {mask.lanes & (count == 0)};
}

// sum + term where the mask is set, else sum; a sum is never -0, so that adding 0 instead comes to the same.
template <class C, int L>
EMPOOL_INLINE Vec<C, L> add_where(Mask<C, L> mask, Vec<C, L> sum, Vec<C, L> term) {
#if defined(__x86_64__) && EMPOOL_LANES >= 16
    if constexpr (Mask<C, L>::selects_bytes) {
        const auto s = bits<__m512>(sum);
        return bits<Vec<C, L>>(_mm512_mask_add_ps(s, mask.lanes, s, bits<__m512>(term)));
    } else
#endif
        return sum + (mask.lanes ? term : Vec<C, L>{});
}

// Integers of a lane's size, likewise.
template <class C, int L>
EMPOOL_INLINE Vec<Int<C>, L> add_where(Mask<C, L> mask, Vec<Int<C>, L> sum, Vec<Int<C>, L> term) {
#if defined(__x86_64__) && EMPOOL_LANES >= 16
    if constexpr (Mask<C, L>::selects_bytes) {
        const auto s = bits<__m512i>(sum);
        return bits<Vec<Int<C>, L>>(_mm512_mask_add_epi32(s, mask.lanes, s, bits<__m512i>(term)));
    } else
#endif
        return sum + (mask.lanes & term);
}

// a where the mask is set, else b: activations or offsets.
template <class C, int L, class V>
EMPOOL_INLINE V select(Mask<C, L> mask, V a, V b) {
#if defined(__x86_64__) && EMPOOL_LANES >= 16
    if constexpr (Mask<C, L>::selects_bytes) {
        if constexpr (sizeof(V) == 16) {
            return bits<V>(_mm_mask_blend_epi8(mask.lanes, bits<__m128i>(b), bits<__m128i>(a)));
        } else {
            return bits<V>(_mm512_mask_blend_epi32(mask.lanes, bits<__m512i>(b), bits<__m512i>(a)));
        }
    } else
#endif
        return mask.lanes ? a : b;
}

template <class C, int L>
EMPOOL_INLINE bool any(Mask<C, L> mask) {
    if constexpr (Mask<C, L>::selects_bytes) {
        return mask.lanes != 0;
    } else {
        return any(mask.lanes);
    }
}

// Integers of another size, in steps of a factor of two: GCC takes a longer step apart, element by element.
template <class To, class From, int L>
EMPOOL_INLINE Vec<To, L> convert(Vec<From, L> v) {
    if constexpr (sizeof(To) > 2 * sizeof(From)) {
        using Next = std::conditional_t<sizeof(From) == 1, uint16_t, uint32_t>;
        return convert<To, Next, L>(__builtin_convertvector(v, Vec<Next, L>));
    } else if constexpr (2 * sizeof(To) < sizeof(From)) {
        using Next = std::conditional_t<sizeof(From) == 8, uint32_t, uint16_t>;
        return convert<To, Next, L>(__builtin_convertvector(v, Vec<Next, L>));
    } else {
        return __builtin_convertvector(v, Vec<To, L>);
    }
}

template <class V>
constexpr int size_of = sizeof(V) / sizeof(std::declval<V>()[0]);

template <int n, class V, int... i>
EMPOOL_INLINE V zip_at(V a, V b, std::integer_sequence<int, i...>) {
    return __builtin_shufflevector(a, b, ((i & 1) * size_of<V> + (i + n * size_of<V>) / 2)...);
}

// a[0], b[0], a[1], b[1], ...: the first half (n = 0) or the second (n = 1).
template <int n, class V>
EMPOOL_INLINE V zip(V a, V b) {
    return zip_at<n>(a, b, std::make_integer_sequence<int, size_of<V>>{});
}

template <int n, class V, int... i>
EMPOOL_INLINE V unzip_at(V a, V b, std::integer_sequence<int, i...>) {
    return __builtin_shufflevector(a, b, (2 * i + n)...);
}

// The even elements (n = 0) or the odd ones (n = 1) of a and b in a row.
template <int n, class V>
EMPOOL_INLINE V unzip(V a, V b) {
    return unzip_at<n>(a, b, std::make_integer_sequence<int, size_of<V>>{});
}

// Half precision. Widening is exact; narrowing rounds to the nearest, ties to even.

template <int L>
EMPOOL_INLINE Vec<float, L> widen(Vec<uint16_t, L> h, BFloat16) {
    return bits<Vec<float, L>>(__builtin_convertvector(h, Vec<uint32_t, L>) << 16);
}

template <int L>
EMPOOL_INLINE Vec<uint16_t, L> narrow(Vec<float, L> f, BFloat16) {
    const auto x = bits<Vec<uint32_t, L>>(f);
    const auto rounded = (x + 0x7fff + ((x >> 16) & 1)) >> 16;
    return __builtin_convertvector(f != f ? fill<Vec<uint32_t, L>>(0x7fc0u) : rounded, Vec<uint16_t, L>);
}

template <int L>
EMPOOL_INLINE Vec<float, L> widen(Vec<uint16_t, L> h, Float16) {
#if defined(__x86_64__) && EMPOOL_LANES >= 8
    if constexpr (L == 4) return bits<Vec<float, 4>>(_mm_cvtph_ps(_mm_cvtsi64_si128(bits<int64_t>(h))));
    if constexpr (L == 8) return bits<Vec<float, 8>>(_mm256_cvtph_ps(bits<__m128i>(h)));
#if EMPOOL_LANES >= 16
    if constexpr (L == 16) return bits<Vec<float, 16>>(_mm512_cvtph_ps(bits<__m256i>(h)));
#endif
#endif
    using F = Vec<float, L>;
    using U = Vec<uint32_t, L>;
    const U x = __builtin_convertvector(h, U);
    const U magnitude = (x & 0x7fff) << 13;
    const U normal = magnitude + (112u << 23);
    const U special = magnitude + (224u << 23);  // inf and NaN
    // A subnormal is an integer below 2^10 in units of 2^-24: as the mantissa of a number near 2^-14 it is exact.
    const U subnormal = bits<U>(bits<F>(magnitude + (113u << 23)) - bits<F>(fill<U>(113u << 23)));
    U y = magnitude < (1u << 23) ? subnormal : normal;
    y = magnitude >= (31u << 23) ? special : y;
    return bits<F>(y | ((x & 0x8000) << 16));
}

template <int L>
EMPOOL_INLINE Vec<uint16_t, L> narrow(Vec<float, L> f, Float16) {
#if defined(__x86_64__) && EMPOOL_LANES >= 8
    constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    if constexpr (L == 4) return bits<Vec<uint16_t, 4>>(_mm_cvtsi128_si64(_mm_cvtps_ph(bits<__m128>(f), nearest)));
    if constexpr (L == 8) return bits<Vec<uint16_t, 8>>(_mm256_cvtps_ph(bits<__m256>(f), nearest));
#if EMPOOL_LANES >= 16
    if constexpr (L == 16) return bits<Vec<uint16_t, 16>>(_mm512_cvtps_ph(bits<__m512>(f), nearest));
#endif
#endif
    using F = Vec<float, L>;
    using U = Vec<uint32_t, L>;
    const U x = bits<U>(f), magnitude = x & 0x7fffffffu;
    // Adding 0.5 moves the bits of a subnormal result to the end of the mantissa, rounded by the addition itself.
    const U subnormal = bits<U>(bits<F>(magnitude) + 0.5f) - (126u << 23);
    const U normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    const U special = magnitude > 0x7f800000u ? fill<U>(0x7e00u) : fill<U>(0x7c00u);
    U y = magnitude < (113u << 23) ? subnormal : normal;
    y = magnitude >= 0x47800000u ? special : y;
    return __builtin_convertvector(y | ((x >> 16) & 0x8000), Vec<uint16_t, L>);
}

template <int L, class T>
EMPOOL_INLINE Vec<Compute<T>, L> load(const T* p) {
    if constexpr (sizeof(T) == 2) {
        return widen<L>(load_raw<Vec<uint16_t, L>>(p), T{});
    } else {
        return load_raw<Vec<T, L>>(p);
    }
}

template <int L, class T>
EMPOOL_INLINE void store(T* p, Vec<Compute<T>, L> v) {
    if constexpr (sizeof(T) == 2) {
        store_raw(p, narrow<L>(v, T{}));
    } else {
        store_raw(p, v);
    }
}

// Stores values that T holds exactly (they were loaded as T), NaN excepted.
template <int L, class T>
EMPOOL_INLINE void store_exact(T* p, Vec<Compute<T>, L> v) {
    if constexpr (std::is_same_v<T, BFloat16>) {
        store_raw(p, __builtin_convertvector(bits<Vec<uint32_t, L>>(v) >> 16, Vec<uint16_t, L>));
    } else {
        store<L>(p, v);
    }
}

// Rounds to T and back. bfloat16 needs no care for NaN here: in a sum of such values the low half of a NaN is 0, and
// rounding leaves it alone.
template <class T, int L>
EMPOOL_INLINE Vec<Compute<T>, L> round_to(Vec<Compute<T>, L> v) {
    if constexpr (std::is_same_v<T, BFloat16>) {
        const auto x = bits<Vec<uint32_t, L>>(v);
        return bits<Vec<float, L>>((x + 0x7fff + ((x >> 16) & 1)) & 0xffff0000u);
    } else if constexpr (sizeof(T) == 2) {
        return widen<L>(narrow<L>(v, T{}), T{});
    } else {
        return v;
    }
}

// How many entries a table has for `look_up`.
constexpr int table_size = 16;

// table[index] in every lane, of which the first `count` entries are asked for.
template <class C, int L>
EMPOOL_INLINE Vec<C, L> look_up(const C* table, Vec<Int<C>, L> index, int count) {
    using V = Vec<C, L>;
#if defined(__x86_64__) && EMPOOL_LANES >= 16
    if constexpr (sizeof(C) == 4 && L == 16) {
        return bits<V>(_mm512_permutexvar_ps(bits<__m512i>(index), _mm512_loadu_ps(table)));
    }
    if constexpr (sizeof(C) == 8 && L == 8) {
        return bits<V>(
            _mm512_permutex2var_pd(_mm512_loadu_pd(table), bits<__m512i>(index), _mm512_loadu_pd(table + 8)));
    }
#elif defined(__x86_64__) && EMPOOL_LANES >= 8
    if constexpr (sizeof(C) == 4 && L == 8) {
        const auto low = bits<V>(_mm256_permutevar8x32_ps(_mm256_loadu_ps(table), bits<__m256i>(index)));
        // The permutation reads three bits of an index.
        return index > 7 ? bits<V>(_mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), bits<__m256i>(index))) : low;
    }
#endif
    V found{};
    for (int i = 0; i < count; ++i) found = index == i ? fill<V>(table[i]) : found;
    return found;
}

// Copies the first `count` of N elements.
template <class T, int N>
EMPOOL_INLINE void copy_first(T* to, const T (&from)[N], int64_t count) {
#if defined(__x86_64__) && EMPOOL_LANES >= 16
    if constexpr (sizeof(from) % 64 == 0) {
        for (int64_t byte = 0, bytes = count * static_cast<int64_t>(sizeof(T)); byte < bytes; byte += 64) {
            const __mmask64 mask = bytes - byte < 64 ? (uint64_t(1) << (bytes - byte)) - 1 : ~uint64_t(0);
            _mm512_mask_storeu_epi8(reinterpret_cast<char*>(to) + byte, mask,
                                    _mm512_loadu_si512(reinterpret_cast<const char*>(from) + byte));
        }
        return;
    }
#endif
    std::memcpy(static_cast<void*>(to), from, static_cast<size_t>(count) * sizeof(T));
}

template <class T>
EMPOOL_INLINE Compute<T> load_one(const T* p) {
    if constexpr (sizeof(T) == 2) {
        Vec<uint16_t, lanes<T>> h{};
        h[0] = p->bits;
        return widen<lanes<T>>(h, T{})[0];
    } else {
        return *p;
    }
}

template <class T>
EMPOOL_INLINE T round_one(Compute<T> value) {
    if constexpr (sizeof(T) == 2) {
        return T{narrow<lanes<T>>(fill<Vec<float, lanes<T>>>(value), T{})[0]};
    } else {
        return value;
    }
}

// The value, or 0 for -0.
template <class T>
EMPOOL_INLINE T positive_zero(T value) {
    if constexpr (sizeof(T) == 2) {
        return value.bits == 0x8000 ? T{} : value;
    } else {
        return value + T{};
    }
}

// body(first), body(first + 1), ..., body(n - 1); unrolled if n is known to be N > 0.
template <int N, int first, class Body>
EMPOOL_INLINE void repeat(int n, const Body& body) {
    if constexpr (N > first) {
        [&]<int... i>(std::integer_sequence<int, i...>)
            EMPOOL_LAMBDA { (body(first + i), ...); }(std::make_integer_sequence<int, N - first>{});
    } else if constexpr (N <= 0) {
        for (int k = first; k < n; ++k) body(k);
    }
}

// body(j, k) for all j < k < N, unrolled: GCC leaves a loop in a loop, and vectors that it indexes go to memory.
template <int N, class Body>
EMPOOL_INLINE void for_pairs(const Body& body) {
    constexpr auto later_of = [](int pair) {
        int k = 1;
        while (k * (k + 1) / 2 <= pair) ++k;
        return k;
    };
    [&]<int... i>(std::integer_sequence<int, i...>) EMPOOL_LAMBDA {
        (body(i - later_of(i) * (later_of(i) - 1) / 2, later_of(i)), ...);
    }(std::make_integer_sequence<int, N*(N - 1) / 2>{});
}

// Asks for the cache line of p before it is read (or written): where channels are neighbours in memory, the rows of a
// window are too many streams for the processor to foresee. The line need not exist.
template <bool writes = false, class T>
EMPOOL_INLINE void prefetch(const T* p, int64_t offset = 0) {
    __builtin_prefetch(reinterpret_cast<const char*>(p) + offset * static_cast<int64_t>(sizeof(T)), writes);
}

// The lines of `count` elements.
template <bool writes = false, class T>
EMPOOL_INLINE void prefetch_row(const T* p, int64_t offset, int64_t count) {
    constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
    for (int64_t i = 0; i < count; i += line) prefetch<writes>(p, offset + i);
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
