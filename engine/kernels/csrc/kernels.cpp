// The C interface that native.py calls. Every pointer is checked there; sizes in elements.
#include "layer.h"
#include "logits.h"
#include "pack.h"

using namespace tl;

// Two threads do not pay below this many multiplications.
static int team_for(int64_t work, int64_t threads) {
    return work < (1 << 18) ? 1 : static_cast<int>(std::min<int64_t>(threads, Tasks::MAX_TEAM));
}

extern "C" {

// Bytes of a vector register, and whether dot products of bytes are one instruction.
int64_t tl_vector_bytes() { return W * 4; }
int64_t tl_has_vnni() { return VNNI ? 1 : 0; }

int64_t tl_block_bytes(const Linear* weight) { return weight->tiles() * weight->tile_bytes(); }

void tl_pack_awq(const Linear* weight, void* blocks, const void* qweight, const void* qzeros, const void* scales, int64_t threads) {
    pack_awq(*weight, static_cast<uint8_t*>(blocks), static_cast<const uint32_t*>(qweight), static_cast<const uint32_t*>(qzeros),
             static_cast<const uint16_t*>(scales), static_cast<int>(threads));
}

void tl_pack_dense(const Linear* weight, void* blocks, const void* data, int64_t type, int64_t threads) {
    pack_dense(*weight, static_cast<uint8_t*>(blocks), data, static_cast<Type>(type), static_cast<int>(threads));
}

void tl_dequantize(const Linear* weight, float* out, int64_t threads) { dequantize(*weight, out, static_cast<int>(threads)); }

// y [M, out] = norm(x [M, in]) W^T + bias; `norm` [in] may be null.
void tl_linear(const Linear* weight, const float* x, int64_t rows, const float* norm, double eps, float* y, int64_t threads) {
    static thread_local Arena arena;
    const int team = team_for(rows * weight->in * weight->out, threads);
    const bool split = team > 1 && rows * weight->in > SHARED_QUANTIZE;
    arena.reserve(Activations::bytes(rows, weight->in, weight->group));
    const Activations a = Activations::carve(arena, rows, weight->in, weight->group);
    const Cut cut(*weight, rows, team);
    Tasks tasks;
    tasks.reset(cut.units(), team);
    if (!split) quantize_rows(x, weight->in, norm, static_cast<float>(eps), {0, rows}, a);
    if (team == 1) return multiply_part(*weight, a, cut, tasks, 0, y, weight->out, false);
    Barrier barrier;
#pragma omp parallel num_threads(team)
    {
        const int rank = omp_get_thread_num(), size = omp_get_num_threads();
        if (split) {
            quantize_rows(x, weight->in, norm, static_cast<float>(eps), share(rows, rank, size), a);
            barrier.wait(size);
        }
        multiply_part(*weight, a, cut, tasks, rank, y, weight->out, false);
    }
}

void tl_layer(const Layer* layer, const Step* step, float* hidden, float* keys, float* values, int64_t head_stride, int64_t threads) {
    const int64_t weights = layer->hidden * (layer->qkv_width() + layer->heads * layer->head_dim + 3 * layer->intermediate);
    run_layer(*layer, *step, hidden, {keys, values, head_stride}, team_for(step->count * weights, threads));
}

void tl_top_logprobs(const float* logits, int64_t rows, int64_t vocabulary, int64_t stride, int64_t k, int32_t* ids, float* logprobs,
                     int64_t threads) {
    top_logprobs(logits, rows, vocabulary, stride, k, ids, logprobs, team_for(rows * vocabulary * 16, threads));
}

}  // extern "C"
