// The C interface that native.py calls. Every pointer is checked there; sizes in elements.
#include "checksum.h"
#include "layer.h"
#include "logits.h"
#include "pack.h"

using namespace tl;

// Two threads do not pay below this many multiplications.
static int64_t threads_for(int64_t work, int64_t threads) { return work < (1 << 18) ? 1 : threads; }

extern "C" {

// What these kernels were compiled for.
const char* tl_instruction_set() { return INSTRUCTION_SET; }

int64_t tl_checksum(const void* data, int64_t bytes) { return checksum(static_cast<const uint8_t*>(data), bytes); }

void tl_pack_awq(const Linear* weight, void* blocks, const void* qweight, const void* qzeros, const void* scales, int64_t threads) {
    Team team(threads);
    pack_awq(*weight, static_cast<uint8_t*>(blocks), static_cast<const uint32_t*>(qweight), static_cast<const uint32_t*>(qzeros),
             static_cast<const uint16_t*>(scales), team);
}

void tl_pack_dense(const Linear* weight, void* blocks, const void* data, int64_t type, int64_t threads) {
    Team team(threads);
    pack_dense(*weight, static_cast<uint8_t*>(blocks), data, static_cast<Type>(type), team);
}

void tl_dequantize(const Linear* weight, float* out, int64_t threads) {
    Team team(threads);
    dequantize(*weight, out, team);
}

// y [M, out] = norm(x [M, in]) W^T + bias; `norm` [in] may be null.
void tl_linear(const Linear* weight, const float* x, int64_t rows, const float* norm, double eps, float* y, int64_t threads) {
    static thread_local Arena arena;
    Team team(threads_for(rows * weight->in * weight->out, threads));
    arena.reserve(Activations::bytes(rows, weight->in, weight->group));
    const Activations a = Activations::carve(arena, rows, weight->in, weight->group);
    quantize_all(team, x, rows, weight->in, norm, static_cast<float>(eps), a);
    multiply_all(team, *weight, a, rows, y, false);
}

void tl_layer(const Layer* layer, const Step* step, float* hidden, const Cache* cache, int64_t threads) {
    const int64_t weights = layer->hidden * (layer->qkv_width() + layer->heads * layer->head_dim + 3 * layer->intermediate);
    Team team(threads_for(step->count * weights, threads));
    run_layer(team, *layer, *step, hidden, *cache);
}

// Slots sources[i] become slots target + i; sources ascend and none lies before its target.
void tl_move_slots(const Cache* cache, const int32_t* sources, int64_t count, int64_t target) {
    move_slots(*cache, sources, count, target);
}

void tl_top_logprobs(const float* logits, int64_t rows, int64_t vocabulary, int64_t stride, int64_t k, int32_t* ids, float* logprobs,
                     int64_t threads) {
    Team team(threads_for(rows * vocabulary * 16, threads));
    top_logprobs(logits, rows, vocabulary, stride, k, ids, logprobs, team);
}

}  // extern "C"
