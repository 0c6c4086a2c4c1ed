// Tokens that read: four that follow each other choose together, each group of heads for itself.
//
// First all tokens of a page attend to the window and the first pages. Then they look at the memory
// nodes of the pages between, all of them at one node after the other: of a long text, nodes are more
// than a cache holds. By what they expect there each four choose, and attend to the pages as well.
//
// Where there are very many pages to choose from, each head of four tokens looks with the mean of its
// queries.
#include <cmath>

#include "hierarchy.h"

namespace ds {
namespace {

constexpr int64_t kBlockTokens = 4;  // more outvote the one that looks for something

// Tokens of one group and page, and the number of the first block among all.
struct Unit : Block {
  int64_t n_tokens;
};

// Behind the last of its tokens that choose together with one of them.
int64_t block_end(const Hierarch &h, const Unit &unit, int64_t token) {
  const int64_t heads = h.heads_per_group();
  const int64_t position = h.batch.lengths[unit.sequence] + unit.first / heads + token;
  return std::min(unit.n_tokens, token + kBlockTokens - position % kBlockTokens);
}

// Those of all sequences, one group behind the other; and how many blocks there are in a group.
std::vector<Unit> units_of(const Hierarch &h, int64_t *n_blocks) {
  std::vector<Unit> found;
  const int64_t heads = h.heads_per_group();
  int64_t number = 0;
  for (int64_t s = 0; s < h.batch.n_sequences; ++s) {
    const int64_t length = h.batch.lengths[s], last = h.n_reading(s);
    for (int64_t at = n_dense_tokens(h.model, h.batch, s), end; at < last; at = end) {
      const int64_t page = (length + at) / kPage;
      end = std::min(last, (page + 1) * kPage - length);
      for (int64_t g = 0; g < h.model.n_kv_heads; ++g)
        found.push_back({{{s, g, at * heads, (end - at) * heads}, page, number}, end - at});
      number += (length + end - 1) / kBlockTokens - (length + at) / kBlockTokens + 1;
    }
  }
  *n_blocks = number;
  return found;
}

// Rows that look, and the logarithm of what each has seen.
struct Looking {
  const float *const *rows;
  const float *mass;
  int64_t n_rows;
};

Looking all_rows(const Hierarch &h, const Unit &unit, const Mixed &sum, Workspace &w) {
  float *mass = reserve(w.pooled, unit.n_rows);
  w.rows.clear();
  for (int64_t r = 0; r < unit.n_rows; ++r) {
    w.rows.push_back(h.query(unit, r));
    mass[r] = sum.largest[r] + std::log(sum.total[r]);
  }
  return {w.rows.data(), mass, unit.n_rows};
}

Looking pooled_rows(const Hierarch &h, const Unit &unit, const Mixed &sum, Workspace &w) {
  const int64_t d = h.model.d_head, heads = h.heads_per_group();
  float *means = reserve(w.pooled, unit.n_rows * (d + 1)), *mass = means + unit.n_rows * d;
  std::fill_n(means, unit.n_rows * (d + 1), 0.0f);
  w.rows.clear();
  int64_t n = 0;
  for (int64_t t = 0, end; t < unit.n_tokens; t = end, n += heads) {
    end = block_end(h, unit, t);
    const float share = 1.0f / float(end - t);
    for (int64_t r = t * heads; r < end * heads; ++r) {
      const float *row = h.query(unit, r);
      const int64_t to = n + r % heads;
      for (int64_t i = 0; i < d; ++i) means[to * d + i] += row[i] * share;
      mass[to] += (sum.largest[r] + std::log(sum.total[r])) * share;
    }
    for (int64_t i = 0; i < heads; ++i) w.rows.push_back(means + (n + i) * d);
  }
  return {w.rows.data(), mass, n};
}

void read(const Hierarch &h, const Unit &unit, Workspace &w) {
  const int64_t d = h.model.d_head, heads = h.heads_per_group(), page = unit.page;
  const Mixed sum = mixed_at(reserve(w.sums, unit.n_rows * (d + 2)), unit.n_rows);
  const auto attend = [&](int64_t row, int64_t last, const std::vector<Place> &places,
                          bool is_first) {
    for (; row < last; row += kQueries) {
      const Queries q{unit.sequence, unit.group, unit.first + row, std::min(kQueries, last - row)};
      h.attend(q, page, places, w, slice(sum, row, d), is_first);
    }
  };
  attend(0, unit.n_rows, h.near(page), true);
  const int64_t n = h.n_between(page), width = h.n_memory(page) * kCovered;
  const bool is_pooled = n > h.settings().pooled_pages;
  const float *looks = nullptr;
  if (n) {
    const Looking looking = is_pooled ? pooled_rows(h, unit, sum, w) : all_rows(h, unit, sum, w);
    looks = h.look(unit, page, looking.rows, looking.n_rows, looking.mass, w);
  }
  int64_t number = unit.number, row = 0;
  for (int64_t t = 0, end; t < unit.n_tokens; t = end, ++number) {
    end = block_end(h, unit, t);
    const Queries q{unit.sequence, unit.group, unit.first + t * heads, (end - t) * heads};
    std::vector<Place> chosen;
    if (n) {
      const int64_t n_rows = is_pooled ? heads : q.n_rows;
      w.votes.assign(size_t(n), 0.0f);
      for (int64_t r = row; r < row + n_rows; ++r)
        h.use.count(looks + r * width, n, w.votes.data());
      for (float &votes : w.votes) votes /= float(n_rows);
      row += n_rows;
      chosen = h.chosen({q, page, number}, w);
    }
    h.trace(q, chosen);
    attend(t * heads, end * heads, chosen, false);
    h.finish(q, slice(sum, t * heads, d));
  }
}

}  // namespace

int64_t mix_reading(const Hierarch &h, bool is_counted_only) {
  int64_t n_blocks = 0;
  const std::vector<Unit> units = units_of(h, &n_blocks);
  if (is_counted_only) return n_blocks;
  Pool::get().run(int64_t(units.size()), 1, [&](int64_t first, int64_t last) {
    static thread_local Workspace workspace;
    for (int64_t i = first; i < last; ++i) read(h, units[size_t(i)], workspace);
  });
  return n_blocks;
}

}  // namespace ds
