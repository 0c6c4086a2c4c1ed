// AVX2: the same tiles in two halves of 8 rows, byte products through 16-bit sums, or in one
// instruction where avx_vnni.cpp compiles this file for processors that have it.
//
// 16-bit sums cannot overflow: u4 adds 8 pairs of at most 2 * 15 * 127, the others multiply the
// magnitude of the centred weight (at most 128) with an activation of its sign, 2 * 128 * 127.
#if defined(__x86_64__)
#include <immintrin.h>

#include "cold_scores.h"
#include "experts.h"
#include "memory_nodes.h"
#include "rows.h"
#include "tiles.h"

#ifndef DS_KERNELS_256
#define DS_KERNELS_256 avx2_kernels
#endif

namespace ds {
namespace {

struct Avx2 {
  static constexpr int kRows = 4, kParts = 2;
  template <typename Format, int M>
  static void multiply(const Share &s, int64_t tile_number, int part, int64_t row);
  template <typename Format, int M>
  static void multiply_centred(const Share &s, int64_t tile_number, int part, int64_t row);
};

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

inline __m128i load_bytes(const uint8_t *place) {
  return _mm_loadl_epi64(reinterpret_cast<const __m128i *>(place));
}

// Of 8 rows: `side` is 0 for the tile's first ones and 1 for the others.
inline __m256 scales_of(U4, const uint8_t *tile, int64_t b, int side) {
  return load_half(tile + U4::scales(b) + 16 * side);
}

inline __m256 zeros_of(U4, const uint8_t *tile, int64_t b, int side) {
  return load_half(tile + U4::zeros(b) + 16 * side);
}

inline __m256 scales_of(U4K, const uint8_t *tile, int64_t b, int side) {
  const __m256i whole = _mm256_cvtepu8_epi32(load_bytes(tile + U4K::scales(b) + 8 * side));
  return _mm256_mul_ps(load_half(tile + U4K::units(b) + 16 * side), _mm256_cvtepi32_ps(whole));
}

inline __m256 zeros_of(U4K, const uint8_t *tile, int64_t b, int side) {
  const __m256i whole = _mm256_cvtepu8_epi32(load_bytes(tile + U4K::zeros(b) + 8 * side));
  return _mm256_mul_ps(load_half(tile + U4K::zero_units(b) + 16 * side),
                       _mm256_cvtepi32_ps(whole));
}

inline __m256 scales_of(U8, const uint8_t *tile, int64_t b, int half, int side) {
  return load_half(tile + U8::scales(b, half) + 16 * side);
}

inline __m256 scales_of(U6K, const uint8_t *tile, int64_t b, int half, int side) {
  const __m256i whole = _mm256_cvtepi8_epi32(load_bytes(tile + U6K::scales(b, half) + 8 * side));
  return _mm256_mul_ps(load_half(tile + U6K::units(b) + 16 * side), _mm256_cvtepi32_ps(whole));
}

#if defined(__AVXVNNI__) || defined(__AVX512VNNI__)
inline __m256i add_four(__m256i sum, __m256i w, __m256i x) {
#if defined(__AVXVNNI__)
  return _mm256_dpbusd_avx_epi32(sum, w, x);
#else
  return _mm256_dpbusd_epi32(sum, w, x);  // the same with another encoding: tests run it
#endif
}

// Sums of four products each; `w` is not negative.
template <int N>
inline __m256i products(const __m256i *w, const int8_t *x) {
  __m256i sum = add_four(_mm256_setzero_si256(), w[0], four(x));
  for (int j = 1; j < N; ++j) sum = add_four(sum, w[j], four(x + 4 * j));
  return sum;
}

inline __m256i add_signed(__m256i sum, __m256i size, __m256i x) { return add_four(sum, size, x); }
#else
template <int N>
inline __m256i products(const __m256i *w, const int8_t *x) {
  __m256i sum = _mm256_maddubs_epi16(w[0], four(x));
  for (int j = 1; j < N; ++j)
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w[j], four(x + 4 * j)));
  return _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
}

inline __m256i add_signed(__m256i sum, __m256i size, __m256i x) {
  return _mm256_add_epi32(
      sum, _mm256_madd_epi16(_mm256_maddubs_epi16(size, x), _mm256_set1_epi16(1)));
}
#endif

template <typename Format, int M>
void Avx2::multiply(const Share &s, int64_t tile_number, int side, int64_t row) {
  const int64_t n_blocks = s.n_in / kBlock;
  const uint8_t *tile = s.packed + tile_number * n_blocks * Format::kBytes;
  const __m256i low = _mm256_set1_epi8(15);
  __m256 total[M];
  for (int m = 0; m < M; ++m) total[m] = _mm256_setzero_ps();
  for (int64_t b = 0; b < n_blocks; ++b) {
    prefetch<Format>(tile, b);
    __m256i w[8];
    for (int j = 0; j < 4; ++j) {
      const __m256i pair = load(tile + Format::codes(b) + 64 * j + 32 * side);
      w[j] = _mm256_and_si256(pair, low);
      w[j + 4] = _mm256_and_si256(_mm256_srli_epi16(pair, 4), low);
    }
    const __m256 scale = scales_of(Format{}, tile, b, side);
    const __m256 zero = zeros_of(Format{}, tile, b, side);
    for (int m = 0; m < M; ++m) {
      const int8_t *x = s.x.codes + (row + m) * s.n_in + b * kBlock;
      const __m256 dot = _mm256_cvtepi32_ps(products<8>(w, x));
      const int64_t at = (row + m) * n_blocks + b;
      total[m] =
          _mm256_fmadd_ps(dot, _mm256_mul_ps(scale, _mm256_set1_ps(s.x.scale[at])), total[m]);
      total[m] = _mm256_fmadd_ps(zero, _mm256_set1_ps(s.x.sum[at]), total[m]);
    }
  }
  for (int m = 0; m < M; ++m) store(s, row + m, tile_number * kTile + 8 * side, total[m]);
}

// Columns 16 * half to 16 * half + 15 of a block, their codes' centre taken off.
inline void unpack(U8, const uint8_t *tile, int64_t b, int half, int side, __m256i *w) {
  const __m256i centre = _mm256_set1_epi8(-128);
  for (int j = 0; j < 4; ++j)
    w[j] = _mm256_xor_si256(load(tile + U8::codes(b) + 64 * (4 * half + j) + 32 * side), centre);
}

inline void unpack(U6K, const uint8_t *tile, int64_t b, int half, int side, __m256i *w) {
  const __m256i low = _mm256_set1_epi8(15), high = _mm256_set1_epi8(0x30);
  const __m256i top = load(tile + U6K::tops(b, half) + 32 * side);
  const __m256i tops[4] = {_mm256_slli_epi16(top, 4), _mm256_slli_epi16(top, 2), top,
                           _mm256_srli_epi16(top, 2)};
  for (int j = 0; j < 4; ++j) {
    __m256i pair = load(tile + U6K::codes(b) + 64 * j + 32 * side);
    if (half) pair = _mm256_srli_epi16(pair, 4);
    w[j] = _mm256_or_si256(_mm256_and_si256(pair, low), _mm256_and_si256(tops[j], high));
    w[j] = _mm256_sub_epi8(w[j], _mm256_set1_epi8(U6K::kCentre));
  }
}

template <typename Format, int M>
void Avx2::multiply_centred(const Share &s, int64_t tile_number, int side, int64_t row) {
  const int64_t n_blocks = s.n_in / kBlock;
  const uint8_t *tile = s.packed + tile_number * n_blocks * Format::kBytes;
  __m256 total[M];
  for (int m = 0; m < M; ++m) total[m] = _mm256_setzero_ps();
  for (int64_t b = 0; b < n_blocks; ++b) {
    prefetch<Format>(tile, b);
    for (int half = 0; half < 2; ++half) {
      __m256i w[4], size[4];
      unpack(Format{}, tile, b, half, side, w);
      for (int j = 0; j < 4; ++j) size[j] = _mm256_abs_epi8(w[j]);
      const __m256 scale = scales_of(Format{}, tile, b, half, side);
      for (int m = 0; m < M; ++m) {
        const int8_t *x = s.x.codes + (row + m) * s.n_in + b * kBlock + 16 * half;
        __m256i sum = _mm256_setzero_si256();
        for (int j = 0; j < 4; ++j)
          sum = add_signed(sum, size[j], _mm256_sign_epi8(four(x + 4 * j), w[j]));
        const int64_t at = (row + m) * n_blocks + b;
        total[m] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum),
                                   _mm256_mul_ps(scale, _mm256_set1_ps(s.x.scale[at])), total[m]);
      }
    }
  }
  for (int m = 0; m < M; ++m) store(s, row + m, tile_number * kTile + 8 * side, total[m]);
}

}  // namespace

const Kernels &DS_KERNELS_256() {
  // Rounding activations is a small part of a product: the plain code serves.
  static const Kernels kernels{DS_MATMULS(Avx2), portable_kernels().quantise, DS_ROWS_OF_NUMBERS,
                               DS_ATTENTION, DS_COLD, DS_EXPERTS};
  return kernels;
}

}  // namespace ds
#endif
