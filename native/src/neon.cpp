// Arm NEON with byte dot products: a tile in four quarters of 4 rows.
#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>

#include "cold_scores.h"
#include "experts.h"
#include "memory_nodes.h"
#include "rows.h"
#include "tiles.h"

namespace ds {
namespace {

struct Neon {
  static constexpr int kRows = 4, kParts = 4;
  template <typename Format, int M>
  static void multiply(const Share &s, int64_t tile_number, int part, int64_t row);
  template <typename Format, int M>
  static void multiply_centred(const Share &s, int64_t tile_number, int part, int64_t row);
};

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

// Four bytes as whole numbers in single precision.
inline float32x4_t unsigned_numbers(const uint8_t *place) {
  uint32_t four;
  __builtin_memcpy(&four, place, 4);
  const uint16x8_t wide = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four)));
  return vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide)));
}

inline float32x4_t signed_numbers(const uint8_t *place) {
  uint32_t four;
  __builtin_memcpy(&four, place, 4);
  const int16x8_t wide = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four)));
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
}

// Of the 4 rows of a quarter.
inline float32x4_t scales_of(U4, const uint8_t *tile, int64_t b, int quarter) {
  return load_half(tile + U4::scales(b) + 8 * quarter);
}

inline float32x4_t zeros_of(U4, const uint8_t *tile, int64_t b, int quarter) {
  return load_half(tile + U4::zeros(b) + 8 * quarter);
}

inline float32x4_t scales_of(U4K, const uint8_t *tile, int64_t b, int quarter) {
  return vmulq_f32(load_half(tile + U4K::units(b) + 8 * quarter),
                   unsigned_numbers(tile + U4K::scales(b) + 4 * quarter));
}

inline float32x4_t zeros_of(U4K, const uint8_t *tile, int64_t b, int quarter) {
  return vmulq_f32(load_half(tile + U4K::zero_units(b) + 8 * quarter),
                   unsigned_numbers(tile + U4K::zeros(b) + 4 * quarter));
}

inline float32x4_t scales_of(U8, const uint8_t *tile, int64_t b, int half, int quarter) {
  return load_half(tile + U8::scales(b, half) + 8 * quarter);
}

inline float32x4_t scales_of(U6K, const uint8_t *tile, int64_t b, int half, int quarter) {
  return vmulq_f32(load_half(tile + U6K::units(b) + 8 * quarter),
                   signed_numbers(tile + U6K::scales(b, half) + 4 * quarter));
}

template <typename Format, int M>
void Neon::multiply(const Share &s, int64_t tile_number, int quarter, int64_t row) {
  const int64_t n_blocks = s.n_in / kBlock;
  const uint8_t *tile = s.packed + tile_number * n_blocks * Format::kBytes;
  float32x4_t total[M];
  for (int m = 0; m < M; ++m) total[m] = vdupq_n_f32(0.0f);
  for (int64_t b = 0; b < n_blocks; ++b) {
    int8x16_t low[4], high[4];
    for (int j = 0; j < 4; ++j) {
      const uint8x16_t pair = vld1q_u8(tile + Format::codes(b) + 64 * j + 16 * quarter);
      low[j] = vreinterpretq_s8_u8(vandq_u8(pair, vdupq_n_u8(15)));
      high[j] = vreinterpretq_s8_u8(vshrq_n_u8(pair, 4));
    }
    const float32x4_t scale = scales_of(Format{}, tile, b, quarter);
    const float32x4_t zero = zeros_of(Format{}, tile, b, quarter);
    for (int m = 0; m < M; ++m) {
      const int8_t *x = s.x.codes + (row + m) * s.n_in + b * kBlock;
      int32x4_t dot = add_dots(vdupq_n_s32(0), low, vld1q_s8(x));
      dot = add_dots(dot, high, vld1q_s8(x + 16));
      const int64_t at = (row + m) * n_blocks + b;
      total[m] = vfmaq_f32(total[m], vcvtq_f32_s32(dot), vmulq_n_f32(scale, s.x.scale[at]));
      total[m] = vfmaq_f32(total[m], zero, vdupq_n_f32(s.x.sum[at]));
    }
  }
  for (int m = 0; m < M; ++m) store(s, row + m, tile_number * kTile + 4 * quarter, total[m]);
}

// Columns 16 * half to 16 * half + 15 of a block, their codes' centre taken off.
inline void unpack(U8, const uint8_t *tile, int64_t b, int half, int quarter, int8x16_t *w) {
  for (int j = 0; j < 4; ++j) {
    const uint8x16_t codes = vld1q_u8(tile + U8::codes(b) + 64 * (4 * half + j) + 16 * quarter);
    w[j] = vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(128)));
  }
}

inline void unpack(U6K, const uint8_t *tile, int64_t b, int half, int quarter, int8x16_t *w) {
  const uint8x16_t top = vld1q_u8(tile + U6K::tops(b, half) + 16 * quarter);
  const uint8x16_t tops[4] = {vshlq_n_u8(top, 4), vshlq_n_u8(top, 2), top, vshrq_n_u8(top, 2)};
  for (int j = 0; j < 4; ++j) {
    const uint8x16_t pair = vld1q_u8(tile + U6K::codes(b) + 64 * j + 16 * quarter);
    const uint8x16_t low = half ? vshrq_n_u8(pair, 4) : vandq_u8(pair, vdupq_n_u8(15));
    const uint8x16_t code = vorrq_u8(low, vandq_u8(tops[j], vdupq_n_u8(0x30)));
    w[j] = vsubq_s8(vreinterpretq_s8_u8(code), vdupq_n_s8(U6K::kCentre));
  }
}

template <typename Format, int M>
void Neon::multiply_centred(const Share &s, int64_t tile_number, int quarter, int64_t row) {
  const int64_t n_blocks = s.n_in / kBlock;
  const uint8_t *tile = s.packed + tile_number * n_blocks * Format::kBytes;
  float32x4_t total[M];
  for (int m = 0; m < M; ++m) total[m] = vdupq_n_f32(0.0f);
  for (int64_t b = 0; b < n_blocks; ++b)
    for (int half = 0; half < 2; ++half) {
      int8x16_t w[4];
      unpack(Format{}, tile, b, half, quarter, w);
      const float32x4_t scale = scales_of(Format{}, tile, b, half, quarter);
      for (int m = 0; m < M; ++m) {
        const int8_t *x = s.x.codes + (row + m) * s.n_in + b * kBlock + 16 * half;
        const float32x4_t dot = vcvtq_f32_s32(add_dots(vdupq_n_s32(0), w, vld1q_s8(x)));
        const float step = s.x.scale[(row + m) * n_blocks + b];
        total[m] = vfmaq_f32(total[m], dot, vmulq_n_f32(scale, step));
      }
    }
  for (int m = 0; m < M; ++m) store(s, row + m, tile_number * kTile + 4 * quarter, total[m]);
}

}  // namespace

const Kernels &neon_kernels() {
  static const Kernels kernels{DS_MATMULS(Neon), portable_kernels().quantise, DS_ROWS_OF_NUMBERS,
                               DS_ATTENTION, DS_COLD, DS_EXPERTS};
  return kernels;
}

}  // namespace ds
#endif
