// AVX2: the same tiles in two halves of 8 rows, byte products through 16-bit sums.
//
// 16-bit sums cannot overflow: u4 adds 8 pairs of at most 2 * 15 * 127, the others multiply the
// magnitude of the centred weight (at most 128) with an activation of its sign, 2 * 128 * 127.
#if defined(__x86_64__)
#include <immintrin.h>

#include "attention.h"
#include "layout.h"
#include "rows.h"

namespace ds {
namespace {

constexpr int64_t kAhead = 4096;
constexpr int kRows = 4;

inline __m256 load_half(const uint8_t *place) {
  return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i *>(place)));
}

inline __m256i four(const int8_t *x) { return _mm256_set1_epi32(*reinterpret_cast<const int32_t *>(x)); }

inline __m256i load(const uint8_t *place) {
  return _mm256_load_si256(reinterpret_cast<const __m256i *>(place));
}

void store(const Share &s, int64_t row, int64_t n, __m256 total) {
  alignas(32) float values[8];
  _mm256_store_ps(values, total);
  for (int64_t i = 0; i < 8 && n + i < s.n_out; ++i) {
    const float value = values[i] * s.factors[n + i] + (s.bias ? s.bias[n + i] : 0.0f);
    if (s.y_half)
      s.y_half[row * s.y_stride + n + i] = float_to_bf16(value);
    else
      s.y[row * s.y_stride + n + i] = value;
  }
}

template <int M>
void tile_u4(const Share &s, int64_t tile, int half, int64_t row) {
  const int64_t n_blocks = s.n_in / kBlock;
  const uint8_t *block = s.packed + tile * n_blocks * U4::kBytes;
  const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  __m256 total[M];
  for (int m = 0; m < M; ++m) total[m] = _mm256_setzero_ps();
  for (int64_t b = 0; b < n_blocks; ++b, block += U4::kBytes) {
    for (int i = 0; i < 5; ++i)
      _mm_prefetch(reinterpret_cast<const char *>(block + kAhead + 64 * i), _MM_HINT_T0);
    __m256i w[8];
    for (int j = 0; j < 4; ++j) {
      const __m256i pair = load(block + 64 * j + 32 * half);
      w[j] = _mm256_and_si256(pair, low);
      w[j + 4] = _mm256_and_si256(_mm256_srli_epi16(pair, 4), low);
    }
    const __m256 scale = load_half(block + U4::kScales + 16 * half);
    const __m256 zero = load_half(block + U4::kScales + 32 + 16 * half);
    for (int m = 0; m < M; ++m) {
      const int8_t *x = s.x.codes + (row + m) * s.n_in + b * kBlock;
      __m256i sum = _mm256_maddubs_epi16(w[0], four(x));
      for (int j = 1; j < 8; ++j)
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w[j], four(x + 4 * j)));
      const __m256 dot = _mm256_cvtepi32_ps(_mm256_madd_epi16(sum, ones));
      const int64_t at = (row + m) * n_blocks + b;
      total[m] =
          _mm256_fmadd_ps(dot, _mm256_mul_ps(scale, _mm256_set1_ps(s.x.scale[at])), total[m]);
      total[m] = _mm256_fmadd_ps(zero, _mm256_set1_ps(s.x.sum[at]), total[m]);
    }
  }
  for (int m = 0; m < M; ++m) store(s, row + m, tile * kTile + 8 * half, total[m]);
}

// Columns 16 * part to 16 * part + 15 of a block, their codes' centre taken off.
inline void unpack(U8, const uint8_t *block, int part, int half, __m256i *w) {
  const __m256i centre = _mm256_set1_epi8(-128);
  for (int j = 0; j < 4; ++j)
    w[j] = _mm256_xor_si256(load(block + 64 * (4 * part + j) + 32 * half), centre);
}

inline void unpack(U6, const uint8_t *block, int part, int half, __m256i *w) {
  const __m256i low = _mm256_set1_epi8(15), high = _mm256_set1_epi8(0x30);
  const __m256i top = load(block + U6::kTops + 64 * part + 32 * half);
  const __m256i tops[4] = {_mm256_slli_epi16(top, 4), _mm256_slli_epi16(top, 2), top,
                           _mm256_srli_epi16(top, 2)};
  for (int j = 0; j < 4; ++j) {
    __m256i pair = load(block + 64 * j + 32 * half);
    if (part) pair = _mm256_srli_epi16(pair, 4);
    w[j] = _mm256_or_si256(_mm256_and_si256(pair, low), _mm256_and_si256(tops[j], high));
    w[j] = _mm256_sub_epi8(w[j], _mm256_set1_epi8(U6::kCentre));
  }
}

template <typename Format, int M>
void tile_centred(const Share &s, int64_t tile, int half, int64_t row) {
  const int64_t n_blocks = s.n_in / kBlock;
  const uint8_t *block = s.packed + tile * n_blocks * Format::kBytes;
  const __m256i ones = _mm256_set1_epi16(1);
  __m256 total[M];
  for (int m = 0; m < M; ++m) total[m] = _mm256_setzero_ps();
  for (int64_t b = 0; b < n_blocks; ++b, block += Format::kBytes) {
    for (int64_t i = 0; i < Format::kBytes / 64; ++i)
      _mm_prefetch(reinterpret_cast<const char *>(block + kAhead + 64 * i), _MM_HINT_T0);
    for (int part = 0; part < 2; ++part) {
      __m256i w[4], size[4];
      unpack(Format{}, block, part, half, w);
      for (int j = 0; j < 4; ++j) size[j] = _mm256_abs_epi8(w[j]);
      const __m256 scale = load_half(block + Format::kScales + 32 * part + 16 * half);
      for (int m = 0; m < M; ++m) {
        const int8_t *x = s.x.codes + (row + m) * s.n_in + b * kBlock + 16 * part;
        __m256i sum = _mm256_setzero_si256();
        for (int j = 0; j < 4; ++j) {
          const __m256i signed_x = _mm256_sign_epi8(four(x + 4 * j), w[j]);
          sum = _mm256_add_epi32(
              sum, _mm256_madd_epi16(_mm256_maddubs_epi16(size[j], signed_x), ones));
        }
        const int64_t at = (row + m) * n_blocks + b;
        total[m] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum),
                                   _mm256_mul_ps(scale, _mm256_set1_ps(s.x.scale[at])), total[m]);
      }
    }
  }
  for (int m = 0; m < M; ++m) store(s, row + m, tile * kTile + 8 * half, total[m]);
}

template <int M>
void tile_u8(const Share &s, int64_t tile, int half, int64_t row) {
  tile_centred<U8, M>(s, tile, half, row);
}

template <int M>
void tile_u6(const Share &s, int64_t tile, int half, int64_t row) {
  tile_centred<U6, M>(s, tile, half, row);
}

#define DS_ROWS(NAME)                                                                       \
  void matmul_##NAME(const Share &s, int64_t first, int64_t last) {                         \
    for (int64_t tile = first; tile < last; ++tile)                                         \
      for (int half = 0; half < 2; ++half) {                                                \
        int64_t row = 0;                                                                    \
        for (; row + kRows <= s.n_rows; row += kRows) tile_##NAME<kRows>(s, tile, half, row); \
        switch (s.n_rows - row) {                                                           \
          case 3: tile_##NAME<3>(s, tile, half, row); break;                                \
          case 2: tile_##NAME<2>(s, tile, half, row); break;                                \
          case 1: tile_##NAME<1>(s, tile, half, row); break;                                \
          default: break;                                                                   \
        }                                                                                   \
      }                                                                                     \
  }
DS_ROWS(u4)
DS_ROWS(u6)
DS_ROWS(u8)
#undef DS_ROWS

}  // namespace

const Kernels &avx2_kernels() {
  // Rounding activations is a small part of a product: the plain code serves.
  static const Kernels kernels{{matmul_u4, matmul_u8, matmul_u6}, portable_kernels().quantise, DS_ROWS_OF_NUMBERS, keep, attend, merge};
  return kernels;
}

}  // namespace ds
#endif
