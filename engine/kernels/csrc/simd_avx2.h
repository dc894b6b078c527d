// AVX2, with VNNI or without: what simd.h asks of an instruction set.
#pragma once
#include "simd_x86.h"

namespace tl {

using vf = __m256;
using vi = __m256i;
constexpr int W = 8;
constexpr int MAX_ROWS = 4, MAX_TILES = 1;  // see gemm.h
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
TL_INLINE vi multiply16(vi a, vi b) { return _mm256_madd_epi16(a, b); }
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
constexpr char INSTRUCTION_SET[] = "AVX2 with VNNI";
constexpr int STEP = 8;
constexpr bool SIGNED_BYTES = false;
template <int BITS>
TL_INLINE vi dot_step(vi acc, const vi* w, const vi* a) {
    return _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(acc, w[0], a[0]), w[1], a[1]);
}
#else
constexpr char INSTRUCTION_SET[] = "AVX2";
constexpr int STEP = 16;
constexpr bool SIGNED_BYTES = true;
TL_INLINE vi add_pairs(vi acc, vi halves) { return addi(acc, _mm256_madd_epi16(halves, _mm256_set1_epi16(1))); }
template <int BITS>
TL_INLINE vi dot_step(vi acc, const vi* w, const vi* a) {
    if constexpr (BITS == 4) {  // summed in 16 bits first: at most 15,240
        const vi low = _mm256_add_epi16(_mm256_maddubs_epi16(w[0], a[0]), _mm256_maddubs_epi16(w[1], a[1]));
        const vi high = _mm256_add_epi16(_mm256_maddubs_epi16(w[2], a[2]), _mm256_maddubs_epi16(w[3], a[3]));
        return add_pairs(acc, _mm256_add_epi16(low, high));
    }
    TL_UNROLL
    for (int j = 0; j < STEP / 4; j++) {  // |w| * (+-a) in pairs is at most 32,258: no saturation
        const vi bytes = _mm256_xor_si256(w[j], _mm256_set1_epi8(-128));
        acc = add_pairs(acc, _mm256_maddubs_epi16(_mm256_abs_epi8(bytes), _mm256_sign_epi8(a[j], bytes)));
    }
    return acc;
}
#endif
TL_INLINE vf load_half_scales(const uint8_t* p, int v) { return load_f16(reinterpret_cast<const uint16_t*>(p + v * 32)); }
TL_INLINE vi load_zeros(const uint8_t* p, int v) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + v * 32 + 16)));
}

}  // namespace tl
