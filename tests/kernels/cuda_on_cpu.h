// Enough of CUDA C++ to run kernels/mask_logits.cu on a processor, as faithfully as its tests need.
//
// A block is a thread of the operating system, so that blocks that wait for each other really run at once, on memory
// that is really shared. A CUDA thread is a fiber of its block's thread: it runs until it must wait for others at a
// barrier, in a warp's exchange or in __nanosleep, and then hands over to the next, forwards or backwards. Shared
// memory is the block's thread-local memory and starts with whatever the last block left.
//
// A barrier or an exchange that some thread never reaches is reported, not waited for.

#pragma once

#include <sched.h>
#include <setjmp.h>
#include <ucontext.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static thread_local
#define __builtin_assume(condition)

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace cuda_on_cpu {

struct Index {
    unsigned x, y, z;
};

enum Outcome { FINISHED = 0, BARRIER_NOT_REACHED = 1, EXCHANGE_MISUSED = 2, WAITED_TOO_LONG = 3 };

constexpr size_t STACK_BYTES = 64 * 1024;
constexpr auto PATIENCE = std::chrono::seconds(20);

struct Warp {
    unsigned generation = 0;
    unsigned arrived = 0;
    unsigned mask = 0;
    uint64_t values[2][32];
};

struct Fiber {
    std::unique_ptr<char[]> stack{new char[STACK_BYTES]};
    ucontext_t start;
    jmp_buf place;
    bool is_started = false;
    bool is_done = false;
    unsigned thread;
};

struct Block {
    Index grid, size, index;
    const std::function<void()>* kernel = nullptr;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    Fiber* running = nullptr;
    jmp_buf scheduler;
    ucontext_t origin;
    unsigned generation = 0;
    unsigned waiting = 0;
    unsigned long long progress = 0;
    Outcome outcome = FINISHED;

    Outcome run(bool backwards);
};

inline thread_local Block* block = nullptr;

inline void hand_over() {
    Fiber* const self = block->running;
    if (_setjmp(self->place) == 0) _longjmp(block->scheduler, 1);
}

[[noreturn]] inline void give_up(Outcome outcome) {
    block->outcome = outcome;
    _longjmp(block->scheduler, 1);
}

inline void fiber_main() {
    (*block->kernel)();
    block->running->is_done = true;
    ++block->progress;
    _longjmp(block->scheduler, 1);
}

inline Outcome Block::run(bool backwards) {
    block = this;
    const unsigned count = size.x;
    std::vector<Fiber> fresh(count);
    fibers.swap(fresh);
    warps.assign((count + 31) / 32, Warp{});
    unsigned left = count;
    for (unsigned t = 0; t < count; ++t) fibers[t].thread = t;
    const auto deadline = std::chrono::steady_clock::now() + PATIENCE;
    volatile unsigned alive = left;
    while (alive > 0 && outcome == FINISHED) {
        const unsigned long long before = progress;
        for (volatile unsigned step = 0; step < count && outcome == FINISHED; step = step + 1) {
            Fiber& fiber = fibers[backwards ? count - 1 - step : step];
            if (fiber.is_done) continue;
            running = &fiber;
            if (_setjmp(scheduler) == 0) {
                if (fiber.is_started) _longjmp(fiber.place, 1);
                fiber.is_started = true;
                getcontext(&fiber.start);
                fiber.start.uc_stack.ss_sp = fiber.stack.get();
                fiber.start.uc_stack.ss_size = STACK_BYTES;
                fiber.start.uc_link = nullptr;
                makecontext(&fiber.start, fiber_main, 0);
                setcontext(&fiber.start);
            }
            if (running->is_done) alive = alive - 1;
        }
        if (outcome == FINISHED && alive > 0 && progress == before) outcome = BARRIER_NOT_REACHED;
        if (std::chrono::steady_clock::now() > deadline) outcome = WAITED_TOO_LONG;
    }
    return outcome;
}

template <class Value>
inline Value exchange(unsigned mask, Value value, unsigned source) {
    static_assert(sizeof(Value) <= 8);
    const unsigned thread = block->running->thread;
    Warp& warp = block->warps[thread / 32];
    const unsigned lane = thread % 32;
    if ((mask >> lane & 1u) == 0 || (warp.arrived != 0 && warp.mask != mask) || (mask >> source & 1u) == 0) {
        give_up(EXCHANGE_MISUSED);
    }
    const unsigned generation = warp.generation;
    warp.mask = mask;
    warp.values[generation % 2][lane] = 0;
    std::memcpy(&warp.values[generation % 2][lane], &value, sizeof value);
    warp.arrived |= 1u << lane;
    if (warp.arrived == mask) {
        warp.arrived = 0;
        ++warp.generation;
        ++block->progress;
    }
    while (warp.generation == generation) hand_over();
    Value answer;
    std::memcpy(&answer, &warp.values[generation % 2][source], sizeof answer);
    return answer;
}

// Runs a grid; its blocks all at once, or one after the other in either direction.
inline Outcome launch(Index grid, unsigned threads, bool at_once, bool backwards, const std::function<void()>& kernel) {
    std::atomic<int> worst{FINISHED};
    const auto run = [&](unsigned number) {
        auto mine = std::make_unique<Block>();
        mine->grid = grid;
        mine->size = {threads, 1, 1};
        mine->index = {number % grid.x, number / grid.x, 0};
        mine->kernel = &kernel;
        const int outcome = mine->run(backwards);
        int seen = worst.load();
        while (outcome > seen && !worst.compare_exchange_weak(seen, outcome)) {
        }
    };
    const unsigned blocks = grid.x * grid.y;
    if (at_once) {
        std::vector<std::thread> all;
        for (unsigned number = 0; number < blocks; ++number) all.emplace_back(run, number);
        for (std::thread& one : all) one.join();
    } else {
        for (unsigned number = 0; number < blocks; ++number) run(backwards ? blocks - 1 - number : number);
    }
    return static_cast<Outcome>(worst.load());
}

}  // namespace cuda_on_cpu

#define threadIdx (cuda_on_cpu::Index{cuda_on_cpu::block->running->thread, 0, 0})
#define blockIdx (cuda_on_cpu::block->index)
#define blockDim (cuda_on_cpu::block->size)
#define gridDim (cuda_on_cpu::block->grid)

inline void __syncthreads() {
    using cuda_on_cpu::block;
    const unsigned generation = block->generation;
    if (++block->waiting == block->size.x) {
        block->waiting = 0;
        ++block->generation;
        ++block->progress;
    }
    while (block->generation == generation) cuda_on_cpu::hand_over();
}

inline void __nanosleep(unsigned) {
    ++cuda_on_cpu::block->progress;
    sched_yield();
    cuda_on_cpu::hand_over();
}

template <class Value>
inline Value __shfl_sync(unsigned mask, Value value, unsigned source) {
    return cuda_on_cpu::exchange(mask, value, source % 32);
}

template <class Value>
inline Value __shfl_xor_sync(unsigned mask, Value value, unsigned distance) {
    return cuda_on_cpu::exchange(mask, value, cuda_on_cpu::block->running->thread % 32 ^ distance);
}

template <class Value>
inline Value __shfl_up_sync(unsigned mask, Value value, unsigned distance) {
    const unsigned lane = cuda_on_cpu::block->running->thread % 32;
    return cuda_on_cpu::exchange(mask, value, lane < distance ? lane : lane - distance);
}

inline unsigned __ballot_sync(unsigned mask, bool vote) {
    unsigned votes = 0;
    const unsigned thread = cuda_on_cpu::block->running->thread;
    cuda_on_cpu::Warp& warp = cuda_on_cpu::block->warps[thread / 32];
    const unsigned generation = warp.generation;
    cuda_on_cpu::exchange<uint64_t>(mask, vote, thread % 32);
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (mask >> lane & 1u) votes |= static_cast<unsigned>(warp.values[generation % 2][lane]) << lane;
    }
    return votes;
}

inline bool __all_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) == mask; }

inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float exp2_approximately(float value) { return std::exp2(value); }

inline float half_to_float(unsigned short bits) {
    _Float16 value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline unsigned short float_to_half(float value) {
    const _Float16 rounded = static_cast<_Float16>(value);
    unsigned short bits;
    std::memcpy(&bits, &rounded, sizeof bits);
    return bits;
}
