// The kernels of mask_logits.cu as functions of a shared library; the arguments are the kernels' own structures.

#include "cuda_on_cpu.h"
// The kernels' source, after what it takes for granted.
#include "mask_logits.cu"

using cuda_on_cpu::launch;

extern "C" int run_mask_logits(
    unsigned x, unsigned y, unsigned threads, bool at_once, bool backwards, const Masking* masking, const int* chunks) {
    return launch({x, y, 1}, threads, at_once, backwards, [=] { mask_logits(*masking, *chunks); });
}

extern "C" int run_fused_mask_logits(
    unsigned x, unsigned y, unsigned threads, bool at_once, bool backwards, const Masking* masking, const Fusion* fusion) {
    return launch({x, y, 1}, threads, at_once, backwards, [=] { fused_mask_logits(*masking, *fusion); });
}
