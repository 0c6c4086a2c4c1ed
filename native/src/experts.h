// Products of chosen rows with the matrices of experts.
//
// Weights come in tiles of 16 outputs, a word of 4 bytes for each of them: one number, or two of
// bfloat16 that belong to neighbouring inputs. Each sum runs over the inputs in order, whatever
// other rows are computed beside it.
#pragma once
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include <type_traits>

#include "vectors.h"

namespace ds {
namespace {

// Tiles and rows that are computed together: as many sums as there are registers for.
#if defined(__AVX512F__)
constexpr int kWide = 4;
constexpr int rows_beside(int n_tiles) { return n_tiles == 4 ? 6 : 12; }
#elif defined(__AVX2__)
constexpr int kWide = 2;
constexpr int rows_beside(int n_tiles) { return n_tiles == 2 ? 3 : 6; }
#else
constexpr int kWide = 2;
constexpr int rows_beside(int n_tiles) { return n_tiles == 2 ? 1 : 2; }
#endif

// With few rows, weights come from memory as fast as they are asked for: a page ahead, which is mostly
// in the next tiles.
constexpr int kFewAtOnce = 3;
constexpr int64_t kWordsAhead = 1024;

inline V fused(V a, V b, V c) {
#if defined(__AVX512F__)
  return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
  return a * b + c;
#endif
}

inline V as_float(VU bits) {
  V value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

inline V add_word(float, V total, VU weights, VU x) {
  return fused(as_float(weights), as_float(x), total);
}

inline V add_word(uint16_t, V total, VU weights, VU x) {
#if defined(__AVX512BF16__)
  return (V)_mm512_dpbf16_ps((__m512)total, (__m512bh)weights, (__m512bh)x);
#else
  total = fused(as_float(weights << 16), as_float(x << 16), total);
  return fused(as_float(weights & 0xffff0000u), as_float(x & 0xffff0000u), total);
#endif
}

// M rows of words against N tiles, n_words for each output.
template <typename T, int M, int N>
inline void sum_words(const uint32_t *weights, int64_t n_words, const uint32_t *const *x,
                      V (*total)[N]) {
  V sums[M][N] = {};
  for (int64_t k = 0; k < n_words; ++k) {
    VU w[N];
    for (int j = 0; j < N; ++j) {
      const uint32_t *place = weights + (j * n_words + k) * 16;
      __builtin_memcpy(&w[j], place, sizeof w[j]);
      if constexpr (M <= kFewAtOnce) __builtin_prefetch(place + kWordsAhead);
    }
    for (int m = 0; m < M; ++m) {
      uint32_t word;
      __builtin_memcpy(&word, x[m] + k, sizeof word);
      const VU all = VU{} + word;
      for (int j = 0; j < N; ++j) sums[m][j] = add_word(T{}, sums[m][j], w[j], all);
    }
  }
  for (int m = 0; m < M; ++m)
    for (int j = 0; j < N; ++j) total[m][j] = sums[m][j];
}

// Rows [r, r + M) against tiles [tile, tile + N); `put(row, tile, sums, N)` takes what comes out.
template <typename T, int N, int M, typename Put>
inline void multiply_some(const Panel &w, int64_t tile, const WordRows &x, int64_t r,
                          const Put &put) {
  const uint32_t *rows[M];
  for (int m = 0; m < M; ++m) rows[m] = x.row(r + m);
  V total[M][N];
  sum_words<T, M, N>(w.weights + tile * w.n_words * 16, w.n_words, rows, total);
  for (int m = 0; m < M; ++m) put(r + m, tile, total[m], std::integral_constant<int, N>{});
}

template <typename T, int N, int M, typename Put>
inline void multiply_last(const Panel &w, int64_t tile, const WordRows &x, int64_t r,
                          const Put &put) {
  if constexpr (M > 0) {
    if (x.n_rows - r == M)
      multiply_some<T, N, M>(w, tile, x, r, put);
    else
      multiply_last<T, N, M - 1>(w, tile, x, r, put);
  }
}

template <typename T, int N, typename Put>
inline void multiply_all(const Panel &w, int64_t tile, const WordRows &x, const Put &put) {
  constexpr int M = rows_beside(N);
  int64_t r = 0;
  for (; r + M <= x.n_rows; r += M) multiply_some<T, N, M>(w, tile, x, r, put);
  multiply_last<T, N, M - 1>(w, tile, x, r, put);
}

template <typename T, typename Put>
inline void multiply_tiles(const Panel &w, int64_t first, int64_t last, const WordRows &x,
                           const Put &put) {
  int64_t tile = first;
  for (; tile + kWide <= last; tile += kWide) multiply_all<T, kWide>(w, tile, x, put);
  if constexpr (kWide > 2)
    if (tile + 2 <= last) {
      multiply_all<T, 2>(w, tile, x, put);
      tile += 2;
    }
  if (tile < last) multiply_all<T, 1>(w, tile, x, put);
}

// low[row] = weights[row] * (w x[row])
template <typename T>
void expert_shrink(const Panel &w, int64_t n_tiles, const WordRows &x, const float *weights,
                   void *low, int64_t low_stride) {
  multiply_tiles<T>(w, 0, n_tiles, x, [&](int64_t r, int64_t tile, const V *sums, auto n) {
    for (int j = 0; j < n; ++j)
      save(static_cast<T *>(low) + r * low_stride + (tile + j) * 16, sums[j] * weights[r]);
  });
}

// y[to[row]] += w low[row] in tiles [first, last): a few rows from end to end before the next, as
// they are longer than what an expert keeps for them.
template <typename T, typename Y>
void expert_widen(const Panel &w, int64_t first, int64_t last, const WordRows &low,
                  const int32_t *to, void *y, int64_t y_stride) {
  constexpr int kTogether = 12;
  for (int64_t r = 0; r < low.n_rows; r += kTogether) {
    WordRows some = low;
    some.first = low.row(r);
    some.n_rows = low.n_rows - r < kTogether ? low.n_rows - r : kTogether;
    multiply_tiles<T>(w, first, last, some, [&](int64_t i, int64_t tile, const V *sums, auto n) {
      for (int j = 0; j < n; ++j) {
        Y *place = static_cast<Y *>(y) + to[r + i] * y_stride + (tile + j) * 16;
        save(place, load(place) + sums[j]);
      }
    });
  }
}

// inner[row] = weights[row] * silu(gate x[row]) * (up x[row]); tiles of gate and up take turns.
template <typename T>
void expert_swiglu(const Panel &w, int64_t n_tiles, const WordRows &x, const float *weights,
                   void *inner, int64_t inner_stride) {
  multiply_tiles<T>(w, 0, n_tiles, x, [&](int64_t r, int64_t tile, const V *sums, auto n) {
    for (int j = 0; j + 1 < n; j += 2) {
      const V activated = sums[j] / (1.0f + exponential(-sums[j])) * sums[j + 1];
      save(static_cast<T *>(inner) + r * inner_stride + (tile + j) / 2 * 16,
           activated * weights[r]);
    }
  });
}

// y[to[row]] = w inner[row]
template <typename T>
void expert_down(const Panel &w, int64_t n_tiles, const WordRows &inner, const int32_t *to,
                 float *y, int64_t y_stride) {
  multiply_tiles<T>(w, 0, n_tiles, inner, [&](int64_t r, int64_t tile, const V *sums, auto n) {
    for (int j = 0; j < n; ++j) save(y + to[r] * y_stride + (tile + j) * 16, sums[j]);
  });
}

// y = the sum of n_parts rows behind each other, but for those that are left out.
template <typename T>
void expert_total(const float *parts, const uint8_t *is_there, int64_t n_parts, int64_t n,
                  void *y) {
  for (int64_t i = 0; i < n; i += 16) {
    V total = {};
    for (int64_t p = 0; p < n_parts; ++p)
      if (is_there[p]) total += load(parts + p * n + i);
    save(static_cast<T *>(y) + i, total);
  }
}

// scores[e] = 1 / (1 + exp(-(row e of weights times x))); n is a multiple of 16, and there is
// room for scores up to the next multiple.
template <typename T>
void gate_scores(const float *weights, int64_t n_experts, const void *x, int64_t n,
                 float *scores) {
  const T *numbers = static_cast<const T *>(x);
  int64_t e = 0;
  for (; e + 4 <= n_experts; e += 4) {
    V total[4] = {};
    for (int64_t i = 0; i < n; i += 16) {
      const V number = load(numbers + i);
      for (int j = 0; j < 4; ++j) total[j] = fused(load(weights + (e + j) * n + i), number, total[j]);
    }
    for (int j = 0; j < 4; ++j) scores[e + j] = sum(total[j]);
  }
  for (; e < n_experts; ++e) {
    V total = {};
    for (int64_t i = 0; i < n; i += 16)
      total = fused(load(weights + e * n + i), load(numbers + i), total);
    scores[e] = sum(total);
  }
  for (int64_t i = 0; i < n_experts; i += 16)
    save(scores + i, 1.0f / (1.0f + exponential(-load(scores + i))));
}

}  // namespace

#define DS_EXPERTS_OF(T, WIDEN, WIDEN_WIDE) \
  { expert_shrink<T>, {WIDEN_WIDE, WIDEN}, expert_swiglu<T>, expert_down<T>, expert_total<T>, \
    gate_scores<T> }
#define DS_EXPERTS \
  { DS_EXPERTS_OF(float, nullptr, (expert_widen<float, float>)), \
    DS_EXPERTS_OF(uint16_t, (expert_widen<uint16_t, uint16_t>), (expert_widen<uint16_t, float>)) }

}  // namespace ds
