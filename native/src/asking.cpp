// Tokens that ask: the last of a prompt, and those that are generated.
//
// What reads a text may miss a page now and then; a question that misses the one page with its answer
// is lost. The few tokens that ask choose each for itself, and by the keys of all pages between
// instead of their memory nodes; of very many pages, by those of the ones that memory nodes prefer.
//
// Tokens in one page look at the same pages. Threads share the pages out among them: what a query
// gets from a page depends on neither the other queries nor on who looks.
#include <numeric>

#include "hierarchy.h"

namespace ds {
namespace {

constexpr int64_t kTogether = 16;  // tokens that look at a page at the same time
constexpr int64_t kSpan = 16;      // pages that a thread looks at
constexpr int64_t kNodeSpan = 32;  // pages of memory nodes that it does

// Whether a token in a page cannot look at the keys of all pages between.
bool has_too_many(const Hierarch &h, int64_t page) {
  return h.n_between(page) > h.settings().scanned_pages;
}

// Tokens of one group and page.
struct Asked : Block {
  std::vector<int64_t> looked_at;  // pages, from the first between on
  int64_t sums, looks, weights;    // where its rows begin in each
};

struct Asking {
  const Hierarch &h;
  int64_t first;  // number of the first token that asks
  std::vector<Asked> all;
  std::vector<float> &sums;                 // [rows][d + 2], block by block
  std::vector<float> &largest, &total;      // [rows][pages looked at], block by block
  std::vector<float> &weights;              // [rows][pages between], of blocks with too many

  int64_t width() const { return h.model.d_head + 2; }
  Mixed sum_of(const Asked &a) { return mixed_at(sums.data() + a.sums * width(), a.n_rows); }

  bool has_too_many(const Asked &a) const { return ds::has_too_many(h, a.page); }
  void see_near(Asked &a, Workspace &w);
  void weigh_pages(const Asked &a, int64_t span, Workspace &w);
  void pick(Asked &a, Workspace &w);
  void look(const Asked &a, int64_t span, Workspace &w);
  void recall(const Asked &a, int64_t token, Workspace &w);
  // Where a block's own votes are kept for the next layer, those of the first group.
  float *latest(const Asked &a) {
    return h.model.latest.data() + (a.number - first) * h.model.n_kv_heads * h.model.fusion_pages;
  }
  void take_over(const Asked &a, Workspace &w);
};

// What is near; all pages between are looked at, if they are not too many.
void Asking::see_near(Asked &a, Workspace &w) {
  h.attend(a, a.page, h.near(a.page), w, sum_of(a), true);
  if (has_too_many(a)) return;
  a.looked_at.resize(size_t(h.n_between(a.page)));
  std::iota(a.looked_at.begin(), a.looked_at.end(), int64_t{0});
}

// What the pages weigh that a span of pages of memory nodes stands for.
void Asking::weigh_pages(const Asked &a, int64_t span, Workspace &w) {
  const std::vector<int64_t> all = h.memory_pages(a.page);
  const int64_t from = span * kNodeSpan;
  const int64_t end = std::min(from + kNodeSpan, int64_t(all.size()));
  const std::vector<int64_t> some(all.begin() + from, all.begin() + end);
  const float *looks = h.look(a, a.page, some, sum_of(a), w);
  const int64_t skipped = h.between(a.page, some, w), width = int64_t(some.size()) * kCovered;
  const int64_t n = h.n_between(a.page);
  for (int64_t r = 0; r < a.n_rows && !w.order.empty(); ++r)
    std::copy_n(looks + r * width + skipped, w.order.size(),
                weights.data() + a.weights + r * n + w.order[0]);
}

// Votes of the layer before, of all its groups.
void Asking::take_over(const Asked &a, Workspace &w) {
  const int64_t groups = h.model.n_kv_heads, n_pages = h.model.fusion_pages;
  const int64_t n = h.n_between(a.page);
  w.votes.assign(size_t(n), 0.0f);
  const float *own = latest(a), *fused = h.fused_before(a);
  for (int64_t g = 0; g < groups; ++g, fused += n_pages, own += n_pages)
    for (int64_t p = 0; p < n; ++p) w.votes[size_t(p)] += own[p] + kTie * fused[p];
}

// The pages that these are most for are looked at, or those in which the layer before found most.
void Asking::pick(Asked &a, Workspace &w) {
  const int64_t n = h.n_between(a.page), n_scanned = h.settings().scanned_pages;
  w.order.resize(size_t(n));
  std::iota(w.order.begin(), w.order.end(), int64_t{0});
  if (h.is_scanning()) {
    w.votes.assign(size_t(n), 0.0f);
    for (int64_t r = 0; r < a.n_rows; ++r)
      h.use.count(weights.data() + a.weights + r * n, n, w.votes.data());
    for (float &votes : w.votes) votes /= float(a.n_rows);
    h.choose(a, n_scanned, w);
  } else {
    take_over(a, w);
    h.best(n_scanned, w);
  }
  a.looked_at = w.order;
}

// Of each page in a span and each query, the largest score and the sum of weights beside it.
void Asking::look(const Asked &a, int64_t span, Workspace &w) {
  const int64_t n = int64_t(a.looked_at.size());
  const int64_t first = span * kSpan, last = std::min(n, first + kSpan);
  const int64_t between = h.sinks_end(a.page);
  float *scores = reserve(w.scores, kQueries * kStretch);
  int64_t moved = -1;
  for (int64_t i = first; i < last; ++i) {
    const int64_t page = between + a.looked_at[size_t(i)], wanted = h.turned_to(a.page, page);
    if (wanted != moved) h.turn(a, moved = wanted, w);
    const int64_t next = i + 1 < last ? between + a.looked_at[size_t(i + 1)] : -1;
    h.compare(a, page, next, w.queries.data(), w.record, scores);
    h.use.weigh(scores, a.n_rows, largest.data() + a.looks + i, total.data() + a.looks + i, n);
  }
}

// One token's choice, and what it gets from it.
void Asking::recall(const Asked &a, int64_t token, Workspace &w) {
  const int64_t heads = h.heads_per_group(), row = token * heads, d = h.model.d_head;
  const int64_t n = int64_t(a.looked_at.size()), n_between = h.n_between(a.page);
  const Queries q{a.sequence, a.group, a.first + row, heads};
  const Mixed sum = slice(sum_of(a), row, d);
  std::vector<Place> chosen;
  if (n) {
    float *votes = reserve(w.looks, n);
    std::fill_n(votes, n, 0.0f);
    for (int64_t r = 0; r < heads; ++r) {
      const int64_t at = a.looks + (row + r) * n;
      h.use.share(largest.data() + at, total.data() + at, n, sum.largest[r], sum.total[r], votes);
    }
    w.votes.assign(size_t(n_between), 0.0f);
    for (int64_t i = 0; i < n; ++i)
      w.votes[size_t(a.looked_at[size_t(i)])] = votes[i] / float(heads);
    if (has_too_many(a) && h.settings().fusion != 0.0f)
      std::copy_n(w.votes.data(), n_between, latest(a) + a.group * h.model.fusion_pages);
    w.order = a.looked_at;
    chosen = h.chosen({q, a.page, a.number + token}, w);
  }
  h.trace(q, chosen);
  h.attend(q, a.page, chosen, w, sum, false);
  h.finish(q, sum);
}

// Where there are too many pages to look at, each token looks at its own choice of them.
std::vector<Asked> asked_of(const Hierarch &h, int64_t number) {
  std::vector<Asked> found;
  const int64_t heads = h.heads_per_group();
  int64_t n_sums = 0;
  for (int64_t s = 0; s < h.batch.n_sequences; ++s) {
    const int64_t length = h.batch.lengths[s], count = h.batch.counts[s];
    const int64_t from = std::max(n_dense_tokens(h.model, h.batch, s), h.n_reading(s));
    for (int64_t at = from, end; at < count; at = end) {
      const int64_t page = (length + at) / kPage;
      const int64_t most = has_too_many(h, page) ? 1 : std::min(kTogether, kQueries / heads);
      end = std::min({count, at + std::max(int64_t{1}, most), (page + 1) * kPage - length});
      for (int64_t g = 0; g < h.model.n_kv_heads; ++g) {
        const int64_t n_rows = (end - at) * heads;
        found.push_back(
            {{{s, g, at * heads, n_rows}, page, number + at - from}, {}, n_sums, 0, 0});
        n_sums += n_rows;
      }
    }
    number += count - from;
  }
  return found;
}

}  // namespace

void mix_asking(const Hierarch &h, int64_t number) {
  static thread_local std::vector<float> sums, largest, total, weights;
  Asking asking{h, number, asked_of(h, number), sums, largest, total, weights};
  auto &all = asking.all;
  const auto each = [&](int64_t n, const auto &act) {
    Pool::get().run(n, 1, [&](int64_t first, int64_t last) {
      static thread_local Workspace workspace;
      for (int64_t i = first; i < last; ++i) act(i, workspace);
    });
  };
  reserve(sums, (all.back().sums + all.back().n_rows) * asking.width());
  each(int64_t(all.size()), [&](int64_t i, Workspace &w) { asking.see_near(all[size_t(i)], w); });

  std::vector<std::pair<int64_t, int64_t>> nodes, spans, tokens;  // of which block, and which
  int64_t n_weights = 0;
  bool is_picking = false;
  for (size_t i = 0; i < all.size(); ++i) {
    if (!asking.has_too_many(all[i])) continue;
    is_picking = true;
    if (!h.is_scanning()) continue;
    all[i].weights = n_weights;
    n_weights += h.n_between(all[i].page) * all[i].n_rows;
    const int64_t n = int64_t(h.memory_pages(all[i].page).size());
    for (int64_t span = 0; span * kNodeSpan < n; ++span) nodes.emplace_back(i, span);
  }
  if (is_picking) {
    reserve(weights, n_weights);
    const int64_t n_tokens = all.back().number + 1 - number;
    reserve(h.model.latest, n_tokens * h.model.n_kv_heads * h.model.fusion_pages);
    each(int64_t(nodes.size()), [&](int64_t i, Workspace &w) {
      asking.weigh_pages(all[size_t(nodes[size_t(i)].first)], nodes[size_t(i)].second, w);
    });
    each(int64_t(all.size()), [&](int64_t i, Workspace &w) {
      if (asking.has_too_many(all[size_t(i)])) asking.pick(all[size_t(i)], w);
    });
  }
  int64_t n_looks = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    const int64_t n = int64_t(all[i].looked_at.size());
    all[i].looks = n_looks;
    n_looks += n * all[i].n_rows;
    for (int64_t span = 0; span * kSpan < n; ++span) spans.emplace_back(i, span);
    for (int64_t t = 0; t < all[i].n_rows / h.heads_per_group(); ++t) tokens.emplace_back(i, t);
  }
  reserve(largest, n_looks);
  reserve(total, n_looks);
  each(int64_t(spans.size()), [&](int64_t i, Workspace &w) {
    asking.look(all[size_t(spans[size_t(i)].first)], spans[size_t(i)].second, w);
  });
  each(int64_t(tokens.size()), [&](int64_t i, Workspace &w) {
    asking.recall(all[size_t(tokens[size_t(i)].first)], tokens[size_t(i)].second, w);
  });
}

}  // namespace ds
