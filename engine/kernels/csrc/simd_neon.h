// NEON with dot products of bytes (Armv8.2): what simd.h asks of an instruction set.
#pragma once
#include <arm_acle.h>
#include <arm_neon.h>

#include "simd_common.h"

namespace tl {

using vf = float32x4_t;
using vi = int32x4_t;
constexpr int W = 4;
constexpr char INSTRUCTION_SET[] = "NEON with dot products";
constexpr int MAX_ROWS = 4, MAX_TILES = 1, STEP = 8;  // see gemm.h
constexpr bool SIGNED_BYTES = true;
TL_INLINE vf load(const float* p) { return vld1q_f32(p); }
TL_INLINE void store(float* p, vf a) { vst1q_f32(p, a); }
TL_INLINE vf load_f16(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
TL_INLINE vf load_bf16(const uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
TL_INLINE vi loadi(const void* p) { return vreinterpretq_s32_u8(vld1q_u8(static_cast<const uint8_t*>(p))); }
TL_INLINE vf splat(float a) { return vdupq_n_f32(a); }
TL_INLINE vi splati(int32_t a) { return vdupq_n_s32(a); }
TL_INLINE vf add(vf a, vf b) { return vaddq_f32(a, b); }
TL_INLINE vf sub(vf a, vf b) { return vsubq_f32(a, b); }
TL_INLINE vf mul(vf a, vf b) { return vmulq_f32(a, b); }
TL_INLINE vf div(vf a, vf b) { return vdivq_f32(a, b); }
TL_INLINE vf fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
TL_INLINE vf max(vf a, vf b) { return vmaxnmq_f32(a, b); }
TL_INLINE vf min(vf a, vf b) { return vminnmq_f32(a, b); }
TL_INLINE vf abs(vf a) { return vabsq_f32(a); }
TL_INLINE vf round(vf a) { return vrndnq_f32(a); }
TL_INLINE vf to_float(vi a) { return vcvtq_f32_s32(a); }
TL_INLINE vi to_int(vf a) { return vcvtnq_s32_f32(a); }
TL_INLINE vi addi(vi a, vi b) { return vaddq_s32(a, b); }
TL_INLINE vi multiply16(vi a, vi b) { return vmulq_s32(a, b); }
TL_INLINE vi low_nibbles(vi a) { return vreinterpretq_s32_u8(vandq_u8(vreinterpretq_u8_s32(a), vdupq_n_u8(15))); }
TL_INLINE vi high_nibbles(vi a) { return vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(a), 4)); }
TL_INLINE float reduce_max(vf a) { return vmaxnmvq_f32(a); }
TL_INLINE int32_t reduce_addi(vi a) { return vaddvq_s32(a); }
TL_INLINE void store_bytes(int8_t* p, vi a) {
    const int16x4_t words = vqmovn_s32(a);
    const int8x8_t bytes = vqmovn_s16(vcombine_s16(words, words));
    std::memcpy(p, &bytes, 4);
}
TL_INLINE uint32_t greater_mask(vf a, vf b) {
    const uint32x4_t lanes = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vcgtq_f32(a, b), lanes));
}
TL_INLINE vf keep_above(vf x, vf limit, vf a) {
    return vreinterpretq_f32_u32(vandq_u32(vcgtq_f32(x, limit), vreinterpretq_u32_f32(a)));
}
TL_INLINE vf as_float(vi a) { return vreinterpretq_f32_s32(a); }
TL_INLINE vi as_int(vf a) { return vreinterpretq_s32_f32(a); }
TL_INLINE vi andi(vi a, vi b) { return vandq_s32(a, b); }
TL_INLINE vi ori(vi a, vi b) { return vorrq_s32(a, b); }
template <int N>
TL_INLINE vi shift_left(vi a) { return vshlq_n_s32(a, N); }
template <int N>
TL_INLINE vi shift_right(vi a) { return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a), N)); }
TL_INLINE vf scale_by_power(vf a, vf n) { return mul(a, as_float(shift_left<23>(addi(to_int(n), splati(127))))); }
TL_INLINE void storei(void* p, vi a) { vst1q_s32(static_cast<int32_t*>(p), a); }
TL_INLINE void store_halves16(uint16_t* p, vi a) { vst1_u16(p, vmovn_u32(vreinterpretq_u32_s32(a))); }
template <int BITS>
TL_INLINE vi dot_step(vi acc, const vi* w, const vi* a) {
    TL_UNROLL
    for (int j = 0; j < STEP / 4; j++) {
        int8x16_t bytes = vreinterpretq_s8_s32(w[j]);
        if constexpr (BITS == 8) bytes = veorq_s8(bytes, vdupq_n_s8(-128));
        acc = vdotq_s32(acc, bytes, vreinterpretq_s8_s32(a[j]));
    }
    return acc;
}
TL_INLINE vf load_half_scales(const uint8_t* p, int v) {
    return load_f16(reinterpret_cast<const uint16_t*>(p + v / 2 * 32 + v % 2 * 8));
}
TL_INLINE vi load_zeros(const uint8_t* p, int v) {
    uint32_t bytes;
    std::memcpy(&bytes, p + v / 2 * 32 + 16 + v % 2 * 4, 4);
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes)))));
}

TL_INLINE void relax() { __asm__ volatile("isb" ::: "memory"); }
TL_INLINE uint32_t crc32c_word(uint32_t crc, uint64_t word) { return __crc32cd(crc, word); }
TL_INLINE uint32_t crc32c_byte(uint32_t crc, uint8_t byte) { return __crc32cb(crc, byte); }
TL_INLINE float half_to_float(uint16_t half) { return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half))), 0); }

}  // namespace tl
