// Products of int8 activations with 4- or 8-bit weights in blocks.
//
// Layout of a weight [N, K]: tiles of 16 columns (outputs), each a sequence of blocks, one per group along K. A block is a
// 64-byte header and then lines of 64 bytes: lane j of a line holds 4 consecutive k of column j (8 bits), or 8 of them as
// nibbles, k..k+3 low and k+4..k+7 high (4 bits). Every line, the header too, is two panels of 8 columns, 32 bytes each.
// Header panel, 4 bits: 8 fp16 scales, 8 zero points, 8 unused bytes. 8 bits: 8 float scales; stored value = weight + 128.
#pragma once
#include <algorithm>

#include "quantize.h"

namespace tl {

struct Linear {  // mirrored by ctypes
    const uint8_t* blocks;
    const float* bias;  // [tiles * 16] or null
    int64_t in, out, group, bits;

    int64_t tiles() const { return (out + 15) / 16; }
    int64_t block_bytes() const { return 64 + group * 2 * bits; }
    int64_t tile_bytes() const { return in / group * block_bytes(); }
};

// A register block is MAX_ROWS rows and MAX_TILES tiles at most, and goes STEP values of a group at once: see simd_*.h.
constexpr int64_t PREFETCH = 4096;  // bytes ahead in each tile: weights come from memory as fast as it gives them

struct Job {
    const uint8_t* tile;
    int64_t tile_bytes, groups, group;
    const int8_t* q;
    int64_t q_stride;
    const float* scale;
    const int32_t* minus_sum;
    const float* bias;
    float* out;
    int64_t out_stride, columns;
    bool accumulate;
};

template <int BITS>
TL_INLINE void load_header(const uint8_t* header, int v, vf& scale, vi& zero) {
    if constexpr (BITS == 4) {
        scale = load_half_scales(header, v);
        zero = load_zeros(header, v);
    } else {
        scale = load(reinterpret_cast<const float*>(header) + v * W);
        zero = splati(128);
    }
}

// All cache lines of BYTES bytes.
template <int64_t BYTES>
TL_INLINE void prefetch(const uint8_t* p) {
    TL_UNROLL
    for (int64_t i = 0; i < BYTES; i += 64) __builtin_prefetch(p + i);
}

// acc[m][n] += products over one group; `line` points behind the header.
template <int BITS, int MB, int NB>
TL_INLINE void multiply_group(const uint8_t* line, int64_t tile_bytes, const int8_t* q, int64_t q_stride, int64_t group,
                              vi (&acc)[MB][NB]) {
    constexpr int V = 16 / W, WORDS = STEP / 4, BYTES = STEP * 2 * BITS;
    for (int64_t k = 0; k < group; k += STEP) {
        vi w[NB][WORDS];
        TL_UNROLL
        for (int n = 0; n < NB; n++) {
            const uint8_t* p = line + (n / V) * tile_bytes + (n % V) * W * 4;
            TL_UNROLL
            for (int j = 0; j < WORDS; j++) {
                if constexpr (BITS == 4) {
                    const vi packed = loadi(p + j / 2 * 64);
                    w[n][j] = j % 2 == 0 ? low_nibbles(packed) : high_nibbles(packed);
                } else {
                    w[n][j] = loadi(p + j * 64);
                }
            }
            if (n % V == 0) prefetch<BYTES>(p + PREFETCH);
        }
        TL_UNROLL
        for (int m = 0; m < MB; m++) {
            vi a[WORDS];
            TL_UNROLL
            for (int j = 0; j < WORDS; j++) a[j] = splati(load_word(q + m * q_stride + k + 4 * j));
            TL_UNROLL
            for (int n = 0; n < NB; n++) acc[m][n] = dot_step<BITS>(acc[m][n], w[n], a);
        }
        line += BYTES;
    }
}

template <int MB, int NB>
TL_INLINE void finish(const Job& job, vf (&y)[MB][NB]) {
    alignas(64) float edge[NB * W];
    TL_UNROLL
    for (int m = 0; m < MB; m++) {
        if (job.bias != nullptr) {
            TL_UNROLL
            for (int n = 0; n < NB; n++) y[m][n] = add(y[m][n], load(job.bias + n * W));
        }
        float* out = job.out + m * job.out_stride;
        if (job.columns >= NB * W) {
            TL_UNROLL
            for (int n = 0; n < NB; n++) store(out + n * W, job.accumulate ? add(load(out + n * W), y[m][n]) : y[m][n]);
        } else {
            TL_UNROLL
            for (int n = 0; n < NB; n++) store(edge + n * W, y[m][n]);
            for (int64_t c = 0; c < job.columns; c++) out[c] = job.accumulate ? out[c] + edge[c] : edge[c];
        }
    }
}

// MB rows times NT tiles. Each output is sum over groups, in order, of fma(float(dot), scale_w * scale_a, sum): the same
// operations in the same order for every MB and NT, so a row's result does not depend on the rows beside it.
template <int BITS, int MB, int NT>
static void multiply(const Job& job) {
    constexpr int V = 16 / W, NB = NT * V;
    constexpr bool SIGNED = BITS == 8 && SIGNED_BYTES;
    vf y[MB][NB];
    TL_UNROLL
    for (int m = 0; m < MB; m++) {
        TL_UNROLL
        for (int n = 0; n < NB; n++) y[m][n] = splat(0);
    }
    const uint8_t* block = job.tile;
    const int8_t* q = job.q;
    for (int64_t g = 0; g < job.groups; g++) {
        vf scale[NB];
        vi acc[MB][NB], zero[NB];
        TL_UNROLL
        for (int n = 0; n < NB; n++) load_header<BITS>(block + (n / V) * job.tile_bytes, n % V, scale[n], zero[n]);
        TL_UNROLL
        for (int m = 0; m < MB; m++) {
            const vi minus_sum = splati(job.minus_sum[m * job.groups + g]);
            TL_UNROLL
            for (int n = 0; n < NB; n++) acc[m][n] = SIGNED ? splati(0) : multiply16(zero[n], minus_sum);
        }
        multiply_group<BITS, MB, NB>(block + 64, job.tile_bytes, q, job.q_stride, job.group, acc);
        TL_UNROLL
        for (int m = 0; m < MB; m++) {
            const vf row_scale = splat(job.scale[m * job.groups + g]);
            TL_UNROLL
            for (int n = 0; n < NB; n++) y[m][n] = fma(to_float(acc[m][n]), mul(scale[n], row_scale), y[m][n]);
        }
        block += 64 + job.group * 2 * BITS;
        q += job.group;
    }
    finish<MB, NB>(job, y);
}

using Kernel = void (*)(const Job&);

template <int BITS, int NT>
TL_INLINE Kernel pick_rows(int64_t rows) {
    switch (rows) {
        case 1: return multiply<BITS, 1, NT>;
        case 2: return multiply<BITS, 2, NT>;
        case 3: return multiply<BITS, 3, NT>;
        case 4: return multiply<BITS, 4, NT>;
        case 5: return multiply<BITS, std::min(5, MAX_ROWS), NT>;
        case 6: return multiply<BITS, std::min(6, MAX_ROWS), NT>;
        case 7: return multiply<BITS, std::min(7, MAX_ROWS), NT>;
        default: return multiply<BITS, MAX_ROWS, NT>;
    }
}

TL_INLINE Kernel pick(int64_t bits, int64_t rows, int64_t tiles) {
    if (tiles == 1) return bits == 4 ? pick_rows<4, 1>(rows) : pick_rows<8, 1>(rows);
    return bits == 4 ? pick_rows<4, MAX_TILES>(rows) : pick_rows<8, MAX_TILES>(rows);
}

// Rows x tiles of the product. `out` points at the first row of `rows` and the first column of `tiles`.
static void multiply_tiles(const Linear& weight, const Activations& a, Range rows, Range tiles, float* out, int64_t out_stride,
                           bool accumulate) {
    const int64_t count = rows.end - rows.begin, parts = (count + MAX_ROWS - 1) / MAX_ROWS;
    for (int64_t t = tiles.begin; t < tiles.end; t += MAX_TILES) {
        const int64_t width = std::min<int64_t>(MAX_TILES, tiles.end - t);
        Job job;
        job.tile = weight.blocks + t * weight.tile_bytes();
        job.tile_bytes = weight.tile_bytes();
        job.groups = a.groups;
        job.group = a.group;
        job.q_stride = a.stride;
        job.bias = weight.bias != nullptr ? weight.bias + t * 16 : nullptr;
        job.out_stride = out_stride;
        job.columns = std::min(width * 16, weight.out - t * 16);
        job.accumulate = accumulate;
        for (int64_t p = 0; p < parts; p++) {
            const int64_t first = count * p / parts, last = count * (p + 1) / parts, m = rows.begin + first;
            job.q = a.q + m * a.stride;
            job.scale = a.scale + m * a.groups;
            job.minus_sum = a.minus_sum + m * a.groups;
            job.out = out + first * out_stride + (t - tiles.begin) * 16;
            pick(weight.bits, last - first, width)(job);
        }
    }
}

// How many rows are multiplied before moving to the next weights: their int8 values should stay in the L2 cache.
TL_INLINE int64_t rows_per_pass(int64_t columns) { return std::clamp<int64_t>((1 << 19) / columns, 32, 256) & ~int64_t{7}; }

// x W^T + bias into (or onto) out [M, out].
static void multiply_all(Team& team, const Linear& weight, const Activations& a, int64_t rows, float* out, bool accumulate) {
    const int64_t tiles = weight.tiles(), row_step = rows_per_pass(weight.in);
    const int64_t tile_step = std::clamp<int64_t>(tiles / (team.size() * 4), MAX_TILES, 16) / MAX_TILES * MAX_TILES;
    const int64_t across = (tiles + tile_step - 1) / tile_step, passes = (rows + row_step - 1) / row_step;
    team.each(passes * across, [&](int64_t unit) {
        const int64_t m = unit / across * row_step, t = unit % across * tile_step;
        multiply_tiles(weight, a, {m, std::min(rows, m + row_step)}, {t, std::min(tiles, t + tile_step)},
                       out + m * weight.out + t * 16, weight.out, accumulate);
    });
}

}  // namespace tl
