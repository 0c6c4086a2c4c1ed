// What dense and hierarchical attention share: which queries go together and where things are.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>

#include "expanded.h"

namespace ds {

// Queries that are answered together: rows [first, first + n_rows) of a sequence's tokens times
// heads that share keys and values.
struct Queries {
  int64_t sequence, group, first, n_rows;
};

inline uint64_t next_pass() {
  static std::atomic<uint64_t> number{0};
  return ++number;
}

// One layer of a batch.
struct Mixing {
  ds_model &model;
  const Kernels &use;
  const Batch &batch;
  int64_t layer;
  uint64_t pass = next_pass();  // unlike that of any other layer or batch
  std::vector<int64_t> starts;  // each sequence's first row in the batch

  Mixing(ds_model &m, const Kernels &kernels, int64_t number, const Batch &b)
      : model(m), use(kernels), batch(b), layer(number) {
    int64_t row = 0;
    for (int64_t s = 0; s < b.n_sequences; row += b.counts[s++]) starts.push_back(row);
  }

  int64_t heads_per_group() const { return model.n_heads / model.n_kv_heads; }
  int64_t width() const { return (model.n_heads + 2 * model.n_kv_heads) * model.d_head; }

  // Keys that a row sees: those up to its own.
  int64_t n_seen(const Queries &q, int64_t row) const {
    return batch.lengths[q.sequence] + (q.first + row) / heads_per_group() + 1;
  }

  int64_t head_of(const Queries &q, int64_t row) const {
    return q.group * heads_per_group() + (q.first + row) % heads_per_group();
  }

  int64_t token_of(const Queries &q, int64_t row) const {
    return starts[size_t(q.sequence)] + (q.first + row) / heads_per_group();
  }

  const uint16_t *keys(const Queries &q, int64_t page) const {
    return model.cache.key_page(layer, batch.pages[q.sequence][page], q.group);
  }

  const uint16_t *values(const Queries &q, int64_t page) const {
    return model.cache.value_page(layer, batch.pages[q.sequence][page], q.group);
  }

  bool has_cold(int64_t s) const { return batch.cold && batch.cold[s]; }

  // The page that queries stand in; all in one if their sequence has cold pages.
  int64_t own_page(const Queries &q) const { return (n_seen(q, 0) - 1) / kPage; }

  bool is_cold(const Queries &q, int64_t page) const {
    return has_cold(q.sequence) && model.cold.hides(page, own_page(q));
  }

  // A page as queries see it; what they have seen in a stretch stays until the next begins.
  Expanded::Page page_of(const Queries &q, int64_t page, Expanded &expanded) const {
    if (!is_cold(q, page)) return {keys(q, page), values(q, page)};
    return expanded.get(use, model, cold_head(q, page), page);
  }

  // Ask memory for the codes of a page that `page_of` will expand next: to wait for them takes three
  // times as long as to expand them. From a file nothing is read ahead.
  void ask_codes(const Queries &q, int64_t page) const {
    if (!is_cold(q, page) || model.cold.file) return;
    const Cache &cold = model.cold.cache;
    const int64_t place = cold_head(q, page).page, n = kPage * model.d_head * model.cold.bits / 8;
    const uint8_t *keys = cold.place(cold.keys, layer, place, q.group);
    const uint8_t *values = cold.place(cold.values, layer, place, q.group);
    for (int64_t i = 0; i < n; i += 64) {
      __builtin_prefetch(keys + i, 0, 2);
      __builtin_prefetch(values + i, 0, 2);
    }
  }

  // Scores of a page's keys, of those of a cold one by their codes. Memory is asked for `next` to it
  // meanwhile, if that is a page and in the same form. `record` is room for a page from a file.
  void compare(const Queries &q, int64_t page, int64_t next, const uint16_t *queries,
               std::vector<uint8_t> &record, float *scores) const {
    const int64_t d = model.d_head;
    const bool is_last = next < 0 || is_cold(q, page) != is_cold(q, next);
    if (!is_cold(q, page))
      return use.compare(queries, q.n_rows, d, keys(q, page), is_last ? nullptr : keys(q, next),
                         scores, kPage);
    const ColdHead head = cold_head(q, page);
    const Cold &cold = model.cold;
    const uint8_t *codes = cold.codes(use, layer, head.page, q.group, false, record).keys;
    if (!codes) return void(std::fill_n(scores, q.n_rows * kPage, 0.0f));
    const uint8_t *asked =
        is_last || cold.file
            ? nullptr
            : cold.cache.place(cold.cache.keys, layer, cold_head(q, next).page, q.group);
    use.compare_codes(queries, q.n_rows, d, cold.bits, codes, asked, scores, kPage);
  }

  ColdHead cold_head(const Queries &q, int64_t page) const {
    return {layer, batch.cold[q.sequence][page], q.group, pass};
  }

  // Keys to ask memory for; null if they are to be expanded.
  const uint16_t *next_keys(const Queries &q, int64_t page) const {
    return is_cold(q, page) ? nullptr : keys(q, page);
  }

  const float *query(const Queries &q, int64_t row) const {
    return model.qkv.data() + token_of(q, row) * width() + head_of(q, row) * model.d_head;
  }

  void take_queries(const Queries &q, uint16_t *to) const {
    const int64_t d = model.d_head;
    for (int64_t r = 0; r < q.n_rows; ++r) use.to_half(query(q, r), d, to + r * d);
  }

  void finish(const Queries &q, const Mixed &sum) const {
    const int64_t d = model.d_head;
    for (int64_t r = 0; r < q.n_rows; ++r) {
      float *out = model.mixed.data() + (token_of(q, r) * model.n_heads + head_of(q, r)) * d;
      const float factor = 1.0f / sum.total[r];
      for (int64_t j = 0; j < d; ++j) out[j] = sum.mixed[r * d + j] * factor;
    }
  }
};

inline Mixed mixed_at(float *memory, int64_t n_rows) {
  return {memory, memory + n_rows, memory + 2 * n_rows};
}

}  // namespace ds
