// A pool of threads that help when they run and delay nobody when they do not, and buffers that live as long as a thread.
//
// Work is a sequence of parallel loops that the calling thread starts one after another. Helpers take units of the loop
// that is current; the caller takes units too, and waits only for units that a helper has taken and not finished. On a
// machine with more work than cores (a compiler, a training run) a helper that is not scheduled costs its share of the
// speed, not a time slice at every barrier. Nothing is linked against OpenMP, so nothing fights with torch's.
#pragma once
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#include "simd.h"

namespace tl {

struct Range {
    int64_t begin, end;
};

// The part of [0, count) that belongs to `rank` of `team`.
TL_INLINE Range share(int64_t count, int64_t rank, int64_t team) { return {count * rank / team, count * (rank + 1) / team}; }

class Pool {
   public:
    static constexpr int MAX_TEAM = 64;
    static constexpr int64_t MAX_UNITS = 60000;  // of one loop: they are counted in 16 bits

    // Never destroyed: helpers may still be waiting when the process ends. A forked child has none, and starts anew.
    static Pool& instance() {
        static Pool* pool = nullptr;
        static std::once_flag once;
        std::call_once(once, [] {
            pool = new Pool;
            pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
        });
        return *pool;
    }
    // One caller at a time has the helpers; another one that comes meanwhile works alone.
    bool acquire() { return busy_.try_lock(); }
    void release() { busy_.unlock(); }

    // body(context, unit, rank) for each unit in [0, count). Each thread begins with its own part, the same from call to call, so
    // that its caches hold the weights, and then takes from the others.
    void run(int64_t count, int team, void (*body)(void*, int64_t, int), void* context) {
        hire(team - 1);
        body_ = body;
        context_ = context;
        team_.store(team, std::memory_order_relaxed);
        done_.store(0, std::memory_order_relaxed);
        const uint32_t loop = loop_.load(std::memory_order_relaxed) + 1;
        for (int r = 0; r < team; r++) {
            const Range part = share(count, r, team);
            parts_[r].state.store(pack(loop, part.begin, part.end), std::memory_order_release);
        }
        loop_.store(loop);
        if (sleepers_.load() > 0) {
            std::lock_guard<std::mutex> lock(sleep_);
            wake_.notify_all();
        }
        help(loop, 0);
        for (int spins = 0; done_.load(std::memory_order_acquire) != count; spins++) {
            if (spins < 8192) relax();
            else sched_yield();
        }
    }

   private:
    struct alignas(64) Part {
        std::atomic<uint64_t> state{0};  // loop << 32 | end << 16 | next
    };
    static constexpr int IDLE_SPINS = 20000;  // about half a millisecond; then a helper sleeps

    static uint64_t pack(uint32_t loop, int64_t next, int64_t end) {
        return static_cast<uint64_t>(loop) << 32 | static_cast<uint64_t>(end) << 16 | static_cast<uint64_t>(next);
    }

    // Take and do units of `loop` until none is left. A unit can only be taken from the loop that is meant: the loop's number is
    // part of what is compared and swapped, and while a unit is out the caller does not start the next loop.
    void help(uint32_t loop, int rank) {
        const int team = team_.load(std::memory_order_relaxed);
        for (int i = 0; i < team; i++) {
            std::atomic<uint64_t>& state = parts_[(rank + i) % team].state;
            uint64_t seen = state.load(std::memory_order_acquire);
            while (seen >> 32 == loop && (seen & 0xffff) < (seen >> 16 & 0xffff)) {
                if (!state.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel)) continue;
                body_(context_, static_cast<int64_t>(seen & 0xffff), rank);
                done_.fetch_add(1, std::memory_order_release);
                seen = state.load(std::memory_order_acquire);
            }
        }
    }

    void hire(int helpers) {
        for (; hired_ < helpers; hired_++) {
            try {
                std::thread([this, rank = hired_ + 1] { serve(rank); }).detach();
            } catch (const std::system_error&) {
                return;  // a limit on threads: those there are do the work
            }
        }
    }

    void serve(int rank) {
        uint32_t last = 0;
        for (;;) {
            uint32_t loop = loop_.load(std::memory_order_acquire);
            for (int spins = 0; loop == last && spins < IDLE_SPINS; spins++) {
                relax();
                loop = loop_.load(std::memory_order_acquire);
            }
            if (loop == last) {
                std::unique_lock<std::mutex> lock(sleep_);
                sleepers_.fetch_add(1);
                wake_.wait(lock, [&] { return loop_.load() != last; });
                sleepers_.fetch_sub(1);
                continue;
            }
            last = loop;
            if (rank < team_.load(std::memory_order_relaxed)) help(loop, rank);
        }
    }

    Part parts_[MAX_TEAM];
    alignas(64) std::atomic<uint32_t> loop_{0};
    alignas(64) std::atomic<int64_t> done_{0};
    alignas(64) void (*body_)(void*, int64_t, int) = nullptr;
    void* context_ = nullptr;
    std::atomic<int> team_{1};
    std::atomic<int> sleepers_{0};
    int hired_ = 0;
    std::mutex busy_, sleep_;
    std::condition_variable wake_;
};

// The caller and up to `threads - 1` helpers, for the length of one call.
class Team {
   public:
    explicit Team(int64_t threads) : size_(static_cast<int>(std::min<int64_t>(threads, Pool::MAX_TEAM))) {
        if (size_ > 1 && !Pool::instance().acquire()) size_ = 1;
    }
    ~Team() {
        if (size_ > 1) Pool::instance().release();
    }
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return size_; }

    // body(unit) for each unit in [0, count), in any order and on any thread; returns when all are done.
    template <typename Body>
    void each(int64_t count, Body&& body) {
        if (size_ == 1 || count == 1) {
            for (int64_t unit = 0; unit < count; unit++) body(unit);
            return;
        }
        for (int64_t first = 0; first < count; first += Pool::MAX_UNITS) {
            auto shifted = [&](int64_t unit) { body(first + unit); };
            using Shifted = decltype(shifted);
            Pool::instance().run(
                std::min(count - first, Pool::MAX_UNITS), size_,
                [](void* context, int64_t unit, int) { (*static_cast<Shifted*>(context))(unit); }, &shifted);
        }
    }

   private:
    int size_;
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
