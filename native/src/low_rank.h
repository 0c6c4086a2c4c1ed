// Products with the two thin matrices of an adapter, in single precision.
//
// Each row has two sums that take turns: that order, and so its bits, are the same however many rows are
// computed together, and on every processor.
#pragma once
#include "vectors.h"

namespace ds {
namespace {

constexpr int kLowRows = 4;  // rows that share the conversion of a weight

inline V as_numbers(VU bits) {
  V value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// 16 numbers of each of M rows: weights[i] times x[row][i], from i = 0 to n (even). Weights of two i
// lie in pairs, so that a shift and a mask make numbers of them.
template <int M>
inline void sum_up(const uint16_t *weights, int64_t n, const float *x, int64_t x_stride, V *total) {
  V even[M] = {}, odd[M] = {};
  for (int64_t i = 0; i < n; i += 2) {
    VU pairs;
    __builtin_memcpy(&pairs, weights + i * 16, sizeof pairs);
    const V first = as_numbers(pairs << 16), second = as_numbers(pairs & 0xffff0000u);
    for (int m = 0; m < M; ++m) {
      even[m] += first * x[m * x_stride + i];
      odd[m] += second * x[m * x_stride + i + 1];
    }
  }
  for (int m = 0; m < M; ++m) total[m] = even[m] + odd[m];
}

template <int M>
inline void shrink_rows(const LowRank &w, const float *x, float *low, int64_t low_stride) {
  for (int64_t j = 0; j < w.rank; j += 16) {
    V total[M];
    sum_up<M>(w.down + j * w.n_in, w.n_in, x, w.n_in, total);
    for (int m = 0; m < M; ++m) save(low + m * low_stride + j, total[m]);
  }
}

template <int M>
inline void widen_rows(const LowRank &w, const float *low, int64_t low_stride, int64_t first,
                       int64_t last, float *y, int64_t y_stride) {
  for (int64_t tile = first; tile < last; ++tile) {
    V total[M];
    sum_up<M>(w.up + tile * w.rank * 16, w.rank, low, low_stride, total);
    for (int m = 0; m < M; ++m) {
      float *place = y + m * y_stride + tile * 16;
      save(place, load(place) + total[m]);
    }
  }
}

// low[row] = down x[row]; rows of x lie behind each other.
void shrink(const LowRank &w, const float *x, int64_t n_rows, float *low, int64_t low_stride) {
  int64_t r = 0;
  for (; r + kLowRows <= n_rows; r += kLowRows)
    shrink_rows<kLowRows>(w, x + r * w.n_in, low + r * low_stride, low_stride);
  for (; r < n_rows; ++r) shrink_rows<1>(w, x + r * w.n_in, low + r * low_stride, low_stride);
}

// y[row] += up low[row], in tiles [first, last) of 16 columns.
void widen(const LowRank &w, const float *low, int64_t n_rows, int64_t low_stride, int64_t first,
           int64_t last, float *y, int64_t y_stride) {
  int64_t r = 0;
  for (; r + kLowRows <= n_rows; r += kLowRows)
    widen_rows<kLowRows>(w, low + r * low_stride, low_stride, first, last, y + r * y_stride,
                         y_stride);
  for (; r < n_rows; ++r)
    widen_rows<1>(w, low + r * low_stride, low_stride, first, last, y + r * y_stride, y_stride);
}

}  // namespace

#define DS_LOW_RANK shrink, widen

}  // namespace ds
