// Attention and experts with pairs of bfloat16 numbers in one instruction; everything else as AVX-512.
#if defined(__x86_64__)
#include "cold_scores.h"
#include "experts.h"
#include "memory_nodes.h"

namespace ds {

const Kernels &avx512_bf16_kernels() {
  static const Kernels kernels = [] {
    Kernels found = avx512_kernels();
    found.attend = attend;
    found.compare = compare;
    found.expand = expand;
    found.compare_codes = compare_codes;
    const ExpertKernels experts[2] = DS_EXPERTS;
    found.experts[1] = experts[1];
    return found;
  }();
  return kernels;
}

}  // namespace ds
#endif
