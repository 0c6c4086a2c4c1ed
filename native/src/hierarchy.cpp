// Hierarchical attention: a window, the first positions, and the pages that memory nodes point at.
//
// Tokens see the window and the first pages, and of the pages between those that they choose, each
// group of heads for itself. What reads (reading.cpp) chooses by memory nodes, what asks (asking.cpp)
// by keys. Pages that are not chosen are not read.
//
// Beyond the positions that a model reaches well, chosen pages are moved up to just before the
// window. Keys stay as they are: moving a page by some positions is turning the query back by as
// many, since scores depend on distances only. Memory nodes are looked at from distances that grow
// with the logarithm of the true ones: the order of what is far and near stays, and none is too far.
#include "hierarchy.h"

#include <cmath>
#include <cstring>
#include <numeric>

namespace ds {
namespace {

constexpr int64_t kNear = 16;       // pages up to which memory nodes are looked at from where they are
constexpr double kDoubling = 8;     // pages farther for each doubling beyond
constexpr int64_t kExpanded = 64;   // cold pages that a thread keeps as it has read them

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Mark the n of w.order with most votes, of equal ones the first, which are not marked yet. Votes are
// not negative, and such numbers are in the order of their bits: halving finds the least that n reach.
void mark_best(const Kernels &use, const float *votes, int64_t n, Workspace &w) {
  const int64_t n_all = int64_t(w.order.size());
  float *own = reserve(w.part, n_all);
  for (int64_t i = 0; i < n_all; ++i) own[i] = w.marks[size_t(i)] ? -1.0f : votes[w.order[size_t(i)]];
  uint32_t low = 0, high = 0x7f800001;  // enough reach the first, too few the second
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    (use.n_reaching(own, n_all, float_of(middle)) >= n ? low : high) = middle;
  }
  const float least = float_of(low), more = float_of(high);
  int64_t n_equal = n - use.n_reaching(own, n_all, more);
  for (int64_t i = 0; i < n_all; ++i)
    if (own[i] >= more || (own[i] >= least && n_equal-- > 0)) w.marks[size_t(i)] = 1;
}

// Leave of w.order what is marked.
void keep_marked(Workspace &w) {
  size_t last = 0;
  for (size_t i = 0; i < w.order.size(); ++i)
    if (w.marks[i]) w.order[last++] = w.order[i];
  w.order.resize(last);
}

}  // namespace

int64_t looked_from(int64_t distance) {
  if (distance <= kNear) return distance;
  return kNear + int64_t(kDoubling * std::log2(double(distance) / kNear));
}

int64_t Hierarch::turned_to(int64_t own, int64_t page) const {
  const int64_t distance = own - page / kCovered * kCovered;
  return is_beyond(own) ? distance - looked_from(distance) : 0;
}

void Hierarch::make_room(const Queries &q, Workspace &w) const {
  if (has_cold(q.sequence)) w.expanded.reserve(kExpanded, model.d_head);
}

void Hierarch::turn(const Queries &q, int64_t moved, Workspace &w) const {
  const int64_t d = model.d_head;
  uint16_t *to = reserve(w.queries, kQueries * d);
  for (int64_t r = 0; r < q.n_rows; ++r) turn(query(q, r), moved, to + r * d, w);
}

void Hierarch::turn(const float *query, int64_t moved, uint16_t *to, Workspace &w) const {
  const int64_t d = model.d_head;
  if (!moved) return use.to_half(query, d, to);
  const float *cosines = model.page_cosines + moved * (d / 2);
  const float *sines = model.page_sines + moved * (d / 2);
  float *turned = reserve(w.turned, 2 * d), *back = turned + d;
  for (int64_t i = 0; i < d / 2; ++i) back[i] = -sines[i];
  std::copy_n(query, d, turned);
  use.rotate(turned, cosines, back, d);
  use.to_half(turned, d, to);
}

std::vector<Place> Hierarch::near(int64_t page) const {
  const int64_t first = sinks_end(page), last = window_start(page);
  std::vector<Place> places;
  for (int64_t p = 0; p < first; ++p)
    places.push_back({p, is_beyond(page) ? last - n_recalled(page) - first : 0});
  for (int64_t p = last; p <= page; ++p) places.push_back({p, 0});
  return places;
}

void Hierarch::attend(const Queries &q, int64_t own, const std::vector<Place> &places, Workspace &w,
                      const Mixed &sum, bool is_first) const {
  const int64_t d = model.d_head;
  StretchWork work{};
  work.n_rows = q.n_rows;
  work.d = d;
  work.scores = reserve(w.scores, kQueries * kStretch);
  work.weights = reserve(w.weights, kQueries * kStretch);
  make_room(q, w);
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
      if (i < n_pages && here + 1 < places.size()) ask_codes(q, places[here + 1].page);
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

std::vector<int64_t> Hierarch::memory_pages(int64_t page) const {
  const int64_t first = sinks_end(page) / kCovered;
  std::vector<int64_t> all(size_t((window_start(page) + kCovered - 1) / kCovered - first));
  std::iota(all.begin(), all.end(), first);
  return all;
}

int64_t Hierarch::between(int64_t page, const std::vector<int64_t> &memory_pages,
                          Workspace &w) const {
  const int64_t first = sinks_end(page), last = window_start(page);
  w.order.clear();
  for (const int64_t m : memory_pages)
    for (int64_t p = std::max(first, m * kCovered); p < std::min(last, (m + 1) * kCovered); ++p)
      w.order.push_back(p - first);
  return std::max(int64_t{0}, first - memory_pages[0] * kCovered);
}

const float *Hierarch::look(const Queries &q, int64_t page,
                            const std::vector<int64_t> &memory_pages, const float *const *rows,
                            int64_t n_rows, const float *mass, Workspace &w) const {
  const int64_t d = model.d_head;
  const int64_t n = int64_t(memory_pages.size()), width = n * kCovered;
  float *looks = reserve(w.looks, n_rows * width);
  float *scores = reserve(w.scores, kQueries * kStretch);
  uint16_t *queries = reserve(w.queries, kQueries * d);
  for (int64_t first = 0; first < n_rows; first += kQueries) {
    const int64_t count = std::min(kQueries, n_rows - first);
    int64_t moved = -1;
    for (int64_t m = 0; m < n; ++m) {
      const int64_t at = memory_pages[size_t(m)], wanted = turned_to(page, at * kCovered);
      for (int64_t r = 0; wanted != moved && r < count; ++r)
        turn(rows[first + r], wanted, queries + r * d, w);
      moved = wanted;
      const uint16_t *nodes = nodes_of(q, at);
      const uint16_t *next = m + 1 < n ? nodes_of(q, memory_pages[size_t(m + 1)]) : nullptr;
      use.compare(queries, count, d, nodes, next, scores, kPage);
      use.weigh_nodes(scores, count, mass + first, looks + first * width + m * kCovered, width);
    }
  }
  return looks;
}

const float *Hierarch::look(const Queries &q, int64_t page,
                            const std::vector<int64_t> &memory_pages, const Mixed &sum,
                            Workspace &w) const {
  float *mass = reserve(w.pooled, q.n_rows);
  w.rows.clear();
  for (int64_t r = 0; r < q.n_rows; ++r) {
    w.rows.push_back(query(q, r));
    mass[r] = sum.largest[r] + std::log(sum.total[r]);
  }
  return look(q, page, memory_pages, w.rows.data(), q.n_rows, mass, w);
}

// A block's votes with a part of those of the layer before, which had a part of its predecessor's,
// and so on.
const float *Hierarch::fuse(const Block &block, const Workspace &w) const {
  const int64_t groups = model.n_kv_heads, n_pages = model.fusion_pages;
  const int64_t first = sinks_end(block.page), n = n_between(block.page);
  const int64_t place = block.number * groups * n_pages + first;
  float *mine = model.fused[layer % 2].data() + place + block.group * n_pages;
  std::copy_n(w.votes.data(), n, mine);
  const float part = settings().fusion / float(groups);
  for (int64_t g = 0; layer > 0 && g < groups; ++g) {
    const float *before = fused_before(block) + g * n_pages;
    for (int64_t p = 0; p < n; ++p) mine[p] += part * before[p];
  }
  return mine;
}

void Hierarch::best(int64_t n, Workspace &w) const {
  w.marks.assign(w.order.size(), 0);
  mark_best(use, w.votes.data(), n, w);
  keep_marked(w);
}

// Half of them a layer's own votes choose; the other half those of all layers up to it, which know
// better what is asked for when much looks alike.
void Hierarch::choose(const Block &block, int64_t n, Workspace &w) const {
  const bool is_fused = settings().fusion != 0.0f;
  const int64_t n_own = is_fused ? n / 2 : n;
  w.marks.assign(w.order.size(), 0);
  mark_best(use, w.votes.data(), n_own, w);
  if (is_fused) mark_best(use, fuse(block, w), n - n_own, w);
  keep_marked(w);
}

// Where they are too far, they are moved up to the window.
std::vector<Place> Hierarch::chosen(const Block &block, Workspace &w) const {
  const int64_t first = sinks_end(block.page), last = window_start(block.page);
  const int64_t n = n_recalled(block.page);
  choose(block, n, w);
  std::vector<Place> places;
  for (int64_t i = 0; i < int64_t(w.order.size()); ++i) {
    const int64_t page = first + w.order[size_t(i)];
    places.push_back({page, is_beyond(block.page) ? last - n + i - page : 0});
  }
  return places;
}

// Note what the batch's last queries have chosen.
void Hierarch::trace(const Queries &q, const std::vector<Place> &chosen) const {
  const int64_t s = batch.n_sequences - 1, n = settings().recalled_pages;
  if (!model.trace || q.sequence != s || q.first + q.n_rows != batch.counts[s] * heads_per_group())
    return;
  int32_t *to = model.trace + (layer * model.n_kv_heads + q.group) * n;
  for (int64_t i = 0; i < n; ++i)
    to[i] = i < int64_t(chosen.size()) ? int32_t(chosen[size_t(i)].page) : -1;
}

void mix_hierarchically(ds_model &model, const Kernels &use, int64_t layer, const Batch &batch) {
  const Hierarch hierarch(model, use, layer, batch);
  int64_t n_reading = 0;
  const std::vector<Unit> units = reading_units(hierarch, &n_reading);
  int64_t n_asking = 0, n_pages = 0;
  for (int64_t s = 0; s < batch.n_sequences; ++s) {
    const int64_t first = n_dense_tokens(model, batch, s);
    if (first == batch.counts[s]) continue;
    n_asking += batch.counts[s] - std::max(first, hierarch.n_reading(s));
    n_pages = std::max(n_pages, (batch.lengths[s] + batch.counts[s] - 1) / kPage + 1);
  }
  if (model.hierarchy.fusion != 0.0f && n_pages) {
    if (layer == 0) model.fusion_pages = n_pages;
    for (auto &votes : model.fused)
      reserve(votes, (n_reading + n_asking) * model.n_kv_heads * n_pages);
  }
  if (n_reading) mix_reading(hierarch, units);
  if (n_asking) mix_asking(hierarch, n_reading);
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
                      page % kCovered, model.memory.key_page(layer, number, group));
      }
    });
  }
}

}  // namespace ds
