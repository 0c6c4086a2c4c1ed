// Attention of a batch: shares queries, pages and sequences out among threads.
//
// What a query gets from a stretch of keys never depends on who computes it or when. Stretches are put
// together to spans and spans to the whole, always in this order: any number of threads, chunks and
// neighbours gives the same bits. Threads may share stretches or spans, whichever keeps them busy.
#include "mixing.h"
#include "pool.h"

namespace ds {
namespace {

constexpr int64_t kSpan = 4 * kStretch;  // keys that are put together before they join the rest
constexpr int64_t kManySpans = 8;        // a thread; with fewer, some would wait for others
#if defined(DS_FREE_ORDER)
constexpr int64_t kWhole = kPage;
#else
constexpr int64_t kWhole = kStretch;  // keys that are never parted
#endif
constexpr int64_t kMaxPartial = int64_t{8} << 20;  // numbers kept for parts computed at once

// Queries with the keys that they see, in parts.
struct Item : Queries {
  int64_t n_keys;
  int64_t part, n_parts;  // keys of a part, and how many there are
  int64_t first_part;     // among the parts of all items
};

#if defined(DS_FREE_ORDER)
// Keys of a part if only threads decide: as few parts as give each thread the same number. What a
// query gets then depends on their number and on its neighbours; built to measure what that is worth.
int64_t free_part(int64_t n_keys, int64_t n_items) {
  const int64_t n_threads = Pool::get().size();
  int64_t n_parts = 1;
  if (n_items < 4 * n_threads)
    while (n_items * n_parts % n_threads) ++n_parts;
  return ((n_keys + n_parts - 1) / n_parts + kPage - 1) / kPage * kPage;
}
#endif

// Cut what items see into parts of so many keys; returns the number of parts.
int64_t cut(std::vector<Item> &items, int64_t part) {
  int64_t n_parts = 0;
  for (Item &item : items) {
#if defined(DS_FREE_ORDER)
    part = free_part(item.n_keys, int64_t(items.size()));
#endif
    item.part = part;
    item.n_parts = (item.n_keys + part - 1) / part;
    item.first_part = n_parts;
    n_parts += item.n_parts;
  }
  return n_parts;
}

// Numbers that are kept if all parts are computed at once.
int64_t n_partial(const std::vector<Item> &items, int64_t d) {
  int64_t n = 0;
  for (const Item &item : items) n += item.n_parts * item.n_rows * (d + 2);
  return n;
}

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

  // Attend to one part, stretch by stretch; the result is put into `sum`. Keys behind it are asked
  // for at its end, as the same thread will probably go on with them.
  void attend_part(const Item &item, int64_t number, Memory &memory, const Mixed &sum) const {
    const int64_t first = number * item.part, last = std::min(first + item.part, item.n_keys);
    for (int64_t start = first; start < last; start += kStretch) {
      StretchWork work{};
      work.queries = memory.queries.data();
      work.n_rows = item.n_rows;
      work.d = model.d_head;
      work.n_keys = std::min(kStretch, last - start);
      memory.expanded.begin_stretch();
      for (int64_t i = 0; i < kStretchPages; ++i) {
        const int64_t page = start / kPage + i;
        if (page * kPage < last) {
          if ((page + 1) * kPage < item.n_keys) ask_codes(item, page + 1);
          const Expanded::Page here = page_of(item, page, memory.expanded);
          work.keys[i] = here.keys;
          work.values[i] = here.values;
        }
        if ((page + kStretchPages) * kPage < item.n_keys)
          work.next_keys[i] = next_keys(item, page + kStretchPages);
      }
      for (int64_t r = 0; r < item.n_rows; ++r)
        memory.visible[size_t(r)] =
            std::max(int64_t{0}, std::min(work.n_keys, n_seen(item, r) - start));
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
    std::vector<float> later(size_t(item.n_parts > 1 ? item.n_rows * (model.d_head + 2) : 0));
    const Mixed sum = mixed_at(memory.sums[0].data(), item.n_rows);
    const Mixed part = mixed_at(later.data(), item.n_rows);
    for (int64_t i = 0; i < item.n_parts; ++i) {
      attend_part(item, i, memory, i == 0 ? sum : part);
      if (i) use.merge(sum, part, item.n_rows, model.d_head);
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
    for (int64_t s = 0; s < batch.n_sequences; ++s) {
      const int64_t n_rows = n_dense_tokens(model, batch, s) * heads_per_group();
      for (int64_t g = 0; g < model.n_kv_heads; ++g)
        for (int64_t r = 0, end; r < n_rows; r = end) {
          end = std::min({r + kQueries, n_rows, end_of_page(s, r)});
          Item item{{s, g, r, end - r}, 0, 0, 0, 0};
          item.n_keys = n_seen(item, item.n_rows - 1);
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

// Few queries and many keys: threads share the parts of one query.
void run_parts(const Mixer &mixer, const std::vector<Item> &items) {
  const int64_t d = mixer.model.d_head;
  std::vector<const Item *> owners;
  std::vector<Mixed> found;
  static thread_local std::vector<float> sums;
  float *place = reserve(sums, n_partial(items, d));
  for (const Item &item : items)
    for (int64_t i = 0; i < item.n_parts; ++i, place += item.n_rows * (d + 2)) {
      owners.push_back(&item);
      found.push_back(mixed_at(place, item.n_rows));
    }
  Pool::get().run(int64_t(owners.size()), 1, [&](int64_t first, int64_t last) {
    Memory &memory = memory_for(d);
    for (int64_t i = first; i < last; ++i) {
      const Item &item = *owners[size_t(i)];
      mixer.take_queries(item, memory.queries.data());
      mixer.attend_part(item, i - item.first_part, memory, found[size_t(i)]);
    }
  });
  for (const Item &item : items) {
    // To spans, then to the whole.
    const Mixed *parts = found.data() + item.first_part;
    const int64_t n = std::max(int64_t{1}, kSpan / item.part);
    for (int64_t i = 1; i < item.n_parts; ++i)
      if (i % n) mixer.use.merge(parts[i / n * n], parts[i], item.n_rows, d);
    for (int64_t i = n; i < item.n_parts; i += n)
      mixer.use.merge(parts[0], parts[i], item.n_rows, d);
    mixer.finish(item, parts[0]);
  }
}

// Cut items into parts that threads share; false if each item is better done in one piece.
bool share_parts(std::vector<Item> &items, int64_t d) {
  const int64_t n_threads = Pool::get().size();
  const bool is_long = std::any_of(items.begin(), items.end(),
                                   [](const Item &item) { return item.n_keys > kWhole; });
  if (!is_long || int64_t(items.size()) >= 4 * n_threads) return false;
  if (cut(items, kSpan) < kManySpans * n_threads) {
    cut(items, kStretch);
    if (n_partial(items, d) <= kMaxPartial) return true;
    cut(items, kSpan);
  }
  return n_partial(items, d) <= kMaxPartial;
}

}  // namespace

void mix_tokens(ds_model &model, const Kernels &use, int64_t layer, const Batch &batch) {
  const Mixer mixer(model, use, layer, batch);
  std::vector<Item> items = mixer.items();
  if (items.empty()) return;
  const int64_t d = model.d_head;
  cut(items, kSpan);
  if (share_parts(items, d)) {
    run_parts(mixer, items);
    return;
  }
  Pool::get().run(int64_t(items.size()), 1, [&](int64_t first, int64_t last) {
    // The last tiles of a chunk see the most: they go first, so that none is left to one thread.
    for (int64_t i = first; i < last; ++i)
      mixer.run_whole(items[items.size() - 1 - size_t(i)], memory_for(d));
  });
}

}  // namespace ds
