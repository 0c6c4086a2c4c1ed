// Hierarchical attention: a window, the first positions, and the pages that memory nodes point at.
//
// Four queries that follow each other choose together, each group of heads for itself: first they
// attend to the window and the first pages, then the memory nodes of the pages between say how much
// attention each page would get, and those that would get most are attended to as well. Pages that
// are not chosen are not read. New tokens that are few choose alone, so that one token gives the
// same bits as several that are checked at once.
//
// Beyond the positions that a model reaches well, chosen pages are moved up to just before the
// window. Keys stay as they are: moving a page by some positions is turning the query back by as
// many, since scores depend on distances only. Memory nodes are looked at from distances that grow
// with the logarithm of the true ones: the order of what is far and near stays, and none is too far.
#include <cmath>
#include <numeric>

#include "mixing.h"
#include "pool.h"

namespace ds {
namespace {

constexpr int64_t kFewTokens = 16;  // up to which each new token chooses alone
constexpr int64_t kBlockTokens = 4;  // tokens that choose together: more outvote a question
constexpr int64_t kNear = 16;       // pages up to which memory nodes are looked at from where they are
constexpr double kDoubling = 8;     // pages farther for each doubling beyond
constexpr int64_t kExpanded = 64;   // cold pages that a thread keeps as it has read them

// Where a page is, and by how many pages it is moved up.
struct Place {
  int64_t page, moved;
};

struct Workspace {
  std::vector<float> sums, part, scores, turned, votes, memory_scores;
  std::vector<uint16_t> queries, weights;
  std::vector<int64_t> visible, order;
  Expanded expanded;
};

int64_t looked_from(int64_t distance) {
  if (distance <= kNear) return distance;
  return kNear + int64_t(kDoubling * std::log2(double(distance) / kNear));
}

// Queries of one group that choose together.
struct Block : Queries {
  int64_t page;
  int64_t number;  // of its tokens among those of the batch that choose together
};

struct Hierarch : Mixing {
  using Mixing::Mixing;

  const Hierarchy &settings() const { return model.hierarchy; }
  int64_t window_start(int64_t page) const {
    return std::max(int64_t{0}, page - settings().window_pages);
  }
  int64_t sinks_end(int64_t page) const {
    return std::min(settings().sink_pages, window_start(page));
  }
  bool is_beyond(int64_t page) const { return (page + 1) * kPage > settings().n_reach; }

  std::vector<Block> blocks() const;
  void run(const Block &block, Workspace &w) const;

 private:
  Queries part_of(const Block &block, int64_t first) const {
    return {block.sequence, block.group, block.first + first,
            std::min(kQueries, block.n_rows - first)};
  }
  void turn(const Queries &q, int64_t moved, Workspace &w) const;
  void attend(const Queries &q, int64_t own, const std::vector<Place> &places, Workspace &w,
              const Mixed &sum, bool is_first) const;
  void vote(const Queries &q, const Block &block, const Mixed &sum, Workspace &w) const;
  const float *fuse(const Block &block, const Workspace &w) const;
  static void prefer(int64_t first, int64_t last, const float *votes, Workspace &w);
  std::vector<Place> choose(const Block &block, Workspace &w) const;
};

// Queries as if they stood `moved` pages earlier, into w.queries.
void Hierarch::turn(const Queries &q, int64_t moved, Workspace &w) const {
  const int64_t d = model.d_head;
  uint16_t *to = reserve(w.queries, kQueries * d);
  if (!moved) return take_queries(q, to);
  const float *cosines = model.page_cosines + moved * (d / 2);
  const float *sines = model.page_sines + moved * (d / 2);
  float *turned = reserve(w.turned, 2 * d), *back = turned + d;
  for (int64_t i = 0; i < d / 2; ++i) back[i] = -sines[i];
  for (int64_t r = 0; r < q.n_rows; ++r) {
    std::copy_n(query(q, r), d, turned);
    use.rotate(turned, cosines, back, d);
    use.to_half(turned, d, to + r * d);
  }
}

// Attend to some pages, and add what the queries get to `sum`. Of their own page, which comes last,
// they see what is not behind them.
void Hierarch::attend(const Queries &q, int64_t own, const std::vector<Place> &places, Workspace &w,
                      const Mixed &sum, bool is_first) const {
  const int64_t d = model.d_head;
  StretchWork work{};
  work.n_rows = q.n_rows;
  work.d = d;
  work.scores = reserve(w.scores, kQueries * kStretch);
  work.weights = reserve(w.weights, kQueries * kStretch);
  if (has_cold(q.sequence)) w.expanded.reserve(kExpanded, d);
  int64_t *visible = reserve(w.visible, kQueries);
  work.visible = visible;
  float *part = reserve(w.part, kQueries * (d + 2));
  int64_t moved = -1;
  for (size_t at = 0, end; at < places.size(); at = end) {
    for (end = at + 1; end < places.size() && end - at < size_t(kStretchPages) &&
                       places[end].moved == places[at].moved;)
      ++end;
    if (places[at].moved != moved) turn(q, moved = places[at].moved, w);
    work.queries = w.queries.data();
    const int64_t n_pages = int64_t(end - at);
    w.expanded.begin_stretch();
    for (int64_t i = 0; i < kStretchPages; ++i) {
      const size_t here = at + size_t(i), next = end + size_t(i);
      const Expanded::Page page =
          i < n_pages ? page_of(q, places[here].page, w.expanded) : Expanded::Page{};
      work.keys[i] = page.keys;
      work.values[i] = page.values;
      work.next_keys[i] = next < places.size() ? next_keys(q, places[next].page) : nullptr;
    }
    const bool has_own = places[end - 1].page == own;
    for (int64_t r = 0; r < q.n_rows; ++r)
      visible[r] = n_pages * kPage - (has_own ? (own + 1) * kPage - n_seen(q, r) : 0);
    work.n_keys = visible[q.n_rows - 1];
    work.to = is_first ? sum : mixed_at(part, q.n_rows);
    use.attend(work);
    if (!is_first) use.merge(sum, work.to, q.n_rows, d);
    is_first = false;
  }
}

// Votes for the pages between the first ones and the window, of queries that have attended to
// these. Votes are shares of attention, four for each page.
void Hierarch::vote(const Queries &q, const Block &block, const Mixed &sum, Workspace &w) const {
  const int64_t first = sinks_end(block.page), last = window_start(block.page);
  const int64_t begin = first / kCovered, n_memory = (last + kCovered - 1) / kCovered - begin;
  const int64_t width = n_memory * kPage;
  float *scores = reserve(w.memory_scores, q.n_rows * width);
  int64_t moved = -1;
  for (int64_t m = 0; m < n_memory; ++m) {
    const int64_t distance = block.page - (begin + m) * kCovered;
    const int64_t wanted = is_beyond(block.page) ? distance - looked_from(distance) : 0;
    if (wanted != moved) turn(q, moved = wanted, w);
    const int64_t number = batch.memory[q.sequence][begin + m];
    use.compare(w.queries.data(), q.n_rows, model.d_head,
                model.memory.key_page(layer, number, q.group), scores + m * kPage, width);
  }
  const int64_t from = first * kPerPage - begin * kPage, to = last * kPerPage - begin * kPage;
  for (int64_t r = 0; r < q.n_rows; ++r)
    use.vote(scores + r * width, from, to, sum.largest[r], sum.total[r], w.votes.data());
}

// A block's votes, now one for each page, with a part of those of the layer before, which had a part
// of its predecessor's, and so on.
const float *Hierarch::fuse(const Block &block, const Workspace &w) const {
  const int64_t groups = model.n_kv_heads, n_pages = model.fusion_pages;
  const int64_t first = sinks_end(block.page), last = window_start(block.page);
  const int64_t place = block.number * groups * n_pages;
  float *mine = model.fused[layer % 2].data() + place + block.group * n_pages;
  for (int64_t p = first; p < last; ++p) {
    float before = 0.0f;
    if (layer > 0)
      for (int64_t g = 0; g < groups; ++g)
        before += model.fused[(layer + 1) % 2][size_t(place + g * n_pages + p)];
    mine[p] = w.votes[size_t(p - first)] + settings().fusion * before / float(groups);
  }
  return mine + first;
}

// Bring those with most votes to places [first, last) of the order, from what stands there and
// behind.
void Hierarch::prefer(int64_t first, int64_t last, const float *votes, Workspace &w) {
  const auto is_better = [&](int64_t a, int64_t b) {
    return votes[a] > votes[b] || (votes[a] == votes[b] && a < b);
  };
  const auto begin = w.order.begin();
  if (first < last && last < int64_t(w.order.size()))
    std::nth_element(begin + first, begin + last, w.order.end(), is_better);
}

// The pages that most votes are for, in order, moved up to the window where they are too far. Half
// of them a layer's own votes choose; the other half those of all layers up to it, which know better
// what is asked for when much looks alike.
std::vector<Place> Hierarch::choose(const Block &block, Workspace &w) const {
  const int64_t first = sinks_end(block.page), last = window_start(block.page), n = last - first;
  const int64_t n_chosen = std::min(settings().recalled_pages, n);
  const int64_t skipped = (first * kPerPage) % kPage;  // votes before those of page `first`
  for (int64_t i = 0; i < n; ++i) {
    float vote = 0.0f;
    for (int64_t j = 0; j < kPerPage; ++j) vote += w.votes[size_t(skipped + i * kPerPage + j)];
    w.votes[size_t(i)] = vote / float(block.n_rows);
  }
  w.order.resize(size_t(n));
  std::iota(w.order.begin(), w.order.end(), int64_t{0});
  const bool is_fused = settings().fusion != 0.0f;
  const int64_t n_own = is_fused ? n_chosen / 2 : n_chosen;
  prefer(0, n_own, w.votes.data(), w);
  if (is_fused) prefer(n_own, n_chosen, fuse(block, w), w);
  w.order.resize(size_t(n_chosen));
  std::sort(w.order.begin(), w.order.end());
  std::vector<Place> chosen;
  for (int64_t i = 0; i < n_chosen; ++i) {
    const int64_t page = first + w.order[size_t(i)];
    chosen.push_back({page, is_beyond(block.page) ? last - n_chosen + i - page : 0});
  }
  return chosen;
}

void Hierarch::run(const Block &block, Workspace &w) const {
  const int64_t d = model.d_head;
  const int64_t first = sinks_end(block.page), last = window_start(block.page), n = last - first;
  const int64_t n_chosen = std::min(settings().recalled_pages, n);
  std::vector<Place> near;
  for (int64_t p = 0; p < first; ++p)
    near.push_back({p, is_beyond(block.page) ? last - n_chosen - first : 0});
  for (int64_t p = last; p <= block.page; ++p) near.push_back({p, 0});
  float *sums = reserve(w.sums, block.n_rows * (d + 2));
  const auto sum_of = [&](const Queries &q) {
    return mixed_at(sums + (q.first - block.first) * (d + 2), q.n_rows);
  };
  w.votes.assign(size_t((n + 2 * kCovered) * kPerPage), 0.0f);
  for (int64_t row = 0; row < block.n_rows; row += kQueries) {
    const Queries q = part_of(block, row);
    attend(q, block.page, near, w, sum_of(q), true);
    if (n) vote(q, block, sum_of(q), w);
  }
  const std::vector<Place> chosen = n ? choose(block, w) : std::vector<Place>();
  if (model.trace && block.sequence == batch.n_sequences - 1 &&
      block.first + block.n_rows == batch.counts[block.sequence] * heads_per_group()) {
    int32_t *to = model.trace + (layer * model.n_kv_heads + block.group) * settings().recalled_pages;
    for (int64_t i = 0; i < settings().recalled_pages; ++i)
      to[i] = i < int64_t(chosen.size()) ? int32_t(chosen[size_t(i)].page) : -1;
  }
  for (int64_t row = 0; row < block.n_rows; row += kQueries) {
    const Queries q = part_of(block, row);
    attend(q, block.page, chosen, w, sum_of(q), false);
    finish(q, sum_of(q));
  }
}

// Those of one group behind each other: they see nearly the same keys.
std::vector<Block> Hierarch::blocks() const {
  std::vector<Block> found;
  int64_t n_earlier = 0;
  for (int64_t s = 0; s < batch.n_sequences; ++s) {
    const int64_t count = batch.counts[s], length = batch.lengths[s], heads = heads_per_group();
    int64_t number = n_earlier;
    for (int64_t g = 0; g < model.n_kv_heads; ++g) {
      number = n_earlier;
      for (int64_t at = n_dense_tokens(model, batch, s), end; at < count; at = end) {
        const int64_t next = ((length + at) / kBlockTokens + 1) * kBlockTokens - length;
        end = count <= kFewTokens ? at + 1 : std::min(count, next);
        found.push_back({{s, g, at * heads, (end - at) * heads}, (length + at) / kPage, number++});
      }
    }
    n_earlier = number;
  }
  return found;
}

}  // namespace

void mix_hierarchically(ds_model &model, const Kernels &use, int64_t layer, const Batch &batch) {
  const Hierarch hierarch(model, use, layer, batch);
  const std::vector<Block> blocks = hierarch.blocks();
  if (blocks.empty()) return;
  if (model.hierarchy.fusion != 0.0f) {
    if (layer == 0) {
      model.fusion_pages = 0;
      for (const Block &block : blocks)
        model.fusion_pages = std::max(model.fusion_pages, block.page + 1);
    }
    for (auto &votes : model.fused) reserve(votes, int64_t(blocks.size()) * model.fusion_pages);
  }
  Pool::get().run(int64_t(blocks.size()), 1, [&](int64_t first, int64_t last) {
    static thread_local Workspace workspace;
    for (int64_t i = first; i < last; ++i) hierarch.run(blocks[size_t(i)], workspace);
  });
}

// Memory nodes of the pages that new tokens complete.
void remember(ds_model &model, const Kernels &use, int64_t layer, const Batch &batch) {
  for (int64_t s = 0; s < batch.n_sequences; ++s) {
    if (!batch.memory || !batch.memory[s]) continue;
    const int64_t first = batch.lengths[s] / kPage;
    const int64_t last = (batch.lengths[s] + batch.counts[s]) / kPage;
    Pool::get().run((last - first) * model.n_kv_heads, 1, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        const int64_t page = first + i / model.n_kv_heads, group = i % model.n_kv_heads;
        const int64_t number = batch.memory[s][page / kCovered];
        use.summarise(model.cache.key_page(layer, batch.pages[s][page], group), model.d_head,
                      page % kCovered * kPerPage, model.memory.key_page(layer, number, group));
      }
    });
  }
}

}  // namespace ds
