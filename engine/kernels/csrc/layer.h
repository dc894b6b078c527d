// One decoder layer: a handful of parallel loops.
#pragma once
#include "attention.h"
#include "gemm.h"

namespace tl {

struct Layer {  // mirrored by ctypes
    Linear qkv, output, gate_up, down;
    const float* input_norm;
    const float* post_norm;
    const float* q_norm;  // [head_dim] or null: RMSNorm of each query head before the rotation (Qwen3)
    const float* k_norm;
    int64_t hidden, heads, kv_heads, head_dim, intermediate;
    double eps;

    int64_t queries_per_kv() const { return heads / kv_heads; }
    int64_t context_width() const { return heads * head_dim; }
    int64_t qkv_width() const { return (heads + 2 * kv_heads) * head_dim; }
};

// What the loops of one call share.
struct Work {
    const Layer& layer;
    const Step& step;
    const Cache& cache;
    float* hidden;   // [M, hidden]
    float* qkv;      // [M, qkv_width]
    float* context;  // [M, heads * head_dim]
    Activations normed, attended, gated;
};

constexpr int64_t MLP_ROWS = 64;  // rows of the gate and up buffers
constexpr int64_t ROW_CHUNK = 16; // rows of a unit of attention

TL_INLINE void normalize_and_rotate(float* head, const float* norm, const Layer& layer, const Step& step, int64_t m) {
    const int64_t half = layer.head_dim / 2;
    if (norm != nullptr) {
        const vf factor = splat(inverse_rms(head, layer.head_dim, static_cast<float>(layer.eps)));
        for (int64_t d = 0; d < layer.head_dim; d += W) store(head + d, mul(mul(load(head + d), factor), load(norm + d)));
    }
    const int64_t at = step.positions[m] * half;
    rotate(head, step.cos + at, step.sin + at, layer.head_dim, head);
}

// Rotate the queries and the key of kv head `h` in row m; key and value go into the cache.
static void place(const Work& work, int64_t h, int64_t m) {
    const Layer& layer = work.layer;
    const Step& step = work.step;
    const int64_t dim = layer.head_dim, per_kv = layer.queries_per_kv();
    float* row = work.qkv + m * layer.qkv_width();
    float* key = row + (layer.heads + h) * dim;
    for (int64_t i = 0; i < per_kv; i++) normalize_and_rotate(row + (h * per_kv + i) * dim, layer.q_norm, layer, step, m);
    normalize_and_rotate(key, layer.k_norm, layer, step, m);
    const Cache& cache = work.cache;
    const float* value = key + layer.kv_heads * dim;
    const int64_t slot = step.past + step.first + m;
    uint16_t* keys = cache.keys_of(h) + cache.key_at(slot);
    uint16_t* values = cache.values_of(h) + cache.value_at(slot);
    uint16_t rounded[2 * W];
    for (int64_t d = 0; d < dim; d += W) {
        store_bf16(rounded, load(key + d));
        store_bf16(rounded + W, load(value + d));
        for (int i = 0; i < W; i += 2) std::memcpy(keys + (d + i) * BLOCK, rounded + i, 4);
        for (int i = 0; i < W; i++) values[2 * (d + i)] = rounded[W + i];
    }
}

// Buffers of one unit of attention.
struct Attention {
    float* scores;      // [MAX_QUERIES, stride]
    uint16_t* weights;  // [MAX_QUERIES, stride]
    uint16_t* queries;  // [MAX_QUERIES, head_dim]
    int32_t* slots;     // [MAX_QUERIES, uncommitted]
    uint16_t* tails;    // [MAX_QUERIES, tail]
    int64_t stride, uncommitted, tail;

    static Attention carve(Arena& arena, const Step& step, int64_t dim) {
        Attention a;
        a.uncommitted = step.first + step.count;
        a.stride = (step.past + a.uncommitted + 4 * BLOCK) / BLOCK * BLOCK;
        a.tail = (a.uncommitted + 3) / 2 * 2 * dim;
        arena.reserve(Arena::bytes_for<float>(MAX_QUERIES * a.stride) + Arena::bytes_for<uint16_t>(MAX_QUERIES * a.stride) +
                      Arena::bytes_for<uint16_t>(MAX_QUERIES * dim) + Arena::bytes_for<int32_t>(MAX_QUERIES * a.uncommitted) +
                      Arena::bytes_for<uint16_t>(MAX_QUERIES * a.tail));
        a.scores = arena.take<float>(MAX_QUERIES * a.stride);
        a.weights = arena.take<uint16_t>(MAX_QUERIES * a.stride);
        a.queries = arena.take<uint16_t>(MAX_QUERIES * dim);
        a.slots = arena.take<int32_t>(MAX_QUERIES * a.uncommitted);
        a.tails = arena.take<uint16_t>(MAX_QUERIES * a.tail);
        return a;
    }
};

// Attention of rows [rows) for query heads [heads), which belong to kv head h.
static void attend_unit(const Work& work, int64_t h, Range heads, Range rows) {
    static thread_local Arena arena;
    const Layer& layer = work.layer;
    const Step& step = work.step;
    const int64_t dim = layer.head_dim, chain = leading_chain(step);
    const Attention buffers = Attention::carve(arena, step, dim);
    const uint16_t* keys = work.cache.keys_of(h);
    const uint16_t* values = work.cache.values_of(h);
    const int32_t* q[MAX_QUERIES];
    float* out[MAX_QUERIES];
    Path paths[MAX_QUERIES];
    int queries = 0;
    for (int64_t m = rows.begin; m < rows.end; m++) {
        const int64_t place = m % MAX_QUERIES;
        Path path = path_of(step, chain, step.first + m, buffers.slots + place * buffers.uncommitted);
        if (path.count > 0) {
            gather_tail(path, values, work.cache, buffers.tails + place * buffers.tail);
            path.tail = buffers.tails + place * buffers.tail;
        }
        for (int64_t head = heads.begin; head < heads.end; head++) {
            const float* query = work.qkv + m * layer.qkv_width() + head * dim;
            uint16_t* rounded = buffers.queries + queries * dim;
            for (int64_t d = 0; d < dim; d += W) store_bf16(rounded + d, load(query + d));
            q[queries] = reinterpret_cast<const int32_t*>(rounded);
            paths[queries] = path;
            out[queries] = work.context + m * layer.context_width() + head * dim;
            const bool last = m + 1 == rows.end && head + 1 == heads.end;
            if (++queries == MAX_QUERIES || last) {
                attend(q, paths, queries, keys, values, dim, buffers.scores, buffers.weights, buffers.stride, out);
                queries = 0;
            }
        }
    }
}

// Projections, rotation, attention and quantisation of a whole kv head: nothing in it waits for another thread.
static void attention_of_head(const Work& work, int64_t h) {
    const Layer& layer = work.layer;
    const int64_t rows = work.step.count, per_kv = layer.queries_per_kv(), tiles = layer.head_dim / 16;
    const int64_t width = layer.qkv_width(), dim = layer.head_dim, columns = layer.context_width();
    const Range parts[3] = {{h * per_kv, (h + 1) * per_kv},
                            {layer.heads + h, layer.heads + h + 1},
                            {layer.heads + layer.kv_heads + h, layer.heads + layer.kv_heads + h + 1}};
    const int64_t pass = rows_per_pass(layer.hidden);
    for (int64_t m = 0; m < rows; m += pass) {
        for (const Range& part : parts) {
            multiply_tiles(layer.qkv, work.normed, {m, std::min(rows, m + pass)}, {part.begin * tiles, part.end * tiles},
                           work.qkv + m * width + part.begin * dim, width, false);
        }
    }
    for (int64_t m = 0; m < rows; m++) place(work, h, m);
    attend_unit(work, h, parts[0], {0, rows});
    for (int64_t m = 0; m < rows; m++) {
        quantize_row(work.context + m * columns, nullptr, 1.0f, parts[0].begin * dim, parts[0].end * dim, m, work.attended);
    }
}

// The same as several loops, in units of some rows of the query heads of a kv head, or of one query head if there are few.
static void attention_by_units(Team& team, const Work& work) {
    const Layer& layer = work.layer;
    const int64_t rows = work.step.count, per_kv = layer.queries_per_kv();
    multiply_all(team, layer.qkv, work.normed, rows, work.qkv, false);
    team.each(layer.kv_heads, [&](int64_t h) {
        for (int64_t m = 0; m < rows; m++) place(work, h, m);
    });
    const int64_t chunks = (rows + ROW_CHUNK - 1) / ROW_CHUNK;
    const int64_t split = layer.kv_heads * chunks < 2 * team.size() ? per_kv : 1, size = per_kv / split;
    team.each(layer.kv_heads * split * chunks, [&](int64_t unit) {
        const int64_t part = unit / chunks, h = part / split, first = unit % chunks * ROW_CHUNK;
        const int64_t head = h * per_kv + part % split * size;
        attend_unit(work, h, {head, head + size}, {first, std::min(rows, first + ROW_CHUNK)});
    });
    quantize_all(team, work.context, rows, layer.context_width(), nullptr, 0, work.attended);
}

// Whether attention is done in whole heads: they can be shared out evenly, and no group of activations spans two.
static bool by_heads(const Layer& layer, int64_t rows, int team) {
    const bool even = layer.kv_heads % team == 0 || (layer.kv_heads >= 4 * team && rows <= ROW_CHUNK);
    return even && layer.queries_per_kv() * layer.head_dim % layer.output.group == 0;
}

// silu(gate) * up for one group of columns and some rows, quantised for the down projection.
static void gate_group(const Work& work, int64_t g, Range rows) {
    static thread_local Arena arena;
    const Layer& layer = work.layer;
    const Activations& gated = work.gated;
    const int64_t size = gated.group, tiles = size / 16, up_tile = layer.intermediate / 16 + g * tiles;
    arena.reserve(2 * Arena::bytes_for<float>(MLP_ROWS * size));
    float* gates = arena.take<float>(MLP_ROWS * size);
    float* ups = arena.take<float>(MLP_ROWS * size);
    multiply_tiles(layer.gate_up, work.normed, rows, {g * tiles, (g + 1) * tiles}, gates, size, false);
    multiply_tiles(layer.gate_up, work.normed, rows, {up_tile, up_tile + tiles}, ups, size, false);
    for (int64_t m = rows.begin; m < rows.end; m++) {
        float* gate = gates + (m - rows.begin) * size;
        const float* up = ups + (m - rows.begin) * size;
        vf largest = splat(0);
        for (int64_t i = 0; i < size; i += W) {
            const vf x = load(gate + i);
            const vf product = mul(div(x, add(splat(1), exp(sub(splat(0), x)))), load(up + i));
            store(gate + i, product);
            largest = max(largest, abs(product));
        }
        const int64_t at = m * gated.groups + g;
        quantize_group(gate, size, largest, gated.q + m * gated.stride + g * size, gated.scale + at, gated.minus_sum + at);
    }
}

static void run_phases(Team& team, const Work& work) {
    const Layer& layer = work.layer;
    const int64_t rows = work.step.count, groups = work.gated.groups;
    const float eps = static_cast<float>(layer.eps);
    quantize_all(team, work.hidden, rows, layer.hidden, layer.input_norm, eps, work.normed);
    if (by_heads(layer, rows, team.size())) {
        team.each(layer.kv_heads, [&](int64_t h) { attention_of_head(work, h); });
    } else {
        attention_by_units(team, work);
    }
    multiply_all(team, layer.output, work.attended, rows, work.hidden, true);
    quantize_all(team, work.hidden, rows, layer.hidden, layer.post_norm, eps, work.normed);
    team.each((rows + MLP_ROWS - 1) / MLP_ROWS * groups, [&](int64_t unit) {
        const int64_t m = unit / groups * MLP_ROWS;
        gate_group(work, unit % groups, {m, std::min(rows, m + MLP_ROWS)});
    });
    multiply_all(team, layer.down, work.gated, rows, work.hidden, true);
}

static void run_layer(Team& team, const Layer& layer, const Step& step, float* hidden, const Cache& cache) {
    static thread_local Arena arena;
    const int64_t rows = step.count, context = layer.context_width();
    arena.reserve(Arena::bytes_for<float>(rows * layer.qkv_width()) + Arena::bytes_for<float>(rows * context) +
                  Activations::bytes(rows, layer.hidden, layer.qkv.group) + Activations::bytes(rows, context, layer.output.group) +
                  Activations::bytes(rows, layer.intermediate, layer.down.group));
    float* qkv = arena.take<float>(rows * layer.qkv_width());
    float* attended = arena.take<float>(rows * context);
    run_phases(team, {layer, step, cache, hidden, qkv, attended, Activations::carve(arena, rows, layer.hidden, layer.qkv.group),
                      Activations::carve(arena, rows, context, layer.output.group),
                      Activations::carve(arena, rows, layer.intermediate, layer.down.group)});
}

}  // namespace tl
