// Grouped-query attention over a bfloat16 cache, rows of a token tree included.
//
// A row sees [0, contiguous) and then `count` more slots, its ancestors from the root down and itself: its path. A score is a
// chain of products over the head's dimensions; the softmax and the weighted sum of values run over positions of the path in
// order, two at a time. So a row computes bit for bit the same whether its ancestors were in the same pass, in an earlier one,
// or committed, and whatever rows are beside it.
#pragma once
#include "quantize.h"

namespace tl {

constexpr int MAX_QUERIES = 16;  // that share one reading of the keys
constexpr int64_t BLOCK = 16;    // slots whose keys lie together

// One layer's keys and values as bfloat16. Lanes of 32 bits hold pairs, so that one instruction multiplies two of them:
// keys [kv_heads, capacity / 16, head_dim / 2, 16 slots, 2 dimensions], values [kv_heads, capacity / 2, head_dim, 2 slots].
struct Cache {  // mirrored by ctypes
    uint16_t* keys;
    uint16_t* values;
    int64_t capacity;  // a multiple of BLOCK
    int64_t kv_heads, head_dim;

    uint16_t* keys_of(int64_t head) const { return keys + head * capacity * head_dim; }
    uint16_t* values_of(int64_t head) const { return values + head * capacity * head_dim; }
    // Where a slot's pairs of dimensions begin, 2 * BLOCK apart; where its dimensions begin, 2 apart.
    int64_t key_at(int64_t slot) const { return slot / BLOCK * BLOCK * head_dim + slot % BLOCK * 2; }
    int64_t value_at(int64_t slot) const { return slot / 2 * 2 * head_dim + slot % 2; }
};

struct Step {  // mirrored by ctypes
    int64_t past, first, count;
    const int32_t* parents;    // [first + count]
    const int32_t* positions;  // [count]
    const float* cos;          // [any position, head_dim / 2]
    const float* sin;
};

struct Path {
    int64_t contiguous;    // slots [0, contiguous) are visible,
    int64_t count;         // and then these:
    const int32_t* slots;
    const uint16_t* tail;  // values of positions from 2 * direct() on, laid out as in the cache; where count > 0

    int64_t length() const { return contiguous + count; }
    int64_t end() const { return count > 0 ? slots[count - 1] + 1 : contiguous; }  // behind the last slot seen
    // Pairs of positions that can be read from the cache. Behind an odd length lies some row's finite value, weighted by 0.
    int64_t direct() const { return count > 0 ? contiguous / 2 : (contiguous + 1) / 2; }
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
    return {step.past + node + 1, end - begin, scratch + begin, nullptr};
}

// Copy the values of a path's last positions into pairs of their own.
static void gather_tail(const Path& path, const uint16_t* values, const Cache& cache, uint16_t* tail) {
    const int64_t dim = cache.head_dim, begin = path.direct() * 2;
    for (int64_t p = begin; p < path.length(); p++) {
        const uint16_t* from = values + cache.value_at(p < path.contiguous ? p : path.slots[p - path.contiguous]);
        uint16_t* to = tail + cache.value_at(p - begin);
        for (int64_t d = 0; d < dim; d++) to[2 * d] = from[2 * d];
    }
    if (path.length() % 2 == 1) {
        uint16_t* to = tail + cache.value_at(path.length() - begin);
        for (int64_t d = 0; d < dim; d++) to[2 * d] = 0;
    }
}

// Scores of Q queries against B blocks of slots; `q` holds pairs of dimensions.
template <int Q, int B>
TL_INLINE void scores_of_blocks(const int32_t* const* q, const uint16_t* keys, int64_t head_dim, float* scores, int64_t stride) {
    constexpr int V = BLOCK / W;
    vf sums[Q][B * V];
    TL_UNROLL
    for (int i = 0; i < Q; i++) {
        TL_UNROLL
        for (int b = 0; b < B * V; b++) sums[i][b] = splat(0);
    }
    for (int64_t d = 0; d < head_dim / 2; d++) {
        vi key[B * V];
        TL_UNROLL
        for (int b = 0; b < B * V; b++) key[b] = loadi(keys + b / V * BLOCK * head_dim + d * 2 * BLOCK + b % V * 2 * W);
        TL_UNROLL
        for (int i = 0; i < Q; i++) {
            const vi pair = splati(q[i][d]);
            TL_UNROLL
            for (int b = 0; b < B * V; b++) sums[i][b] = dot2(sums[i][b], key[b], pair);
        }
    }
    TL_UNROLL
    for (int i = 0; i < Q; i++) {
        TL_UNROLL
        for (int b = 0; b < B * V; b++) store(scores + i * stride + b * W, sums[i][b]);
    }
}

template <int B>
TL_INLINE void scores_of_queries(const int32_t* const* q, int queries, const uint16_t* keys, int64_t head_dim, float* scores,
                                 int64_t stride) {
    int i = 0;
    for (; i + 4 <= queries; i += 4) scores_of_blocks<4, B>(q + i, keys, head_dim, scores + i * stride, stride);
    for (; i + 2 <= queries; i += 2) scores_of_blocks<2, B>(q + i, keys, head_dim, scores + i * stride, stride);
    for (; i < queries; i++) scores_of_blocks<1, B>(q + i, keys, head_dim, scores + i * stride, stride);
}

// Scores of all slots in [0, end), and some behind; scores of a query are `stride` apart.
static void all_scores(const int32_t* const* q, int queries, const uint16_t* keys, int64_t end, int64_t head_dim, float* scores,
                       int64_t stride) {
    constexpr int64_t AT_ONCE = W == 16 ? 4 : 1;
    int64_t slot = 0;
    for (; slot + AT_ONCE * BLOCK <= end; slot += AT_ONCE * BLOCK) {
        scores_of_queries<AT_ONCE>(q, queries, keys + slot * head_dim, head_dim, scores + slot, stride);
    }
    for (; slot < end; slot += BLOCK) scores_of_queries<1>(q, queries, keys + slot * head_dim, head_dim, scores + slot, stride);
}

// Scores of slots -> weights of the path's positions, exp(scale * (score - largest)) as bfloat16, 0 behind the last one up to a
// whole vector; returns 1 / their sum. The scores are overwritten.
TL_INLINE float softmax(const Path& path, float* scores, float scale, uint16_t* weights) {
    const int64_t length = path.length(), padded = (length + W - 1) / W * W;
    for (int64_t i = 0; i < path.count; i++) scores[path.contiguous + i] = scores[path.slots[i]];  // slots ascend
    for (int64_t p = length; p < padded; p++) scores[p] = -INFINITY;
    vf largest = splat(-INFINITY);
    for (int64_t p = 0; p < padded; p += W) largest = max(largest, load(scores + p));
    const vf offset = splat(reduce_max(largest)), factor = splat(scale);
    vf sum = splat(0);
    for (int64_t p = 0; p < padded; p += W) {
        const vi e = to_bf16(exp(mul(sub(load(scores + p), offset), factor)));
        store_halves16(weights + p, e);
        sum = add(sum, as_float(shift_left<16>(e)));
    }
    return 1.0f / reduce_add(sum);
}

// acc[q][v] += weights of q times values, for pairs of positions [begin, end) that lie at values + begin * 2 * head_dim.
template <int Q, int V>
TL_INLINE void weigh(const uint16_t* const* weights, const uint16_t* values, int64_t begin, int64_t end, int64_t head_dim,
                     vf (&acc)[Q][V]) {
    for (int64_t p = begin; p < end; p++, values += 2 * head_dim) {
        vi value[V];
        TL_UNROLL
        for (int v = 0; v < V; v++) value[v] = loadi(values + v * 2 * W);
        TL_UNROLL
        for (int q = 0; q < Q; q++) {
            int32_t pair;
            std::memcpy(&pair, weights[q] + 2 * p, 4);
            TL_UNROLL
            for (int v = 0; v < V; v++) acc[q][v] = dot2(acc[q][v], value[v], splati(pair));
        }
    }
}

// V vectors of the outputs of Q queries, from dimension `d` on.
template <int Q, int V>
TL_INLINE void outputs(const uint16_t* const* weights, const float* inverse, const Path* paths, const uint16_t* values,
                       int64_t head_dim, int64_t d, float* const* out) {
    vf acc[Q][V];
    int64_t common = paths[0].direct();
    for (int q = 1; q < Q; q++) common = std::min(common, paths[q].direct());
    TL_UNROLL
    for (int q = 0; q < Q; q++) {
        TL_UNROLL
        for (int v = 0; v < V; v++) acc[q][v] = splat(0);
    }
    weigh<Q, V>(weights, values + 2 * d, 0, common, head_dim, acc);
    TL_UNROLL
    for (int q = 0; q < Q; q++) {
        const Path& path = paths[q];
        const int64_t direct = path.direct();
        vf own[1][V];
        TL_UNROLL
        for (int v = 0; v < V; v++) own[0][v] = acc[q][v];
        weigh<1, V>(weights + q, values + common * 2 * head_dim + 2 * d, common, direct, head_dim, own);
        if (path.count > 0) weigh<1, V>(weights + q, path.tail + 2 * d, direct, (path.length() + 1) / 2, head_dim, own);
        TL_UNROLL
        for (int v = 0; v < V; v++) store(out[q] + d + v * W, mul(own[0][v], splat(inverse[q])));
    }
}

template <int V>
TL_INLINE void output_columns(const uint16_t* const* weights, const float* inverse, const Path* paths, int queries,
                              const uint16_t* values, int64_t head_dim, int64_t d, float* const* out) {
    int i = 0;
    for (; i + 4 <= queries; i += 4) outputs<4, V>(weights + i, inverse + i, paths + i, values, head_dim, d, out + i);
    for (; i + 2 <= queries; i += 2) outputs<2, V>(weights + i, inverse + i, paths + i, values, head_dim, d, out + i);
    for (; i < queries; i++) outputs<1, V>(weights + i, inverse + i, paths + i, values, head_dim, d, out + i);
}

// Outputs of up to MAX_QUERIES queries of one key/value head. `scores` and `weights` hold MAX_QUERIES * stride values.
static void attend(const int32_t* const* q, const Path* paths, int queries, const uint16_t* keys, const uint16_t* values,
                   int64_t head_dim, float* scores, uint16_t* weights, int64_t stride, float* const* out) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    float inverse[MAX_QUERIES];
    const uint16_t* weights_of[MAX_QUERIES];
    int64_t end = 0;
    for (int i = 0; i < queries; i++) end = std::max(end, paths[i].end());
    all_scores(q, queries, keys, end, head_dim, scores, stride);
    for (int i = 0; i < queries; i++) {
        inverse[i] = softmax(paths[i], scores + i * stride, scale, weights + i * stride);
        weights_of[i] = weights + i * stride;
    }
    int64_t d = 0;
    for (; d + 4 * W <= head_dim; d += 4 * W) output_columns<4>(weights_of, inverse, paths, queries, values, head_dim, d, out);
    for (; d + 2 * W <= head_dim; d += 2 * W) output_columns<2>(weights_of, inverse, paths, queries, values, head_dim, d, out);
    for (; d < head_dim; d += W) output_columns<1>(weights_of, inverse, paths, queries, values, head_dim, d, out);
}

// Copy slots sources[i] to target + i, which is no later slot, in every head.
static void move_slots(const Cache& cache, const int32_t* sources, int64_t count, int64_t target) {
    const int64_t dim = cache.head_dim;
    for (int64_t h = 0; h < cache.kv_heads; h++) {
        uint16_t* keys = cache.keys_of(h);
        uint16_t* values = cache.values_of(h);
        for (int64_t i = 0; i < count; i++) {
            const uint16_t* key = keys + cache.key_at(sources[i]);
            uint16_t* to = keys + cache.key_at(target + i);
            for (int64_t d = 0; d < dim / 2; d++) std::memcpy(to + d * 2 * BLOCK, key + d * 2 * BLOCK, 4);
            const uint16_t* value = values + cache.value_at(sources[i]);
            to = values + cache.value_at(target + i);
            for (int64_t d = 0; d < dim; d++) to[2 * d] = value[2 * d];
        }
    }
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
