// AVX2 with products of bytes in one instruction, as Intel's laptops have it.
#define DS_KERNELS_256 avx_vnni_kernels
#include "avx2.cpp"
