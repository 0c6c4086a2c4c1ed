// Pages of keys and values in 8- or 4-bit codes, for positions behind the window.
//
// Codes stand in the order of the page that they were made from (attention.h). There, rows of two
// channels follow each other, one number of each in turn: of keys, two numbers of all 64 positions;
// of values, the numbers of two positions in one slice. Each channel has a least number and a step:
//
//   number = least + step * code
//   codes of a page  [rows][n]; of 4 bits, 64 in 32 bytes: the first 32 of them in the low halves
//   ranges behind    [rows][4]: least of both channels, step of both, bfloat16
//
// Keys are alike from position to position (a bias of theirs is the same in all), values are not.
// The least number is one of the page's own and so exact; codes are chosen for the step as rounded.
#pragma once
#include "attention.h"
#include "checksum.h"

namespace ds {
namespace {

typedef uint8_t VB __attribute__((vector_size(16)));

constexpr int64_t kPacked = 64;  // codes that are packed together, at least

// Two bfloat16 numbers in turn.
inline V in_turn(const uint16_t *pair) {
  const VU first = {~0u, 0, ~0u, 0, ~0u, 0, ~0u, 0, ~0u, 0, ~0u, 0, ~0u, 0, ~0u, 0};
  const VU both = VU{} | pair_at(pair, 0);
  return (V)(((both << 16) & first) | (both & 0xffff0000u & ~first));
}

inline uint16_t rounded_up(float positive) {
  uint32_t bits;
  __builtin_memcpy(&bits, &positive, sizeof bits);
  return uint16_t((bits + 0xffffu) >> 16);
}

// Least number and step of a row's two channels.
inline void put_ranges(const uint16_t *row, int64_t n, float most, uint16_t *range) {
  V low = load(row), high = low;
  for (int64_t i = 16; i < n; i += 16) {
    const V now = load(row + i);
    low = now < low ? now : low;
    high = now > high ? now : high;
  }
  for (int channel = 0; channel < 2; ++channel) {
    float least = low[channel], largest = high[channel];
    for (int i = channel + 2; i < 16; i += 2) {
      least = low[i] < least ? low[i] : least;
      largest = high[i] > largest ? high[i] : largest;
    }
    range[channel] = float_to_bf16(least);
    range[2 + channel] = rounded_up((largest - least) / most);
  }
}

// Codes of 16 numbers. What is no number, as zero by a step of zero, becomes code 0.
inline VI codes_of(const uint16_t *numbers, V least, V step, float most) {
  const V zero = {}, last = V{} + most;
  V code = (load(numbers) - least) / step;
  code = code > zero ? code : zero;
  code = code < last ? code : last;
  return __builtin_convertvector(code + 12582912.0f - 12582912.0f, VI);
}

inline void save_codes(uint8_t *place, VI value) {
  const VB bytes = __builtin_convertvector(value, VB);
  __builtin_memcpy(place, &bytes, sizeof bytes);
}

inline VI load_codes(const uint8_t *place) {
  VB bytes;
  __builtin_memcpy(&bytes, place, sizeof bytes);
  return __builtin_convertvector(__builtin_convertvector(bytes, VH), VI);
}

template <int kBits>
void seal_rows(const uint16_t *page, int64_t n_rows, int64_t n, uint8_t *codes, uint16_t *ranges) {
  constexpr float kMost = float((1 << kBits) - 1);
  for (int64_t r = 0; r < n_rows; ++r, page += n, codes += n * kBits / 8, ranges += 4) {
    put_ranges(page, n, kMost, ranges);
    const V least = in_turn(ranges), step = in_turn(ranges + 2);
    for (int64_t i = 0; i < n; i += 16) {
      if constexpr (kBits == 8) {
        save_codes(codes + i, codes_of(page + i, least, step, kMost));
      } else if (i % kPacked < kPacked / 2) {
        save_codes(codes + i / kPacked * (kPacked / 2) + i % kPacked,
                   codes_of(page + i, least, step, kMost) |
                       codes_of(page + i + kPacked / 2, least, step, kMost) << 4);
      }
    }
  }
}

#if defined(__AVX512BW__)
// The 16 numbers that each of two channels can be, in turn: a code is a place in this table.
inline __m512i numbers_of(V least, V step) {
  const V low = {0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7};
  uint16_t numbers[32];
  save_rounded(numbers, least + low * step);
  save_rounded(numbers + 16, least + (low + 8.0f) * step);
  return _mm512_loadu_si512(numbers);
}

inline void expand_row(const uint8_t *codes, int64_t n, V least, V step, uint16_t *row) {
  const __m512i numbers = numbers_of(least, step);
  const __m512i second = _mm512_set1_epi32(0x00010000);  // every other one is the second channel's
  const __m512i code = _mm512_set1_epi16(30);            // where a code stands, above that bit
  for (int64_t i = 0; i < n; i += kPacked) {
    __m256i bytes;
    __builtin_memcpy(&bytes, codes + i / 2, sizeof bytes);
    const __m512i wide = _mm512_cvtepu8_epi16(bytes);
    const __m512i low = _mm512_or_si512(
        _mm512_and_si512(_mm512_slli_epi16(wide, 1), code), second);
    const __m512i high = _mm512_or_si512(
        _mm512_and_si512(_mm512_srli_epi16(wide, 3), code), second);
    _mm512_storeu_si512(row + i, _mm512_permutexvar_epi16(low, numbers));
    _mm512_storeu_si512(row + i + 32, _mm512_permutexvar_epi16(high, numbers));
  }
}
#else
inline void expand_row(const uint8_t *codes, int64_t n, V least, V step, uint16_t *row) {
  for (int64_t i = 0; i < n; i += kPacked)
    for (int64_t j = 0; j < kPacked / 2; j += 16) {
      const VI both = load_codes(codes + i / 2 + j);
      save_rounded(row + i + j, least + __builtin_convertvector(both & 15, V) * step);
      save_rounded(row + i + j + kPacked / 2, least + __builtin_convertvector(both >> 4, V) * step);
    }
}
#endif

#if defined(__AVX512BF16__)
inline void expand_bytes(const uint8_t *codes, int64_t n, V least, V step, uint16_t *row) {
  const auto number = [&](int64_t i) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(codes + i));
    const __m512 code = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
    return (__m512)(least + (V)code * step);
  };
  for (int64_t i = 0; i < n; i += 32)
    _mm512_storeu_si512(row + i, (__m512i)_mm512_cvtne2ps_pbh(number(i + 16), number(i)));
}
#else
inline void expand_bytes(const uint8_t *codes, int64_t n, V least, V step, uint16_t *row) {
  for (int64_t i = 0; i < n; i += 16)
    save_rounded(row + i, least + __builtin_convertvector(load_codes(codes + i), V) * step);
}
#endif

template <int kBits>
void expand_rows(const uint8_t *codes, const uint16_t *ranges, int64_t n_rows, int64_t n,
                 uint16_t *page) {
  for (int64_t r = 0; r < n_rows; ++r, page += n, codes += n * kBits / 8, ranges += 4) {
    const V least = in_turn(ranges), step = in_turn(ranges + 2);
    if constexpr (kBits == 4) {
      expand_row(codes, n, least, step, page);
    } else {
      expand_bytes(codes, n, least, step, page);
    }
  }
}

// Rows that lie behind each other in a page and in its cold form, with the numbers of each.
struct Rows {
  int64_t page, codes, ranges;  // where they begin
  int64_t n_rows, n;
};

inline Rows key_rows(int64_t d, int bits) {
  return {0, 0, kPage * d * bits / 8, d / 2, 2 * kPage};
}

inline Rows value_rows(int64_t d, int bits, int64_t start) {
  const int64_t width = d - start < kSlice ? d - start : kSlice;
  return {start * kPage, start * kPage * bits / 8,
          kPage * d * bits / 8 + start / kSlice * kRangeBytes, kPage / 2, 2 * width};
}

inline void seal_part(const Rows &rows, int bits, const uint16_t *page, uint8_t *cold) {
  const auto seal_them = bits == 8 ? seal_rows<8> : seal_rows<4>;
  seal_them(page + rows.page, rows.n_rows, rows.n, cold + rows.codes,
            reinterpret_cast<uint16_t *>(cold + rows.ranges));
}

inline void expand_part(const Rows &rows, int bits, const uint8_t *cold, uint16_t *page) {
  const auto expand_them = bits == 8 ? expand_rows<8> : expand_rows<4>;
  expand_them(cold + rows.codes, reinterpret_cast<const uint16_t *>(cold + rows.ranges),
              rows.n_rows, rows.n, page + rows.page);
}

// Make cold pages of one head's keys and values.
[[maybe_unused]] void seal(const uint16_t *keys, const uint16_t *values, int64_t d, int bits,
                           uint8_t *cold_keys, uint8_t *cold_values) {
  seal_part(key_rows(d, bits), bits, keys, cold_keys);
  for (int64_t start = 0; start < d; start += kSlice)
    seal_part(value_rows(d, bits, start), bits, values, cold_values);
}

// What cold pages stand for; without values, if there are none.
[[maybe_unused]] void expand(const uint8_t *cold_keys, const uint8_t *cold_values, int64_t d,
                             int bits, uint16_t *keys, uint16_t *values) {
  expand_part(key_rows(d, bits), bits, cold_keys, keys);
  if (!cold_values) return;
  for (int64_t start = 0; start < d; start += kSlice)
    expand_part(value_rows(d, bits, start), bits, cold_values, values);
}

}  // namespace
}  // namespace ds
