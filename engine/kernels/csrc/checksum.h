// A checksum fast enough to read beside: CRC-32C of four quarters at once, since one CRC waits for its own last step.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "simd.h"

namespace tl {

static uint32_t crc32c(uint32_t crc, const uint8_t* data, int64_t bytes) {
    for (; bytes >= 8; data += 8, bytes -= 8) {
        uint64_t word;
        std::memcpy(&word, data, 8);
        crc = crc32c_word(crc, word);
    }
    for (; bytes > 0; data++, bytes--) crc = crc32c_byte(crc, *data);
    return crc;
}

// CRC-32C of the CRCs of four equal parts, of whole words, and of what is left. Any change within 32 bits is found.
static uint32_t checksum(const uint8_t* data, int64_t bytes) {
    const int64_t part = bytes / 32 * 8;
    uint64_t crcs[4] = {~0u, ~0u, ~0u, ~0u};
    for (int64_t i = 0; i < part; i += 8) {
        TL_UNROLL
        for (int lane = 0; lane < 4; lane++) {
            uint64_t word;
            std::memcpy(&word, data + lane * part + i, 8);
            crcs[lane] = crc32c_word(static_cast<uint32_t>(crcs[lane]), word);
        }
    }
    const uint32_t all = crc32c(~0u, reinterpret_cast<const uint8_t*>(crcs), sizeof crcs);
    return ~crc32c(all, data + 4 * part, bytes - 4 * part);
}

}  // namespace tl
