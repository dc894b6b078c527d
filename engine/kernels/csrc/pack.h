// From checkpoint tensors to blocks (layout: gemm.h) and back to floats.
#pragma once
#include "gemm.h"

namespace tl {

// AWQ stores columns 0,2,4,6,1,3,5,7 of a group of eight in the nibbles of an int32, lowest nibble first.
constexpr int AWQ_SHIFT[8] = {0, 16, 4, 20, 8, 24, 12, 28};  // of column c

TL_INLINE uint8_t* header_panel(const Linear& weight, uint8_t* blocks, int64_t column, int64_t g) {
    return blocks + column / 16 * weight.tile_bytes() + g * weight.block_bytes() + column % 16 / 8 * 32;
}

// One panel (8 columns) of one group. `qweight` and `qzeros` point at this panel's int32 in the group's first row.
static void pack_awq_panel(uint8_t* header, const uint32_t* qweight, const uint32_t* zeros, const uint16_t* scales, int64_t words,
                           int64_t group) {
    std::memcpy(header, scales, 16);
    for (int c = 0; c < 8; c++) header[16 + c] = zeros != nullptr ? (*zeros >> AWQ_SHIFT[c]) & 15 : 8;
    std::memset(header + 24, 0, 8);
    uint8_t* line = header + 64;
    for (int64_t k = 0; k < group; k += 8, line += 64) {
        for (int i = 0; i < 4; i++) {
            const uint32_t low = qweight[(k + i) * words], high = qweight[(k + 4 + i) * words];
            for (int c = 0; c < 8; c++) {
                line[c * 4 + i] = static_cast<uint8_t>(((low >> AWQ_SHIFT[c]) & 15) | ((high >> AWQ_SHIFT[c]) & 15) << 4);
            }
        }
    }
}

static void pack_awq(const Linear& weight, uint8_t* blocks, const uint32_t* qweight, const uint32_t* qzeros, const uint16_t* scales,
                     int threads) {
    const int64_t words = weight.out / 8, groups = weight.in / weight.group, strip = 16;  // 16 words: one cache line of qweight
    const int64_t strips = (words + strip - 1) / strip;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t s = 0; s < strips; s++) {
        const int64_t end = std::min(words, (s + 1) * strip);
        for (int64_t g = 0; g < groups; g++) {
            for (int64_t w = s * strip; w < end; w++) {
                pack_awq_panel(header_panel(weight, blocks, w * 8, g), qweight + g * weight.group * words + w,
                               qzeros != nullptr ? qzeros + g * words + w : nullptr, scales + g * weight.out + w * 8, words,
                               weight.group);
            }
        }
    }
}

enum class Type : int64_t { F32 = 0, F16 = 1, BF16 = 2 };

TL_INLINE float read(const void* data, Type type, int64_t i) {
    if (type == Type::F32) return static_cast<const float*>(data)[i];
    const uint16_t half = static_cast<const uint16_t*>(data)[i];
    if (type == Type::F16) return _cvtsh_ss(half);
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// 8 bits, symmetric: scale = largest / 127 per (row, group).
static void pack_dense(const Linear& weight, uint8_t* blocks, const void* data, Type type, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < weight.out; n++) {
        float values[128];
        for (int64_t g = 0; g < weight.in / weight.group; g++) {
            float peak = 0;
            for (int64_t k = 0; k < weight.group; k++) {
                values[k] = read(data, type, n * weight.in + g * weight.group + k);
                peak = std::max(peak, std::fabs(values[k]));
            }
            const float scale = peak / 127.0f, inverse = peak > 0 ? 127.0f / peak : 0.0f;
            uint8_t* header = header_panel(weight, blocks, n, g);
            std::memcpy(header + n % 8 * 4, &scale, 4);
            uint8_t* line = header + 64 + n % 8 * 4;
            for (int64_t k = 0; k < weight.group; k++) {
                line[k / 4 * 64 + k % 4] = static_cast<uint8_t>(128 + static_cast<int>(std::nearbyint(values[k] * inverse)));
            }
        }
    }
}

// What the kernels multiply by, as float [N, K].
static void dequantize(const Linear& weight, float* out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < weight.out; n++) {
        for (int64_t k = 0; k < weight.in; k++) {
            const int64_t g = k / weight.group, i = k % weight.group;
            const uint8_t* header = header_panel(weight, const_cast<uint8_t*>(weight.blocks), n, g);
            const uint8_t* lines = header + 64 + n % 8 * 4;
            float scale;
            int stored, zero = 128;
            if (weight.bits == 4) {
                uint16_t half;
                std::memcpy(&half, header + n % 8 * 2, 2);
                scale = _cvtsh_ss(half);
                zero = header[16 + n % 8];
                stored = lines[i / 8 * 64 + i % 4] >> (i % 8 / 4 * 4) & 15;
            } else {
                std::memcpy(&scale, header + n % 8 * 4, 4);
                stored = lines[i / 4 * 64 + i % 4];
            }
            out[n * weight.in + k] = static_cast<float>(stored - zero) * scale;
        }
    }
}

}  // namespace tl
