// From checkpoint tensors to blocks (layout: gemm.h) and back to floats.
#pragma once
#include "gemm.h"

namespace tl {

// AWQ stores columns 0,2,4,6,1,3,5,7 of a group of eight in the nibbles of an int32, lowest nibble first.
constexpr int AWQ_SHIFT[8] = {0, 16, 4, 20, 8, 24, 12, 28};  // of column c

using Columns = uint32_t __attribute__((vector_size(32)));  // of a panel

TL_INLINE uint8_t* header_panel(const Linear& weight, uint8_t* blocks, int64_t column, int64_t g) {
    return blocks + column / 16 * weight.tile_bytes() + g * weight.block_bytes() + column % 16 / 8 * 32;
}

// One panel (8 columns) of one group. `qweight` and `qzeros` point at this panel's int32 in the group's first row.
static void pack_awq_panel(uint8_t* header, const uint32_t* qweight, const uint32_t* zeros, const uint16_t* scales, int64_t words,
                           int64_t group) {
    std::memcpy(header, scales, 16);
    for (int c = 0; c < 8; c++) header[16 + c] = zeros != nullptr ? (*zeros >> AWQ_SHIFT[c]) & 15 : 8;
    std::memset(header + 24, 0, 8);
    Columns shifts;
    std::memcpy(&shifts, AWQ_SHIFT, sizeof shifts);
    uint8_t* line = header + 64;
    for (int64_t k = 0; k < group; k += 8, line += 64) {
        Columns packed = {};  // the line's 4 bytes of each column
        for (int i = 0; i < 8; i++) {
            const Columns word = qweight[(k + i) * words] - Columns{};
            packed |= (word >> shifts & 15) << (i % 4 * 8 + i / 4 * 4);
        }
        std::memcpy(line, &packed, sizeof packed);
    }
}

static void pack_awq(const Linear& weight, uint8_t* blocks, const uint32_t* qweight, const uint32_t* qzeros, const uint16_t* scales,
                     Team& team) {
    const int64_t words = weight.out / 8, groups = weight.in / weight.group, strip = 16;  // 16 words: one cache line of qweight
    const int64_t strips = (words + strip - 1) / strip;
    team.each(strips, [&](int64_t s) {
        const int64_t end = std::min(words, (s + 1) * strip);
        for (int64_t g = 0; g < groups; g++) {
            for (int64_t w = s * strip; w < end; w++) {
                pack_awq_panel(header_panel(weight, blocks, w * 8, g), qweight + g * weight.group * words + w,
                               qzeros != nullptr ? qzeros + g * words + w : nullptr, scales + g * weight.out + w * 8, words,
                               weight.group);
            }
        }
    });
}

enum class Type : int64_t { F32 = 0, F16 = 1, BF16 = 2 };

TL_INLINE vf load_as(const void* data, Type type, int64_t i) {
    if (type == Type::F32) return load(static_cast<const float*>(data) + i);
    const uint16_t* halves = static_cast<const uint16_t*>(data) + i;
    return type == Type::F16 ? load_f16(halves) : load_bf16(halves);
}

// One row of a weight, 8 bits, symmetric: scale = largest / 127 per (row, group).
static void pack_dense_row(const Linear& weight, uint8_t* blocks, const void* data, Type type, int64_t n) {
    alignas(64) float values[128];
    alignas(64) int8_t q[128];
    for (int64_t g = 0; g < weight.in / weight.group; g++) {
        vf largest = splat(0);
        for (int64_t k = 0; k < weight.group; k += W) {
            const vf v = load_as(data, type, n * weight.in + g * weight.group + k);
            store(values + k, v);
            largest = max(largest, abs(v));
        }
        float scale;
        int32_t minus_sum;
        quantize_group(values, weight.group, largest, q, &scale, &minus_sum);
        uint8_t* header = header_panel(weight, blocks, n, g);
        std::memcpy(header + n % 8 * 4, &scale, 4);
        uint8_t* line = header + 64 + n % 8 * 4;
        for (int64_t k = 0; k < weight.group; k += 4, line += 64) {
            const int32_t word = load_word(q + k) ^ static_cast<int32_t>(0x80808080);  // adds 128 to each byte
            std::memcpy(line, &word, 4);
        }
    }
}

// Rows of whole tiles in each unit, so that no cache line has two writers.
static void pack_dense(const Linear& weight, uint8_t* blocks, const void* data, Type type, Team& team) {
    team.each(weight.tiles(), [&](int64_t tile) {
        for (int64_t n = tile * 16; n < std::min(weight.out, tile * 16 + 16); n++) pack_dense_row(weight, blocks, data, type, n);
    });
}

// What the kernels multiply by, as float [N, K].
static void dequantize(const Linear& weight, float* out, Team& team) {
    team.each(weight.out, [&](int64_t n) {
        for (int64_t k = 0; k < weight.in; k++) {
            const int64_t g = k / weight.group, i = k % weight.group;
            const uint8_t* header = header_panel(weight, const_cast<uint8_t*>(weight.blocks), n, g);
            const uint8_t* lines = header + 64 + n % 8 * 4;
            float scale;
            int stored, zero = 128;
            if (weight.bits == 4) {
                uint16_t half;
                std::memcpy(&half, header + n % 8 * 2, 2);
                scale = half_to_float(half);
                zero = header[16 + n % 8];
                stored = lines[i / 8 * 64 + i % 4] >> (i % 8 / 4 * 4) & 15;
            } else {
                std::memcpy(&scale, header + n % 8 * 4, 4);
                stored = lines[i / 4 * 64 + i % 4];
            }
            out[n * weight.in + k] = static_cast<float>(stored - zero) * scale;
        }
    });
}

}  // namespace tl
