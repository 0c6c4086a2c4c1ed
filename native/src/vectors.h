// The compiler's own vectors of 16 numbers.
//
// The file is compiled once for each instruction set: the same operations in the same order give
// the same bits, only the registers differ in width.
#pragma once
#include <cmath>
#include <cstring>

#include "layout.h"

namespace ds {
namespace {

typedef float V __attribute__((vector_size(64)));
typedef int32_t VI __attribute__((vector_size(64)));
typedef uint16_t VH __attribute__((vector_size(32)));
typedef uint32_t VU __attribute__((vector_size(64)));

inline V load(const float *place) {
  V value;
  __builtin_memcpy(&value, place, sizeof value);
  return value;
}

inline void save(float *place, V value) { __builtin_memcpy(place, &value, sizeof value); }

inline V load(const uint16_t *place) {  // bfloat16
  VH half;
  __builtin_memcpy(&half, place, sizeof half);
  const VU wide = __builtin_convertvector(half, VU) << 16;
  V value;
  __builtin_memcpy(&value, &wide, sizeof value);
  return value;
}

// Numbers rounded to bfloat16, in the upper halves.
inline VU rounded(V value) {
  const VU bits = (VU)value;
  return bits + 0x7fffu + ((bits >> 16) & 1u);
}

inline void save(uint16_t *place, V value) {
  const VH half = __builtin_convertvector(rounded(value) >> 16, VH);
  __builtin_memcpy(place, &half, sizeof half);
}

inline float sum(V v) {
  float a[16];
  __builtin_memcpy(a, &v, sizeof a);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) a[i] += a[i + width];
  return a[0];
}

// exp to about one unit in the last place: 2^n times a polynomial of the rest (Cephes).
inline V exponential(V x) {
  const V low = {-87.f, -87.f, -87.f, -87.f, -87.f, -87.f, -87.f, -87.f,
                 -87.f, -87.f, -87.f, -87.f, -87.f, -87.f, -87.f, -87.f};
  x = x < low ? low : x;
  x = x > -low ? -low : x;
  const V shifted = x * 1.44269504088896341f + 12582912.0f;  // rounds to a whole number
  const V n = shifted - 12582912.0f;
  V r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const VI power = (__builtin_convertvector(n, VI) + 127) << 23;
  V scale;
  __builtin_memcpy(&scale, &power, sizeof scale);
  return p * scale;
}

}  // namespace
}  // namespace ds
