// Log-softmax and the k most probable tokens of rows of logits.
#pragma once
#include <cmath>

#include "threads.h"

namespace tl {

// The k largest (value, id), best first; of equal values the one offered first stays ahead.
struct Best {
    float* values;
    int32_t* ids;
    int64_t k;

    void clear() {
        for (int64_t i = 0; i < k; i++) {
            values[i] = -INFINITY;
            ids[i] = -1;
        }
    }
    float threshold() const { return values[k - 1]; }
    void offer(float value, int32_t id) {
        int64_t i = k - 1;
        for (; i > 0 && (value > values[i - 1] || ids[i - 1] < 0); i--) {
            values[i] = values[i - 1];
            ids[i] = ids[i - 1];
        }
        values[i] = value;
        ids[i] = id;
    }
    bool wants(float value) const { return value > threshold() || ids[k - 1] < 0; }
};

constexpr int64_t SEGMENT = 4096;  // summed as a unit, so that the result does not depend on the threads

// Largest value, and sum of exp(value - largest), of one segment; its candidates go to `best`.
TL_INLINE void scan_segment(const float* logits, int64_t begin, int64_t end, Best& best, float* peak, float* sum) {
    const int64_t whole = begin + (end - begin) / W * W;
    vf largest = splat(-INFINITY), total = splat(0);
    for (int64_t i = begin; i < whole; i += W) largest = max(largest, load(logits + i));
    float top = reduce_max(largest);
    for (int64_t i = whole; i < end; i++) top = std::max(top, logits[i]);
    const vf offset = splat(top);
    int64_t i = begin;
    for (; i < whole; i += W) {
        const vf x = load(logits + i);
        total = add(total, exp(sub(x, offset)));
        uint32_t mask = greater_mask(x, splat(best.threshold()));
        if (__builtin_expect(best.ids[best.k - 1] < 0, 0)) mask = (1u << W) - 1;
        for (; mask != 0; mask &= mask - 1) {
            const int64_t id = i + __builtin_ctz(mask);
            if (best.wants(logits[id])) best.offer(logits[id], static_cast<int32_t>(id));
        }
    }
    float rest = 0;
    for (; i < end; i++) {
        rest += std::exp(logits[i] - top);
        if (best.wants(logits[i])) best.offer(logits[i], static_cast<int32_t>(i));
    }
    *peak = top;
    *sum = reduce_add(total) + rest;
}

// ids [rows, k] and their log-probabilities; ties: the lower id first. k <= vocabulary.
static void top_logprobs(const float* logits, int64_t rows, int64_t vocabulary, int64_t stride, int64_t k, int32_t* ids,
                         float* logprobs, Team& team) {
    static thread_local Arena arena;
    const int64_t segments = (vocabulary + SEGMENT - 1) / SEGMENT;
    const int64_t parts = rows >= team.size() ? 1 : std::min<int64_t>(team.size(), segments);  // of a row
    arena.reserve(2 * Arena::bytes_for<float>(rows * segments) + 2 * Arena::bytes_for<float>(rows * parts * k));
    float* peaks = arena.take<float>(rows * segments);
    float* sums = arena.take<float>(rows * segments);
    float* values = arena.take<float>(rows * parts * k);
    int32_t* found = arena.take<int32_t>(rows * parts * k);
    team.each(rows * parts, [&](int64_t unit) {
        const int64_t row = unit / parts;
        const Range mine = share(segments, unit % parts, parts);
        Best best = {values + unit * k, found + unit * k, k};
        best.clear();
        for (int64_t s = mine.begin; s < mine.end; s++) {
            scan_segment(logits + row * stride, s * SEGMENT, std::min(vocabulary, (s + 1) * SEGMENT), best,
                         peaks + row * segments + s, sums + row * segments + s);
        }
    });
    for (int64_t row = 0; row < rows; row++) {
        Best best = {logprobs + row * k, ids + row * k, k};
        best.clear();
        for (int64_t i = row * parts * k; i < (row + 1) * parts * k; i++) {
            if (found[i] >= 0 && best.wants(values[i])) best.offer(values[i], found[i]);
        }
        double total = 0;
        const float top = best.values[0];
        for (int64_t s = 0; s < segments; s++) {
            const float gap = peaks[row * segments + s] - top;
            if (gap > -INFINITY) total += sums[row * segments + s] * std::exp(static_cast<double>(gap));
        }
        const double normalizer = top + std::log(total);
        for (int64_t i = 0; i < k; i++) best.values[i] = static_cast<float>(best.values[i] - normalizer);
    }
}

}  // namespace tl
