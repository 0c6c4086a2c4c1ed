// What is done to a token's numbers between products.
#pragma once
#include "low_rank.h"
#include "vectors.h"

namespace ds {
namespace {

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

}  // namespace

#define DS_ROWS_OF_NUMBERS normalise, rotate, gate, add, to_half, DS_LOW_RANK

}  // namespace ds
