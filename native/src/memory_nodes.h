// Memory nodes: a few vectors stand for a page of keys, and say whether it is worth a closer look.
//
// A page's two halves each leave the mean of their keys and the key that is farthest from it, which
// the mean then leaves out: queries often look for the one key that is unlike its neighbours, and a
// mean hides it. They lie in pages of 64 vectors, packed like keys (attention.h).
#pragma once
#include "attention.h"

namespace ds {
namespace {

constexpr int64_t kHalf = kPage / 2;

inline float key_at(const uint16_t *keys, int64_t place, int64_t i) {
  return bf16_to_float(keys[(i / 2 * kPage + place) * 2 + i % 2]);
}

inline void put_key(uint16_t *keys, int64_t place, int64_t i, float value) {
  keys[(i / 2 * kPage + place) * 2 + i % 2] = float_to_bf16(value);
}

// The four vectors of a page of keys, to every 16th place from `place` on of a page of memory.
[[maybe_unused]] void summarise(const uint16_t *keys, int64_t d, int64_t place, uint16_t *memory) {
  for (int64_t half = 0; half < 2; ++half) {
    const int64_t first = half * kHalf;
    float sums[kMaxHead], apart[kHalf] = {};
    for (int64_t i = 0; i < d; ++i) {
      float sum = 0.0f;
      for (int64_t t = 0; t < kHalf; ++t) sum += key_at(keys, first + t, i);
      sums[i] = sum;
      for (int64_t t = 0; t < kHalf; ++t) {
        const float difference = key_at(keys, first + t, i) - sum / kHalf;
        apart[t] += difference * difference;
      }
    }
    int64_t outlier = 0;
    for (int64_t t = 1; t < kHalf; ++t)
      if (apart[t] > apart[outlier]) outlier = t;
    for (int64_t i = 0; i < d; ++i) {
      const float key = key_at(keys, first + outlier, i);
      put_key(memory, place + 2 * half * kCovered, i, (sums[i] - key) / (kHalf - 1));
      put_key(memory, place + (2 * half + 1) * kCovered, i, key);
    }
  }
}

// Scores of a page of keys or memory nodes: out[r][..64] of each row. Memory is asked for the next
// page meanwhile, unless it is null.
[[maybe_unused]] void compare(const uint16_t *queries, int64_t n_rows, int64_t d,
                              const uint16_t *page, const uint16_t *next, float *scores,
                              int64_t stride) {
  multiply_all<kPage / 16>(queries, n_rows, d, {1, d / 2, &page, &next, 0}, scores, stride);
}

// Scores of a page of memory nodes, 64 of each row: what the pages weigh that they stand for, beside
// what a query has seen, whose logarithm is `mass`.
[[maybe_unused]] void weigh_nodes(const float *scores, int64_t n_rows, const float *mass,
                                  float *weights, int64_t stride) {
  const float many = std::log(float(kHalf - 1));  // keys that a mean stands for
  const V most = V{} + 60.0f;  // sums of as many as there can be stay finite
  for (int64_t r = 0; r < n_rows; ++r, scores += kPage, weights += stride) {
    V sums = {};
    for (int64_t node = 0; node < kPerPage; ++node) {
      const V now = load(scores + node * kCovered) + ((node % 2 ? 0.0f : many) - mass[r]);
      sums += exponential(now > most ? most : now);
    }
    save(weights, sums);
  }
}

// Add to the votes what share of one query's attention each of n pages gets that weigh so much.
[[maybe_unused]] void count(const float *weights, int64_t n, float *votes) {
  V sums = {};
  float rest = 0.0f;
  const int64_t whole = n / 16 * 16;
  for (int64_t i = 0; i < whole; i += 16) sums += load(weights + i);
  for (int64_t i = whole; i < n; ++i) rest += weights[i];
  const float share = 1.0f / (1.0f + sum(sums) + rest);
  for (int64_t i = 0; i < whole; i += 16)
    save(votes + i, load(votes + i) + load(weights + i) * share);
  for (int64_t i = whole; i < n; ++i) votes[i] += weights[i] * share;
}

// How many of n votes are not below the least.
[[maybe_unused]] int64_t n_reaching(const float *votes, int64_t n, float least) {
  const int64_t whole = n / 16 * 16;
  VI found = {};  // true is -1
  for (int64_t i = 0; i < whole; i += 16) found -= (VI)(load(votes + i) >= least);
  int64_t total = 0;
  for (int i = 0; i < 16; ++i) total += found[i];
  for (int64_t i = whole; i < n; ++i) total += votes[i] >= least;
  return total;
}

// Scores of a page of keys, 64 of each row: the largest, and the sum of weights beside it.
[[maybe_unused]] void weigh(const float *scores, int64_t n_rows, float *largest, float *total,
                            int64_t stride) {
  for (int64_t r = 0; r < n_rows; ++r, scores += kPage) {
    V most = load(scores);
    for (int64_t i = 16; i < kPage; i += 16) {
      const V now = load(scores + i);
      most = now > most ? now : most;
    }
    float top = most[0];
    for (int i = 1; i < 16; ++i) top = most[i] > top ? most[i] : top;
    V sums = {};
    for (int64_t i = 0; i < kPage; i += 16) sums += exponential(load(scores + i) - top);
    largest[r * stride] = top;
    total[r * stride] = sum(sums);
  }
}

// Add to the votes what share of one query's attention each of n pages gets that were weighed,
// beside keys that were looked at before.
[[maybe_unused]] void share(const float *largest, const float *totals, int64_t n, float most,
                            float total, float *votes) {
  float top = most;
  for (int64_t i = 0; i < n; ++i) top = largest[i] > top ? largest[i] : top;
  const int64_t whole = n / 16 * 16;
  float rest = 0.0f;
  V sums = {};
  const auto weight_at = [&](int64_t i) {
    return load(totals + i) * exponential(load(largest + i) - top);
  };
  for (int64_t i = 0; i < whole; i += 16) sums += weight_at(i);
  for (int64_t i = whole; i < n; ++i) rest += totals[i] * std::exp(largest[i] - top);
  const float all = sum(sums) + rest + total * std::exp(most - top), factor = 1.0f / all;
  for (int64_t i = 0; i < whole; i += 16) {
    save(votes + i, load(votes + i) + weight_at(i) * factor);
  }
  for (int64_t i = whole; i < n; ++i)
    votes[i] += totals[i] * std::exp(largest[i] - top) * factor;
}

}  // namespace
}  // namespace ds

#define DS_ATTENTION keep, attend, merge, summarise, compare, weigh_nodes, count, n_reaching, weigh, share
