// The kernels in plain C++: the reference for all others, and what unknown processors run.
#include <cmath>

#include "cold_scores.h"
#include "experts.h"
#include "memory_nodes.h"
#include "layout.h"
#include "rows.h"

namespace ds {
namespace {

void store(const Share &s, int64_t row, int64_t n, float value) {
  value += s.bias ? s.bias[n] : 0.0f;
  if (s.y_half)
    s.y_half[row * s.y_stride + n] = float_to_bf16(value);
  else
    s.y[row * s.y_stride + n] = value;
}

// One row of weights against one of activations: what blocks add up to.
template <typename Format>
void add_block(Format f, const uint8_t *tile, int64_t b, int64_t lane, const Share &s, int64_t row,
               float *total) {
  const int64_t at = row * (s.n_in / kBlock) + b;
  const int8_t *x = s.x.codes + row * s.n_in + b * kBlock;
  int32_t dot = 0;
  for (int i = 0; i < kBlock; ++i) dot += code_of(f, tile, b, lane, i) * x[i];
  *total = std::fma(float(dot), scale_of(f, tile, b, lane) * s.x.scale[at], *total);
  *total = std::fma(zero_of(f, tile, b, lane), s.x.sum[at], *total);
}

template <typename Format>
void add_centred_block(Format f, const uint8_t *tile, int64_t b, int64_t lane, const Share &s,
                       int64_t row, float *total) {
  const float step = s.x.scale[row * (s.n_in / kBlock) + b];
  const int8_t *x = s.x.codes + row * s.n_in + b * kBlock;
  for (int half = 0; half < 2; ++half) {
    int32_t dot = 0;
    for (int i = 16 * half; i < 16 * half + 16; ++i) dot += code_of(f, tile, b, lane, i) * x[i];
    *total = std::fma(float(dot), scale_of(f, tile, b, half, lane) * step, *total);
  }
}

template <typename Format>
void matmul(const Share &s, int64_t first, int64_t last) {
  const int64_t n_blocks = s.n_in / kBlock;
  for (int64_t n = first * kTile; n < last * kTile && n < s.n_out; ++n) {
    const uint8_t *tile = s.packed + n / kTile * n_blocks * Format::kBytes;
    for (int64_t row = 0; row < s.n_rows; ++row) {
      float total = 0.0f;
      for (int64_t b = 0; b < n_blocks; ++b) {
        if constexpr (Format::kCentre == 0)
          add_block(Format{}, tile, b, n % kTile, s, row, &total);
        else
          add_centred_block(Format{}, tile, b, n % kTile, s, row, &total);
      }
      store(s, row, n, total * s.factors[n]);
    }
  }
}

void quantise(const void *x, bool is_bf16, int64_t n_in, int64_t first, int64_t last,
              const Activations &to) {
  const int64_t n_blocks = n_in / kBlock;
  for (int64_t row = first; row < last; ++row)
    for (int64_t b = 0; b < n_blocks; ++b) {
      float values[kBlock], largest = 0.0f;
      for (int64_t i = 0; i < kBlock; ++i) {
        const int64_t at = row * n_in + b * kBlock + i;
        values[i] = is_bf16 ? bf16_to_float(static_cast<const uint16_t *>(x)[at])
                            : static_cast<const float *>(x)[at];
        const float size = std::fabs(values[i]);
        largest = size > largest ? size : largest;
      }
      const float step = largest / 127.0f, inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
      to.scale[row * n_blocks + b] = step;
      int32_t whole = 0;
      for (int half = 0; half < 2; ++half) {
        int32_t total = 0;
        for (int64_t i = 16 * half; i < 16 * half + 16; ++i) {
          const int32_t code = int32_t(std::nearbyint(values[i] * inverse));
          to.codes[row * n_in + b * kBlock + i] = int8_t(code);
          total += code;
        }
        to.offset[(row * n_blocks + b) * 2 + half] = -128 * total;
        whole += total;
      }
      to.sum[row * n_blocks + b] = step * float(whole);
    }
}

}  // namespace

const Kernels &portable_kernels() {
  static const Kernels kernels{
      {matmul<U4>, matmul<U8>, matmul<U6K>, matmul<U4K>},
      quantise, DS_ROWS_OF_NUMBERS, DS_ATTENTION, DS_COLD, DS_EXPERTS};
  return kernels;
}

}  // namespace ds
