// Attention of some queries to one stretch of keys and values.
//
// Queries, keys, weights and values are multiplied as pairs of bfloat16 numbers and added up in
// single precision: what a query gets from a stretch does not depend on the queries beside it, so
// that one token alone and a whole chunk of a prompt agree to the last bit.
#pragma once
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "vectors.h"

namespace ds {
namespace {

constexpr int64_t kPanel = kPage;  // keys that lie side by side
constexpr int64_t kPanelVectors = kPanel / 16;
#if defined(__AVX512F__)
constexpr int kTogether = 6;  // queries that share one load of keys: what registers hold
#else
constexpr int kTogether = 1;
#endif

inline VU load_pairs(const uint32_t *place) {
  VU value;
  __builtin_memcpy(&value, place, sizeof value);
  return value;
}

inline void save_pairs(uint32_t *place, VU value) {
  __builtin_memcpy(place, &value, sizeof value);
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

// 16 rows of 16 pairs, `stride` numbers apart, become 16 columns, a panel's width apart.
inline void transpose(const uint16_t *rows, int64_t stride, uint32_t *columns) {
#if defined(__AVX512F__)
  __m512i r[16], t[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(rows + i * stride);
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int c = 0; c < 4; ++c) {
    const __m512i a = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
    const __m512i e = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xdd);
    const __m512i f = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xdd);
    _mm512_storeu_si512(columns + c * kPanel, _mm512_shuffle_i32x4(a, b, 0x88));
    _mm512_storeu_si512(columns + (4 + c) * kPanel, _mm512_shuffle_i32x4(e, f, 0x88));
    _mm512_storeu_si512(columns + (8 + c) * kPanel, _mm512_shuffle_i32x4(a, b, 0xdd));
    _mm512_storeu_si512(columns + (12 + c) * kPanel, _mm512_shuffle_i32x4(e, f, 0xdd));
  }
#else
  for (int64_t i = 0; i < 16; ++i) {
    uint32_t row[16];
    __builtin_memcpy(row, rows + i * stride, sizeof row);
    for (int64_t j = 0; j < 16; ++j) columns[j * kPanel + i] = row[j];
  }
#endif
}

// A page becomes a panel: [d / 2 pairs][64 keys]
void pack_keys(const uint16_t *keys, int64_t d, uint32_t *packed) {
  for (int64_t i = 0; i < kPanel; i += 16)
    for (int64_t j = 0; j < d / 2; j += 16)
      transpose(keys + i * d + 2 * j, d, packed + j * kPanel + i);
}

// [slices of 64 numbers][pairs of keys][numbers of the slice]; behind the last key zeros, because
// what lies there may be no number and its weight of zero would not silence it.
void pack_values(const uint16_t *const *pages, int64_t d, int64_t n_keys, int64_t n_panels,
                 uint32_t *packed) {
  for (int64_t start = 0; start < d; start += kPanel) {
    const int64_t width = d - start < kPanel ? d - start : kPanel;
    for (int64_t key = 0; key < n_panels * kPanel; key += 2)
      for (int64_t j = 0; j < width; j += 16) {
        VH low = {}, high = {};
        const uint16_t *place = pages[key / kPanel] + key % kPanel * d + start + j;
        if (key < n_keys) __builtin_memcpy(&low, place, sizeof low);
        if (key + 1 < n_keys) __builtin_memcpy(&high, place + d, sizeof high);
        save_pairs(packed,
                   __builtin_convertvector(low, VU) | __builtin_convertvector(high, VU) << 16);
        packed += 16;
      }
  }
}

inline uint32_t pair_at(const uint16_t *row, int64_t j) {
  uint32_t pair;
  __builtin_memcpy(&pair, row + 2 * j, sizeof pair);
  return pair;
}

// M rows of pairs against N vectors side by side: out[m][..] = sum over j of row[m][j] * packed[j]
template <int M, int N>
inline void multiply_pairs(const uint16_t *rows, int64_t stride, int64_t n_pairs,
                           const uint32_t *packed, float *out, int64_t out_stride) {
  V total[M][N] = {};
  for (int64_t j = 0; j < n_pairs; ++j) {
    VU right[N];
    for (int v = 0; v < N; ++v) right[v] = load_pairs(packed + (j * N + v) * 16);
    for (int m = 0; m < M; ++m) {
      const VU left = VU{} | pair_at(rows + m * stride, j);
      for (int v = 0; v < N; ++v) total[m][v] = add_products(total[m][v], left, right[v]);
    }
  }
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < N; ++v) save(out + m * out_stride + 16 * v, total[m][v]);
}

template <int N>
void multiply_all(const uint16_t *rows, int64_t n_rows, int64_t stride, int64_t n_pairs,
                  const uint32_t *packed, float *out, int64_t out_stride) {
  int64_t m = 0;
  for (; m + kTogether <= n_rows; m += kTogether)
    multiply_pairs<kTogether, N>(rows + m * stride, stride, n_pairs, packed, out + m * out_stride,
                                 out_stride);
  for (; kTogether > 3 && m + 3 <= n_rows; m += 3)
    multiply_pairs<3, N>(rows + m * stride, stride, n_pairs, packed, out + m * out_stride,
                         out_stride);
  for (; m < n_rows; ++m)
    multiply_pairs<1, N>(rows + m * stride, stride, n_pairs, packed, out + m * out_stride,
                         out_stride);
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
    save(weights + i, now == nothing ? zero : exponential(now - top));
    sums += load(weights + i);  // as rounded: the weights that are used add up to one
  }
  *largest = top;
  *total = sum(sums);
}

void attend(const StretchWork &w) {
  const int64_t n_panels = (w.n_keys + kPanel - 1) / kPanel, n_pairs = w.d / 2;
  for (int64_t p = 0; p < n_panels; ++p) {
    pack_keys(w.keys[p], w.d, w.packed);
    multiply_all<kPanelVectors>(w.queries, w.n_rows, w.d, n_pairs, w.packed,
                                w.scores + p * kPanel, kStretch);
  }
  for (int64_t r = 0; r < w.n_rows; ++r)
    soften(w.scores + r * kStretch, w.visible[r], n_panels * kPanel, w.weights + r * kStretch,
           w.to.largest + r, w.to.total + r);
  pack_values(w.values, w.d, w.n_keys, n_panels, w.packed);
  const int64_t n_key_pairs = n_panels * kPanel / 2;
  const uint32_t *packed = w.packed;
  for (int64_t start = 0; start < w.d; start += kPanel) {
    if (w.d - start >= kPanel)
      multiply_all<4>(w.weights, w.n_rows, kStretch, n_key_pairs, packed, w.to.mixed + start,
                      w.d);
    else
      multiply_all<2>(w.weights, w.n_rows, kStretch, n_key_pairs, packed, w.to.mixed + start,
                      w.d);
    packed += n_key_pairs * kPanel;
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
