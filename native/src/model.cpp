// The C interface of whole models: every argument is checked before anything is touched.
#include "model.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <utility>

#include "deepseek_native.h"

namespace ds {

const float *Matrix::factors() const {
  return reinterpret_cast<const float *>(packed + factors_at(format, n_out, n_in));
}

Activations Rounded::reserve(int64_t n_rows, int64_t n_in) {
  const size_t blocks = size_t(n_rows * (n_in / kBlock));
  if (codes.size() < size_t(n_rows * n_in)) codes.resize(size_t(n_rows * n_in));
  if (scale.size() < blocks) {
    scale.resize(blocks);
    sum.resize(blocks);
    offset.resize(2 * blocks);
  }
  return {codes.data(), scale.data(), sum.data(), offset.data()};
}

namespace {

constexpr int64_t kMaxRows = 8192;

bool is_complete(const ds_model &model) {
  for (const Layer &layer : model.layers) {
    for (const Matrix &m : layer.matrices)
      if (!m.packed) return false;
    if (layer.norms[0].empty() || layer.norms[1].empty()) return false;
  }
  return true;
}

// Whether a table has that many pages, all of which are there.
bool are_pages(const int32_t *table, int64_t size, int64_t needed, int64_t n_pages) {
  if (!table || needed > size) return false;
  for (int64_t i = 0; i < needed; ++i)
    if (table[i] < 0 || table[i] >= n_pages) return false;
  return true;
}

// Whether tensors of that many bytes a head fit between each other, and are there.
int check_pages(const ds_pages *pages, int64_t head, bool has_values) {
  if (!pages || !pages->keys || (has_values && !pages->values)) return DS_BAD_POINTER;
  const int64_t strides[] = {pages->layer_stride, pages->page_stride, pages->head_stride};
  for (const int64_t stride : strides)
    if (stride < head || stride % 2) return DS_BAD_SHAPE;
  if (pages->n_blocks < 1 || pages->block_pages < 1 || pages->n_blocks > kMaxDimension ||
      pages->block_pages > kMaxDimension || pages->n_blocks * pages->block_pages > INT32_MAX)
    return DS_BAD_SHAPE;
  const auto is_bad = [](const void *block) {
    return !block || reinterpret_cast<uintptr_t>(block) % 2;
  };
  for (int64_t i = 0; i < pages->n_blocks; ++i)
    if (is_bad(pages->keys[i]) || (has_values && is_bad(pages->values[i]))) return DS_BAD_POINTER;
  return DS_OK;
}

int set_pages(Cache &cache, const ds_pages *pages, int64_t head, bool has_values) {
  if (const int problem = check_pages(pages, head, has_values)) return problem;
  try {
    Cache found;
    for (int64_t i = 0; i < pages->n_blocks; ++i) {
      found.keys.push_back(static_cast<uint8_t *>(pages->keys[i]));
      if (has_values) found.values.push_back(static_cast<uint8_t *>(pages->values[i]));
    }
    found.block_pages = pages->block_pages;
    found.layer_stride = pages->layer_stride;
    found.page_stride = pages->page_stride;
    found.head_stride = pages->head_stride;
    cache = std::move(found);
  } catch (const std::bad_alloc &) {
    return DS_NO_MEMORY;
  }
  return DS_OK;
}

// Whether records of that many bytes fit between each other. Where the file ends is not asked: it is
// found when it is read.
bool good_file(const ds_page_file &f, int64_t record, int64_t n_layers, int64_t n_groups) {
  if (f.fd < 0 || f.fd > INT32_MAX || f.held_bytes < 0 || f.n_blocks < 1 || f.block_pages < 1 ||
      f.n_blocks > kMaxDimension || f.block_pages > kMaxDimension ||
      f.n_blocks * f.block_pages > INT32_MAX)
    return false;
  const int64_t strides[] = {f.head_stride, f.page_stride, f.layer_stride, f.block_stride};
  const int64_t counts[] = {n_groups, f.block_pages, n_layers, f.n_blocks};
  int64_t end = 0;
  for (int i = 0; i < 4; ++i) {
    int64_t length;
    if (strides[i] < record || __builtin_mul_overflow(strides[i], counts[i], &length) ||
        __builtin_add_overflow(end, length, &end))
      return false;
  }
  return true;
}

int check_tier(const ds_model *model, int bits, int64_t sink_pages, int64_t window_pages) {
  if (!model) return DS_BAD_POINTER;
  if (bits != 4 && bits != 8) return DS_BAD_ENUM;
  const auto is_bad = [](int64_t n_pages) { return n_pages < 0 || n_pages > kMaxDimension; };
  return is_bad(sink_pages) || is_bad(window_pages) ? DS_BAD_SHAPE : DS_OK;
}

void set_tier(Cold &cold, int bits, int64_t sink_pages, int64_t window_pages) {
  cold.bits = bits;
  cold.sink_pages = sink_pages;
  cold.window_pages = window_pages;
}

int64_t pages_of(int64_t n_positions) { return (n_positions + kPage - 1) / kPage; }

// Every page that a sequence reads or writes is there, and every position has a rotation.
bool good_pages(const ds_model &model, const Batch &batch, const int64_t *table_sizes) {
  for (int64_t s = 0; s < batch.n_sequences; ++s) {
    const int64_t count = batch.counts[s], length = batch.lengths[s];
    if (count < 1 || count > kMaxRows || length < 0 || length > model.n_positions - count)
      return false;
    const int64_t n_pages = pages_of(length + count);
    // Of a sequence with cold pages, those behind the window need not be there, but for the first.
    const Cold &cold = model.cold;
    const bool has_cold = batch.cold && batch.cold[s];
    const int64_t sinks = has_cold ? std::min(cold.sink_pages, n_pages) : 0;
    const int64_t near = has_cold ? std::max(int64_t{0}, length / kPage - cold.window_pages) : 0;
    const int32_t *table = batch.pages[s];
    const int64_t n_there = model.cache.n_pages();
    if (!are_pages(table, table_sizes[s], sinks, n_there) || near > table_sizes[s] ||
        !are_pages(table + near, table_sizes[s] - near, n_pages - near, n_there))
      return false;
  }
  return true;
}

// Every cold page that is read or written is there.
bool good_cold(const ds_model &model, const Batch &batch, const int64_t *table_sizes) {
  for (int64_t s = 0; s < batch.n_sequences; ++s)
    if (batch.cold[s] && !are_pages(batch.cold[s], table_sizes[s],
                                    (batch.lengths[s] + batch.counts[s]) / kPage, model.cold.n_pages()))
      return false;
  return true;
}

// Every page of memory nodes that is read or written is there.
bool good_memory(const ds_model &model, const Batch &batch, const int64_t *table_sizes) {
  for (int64_t s = 0; s < batch.n_sequences; ++s) {
    if (!batch.memory[s]) continue;
    const int64_t n_pages = pages_of(batch.lengths[s] + batch.counts[s]);
    const int64_t needed = (n_pages + kCovered - 1) / kCovered;
    if (!are_pages(batch.memory[s], table_sizes[s], needed, model.memory.n_pages()) ||
        model.hierarchy.recalled_pages < 1)
      return false;
  }
  return true;
}

bool good_adapters(const ds_model &model, const Batch &batch) {
  for (int64_t s = 0; s < batch.n_sequences; ++s)
    if (batch.adapters[s] != -1 && !model.adapters.count(batch.adapters[s])) return false;
  return true;
}

bool good_tokens(const ds_model &model, const int64_t *token_ids, int64_t n_rows) {
  if (!model.embedding.packed) return false;
  for (int64_t i = 0; i < n_rows; ++i)
    if (token_ids[i] < 0 || token_ids[i] >= model.embedding.n_out) return false;
  return true;
}

}  // namespace
}  // namespace ds

using namespace ds;

extern "C" {

int64_t ds_page_positions(void) { return kPage; }

ds_model *ds_model_new(int64_t n_layers, int64_t d_model, int64_t n_heads, int64_t n_kv_heads,
                       int64_t d_head, int64_t d_ff, float epsilon) {
  const bool fits = n_layers > 0 && n_layers <= kMaxLayers && d_model > 0 && d_model % 32 == 0 &&
                    d_model <= kMaxDimension && d_ff > 0 && d_ff % 32 == 0 &&
                    d_ff <= kMaxDimension && n_kv_heads > 0 && n_heads >= n_kv_heads &&
                    n_heads <= 4096 && n_heads % n_kv_heads == 0 && d_head > 0 &&
                    d_head % 32 == 0 && d_head <= kMaxHead && std::isfinite(epsilon);
  if (!fits) return nullptr;
  auto *model = new (std::nothrow) ds_model;
  if (!model) return nullptr;
  model->d_model = d_model;
  model->n_heads = n_heads;
  model->n_kv_heads = n_kv_heads;
  model->d_head = d_head;
  model->d_ff = d_ff;
  model->epsilon = epsilon;
  model->layers.resize(size_t(n_layers));
  return model;
}

void ds_model_free(ds_model *model) { delete model; }

int ds_model_set_matrix(ds_model *model, int64_t layer, int which, int format, int64_t n_out,
                        int64_t n_in, const void *packed, const float *bias) {
  if (!model || !packed || reinterpret_cast<uintptr_t>(packed) % 64) return DS_BAD_POINTER;
  if (!is_format(format)) return DS_BAD_ENUM;
  if (has_units(format) && n_in % (kSuper * kBlock)) return DS_BAD_SHAPE;
  if (which < 0 || which >= kMatrices) return DS_BAD_ENUM;
  if (layer < 0 || layer >= int64_t(model->layers.size())) return DS_BAD_SHAPE;
  const int64_t q = model->n_heads * model->d_head, kv = model->n_kv_heads * model->d_head;
  const int64_t outs[kMatrices] = {q, kv, kv, model->d_model, model->d_ff, model->d_ff,
                                   model->d_model, n_out, n_out};
  const int64_t ins[kMatrices] = {model->d_model, model->d_model, model->d_model, q,
                                  model->d_model, model->d_model, model->d_ff, model->d_model,
                                  model->d_model};
  if (n_out < 1 || n_out > kMaxDimension || n_out != outs[which] || n_in != ins[which])
    return DS_BAD_SHAPE;
  Matrix &matrix = which == DS_HEAD        ? model->head
                   : which == DS_EMBEDDING ? model->embedding
                                           : model->layers[size_t(layer)].matrices[which];
  matrix = {format, n_out, n_in, static_cast<const uint8_t *>(packed), bias};
  return DS_OK;
}

int ds_model_set_experts(ds_model *model, int64_t layer, const ds_gate *gate,
                         const ds_experts *hidden, const ds_experts *down) {
  if (!model || !gate || !hidden || !down) return DS_BAD_POINTER;
  if (layer < 0 || layer >= int64_t(model->layers.size())) return DS_BAD_SHAPE;
  if (const int problem = check_gate(*gate)) return problem;
  const int64_t d = model->d_model, wide = model->d_ff;
  const auto fits = [&](const ds_experts &e, int64_t n_in, const std::vector<int64_t> &n_outs) {
    return e.is_low_rank && e.n_experts() == gate->n_experts && e.n_in == n_in && e.n_outs == n_outs;
  };
  if (gate->d_model != d || !fits(*hidden, d, {wide, wide}) || !fits(*down, wide, {d}))
    return DS_BAD_SHAPE;
  Layer &to = model->layers[size_t(layer)];
  to.gate = *gate;
  to.hidden = hidden;
  to.down = down;
  return DS_OK;
}

int ds_model_set_norm(ds_model *model, int64_t layer, int which, const float *weight) {
  if (!model || !weight) return DS_BAD_POINTER;
  if (which < 0 || which > 2) return DS_BAD_ENUM;
  if (layer < 0 || layer >= int64_t(model->layers.size())) return DS_BAD_SHAPE;
  auto &norm = which == 2 ? model->last_norm : model->layers[size_t(layer)].norms[which];
  norm.assign(weight, weight + model->d_model);
  return DS_OK;
}

int ds_model_set_rope(ds_model *model, int64_t n_pages, const float *page_cosines,
                      const float *page_sines, const float *cosines, const float *sines) {
  if (!model || !page_cosines || !page_sines || !cosines || !sines) return DS_BAD_POINTER;
  if (n_pages < 1 || n_pages > kMaxDimension) return DS_BAD_SHAPE;
  model->n_positions = n_pages * kPage;
  model->page_cosines = page_cosines;
  model->page_sines = page_sines;
  model->cosines = cosines;
  model->sines = sines;
  return DS_OK;
}

int ds_model_set_cache(ds_model *model, const ds_pages *pages) {
  if (!model) return DS_BAD_POINTER;
  return set_pages(model->cache, pages, kPage * model->d_head * 2, true);
}

int ds_model_set_memory(ds_model *model, const ds_pages *pages) {
  if (!model) return DS_BAD_POINTER;
  return set_pages(model->memory, pages, kPage * model->d_head * 2, false);
}

int ds_model_set_cold(ds_model *model, int bits, int64_t sink_pages, int64_t window_pages,
                      const ds_pages *pages) {
  if (const int problem = check_tier(model, bits, sink_pages, window_pages)) return problem;
  const int problem = set_pages(model->cold.cache, pages, cold_bytes(bits, model->d_head), true);
  if (problem) return problem;
  model->cold.file.reset();
  set_tier(model->cold, bits, sink_pages, window_pages);
  return DS_OK;
}

int ds_model_set_cold_file(ds_model *model, int bits, int64_t sink_pages, int64_t window_pages,
                           const ds_page_file *places) {
  if (const int problem = check_tier(model, bits, sink_pages, window_pages)) return problem;
  if (!places) return DS_BAD_POINTER;
  const int64_t part = cold_bytes(bits, model->d_head);
  if (!good_file(*places, 2 * (part + int64_t(sizeof(uint32_t))), int64_t(model->layers.size()),
                 model->n_kv_heads))
    return DS_BAD_SHAPE;
  std::unique_ptr<PageFile> file = PageFile::open(*places, part, model->cold.file.get());
  if (!file) return DS_IO;
  model->cold.file = std::move(file);
  model->cold.cache = {};
  set_tier(model->cold, bits, sink_pages, window_pages);
  return DS_OK;
}

int ds_model_disk_error(const ds_model *model) {
  return model && model->cold.file ? model->cold.file->error() : 0;
}

int ds_model_expand(ds_model *model, int64_t cold_page, int64_t page) {
  if (!model || !model->cold.n_pages() || !model->cache.n_pages()) return DS_BAD_POINTER;
  if (cold_page < 0 || cold_page >= model->cold.n_pages() || page < 0 ||
      page >= model->cache.n_pages())
    return DS_BAD_SHAPE;
  PageFile *file = model->cold.file.get();
  if (file) file->begin_pass();
  expand(*model, cold_page, page);
  return file ? file->problem() : DS_OK;
}

int ds_model_set_hierarchy(ds_model *model, const ds_hierarchy *h) {
  if (!model || !h) return DS_BAD_POINTER;
  const int64_t sizes[] = {h->sink_pages, h->window_pages, h->recalled_pages, h->scanned_pages,
                           h->looked_pages};
  for (const int64_t size : sizes)
    if (size < 0 || size > kMaxDimension) return DS_BAD_SHAPE;
  if (h->recalled_pages < 1 || h->scanned_pages < h->recalled_pages ||
      h->looked_pages < h->recalled_pages + 3 * kCovered || h->n_dense < 0 || h->n_reach < 1) return DS_BAD_SHAPE;
  if (!(h->fusion >= 0.0f && h->fusion <= 1e3f)) return DS_BAD_VALUE;
  model->trace = nullptr;  // its size was another
  model->hierarchy = {h->sink_pages, h->window_pages, h->recalled_pages,
                      h->n_dense,    h->n_reach,      h->fusion,
                      h->looked_pages, h->scanned_pages};
  return DS_OK;
}

int ds_model_trace(ds_model *model, int32_t *chosen) {
  if (!model) return DS_BAD_POINTER;
  model->trace = chosen;
  return DS_OK;
}

int ds_model_forward(ds_model *model, const ds_batch *b, float *x) {
  if (!model || !b || !x || !b->counts || !b->lengths || !b->tables || !b->table_sizes)
    return DS_BAD_POINTER;
  if (b->n_sequences < 1 || b->n_sequences > kMaxRows || !is_complete(*model))
    return DS_BAD_SHAPE;
  Batch batch{b->n_sequences, 0,       b->counts, b->lengths, b->tables, b->memory_tables,
              b->cold_tables, b->asks_from, b->adapters};
  if (batch.cold && (!b->cold_sizes || !model->cold.n_pages())) return DS_BAD_POINTER;
  if (!good_pages(*model, batch, b->table_sizes)) return DS_BAD_SHAPE;
  if (batch.memory && (!b->memory_sizes || model->memory.keys.empty())) return DS_BAD_POINTER;
  if (batch.memory && !good_memory(*model, batch, b->memory_sizes)) return DS_BAD_SHAPE;
  if (batch.cold && !good_cold(*model, batch, b->cold_sizes)) return DS_BAD_SHAPE;
  for (int64_t s = 0; s < b->n_sequences; ++s) batch.n_rows += b->counts[s];
  if (batch.n_rows > kMaxRows) return DS_BAD_SHAPE;
  if (batch.adapters && !good_adapters(*model, batch)) return DS_BAD_VALUE;
  if (b->token_ids && !good_tokens(*model, b->token_ids, batch.n_rows)) return DS_BAD_VALUE;
  PageFile *file = model->cold.file.get();
  if (file) file->begin_pass();
  try {
    if (b->token_ids) embed(*model, batch.n_rows, b->token_ids, x);
    run_layers(*model, batch, x);
  } catch (const std::bad_alloc &) {
    return DS_NO_MEMORY;
  }
  return file ? file->problem() : DS_OK;
}

int ds_model_head(ds_model *model, int64_t n_rows, const float *x, float *logits) {
  if (!model || !x || !logits) return DS_BAD_POINTER;
  if (n_rows < 1 || n_rows > kMaxRows || !model->head.packed || model->last_norm.empty())
    return DS_BAD_SHAPE;
  try {
    run_head(*model, n_rows, x, logits);
  } catch (const std::bad_alloc &) {
    return DS_NO_MEMORY;
  }
  return DS_OK;
}

}  // extern "C"
