// Scores of a cold page's keys, without expanding them.
//
// A key is least + step * code in each channel, so that a query's product with it is
//
//   query . least  +  (query * step) . code
//
// The first is the same for all positions, and codes are whole numbers below 256: exact in bfloat16.
// Rounded are the query times step, instead of the key.
#pragma once
#include "cold.h"

namespace ds {
namespace {

typedef uint8_t VB32 __attribute__((vector_size(32)));
typedef uint16_t VH32 __attribute__((vector_size(64)));

constexpr uint32_t kSecond = 0xffff0000u;  // of a pair

// Least numbers and steps of a page's channels, as pairs.
struct KeyRanges {
  uint32_t least[kMaxHead / 2], step[kMaxHead / 2];
};

inline void take_ranges(const uint8_t *ranges, int64_t d, KeyRanges &to) {
  for (int64_t j = 0; j < d / 2; ++j) {
    __builtin_memcpy(to.least + j, ranges + 8 * j, 4);
    __builtin_memcpy(to.step + j, ranges + 8 * j + 4, 4);
  }
}

inline VU load_pairs(const uint32_t *place) {
  VU value;
  __builtin_memcpy(&value, place, sizeof value);
  return value;
}

// A query's pairs times those of steps; and its product with the least numbers.
inline float take_steps(const uint16_t *query, int64_t d, const KeyRanges &ranges, uint16_t *to) {
  V product = {};
  for (int64_t j = 0; j < d / 2; j += 16) {
    const VU pairs = load_pairs(query + 2 * j), step = load_pairs(ranges.step + j);
    product = add_products(product, pairs, load_pairs(ranges.least + j));
    const V first = (V)(pairs << 16) * (V)(step << 16);
    const V second = (V)(pairs & kSecond) * (V)(step & kSecond);
    const VU both = (rounded(first) >> 16) | (rounded(second) & kSecond);
    __builtin_memcpy(to + 2 * j, &both, sizeof both);
  }
  return sum(product);
}

// 32 bytes as pairs of 16-bit numbers.
inline VU wide_pairs(const uint8_t *place) {
  VB32 bytes;
  __builtin_memcpy(&bytes, place, sizeof bytes);
  return (VU)__builtin_convertvector(bytes, VH32);
}

// Pairs of whole numbers below 256, in bfloat16.
inline VU in_bfloat16(VU pairs) {
  const V first = __builtin_convertvector((VI)(pairs & 0xffffu), V);
  const V second = __builtin_convertvector((VI)(pairs >> 16), V);
  return ((VU)first >> 16) | (VU)second;
}

#if defined(__AVX512BW__)
// Four bits in bfloat16, whatever is in the bits above them.
inline VU small_in_bfloat16(VU pairs) {
  static const uint16_t numbers[32] = {
      0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0, 0x4100, 0x4110, 0x4120,
      0x4130, 0x4140, 0x4150, 0x4160, 0x4170, 0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0,
      0x40c0, 0x40e0, 0x4100, 0x4110, 0x4120, 0x4130, 0x4140, 0x4150, 0x4160, 0x4170};
  return (VU)_mm512_permutexvar_epi16((__m512i)pairs, _mm512_loadu_si512(numbers));
}
#else
inline VU small_in_bfloat16(VU pairs) { return in_bfloat16(pairs & 0x000f000fu); }
#endif

// One row of codes, those of two channels: of all positions.
template <int kBits>
inline void take_codes(const uint8_t *row, VU (&pairs)[4]) {
  if constexpr (kBits == 8) {
    for (int v = 0; v < 4; ++v) pairs[v] = in_bfloat16(wide_pairs(row + 32 * v));
  } else {
    for (int half = 0; half < 2; ++half) {
      const VU both = wide_pairs(row + 32 * half);
      pairs[2 * half] = small_in_bfloat16(both);
      pairs[2 * half + 1] = small_in_bfloat16(both >> 4);
    }
  }
}

template <int kBits, int M>
void compare_some(const uint16_t *queries, int64_t d, const KeyRanges &ranges,
                  const uint8_t *codes, const uint8_t *next, float *scores, int64_t stride) {
  constexpr int64_t kRow = 2 * kPage * kBits / 8;
  uint16_t steps[M][kMaxHead];
  V total[M][4];
  for (int m = 0; m < M; ++m) {
    const float base = take_steps(queries + m * d, d, ranges, steps[m]);
    for (int v = 0; v < 4; ++v) total[m][v] = V{} + base;
  }
  for (int64_t j = 0; j < d / 2; ++j, codes += kRow) {
    VU right[4];
    take_codes<kBits>(codes, right);
    if (next)
      for (int64_t i = 0; i < kRow; i += 64) __builtin_prefetch(next + j * kRow + i, 0, 2);
    for (int m = 0; m < M; ++m) {
      const VU left = VU{} | pair_at(steps[m], j);
      for (int v = 0; v < 4; ++v) total[m][v] = add_products(total[m][v], left, right[v]);
    }
  }
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < 4; ++v) save(scores + m * stride + 16 * v, total[m][v]);
}

template <int kBits>
void compare_rows(const uint16_t *queries, int64_t n_rows, int64_t d, const uint8_t *keys,
                  const uint8_t *next, float *scores, int64_t stride) {
  static_assert(kPage == 64, "a row of codes is four vectors of pairs");
  KeyRanges ranges;
  take_ranges(keys + kPage * d * kBits / 8, d, ranges);
  int64_t m = 0;
  for (; m + kTogether <= n_rows; m += kTogether, next = nullptr)
    compare_some<kBits, kTogether>(queries + m * d, d, ranges, keys, next, scores + m * stride,
                                   stride);
  for (; kTogether > 3 && m + 3 <= n_rows; m += 3, next = nullptr)
    compare_some<kBits, 3>(queries + m * d, d, ranges, keys, next, scores + m * stride, stride);
  for (; m < n_rows; ++m, next = nullptr)
    compare_some<kBits, 1>(queries + m * d, d, ranges, keys, next, scores + m * stride, stride);
}

// As `compare` (memory_nodes.h) does it with exact keys.
[[maybe_unused]] void compare_codes(const uint16_t *queries, int64_t n_rows, int64_t d, int bits,
                                    const uint8_t *keys, const uint8_t *next, float *scores,
                                    int64_t stride) {
  const auto compare_them = bits == 8 ? compare_rows<8> : compare_rows<4>;
  compare_them(queries, n_rows, d, keys, next, scores, stride);
}

}  // namespace
}  // namespace ds

#define DS_COLD seal, expand, compare_codes, checksum
