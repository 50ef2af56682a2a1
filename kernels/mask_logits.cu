// Grammar masks on logits: what a packed bitmask does not allow becomes −inf, in place.
//
// Two kernels for one type of logits, which the compiler is told by -DLOGIT=Float32|Float16|BFloat16:
//
//   mask_logits            writes −inf, and never reads a logit
//   fused_mask_logits      reads every logit once, and also applies temperature and min-p, finds the likeliest allowed
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
constexpr int FUSED_UNITS = 8;  // that a thread takes at most; 32 KB of shared memory
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

// What is known of some of a row's logits.
struct Part {
    float peak;  // highest logit
    float sum;  // of exp(logit − peak)
    float allowed_sum;
    float best;  // highest allowed logit
    int best_token;  // −1: none above −inf
};

constexpr int PART_WORDS = 5;

struct Fusion {
    const float* temperature;  // [count]; null: 1
    const float* min_p;  // [count]; null: 0
    long long* argmax;  // [count]
    float* allowed_mass;  // [count]
    unsigned long long* parts;  // [count, PART_WORDS, FUSED_THREADS]; zero before the first launch
    unsigned* launches;  // [count], how many have had this row; zero before the first
    int splits;  // blocks that share a row, at most the blocks of the grid and the threads of a block
    int units;  // per thread, at most FUSED_UNITS
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

__device__ inline float exp2_approximately(float value) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(value));
    return power;
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

    Unit() = default;

    __device__ explicit Unit(const uint4& vector) : words{vector.x, vector.y, vector.z, vector.w} {}

    __device__ uint4 vector() const { return make_uint4(words[0], words[1], words[2], words[3]); }

    __device__ bool differs(const Unit& other) const {
        return ((words[0] ^ other.words[0]) | (words[1] ^ other.words[1]) | (words[2] ^ other.words[2]) |
                (words[3] ^ other.words[3])) != 0;
    }

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

// ---- Grids that follow each other ----

// On devices that let a grid be placed before the one ahead of it in the stream has ended: waits for that end, and
// lets the next grid be placed. Nothing that others wrote, or still read, may be touched before.
__device__ inline void wait_for_grid_ahead() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// ---- Rows and masks ----

__device__ inline char* row_address(const Rows& rows, int i) {
    if (rows.is_listed) return reinterpret_cast<char*>(rows.listed[i]);
    if (rows.addresses) return reinterpret_cast<char*>(rows.addresses[i]);
    const int index = rows.indices ? rows.indices[i] : i;
    return index < 0 ? nullptr : rows.base + index * rows.stride;
}

// Of one word of a mask, the bits that stand before or behind the row: there everything is "allowed".
__device__ inline unsigned bits_outside(int vocabulary, int word) {
    const int left = vocabulary - word * 32;
    if (word < 0 || left <= 0) return ~0u;
    return left < 32 ? ~0u << left : 0u;
}

// One word of a mask; beyond the mask nothing is allowed.
__device__ inline unsigned mask_word(const unsigned* mask, int words, int word) {
    return word >= 0 && word < words ? mask[word] : 0u;
}

__device__ inline unsigned allowed_word(const unsigned* mask, int words, int vocabulary, int word) {
    return mask_word(mask, words, word) | bits_outside(vocabulary, word);
}

// The bits of one chunk, which begins `shift` logits before the mask's word of the same number. All lanes of a warp call
// this, for one row and for chunks that follow each other: each asks the lane before for its word. The first, which has
// nobody to ask, reads two words before it waits for either.
__device__ inline unsigned allowed_chunk(const Masking& m, int i, int chunk, int shift) {
    const unsigned* mask = m.mask + i * m.mask_stride;
    const bool is_first = threadIdx.x % 32 == 0;
    const unsigned mine = mask_word(mask, m.words, chunk);
    const unsigned read = is_first && shift != 0 ? mask_word(mask, m.words, chunk - 1) : 0u;
    const unsigned bits = mine | bits_outside(m.vocabulary, chunk);
    if (shift == 0) return bits;
    const unsigned asked = __shfl_up_sync(ALL_LANES, bits, 1);
    const unsigned before = is_first ? read | bits_outside(m.vocabulary, chunk - 1) : asked;
    return bits << shift | before >> (32 - shift);
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
        const bool has_chunk = lane < chunks_per_warp;
        const int behind = m.vocabulary / 32 + 2;  // a chunk in which everything is allowed
        unsigned allowed = allowed_chunk(m, i, has_chunk ? first + lane : behind, shift);
        if (!has_chunk) allowed = ~0u;
        if (__all_sync(ALL_LANES, allowed == ~0u)) continue;
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
__device__ inline float weight(float logit, float peak) {
    constexpr float LOG2_OF_E = 1.4426950408889634f;
    return exp2_approximately((logit - (peak == minus_infinity() ? 0.0f : peak)) * LOG2_OF_E);
}

__device__ inline Part nothing() { return {minus_infinity(), 0.0f, 0.0f, minus_infinity(), -1}; }

// The lanes' parts as one, for every lane.
__device__ inline Part merged(Part part) {
    const float peak = max_of_warp(part.peak);
    const float factor = weight(part.peak, peak);
    part.peak = peak;
    part.sum = sum_of_warp(part.sum * factor);
    part.allowed_sum = sum_of_warp(part.allowed_sum * factor);
    best_of_warp(part.best, part.best_token);
    return part;
}

// Blocks tell each other their parts in words of 64 bits, half of which is the number of the launch. A word is read as
// it was written, whole, so that one that has this launch's number needs no fence and no counter to vouch for it, and
// nothing has to be set back: NCCL's protocol "LL" (src/device/prims_ll.h there). The accesses are volatile, so that
// each goes to the memory that all multiprocessors share.
__device__ inline void publish(unsigned long long* words, int split, const Part& part, unsigned launch) {
    const unsigned bits[PART_WORDS] = {
        __float_as_uint(part.best), static_cast<unsigned>(part.best_token), __float_as_uint(part.peak),
        __float_as_uint(part.sum), __float_as_uint(part.allowed_sum)};
#pragma unroll
    for (int w = 0; w < PART_WORDS; ++w) {
        volatile unsigned long long* const place = words + w * FUSED_THREADS + split;
        *place = static_cast<unsigned long long>(launch) << 32 | bits[w];
    }
}

// Waits for what another block publishes: its best token, and the rest where all is wanted.
__device__ inline Part published(const unsigned long long* words, int split, unsigned launch, bool all) {
    unsigned bits[PART_WORDS] = {};
    for (bool is_there = false; !is_there;) {
        is_there = true;
#pragma unroll
        for (int w = 0; w < PART_WORDS; ++w) {
            if (w >= 2 && !all) continue;
            const volatile unsigned long long* const place = words + w * FUSED_THREADS + split;
            const unsigned long long word = *place;
            bits[w] = static_cast<unsigned>(word);
            is_there &= static_cast<unsigned>(word >> 32) == launch;
        }
        if (!is_there) __nanosleep(20);
    }
    Part part = nothing();
    part.best = __uint_as_float(bits[0]);
    part.best_token = static_cast<int>(bits[1]);
    if (all) {
        part.peak = __uint_as_float(bits[2]);
        part.sum = __uint_as_float(bits[3]);
        part.allowed_sum = __uint_as_float(bits[4]);
    }
    return part;
}

// From global to shared memory, without waiting, where the device can.
__device__ inline void copy_unit(uint4* held, const void* unit) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                 :
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(held))), "l"(__cvta_generic_to_global(unit))
                 : "memory");
#else
    *held = *static_cast<const uint4*>(unit);
#endif
}

__device__ inline void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// A block takes `units` units per thread of one row and keeps them in shared memory from the read to the write, also
// while it waits for the row's other blocks: only they know the highest allowed logit, on which min-p and temperature
// rest. All blocks of the grid are on the device at once (a cooperative launch) and take parts in the order of the rows,
// so that whoever waits, waits for blocks that run.
template <class Logit>
__device__ void fused_mask_rows(const Masking& m, const Fusion& f) {
    using Bits = typename Logit::Bits;
    using Unit = ::Unit<Logit>;
    __shared__ uint4 held[FUSED_UNITS * FUSED_THREADS];  // each thread uses its own alone
    __shared__ unsigned allowed[FUSED_UNITS * FUSED_THREADS / Unit::PER_CHUNK];
    __shared__ Part of_block[FUSED_WARPS];
    __shared__ Part of_row[FUSED_WARPS];
    __shared__ unsigned launch;

    const int thread = threadIdx.x;
    const int warp = thread / 32;
    const int lane = thread % 32;
    const int units = f.units * FUSED_THREADS;  // of a block
    const unsigned splits = f.splits;
    const unsigned items = m.count * splits;
    for (unsigned item = blockIdx.x; item < items; item += gridDim.x) {
        const int i = static_cast<int>(item / splits);
        const int split = static_cast<int>(item % splits);
        char* const row = row_address(m.rows, i);
        if (row == nullptr) continue;
        __builtin_assume(__isGlobal(row));
        const int shift = misalignment<Logit>(row);
        const int end = m.vocabulary + shift;
        Bits* const logits = reinterpret_cast<Bits*>(row) - shift;

        __syncthreads();  // nobody needs the last part's shared memory any more
        // Everything is on its way before anything is waited for.
#pragma unroll 1
        for (int unit = thread; unit < units; unit += FUSED_THREADS) {
            const int start = (split * units + unit) * Unit::SIZE;
            if (start >= shift && start + Unit::SIZE <= end) {
                copy_unit(&held[unit], logits + start);
            } else {
                // Places outside the row hold −inf, which changes no sum and is never the best.
                Unit edge{};
#pragma unroll
                for (int k = 0; k < Unit::SIZE; ++k) {
                    const bool is_inside = start + k >= shift && start + k < end;
                    edge.set(k, is_inside ? logits[start + k] : Logit::MINUS_INFINITY_BITS);
                }
                held[unit] = edge.vector();
            }
        }
#pragma unroll 1
        for (int c = thread; c < units / Unit::PER_CHUNK; c += FUSED_THREADS) {
            allowed[c] = allowed_chunk(m, i, split * (units / Unit::PER_CHUNK) + c, shift);
        }
        if (thread == 0) launch = f.launches[i] + 1u;
        const float temperature = f.temperature ? f.temperature[i] : 1.0f;
        const float min_p = f.min_p ? f.min_p[i] : 0.0f;
        const bool is_drawn = temperature > 0.0f;
        const bool filters = is_drawn && min_p > 0.0f;
        const bool waits = filters || (is_drawn && temperature != 1.0f);
        const float inverse = is_drawn ? 1.0f / temperature : 1.0f;
        const float floor = fminf(logf(min_p), 0.0f);
        wait_for_copies();

        Part part = nothing();
#pragma unroll 1
        for (int unit = thread; unit < units; unit += FUSED_THREADS) {
            const Unit mine(held[unit]);
#pragma unroll
            for (int k = 0; k < Unit::SIZE; ++k) part.peak = fmaxf(part.peak, Logit::to_float(mine.get(k)));
        }
        part.peak = max_of_warp(part.peak);
        __syncthreads();  // `allowed` is complete
#pragma unroll 1
        for (int unit = thread; unit < units; unit += FUSED_THREADS) {
            const Unit mine(held[unit]);
            const unsigned bits = allowed[unit / Unit::PER_CHUNK] >> (unit % Unit::PER_CHUNK * Unit::SIZE);
            const int token = (split * units + unit) * Unit::SIZE - shift;
#pragma unroll
            for (int k = 0; k < Unit::SIZE; ++k) {
                const float logit = Logit::to_float(mine.get(k));
                const float share = weight(logit, part.peak);
                const bool is_allowed = bits >> k & 1u;
                const bool is_best = is_allowed && logit > part.best;
                part.sum += share;
                part.allowed_sum += is_allowed ? share : 0.0f;
                part.best = is_best ? logit : part.best;
                part.best_token = is_best ? token + k : part.best_token;
            }
        }
        part = merged(part);
        if (lane == 0) of_block[warp] = part;
        __syncthreads();

        const bool finishes = split == 0;
        unsigned long long* const words = f.parts + static_cast<long long>(i) * (PART_WORDS * FUSED_THREADS);
        if (warp == 0) {
            part = merged(lane < FUSED_WARPS ? of_block[lane] : nothing());
            if (lane == 0) publish(words, split, part, launch);
        }
        if (waits || finishes) {
            part = merged(thread < f.splits ? published(words, thread, launch, finishes) : nothing());
            if (lane == 0) of_row[warp] = part;
            __syncthreads();
            part = merged(lane < FUSED_WARPS ? of_row[lane] : nothing());
            if (finishes && thread == 0) {
                f.argmax[i] = part.best_token;
                f.allowed_mass[i] = part.allowed_sum / part.sum;
                f.launches[i] = launch;  // all have published theirs, and so have read the last
            }
        }

        const float highest = waits ? part.best : 0.0f;
        const bool scales = waits && temperature != 1.0f && fabsf(highest) != -minus_infinity();
#pragma unroll 1
        for (int unit = thread; unit < units; unit += FUSED_THREADS) {
            const Unit mine(held[unit]);
            const unsigned bits = allowed[unit / Unit::PER_CHUNK] >> (unit % Unit::PER_CHUNK * Unit::SIZE);
            const int start = (split * units + unit) * Unit::SIZE;
            Unit result = mine;
#pragma unroll
            for (int k = 0; k < Unit::SIZE; ++k) {
                const float distance = (Logit::to_float(mine.get(k)) - highest) * inverse;
                if ((bits >> k & 1u) == 0 || (filters && distance < floor)) {
                    result.set(k, Logit::MINUS_INFINITY_BITS);
                } else if (scales) {
                    result.set(k, Logit::from_float(distance));
                }
            }
            if (start >= shift && start + Unit::SIZE <= end) {
                if (result.differs(mine)) *reinterpret_cast<uint4*>(logits + start) = result.vector();
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
    wait_for_grid_ahead();
    mask_rows<LOGIT>(masking, chunks_per_warp);
}

extern "C" __global__ void __launch_bounds__(FUSED_THREADS, 6)
    fused_mask_logits(const __grid_constant__ Masking masking, const __grid_constant__ Fusion fusion) {
    wait_for_grid_ahead();
    fused_mask_rows<LOGIT>(masking, fusion);
}
