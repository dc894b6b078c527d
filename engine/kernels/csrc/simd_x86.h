// What AVX2 and AVX-512 have in common.
#pragma once
#include <immintrin.h>

#include "simd_common.h"

namespace tl {

// For loops that wait for another thread.
TL_INLINE void relax() { _mm_pause(); }
// CRC-32C of eight more bytes, of one more.
TL_INLINE uint32_t crc32c_word(uint32_t crc, uint64_t word) { return static_cast<uint32_t>(_mm_crc32_u64(crc, word)); }
TL_INLINE uint32_t crc32c_byte(uint32_t crc, uint8_t byte) { return _mm_crc32_u8(crc, byte); }
TL_INLINE float half_to_float(uint16_t half) { return _cvtsh_ss(half); }

}  // namespace tl
