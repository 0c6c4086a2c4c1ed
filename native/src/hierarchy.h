// What reading and asking share in hierarchical attention: which pages there are, what they are
// looked at from, and which of them are chosen.
#pragma once
#include "mixing.h"
#include "pool.h"

namespace ds {

// Where a page is, and by how many pages it is moved up.
struct Place {
  int64_t page, moved;
};

struct Workspace {
  std::vector<float> sums, part, scores, turned, pooled, looks, votes;
  std::vector<const float *> rows;
  std::vector<uint16_t> queries, weights;
  std::vector<int64_t> visible, order;
  std::vector<uint8_t> record;  // of a page, as a file has it
  std::vector<uint8_t> marks;   // of what is chosen
  Expanded expanded;
};

// What some of the rows got of what all did.
inline Mixed slice(const Mixed &all, int64_t row, int64_t d) {
  return {all.largest + row, all.total + row, all.mixed + row * d};
}

// Queries of one group that choose together.
struct Block : Queries {
  int64_t page;
  int64_t number;  // of its tokens among those of the batch that choose together
};

// Tokens of one group and page that read, and the number of their first block among all.
struct Unit : Block {
  int64_t n_tokens;
};

// The distance in pages from which one is looked at that is so far away, beyond the reach.
int64_t looked_from(int64_t distance);

constexpr int64_t kScanning = 3;   // SCANNING in ops/hierarchical.py
constexpr float kTie = 1e-6f;      // TIE there

struct Hierarch : Mixing {
  using Mixing::Mixing;

  const Hierarchy &settings() const { return model.hierarchy; }
  int64_t window_start(int64_t page) const {
    return std::max(int64_t{0}, page - settings().window_pages);
  }
  int64_t sinks_end(int64_t page) const {
    return std::min(settings().sink_pages, window_start(page));
  }
  int64_t n_between(int64_t page) const { return window_start(page) - sinks_end(page); }
  int64_t n_recalled(int64_t page) const {
    return std::min(settings().recalled_pages, n_between(page));
  }
  bool is_beyond(int64_t page) const { return (page + 1) * kPage > settings().n_reach; }
  // By how many pages queries in page `own` are turned back to look at a page.
  int64_t turned_to(int64_t own, int64_t page) const;

  // How many of a sequence's new tokens come before those that ask.
  int64_t n_reading(int64_t s) const {
    if (!batch.asks_from) return batch.counts[s];
    return std::clamp(batch.asks_from[s] - batch.lengths[s], int64_t{0}, batch.counts[s]);
  }

  const uint16_t *nodes_of(const Queries &q, int64_t memory_page) const {
    return model.memory.key_page(layer, batch.memory[q.sequence][memory_page], q.group);
  }
  // For cold pages as a thread reads them.
  void make_room(const Queries &q, Workspace &w) const;
  // Queries as if they stood `moved` pages earlier, into w.queries.
  void turn(const Queries &q, int64_t moved, Workspace &w) const;
  void turn(const float *query, int64_t moved, uint16_t *to, Workspace &w) const;
  // What queries see without choosing: the first pages and the window.
  std::vector<Place> near(int64_t page) const;
  // Attend to some pages, and add what the queries get to `sum`. Of their own page, which comes
  // last, they see what is not behind them.
  void attend(const Queries &q, int64_t own, const std::vector<Place> &places, Workspace &w,
              const Mixed &sum, bool is_first) const;
  // Memory pages that stand for the pages between.
  std::vector<int64_t> memory_pages(int64_t page) const;
  // Pages between that some memory pages stand for, counted from the first between, to choose from:
  // into w.order. How many others the first memory page stands for that come before them.
  int64_t between(int64_t page, const std::vector<int64_t> &memory_pages, Workspace &w) const;
  // What pages weigh by their memory nodes for rows of queries that stand in a page, beside what
  // these have seen, the logarithm of which is `mass`: of each row and memory page 16 numbers.
  const float *look(const Queries &q, int64_t page, const std::vector<int64_t> &memory_pages,
                    const float *const *rows, int64_t n_rows, const float *mass,
                    Workspace &w) const;
  // The same for queries that have got `sum`.
  const float *look(const Queries &q, int64_t page, const std::vector<int64_t> &memory_pages,
                    const Mixed &sum, Workspace &w) const;
  // Whether this layer looks at memory nodes to find what keys are worth a look, of too many; or
  // else where the layer before found most.
  bool is_scanning() const { return settings().fusion == 0.0f || layer % kScanning == 0; }
  // The `n` of the pages in w.order that most of w.votes are for, in order.
  void best(int64_t n, Workspace &w) const;
  // The same by votes of this layer and of those before.
  void choose(const Block &block, int64_t n, Workspace &w) const;
  // The same as places.
  std::vector<Place> chosen(const Block &block, Workspace &w) const;
  void trace(const Queries &q, const std::vector<Place> &chosen) const;
  // A block's votes of all layers up to the one before, those of the first group.
  const float *fused_before(const Block &block) const {
    const int64_t place = block.number * model.n_kv_heads * model.fusion_pages;
    return model.fused[(layer + 1) % 2].data() + place + sinks_end(block.page);
  }

 private:
  const float *fuse(const Block &block, const Workspace &w) const;
};

// Tokens of a batch that read, one group behind the other; and how many blocks of them choose in each
// group.
std::vector<Unit> reading_units(const Hierarch &hierarch, int64_t *n_blocks);
// Their attention, into model.mixed.
void mix_reading(const Hierarch &hierarch, const std::vector<Unit> &units);
// Tokens of a batch that ask; the first of them has this number among those that choose.
void mix_asking(const Hierarch &hierarch, int64_t number);

}  // namespace ds
