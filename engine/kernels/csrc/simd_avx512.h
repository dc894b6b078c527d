// AVX-512 with VNNI: what simd.h asks of an instruction set.
#pragma once
#include "simd_x86.h"

namespace tl {

using vf = __m512;
using vi = __m512i;
constexpr int W = 16;
constexpr char INSTRUCTION_SET[] = "AVX-512 with VNNI";
constexpr int MAX_ROWS = 8, MAX_TILES = 2, STEP = 8;  // see gemm.h
constexpr bool SIGNED_BYTES = false;
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
TL_INLINE vi multiply16(vi a, vi b) { return _mm512_madd_epi16(a, b); }
TL_INLINE vi low_nibbles(vi a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
TL_INLINE vi high_nibbles(vi a) { return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15)); }
TL_INLINE float reduce_max(vf a) { return _mm512_reduce_max_ps(a); }
TL_INLINE int32_t reduce_addi(vi a) { return _mm512_reduce_add_epi32(a); }
TL_INLINE void store_bytes(int8_t* p, vi a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(a)); }
TL_INLINE uint32_t greater_mask(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
// a where x > limit, else 0.
TL_INLINE vf keep_above(vf x, vf limit, vf a) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_GT_OQ), a); }
TL_INLINE vf scale_by_power(vf a, vf n) { return _mm512_scalef_ps(a, n); }
template <int BITS>
TL_INLINE vi dot_step(vi acc, const vi* w, const vi* a) {
    return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(acc, w[0], a[0]), w[1], a[1]);
}
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
TL_INLINE vf load_half_scales(const uint8_t* p, int) {
    __m256i halves = _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm512_cvtph_ps(_mm256_inserti128_si256(halves, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 32)), 1));
}
TL_INLINE vi load_zeros(const uint8_t* p, int) {
    __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 16));
    __m128i high = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 48));
    return _mm512_cvtepu8_epi32(_mm_unpacklo_epi64(low, high));
}

}  // namespace tl
