// Tokens that read: four that follow each other choose together, each group of heads for itself.
//
// First all tokens of a page attend to the window and the first pages. Then they look at the memory
// nodes of the pages between, all of them at one node after the other: of a long text, nodes are more
// than a cache holds. By what they expect there each four choose, and attend to the pages as well.
//
// Where there are very many pages to choose from, the mean query of all tokens of a page looks first,
// and says which memory pages they look at.
#include <cmath>

#include "hierarchy.h"

namespace ds {
namespace {

constexpr int64_t kBlockTokens = 4;  // more outvote the one that looks for something

// Behind the last of its tokens that choose together with one of them.
int64_t block_end(const Hierarch &h, const Unit &unit, int64_t token) {
  const int64_t heads = h.heads_per_group();
  const int64_t position = h.batch.lengths[unit.sequence] + unit.first / heads + token;
  return std::min(unit.n_tokens, token + kBlockTokens - position % kBlockTokens);
}

// The mean query of each head of a unit, and the mean logarithm of what its queries have seen.
void take_means(const Hierarch &h, const Unit &unit, const Mixed &sum, Workspace &w) {
  const int64_t d = h.model.d_head, heads = h.heads_per_group();
  const float share = 1.0f / float(unit.n_tokens);
  float *means = reserve(w.pooled, heads * (d + 1)), *mass = means + heads * d;
  std::fill_n(means, heads * (d + 1), 0.0f);
  for (int64_t r = 0; r < unit.n_rows; ++r) {
    const float *row = h.query(unit, r);
    for (int64_t i = 0; i < d; ++i) means[r % heads * d + i] += row[i] * share;
    mass[r % heads] += (sum.largest[r] + std::log(sum.total[r])) * share;
  }
  w.rows.clear();
  for (int64_t i = 0; i < heads; ++i) w.rows.push_back(means + i * d);
}

// The memory pages that a unit looks at: all, or those that its mean queries prefer.
std::vector<int64_t> looked_at(const Hierarch &h, const Unit &unit, const Mixed &sum,
                               Workspace &w) {
  std::vector<int64_t> all = h.memory_pages(unit.page);
  if (h.n_between(unit.page) <= h.settings().looked_pages) return all;
  const int64_t d = h.model.d_head, heads = h.heads_per_group(), n = h.n_between(unit.page);
  take_means(h, unit, sum, w);
  const float *looks =
      h.look(unit, unit.page, all, w.rows.data(), heads, w.pooled.data() + heads * d, w);
  const int64_t skipped = h.between(unit.page, all, w);
  w.votes.assign(size_t(n), 0.0f);
  for (int64_t r = 0; r < heads; ++r)
    h.use.count(looks + r * int64_t(all.size()) * kCovered + skipped, n, w.votes.data());
  std::vector<float> votes(all.size(), 0.0f);
  for (int64_t p = 0; p < n; ++p) votes[size_t((p + skipped) / kCovered)] += w.votes[size_t(p)];
  const auto is_better = [&](int64_t a, int64_t b) {
    const float of_a = votes[size_t(a - all[0])], of_b = votes[size_t(b - all[0])];
    return of_a > of_b || (of_a == of_b && a < b);
  };
  std::vector<int64_t> best = all;
  const int64_t n_best = h.settings().looked_pages / kCovered;
  std::nth_element(best.begin(), best.begin() + n_best, best.end(), is_better);
  best.resize(size_t(n_best));
  std::sort(best.begin(), best.end());
  return best;
}

// Votes of a block by what its rows, `width` numbers apart, expect of pages `first` and behind.
void vote(const Hierarch &h, const float *looks, int64_t width, int64_t first, int64_t n_rows,
          int64_t n_between, Workspace &w) {
  const int64_t n = int64_t(w.order.size());
  float *votes = reserve(w.part, n);
  std::fill_n(votes, n, 0.0f);
  for (int64_t r = 0; r < n_rows; ++r) h.use.count(looks + r * width + first, n, votes);
  w.votes.assign(size_t(n_between), 0.0f);
  for (int64_t i = 0; i < n; ++i) w.votes[size_t(w.order[size_t(i)])] = votes[i] / float(n_rows);
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
  const int64_t n = h.n_between(page);
  const float *looks = nullptr;
  std::vector<int64_t> memory_pages;
  if (n) {
    memory_pages = looked_at(h, unit, sum, w);
    looks = h.look(unit, page, memory_pages, sum, w);
  }
  const int64_t width = int64_t(memory_pages.size()) * kCovered;
  int64_t number = unit.number;
  for (int64_t t = 0, end; t < unit.n_tokens; t = end, ++number) {
    end = block_end(h, unit, t);
    const Queries q{unit.sequence, unit.group, unit.first + t * heads, (end - t) * heads};
    std::vector<Place> chosen;
    if (n) {
      const int64_t skipped = h.between(page, memory_pages, w);
      vote(h, looks + t * heads * width, width, skipped, q.n_rows, n, w);
      chosen = h.chosen({q, page, number}, w);
    }
    h.trace(q, chosen);
    attend(t * heads, end * heads, chosen, false);
    h.finish(q, slice(sum, t * heads, d));
  }
}

}  // namespace

std::vector<Unit> reading_units(const Hierarch &h, int64_t *n_blocks) {
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

void mix_reading(const Hierarch &h, const std::vector<Unit> &units) {
  Pool::get().run(int64_t(units.size()), 1, [&](int64_t first, int64_t last) {
    static thread_local Workspace workspace;
    for (int64_t i = first; i < last; ++i) read(h, units[size_t(i)], workspace);
  });
}

}  // namespace ds
