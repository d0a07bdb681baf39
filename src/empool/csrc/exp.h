// The weights of soft pooling, exp(beta * (a - largest)), and what stands for them in stochastic pooling, relu(a).
//
// A draw must not depend on who computes it, so the exponential is a polynomial, each product and sum rounded: with
// x = (beta * a - largest) * log2(e), n = floor(x) and f = x - n, it is P(f) * 2^n, or 0 where x < -126. The constants
// are those of reference.py. A mean may be rounded otherwise, so it takes a shorter polynomial and, where the sums stay
// in range, does without the largest.
#pragma once

#include "windows.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

// The greatest integer that is not above x, as an integer and as a number; |x| is small.
template <class C, int L>
EMPOOL_INLINE std::pair<Vec<Int<C>, L>, Vec<C, L>> floor_of(Vec<C, L> x) {
    using V = Vec<C, L>;
    using O = Vec<Int<C>, L>;
#if defined(__x86_64__) && EMPOOL_LANES >= 16
    if constexpr (sizeof(C) == 4 && L == 16) {
        const __m512 floor = _mm512_floor_ps(bits<__m512>(x));
        return {bits<O>(_mm512_cvttps_epi32(floor)), bits<V>(floor)};
    }
#endif
    O whole = __builtin_convertvector(x, O);
    whole += __builtin_convertvector(whole, V) > x;  // Conversion cuts off towards 0.
    return {whole, __builtin_convertvector(whole, V)};
}

// 2^x for x <= 0; of a NaN, anything but a number above 2.
template <class C, int L>
EMPOOL_INLINE Vec<C, L> exp2_of(Vec<C, L> x) {
    using V = Vec<C, L>;
    constexpr int mantissa = sizeof(C) == 8 ? 52 : 23, bias = sizeof(C) == 8 ? 1023 : 127;
    const V least = fill<V>(C(-126));
    const auto horner = [](V f) EMPOOL_LAMBDA {
        V p = fill<V>(C(0x1.cacdf6p-13));
        p = p * f + C(0x1.44bd44p-10);
        p = p * f + C(0x1.3d5826p-7);
        p = p * f + C(0x1.c67ee4p-5);
        p = p * f + C(0x1.ebfdf8p-3);
        p = p * f + C(0x1.62e428p-1);
        return p * f + C(1);
    };
#if defined(__x86_64__) && EMPOOL_LANES >= 16
    if constexpr (sizeof(C) == 4 && L == 16) {
        const __m512 floor = _mm512_floor_ps(bits<__m512>(x));
        const auto normal = _mm512_cmp_ps_mask(bits<__m512>(x), bits<__m512>(least), _CMP_GE_OQ);
        return bits<V>(_mm512_maskz_scalef_ps(normal, bits<__m512>(horner(x - bits<V>(floor))), floor));
    }
#endif
    const V bounded = larger(x, least);
    const auto [whole, floor] = floor_of<C, L>(bounded);
    const V scale = bits<V>((whole + bias) << mantissa);
    return select(greater(least, x), V{}, horner(bounded - floor) * scale);
}

// a * b + sum, rounded once where the processor can: for means, whose last bits are nobody's promise.
template <class V>
EMPOOL_INLINE V multiply_add(V a, V b, V sum) {
#if defined(__x86_64__) && EMPOOL_LANES >= 16
    if constexpr (sizeof(V) == 64 && sizeof(a[0]) == 4) {
        return bits<V>(_mm512_fmadd_ps(bits<__m512>(a), bits<__m512>(b), bits<__m512>(sum)));
    }
#endif
    return a * b + sum;
}

constexpr float log2e = 0x1.715476p0f;

// 2^(a * b), right to 2e-7 where that is between 2^-60 and 2^60, and for means that are rounded to a half type T to
// 1e-4 (bfloat16) or 3e-6. Far below it is next to 0; far above, of an infinity and of a NaN it is more than 2^60, or
// not a number.
template <class T, int L>
EMPOOL_INLINE Vec<float, L> exp2_near(Vec<float, L> a, Vec<float, L> b) {
    using V = Vec<float, L>;
    constexpr int degree = std::is_same_v<T, BFloat16> ? 3 : std::is_same_v<T, Float16> ? 4 : 5;
    constexpr float coefficient[3][6] = {
        {0x1.fff692p-1f, 0x1.62f31ap-1f, 0x1.f0de1ap-3f, 0x1.c3f76p-5f},
        {0x1.ffffe8p-1f, 0x1.62e0dcp-1f, 0x1.ec06dap-3f, 0x1.ca1442p-5f, 0x1.3997d6p-7f},
        {0x1.000002p0f, 0x1.62e428p-1f, 0x1.ebf918p-3f, 0x1.c6b6e4p-5f, 0x1.3d0c52p-7f, 0x1.5c08e6p-10f}};
    const auto& c = coefficient[degree - 3];
    V p = fill<V>(c[degree]);
#if defined(__x86_64__) && EMPOOL_LANES >= 16
    if constexpr (L == 16) {
        const __m512 n = _mm512_roundscale_ps(bits<__m512>(a * b), _MM_FROUND_TO_NEAREST_INT);
        const V f = bits<V>(_mm512_fmsub_ps(bits<__m512>(a), bits<__m512>(b), n));
        repeat<degree, 0>(0, [&](int i) EMPOOL_LAMBDA { p = multiply_add(p, f, fill<V>(c[degree - 1 - i])); });
        return bits<V>(_mm512_scalef_ps(bits<__m512>(p), n));
    }
#endif
    const V bounded = larger(fill<V>(-125.0f), smaller(a * b, fill<V>(126.9f)));
    const V shifted = bounded + 0x1.8p23f, f = bounded - (shifted - 0x1.8p23f);
    for (int i = degree - 1; i >= 0; --i) p = p * f + c[i];
    return p * bits<V>((bits<Vec<int32_t, L>>(shifted) + 127) << 23);
}

// Whether a mean of these sums of weights and of products may be trusted: no weight that matters was cut off.
template <bool soft, class V>
EMPOOL_INLINE auto is_near(V total, V sum) {
    using C = std::remove_cvref_t<decltype(total[0])>;
    constexpr C least = C(0x1p-40), most = C(0x1p40);
    if constexpr (soft) return (total >= least) & (total <= most) & (sum - sum == 0);
    return ((total >= least) & (total <= most)) | (total == 0);
}

// Soft pooling's beta in the lanes of a window, or none.
template <class T>
class Beta {
    using C = Compute<T>;
    using V = Vec<C, lanes<T>>;

  public:
    // One for all lanes, or null.
    explicit Beta(const double* value) : value_(value), by_lane_(false) {}
    template <class Table>
    EMPOOL_INLINE Beta(const Table& table, int64_t channel) : value_(table.row(0)), by_lane_(table.by_lane()) {
        if (by_lane_) value_ += channel;
    }
    bool none() const { return value_ == nullptr; }
    EMPOOL_INLINE V at(int64_t c) const {
        if (!by_lane_) return fill<V>(static_cast<C>(*value_));
        return __builtin_convertvector(load_raw<Vec<double, lanes<T>>>(value_ + c), V);
    }

  private:
    const double* value_;
    bool by_lane_;
};

// The scores beta * a of a window, held[0..n), and their largest.
template <class C, int L, int N, class Tap>
EMPOOL_INLINE Vec<C, L> scores_of(int n, const Tap& tap, Vec<C, L> beta, Vec<C, L>* held) {
    using V = Vec<C, L>;
    V largest = fill<V>(-static_cast<C>(__builtin_inf()));
    const auto none = ~unequal(beta, V{});
    repeat<N, 0>(n, [&](int k) EMPOOL_LAMBDA {
        held[k] = select(none, V{}, beta * tap(k));
        largest = larger(held[k], largest);
    });
    return largest;
}

template <class C, int L>
EMPOOL_INLINE Vec<C, L> power_of(Vec<C, L> score, Vec<C, L> largest) {
    return select(unequal(score, largest), (score - largest) * C(1.4426950408889634), Vec<C, L>{});
}

// exp(score - largest) for a mean, of a NaN too: a polynomial is right to 1e-8, so float64 takes the library's.
template <class C, int L>
EMPOOL_INLINE Vec<C, L> weight_of(Vec<C, L> score, Vec<C, L> largest) {
    const auto power = power_of<C, L>(score, largest);
    if constexpr (sizeof(C) == 4) return select(unordered(power, power), power, exp2_of<C, L>(power));
    Vec<C, L> weight{};
    for (int l = 0; l < L; ++l) weight[l] = static_cast<C>(__builtin_exp2(static_cast<double>(power[l])));
    return weight;
}

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
