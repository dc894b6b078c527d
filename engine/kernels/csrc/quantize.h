// RMSNorm and the quantisation of activations to int8 per (row, group).
#pragma once
#include <cmath>

#include "threads.h"

namespace tl {

// Quantised activations of M rows: value[m, k] ~ scale[m, k / group] * q[m, k].
struct Activations {
    int8_t* q;            // [M, stride]
    float* scale;         // [M, groups]
    int32_t* minus_sum;   // [M, groups]: -(sum of q over the group), fits 16 bits
    int64_t stride, groups, group;

    // Rows are padded by a cache line so that eight rows never share one L1 set when K is a power of two.
    static size_t bytes(int64_t rows, int64_t columns, int64_t group) {
        const int64_t groups = columns / group;
        return Arena::bytes_for<int8_t>(rows * (columns + 64)) + Arena::bytes_for<float>(rows * groups) +
               Arena::bytes_for<int32_t>(rows * groups);
    }
    static Activations carve(Arena& arena, int64_t rows, int64_t columns, int64_t group) {
        const int64_t groups = columns / group;
        Activations a;
        a.q = arena.take<int8_t>(rows * (columns + 64));
        a.scale = arena.take<float>(rows * groups);
        a.minus_sum = arena.take<int32_t>(rows * groups);
        a.stride = columns + 64;
        a.groups = groups;
        a.group = group;
        return a;
    }
};

// 1 / sqrt(mean(x^2) + eps), the same whatever other rows there are.
TL_INLINE float inverse_rms(const float* x, int64_t n, float eps) {
    vf sums[4] = {splat(0), splat(0), splat(0), splat(0)};
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W) {
        for (int j = 0; j < 4; j++) {
            vf v = load(x + i + j * W);
            sums[j] = fma(v, v, sums[j]);
        }
    }
    for (; i < n; i += W) {
        vf v = load(x + i);
        sums[0] = fma(v, v, sums[0]);
    }
    const float total = reduce_add(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
    return 1.0f / std::sqrt(total / static_cast<float>(n) + eps);
}

// Quantise one group of `group` (at most 128) values that lie in `values`.
TL_INLINE void quantize_group(const float* values, int64_t group, vf largest, int8_t* q, float* scale, int32_t* minus_sum) {
    const float peak = reduce_max(largest);
    const float inverse = peak > 0 ? 127.0f / peak : 0.0f;
    vi sum = splati(0);
    for (int64_t i = 0; i < group; i += W) {
        vi rounded = to_int(mul(load(values + i), splat(inverse)));
        sum = addi(sum, rounded);
        store_bytes(q + i, rounded);
    }
    *scale = peak / 127.0f;
    *minus_sum = -reduce_addi(sum);
}

// Quantise columns [begin, end) of row `row`; with `norm`, of x * factor * norm.
static void quantize_row(const float* x, const float* norm, float factor, int64_t begin, int64_t end, int64_t row,
                         const Activations& out) {
    alignas(64) float values[128];
    const vf f = splat(factor);
    for (int64_t start = begin; start < end; start += out.group) {
        vf largest = splat(0);
        for (int64_t i = 0; i < out.group; i += W) {
            vf v = load(x + start + i);
            if (norm != nullptr) v = mul(mul(v, f), load(norm + start + i));
            store(values + i, v);
            largest = max(largest, abs(v));
        }
        const int64_t g = start / out.group;
        quantize_group(values, out.group, largest, out.q + row * out.stride + start, out.scale + row * out.groups + g,
                       out.minus_sum + row * out.groups + g);
    }
}

// Quantise rows [rows.begin, rows.end) of x [M, columns], normalised first when `norm` is given.
static void quantize_rows(const float* x, int64_t columns, const float* norm, float eps, Range rows, const Activations& out) {
    for (int64_t m = rows.begin; m < rows.end; m++) {
        const float* row = x + m * columns;
        const float factor = norm != nullptr ? inverse_rms(row, columns, eps) : 1.0f;
        quantize_row(row, norm, factor, 0, columns, m, out);
    }
}

// Quantise all rows of x [M, columns]. Below a few thousand values one thread is done before another could help.
static void quantize_all(Team& team, const float* x, int64_t rows, int64_t columns, const float* norm, float eps,
                         const Activations& out) {
    if (rows * columns <= 4096) return quantize_rows(x, columns, norm, eps, {0, rows}, out);
    const int64_t units = std::min<int64_t>(rows, team.size() * 4);
    team.each(units, [&](int64_t unit) { quantize_rows(x, columns, norm, eps, share(rows, unit, units), out); });
}

}  // namespace tl
