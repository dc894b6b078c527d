// Grouped-query attention over a float cache, rows of a token tree included.
//
// A row sees [0, contiguous) and then `count` more slots, its ancestors from the root down and itself: its path. Scores, the
// sum of the softmax and the weighted sum of values run over positions of the path in order, so that a row computes
// bit for bit the same whether its ancestors were in the same pass, in an earlier one, or committed.
#pragma once
#include "quantize.h"

namespace tl {

constexpr int MAX_QUERIES = 8;  // that share one reading of the keys

struct Step {  // mirrored by ctypes
    int64_t past, first, count;
    const int32_t* parents;  // [first + count]
    const float* cos;        // [count, head_dim / 2]
    const float* sin;
};

struct Path {
    int64_t contiguous;    // slots [0, contiguous) are visible,
    int64_t count;         // and then these:
    const int32_t* slots;
    int64_t length() const { return contiguous + count; }
};

// Uncommitted rows that continue the committed positions one after another: rows [0, n) with parents[i] == i - 1.
TL_INLINE int64_t leading_chain(const Step& step) {
    int64_t n = 0;
    while (n < step.first + step.count && step.parents[n] == n - 1) n++;
    return n;
}

// The path of uncommitted row r; `scratch` holds first + count slots.
TL_INLINE Path path_of(const Step& step, int64_t chain, int64_t r, int32_t* scratch) {
    int64_t begin = step.first + step.count, end = begin;
    int32_t node = static_cast<int32_t>(r);
    for (; node >= chain; node = step.parents[node]) scratch[--begin] = static_cast<int32_t>(step.past + node);
    return {step.past + node + 1, end - begin, scratch + begin};
}

// Scores of W positions whose keys lie at `keys[i]`.
TL_INLINE vf scores_at(const float* q, const float* const* keys, int64_t head_dim) {
    vf sums[W];
    TL_UNROLL
    for (int i = 0; i < W; i++) sums[i] = splat(0);
    for (int64_t d = 0; d < head_dim; d += W) {
        const vf part = load(q + d);
        TL_UNROLL
        for (int i = 0; i < W; i++) sums[i] = fma(part, load(keys[i] + d), sums[i]);
    }
    return sum_rows(sums);
}

TL_INLINE const float* slot_of(const float* base, const Path& path, int64_t p, int64_t head_dim) {
    return base + (p < path.contiguous ? p : path.slots[p - path.contiguous]) * head_dim;
}

// Scores of W / 2 consecutive positions for two queries: each key is loaded once.
TL_INLINE void scores_of_pair(const float* q0, const float* q1, const float* keys, int64_t head_dim, float* out0, float* out1) {
    constexpr int HALF = W / 2;
    vf sums[W];
    TL_UNROLL
    for (int i = 0; i < W; i++) sums[i] = splat(0);
    for (int64_t d = 0; d < head_dim; d += W) {
        const vf a = load(q0 + d), b = load(q1 + d);
        TL_UNROLL
        for (int i = 0; i < HALF; i++) {
            const vf key = load(keys + i * head_dim + d);
            sums[i] = fma(a, key, sums[i]);
            sums[HALF + i] = fma(b, key, sums[HALF + i]);
        }
    }
    store_halves(out0, out1, sum_rows(sums));
}

// Scores of `queries` rows of q against positions [0, length) of each one's path; scores are `stride` apart.
static void all_scores(const float* const* q, const Path* paths, int queries, const float* keys, int64_t head_dim, float* scores,
                       int64_t stride) {
    int64_t common = paths[0].contiguous, p = 0;
    for (int i = 1; i < queries; i++) common = std::min(common, paths[i].contiguous);
    for (; p + W <= common; p += W) {
        const float* block = keys + p * head_dim;
        for (int i = 0; i < queries; i += 2) {
            const int j = std::min(i + 1, queries - 1);  // an odd query out is its own partner
            float* out0 = scores + i * stride + p;
            float* out1 = scores + j * stride + p;
            scores_of_pair(q[i], q[j], block, head_dim, out0, out1);
            scores_of_pair(q[i], q[j], block + W / 2 * head_dim, head_dim, out0 + W / 2, out1 + W / 2);
        }
    }
    for (int i = 0; i < queries; i++) {
        for (int64_t tail = p; tail < paths[i].length(); tail += W) {
            const float* at[W];
            for (int j = 0; j < W; j++) at[j] = slot_of(keys, paths[i], std::min(tail + j, paths[i].length() - 1), head_dim);
            store(scores + i * stride + tail, scores_at(q[i], at, head_dim));
        }
    }
}

// In place: scores -> exp(scale * (score - largest)); returns 1 / sum.
TL_INLINE float softmax(float* scores, int64_t length, float scale) {
    const int64_t padded = (length + W - 1) / W * W;
    for (int64_t p = length; p < padded; p++) scores[p] = -INFINITY;
    vf largest = splat(-INFINITY);
    for (int64_t p = 0; p < padded; p += W) largest = max(largest, load(scores + p));
    const vf offset = splat(reduce_max(largest)), factor = splat(scale);
    vf sum = splat(0);
    for (int64_t p = 0; p < padded; p += W) {
        const vf e = exp(mul(sub(load(scores + p), offset), factor));
        store(scores + p, e);
        sum = add(sum, e);
    }
    return 1.0f / reduce_add(sum);
}

// acc[q][v] += weight[q][p] * value[p][v] for positions [begin, end) that are contiguous slots.
template <int Q, int V>
TL_INLINE void weigh(const float* const* weights, const float* values, int64_t begin, int64_t end, int64_t head_dim, vf (&acc)[Q][V]) {
    for (int64_t p = begin; p < end; p++) {
        const float* row = values + p * head_dim;
        TL_UNROLL
        for (int v = 0; v < V; v++) {
            const vf value = load(row + v * W);
            TL_UNROLL
            for (int q = 0; q < Q; q++) acc[q][v] = fma(splat(weights[q][p]), value, acc[q][v]);
        }
    }
}

// V vectors of the outputs of Q queries; `values` points at the first of these columns.
template <int Q, int V>
TL_INLINE void outputs(const float* const* weights, const float* inverse, const Path* paths, const float* values, int64_t head_dim,
                       float* const* out) {
    vf acc[Q][V];
    int64_t common = paths[0].contiguous;
    for (int q = 1; q < Q; q++) common = std::min(common, paths[q].contiguous);
    TL_UNROLL
    for (int q = 0; q < Q; q++) {
        TL_UNROLL
        for (int v = 0; v < V; v++) acc[q][v] = splat(0);
    }
    weigh<Q, V>(weights, values, 0, common, head_dim, acc);
    TL_UNROLL
    for (int q = 0; q < Q; q++) {
        const Path& path = paths[q];
        for (int64_t p = common; p < path.length(); p++) {
            const float* row = slot_of(values, path, p, head_dim);
            const vf weight = splat(weights[q][p]);
            TL_UNROLL
            for (int v = 0; v < V; v++) acc[q][v] = fma(weight, load(row + v * W), acc[q][v]);
        }
        TL_UNROLL
        for (int v = 0; v < V; v++) store(out[q] + v * W, mul(acc[q][v], splat(inverse[q])));
    }
}

template <int V>
TL_INLINE void output_columns(const float* const* weights, const float* inverse, const Path* paths, int queries, const float* values,
                              int64_t head_dim, int64_t column, float* const* out) {
    float* at[MAX_QUERIES];
    for (int i = 0; i < queries; i++) at[i] = out[i] + column;
    int i = 0;
    for (; i + 4 <= queries; i += 4) outputs<4, V>(weights + i, inverse + i, paths + i, values + column, head_dim, at + i);
    for (; i + 2 <= queries; i += 2) outputs<2, V>(weights + i, inverse + i, paths + i, values + column, head_dim, at + i);
    for (; i < queries; i++) outputs<1, V>(weights + i, inverse + i, paths + i, values + column, head_dim, at + i);
}

// Outputs of up to MAX_QUERIES queries of one key/value head. `scores` holds MAX_QUERIES * stride floats.
static void attend(const float* const* q, const Path* paths, int queries, const float* keys, const float* values, int64_t head_dim,
                   float* scores, int64_t stride, float* const* out) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    float inverse[MAX_QUERIES];
    const float* weights[MAX_QUERIES];
    all_scores(q, paths, queries, keys, head_dim, scores, stride);
    for (int i = 0; i < queries; i++) {
        inverse[i] = softmax(scores + i * stride, paths[i].length(), scale);
        weights[i] = scores + i * stride;
    }
    int64_t d = 0;
    for (; d + 4 * W <= head_dim; d += 4 * W) output_columns<4>(weights, inverse, paths, queries, values, head_dim, d, out);
    for (; d + 2 * W <= head_dim; d += 2 * W) output_columns<2>(weights, inverse, paths, queries, values, head_dim, d, out);
    for (; d < head_dim; d += W) output_columns<1>(weights, inverse, paths, queries, values, head_dim, d, out);
}

// Rotate one head: x' = x cos - y sin, y' = y cos + x sin for halves x and y (Hugging Face's layout). May be in place.
TL_INLINE void rotate(const float* head, const float* cos, const float* sin, int64_t head_dim, float* out) {
    const int64_t half = head_dim / 2;
    int64_t i = 0;
    for (; i + W <= half; i += W) {
        const vf x = load(head + i), y = load(head + i + half), c = load(cos + i), s = load(sin + i);
        store(out + i, sub(mul(x, c), mul(y, s)));
        store(out + i + half, add(mul(y, c), mul(x, s)));
    }
    for (; i < half; i++) {
        const float x = head[i], y = head[i + half];
        out[i] = x * cos[i] - y * sin[i];
        out[i + half] = y * cos[i] + x * sin[i];
    }
}

}  // namespace tl
