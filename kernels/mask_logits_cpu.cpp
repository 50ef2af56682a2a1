// The mask kernels for processors. Compiled at run time by kernels/cxx.py, called by kernels/cpu.py.
//
// There are no intrinsics: inner loops have a fixed number of lanes and no branch, so that the compiler makes them
// vector instructions of any width. Nothing here allocates, throws or keeps state.
//
// What masking must cost is reading the mask and writing what it forbids. What it would cost besides is wrong guesses of
// branches, as where a mask forbids something cannot be foretold: each one also keeps the next logits from being fetched
// ahead. So a block of 64 words of a mask takes one of three ways, chosen by what changes seldom from block to block:
//  - All of its words allow everything: one comparison, and no logit is touched.
//  - Some do. The others are sorted by a bit each: where one token is forbidden, its logit is stored over; where all are,
//    all are; what is left is read, blended and written. A loop over the zeros of each word instead, as other kernels have
//    it, guesses wrong at every second word.
//  - Few or none do: all are blended, one after the other, but runs that forbid everything are stored over.
// 32 rows of 49,152 logits then take at most what filling the same memory takes, on one thread. There are no others: rows
// are few, and PyTorch's threads may still be spinning on the other cores.
//
// Rows are unaligned in general (odd vocabularies), and memory from elsewhere may be aligned to less than its type.

#include <cstdint>
#include <cstring>

namespace {

using Index = std::int64_t;
typedef std::uint32_t Word __attribute__((aligned(1), may_alias));
typedef float Logit __attribute__((aligned(1), may_alias));

// As an argument of a template, a type would lose its attributes: those of a struct's stay.
template <typename Bits>
struct __attribute__((packed, may_alias)) Place {
    Bits bits;
};

constexpr int kWordTokens = 32;
constexpr int kBlockWords = 64;
constexpr int kSomeWords = 14;
constexpr int kRunWords = 8;
constexpr std::uint32_t kAll = 0xffffffffu;

template <int kWords>
inline bool allows_all(const Word* mask) {
    std::uint32_t common = kAll;
    for (int i = 0; i < kWords; ++i) common &= mask[i];
    return common == kAll;
}

template <int kWords>
inline bool allows_none(const Word* mask) {
    std::uint32_t any = 0;
    for (int i = 0; i < kWords; ++i) any |= mask[i];
    return any == 0;
}

template <typename Bits>
inline __attribute__((always_inline)) void mask_word(Place<Bits>* logits, std::uint32_t allowed, Bits minus_infinity) {
    for (int i = 0; i < kWordTokens; ++i) {
        const Bits keep = static_cast<Bits>(-static_cast<Bits>(allowed >> i & 1));
        logits[i].bits = static_cast<Bits>((logits[i].bits & keep) | (minus_infinity & ~keep));
    }
}

// A bit for each of 64 words: whether something is true of it.
template <typename Test>
inline __attribute__((always_inline)) std::uint64_t words_where(const Word* mask, Test test) {
    std::uint32_t low = 0, high = 0;
    for (int i = 0; i < 32; ++i) low |= test(mask[i]) ? 1u << i : 0u;
    for (int i = 0; i < 32; ++i) high |= test(mask[32 + i]) ? 1u << i : 0u;
    return low | static_cast<std::uint64_t>(high) << 32;
}

template <typename Bits>
inline void forbid_words(Place<Bits>* logits, int words, Bits minus_infinity) {
    for (int i = 0; i < words * kWordTokens; ++i) logits[i].bits = minus_infinity;
}

template <typename Bits>
inline void mask_block(Place<Bits>* logits, const Word* mask, Bits minus_infinity) {
    if (allows_all<kBlockWords>(mask)) return;
    const std::uint64_t allowed = words_where(mask, [](std::uint32_t word) { return word == kAll; });
    if (__builtin_popcountll(allowed) < kSomeWords) {
        for (int word = 0; word < kBlockWords; word += kRunWords) {
            if (allows_none<kRunWords>(mask + word)) {
                forbid_words<Bits>(logits + word * kWordTokens, kRunWords, minus_infinity);
                continue;
            }
            for (int i = word; i < word + kRunWords; ++i) {
                mask_word<Bits>(logits + i * kWordTokens, mask[i], minus_infinity);
            }
        }
        return;
    }
    // A word whose lowest zero is filled allows everything if that was the only one, or there was none.
    std::uint64_t single = words_where(mask, [](std::uint32_t word) { return (word | (word + 1)) == kAll; }) & ~allowed;
    std::uint64_t forbidden = words_where(mask, [](std::uint32_t word) { return word == 0; });
    std::uint64_t mixed = ~(allowed | single | forbidden);
    for (; single != 0; single &= single - 1) {
        const int word = __builtin_ctzll(single);
        logits[word * kWordTokens + __builtin_ctz(~mask[word])].bits = minus_infinity;
    }
    for (; forbidden != 0; forbidden &= forbidden - 1) {
        forbid_words<Bits>(logits + __builtin_ctzll(forbidden) * kWordTokens, 1, minus_infinity);
    }
    for (; mixed != 0; mixed &= mixed - 1) {
        const int word = __builtin_ctzll(mixed);
        mask_word<Bits>(logits + word * kWordTokens, mask[word], minus_infinity);
    }
}

template <typename Bits>
void mask_row(Place<Bits>* logits, const Word* mask, Index vocabulary, Index words, Bits minus_infinity) {
    const Index whole = words < vocabulary / kWordTokens ? words : vocabulary / kWordTokens;
    Index word = 0;
    for (; word + kBlockWords <= whole; word += kBlockWords) {
        mask_block<Bits>(logits + word * kWordTokens, mask + word, minus_infinity);
    }
    for (; word < whole; ++word) {
        if (mask[word] != kAll) mask_word<Bits>(logits + word * kWordTokens, mask[word], minus_infinity);
    }
    Index token = whole * kWordTokens;
    if (whole < words) {
        const std::uint32_t last = mask[whole];
        for (int bit = 0; token < vocabulary; ++token, ++bit) {
            if ((last >> bit & 1) == 0) logits[token].bits = minus_infinity;
        }
    }
    for (; token < vocabulary; ++token) logits[token].bits = minus_infinity;
}

template <typename Bits>
void mask_rows(Place<Bits>* logits, Index stride, const Word* masks, Index mask_stride, const std::int32_t* targets,
               Index count, Index vocabulary, Index words, Bits minus_infinity) {
    for (Index i = 0; i < count; ++i) {
        const Index target = targets == nullptr ? i : targets[i];
        if (target >= 0) {
            mask_row<Bits>(logits + target * stride, masks + i * mask_stride, vocabulary, words, minus_infinity);
        }
    }
}

// exp(x) for x <= 0, to some 3e-7 of its value; 0 below the smallest normal number, NaN for NaN.
inline float exp_of_negative(float x) {
    constexpr float kLowest = -87.3f;
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, in the lowest bits
    const float clamped = x < kLowest ? kLowest : x;
    const float shifted = clamped * 1.44269504f + kRound;
    const float whole = shifted - kRound;
    // ln 2 in two parts, so that what is left is exact; then the Taylor series on [-ln 2 / 2, ln 2 / 2].
    const float rest = (clamped - whole * 0.693359375f) - whole * -2.12194440e-4f;
    float series = 1.0f / 720;
    series = series * rest + 1.0f / 120;
    series = series * rest + 1.0f / 24;
    series = series * rest + 1.0f / 6;
    series = series * rest + 0.5f;
    series = series * rest + 1.0f;
    series = series * rest + 1.0f;
    std::uint32_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127u) << 23;  // 2^whole; the bits of kRound leave at the top
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return x < kLowest ? 0.0f : series * power;
}

// Sums of exp(logit - peak), over all tokens and over those that are allowed; the peak is the highest logit so far.
struct Mass {
    float peak = -__builtin_inff();
    double all = 0;
    double allowed = 0;

    // Add `words` words of tokens, at most kPartWords. Lanes are summed apart: a fixed order, in vectors of any width.
    void add(const Logit* logits, const Word* mask, Index words) {
        float highest[kWordTokens];
        for (int i = 0; i < kWordTokens; ++i) highest[i] = peak;
        for (Index word = 0; word < words; ++word) {
            for (int i = 0; i < kWordTokens; ++i) {
                const float logit = logits[word * kWordTokens + i];
                highest[i] = logit > highest[i] ? logit : highest[i];
            }
        }
        float top = peak;
        for (int i = 0; i < kWordTokens; ++i) top = highest[i] > top ? highest[i] : top;
        if (top > peak) {
            const double scale = exp_of_negative(peak - top);
            all *= scale;
            allowed *= scale;
            peak = top;
        }
        // Where all is -inf so far, nothing is subtracted: exp(-inf) is 0, and NaN stays NaN.
        const float shift = peak == -__builtin_inff() ? 0.0f : peak;
        float sums[kWordTokens] = {};
        float allowed_sums[kWordTokens] = {};
        for (Index word = 0; word < words; ++word) {
            for (int i = 0; i < kWordTokens; ++i) {
                const float weight = exp_of_negative(logits[word * kWordTokens + i] - shift);
                const std::uint32_t bit = 1u << i;
                sums[i] += weight;
                allowed_sums[i] += (mask[word] & bit) == bit ? weight : 0.0f;
            }
        }
        for (int i = 0; i < kWordTokens; ++i) {
            all += sums[i];
            allowed += allowed_sums[i];
        }
    }
};

constexpr Index kPartWords = 32;  // 4 KB of logits, which the nearest cache still has at the second look

float allowed_mass(const Logit* logits, const Word* mask, Index vocabulary, Index words) {
    Mass mass;
    const Index whole = words < vocabulary / kWordTokens ? words : vocabulary / kWordTokens;
    for (Index word = 0; word < whole; word += kPartWords) {
        mass.add(logits + word * kWordTokens, mask + word, whole - word < kPartWords ? whole - word : kPartWords);
    }
    // The rest: a word in part, then what the mask does not reach. Beyond the end is -inf, which weighs nothing.
    for (Index word = whole; word * kWordTokens < vocabulary; ++word) {
        float last[kWordTokens];
        for (int i = 0; i < kWordTokens; ++i) {
            const Index token = word * kWordTokens + i;
            last[i] = token < vocabulary ? logits[token] : -__builtin_inff();
        }
        const std::uint32_t bits = word < words ? mask[word] : 0;
        mass.add(last, &bits, 1);
    }
    return static_cast<float>(mass.allowed / mass.all);
}

// The highest logit that a mask allows, and the first token that has it. NaN counts as highest.
struct Best {
    float logit = -__builtin_inff();
    Index token = 0;

    bool is_final() const { return logit != logit; }

    void look_at(const Logit* logits, std::uint32_t allowed, Index first) {
        for (; allowed != 0 && !is_final(); allowed &= allowed - 1) {
            const int bit = __builtin_ctz(allowed);
            if (!(logits[bit] <= logit)) {
                logit = logits[bit];
                token = first + bit;
            }
        }
    }

    // One comparison for 32 tokens, of which few have one that is higher than all before.
    void look_at_word(const Logit* logits, std::uint32_t allowed, Index first) {
        std::uint32_t above = 0;
        for (int i = 0; i < kWordTokens; ++i) {
            const std::uint32_t bit = 1u << i;
            above |= (logits[i] <= logit ? 0u : bit) & allowed;
        }
        look_at(logits, above, first);
    }
};

Best best_allowed(const Logit* logits, const Word* mask, Index vocabulary, Index words) {
    constexpr int kSkipped = 8;
    Best best;
    const Index whole = words < vocabulary / kWordTokens ? words : vocabulary / kWordTokens;
    for (Index word = 0; word < whole && !best.is_final();) {
        if (word + kSkipped <= whole && allows_none<kSkipped>(mask + word)) {
            word += kSkipped;
            continue;
        }
        const Index end = word + kSkipped < whole ? word + kSkipped : whole;
        for (; word < end; ++word) {
            if (mask[word] != 0) best.look_at_word(logits + word * kWordTokens, mask[word], word * kWordTokens);
        }
    }
    if (whole < words && whole * kWordTokens < vocabulary) {
        const std::uint32_t inside = (1u << (vocabulary - whole * kWordTokens)) - 1u;
        best.look_at(logits + whole * kWordTokens, mask[whole] & inside, whole * kWordTokens);
    }
    return best;
}

}  // namespace

// Set to -inf what masks forbid; see kernels/mask_logits.py.
//
// logits: [rows, vocabulary] as integers of the same width, `stride` logits from row to row.
// masks: [count, words], `mask_stride` words from row to row; tokens beyond the last word are forbidden.
// targets: [count], the row of logits of each mask, negative to skip it; null: mask i is row i's.
// minus_infinity: its bits in the logits' type.
extern "C" void mask_logits_32(Place<std::uint32_t>* logits, Index stride, const Word* masks, Index mask_stride,
                               const std::int32_t* targets, Index count, Index vocabulary, Index words,
                               std::uint32_t minus_infinity) {
    mask_rows<std::uint32_t>(logits, stride, masks, mask_stride, targets, count, vocabulary, words, minus_infinity);
}

extern "C" void mask_logits_16(Place<std::uint16_t>* logits, Index stride, const Word* masks, Index mask_stride,
                               const std::int32_t* targets, Index count, Index vocabulary, Index words,
                               std::uint32_t minus_infinity) {
    mask_rows<std::uint16_t>(logits, stride, masks, mask_stride, targets, count, vocabulary, words,
                      static_cast<std::uint16_t>(minus_infinity));
}

// The share of the probability that each row gives to what its mask allows; NaN where a row has NaN or +inf, or is all
// -inf. Arguments as above, but for `masses`: [count], written; entries of skipped masks are left alone.
extern "C" void allowed_masses(const Logit* logits, Index stride, const Word* masks, Index mask_stride,
                               const std::int32_t* targets, Index count, Index vocabulary, Index words, float* masses) {
    for (Index i = 0; i < count; ++i) {
        const Index target = targets == nullptr ? i : targets[i];
        if (target >= 0) {
            masses[i] = allowed_mass(logits + target * stride, masks + i * mask_stride, vocabulary, words);
        }
    }
}

// The highest logit that each mask allows and the first token that has it; -inf and 0 where there is none. Arguments as
// above, but for `values` and `tokens`: [count], written; entries of skipped masks are left alone.
extern "C" void allowed_argmax(const Logit* logits, Index stride, const Word* masks, Index mask_stride,
                               const std::int32_t* targets, Index count, Index vocabulary, Index words, float* values,
                               Index* tokens) {
    for (Index i = 0; i < count; ++i) {
        const Index target = targets == nullptr ? i : targets[i];
        if (target >= 0) {
            const Best best = best_allowed(logits + target * stride, masks + i * mask_stride, vocabulary, words);
            values[i] = best.logit;
            tokens[i] = best.token;
        }
    }
}
