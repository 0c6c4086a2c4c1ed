// AVX-512 with byte dot products (VNNI): 16 rows of weights an instruction.
#if defined(__x86_64__)
#include <immintrin.h>

#include "cold_scores.h"
#include "experts.h"
#include "memory_nodes.h"
#include "rows.h"
#include "tiles.h"

namespace ds {
namespace {

struct Avx512 {
  static constexpr int kRows = 12, kParts = 1;
  template <typename Format, int M>
  static void multiply(const Share &s, int64_t tile_number, int part, int64_t row);
  template <typename Format, int M>
  static void multiply_centred(const Share &s, int64_t tile_number, int part, int64_t row);
};

inline __m512 load_half(const uint8_t *place) {
  return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i *>(place)));
}

inline __m512i four(const int8_t *x) { return _mm512_set1_epi32(*reinterpret_cast<const int32_t *>(x)); }

inline __m128i load_bytes(const uint8_t *place) {
  return _mm_load_si128(reinterpret_cast<const __m128i *>(place));
}

// What a tile's rows share over kUnit blocks, converted once for them.
template <typename Format>
struct Units {
  Units(const uint8_t *, int64_t) {}
};

template <>
struct Units<U4K> {
  Units(const uint8_t *tile, int64_t b)
      : scale(load_half(tile + U4K::units(b))), zero(load_half(tile + U4K::zero_units(b))) {}
  __m512 scale, zero;
};

template <>
struct Units<U6K> {
  Units(const uint8_t *tile, int64_t b) : scale(load_half(tile + U6K::units(b))) {}
  __m512 scale;
};

inline __m512 scales_of(const Units<U4> &, const uint8_t *tile, int64_t b) {
  return load_half(tile + U4::scales(b));
}

inline __m512 zeros_of(const Units<U4> &, const uint8_t *tile, int64_t b) {
  return load_half(tile + U4::zeros(b));
}

inline __m512 scales_of(const Units<U4K> &units, const uint8_t *tile, int64_t b) {
  const __m512i whole = _mm512_cvtepu8_epi32(load_bytes(tile + U4K::scales(b)));
  return _mm512_mul_ps(units.scale, _mm512_cvtepi32_ps(whole));
}

inline __m512 zeros_of(const Units<U4K> &units, const uint8_t *tile, int64_t b) {
  const __m512i whole = _mm512_cvtepu8_epi32(load_bytes(tile + U4K::zeros(b)));
  return _mm512_mul_ps(units.zero, _mm512_cvtepi32_ps(whole));
}

inline __m512 scales_of(const Units<U8> &, const uint8_t *tile, int64_t b, int half) {
  return load_half(tile + U8::scales(b, half));
}

inline __m512 scales_of(const Units<U6K> &units, const uint8_t *tile, int64_t b, int half) {
  const __m512i whole = _mm512_cvtepi8_epi32(load_bytes(tile + U6K::scales(b, half)));
  return _mm512_mul_ps(units.scale, _mm512_cvtepi32_ps(whole));
}

void store(const Share &s, int64_t row, int64_t tile, __m512 total) {
  const int64_t n = tile * kTile;
  const int64_t left = s.n_out - n;
  const __mmask16 mask = left >= kTile ? 0xffff : __mmask16((1 << left) - 1);
  total = _mm512_mul_ps(total, _mm512_loadu_ps(s.factors + n));
  if (s.bias) total = _mm512_add_ps(total, _mm512_maskz_loadu_ps(mask, s.bias + n));
  if (s.y_half) {
    // Round to nearest even as everywhere; the instruction for it would flush subnormals.
    const __m512i bits = _mm512_castps_si512(total);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(total, total, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(64 << 16));
    _mm256_mask_storeu_epi16(s.y_half + row * s.y_stride + n, mask,
                             _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
  } else {
    _mm512_mask_storeu_ps(s.y + row * s.y_stride + n, mask, total);
  }
}

template <typename Format, int M>
void Avx512::multiply(const Share &s, int64_t tile_number, int, int64_t row) {
  const int64_t n_blocks = s.n_in / kBlock;
  const uint8_t *tile = s.packed + tile_number * n_blocks * Format::kBytes;
  const __m512i low = _mm512_set1_epi8(15);
  __m512 total[M];
  for (int m = 0; m < M; ++m) total[m] = _mm512_setzero_ps();
  const int8_t *x = s.x.codes + row * s.n_in;
  const float *scales = s.x.scale + row * n_blocks;
  const float *sums = s.x.sum + row * n_blocks;
  for (int64_t first = 0; first < n_blocks; first += Format::kUnit) {
    const Units<Format> units(tile, first);
    for (int64_t b = first; b < first + Format::kUnit; ++b) {
      prefetch<Format>(tile, b);
      __m512i w[8];
      for (int j = 0; j < 4; ++j) {
        const __m512i pair = _mm512_load_si512(tile + Format::codes(b) + 64 * j);
        w[j] = _mm512_and_si512(pair, low);
        w[j + 4] = _mm512_and_si512(_mm512_srli_epi16(pair, 4), low);
      }
      const __m512 scale = scales_of(units, tile, b), zero = zeros_of(units, tile, b);
      for (int m = 0; m < M; ++m) {
        const int8_t *xm = x + m * s.n_in + b * kBlock;
        __m512i even = _mm512_setzero_si512(), odd = even;
        for (int j = 0; j < 8; j += 2) {
          even = _mm512_dpbusd_epi32(even, w[j], four(xm + 4 * j));
          odd = _mm512_dpbusd_epi32(odd, w[j + 1], four(xm + 4 * j + 4));
        }
        const __m512 dot = _mm512_cvtepi32_ps(_mm512_add_epi32(even, odd));
        total[m] = _mm512_fmadd_ps(
            dot, _mm512_mul_ps(scale, _mm512_set1_ps(scales[m * n_blocks + b])), total[m]);
        total[m] = _mm512_fmadd_ps(zero, _mm512_set1_ps(sums[m * n_blocks + b]), total[m]);
      }
    }
  }
  for (int m = 0; m < M; ++m) store(s, row + m, tile_number, total[m]);
}

// Columns 16 * half to 16 * half + 15 of a block.
inline void unpack(U8, const uint8_t *tile, int64_t b, int half, __m512i *w) {
  for (int j = 0; j < 4; ++j) w[j] = _mm512_load_si512(tile + U8::codes(b) + 64 * (4 * half + j));
}

inline void unpack(U6K, const uint8_t *tile, int64_t b, int half, __m512i *w) {
  const __m512i low = _mm512_set1_epi8(15), high = _mm512_set1_epi8(0x30);
  const __m512i top = _mm512_load_si512(tile + U6K::tops(b, half));
  const __m512i tops[4] = {_mm512_slli_epi16(top, 4), _mm512_slli_epi16(top, 2), top,
                           _mm512_srli_epi16(top, 2)};
  for (int j = 0; j < 4; ++j) {
    __m512i pair = _mm512_load_si512(tile + U6K::codes(b) + 64 * j);
    if (half) pair = _mm512_srli_epi16(pair, 4);
    w[j] = _mm512_or_si512(_mm512_and_si512(pair, low), _mm512_and_si512(tops[j], high));
  }
}

template <typename Format, int M>
void Avx512::multiply_centred(const Share &s, int64_t tile_number, int, int64_t row) {
  constexpr int kShift = Format::kCentre == 128 ? 0 : 2;  // offsets are for a centre of 128
  const int64_t n_blocks = s.n_in / kBlock;
  const uint8_t *tile = s.packed + tile_number * n_blocks * Format::kBytes;
  __m512 total[M];
  for (int m = 0; m < M; ++m) total[m] = _mm512_setzero_ps();
  const int8_t *x = s.x.codes + row * s.n_in;
  const float *scales = s.x.scale + row * n_blocks;
  const int32_t *offsets = s.x.offset + row * n_blocks * 2;
  for (int64_t first = 0; first < n_blocks; first += Format::kUnit) {
    const Units<Format> units(tile, first);
    for (int64_t b = first; b < first + Format::kUnit; ++b) {
      prefetch<Format>(tile, b);
      for (int half = 0; half < 2; ++half) {
        __m512i w[4];
        unpack(Format{}, tile, b, half, w);
        const __m512 scale = scales_of(units, tile, b, half);
        for (int m = 0; m < M; ++m) {
          const int8_t *xm = x + m * s.n_in + b * kBlock + 16 * half;
          __m512i even = _mm512_set1_epi32(offsets[(m * n_blocks + b) * 2 + half] >> kShift);
          __m512i odd = _mm512_setzero_si512();
          even = _mm512_dpbusd_epi32(even, w[0], four(xm));
          odd = _mm512_dpbusd_epi32(odd, w[1], four(xm + 4));
          even = _mm512_dpbusd_epi32(even, w[2], four(xm + 8));
          odd = _mm512_dpbusd_epi32(odd, w[3], four(xm + 12));
          const __m512 dot = _mm512_cvtepi32_ps(_mm512_add_epi32(even, odd));
          total[m] = _mm512_fmadd_ps(
              dot, _mm512_mul_ps(scale, _mm512_set1_ps(scales[m * n_blocks + b])), total[m]);
        }
      }
    }
  }
  for (int m = 0; m < M; ++m) store(s, row + m, tile_number, total[m]);
}

void quantise(const void *x, bool is_bf16, int64_t n_in, int64_t first, int64_t last,
              const Activations &to) {
  const int64_t n_blocks = n_in / kBlock;
  for (int64_t row = first; row < last; ++row)
    for (int64_t b = 0; b < n_blocks; ++b) {
      __m512 part[2];
      for (int half = 0; half < 2; ++half) {
        const int64_t at = row * n_in + b * kBlock + 16 * half;
        if (is_bf16) {
          const __m256i raw = _mm256_loadu_si256(
              reinterpret_cast<const __m256i *>(static_cast<const uint16_t *>(x) + at));
          part[half] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
        } else {
          part[half] = _mm512_loadu_ps(static_cast<const float *>(x) + at);
        }
      }
      const float largest = _mm512_reduce_max_ps(
          _mm512_max_ps(_mm512_abs_ps(part[0]), _mm512_abs_ps(part[1])));
      const float step = largest / 127.0f, inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
      to.scale[row * n_blocks + b] = step;
      int32_t total = 0;
      for (int half = 0; half < 2; ++half) {
        const __m512i rounded =
            _mm512_cvtps_epi32(_mm512_mul_ps(part[half], _mm512_set1_ps(inverse)));
        _mm_storeu_si128(
            reinterpret_cast<__m128i *>(to.codes + row * n_in + b * kBlock + 16 * half),
            _mm512_cvtepi32_epi8(rounded));
        const int32_t part_total = _mm512_reduce_add_epi32(rounded);
        to.offset[(row * n_blocks + b) * 2 + half] = -128 * part_total;
        total += part_total;
      }
      to.sum[row * n_blocks + b] = step * float(total);
    }
}

}  // namespace

const Kernels &avx512_kernels() {
  static const Kernels kernels{DS_MATMULS(Avx512), quantise, DS_ROWS_OF_NUMBERS, DS_ATTENTION,
                               DS_COLD, DS_EXPERTS};
  return kernels;
}

}  // namespace ds
#endif
