// Vectors of W floats or 32-bit integers over AVX-512 (with VNNI) or AVX2, and the few operations that the kernels need.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "these kernels need AVX2, FMA and F16C"
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__) && defined(__AVX512VNNI__)
#define TL_AVX512 1
#else
#define TL_AVX512 0
#endif

#define TL_INLINE static inline __attribute__((always_inline))
// Loops over registers must vanish: their bounds are constants.
#define TL_UNROLL _Pragma("GCC unroll 16")

namespace tl {

#if TL_AVX512
using vf = __m512;
using vi = __m512i;
constexpr int W = 16;
constexpr bool VNNI = true;
TL_INLINE vf load(const float* p) { return _mm512_loadu_ps(p); }
TL_INLINE void store(float* p, vf a) { _mm512_storeu_ps(p, a); }
TL_INLINE vf load_f16(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
TL_INLINE vf load_bf16(const uint16_t* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
TL_INLINE vi loadi(const void* p) { return _mm512_loadu_si512(p); }
TL_INLINE vf splat(float a) { return _mm512_set1_ps(a); }
TL_INLINE vi splati(int32_t a) { return _mm512_set1_epi32(a); }
TL_INLINE vf add(vf a, vf b) { return _mm512_add_ps(a, b); }
TL_INLINE vf sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
TL_INLINE vf mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
TL_INLINE vf div(vf a, vf b) { return _mm512_div_ps(a, b); }
TL_INLINE vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
TL_INLINE vf max(vf a, vf b) { return _mm512_max_ps(a, b); }
TL_INLINE vf min(vf a, vf b) { return _mm512_min_ps(a, b); }
TL_INLINE vf abs(vf a) { return _mm512_abs_ps(a); }
TL_INLINE vf round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
TL_INLINE vf to_float(vi a) { return _mm512_cvtepi32_ps(a); }
TL_INLINE vi to_int(vf a) { return _mm512_cvtps_epi32(a); }
TL_INLINE vi addi(vi a, vi b) { return _mm512_add_epi32(a, b); }
TL_INLINE vi madd16(vi a, vi b) { return _mm512_madd_epi16(a, b); }
TL_INLINE vi low_nibbles(vi a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
TL_INLINE vi high_nibbles(vi a) { return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15)); }
TL_INLINE float reduce_max(vf a) { return _mm512_reduce_max_ps(a); }
TL_INLINE int32_t reduce_addi(vi a) { return _mm512_reduce_add_epi32(a); }
TL_INLINE void store_bytes(int8_t* p, vi a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(a)); }
TL_INLINE uint32_t greater_mask(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
// a where x > limit, else 0.
TL_INLINE vf keep_above(vf x, vf limit, vf a) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_GT_OQ), a); }
TL_INLINE vf scale_by_power(vf a, vf n) { return _mm512_scalef_ps(a, n); }
// acc += sums of four products of unsigned bytes u and signed bytes s.
TL_INLINE vi dot4(vi acc, vi u, vi s) { return _mm512_dpbusd_epi32(acc, u, s); }
TL_INLINE vf as_float(vi a) { return _mm512_castsi512_ps(a); }
TL_INLINE vi as_int(vf a) { return _mm512_castps_si512(a); }
TL_INLINE vi andi(vi a, vi b) { return _mm512_and_si512(a, b); }
TL_INLINE vi ori(vi a, vi b) { return _mm512_or_si512(a, b); }
template <int N>
TL_INLINE vi shift_left(vi a) { return _mm512_slli_epi32(a, N); }
template <int N>
TL_INLINE vi shift_right(vi a) { return _mm512_srli_epi32(a, N); }
TL_INLINE void storei(void* p, vi a) { _mm512_storeu_si512(p, a); }
// The low 16 bits of each lane.
TL_INLINE void store_halves16(uint16_t* p, vi a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(a)); }
// The header of a block is two panels of 8 columns: 16 bytes of fp16 scales and 8 zero points each, 32 bytes apart.
TL_INLINE vf load_half_scales(const uint8_t* p) {
    __m256i halves = _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm512_cvtph_ps(_mm256_inserti128_si256(halves, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 32)), 1));
}
TL_INLINE vi load_zeros(const uint8_t* p) {
    __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 16));
    __m128i high = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 48));
    return _mm512_cvtepu8_epi32(_mm_unpacklo_epi64(low, high));
}
#else
using vf = __m256;
using vi = __m256i;
constexpr int W = 8;
TL_INLINE vf load(const float* p) { return _mm256_loadu_ps(p); }
TL_INLINE void store(float* p, vf a) { _mm256_storeu_ps(p, a); }
TL_INLINE vf load_f16(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
TL_INLINE vf load_bf16(const uint16_t* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
TL_INLINE vi loadi(const void* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
TL_INLINE vf splat(float a) { return _mm256_set1_ps(a); }
TL_INLINE vi splati(int32_t a) { return _mm256_set1_epi32(a); }
TL_INLINE vf add(vf a, vf b) { return _mm256_add_ps(a, b); }
TL_INLINE vf sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
TL_INLINE vf mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
TL_INLINE vf div(vf a, vf b) { return _mm256_div_ps(a, b); }
TL_INLINE vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
TL_INLINE vf max(vf a, vf b) { return _mm256_max_ps(a, b); }
TL_INLINE vf min(vf a, vf b) { return _mm256_min_ps(a, b); }
TL_INLINE vf abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
TL_INLINE vf round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
TL_INLINE vf to_float(vi a) { return _mm256_cvtepi32_ps(a); }
TL_INLINE vi to_int(vf a) { return _mm256_cvtps_epi32(a); }
TL_INLINE vi addi(vi a, vi b) { return _mm256_add_epi32(a, b); }
TL_INLINE vi madd16(vi a, vi b) { return _mm256_madd_epi16(a, b); }
TL_INLINE vi low_nibbles(vi a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
TL_INLINE vi high_nibbles(vi a) { return _mm256_and_si256(_mm256_srli_epi16(a, 4), _mm256_set1_epi8(15)); }
TL_INLINE float reduce_max(vf a) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}
TL_INLINE int32_t reduce_addi(vi a) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
TL_INLINE void store_bytes(int8_t* p, vi a) {
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}
TL_INLINE uint32_t greater_mask(vf a, vf b) { return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ))); }
TL_INLINE vf keep_above(vf x, vf limit, vf a) { return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_GT_OQ), a); }
TL_INLINE vf scale_by_power(vf a, vf n) {
    return mul(a, _mm256_castsi256_ps(_mm256_slli_epi32(addi(to_int(n), splati(127)), 23)));
}
TL_INLINE vf as_float(vi a) { return _mm256_castsi256_ps(a); }
TL_INLINE vi as_int(vf a) { return _mm256_castps_si256(a); }
TL_INLINE vi andi(vi a, vi b) { return _mm256_and_si256(a, b); }
TL_INLINE vi ori(vi a, vi b) { return _mm256_or_si256(a, b); }
template <int N>
TL_INLINE vi shift_left(vi a) { return _mm256_slli_epi32(a, N); }
template <int N>
TL_INLINE vi shift_right(vi a) { return _mm256_srli_epi32(a, N); }
TL_INLINE void storei(void* p, vi a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a); }
TL_INLINE void store_halves16(uint16_t* p, vi a) {
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), words);
}
#if defined(__AVXVNNI__)
constexpr bool VNNI = true;
TL_INLINE vi dot4(vi acc, vi u, vi s) { return _mm256_dpbusd_avx_epi32(acc, u, s); }
#else
constexpr bool VNNI = false;
// Exact for u <= 15, which is all that is asked of it: a pair of products is at most 3,810.
TL_INLINE vi dot4(vi acc, vi u, vi s) { return addi(acc, madd16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1))); }
// Four dot4 steps of 4-bit weights summed in 16 bits first: at most 15,240.
TL_INLINE vi dot16_nibbles(vi acc, const vi* u, const vi* s) {
    vi low = _mm256_add_epi16(_mm256_maddubs_epi16(u[0], s[0]), _mm256_maddubs_epi16(u[1], s[1]));
    vi high = _mm256_add_epi16(_mm256_maddubs_epi16(u[2], s[2]), _mm256_maddubs_epi16(u[3], s[3]));
    return addi(acc, madd16(_mm256_add_epi16(low, high), _mm256_set1_epi16(1)));
}
// Weights stored with offset 128, taken back to signed bytes; |w| * (+-a) in pairs is at most 32,258: no saturation.
TL_INLINE vi signed_bytes(vi stored) { return _mm256_xor_si256(stored, _mm256_set1_epi8(-128)); }
TL_INLINE vi dot4_signed(vi acc, vi w, vi a) {
    vi pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
    return addi(acc, madd16(pairs, _mm256_set1_epi16(1)));
}
#endif
TL_INLINE vf load_half_scales(const uint8_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
TL_INLINE vi load_zeros(const uint8_t* p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 16)));
}
#endif

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
