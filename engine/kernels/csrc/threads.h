// Teams of threads: a spinning barrier, work ranges, and buffers that live as long as their thread.
#pragma once
#include <omp.h>
#include <sched.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "simd.h"

namespace tl {

// Cheaper than the OpenMP runtime's barrier for the microsecond phases of small models; yields when a core is taken away.
class Barrier {
   public:
    void wait(int team) {
        if (team == 1) return;
        const uint32_t phase = phase_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) == team - 1) {
            arrived_.store(0, std::memory_order_relaxed);
            phase_.store(phase + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; spins++) {
            if (spins < 4096) {
                _mm_pause();
            } else {
                sched_yield();
            }
        }
    }

   private:
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint32_t> phase_{0};
};

struct Range {
    int64_t begin, end;
};

// The part of [0, count) that thread `rank` of `team` handles.
TL_INLINE Range share(int64_t count, int rank, int team) { return {count * rank / team, count * (rank + 1) / team}; }

// Units of work [0, count), a contiguous part for each thread; who has finished its own takes from the others. Parts stay
// with the same thread from call to call (its caches hold their weights), yet a core that is slow or busy delays nobody.
class Tasks {
   public:
    static constexpr int MAX_TEAM = 64;

    void reset(int64_t count, int team) {
        count_ = count;
        team_ = team;
        for (int r = 0; r < team; r++) parts_[r].next.store(share(count, r, team).begin, std::memory_order_relaxed);
    }
    // The next unit for thread `rank`, or -1.
    int64_t take(int rank) {
        for (int i = 0; i < team_; i++) {
            const int r = (rank + i) % team_;
            const int64_t end = share(count_, r, team_).end;
            if (parts_[r].next.load(std::memory_order_relaxed) >= end) continue;
            const int64_t unit = parts_[r].next.fetch_add(1, std::memory_order_relaxed);
            if (unit < end) return unit;
        }
        return -1;
    }

   private:
    struct alignas(64) Part {
        std::atomic<int64_t> next;
    };
    Part parts_[MAX_TEAM];
    int64_t count_ = 0;
    int team_ = 0;
};

// A bump allocator whose memory is kept for the next call.
class Arena {
   public:
    ~Arena() { std::free(base_); }
    void reserve(size_t bytes) {
        used_ = 0;
        if (bytes <= capacity_) return;
        std::free(base_);
        capacity_ = (bytes + 4095) & ~size_t{4095};
        base_ = static_cast<char*>(std::aligned_alloc(4096, capacity_));
        if (base_ == nullptr) {
            capacity_ = 0;
            throw std::bad_alloc();
        }
    }
    template <typename T>
    T* take(int64_t count) {
        T* taken = reinterpret_cast<T*>(base_ + used_);
        used_ += bytes_for<T>(count);
        return taken;
    }
    template <typename T>
    static size_t bytes_for(int64_t count) {
        return (static_cast<size_t>(count) * sizeof(T) + 63) & ~size_t{63};
    }

   private:
    char* base_ = nullptr;
    size_t capacity_ = 0, used_ = 0;
};

}  // namespace tl
