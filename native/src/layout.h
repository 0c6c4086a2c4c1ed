// What kernels work on: weights (formats.h), rounded activations, and keys and values.
#pragma once
#include <cstddef>
#include <cstdint>

#include "formats.h"

namespace ds {

constexpr int64_t kMaxDimension = int64_t{1} << 24;

// Activations of a product: n_rows x n_in bytes, and per block of 32 four numbers a row.
struct Activations {
  int8_t *codes;    // [n_rows][n_in]
  float *scale;     // [n_rows][n_blocks]
  float *sum;       // [n_rows][n_blocks]: scale * sum of the codes, for the zeros of u4
  int32_t *offset;  // [n_rows][n_blocks][2]: -128 * sum of the codes of either half: u8 codes
                    // are 128 too large, so their dot products begin there instead of at 0
};

// One share of a product: tiles [first, last) for all rows.
struct Share {
  const uint8_t *packed;
  const float *factors;  // [n_tiles * 16]
  int64_t n_out, n_in, n_rows;
  Activations x;
  const float *bias;
  float *y;          // rows of n_out in single precision, `y_stride` apart, or
  uint16_t *y_half;  // the same in bfloat16
  int64_t y_stride;
};

// The two thin matrices of an addition y += up (down x), in bfloat16.
struct LowRank {
  int64_t rank = 0;                // in whole vectors of 16; 0: nothing is added
  int64_t n_in = 0;
  const uint16_t *down = nullptr;  // [rank / 16][n_in / 2][16][2]
  const uint16_t *up = nullptr;    // [n_out / 16][rank / 2][16][2], scaled
};

// Weights of experts as tiles [n_out / 16][n_words][16] of words of 4 bytes: one number in single
// precision, or a pair in bfloat16 (experts.h).
struct Panel {
  const uint32_t *weights = nullptr;
  int64_t n_words = 0;
};

// Rows of such words.
struct WordRows {
  const uint32_t *first;
  int64_t stride;
  const int32_t *index;  // which rows; null: the first ones
  int64_t n_rows;

  const uint32_t *row(int64_t r) const { return first + (index ? index[r] : r) * stride; }
};

// What experts compute, for one format of weights (experts.h).
struct ExpertKernels {
  void (*shrink)(const Panel &, int64_t n_tiles, const WordRows &x, const float *weights,
                 void *low, int64_t low_stride);
  // By the format of y; null where it has fewer bits than the weights.
  void (*widen[2])(const Panel &, int64_t first, int64_t last, const WordRows &low,
                   const int32_t *to, void *y, int64_t y_stride);
  void (*swiglu)(const Panel &, int64_t n_tiles, const WordRows &x, const float *weights,
                 void *inner, int64_t inner_stride);
  void (*down)(const Panel &, int64_t n_tiles, const WordRows &inner, const int32_t *to, float *y,
               int64_t y_stride);
  void (*total)(const float *parts, const uint8_t *is_there, int64_t n_parts, int64_t n, void *y);
  // Of a gate, whose own weights are in single precision.
  void (*scores)(const float *weights, int64_t n_experts, const void *x, int64_t n, float *scores);
};

constexpr int64_t kMaxHead = 256;
constexpr int64_t kPage = 64;      // positions of a sequence whose keys lie behind each other
constexpr int64_t kStretch = 256;  // positions whose scores are made weights at once
constexpr int64_t kStretchPages = kStretch / kPage;
constexpr int64_t kQueries = 96;  // rows of queries that share one look at a stretch, at most

// What some queries got from some keys: values weighted by exp(score - largest), and the sum of
// those weights.
struct Mixed {
  float *largest, *total;  // [n_rows]
  float *mixed;            // [n_rows][d]
};

// Queries that share keys and values, and one stretch of these.
struct StretchWork {
  const uint16_t *queries;  // [n_rows][d] bfloat16, scaled
  const uint16_t *keys[kStretchPages], *values[kStretchPages];  // see attention.h
  const uint16_t *next_keys[kStretchPages];  // of the stretch after this one, or null
  int64_t n_rows, d;
  int64_t n_keys;          // of the stretch's keys, those that any row sees
  const int64_t *visible;  // [n_rows]: how many of them each row sees
  float *scores;           // room for n_rows * kStretch
  uint16_t *weights;       // the same
  Mixed to;
};

// A page of memory holds 64 vectors, four for each page of keys (see memory_nodes.h): the first ones
// of 16 pages, then the second ones, and so on.
constexpr int64_t kPerPage = 4;
constexpr int64_t kCovered = kPage / kPerPage;  // pages of keys that one page of memory stands for

// Bytes of a head's cold page of keys or of values (see cold.h): its codes, then least numbers and
// steps, of which values have the more.
constexpr int64_t kRangeBytes = kPage * 4;  // of 64 positions in one slice of values
constexpr int64_t cold_bytes(int bits, int64_t d) {
  return kPage * d * bits / 8 + (d + 63) / 64 * kRangeBytes;
}

using Kernel = void (*)(const Share &, int64_t first, int64_t last);
using Quantiser = void (*)(const void *x, bool is_bf16, int64_t n_in, int64_t first, int64_t last,
                           const Activations &to);

struct Kernels {
  Kernel multiply[4];  // by format
  Quantiser quantise;
  // See rows.h.
  void (*normalise)(const float *x, const float *weight, int64_t n, float epsilon, float *y);
  void (*rotate)(float *head, const float *cosines, const float *sines, int64_t d);
  void (*gate)(float *gates, const float *ups, int64_t n);
  void (*add)(float *x, const float *y, int64_t n);
  void (*to_half)(const float *x, int64_t n, uint16_t *y);
  // See low_rank.h.
  void (*shrink)(const LowRank &, const float *x, int64_t n_rows, float *low, int64_t low_stride);
  void (*widen)(const LowRank &, const float *low, int64_t n_rows, int64_t low_stride,
                int64_t first, int64_t last, float *y, int64_t y_stride);
  // See attention.h.
  void (*keep)(const float *key, const float *value, int64_t d, int64_t place, uint16_t *keys,
               uint16_t *values);
  void (*attend)(const StretchWork &);
  void (*merge)(const Mixed &sum, const Mixed &part, int64_t n_rows, int64_t d);
  // See memory_nodes.h.
  void (*summarise)(const uint16_t *keys, int64_t d, int64_t place, uint16_t *memory);
  void (*compare)(const uint16_t *queries, int64_t n_rows, int64_t d, const uint16_t *page,
                  const uint16_t *next, float *scores, int64_t stride);
  void (*weigh_nodes)(const float *scores, int64_t n_rows, const float *mass, float *weights,
                      int64_t stride);
  void (*count)(const float *weights, int64_t n, float *votes);
  int64_t (*n_reaching)(const float *votes, int64_t n, float least);
  void (*weigh)(const float *scores, int64_t n_rows, float *largest, float *total, int64_t stride);
  void (*share)(const float *largest, const float *totals, int64_t n, float most, float total,
                float *votes);
  // See cold.h.
  void (*seal)(const uint16_t *keys, const uint16_t *values, int64_t d, int bits,
               uint8_t *cold_keys, uint8_t *cold_values);
  // Null values are left out.
  void (*expand)(const uint8_t *cold_keys, const uint8_t *cold_values, int64_t d, int bits,
                 uint16_t *keys, uint16_t *values);
  // See cold_scores.h.
  void (*compare_codes)(const uint16_t *queries, int64_t n_rows, int64_t d, int bits,
                        const uint8_t *cold_keys, const uint8_t *next, float *scores,
                        int64_t stride);
  uint32_t (*checksum)(const uint8_t *bytes, int64_t n);  // see checksum.h
  ExpertKernels experts[2];  // by the format of weights: single precision, bfloat16
};

// One weight of a tile as it is used in products, but for its row's factor.
float weight_at(int format, const uint8_t *tile, int64_t lane, int64_t column);

// The best kernels of this processor, or the lesser ones that were asked for.
const Kernels &kernels();

const Kernels &portable_kernels();
#if defined(__x86_64__)
const Kernels &avx2_kernels();
const Kernels &avx_vnni_kernels();
const Kernels &avx512_kernels();
const Kernels &avx512_bf16_kernels();
#elif defined(__aarch64__)
const Kernels &neon_kernels();
#endif

static inline float half_to_float(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16;
  uint32_t exponent = (h >> 10) & 31, fraction = h & 1023, bits;
  if (exponent == 0) {
    if (fraction == 0) {
      bits = sign;
    } else {
      int shift = 0;
      while (!(fraction & 1024)) fraction <<= 1, ++shift;
      bits = sign | uint32_t(113 - shift) << 23 | (fraction & 1023) << 13;
    }
  } else {
    bits = sign | (exponent == 31 ? 255u << 23 : (exponent + 112) << 23) | fraction << 13;
  }
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

static inline uint16_t float_to_half(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  const uint16_t sign = uint16_t((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x47800000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {  // subnormal: add what shifts the fraction into its place
    float shifted = 0.5f;
    float positive;
    __builtin_memcpy(&positive, &magnitude, 4);
    shifted += positive;
    uint32_t place;
    __builtin_memcpy(&place, &shifted, 4);
    return sign | uint16_t(place - 0x3f000000);
  }
  const uint32_t odd = (magnitude >> 13) & 1;
  return sign | uint16_t((magnitude - 0x38000000 + 0xfff + odd) >> 13);
}

static inline float bf16_to_float(uint16_t h) {
  const uint32_t bits = uint32_t(h) << 16;
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

static inline uint16_t float_to_bf16(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 64);
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float half_at(const uint8_t *place) {
  uint16_t h;
  __builtin_memcpy(&h, place, 2);
  return half_to_float(h);
}

}  // namespace ds
