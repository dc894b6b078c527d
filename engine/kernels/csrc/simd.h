// Vectors of W floats or 32-bit integers, and the few operations that the kernels need. Each instruction set has a header of
// its own with the same names:
//
// load, store, add ...: what they say, lane by lane; loadi, storei: any 32-bit lanes.
// multiply16: products of integers that fit 16 bits.
// store_bytes, store_halves16: a lane as a saturated byte, as its low 16 bits.
// greater_mask: bit i says whether a > b in lane i. keep_above: a where x > limit, else 0.
// dot_step<BITS>: acc plus the products of STEP weights of a column with STEP signed bytes, four to a lane of w[j] and a[j].
//     Weights of 4 bits are 0 to 15, those of 8 bits are stored with 128 added, which is taken off first if SIGNED_BYTES.
// load_half_scales, load_zeros: of vector v of a tile, from a block's header (gemm.h).
#pragma once

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__) && defined(__AVX512VNNI__)
#define TL_AVX512 1
#include "simd_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define TL_AVX512 0
#include "simd_avx2.h"
#elif defined(__ARM_FEATURE_DOTPROD) && defined(__ARM_FEATURE_CRC32)
#define TL_AVX512 0
#include "simd_neon.h"
#else
#error "these kernels need AVX2, FMA and F16C, or NEON with dot products and CRC32"
#endif

namespace tl {

// bfloat16 in the low half of each lane, rounded to nearest, ties to even; for finite values.
TL_INLINE vi to_bf16(vf a) {
    const vi bits = as_int(a), odd = andi(shift_right<16>(bits), splati(1));
    return shift_right<16>(addi(addi(bits, splati(0x7fff)), odd));
}
TL_INLINE void store_bf16(uint16_t* p, vf a) { store_halves16(p, to_bf16(a)); }

// acc += a0 b0 + a1 b1 in each lane, for lanes that are pairs of bfloat16.
TL_INLINE vf dot2(vf acc, vi a, vi b) {
#if TL_AVX512 && defined(__AVX512BF16__)
    return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
#else
    const vi high = splati(static_cast<int32_t>(0xffff0000));
    acc = fma(as_float(shift_left<16>(a)), as_float(shift_left<16>(b)), acc);
    return fma(as_float(andi(a, high)), as_float(andi(b, high)), acc);
#endif
}

TL_INLINE int32_t load_word(const int8_t* p) {
    int32_t word;
    std::memcpy(&word, p, 4);
    return word;
}

// Sum of the lanes in a fixed order.
TL_INLINE float reduce_add(vf a) {
    alignas(64) float lanes[W];
    store(lanes, a);
    for (int width = W / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
    }
    return lanes[0];
}

// e^x to about 2 units in the last place (Cephes' reduction, degree-6 polynomial); exactly 0 below -87.
TL_INLINE vf exp(vf x) {
    vf bounded = max(min(x, splat(88.0f)), splat(-87.0f));
    vf n = round(mul(bounded, splat(1.44269504088896341f)));
    vf r = fma(n, splat(-0.693359375f), bounded);
    r = fma(n, splat(2.12194440e-4f), r);
    vf p = splat(1.9875691500e-4f);
    p = fma(p, r, splat(1.3981999507e-3f));
    p = fma(p, r, splat(8.3334519073e-3f));
    p = fma(p, r, splat(4.1665795894e-2f));
    p = fma(p, r, splat(1.6666665459e-1f));
    p = fma(p, r, splat(5.0000001201e-1f));
    p = add(fma(p, mul(r, r), r), splat(1.0f));
    return keep_above(x, splat(-87.0f), scale_by_power(p, n));
}

}  // namespace tl
