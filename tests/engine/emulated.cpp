// The kernels behind standard input and output, for a processor that only an emulator runs here: test_kernels_arm.py.
//
// A call is its name, then its numbers and blocks of bytes, each block behind its length; what it computes comes back alike.
#include <cstdio>
#include <deque>
#include <string>
#include <vector>

#include "kernels.cpp"

constexpr int64_t THREADS = 2;
static std::deque<std::vector<char>> blocks_read;  // they live as long as the program

static int64_t number() {
    int64_t value = 0;
    if (std::fread(&value, sizeof value, 1, stdin) != 1) std::exit(1);
    return value;
}

// What is read next, or null if it is empty.
template <typename T>
static T* block() {
    std::vector<char>& bytes = blocks_read.emplace_back(number());
    if (bytes.empty()) return nullptr;
    if (std::fread(bytes.data(), bytes.size(), 1, stdin) != 1) std::exit(1);
    return reinterpret_cast<T*>(bytes.data());
}

static int64_t last_length() { return static_cast<int64_t>(blocks_read.back().size()); }

template <typename T>
static void answer(const std::vector<T>& values) {
    const int64_t length = static_cast<int64_t>(values.size() * sizeof(T));
    std::fwrite(&length, sizeof length, 1, stdout);
    std::fwrite(values.data(), 1, static_cast<size_t>(length), stdout);
}

static Linear shape_of_linear() {
    Linear weight = {};
    weight.in = number();
    weight.out = number();
    weight.group = number();
    weight.bits = number();
    return weight;
}

static Linear linear() {
    Linear weight = shape_of_linear();
    weight.blocks = block<uint8_t>();
    weight.bias = block<float>();
    return weight;
}

static void answer_packed(Linear weight, std::vector<uint8_t>& packed) {
    weight.blocks = packed.data();
    std::vector<float> floats(weight.in * weight.out);
    tl_dequantize(&weight, floats.data(), THREADS);
    answer(packed);
    answer(floats);
}

static void pack_awq() {
    const Linear weight = shape_of_linear();
    std::vector<uint8_t> packed(weight.tiles() * weight.tile_bytes());
    const void *qweight = block<char>(), *qzeros = block<char>(), *scales = block<char>();
    tl_pack_awq(&weight, packed.data(), qweight, qzeros, scales, THREADS);
    answer_packed(weight, packed);
}

static void pack_dense() {
    const Linear weight = shape_of_linear();
    const int64_t type = number();
    std::vector<uint8_t> packed(weight.tiles() * weight.tile_bytes());
    tl_pack_dense(&weight, packed.data(), block<char>(), type, THREADS);
    answer_packed(weight, packed);
}

static void multiply_rows() {
    const Linear weight = linear();
    const int64_t rows = number();
    const float *x = block<float>(), *norm = block<float>();
    std::vector<float> y(rows * weight.out);
    tl_linear(&weight, x, rows, norm, 1e-5, y.data(), THREADS);
    answer(y);
}

// Passes over one layer, each behind those before it.
static void layer_passes() {
    Layer layer = {linear(), linear(), linear(), linear()};
    layer.input_norm = block<float>();
    layer.post_norm = block<float>();
    layer.q_norm = block<float>();
    layer.k_norm = block<float>();
    layer.hidden = number();
    layer.heads = number();
    layer.kv_heads = number();
    layer.head_dim = number();
    layer.intermediate = number();
    layer.eps = 1e-5;
    const int64_t capacity = number();
    std::vector<uint16_t> keys(capacity * layer.kv_heads * layer.head_dim), values = keys;
    const Cache cache = {keys.data(), values.data(), capacity, layer.kv_heads, layer.head_dim};
    const float *cos = block<float>(), *sin = block<float>();
    int64_t past = 0;
    for (int64_t passes = number(); passes > 0; passes--) {
        const int32_t* parents = block<int32_t>();
        const int64_t count = last_length() / 4;
        const int32_t* positions = block<int32_t>();
        const float* hidden = block<float>();
        std::vector<float> out(hidden, hidden + count * layer.hidden);
        const Step step = {past, 0, count, parents, positions, cos, sin};
        tl_layer(&layer, &step, out.data(), &cache, THREADS);
        answer(out);
        past += count;
    }
}

static void top() {
    const int64_t rows = number(), vocabulary = number(), k = number();
    std::vector<int32_t> ids(rows * k);
    std::vector<float> logprobs(rows * k);
    tl_top_logprobs(block<float>(), rows, vocabulary, vocabulary, k, ids.data(), logprobs.data(), THREADS);
    answer(ids);
    answer(logprobs);
}

static void sum_up() {
    const void* data = block<char>();
    answer(std::vector<int64_t>{tl_checksum(data, last_length())});
}

int main() {
    const std::string name = block<char>();
    if (name == "instruction set") answer(std::vector<char>(INSTRUCTION_SET, INSTRUCTION_SET + sizeof INSTRUCTION_SET - 1));
    else if (name == "pack_awq") pack_awq();
    else if (name == "pack_dense") pack_dense();
    else if (name == "linear") multiply_rows();
    else if (name == "layer") layer_passes();
    else if (name == "top") top();
    else if (name == "checksum") sum_up();
    else return 2;
    return 0;
}
