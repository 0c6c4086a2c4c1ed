// Attention of some queries to one stretch of keys and values.
//
// Keys lie in pages as pairs of neighbouring numbers, values as pairs of neighbouring positions, so
// that one instruction multiplies a query's pair, or two positions' weights, with 16 of them:
//
//   keys of a page    [d / 2 pairs][64 positions][2]
//   values of a page  for each slice of 64 numbers: [32 pairs of positions][64 numbers][2]
//
// All are bfloat16 and are added up in single precision: what a query gets does not depend on the
// queries beside it, so that one token alone and a whole chunk of a prompt agree to the last bit.
#pragma once
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "vectors.h"

namespace ds {
namespace {

constexpr int64_t kFew = 16;    // rows up to which memory is slower than the products
constexpr int64_t kSlice = 64;  // numbers of a value that lie side by side
#if defined(__AVX512F__)
constexpr int kTogether = 6;  // queries that share one load of keys: what registers hold
#else
constexpr int kTogether = 1;
#endif

inline VU load_pairs(const uint16_t *place) {
  VU value;
  __builtin_memcpy(&value, place, sizeof value);
  return value;
}

// total + the two products of each lane's pair
inline V add_products(V total, VU a, VU b) {
#if defined(__AVX512BF16__)
  return (V)_mm512_dpbf16_ps((__m512)total, (__m512bh)a, (__m512bh)b);
#else
  const VU a_low = a << 16, b_low = b << 16, a_high = a & 0xffff0000u, b_high = b & 0xffff0000u;
  return total + (V)a_low * (V)b_low + (V)a_high * (V)b_high;
#endif
}

inline uint32_t pair_at(const uint16_t *row, int64_t j) {
  uint32_t pair;
  __builtin_memcpy(&pair, row + 2 * j, sizeof pair);
  return pair;
}

// Pages that follow each other, and what will be wanted next: memory is asked for it meanwhile.
struct Run {
  int64_t n_pages, n_pairs;
  const uint16_t *const *pages;
  const uint16_t *const *next;  // null: nothing
  int64_t offset;               // into each page
};

// M rows of pairs against N vectors side by side, page after page:
// out[m][..] = sum over j of row[m][j] * packed[j]
template <int M, int N>
inline void multiply_pairs(const uint16_t *rows, int64_t stride, const Run &run, float *out,
                           int64_t out_stride) {
  V total[M][N] = {};
  for (int64_t p = 0; p < run.n_pages; ++p) {
    const uint16_t *row = rows + 2 * p * run.n_pairs, *page = run.pages[p] + run.offset;
    const uint16_t *next = run.next && run.next[p] ? run.next[p] + run.offset : nullptr;
    for (int64_t j = 0; j < run.n_pairs; ++j) {
      VU right[N];
      for (int v = 0; v < N; ++v) {
        right[v] = load_pairs(page + (j * N + v) * 32);
        if (next) __builtin_prefetch(next + (j * N + v) * 32, 0, 2);
      }
      for (int m = 0; m < M; ++m) {
        const VU left = VU{} | pair_at(row + m * stride, j);
        for (int v = 0; v < N; ++v) total[m][v] = add_products(total[m][v], left, right[v]);
      }
    }
  }
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < N; ++v) save(out + m * out_stride + 16 * v, total[m][v]);
}

template <int N>
void multiply_all(const uint16_t *rows, int64_t n_rows, int64_t stride, const Run &run, float *out,
                  int64_t out_stride) {
  int64_t m = 0;
  for (; m + kTogether <= n_rows; m += kTogether)
    multiply_pairs<kTogether, N>(rows + m * stride, stride, run, out + m * out_stride, out_stride);
  for (; kTogether > 3 && m + 3 <= n_rows; m += 3)
    multiply_pairs<3, N>(rows + m * stride, stride, run, out + m * out_stride, out_stride);
  for (; m < n_rows; ++m)
    multiply_pairs<1, N>(rows + m * stride, stride, run, out + m * out_stride, out_stride);
}

// Half the work of `save`, for numbers that are neither tiny nor infinite.
inline void save_rounded(uint16_t *place, V value) {
#if defined(__AVX512BF16__)
  const __m256bh half = _mm512_cvtneps_pbh((__m512)value);
  __builtin_memcpy(place, &half, sizeof half);
#else
  save(place, value);
#endif
}

// The scores of one query become weights below one, those of keys it does not see zero.
void soften(const float *scores, int64_t n_visible, int64_t n_scores, uint16_t *weights,
            float *largest, float *total) {
  const V nothing = V{} - INFINITY;
  const VI lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const auto visible = [&](int64_t i) {
    const VI left = VI{} + int32_t(n_visible - i);
    return lanes < left ? load(scores + i) : nothing;
  };
  V most = nothing;
  for (int64_t i = 0; i < n_visible; i += 16) {
    const V now = visible(i);
    most = now > most ? now : most;
  }
  float top = -INFINITY;
  for (int i = 0; i < 16; ++i) top = most[i] > top ? most[i] : top;
  V sums = {};
  const V zero = {};
  for (int64_t i = 0; i < n_scores; i += 16) {
    const V now = visible(i);
    save_rounded(weights + i, now == nothing ? zero : exponential(now - top));
    sums += load(weights + i);  // as rounded: the weights that are used add up to one
  }
  *largest = top;
  *total = sum(sums);
}

void attend(const StretchWork &w) {
  const int64_t n_pages = (w.n_keys + kPage - 1) / kPage;
  const bool is_few = w.n_rows <= kFew;
  const uint16_t *const *next_values = is_few ? w.values : nullptr;
  const uint16_t *const *next_keys = is_few ? w.next_keys : nullptr;
  for (int64_t p = 0; p < n_pages; ++p)
    multiply_all<kPage / 16>(w.queries, w.n_rows, w.d,
                             {1, w.d / 2, w.keys + p, next_values ? next_values + p : nullptr, 0},
                             w.scores + p * kPage, kStretch);
  for (int64_t r = 0; r < w.n_rows; ++r)
    soften(w.scores + r * kStretch, w.visible[r], n_pages * kPage, w.weights + r * kStretch,
           w.to.largest + r, w.to.total + r);
  for (int64_t start = 0; start < w.d; start += kSlice) {
    const auto multiply = w.d - start >= kSlice ? multiply_all<4> : multiply_all<2>;
    multiply(w.weights, w.n_rows, kStretch,
             {n_pages, kPage / 2, w.values, next_keys, start * kPage}, w.to.mixed + start, w.d);
  }
}

// Put one token's key and value of one head into its page.
[[maybe_unused]] void keep(const float *key, const float *value, int64_t d, int64_t place, uint16_t *keys,
          uint16_t *values) {
  uint16_t rounded[kMaxHead];
  for (int64_t i = 0; i < d; i += 16) save(rounded + i, load(key + i));
  for (int64_t i = 0; i < d; i += 2)
    __builtin_memcpy(keys + (i / 2 * kPage + place) * 2, rounded + i, 4);
  for (int64_t i = 0; i < d; i += 16) save(rounded + i, load(value + i));
  for (int64_t start = 0; start < d; start += kSlice) {
    const int64_t width = d - start < kSlice ? d - start : kSlice;
    uint16_t *pairs = values + start * kPage + place / 2 * width * 2 + place % 2;
    for (int64_t i = 0; i < width; ++i) pairs[2 * i] = rounded[start + i];
  }
}

// What queries got from earlier keys, and from later ones: together.
[[maybe_unused]] void merge(const Mixed &sum, const Mixed &part, int64_t n_rows, int64_t d) {
  for (int64_t r = 0; r < n_rows; ++r) {
    const float top = sum.largest[r] > part.largest[r] ? sum.largest[r] : part.largest[r];
    const float old_share = std::exp(sum.largest[r] - top);
    const float new_share = std::exp(part.largest[r] - top);
    sum.largest[r] = top;
    sum.total[r] = sum.total[r] * old_share + part.total[r] * new_share;
    for (int64_t j = r * d; j < (r + 1) * d; j += 16)
      save(sum.mixed + j, load(sum.mixed + j) * old_share + load(part.mixed + j) * new_share);
  }
}

}  // namespace
}  // namespace ds
