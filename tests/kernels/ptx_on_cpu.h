// What C++ made of PTX by ptx_on_cpu.py needs, besides the threads of cuda_on_cpu.h: the instructions that C++ has not,
// and memory in which every access is checked.

#pragma once

#include <mutex>
#include <string>
#include <type_traits>

#include "cuda_on_cpu.h"

namespace ptx_on_cpu {

// Memory that a launch may use.
struct Range {
    uint64_t begin, end;
    bool is_read, is_written;
};

inline std::vector<Range> ranges;
inline std::mutex guard;
inline std::string offence;  // the first

constexpr size_t SHARED_BYTES = 48 * 1024;
inline thread_local unsigned char shared[SHARED_BYTES];
inline thread_local bool is_shared_written[SHARED_BYTES];  // a block of a cooperative launch is a thread of its own

inline void report(const char* what, uint64_t address, size_t size) {
    const std::lock_guard<std::mutex> lock(guard);
    if (offence.empty()) offence = std::string(what) + ", " + std::to_string(size) + " bytes at " + std::to_string(address);
}

// A value's bits as another type of the same size, or its number.
template <class To, class From>
inline To as(From value) {
    if constexpr (std::is_same_v<To, float> != std::is_same_v<From, float>) {
        static_assert(sizeof(To) == sizeof(From));
        To result;
        std::memcpy(&result, &value, sizeof result);
        return result;
    } else {
        return static_cast<To>(value);
    }
}

inline float from_bits(uint32_t bits) { return as<float>(bits); }

template <class Value>
inline volatile Value* global(uint64_t address, size_t accessed, bool writes) {
    static thread_local Value nowhere;
    bool is_allowed = false;
    for (const Range& range : ranges) {
        is_allowed |= address >= range.begin && address + sizeof(Value) <= range.end &&
                      (writes ? range.is_written : range.is_read);
    }
    if (!is_allowed) report(writes ? "a store to other memory" : "a load from other memory", address, sizeof(Value));
    if (address % accessed != 0) report("an access that is not aligned", address, accessed);
    return is_allowed ? reinterpret_cast<volatile Value*>(address) : &nowhere;
}

template <class Value>
inline Value* shared_at(uint32_t address, size_t accessed, bool writes) {
    static thread_local Value nowhere;
    if (address + sizeof(Value) > SHARED_BYTES || address % accessed != 0) {
        report("a wrong access to shared memory", address, accessed);
        return &nowhere;
    }
    for (size_t i = address; i < address + sizeof(Value); ++i) {
        if (!writes && !is_shared_written[i]) report("a load of shared memory that nothing wrote", address, sizeof(Value));
        is_shared_written[i] |= writes;
    }
    return reinterpret_cast<Value*>(shared + address);
}

// cp.async: done at once, which is one of the times at which it may be done.
inline void copy(uint32_t target, uint64_t source, size_t size) {
    for (size_t i = 0; i < size; i += 4) {
        const uint32_t word = *global<uint32_t>(source + i, i == 0 ? size : 4, false);
        std::memcpy(shared_at<uint32_t>(target + i, i == 0 ? size : 4, true), &word, 4);
    }
}

template <class Value>
inline Value shl(Value value, uint32_t by) {
    return by < sizeof(Value) * 8 ? value << by : 0;
}

template <class Value>
inline Value shr(Value value, uint32_t by) {
    return by < sizeof(Value) * 8 ? value >> by : value < 0 ? -1 : 0;
}

template <class Value>
inline Value bfi(Value from, Value into, uint32_t at, uint32_t length) {
    const Value mask = shl<Value>(shl<Value>(1, length) - 1, at);
    return (into & ~mask) | (shl<Value>(from, at) & mask);
}

inline uint32_t prmt(uint32_t low, uint32_t high, uint32_t selector) {
    const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i) {
        const uint32_t choice = selector >> i * 4 & 0xF;
        const uint32_t byte = bytes >> (choice & 7) * 8 & 0xFF;
        result |= (choice & 8 ? (byte & 0x80 ? 0xFFu : 0u) : byte) << i * 8;
    }
    return result;
}

inline uint32_t lane() { return cuda_on_cpu::block->running->thread % 32; }

}  // namespace ptx_on_cpu

extern "C" inline __attribute__((used)) void forget_ranges() {
    ptx_on_cpu::ranges.clear();
    ptx_on_cpu::offence.clear();
}

extern "C" inline __attribute__((used)) void allow(uint64_t begin, uint64_t size, bool is_read, bool is_written) {
    ptx_on_cpu::ranges.push_back({begin, begin + size, is_read, is_written});
}

extern "C" inline __attribute__((used)) const char* first_offence() { return ptx_on_cpu::offence.c_str(); }
