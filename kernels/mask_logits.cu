// Grammar masks on logits: what a packed bitmask does not allow becomes −inf, in place.
//
// Two kernels for one type of logits, which the compiler is told by -DLOGIT=Float32|Float16|BFloat16:
//
//   mask_logits            writes −inf, and never reads a logit
//   fused_mask_logits_{1,2}   reads every logit once, and also applies temperature and min-p, finds the likeliest allowed
//                          token and sums the probability that the mask allows
//
// Both see a row as *units* of 16 bytes (4 or 8 logits) and as *chunks* of 32 logits, which share one word of mask
// bits. Rows need not be aligned: units and chunks are counted from the last 16-byte boundary at or before the row,
// and the mask's bits are shifted to match. Bits of places outside the row read as "allowed", so that no store ever
// leaves it.
//
// No header is included, so that NVRTC alone can compile this file; tests compile it for the CPU too.

constexpr unsigned ALL_LANES = 0xFFFFFFFFu;
constexpr int FUSED_THREADS = 256;
constexpr int FUSED_WARPS = FUSED_THREADS / 32;
constexpr int LISTED_ROWS = 64;

// ---- The arguments; kernels/arguments.py has the same structures ----

// Where the rows of logits are. One of: `addresses` (in memory the device can read), `listed` (by value, for
// is_listed), or a matrix at `base`, whose row for mask i is indices[i], or i without indices.
struct Rows {
    char* base;
    long long stride;  // bytes
    const int* indices;  // negative: skip
    const long long* addresses;  // 0: skip
    int is_listed;
    long long listed[LISTED_ROWS];
};

struct Masking {
    Rows rows;
    const unsigned* mask;
    long long mask_stride;  // words
    int words;
    int vocabulary;
    int count;  // of masks
};

// What one block found in its part of a row.
struct Part {
    float peak;  // highest logit
    float sum;  // of exp(logit − peak)
    float allowed_sum;
    float best;  // highest allowed logit
    int best_token;  // −1: none above −inf
};

struct Fusion {
    const float* temperature;  // [count]; null: 1
    const float* min_p;  // [count]; null: 0
    long long* argmax;  // [count]
    float* allowed_mass;  // [count]
    Part* parts;  // [count, splits]
    unsigned* arrivals;  // [count, 2], zero before and after each launch
    int splits;  // blocks that share a row, at most the blocks of the grid
};

// ---- Types of logits ----

__device__ inline float minus_infinity() { return __uint_as_float(0xFF800000u); }

#ifdef __CUDACC__
__device__ inline float half_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ inline unsigned short float_to_half(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

struct Float32 {
    using Bits = unsigned;
    static constexpr Bits MINUS_INFINITY_BITS = 0xFF800000u;
    static constexpr unsigned MINUS_INFINITY_WORD = 0xFF800000u;
    __device__ static float to_float(unsigned bits) { return __uint_as_float(bits); }
    __device__ static unsigned from_float(float value) { return __float_as_uint(value); }
};

struct Float16 {
    using Bits = unsigned short;
    static constexpr Bits MINUS_INFINITY_BITS = 0xFC00u;
    static constexpr unsigned MINUS_INFINITY_WORD = 0xFC00FC00u;
    __device__ static float to_float(unsigned bits) { return half_to_float(static_cast<unsigned short>(bits)); }
    __device__ static unsigned from_float(float value) { return float_to_half(value); }
};

struct BFloat16 {
    using Bits = unsigned short;
    static constexpr Bits MINUS_INFINITY_BITS = 0xFF80u;
    static constexpr unsigned MINUS_INFINITY_WORD = 0xFF80FF80u;
    __device__ static float to_float(unsigned bits) { return __uint_as_float(bits << 16); }
    __device__ static unsigned from_float(float value) {
        const unsigned bits = __float_as_uint(value);
        if (value != value) return 0x7FFFu;
        return (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;  // to nearest, ties to even
    }
};

template <class Logit>
struct Unit {
    using Bits = typename Logit::Bits;
    static constexpr int SIZE = 16 / sizeof(Bits);  // logits
    static constexpr unsigned ALL = (1u << SIZE) - 1u;
    static constexpr int PER_CHUNK = 32 / SIZE;

    unsigned words[4];

    __device__ unsigned get(int i) const {
        return sizeof(Bits) == 4 ? words[i] : words[i / 2] >> (i % 2 * 16) & 0xFFFFu;
    }

    __device__ void set(int i, unsigned bits) {
        if (sizeof(Bits) == 4) {
            words[i] = bits;
        } else {
            words[i / 2] = (words[i / 2] & 0xFFFF0000u >> (i % 2 * 16)) | bits << (i % 2 * 16);
        }
    }
};

// ---- Rows and masks ----

__device__ inline char* row_address(const Rows& rows, int i) {
    if (rows.is_listed) return reinterpret_cast<char*>(rows.listed[i]);
    if (rows.addresses) return reinterpret_cast<char*>(rows.addresses[i]);
    const int index = rows.indices ? rows.indices[i] : i;
    return index < 0 ? nullptr : rows.base + index * rows.stride;
}

// The bits of one word of a mask. Before the row and behind it everything is "allowed", beyond the mask nothing is.
__device__ inline unsigned allowed_word(const unsigned* mask, int words, int vocabulary, int word) {
    if (word < 0) return ~0u;
    const int left = vocabulary - word * 32;
    if (left <= 0) return ~0u;
    const unsigned bits = word < words ? mask[word] : 0u;
    return left < 32 ? bits | ~0u << left : bits;
}

// The bits of one chunk, which begins `shift` logits before the mask's word of the same number.
__device__ inline unsigned allowed_chunk(const Masking& m, int i, int chunk, int shift) {
    const unsigned* mask = m.mask + i * m.mask_stride;
    const unsigned bits = allowed_word(mask, m.words, m.vocabulary, chunk);
    if (shift == 0) return bits;
    return bits << shift | allowed_word(mask, m.words, m.vocabulary, chunk - 1) >> (32 - shift);
}

template <class Logit>
__device__ inline int misalignment(const char* row) {
    return static_cast<int>(reinterpret_cast<unsigned long long>(row) % 16 / sizeof(typename Logit::Bits));
}

// ---- The plain form ----

// A warp takes `chunks_per_warp` chunks of a row; its lanes load their words of the mask in one coalesced access. Then
// it goes over them in groups of one unit per lane. A unit that is forbidden as a whole costs one 16-byte store, one
// that is allowed nothing. A chunk with a unit of both kinds is written one logit per lane, under the mask: that keeps
// a store's bytes side by side, so that every 32-byte sector is written once, and needs no logit to be read.
template <class Logit>
__device__ void mask_rows(const Masking& m, int chunks_per_warp) {
    using Bits = typename Logit::Bits;
    using Unit = ::Unit<Logit>;
    constexpr int CHUNKS = 32 / Unit::PER_CHUNK;  // in a group
    constexpr unsigned UNITS_OF_CHUNK = (1u << Unit::PER_CHUNK) - 1u;
    constexpr unsigned FILL = Logit::MINUS_INFINITY_WORD;

    const int lane = threadIdx.x % 32;
    const int chunk_of_lane = lane / Unit::PER_CHUNK;
    const int first = (blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32) * chunks_per_warp;
    for (int i = blockIdx.y; i < m.count; i += gridDim.y) {
        char* const row = row_address(m.rows, i);
        if (row == nullptr) continue;
        __builtin_assume(__isGlobal(row));  // else an address that was a number could be in any memory
        const int shift = misalignment<Logit>(row);
        Bits* const logits = reinterpret_cast<Bits*>(row) - shift + first * 32ll;
        const unsigned allowed = lane < chunks_per_warp ? allowed_chunk(m, i, first + lane, shift) : ~0u;
        for (int group = 0; group < chunks_per_warp; group += CHUNKS) {
            const unsigned of_chunk = __shfl_sync(ALL_LANES, allowed, group + chunk_of_lane);
            const unsigned forbidden = ~of_chunk >> (lane % Unit::PER_CHUNK * Unit::SIZE) & Unit::ALL;
            const unsigned mixed = __ballot_sync(ALL_LANES, forbidden != 0 && forbidden != Unit::ALL);
            const bool chunk_is_mixed = mixed >> (chunk_of_lane * Unit::PER_CHUNK) & UNITS_OF_CHUNK;
            if (forbidden == Unit::ALL && !chunk_is_mixed) {
                reinterpret_cast<uint4*>(logits + group * 32)[lane] = make_uint4(FILL, FILL, FILL, FILL);
            }
#pragma unroll
            for (int chunk = 0; chunk < CHUNKS; ++chunk) {
                if ((mixed >> (chunk * Unit::PER_CHUNK) & UNITS_OF_CHUNK) == 0) continue;  // the same for all lanes
                const unsigned bits = __shfl_sync(ALL_LANES, allowed, group + chunk);
                if ((bits >> lane & 1u) == 0) logits[(group + chunk) * 32 + lane] = Logit::MINUS_INFINITY_BITS;
            }
        }
    }
}

// ---- The fused form ----

__device__ inline bool is_better(float value, int token, float than, int than_token) {
    return value > than || (value == than && token < than_token);
}

__device__ inline void best_of_warp(float& value, int& token) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(ALL_LANES, value, distance);
        const int other_token = __shfl_xor_sync(ALL_LANES, token, distance);
        if (is_better(other, other_token, value, token)) {
            value = other;
            token = other_token;
        }
    }
}

__device__ inline float max_of_warp(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    }
    return value;
}

__device__ inline float sum_of_warp(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

// exp(logit − peak), where a peak of −inf stands for a set without a finite logit, whose sum is 0.
__device__ inline float weight(float logit, float peak) { return __expf(logit - (peak == minus_infinity() ? 0.0f : peak)); }

// Blocks of one row's parts meet at two counters: how many have left their part in memory, and how many need the
// others' parts no more. The last one to leave sets both back to zero for the next launch.
__device__ inline bool arrive(unsigned* counters, const Part& part, Part* place, int splits) {
    volatile Part* const shared = place;
    shared->peak = part.peak;
    shared->sum = part.sum;
    shared->allowed_sum = part.allowed_sum;
    shared->best = part.best;
    shared->best_token = part.best_token;
    __threadfence();
    return atomicAdd(&counters[0], 1u) == splits - 1u;
}

__device__ inline void wait_for_all(unsigned* counters, int splits) {
    while (*static_cast<volatile unsigned*>(&counters[0]) < static_cast<unsigned>(splits)) __nanosleep(32);
    __threadfence();
}

__device__ inline void leave(unsigned* counters, int splits) {
    if (atomicAdd(&counters[1], 1u) != splits - 1u) return;
    static_cast<volatile unsigned*>(counters)[0] = 0u;
    static_cast<volatile unsigned*>(counters)[1] = 0u;
}

// The whole row's best token, for every lane of one warp. Other blocks wrote the parts: volatile reads pass by the
// cache of this multiprocessor, which may be older.
__device__ inline void best_of_parts(const Part* parts, int splits, float& best, int& token) {
    const volatile Part* const shared = parts;
    best = minus_infinity();
    token = -1;
    for (int k = threadIdx.x % 32; k < splits; k += 32) {
        const float value = shared[k].best;
        const int value_token = shared[k].best_token;
        if (is_better(value, value_token, best, token)) {
            best = value;
            token = value_token;
        }
    }
    best_of_warp(best, token);
}

// The share of the whole row's probability that is allowed, for every lane of one warp.
__device__ inline float mass_of_parts(const Part* parts, int splits) {
    const volatile Part* const shared = parts;
    float peak = minus_infinity();
    for (int k = threadIdx.x % 32; k < splits; k += 32) peak = fmaxf(peak, shared[k].peak);
    peak = max_of_warp(peak);
    float sum = 0.0f;
    float allowed_sum = 0.0f;
    for (int k = threadIdx.x % 32; k < splits; k += 32) {
        const float factor = weight(shared[k].peak, peak);
        sum += shared[k].sum * factor;
        allowed_sum += shared[k].allowed_sum * factor;
    }
    return sum_of_warp(allowed_sum) / sum_of_warp(sum);
}

// A block takes UNITS units per thread of one row and keeps them in registers from the read to the write, also while
// it waits for the row's other blocks: only they know the highest allowed logit, on which min-p and temperature rest.
// All blocks of the grid are on the device at once (a cooperative launch) and take parts in the order of the rows, so
// that whoever waits, waits for blocks that run.
template <class Logit, int UNITS>
__device__ void fused_mask_rows(const Masking& m, const Fusion& f) {
    using Bits = typename Logit::Bits;
    using Unit = ::Unit<Logit>;
    constexpr int CHUNKS = UNITS * FUSED_THREADS / Unit::PER_CHUNK;
    __shared__ unsigned allowed[CHUNKS];
    __shared__ float peaks[FUSED_WARPS];
    __shared__ float sums[FUSED_WARPS];
    __shared__ float allowed_sums[FUSED_WARPS];
    __shared__ float bests[FUSED_WARPS];
    __shared__ int best_tokens[FUSED_WARPS];
    __shared__ bool is_last;
    __shared__ float best_of_row;

    const int thread = threadIdx.x;
    const int warp = thread / 32;
    const bool is_first_lane = thread % 32 == 0;
    const long long items = static_cast<long long>(m.count) * f.splits;
    for (long long item = blockIdx.x; item < items; item += gridDim.x) {
        const int i = static_cast<int>(item / f.splits);
        const int split = static_cast<int>(item % f.splits);
        char* const row = row_address(m.rows, i);
        if (row == nullptr) continue;
        __builtin_assume(__isGlobal(row));
        const int shift = misalignment<Logit>(row);
        const int end = m.vocabulary + shift;
        Bits* const logits = reinterpret_cast<Bits*>(row) - shift;

        __syncthreads();  // nobody needs the last part's shared memory any more
        for (int c = thread; c < CHUNKS; c += FUSED_THREADS) allowed[c] = allowed_chunk(m, i, split * CHUNKS + c, shift);

        // Places outside the row hold −inf, which changes no sum and is never the best.
        Unit units[UNITS];
        float peak = minus_infinity();
#pragma unroll
        for (int j = 0; j < UNITS; ++j) {
            const int start = ((split * UNITS + j) * FUSED_THREADS + thread) * Unit::SIZE;
            if (start >= shift && start + Unit::SIZE <= end) {
                const uint4 loaded = *reinterpret_cast<const uint4*>(logits + start);
                units[j] = Unit{{loaded.x, loaded.y, loaded.z, loaded.w}};
            } else {
                units[j] = Unit{};
#pragma unroll
                for (int k = 0; k < Unit::SIZE; ++k) {
                    const bool is_inside = start + k >= shift && start + k < end;
                    units[j].set(k, is_inside ? logits[start + k] : Logit::MINUS_INFINITY_BITS);
                }
            }
#pragma unroll
            for (int k = 0; k < Unit::SIZE; ++k) peak = fmaxf(peak, Logit::to_float(units[j].get(k)));
        }
        peak = max_of_warp(peak);
        if (is_first_lane) peaks[warp] = peak;
        __syncthreads();
#pragma unroll
        for (int w = 0; w < FUSED_WARPS; ++w) peak = fmaxf(peak, peaks[w]);

        float sum = 0.0f;
        float allowed_sum = 0.0f;
        float best = minus_infinity();
        int best_token = -1;
#pragma unroll
        for (int j = 0; j < UNITS; ++j) {
            const int unit = j * FUSED_THREADS + thread;
            const unsigned bits = allowed[unit / Unit::PER_CHUNK] >> (unit % Unit::PER_CHUNK * Unit::SIZE);
            const int token = (split * UNITS * FUSED_THREADS + unit) * Unit::SIZE - shift;
#pragma unroll
            for (int k = 0; k < Unit::SIZE; ++k) {
                const float logit = Logit::to_float(units[j].get(k));
                const float share = weight(logit, peak);
                sum += share;
                if (bits >> k & 1u) {
                    allowed_sum += share;
                    if (logit > best) {
                        best = logit;
                        best_token = token + k;
                    }
                }
            }
        }
        sum = sum_of_warp(sum);
        allowed_sum = sum_of_warp(allowed_sum);
        best_of_warp(best, best_token);
        if (is_first_lane) {
            sums[warp] = sum;
            allowed_sums[warp] = allowed_sum;
            bests[warp] = best;
            best_tokens[warp] = best_token;
        }
        __syncthreads();

        const float temperature = f.temperature ? f.temperature[i] : 1.0f;
        const float min_p = f.min_p ? f.min_p[i] : 0.0f;
        const bool is_drawn = temperature > 0.0f;
        const bool filters = is_drawn && min_p > 0.0f;
        const bool waits = filters || (is_drawn && temperature != 1.0f);
        unsigned* const counters = f.arrivals + 2ll * i;
        Part* const parts = f.parts + static_cast<long long>(i) * f.splits;
        if (thread == 0) {
            Part part{peak, 0.0f, 0.0f, minus_infinity(), -1};
            for (int w = 0; w < FUSED_WARPS; ++w) {
                part.sum += sums[w];
                part.allowed_sum += allowed_sums[w];
                if (is_better(bests[w], best_tokens[w], part.best, part.best_token)) {
                    part.best = bests[w];
                    part.best_token = best_tokens[w];
                }
            }
            is_last = arrive(counters, part, parts + split, f.splits);
            if (waits || is_last) wait_for_all(counters, f.splits);
        }
        __syncthreads();
        if (warp == 0 && (waits || is_last)) {
            best_of_parts(parts, f.splits, best, best_token);
            const float mass = is_last ? mass_of_parts(parts, f.splits) : 0.0f;
            if (thread == 0) {
                best_of_row = best;
                if (is_last) {
                    f.argmax[i] = best_token;
                    f.allowed_mass[i] = mass;
                }
            }
        }
        __syncthreads();
        if (thread == 0) leave(counters, f.splits);

        const float highest = waits ? best_of_row : 0.0f;
        const bool scales = waits && temperature != 1.0f && fabsf(highest) != -minus_infinity();
        const float inverse = is_drawn ? 1.0f / temperature : 1.0f;
        const float floor = fminf(logf(min_p), 0.0f);
#pragma unroll
        for (int j = 0; j < UNITS; ++j) {
            const int unit = j * FUSED_THREADS + thread;
            const unsigned bits = allowed[unit / Unit::PER_CHUNK] >> (unit % Unit::PER_CHUNK * Unit::SIZE);
            const int start = (split * UNITS * FUSED_THREADS + unit) * Unit::SIZE;
            Unit result = units[j];
#pragma unroll
            for (int k = 0; k < Unit::SIZE; ++k) {
                const float distance = (Logit::to_float(units[j].get(k)) - highest) * inverse;
                if ((bits >> k & 1u) == 0 || (filters && distance < floor)) {
                    result.set(k, Logit::MINUS_INFINITY_BITS);
                } else if (scales) {
                    result.set(k, Logit::from_float(distance));
                }
            }
            if (start >= shift && start + Unit::SIZE <= end) {
                const unsigned changes = (result.words[0] ^ units[j].words[0]) | (result.words[1] ^ units[j].words[1]) |
                                         (result.words[2] ^ units[j].words[2]) | (result.words[3] ^ units[j].words[3]);
                if (changes) {
                    *reinterpret_cast<uint4*>(logits + start) =
                        make_uint4(result.words[0], result.words[1], result.words[2], result.words[3]);
                }
            } else {
#pragma unroll
                for (int k = 0; k < Unit::SIZE; ++k) {
                    const bool is_inside = start + k >= shift && start + k < end;
                    if (is_inside) logits[start + k] = static_cast<Bits>(result.get(k));
                }
            }
        }
    }
}

// ---- The kernels ----

extern "C" __global__ void __launch_bounds__(128, 16)
    mask_logits(const __grid_constant__ Masking masking, const int chunks_per_warp) {
    mask_rows<LOGIT>(masking, chunks_per_warp);
}

extern "C" __global__ void __launch_bounds__(FUSED_THREADS, 3)
    fused_mask_logits_1(const __grid_constant__ Masking masking, const __grid_constant__ Fusion fusion) {
    fused_mask_rows<LOGIT, 1>(masking, fusion);
}

extern "C" __global__ void __launch_bounds__(FUSED_THREADS, 3)
    fused_mask_logits_2(const __grid_constant__ Masking masking, const __grid_constant__ Fusion fusion) {
    fused_mask_rows<LOGIT, 2>(masking, fusion);
}
