// Adapters: matrices of low rank beside those of a model, for some sequences of a batch.
//
// They stay apart from the model's own matrices, whose products are the same with and without them.
#include "adapter.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <utility>

#include "deepseek_native.h"

namespace ds {

AdaptedRows::AdaptedRows(ds_model &model, const Batch &batch) : model_(model) {
  if (!batch.adapters) return;
  std::vector<const Adapter *> found(size_t(batch.n_rows), nullptr);
  int64_t start = 0, width = 0;
  for (int64_t s = 0; s < batch.n_sequences; start += batch.counts[s++]) {
    if (batch.adapters[s] < 0) continue;
    const Adapter *adapter = model.adapters.at(batch.adapters[s]).get();
    width = std::max(width, adapter->max_rank);
    std::fill_n(found.begin() + start, batch.counts[s], adapter);
  }
  if (!width) return;
  reserve(model.low, batch.n_rows * 3 * width);
  model.low_width = width;
  model.adapted = std::move(found);
}

template <typename Work>
void Addition::for_runs(int64_t from, int64_t to, const Work &work) const {
  if (model.adapted.empty()) return;
  const Adapter *const *adapters = model.adapted.data() + row;
  for (int64_t start = from, end; start < to; start = end) {
    for (end = start + 1; end < to && adapters[end] == adapters[start]; ++end) {}
    if (adapters[start]) work(*adapters[start], start, end - start);
  }
}

float *Addition::low(int64_t r, int which) const {
  return model.low.data() + ((row + r) * 3 + which - first) * model.low_width;
}

void Addition::shrink(const float *x, int64_t from, int64_t to) const {
  for_runs(from, to, [&](const Adapter &adapter, int64_t r, int64_t n_rows) {
    for (int which = first; which <= last; ++which) {
      const LowRank &w = adapter.at(layer, which);
      if (w.rank) use.shrink(w, x + r * w.n_in, n_rows, low(r, which), 3 * model.low_width);
    }
  });
}

void Addition::widen(int which, const Share &product, int64_t from, int64_t to) const {
  for_runs(0, product.n_rows, [&](const Adapter &adapter, int64_t r, int64_t n_rows) {
    const LowRank &w = adapter.at(layer, which);
    if (w.rank)
      use.widen(w, low(r, which), n_rows, 3 * model.low_width, from, to,
                product.y + r * product.y_stride, product.y_stride);
  });
}

namespace {

constexpr int64_t kMaxRank = 1024;

int64_t padded(int64_t rank) { return (rank + 15) / 16 * 16; }

int check_part(const ds_model &model, const ds_low_rank &part) {
  if (part.layer < 0 || part.layer >= int64_t(model.layers.size())) return DS_BAD_SHAPE;
  if (part.which < 0 || part.which >= kLayerMatrices) return DS_BAD_ENUM;
  if (part.rank < 1 || part.rank > kMaxRank) return DS_BAD_SHAPE;
  if (!part.down || !part.up) return DS_BAD_POINTER;
  if (!model.layers[size_t(part.layer)].matrices[part.which].packed) return DS_BAD_SHAPE;
  return std::isfinite(part.scale) ? DS_OK : DS_BAD_VALUE;
}

// A number in bfloat16; false if it is none.
bool put(float value, uint16_t *place) {
  *place = float_to_bf16(value);
  return std::isfinite(bf16_to_float(*place));
}

// Where the weight of input i and output n is in a tile of 16 outputs.
int64_t place_in_tile(int64_t i, int64_t n) { return (i / 2 * 16 + n) * 2 + i % 2; }

bool pack(const ds_low_rank &part, const LowRank &to, int64_t n_out, uint16_t *down, uint16_t *up) {
  bool is_good = true;
  for (int64_t j = 0; j < part.rank; ++j) {
    for (int64_t i = 0; i < to.n_in; ++i)
      is_good &= put(part.down[j * to.n_in + i], down + j / 16 * 16 * to.n_in + place_in_tile(i, j % 16));
    for (int64_t n = 0; n < n_out; ++n)
      is_good &= put(part.scale * part.up[n * part.rank + j],
                     up + n / 16 * 16 * to.rank + place_in_tile(j, n % 16));
  }
  return is_good;
}

int fill(const ds_model &model, int64_t n_parts, const ds_low_rank *parts, Adapter &adapter) {
  adapter.parts.resize(model.layers.size() * kLayerMatrices);
  int64_t total = 0;
  for (int64_t i = 0; i < n_parts; ++i) {
    const Matrix &m = model.layers[size_t(parts[i].layer)].matrices[parts[i].which];
    total += padded(parts[i].rank) * (m.n_in + m.n_out);
  }
  uint16_t *place = adapter.reserve(total);
  for (int64_t i = 0; i < n_parts; ++i) {
    const ds_low_rank &part = parts[i];
    const Matrix &m = model.layers[size_t(part.layer)].matrices[part.which];
    LowRank &to = adapter.at(part.layer, int(part.which));
    if (to.rank) return DS_BAD_SHAPE;  // twice
    to.rank = padded(part.rank);
    to.n_in = m.n_in;
    uint16_t *up = place + to.rank * m.n_in;
    to.down = place;
    to.up = up;
    if (!pack(part, to, m.n_out, place, up)) return DS_BAD_VALUE;
    place = up + to.rank * m.n_out;
    adapter.max_rank = std::max(adapter.max_rank, to.rank);
  }
  return DS_OK;
}

}  // namespace
}  // namespace ds

using namespace ds;

extern "C" {

int ds_model_add_adapter(ds_model *model, int64_t n_parts, const ds_low_rank *parts,
                         int64_t *number) {
  if (!model || !parts || !number) return DS_BAD_POINTER;
  if (n_parts < 1 || n_parts > int64_t(model->layers.size()) * kLayerMatrices) return DS_BAD_SHAPE;
  for (int64_t i = 0; i < n_parts; ++i)
    if (const int problem = check_part(*model, parts[i])) return problem;
  try {
    auto adapter = std::make_unique<Adapter>();
    if (const int problem = fill(*model, n_parts, parts, *adapter)) return problem;
    model->adapters[model->next_adapter] = std::move(adapter);
  } catch (const std::bad_alloc &) {
    return DS_NO_MEMORY;
  }
  *number = model->next_adapter++;
  return DS_OK;
}

int ds_model_remove_adapter(ds_model *model, int64_t number) {
  if (!model) return DS_BAD_POINTER;
  return model->adapters.erase(number) ? DS_OK : DS_BAD_VALUE;
}

}  // extern "C"
