// The mask kernels for processors. Compiled at run time by kernels/cxx.py, called by kernels/cpu.py.
//
// There are no intrinsics: inner loops have a fixed number of lanes and no branch, so that the compiler makes them vector
// instructions of any width, on any architecture. Nothing here allocates, throws or keeps state.
//
// What masking must cost is reading the mask and writing what it forbids:
//  - Sixteen words of a mask that allow everything are one comparison, and no logit is touched.
//  - A word that forbids everything is stored over; its logits are not read.
//  - A word of both kinds is read, blended and written. Stores under a mask, which need not read, are 1.3 to 1.8 times as
//    slow out of the cache (AMD Zen 5, AVX-512), and a store per zero mispredicts.
//
// Rows are unaligned in general (odd vocabularies), and memory from elsewhere may be aligned to less than its type.

#include <cstdint>

namespace {

using Index = std::int64_t;
typedef std::uint32_t Word __attribute__((aligned(1), may_alias));
typedef std::uint32_t Bits32 __attribute__((aligned(1), may_alias));
typedef std::uint16_t Bits16 __attribute__((aligned(1), may_alias));

constexpr int kWordTokens = 32;
constexpr int kBlockWords = 16;
constexpr std::uint32_t kAll = 0xffffffffu;

inline bool allows_all(const Word* words) {
    std::uint32_t common = kAll;
    for (int i = 0; i < kBlockWords; ++i) common &= words[i];
    return common == kAll;
}

// Overwrite the logits of one word's tokens that it forbids.
template <typename Bits>
inline void mask_word(Bits* logits, std::uint32_t allowed, Bits minus_infinity) {
    if (allowed == 0) {
        for (int i = 0; i < kWordTokens; ++i) logits[i] = minus_infinity;
        return;
    }
    // As many bits at a time as a logit has: one comparison with constants spreads them over the lanes.
    constexpr int kLanes = 8 * sizeof(Bits);
    for (int begin = 0; begin < kWordTokens; begin += kLanes) {
        const Bits part = static_cast<Bits>(allowed >> begin);
        for (int i = 0; i < kLanes; ++i) {
            const Bits bit = static_cast<Bits>(Bits{1} << i);
            const Bits keep = (part & bit) == bit ? static_cast<Bits>(-1) : Bits{0};
            logits[begin + i] = static_cast<Bits>((logits[begin + i] & keep) | (minus_infinity & ~keep));
        }
    }
}

template <typename Bits>
void mask_row(Bits* logits, const Word* mask, Index vocabulary, Index words, Bits minus_infinity) {
    const Index whole = words < vocabulary / kWordTokens ? words : vocabulary / kWordTokens;
    Index word = 0;
    for (; word + kBlockWords <= whole; word += kBlockWords) {
        if (allows_all(mask + word)) continue;
        for (Index i = word; i < word + kBlockWords; ++i) {
            if (mask[i] != kAll) mask_word<Bits>(logits + i * kWordTokens, mask[i], minus_infinity);
        }
    }
    for (; word < whole; ++word) {
        if (mask[word] != kAll) mask_word<Bits>(logits + word * kWordTokens, mask[word], minus_infinity);
    }
    Index token = whole * kWordTokens;
    if (whole < words) {
        const std::uint32_t last = mask[whole];
        for (int bit = 0; token < vocabulary; ++token, ++bit) {
            if ((last >> bit & 1) == 0) logits[token] = minus_infinity;
        }
    }
    for (; token < vocabulary; ++token) logits[token] = minus_infinity;
}

template <typename Bits>
void mask_rows(Bits* logits, Index stride, const Word* masks, Index mask_stride, const std::int32_t* targets, Index count,
               Index vocabulary, Index words, Bits minus_infinity) {
    for (Index i = 0; i < count; ++i) {
        const Index target = targets == nullptr ? i : targets[i];
        if (target >= 0) {
            mask_row<Bits>(logits + target * stride, masks + i * mask_stride, vocabulary, words, minus_infinity);
        }
    }
}

}  // namespace

// Set to -inf what masks forbid; see kernels/mask_logits.py.
//
// logits: [rows, vocabulary] as integers of the same width, `stride` logits from row to row.
// masks: [count, words], `mask_stride` words from row to row; tokens beyond the last word are forbidden.
// targets: [count], the row of logits of each mask, negative to skip it; null: mask i is row i's.
// minus_infinity: its bits in the logits' type.
extern "C" void mask_logits_32(Bits32* logits, Index stride, const Word* masks, Index mask_stride,
                               const std::int32_t* targets, Index count, Index vocabulary, Index words,
                               std::uint32_t minus_infinity) {
    mask_rows<Bits32>(logits, stride, masks, mask_stride, targets, count, vocabulary, words, minus_infinity);
}

extern "C" void mask_logits_16(Bits16* logits, Index stride, const Word* masks, Index mask_stride,
                               const std::int32_t* targets, Index count, Index vocabulary, Index words,
                               std::uint32_t minus_infinity) {
    mask_rows<Bits16>(logits, stride, masks, mask_stride, targets, count, vocabulary, words,
                      static_cast<std::uint16_t>(minus_infinity));
}
