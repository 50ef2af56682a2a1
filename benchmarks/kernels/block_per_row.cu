// Yardstick: the design of llgtrt's kernel, written anew. One block per row goes over the row twice, one logit per
// thread and access: first for the maxima, then for the sums, temperature and min-p. Follows mask_logits.cu, whose
// types it uses.

constexpr int ROW_THREADS = 1024;

struct RowBest {
    float value;
    int token;
};

__device__ inline RowBest best_of_block(float value, int token) {
    __shared__ RowBest of_warps[ROW_THREADS / 32];
    best_of_warp(value, token);
    __syncthreads();
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = {value, token};
    __syncthreads();
    RowBest best = of_warps[threadIdx.x % 32];
    best_of_warp(best.value, best.token);
    return best;
}

__device__ inline float sum_of_block(float value) {
    __shared__ float of_warps[ROW_THREADS / 32];
    value = sum_of_warp(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
    __syncthreads();
    return sum_of_warp(of_warps[threadIdx.x % 32]);
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    block_per_row(const __grid_constant__ Masking m, const __grid_constant__ Fusion f) {
    using Bits = LOGIT::Bits;
    const int i = blockIdx.x;
    Bits* const logits = reinterpret_cast<Bits*>(row_address(m.rows, i));
    const unsigned* const mask = m.mask + i * m.mask_stride;
    float peak = minus_infinity();
    float best = minus_infinity();
    int best_token = -1;
    for (int token = threadIdx.x; token < m.vocabulary; token += ROW_THREADS) {
        const float logit = LOGIT::to_float(logits[token]);
        peak = fmaxf(peak, logit);
        if ((allowed_word(mask, m.words, m.vocabulary, token / 32) >> (token % 32) & 1u) && logit > best) {
            best = logit;
            best_token = token;
        }
    }
    const RowBest row_best = best_of_block(best, best_token);
    const float row_peak = best_of_block(peak, 0).value;

    const float temperature = f.temperature ? f.temperature[i] : 1.0f;
    const float inverse = temperature > 0.0f ? 1.0f / temperature : 1.0f;
    const float floor = f.min_p && f.min_p[i] > 0.0f && temperature > 0.0f ? logf(f.min_p[i]) : minus_infinity();
    float sum = 0.0f;
    float allowed_sum = 0.0f;
    for (int token = threadIdx.x; token < m.vocabulary; token += ROW_THREADS) {
        const float logit = LOGIT::to_float(logits[token]);
        const float share = weight(logit, row_peak);
        sum += share;
        float result = minus_infinity();
        if (allowed_word(mask, m.words, m.vocabulary, token / 32) >> (token % 32) & 1u) {
            allowed_sum += share;
            const float distance = (logit - row_best.value) * inverse;
            if (!(distance < floor)) result = temperature > 0.0f && temperature != 1.0f ? distance : logit;
        }
        logits[token] = static_cast<Bits>(LOGIT::from_float(result));
    }
    sum = sum_of_block(sum);
    allowed_sum = sum_of_block(allowed_sum);
    if (threadIdx.x == 0) {
        f.argmax[i] = row_best.token;
        f.allowed_mass[i] = allowed_sum / sum;
    }
}

extern "C" __global__ void empty() {}
