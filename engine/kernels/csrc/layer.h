// One decoder layer in one parallel region.
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
    int64_t qkv_width() const { return (heads + 2 * kv_heads) * head_dim; }
};

struct Cache {
    float* keys;  // [kv_heads, capacity, head_dim], heads `head_stride` floats apart
    float* values;
    int64_t head_stride;
};

// Shared by the team for one call.
struct Work {
    const Layer* layer;
    const Step* step;
    Cache cache;
    float* hidden;   // [M, hidden]
    float* qkv;      // [M, qkv_width]
    float* context;  // [M, heads * head_dim]
    Activations normed, attended, gated;
    Barrier barrier;
    Tasks project, attend, mix, gate, reduce;  // one per phase
    int planned;  // threads that the work was cut for; the team may turn out smaller
};

struct Private {
    int rank, team;
    Activations normed;  // for few rows: every thread's own copy
    float* scores;
    int64_t score_stride;
    int32_t* slots;
    float* gate;
    float* up;
};

constexpr int64_t MLP_ROWS = 64;  // rows of the gate and up buffers
constexpr int64_t ROW_CHUNK = 16; // rows of a unit of attention

// Normalise and quantise hidden; the copy to multiply by.
static Activations quantize_hidden(Work& work, Private& mine, const float* norm) {
    const Layer& layer = *work.layer;
    const int64_t rows = work.step->count;
    const float eps = static_cast<float>(layer.eps);
    if (mine.team == 1 || rows * layer.hidden <= SHARED_QUANTIZE) {
        quantize_rows(work.hidden, layer.hidden, norm, eps, {0, rows}, mine.normed);
        return mine.normed;
    }
    quantize_rows(work.hidden, layer.hidden, norm, eps, share(rows, mine.rank, mine.team), work.normed);
    work.barrier.wait(mine.team);
    return work.normed;
}

TL_INLINE void normalize_and_rotate(float* head, const float* norm, const Layer& layer, const Step& step, int64_t m) {
    const int64_t half = layer.head_dim / 2;
    if (norm != nullptr) {
        const vf factor = splat(inverse_rms(head, layer.head_dim, static_cast<float>(layer.eps)));
        for (int64_t d = 0; d < layer.head_dim; d += W) store(head + d, mul(mul(load(head + d), factor), load(norm + d)));
    }
    rotate(head, step.cos + m * half, step.sin + m * half, layer.head_dim, head);
}

// Rotate the queries and the key of kv head `h` in row m; key and value go into the cache.
static void place(Work& work, int64_t h, int64_t m) {
    const Layer& layer = *work.layer;
    const Step& step = *work.step;
    const int64_t dim = layer.head_dim, per_kv = layer.queries_per_kv();
    float* row = work.qkv + m * layer.qkv_width();
    float* key = row + (layer.heads + h) * dim;
    for (int64_t i = 0; i < per_kv; i++) normalize_and_rotate(row + (h * per_kv + i) * dim, layer.q_norm, layer, step, m);
    normalize_and_rotate(key, layer.k_norm, layer, step, m);
    const int64_t slot = h * work.cache.head_stride + (step.past + step.first + m) * dim;
    std::memcpy(work.cache.keys + slot, key, dim * sizeof(float));
    std::memcpy(work.cache.values + slot, key + layer.kv_heads * dim, dim * sizeof(float));
}

// Attention of rows [rows) for query heads [heads) of kv head h.
static void attend_unit(Work& work, Private& mine, int64_t h, Range heads, Range rows) {
    const Layer& layer = *work.layer;
    const Step& step = *work.step;
    const int64_t dim = layer.head_dim, chain = leading_chain(step);
    const float* keys = work.cache.keys + h * work.cache.head_stride;
    const float* values = work.cache.values + h * work.cache.head_stride;
    const float* q[MAX_QUERIES];
    float* out[MAX_QUERIES];
    Path paths[MAX_QUERIES];
    int queries = 0;
    auto flush = [&] {
        if (queries > 0) attend(q, paths, queries, keys, values, dim, mine.scores, mine.score_stride, out);
        queries = 0;
    };
    for (int64_t m = rows.begin; m < rows.end; m++) {
        int32_t* scratch = mine.slots + m % MAX_QUERIES * (step.first + step.count);
        for (int64_t head = heads.begin; head < heads.end; head++) {
            if (queries == 0 || head == heads.begin) paths[queries] = path_of(step, chain, step.first + m, scratch);
            else paths[queries] = paths[queries - 1];
            q[queries] = work.qkv + m * layer.qkv_width() + head * dim;
            out[queries] = work.context + (m * layer.heads + head) * dim;
            if (++queries == MAX_QUERIES) flush();
        }
    }
    flush();
}

// Projections, rotation, attention and quantisation of a whole kv head: nothing in it waits for another thread.
static void attention_of_head(Work& work, Private& mine, const Activations& a, int64_t h) {
    const Layer& layer = *work.layer;
    const int64_t rows = work.step->count, per_kv = layer.queries_per_kv(), tiles = layer.head_dim / 16;
    const int64_t width = layer.qkv_width(), dim = layer.head_dim, columns = layer.heads * dim;
    const Range parts[3] = {{h * per_kv, (h + 1) * per_kv},
                            {layer.heads + h, layer.heads + h + 1},
                            {layer.heads + layer.kv_heads + h, layer.heads + layer.kv_heads + h + 1}};
    const int64_t pass = rows_per_pass(layer.hidden);
    for (int64_t m = 0; m < rows; m += pass) {
        for (const Range& part : parts) {
            multiply_tiles(layer.qkv, a, {m, std::min(rows, m + pass)}, {part.begin * tiles, part.end * tiles},
                           work.qkv + m * width + part.begin * dim, width, false);
        }
    }
    for (int64_t m = 0; m < rows; m++) place(work, h, m);
    attend_unit(work, mine, h, parts[0], {0, rows});
    for (int64_t m = 0; m < rows; m++) {
        quantize_row(work.context + m * columns, nullptr, 1.0f, parts[0].begin * dim, parts[0].end * dim, m, work.attended);
    }
}

// Whether attention is done in whole heads: they can be shared out evenly, and no group of activations spans two.
static bool by_heads(const Layer& layer, int team) {
    return layer.kv_heads % team == 0 && layer.queries_per_kv() * layer.head_dim % layer.output.group == 0;
}

// Otherwise: units of some rows of all query heads of a kv head, or of one query head if there are few.
struct AttentionCut {
    int64_t chunks, split, units;

    AttentionCut(const Layer& layer, int64_t rows, int team) : chunks((rows + ROW_CHUNK - 1) / ROW_CHUNK) {
        split = layer.kv_heads * chunks < 2 * team ? layer.queries_per_kv() : 1;
        units = layer.kv_heads * split * chunks;
    }
};

static void attention_by_units(Work& work, Private& mine, const Activations& a) {
    const Layer& layer = *work.layer;
    const int64_t rows = work.step->count, per_kv = layer.queries_per_kv(), columns = layer.heads * layer.head_dim;
    multiply_part(layer.qkv, a, Cut(layer.qkv, rows, work.planned), work.project, mine.rank, work.qkv, layer.qkv_width(), false);
    work.barrier.wait(mine.team);
    const Range places = share(layer.kv_heads * rows, mine.rank, mine.team);
    for (int64_t i = places.begin; i < places.end; i++) place(work, i / rows, i % rows);
    work.barrier.wait(mine.team);
    const AttentionCut cut(layer, rows, work.planned);
    for (int64_t unit; (unit = work.attend.take(mine.rank)) >= 0;) {
        const int64_t part = unit / cut.chunks, h = part / cut.split, first = unit % cut.chunks * ROW_CHUNK;
        const int64_t size = per_kv / cut.split, head = h * per_kv + part % cut.split * size;
        attend_unit(work, mine, h, {head, head + size}, {first, std::min(rows, first + ROW_CHUNK)});
    }
    work.barrier.wait(mine.team);
    quantize_rows(work.context, columns, nullptr, 0, share(rows, mine.rank, mine.team), work.attended);
}

// Attention's output, quantised for the output projection.
static void attention(Work& work, Private& mine) {
    const Layer& layer = *work.layer;
    const Activations a = quantize_hidden(work, mine, layer.input_norm);
    if (by_heads(layer, work.planned)) {
        for (int64_t h; (h = work.attend.take(mine.rank)) >= 0;) attention_of_head(work, mine, a, h);
    } else {
        attention_by_units(work, mine, a);
    }
    work.barrier.wait(mine.team);
}

// silu(gate) * up for one group of columns and some rows, quantised for the down projection.
static void gate_group(Work& work, Private& mine, const Activations& a, int64_t g, Range rows) {
    const Layer& layer = *work.layer;
    const int64_t size = work.gated.group, tiles = size / 16, up_tile = layer.intermediate / 16 + g * tiles;
    multiply_tiles(layer.gate_up, a, rows, {g * tiles, (g + 1) * tiles}, mine.gate, size, false);
    multiply_tiles(layer.gate_up, a, rows, {up_tile, up_tile + tiles}, mine.up, size, false);
    for (int64_t m = rows.begin; m < rows.end; m++) {
        float* gate = mine.gate + (m - rows.begin) * size;
        const float* up = mine.up + (m - rows.begin) * size;
        vf largest = splat(0);
        for (int64_t i = 0; i < size; i += W) {
            const vf x = load(gate + i);
            const vf gated = mul(div(x, add(splat(1), exp(sub(splat(0), x)))), load(up + i));
            store(gate + i, gated);
            largest = max(largest, abs(gated));
        }
        quantize_group(gate, size, largest, work.gated.q + m * work.gated.stride + g * size, work.gated.scale + m * work.gated.groups + g,
                       work.gated.minus_sum + m * work.gated.groups + g);
    }
}

static void feed_forward(Work& work, Private& mine) {
    const Layer& layer = *work.layer;
    const int64_t rows = work.step->count, groups = work.gated.groups;
    const Activations a = quantize_hidden(work, mine, layer.post_norm);
    for (int64_t unit; (unit = work.gate.take(mine.rank)) >= 0;) {
        const int64_t m = unit / groups * MLP_ROWS;
        gate_group(work, mine, a, unit % groups, {m, std::min(rows, m + MLP_ROWS)});
    }
    work.barrier.wait(mine.team);
    multiply_part(layer.down, work.gated, Cut(layer.down, rows, work.planned), work.reduce, mine.rank, work.hidden, layer.hidden, true);
}

static void plan(Work& work, int team) {
    work.planned = team;
    const Layer& layer = *work.layer;
    const int64_t rows = work.step->count;
    work.project.reset(Cut(layer.qkv, rows, team).units(), team);
    work.attend.reset(by_heads(layer, team) ? layer.kv_heads : AttentionCut(layer, rows, team).units, team);
    work.mix.reset(Cut(layer.output, rows, team).units(), team);
    work.gate.reset((rows + MLP_ROWS - 1) / MLP_ROWS * work.gated.groups, team);
    work.reduce.reset(Cut(layer.down, rows, team).units(), team);
}

static void run_thread(Work& work, int rank, int team) {
    static thread_local Arena arena;
    const Layer& layer = *work.layer;
    const Step& step = *work.step;
    Private mine;
    mine.rank = rank;
    mine.team = team;
    mine.score_stride = (step.past + step.first + step.count + 2 * W) / W * W;
    const int64_t rows = team == 1 ? step.count : std::min(step.count, SHARED_QUANTIZE / layer.hidden);
    const int64_t uncommitted = step.first + step.count, group = work.gated.group;
    arena.reserve(Activations::bytes(rows, layer.hidden, layer.qkv.group) + Arena::bytes_for<float>(MAX_QUERIES * mine.score_stride) +
                  Arena::bytes_for<int32_t>(MAX_QUERIES * uncommitted) + 2 * Arena::bytes_for<float>(MLP_ROWS * group));
    mine.normed = Activations::carve(arena, rows, layer.hidden, layer.qkv.group);
    mine.scores = arena.take<float>(MAX_QUERIES * mine.score_stride);
    mine.slots = arena.take<int32_t>(MAX_QUERIES * uncommitted);
    mine.gate = arena.take<float>(MLP_ROWS * group);
    mine.up = arena.take<float>(MLP_ROWS * group);
    attention(work, mine);
    multiply_part(layer.output, work.attended, Cut(layer.output, step.count, work.planned), work.mix, rank, work.hidden, layer.hidden, true);
    work.barrier.wait(team);
    feed_forward(work, mine);
}

static void run_layer(const Layer& layer, const Step& step, float* hidden, const Cache& cache, int threads) {
    static thread_local Arena arena;
    const int64_t rows = step.count, context = layer.heads * layer.head_dim;
    Work work;
    arena.reserve(Arena::bytes_for<float>(rows * layer.qkv_width()) + Arena::bytes_for<float>(rows * context) +
                  Activations::bytes(rows, layer.hidden, layer.qkv.group) + Activations::bytes(rows, context, layer.output.group) +
                  Activations::bytes(rows, layer.intermediate, layer.down.group));
    work.layer = &layer;
    work.step = &step;
    work.cache = cache;
    work.hidden = hidden;
    work.qkv = arena.take<float>(rows * layer.qkv_width());
    work.context = arena.take<float>(rows * context);
    work.normed = Activations::carve(arena, rows, layer.hidden, layer.qkv.group);
    work.attended = Activations::carve(arena, rows, context, layer.output.group);
    work.gated = Activations::carve(arena, rows, layer.intermediate, layer.down.group);
    plan(work, threads);
    if (threads == 1) return run_thread(work, 0, 1);
#pragma omp parallel num_threads(threads)
    run_thread(work, omp_get_thread_num(), omp_get_num_threads());
}

}  // namespace tl
