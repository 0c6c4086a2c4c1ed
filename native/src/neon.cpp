// Arm NEON with byte dot products: a tile in four quarters of 4 rows.
#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>

#include "attention.h"
#include "layout.h"
#include "rows.h"

namespace ds {
namespace {

constexpr int kRows = 4;  // rows of activations that share one unpacking

inline float32x4_t load_half(const uint8_t *place) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t *>(place))));
}

void store(const Share &s, int64_t row, int64_t n, float32x4_t total) {
  float values[4];
  vst1q_f32(values, total);
  for (int64_t i = 0; i < 4 && n + i < s.n_out; ++i) {
    const float value = values[i] * s.factors[n + i] + (s.bias ? s.bias[n + i] : 0.0f);
    if (s.y_half)
      s.y_half[row * s.y_stride + n + i] = float_to_bf16(value);
    else
      s.y[row * s.y_stride + n + i] = value;
  }
}

// The sums of 4 rows over 16 columns; x holds these columns' activations.
inline int32x4_t add_dots(int32x4_t total, const int8x16_t *w, int8x16_t x) {
  total = vdotq_laneq_s32(total, w[0], x, 0);
  total = vdotq_laneq_s32(total, w[1], x, 1);
  total = vdotq_laneq_s32(total, w[2], x, 2);
  return vdotq_laneq_s32(total, w[3], x, 3);
}

template <int M>
void tile_u4(const Share &s, int64_t tile, int quarter, int64_t row) {
  const int64_t n_blocks = s.n_in / kBlock;
  const uint8_t *block = s.packed + tile * n_blocks * U4::kBytes;
  float32x4_t total[M];
  for (int m = 0; m < M; ++m) total[m] = vdupq_n_f32(0.0f);
  for (int64_t b = 0; b < n_blocks; ++b, block += U4::kBytes) {
    int8x16_t low[4], high[4];
    for (int j = 0; j < 4; ++j) {
      const uint8x16_t pair = vld1q_u8(block + 64 * j + 16 * quarter);
      low[j] = vreinterpretq_s8_u8(vandq_u8(pair, vdupq_n_u8(15)));
      high[j] = vreinterpretq_s8_u8(vshrq_n_u8(pair, 4));
    }
    const float32x4_t scale = load_half(block + U4::kScales + 8 * quarter);
    const float32x4_t zero = load_half(block + U4::kScales + 32 + 8 * quarter);
    for (int m = 0; m < M; ++m) {
      const int8_t *x = s.x.codes + (row + m) * s.n_in + b * kBlock;
      int32x4_t dot = add_dots(vdupq_n_s32(0), low, vld1q_s8(x));
      dot = add_dots(dot, high, vld1q_s8(x + 16));
      const int64_t at = (row + m) * n_blocks + b;
      total[m] = vfmaq_f32(total[m], vcvtq_f32_s32(dot), vmulq_n_f32(scale, s.x.scale[at]));
      total[m] = vfmaq_f32(total[m], zero, vdupq_n_f32(s.x.sum[at]));
    }
  }
  for (int m = 0; m < M; ++m) store(s, row + m, tile * kTile + 4 * quarter, total[m]);
}

// Columns 16 * half to 16 * half + 15 of a block, their codes' centre taken off.
inline void unpack(U8, const uint8_t *block, int half, int quarter, int8x16_t *w) {
  for (int j = 0; j < 4; ++j) {
    const uint8x16_t codes = vld1q_u8(block + 64 * (4 * half + j) + 16 * quarter);
    w[j] = vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(128)));
  }
}

inline void unpack(U6, const uint8_t *block, int half, int quarter, int8x16_t *w) {
  const uint8x16_t top = vld1q_u8(block + U6::kTops + 64 * half + 16 * quarter);
  const uint8x16_t tops[4] = {vshlq_n_u8(top, 4), vshlq_n_u8(top, 2), top, vshrq_n_u8(top, 2)};
  for (int j = 0; j < 4; ++j) {
    const uint8x16_t pair = vld1q_u8(block + 64 * j + 16 * quarter);
    const uint8x16_t low = half ? vshrq_n_u8(pair, 4) : vandq_u8(pair, vdupq_n_u8(15));
    const uint8x16_t code = vorrq_u8(low, vandq_u8(tops[j], vdupq_n_u8(0x30)));
    w[j] = vsubq_s8(vreinterpretq_s8_u8(code), vdupq_n_s8(U6::kCentre));
  }
}

template <typename Format, int M>
void tile_centred(const Share &s, int64_t tile, int quarter, int64_t row) {
  const int64_t n_blocks = s.n_in / kBlock;
  const uint8_t *block = s.packed + tile * n_blocks * Format::kBytes;
  float32x4_t total[M];
  for (int m = 0; m < M; ++m) total[m] = vdupq_n_f32(0.0f);
  for (int64_t b = 0; b < n_blocks; ++b, block += Format::kBytes)
    for (int half = 0; half < 2; ++half) {
      int8x16_t w[4];
      unpack(Format{}, block, half, quarter, w);
      const float32x4_t scale = load_half(block + Format::kScales + 32 * half + 8 * quarter);
      for (int m = 0; m < M; ++m) {
        const int8_t *x = s.x.codes + (row + m) * s.n_in + b * kBlock + 16 * half;
        const float32x4_t dot = vcvtq_f32_s32(add_dots(vdupq_n_s32(0), w, vld1q_s8(x)));
        const float step = s.x.scale[(row + m) * n_blocks + b];
        total[m] = vfmaq_f32(total[m], dot, vmulq_n_f32(scale, step));
      }
    }
  for (int m = 0; m < M; ++m) store(s, row + m, tile * kTile + 4 * quarter, total[m]);
}

template <int M>
void tile_u8(const Share &s, int64_t tile, int quarter, int64_t row) {
  tile_centred<U8, M>(s, tile, quarter, row);
}

template <int M>
void tile_u6(const Share &s, int64_t tile, int quarter, int64_t row) {
  tile_centred<U6, M>(s, tile, quarter, row);
}

#define DS_ROWS(NAME)                                                                            \
  void matmul_##NAME(const Share &s, int64_t first, int64_t last) {                              \
    for (int64_t tile = first; tile < last; ++tile)                                              \
      for (int quarter = 0; quarter < 4; ++quarter) {                                            \
        int64_t row = 0;                                                                         \
        for (; row + kRows <= s.n_rows; row += kRows) tile_##NAME<kRows>(s, tile, quarter, row); \
        switch (s.n_rows - row) {                                                                \
          case 3: tile_##NAME<3>(s, tile, quarter, row); break;                                  \
          case 2: tile_##NAME<2>(s, tile, quarter, row); break;                                  \
          case 1: tile_##NAME<1>(s, tile, quarter, row); break;                                  \
          default: break;                                                                        \
        }                                                                                        \
      }                                                                                          \
  }
DS_ROWS(u4)
DS_ROWS(u6)
DS_ROWS(u8)
#undef DS_ROWS

}  // namespace

const Kernels &neon_kernels() {
  static const Kernels kernels{{matmul_u4, matmul_u8, matmul_u6},
                               portable_kernels().quantise,
                               DS_ROWS_OF_NUMBERS,
                               keep,
                               attend,
                               merge};
  return kernels;
}

}  // namespace ds
#endif
