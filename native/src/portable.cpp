// The kernels in plain C++: the reference for all others, and what unknown processors run.
#include <cmath>

#include "attention.h"
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

inline uint16_t half_at(const uint8_t *place) { return uint16_t(place[0] | place[1] << 8); }

void matmul_u4(const Share &s, int64_t first, int64_t last) {
  const int64_t n_blocks = s.n_in / kBlock;
  for (int64_t tile = first; tile < last; ++tile) {
    const uint8_t *base = s.packed + tile * n_blocks * U4::kBytes;
    for (int64_t row = 0; row < s.n_rows; ++row)
      for (int64_t lane = 0; lane < kTile && tile * kTile + lane < s.n_out; ++lane) {
        float total = 0.0f;
        for (int64_t b = 0; b < n_blocks; ++b) {
          const uint8_t *block = base + b * U4::kBytes;
          const int8_t *x = s.x.codes + row * s.n_in + b * kBlock;
          int32_t dot = 0;
          for (int j = 0; j < 4; ++j)
            for (int i = 0; i < 4; ++i) {
              const uint8_t pair = block[j * 64 + lane * 4 + i];
              dot += (pair & 15) * x[4 * j + i] + (pair >> 4) * x[16 + 4 * j + i];
            }
          const float scale = half_to_float(half_at(block + U4::kScales + 2 * lane));
          const float zero = half_to_float(half_at(block + U4::kScales + 32 + 2 * lane));
          total = std::fma(float(dot), scale * s.x.scale[row * n_blocks + b], total);
          total = std::fma(zero, s.x.sum[row * n_blocks + b], total);
        }
        const int64_t n = tile * kTile + lane;
        store(s, row, n, total * s.factors[n]);
      }
  }
}

// Column i of a block, its code's centre taken off.
inline int code_at(U8, const uint8_t *block, int64_t lane, int i) {
  return block[64 * (i / 4) + 4 * lane + i % 4] - U8::kCentre;
}

inline int code_at(U6, const uint8_t *block, int64_t lane, int i) {
  const int pair = block[64 * (i % 16 / 4) + 4 * lane + i % 4];
  const int tops = block[U6::kTops + 64 * (i / 16) + 4 * lane + i % 4];
  return ((i < 16 ? pair & 15 : pair >> 4) | (tops >> 2 * (i % 16 / 4) & 3) << 4) - U6::kCentre;
}

template <typename Format>
void matmul_centred(const Share &s, int64_t first, int64_t last) {
  const int64_t n_blocks = s.n_in / kBlock;
  for (int64_t tile = first; tile < last; ++tile) {
    const uint8_t *base = s.packed + tile * n_blocks * Format::kBytes;
    for (int64_t row = 0; row < s.n_rows; ++row)
      for (int64_t lane = 0; lane < kTile && tile * kTile + lane < s.n_out; ++lane) {
        float total = 0.0f;
        for (int64_t b = 0; b < n_blocks; ++b) {
          const uint8_t *block = base + b * Format::kBytes;
          const int8_t *x = s.x.codes + row * s.n_in + b * kBlock;
          for (int half = 0; half < 2; ++half) {
            int32_t dot = 0;
            for (int i = 16 * half; i < 16 * half + 16; ++i)
              dot += code_at(Format{}, block, lane, i) * x[i];
            const float scale =
                half_to_float(half_at(block + Format::kScales + 32 * half + 2 * lane));
            total = std::fma(float(dot), scale * s.x.scale[row * n_blocks + b], total);
          }
        }
        const int64_t n = tile * kTile + lane;
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
      {matmul_u4, matmul_centred<U8>, matmul_centred<U6>}, quantise, DS_ROWS_OF_NUMBERS, keep, attend, merge};
  return kernels;
}

}  // namespace ds
