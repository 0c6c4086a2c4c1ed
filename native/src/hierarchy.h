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
  std::vector<float> sums, part, scores, turned, pooled, votes, memory_scores;
  std::vector<uint16_t> queries, weights, page;
  std::vector<int64_t> visible, order;
  Expanded expanded;
};

// Queries of one group that choose together.
struct Block : Queries {
  int64_t page;
  int64_t number;  // of its tokens among those of the batch that choose together
};

// The distance in pages from which one is looked at that is so far away, beyond the reach.
int64_t looked_from(int64_t distance);

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

  // Queries as if they stood `moved` pages earlier, into w.queries.
  void turn(const Queries &q, int64_t moved, Workspace &w) const;
  void turn(const float *query, int64_t moved, uint16_t *to, Workspace &w) const;
  // What queries see without choosing: the first pages and the window.
  std::vector<Place> near(int64_t page) const;
  // Attend to some pages, and add what the queries get to `sum`. Of their own page, which comes
  // last, they see what is not behind them.
  void attend(const Queries &q, int64_t own, const std::vector<Place> &places, Workspace &w,
              const Mixed &sum, bool is_first) const;
  // Votes of memory nodes for the pages between, of queries that have attended to what is near:
  // shares of attention, one for each page and summed over the queries, into w.votes. If there are
  // very many pages, each head looks with the mean of its queries.
  void vote(const Queries &q, int64_t page, const Mixed &sum, Workspace &w) const;
  // The `n` pages between that most of w.votes are for, in order, counted from the first between.
  void choose(const Block &block, int64_t n, Workspace &w) const;
  // The same as places.
  std::vector<Place> chosen(const Block &block, Workspace &w) const;
  void trace(const Queries &q, const std::vector<Place> &chosen) const;

 private:
  const float *fuse(const Block &block, const Workspace &w) const;
  const float *pool(const Queries &q, const Mixed &sum, Workspace &w) const;
};

// Tokens of a batch that ask, into model.mixed; the first of them has this number among those that
// choose.
void mix_asking(const Hierarch &hierarch, int64_t number);

}  // namespace ds
