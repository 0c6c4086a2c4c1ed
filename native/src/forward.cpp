// New tokens of some sequences through all layers, without leaving the library.
//
// Threads meet a few times a layer: after the projections, attention, the output, the gates and
// the way down. With few tokens, what lies between is small and done by the caller.
#include <algorithm>
#include <cmath>

#include "adapter.h"
#include "deepseek_native.h"
#include "model.h"
#include "pool.h"

namespace ds {
namespace {

constexpr int64_t kAlone = 4;       // fewer rows than this are not worth sharing
constexpr int64_t kRowBlock = 256;  // rows of the feed-forward layer's wide part at a time

Share share_of(const Matrix &m, const Activations &x, int64_t n_rows, float *y, int64_t stride) {
  Share s{};
  s.packed = m.packed;
  s.factors = m.factors();
  s.n_out = m.n_out;
  s.n_in = m.n_in;
  s.n_rows = n_rows;
  s.x = x;
  s.bias = m.bias;
  s.y = y;
  s.y_stride = stride;
  return s;
}

void multiply(const Kernels &use, const Matrix &m, const Share &s, int64_t first, int64_t last) {
  use.multiply[m.format](s, first, last);
}

int64_t portion_of(int64_t n_pieces) {
  return std::max(int64_t{1}, n_pieces / (int64_t{8} * Pool::get().size()));
}

template <typename Work>
void for_rows(int64_t n_rows, const Work &work) {
  if (n_rows < kAlone)
    work(0, n_rows);
  else
    Pool::get().run(n_rows, portion_of(n_rows), work);
}

// The input of products, and of what adapters add to them.
Activations normalise_and_round(ds_model &model, const Kernels &use, const float *weight,
                                const float *x, int64_t n_rows, const Addition &addition) {
  const int64_t d = model.d_model;
  const Activations to = model.rounded.reserve(n_rows, d);
  float *normed = model.normed.data();
  for_rows(n_rows, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      use.normalise(x + r * d, weight, d, model.epsilon, normed + r * d);
    use.quantise(normed, false, d, first, last, to);
    addition.shrink(normed, first, last);
  });
  return to;
}

void project(ds_model &model, const Kernels &use, int64_t number, const float *x, int64_t n_rows) {
  const Layer &layer = model.layers[size_t(number)];
  const Addition addition{model, use, number, DS_Q, DS_V, 0};
  const int64_t width = (model.n_heads + 2 * model.n_kv_heads) * model.d_head;
  const Activations in = normalise_and_round(model, use, layer.norms[0].data(), x, n_rows, addition);
  Share shares[3];
  int64_t ends[3], column = 0, n_tiles = 0;
  for (int i = 0; i < 3; ++i) {
    const Matrix &m = layer.matrices[i];
    shares[i] = share_of(m, in, n_rows, model.qkv.data() + column, width);
    column += m.n_out;
    ends[i] = n_tiles += m.n_tiles();
  }
  Pool::get().run(n_tiles, portion_of(n_tiles), [&](int64_t first, int64_t last) {
    int64_t start = 0;
    for (int i = 0; i < 3; start = ends[i++]) {
      const int64_t from = std::max(first, start), to = std::min(last, ends[i]);
      if (from >= to) continue;
      multiply(use, layer.matrices[i], shares[i], from - start, to - start);
      addition.widen(i, shares[i], from - start, to - start);
    }
  });
}

// A page that is begun and stays incomplete: what lies behind its last value may be no number, and
// a weight of zero would not silence it.
void clear_last_page(const ds_model &model, int64_t layer, const Batch &batch, int64_t s) {
  const int64_t end = batch.lengths[s] + batch.counts[s], page = (end - 1) / kPage;
  if (end % kPage == 0 || page * kPage < batch.lengths[s]) return;
  for (int64_t g = 0; g < model.n_kv_heads; ++g) {
    uint16_t *values = model.cache.value_page(layer, batch.pages[s][page], g);
    std::fill_n(values, kPage * model.d_head, uint16_t{0});
  }
}

// A turn by whole pages and one by the rest: tables stay small however long a sequence is.
void rotation_of(const ds_model &model, int64_t position, float *cosines, float *sines) {
  const int64_t half = model.d_head / 2;
  const int64_t page = position / kPage * half, rest = position % kPage * half;
  for (int64_t i = 0; i < half; ++i) {
    const float c = model.page_cosines[page + i], s = model.page_sines[page + i];
    const float c_rest = model.cosines[rest + i], s_rest = model.sines[rest + i];
    cosines[i] = c * c_rest - s * s_rest;
    sines[i] = s * c_rest + c * s_rest;
  }
}

// Rotate and scale queries, rotate keys, and put keys and values into their pages.
void keep(ds_model &model, const Kernels &use, int64_t layer, const Batch &batch) {
  const int64_t d = model.d_head, heads = model.n_heads, groups = model.n_kv_heads;
  const int64_t width = (heads + 2 * groups) * d;
  const float scale = 1.0f / std::sqrt(float(d));
  const Cache &cache = model.cache;
  int64_t start = 0;
  for (int64_t s = 0; s < batch.n_sequences; start += batch.counts[s++]) {
    clear_last_page(model, layer, batch, s);
    for_rows(batch.counts[s], [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        float *row = model.qkv.data() + (start + i) * width;
        const int64_t position = batch.lengths[s] + i;
        float cosines[kMaxHead / 2], sines[kMaxHead / 2];
        rotation_of(model, position, cosines, sines);
        for (int64_t h = 0; h < heads + groups; ++h) use.rotate(row + h * d, cosines, sines, d);
        for (int64_t j = 0; j < heads * d; ++j) row[j] *= scale;
        const int64_t page = batch.pages[s][position / kPage];
        for (int64_t g = 0; g < groups; ++g)
          use.keep(row + (heads + g) * d, row + (heads + groups + g) * d, d, position % kPage,
                   cache.key_page(layer, page, g), cache.value_page(layer, page, g));
      }
    });
  }
}

// Choose experts for rows of the feed-forward layer's input.
void route(ds_model &model, const Kernels &use, const Layer &layer, int64_t n_rows) {
  Routed &to = model.routed;
  const ds_gate &gate = layer.gate;
  int64_t *experts = reserve(to.experts, n_rows * gate.n_active);
  float *weights = reserve(to.weights, n_rows * gate.n_active);
  for_rows(n_rows, [&](int64_t first, int64_t last) {
    choose(use, gate, DS_F32, model.normed.data(), first, last, nullptr, experts, weights);
  });
  count_load(gate, n_rows, nullptr, experts);
  to.slots.sort(experts, weights, gate.n_active, 0, n_rows, gate.n_experts,
                float(layer.hidden->scale));
}

// First halves of what experts add to products of some rows.
void shrink_all(ds_model &model, const Kernels &use, const ds_experts &experts, const float *x,
                int64_t n_rows) {
  Routed &to = model.routed;
  const int64_t n = experts.n_in, n_runs = int64_t(to.slots.runs.size());
  uint32_t *low = reserve(to.low, to.slots.size() * experts.low_width() / experts.per_word());
  const void *input = x;
  if (experts.dtype == DS_BF16) {
    uint16_t *half = reserve(to.half, n_rows * n);
    for_rows(n_rows, [&](int64_t first, int64_t last) {
      use.to_half(x + first * n, (last - first) * n, half + first * n);
    });
    input = half;
  }
  const auto shrink_runs = [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      shrink(use, experts, to.slots, to.slots.runs[size_t(i)], input, low);
  };
  if (n_rows < kAlone)
    shrink_runs(0, n_runs);
  else
    Pool::get().run(n_runs, 1, shrink_runs);
}

// Second halves, added to tiles [first, last) of what a matrix gave.
void widen_all(const ds_model &model, const Kernels &use, const ds_experts *experts, int which,
               const Share &product, int64_t first, int64_t last) {
  if (experts)
    widen(use, *experts, which, model.routed.slots, model.routed.low.data(), first, last, product.y,
          DS_F32, product.y_stride);
}

// Add to x what a matrix makes of rows that begin at `row` of the pass.
void multiply_and_add(ds_model &model, const Kernels &use, int64_t layer, int which,
                      const float *in, int64_t row, int64_t n_rows, float *x) {
  const Matrix &m = model.layers[size_t(layer)].matrices[which];
  const Addition addition{model, use, layer, which, which, row};
  const ds_experts *experts = which == DS_DOWN ? model.layers[size_t(layer)].down : nullptr;
  const Activations rounded = model.rounded.reserve(n_rows, m.n_in);
  for_rows(n_rows, [&](int64_t first, int64_t last) {
    use.quantise(in, false, m.n_in, first, last, rounded);
    addition.shrink(in, first, last);
  });
  if (experts) shrink_all(model, use, *experts, in, n_rows);
  const Share s = share_of(m, rounded, n_rows, model.out.data(), m.n_out);
  Pool::get().run(m.n_tiles(), portion_of(m.n_tiles()), [&](int64_t first, int64_t last) {
    multiply(use, m, s, first, last);
    widen_all(model, use, experts, 0, s, first, last);
    addition.widen(which, s, first, last);
  });
  for_rows(n_rows, [&](int64_t first, int64_t last) {
    use.add(x + first * m.n_out, model.out.data() + first * m.n_out, (last - first) * m.n_out);
  });
}

void feed_forward(ds_model &model, const Kernels &use, int64_t number, int64_t row, int64_t n_rows,
                  float *x) {
  const Layer &layer = model.layers[size_t(number)];
  const Addition addition{model, use, number, DS_GATE, DS_UP, row};
  const Activations in =
      normalise_and_round(model, use, layer.norms[1].data(), x, n_rows, addition);
  if (layer.hidden) {
    route(model, use, layer, n_rows);
    shrink_all(model, use, *layer.hidden, model.normed.data(), n_rows);
  }
  const Matrix &gate = layer.matrices[DS_GATE], &up = layer.matrices[DS_UP];
  const Share gates = share_of(gate, in, n_rows, model.hidden.data(), model.d_ff);
  const Share ups = share_of(up, in, n_rows, model.ups.data(), model.d_ff);
  const int64_t n_tiles = gate.n_tiles();
  Pool::get().run(n_tiles, portion_of(n_tiles), [&](int64_t first, int64_t last) {
    multiply(use, gate, gates, first, last);
    multiply(use, up, ups, first, last);
    widen_all(model, use, layer.hidden, 0, gates, first, last);
    widen_all(model, use, layer.hidden, 1, ups, first, last);
    addition.widen(DS_GATE, gates, first, last);
    addition.widen(DS_UP, ups, first, last);
    for (int64_t r = 0; r < n_rows; ++r) {
      const int64_t start = r * model.d_ff + first * kTile;
      use.gate(model.hidden.data() + start, model.ups.data() + start, (last - first) * kTile);
    }
  });
  multiply_and_add(model, use, number, DS_DOWN, model.hidden.data(), row, n_rows, x);
}

}  // namespace

void run_layers(ds_model &model, const Batch &batch, float *x) {
  const int64_t n = batch.n_rows, wide = std::min(n, kRowBlock);
  reserve(model.normed, n * model.d_model);
  reserve(model.qkv, n * (model.n_heads + 2 * model.n_kv_heads) * model.d_head);
  reserve(model.mixed, n * model.n_heads * model.d_head);
  reserve(model.hidden, wide * model.d_ff);
  reserve(model.ups, wide * model.d_ff);
  reserve(model.out, n * model.d_model);
  const AdaptedRows adapted(model, batch);
  const Kernels &use = ds::kernels();
  for (int64_t i = 0; i < int64_t(model.layers.size()); ++i) {
    project(model, use, i, x, n);
    keep(model, use, i, batch);
    remember(model, use, i, batch);
    seal(model, use, i, batch);
    mix_tokens(model, use, i, batch);
    mix_hierarchically(model, use, i, batch);
    if (model.cold.has_failed()) return;
    multiply_and_add(model, use, i, DS_O, model.mixed.data(), 0, n, x);
    for (int64_t first = 0; first < n; first += kRowBlock)
      feed_forward(model, use, i, first, std::min(kRowBlock, n - first), x + first * model.d_model);
  }
}

void embed(const ds_model &model, int64_t n_rows, const int64_t *token_ids, float *x) {
  const Matrix &m = model.embedding;
  const int64_t tile = tile_bytes(m.format, m.n_in);
  for_rows(n_rows, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const int64_t n = token_ids[r];
      const float factor = m.factors()[n];
      const uint8_t *tile_of_row = m.packed + n / kTile * tile;
      for (int64_t k = 0; k < m.n_in; ++k)
        x[r * m.n_in + k] = weight_at(m.format, tile_of_row, n % kTile, k) * factor;
    }
  });
}

void run_head(ds_model &model, int64_t n_rows, const float *x, float *logits) {
  const Kernels &use = ds::kernels();
  reserve(model.normed, n_rows * model.d_model);
  const Addition none{model, use, 0, 0, 0, 0};  // rows have no adapters outside of a pass
  const Activations in = normalise_and_round(model, use, model.last_norm.data(), x, n_rows, none);
  const Matrix &head = model.head;
  const Share s = share_of(head, in, n_rows, logits, head.n_out);
  Pool::get().run(head.n_tiles(), portion_of(head.n_tiles()),
                  [&](int64_t first, int64_t last) { multiply(use, head, s, first, last); });
}

}  // namespace ds
