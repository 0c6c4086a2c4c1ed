// Attention of a batch: shares queries, pages and sequences out among threads.
//
// What a query gets from a span of keys never depends on who computes it or when, and spans are
// put together in their order: any number of threads, chunks and neighbours gives the same bits.
#include "mixing.h"
#include "pool.h"

namespace ds {
namespace {

constexpr int64_t kSpan = 4;  // stretches that are put together before they join the rest
constexpr int64_t kMaxPartial = int64_t{8} << 20;  // numbers kept for spans computed at once

// Queries with the spans of keys that they see.
struct Item : Queries {
  int64_t n_spans;
  int64_t first_span;  // among the spans of all items
};

struct Memory {
  std::vector<uint16_t> queries, weights;
  std::vector<float> scores;
  std::vector<float> sums[2];
  std::vector<int64_t> visible;
  Expanded expanded;

  void reserve(int64_t d) {
    expanded.reserve(kStretchPages, d);
    const size_t rows = size_t(kQueries), width = size_t(d);
    if (queries.size() >= rows * width) return;
    queries.resize(rows * width);
    scores.resize(rows * size_t(kStretch));
    weights.resize(rows * size_t(kStretch));
    for (auto &sum : sums) sum.resize(rows * (width + 2));
    visible.resize(rows);
  }
};

struct Mixer : Mixing {
  using Mixing::Mixing;

  // Attend to one span of stretches; the result is put into `sum`.
  void attend_span(const Item &item, int64_t span, Memory &memory, const Mixed &sum) const {
    const int64_t most = n_seen(item, item.n_rows - 1);
    const int64_t first = span * kSpan * kStretch;
    const int64_t last = std::min(first + kSpan * kStretch, most);
    for (int64_t start = first; start < last; start += kStretch) {
      StretchWork work{};
      work.queries = memory.queries.data();
      work.n_rows = item.n_rows;
      work.d = model.d_head;
      work.n_keys = std::min(kStretch, most - start);
      memory.expanded.begin_stretch();
      for (int64_t i = 0; i < kStretchPages; ++i) {
        const int64_t page = start / kPage + i;
        if (page * kPage < most) {
          const Expanded::Page here = page_of(item, page, memory.expanded);
          work.keys[i] = here.keys;
          work.values[i] = here.values;
        }
        if ((page + kStretchPages) * kPage < last)
          work.next_keys[i] = next_keys(item, page + kStretchPages);
      }
      for (int64_t r = 0; r < item.n_rows; ++r)
        memory.visible[size_t(r)] =
            std::max(int64_t{0}, std::min(kStretch, n_seen(item, r) - start));
      work.visible = memory.visible.data();
      work.scores = memory.scores.data();
      work.weights = memory.weights.data();
      work.to = start == first ? sum : mixed_at(memory.sums[1].data(), item.n_rows);
      use.attend(work);
      if (start != first) use.merge(sum, work.to, item.n_rows, model.d_head);
    }
  }

  void run_whole(const Item &item, Memory &memory) const {
    take_queries(item, memory.queries.data());
    std::vector<float> later(size_t(item.n_spans > 1 ? item.n_rows * (model.d_head + 2) : 0));
    const Mixed sum = mixed_at(memory.sums[0].data(), item.n_rows);
    const Mixed part = mixed_at(later.data(), item.n_rows);
    for (int64_t span = 0; span < item.n_spans; ++span) {
      attend_span(item, span, memory, span == 0 ? sum : part);
      if (span) use.merge(sum, part, item.n_rows, model.d_head);
    }
    finish(item, sum);
  }

  // The first row that must not be answered together with row `r`.
  int64_t end_of_page(int64_t s, int64_t r) const {
    if (!has_cold(s)) return r + kQueries;
    const int64_t page = (batch.lengths[s] + r / heads_per_group()) / kPage;
    return ((page + 1) * kPage - batch.lengths[s]) * heads_per_group();
  }

  std::vector<Item> items() const {
    std::vector<Item> found;
    int64_t n_spans = 0;
    for (int64_t s = 0; s < batch.n_sequences; ++s) {
      const int64_t n_rows = n_dense_tokens(model, batch, s) * heads_per_group();
      for (int64_t g = 0; g < model.n_kv_heads; ++g)
        for (int64_t r = 0, end; r < n_rows; r = end) {
          end = std::min({r + kQueries, n_rows, end_of_page(s, r)});
          Item item{{s, g, r, end - r}, 0, n_spans};
          item.n_spans =
              (n_seen(item, item.n_rows - 1) + kSpan * kStretch - 1) / (kSpan * kStretch);
          n_spans += item.n_spans;
          found.push_back(item);
        }
    }
    return found;
  }
};

Memory &memory_for(int64_t d) {
  static thread_local Memory memory;
  memory.reserve(d);
  return memory;
}

// Few queries and many keys: threads share the spans of one query.
void run_spans(const Mixer &mixer, const std::vector<Item> &items) {
  const int64_t d = mixer.model.d_head;
  std::vector<int64_t> owners, places;
  int64_t size = 0;
  for (size_t i = 0; i < items.size(); ++i)
    for (int64_t span = 0; span < items[i].n_spans; ++span) {
      owners.push_back(int64_t(i));
      places.push_back(size);
      size += items[i].n_rows * (d + 2);
    }
  static thread_local std::vector<float> sums;
  if (sums.size() < size_t(size)) sums.resize(size_t(size));
  float *base = sums.data();
  Pool::get().run(int64_t(owners.size()), 1, [&](int64_t first, int64_t last) {
    Memory &memory = memory_for(d);
    for (int64_t i = first; i < last; ++i) {
      const Item &item = items[size_t(owners[size_t(i)])];
      mixer.take_queries(item, memory.queries.data());
      mixer.attend_span(item, i - item.first_span, memory,
                        mixed_at(base + places[size_t(i)], item.n_rows));
    }
  });
  for (const Item &item : items) {
    const Mixed sum = mixed_at(base + places[size_t(item.first_span)], item.n_rows);
    for (int64_t span = 1; span < item.n_spans; ++span)
      mixer.use.merge(sum, mixed_at(base + places[size_t(item.first_span + span)], item.n_rows),
                      item.n_rows, d);
    mixer.finish(item, sum);
  }
}

}  // namespace

void mix_tokens(ds_model &model, const Kernels &use, int64_t layer, const Batch &batch) {
  const Mixer mixer(model, use, layer, batch);
  const std::vector<Item> items = mixer.items();
  if (items.empty()) return;
  const int64_t d = model.d_head;
  int64_t n_partial = 0;
  bool is_long = false;
  for (const Item &item : items) {
    n_partial += item.n_spans * item.n_rows * (d + 2);
    is_long |= item.n_spans > 1;
  }
  if (is_long && int64_t(items.size()) < 4 * Pool::get().size() && n_partial <= kMaxPartial) {
    run_spans(mixer, items);
    return;
  }
  Pool::get().run(int64_t(items.size()), 1, [&](int64_t first, int64_t last) {
    // The last tiles of a chunk see the most: they go first, so that none is left to one thread.
    for (int64_t i = first; i < last; ++i)
      mixer.run_whole(items[items.size() - 1 - size_t(i)], memory_for(d));
  });
}

}  // namespace ds
