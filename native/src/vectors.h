// Element-wise work and attention of one token, in the compiler's own vectors of 16 numbers.
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

inline void save(uint16_t *place, V value) {
  VU bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  const VU rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const VH half = __builtin_convertvector(rounded, VH);
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

// y = x / rms(x) * weight; n is a multiple of 16.
void normalise(const float *x, const float *weight, int64_t n, float epsilon, float *y) {
  V total = {};
  for (int64_t i = 0; i < n; i += 16) total += load(x + i) * load(x + i);
  const float factor = 1.0f / std::sqrt(sum(total) / float(n) + epsilon);
  for (int64_t i = 0; i < n; i += 16) save(y + i, load(x + i) * factor * load(weight + i));
}

// Rotate the two halves of a head of width d (a multiple of 32) by its position's angles.
void rotate(float *head, const float *cosines, const float *sines, int64_t d) {
  const int64_t half = d / 2;
  for (int64_t i = 0; i < half; i += 16) {
    const V a = load(head + i), b = load(head + half + i);
    const V c = load(cosines + i), s = load(sines + i);
    save(head + i, a * c - b * s);
    save(head + half + i, b * c + a * s);
  }
}

// gate = gate / (1 + exp(-gate)) * up
void gate(float *gates, const float *ups, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) {
    const V g = load(gates + i);
    save(gates + i, g / (1.0f + exponential(-g)) * load(ups + i));
  }
}

void add(float *x, const float *y, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) save(x + i, load(x + i) + load(y + i));
}

void to_half(const float *x, int64_t n, uint16_t *y) {
  for (int64_t i = 0; i < n; i += 16) save(y + i, load(x + i));
}

constexpr int64_t kKeys = 256;  // keys at a time: their scores stay in the nearest cache

// Attention of one query to n keys, online softmax over blocks of keys.
// q [d] is scaled already; keys and values are rows of d bfloat16 numbers; d is at most 256.
void attend(const float *q, const uint16_t *keys, const uint16_t *values, int64_t n, int64_t d,
            float *out) {
  float scores[kKeys];
  V mixed[16] = {};
  const int64_t n_parts = d / 16;
  float largest = -INFINITY, total = 0.0f;
  for (int64_t first = 0; first < n; first += kKeys) {
    const int64_t last = first + kKeys < n ? first + kKeys : n, count = last - first;
    float block_largest = -INFINITY;
    for (int64_t i = 0; i < count; ++i) {
      const uint16_t *key = keys + (first + i) * d;
      V dot = {};
      for (int64_t j = 0; j < n_parts; ++j) dot += load(q + 16 * j) * load(key + 16 * j);
      scores[i] = sum(dot);
      block_largest = scores[i] > block_largest ? scores[i] : block_largest;
    }
    const float now = block_largest > largest ? block_largest : largest;
    const float fade = largest == -INFINITY ? 0.0f : std::exp(largest - now);
    largest = now;
    total *= fade;
    for (int64_t j = 0; j < n_parts; ++j) mixed[j] *= fade;
    const int64_t padded = (count + 15) / 16 * 16;
    for (int64_t i = count; i < padded; ++i) scores[i] = -INFINITY;
    V block_total = {};
    for (int64_t i = 0; i < padded; i += 16) {
      const V raw = load(scores + i);
      const V weight = exponential(raw - now);
      const V zero = {};
      const V kept = raw == -INFINITY ? zero : weight;
      save(scores + i, kept);
      block_total += kept;
    }
    total += sum(block_total);
    for (int64_t i = 0; i < count; ++i) {
      const uint16_t *value = values + (first + i) * d;
      const float weight = scores[i];
      for (int64_t j = 0; j < n_parts; ++j) mixed[j] += load(value + 16 * j) * weight;
    }
  }
  for (int64_t j = 0; j < n_parts; ++j) save(out + 16 * j, mixed[j] / total);
}

}  // namespace

#define DS_VECTORS normalise, rotate, gate, add, to_half, attend

}  // namespace ds
