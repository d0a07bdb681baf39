// Philox4x32-7 (Salmon et al., SC 2011), for many counters at once.
//
//   round: (hi0, lo0) = 0xD2511F53 * c0, (hi1, lo1) = 0xCD9E8D57 * c2, c = (hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0)
//
// Output (n, c, od, oh, ow) has the counter (ow >> 2, od * OH + oh, c, n) and takes word ow & 3 of the result: one call
// serves four neighbours of a row. A counter sits in the low half of a 64-bit lane, whose high half is left to hold
// anything: a 32x32->64 product reads low halves only, so that a round needs no shuffle.
#pragma once

#include "vec.h"

namespace empool {
namespace EMPOOL_CAPABILITY {

constexpr int philox_rounds = 7;

template <int H>
EMPOOL_INLINE Vec<uint64_t, H> multiply_low_halves(Vec<uint64_t, H> a, uint32_t b) {
    using V = Vec<uint64_t, H>;
#if defined(__x86_64__)
    if constexpr (H == 2) return bits<V>(_mm_mul_epu32(bits<__m128i>(a), _mm_set1_epi64x(b)));
#if EMPOOL_LANES >= 8
    if constexpr (H == 4) return bits<V>(_mm256_mul_epu32(bits<__m256i>(a), _mm256_set1_epi64x(b)));
#endif
#if EMPOOL_LANES >= 16
    if constexpr (H == 8) return bits<V>(_mm512_mul_epu32(bits<__m512i>(a), _mm512_set1_epi64(b)));
#endif
#endif
    return (a & 0xffffffffu) * b;
}

template <int H>
struct PhiloxKeys {
    Vec<uint64_t, H> k0[philox_rounds] = {}, k1[philox_rounds] = {};

    void set(int lane, int64_t seed) {
        each(seed, [&](int round, uint32_t low, uint32_t high) {
            k0[round][lane] = low;
            k1[round][lane] = high;
        });
    }

    void set_all(int64_t seed) {
        each(seed, [&](int round, uint32_t low, uint32_t high) {
            k0[round] = fill<Vec<uint64_t, H>>(low);
            k1[round] = fill<Vec<uint64_t, H>>(high);
        });
    }

  private:
    // The keys of every round.
    template <class Set>
    static EMPOOL_INLINE void each(int64_t seed, const Set& set) {
        uint32_t low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32);
        for (int round = 0; round < philox_rounds; ++round) {
            set(round, low, high);
            low += 0x9E3779B9u;
            high += 0xBB67AE85u;
        }
    }
};

// Replaces the counters by the result; the high halves come out as anything.
template <int H>
EMPOOL_INLINE void philox(Vec<uint64_t, H>& c0, Vec<uint64_t, H>& c1, Vec<uint64_t, H>& c2, Vec<uint64_t, H>& c3,
                          const PhiloxKeys<H>& keys) {
    for (int round = 0; round < philox_rounds; ++round) {
        const auto p0 = multiply_low_halves<H>(c0, 0xD2511F53u), p1 = multiply_low_halves<H>(c2, 0xCD9E8D57u);
        c0 = (p1 >> 32) ^ c1 ^ keys.k0[round];
        c1 = p1;
        c2 = (p0 >> 32) ^ c3 ^ keys.k1[round];
        c3 = p0;
    }
}

// Joins the low halves of two vectors: even lanes from a, odd lanes from b.
template <int H>
EMPOOL_INLINE Vec<uint32_t, 2 * H> join_low_halves(Vec<uint64_t, H> a, Vec<uint64_t, H> b) {
    return bits<Vec<uint32_t, 2 * H>>((a & 0xffffffffu) | (b << 32));
}

// The numbers of four neighbouring outputs for L channels (or L planes): lane l has the counter words c2[l] and c3[l].
// Two chains, for even and odd lanes, hide each other's latency.
template <int L>
struct PhiloxLanes {
    static constexpr int H = L / 2;
    PhiloxKeys<H> keys[2];
    Vec<uint64_t, H> c2[2] = {}, c3[2] = {};

    void set(int lane, int64_t seed, int64_t channel, int64_t image) {
        keys[lane & 1].set(lane >> 1, seed);
        c2[lane & 1][lane >> 1] = static_cast<uint32_t>(channel);
        c3[lane & 1][lane >> 1] = static_cast<uint32_t>(image);
    }

    // u[j * stride + l] is the number of output 4 * quad + j, lane l, with `channel` added to the lane's own.
    EMPOOL_INLINE void fill_quad(uint32_t quad, uint32_t row, uint32_t channel, uint32_t* u, int64_t stride) const {
        Vec<uint64_t, H> a[4] = {fill<Vec<uint64_t, H>>(quad), fill<Vec<uint64_t, H>>(row), c2[0] + channel, c3[0]};
        Vec<uint64_t, H> b[4] = {a[0], a[1], c2[1] + channel, c3[1]};
        philox<H>(a[0], a[1], a[2], a[3], keys[0]);
        philox<H>(b[0], b[1], b[2], b[3], keys[1]);
        for (int j = 0; j < 4; ++j) store_raw(u + j * stride, join_low_halves<H>(a[j], b[j]));
    }
};

}  // namespace EMPOOL_CAPABILITY
}  // namespace empool
