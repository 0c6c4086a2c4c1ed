// A decoder's shapes, weights and working memory; what model.cpp checks and forward.cpp runs.
#pragma once
#include <map>
#include <memory>
#include <new>
#include <vector>

#include "layout.h"
#include "mixture.h"
#include "page_file.h"

namespace ds {

constexpr int kMatrices = 9;
constexpr int kLayerMatrices = 7;
constexpr int64_t kMaxLayers = 1024;

struct Matrix {
  int format = -1;
  int64_t n_out = 0, n_in = 0;
  const uint8_t *packed = nullptr;
  const float *bias = nullptr;

  int64_t n_tiles() const { return tiles_of(n_out); }
  const float *factors() const;
};

struct Layer {
  Matrix matrices[kLayerMatrices];
  std::vector<float> norms[2];
  // Experts that add to the feed-forward layer's products, if there are any.
  ds_gate gate{};
  const ds_experts *hidden = nullptr, *down = nullptr;
};

// Rows of a pass beside their experts.
struct Routed {
  std::vector<int64_t> experts;
  std::vector<float> weights;
  Slots slots;
  std::vector<uint16_t> half;  // inputs of the experts' products, in bfloat16
  std::vector<uint32_t> low;   // what slots have between their two products
};

// What is added to the products with a model's matrices.
struct Adapter {
  std::vector<LowRank> parts;  // [layers][kLayerMatrices]
  int64_t max_rank = 0;

  LowRank &at(int64_t layer, int which) { return parts[size_t(layer * kLayerMatrices + which)]; }
  const LowRank &at(int64_t layer, int which) const {
    return parts[size_t(layer * kLayerMatrices + which)];
  }
  // Zeroed memory of its own, so that it is given back with the adapter.
  uint16_t *reserve(int64_t n) {
    memory_.reset(new (std::align_val_t{64}) uint16_t[size_t(n)]());
    return memory_.get();
  }

 private:
  struct Release {
    void operator()(uint16_t *memory) const { ::operator delete[](memory, std::align_val_t{64}); }
  };
  std::unique_ptr<uint16_t[], Release> memory_;
};

// Memory for rounded activations of the widest input.
struct Rounded {
  std::vector<int8_t> codes;
  std::vector<float> scale, sum;
  std::vector<int32_t> offset;

  Activations reserve(int64_t n_rows, int64_t n_in);
};

// New tokens of some sequences, behind each other.
struct Batch {
  int64_t n_sequences, n_rows;
  const int64_t *counts;        // [n_sequences] new tokens
  const int64_t *lengths;       // [n_sequences] earlier tokens
  const int32_t *const *pages;  // [n_sequences]: numbers of the pages, in order
  const int32_t *const *memory;  // the same of the pages of memory nodes; null: none are kept
  const int32_t *const *cold;    // the same of cold pages; null: all are read as they are
  const int64_t *asks_from;      // [n_sequences] positions from which tokens ask; null: none do
  const int64_t *adapters;       // [n_sequences] numbers of their adapters, or -1; null: none has one
};

// Which keys queries see, in pages (hierarchy.cpp).
struct Hierarchy {
  int64_t sink_pages = 0, window_pages = 0, recalled_pages = 0;
  int64_t n_dense = 0;       // the first positions, which see all that came before
  int64_t n_reach = 0;       // positions up to which pages stay where they are
  float fusion = 0.0f;       // how much of a layer's votes the next one takes over
  int64_t looked_pages = 0;   // most whose memory nodes are looked at by each token that reads
  int64_t scanned_pages = 0;  // most whose keys are looked at by tokens that ask
};

// Where keys and values are: pages in blocks. Distances are in bytes.
struct Cache {
  std::vector<uint8_t *> keys, values;  // of each block; of memory nodes: keys only
  int64_t block_pages = 1, layer_stride = 0, page_stride = 0, head_stride = 0;

  int64_t n_pages() const { return int64_t(keys.size()) * block_pages; }
  uint8_t *place(const std::vector<uint8_t *> &blocks, int64_t layer, int64_t page,
                 int64_t group) const {
    return blocks[size_t(page / block_pages)] + layer * layer_stride +
           page % block_pages * page_stride + group * head_stride;
  }
  uint16_t *key_page(int64_t layer, int64_t page, int64_t group) const {
    return reinterpret_cast<uint16_t *>(place(keys, layer, page, group));
  }
  uint16_t *value_page(int64_t layer, int64_t page, int64_t group) const {
    return reinterpret_cast<uint16_t *>(place(values, layer, page, group));
  }
};

// At least that much working memory; what is there already is kept.
template <typename T>
T *reserve(std::vector<T> &memory, int64_t n) {
  if (memory.size() < size_t(n)) memory.resize(size_t(n));
  return memory.data();
}

// Codes of a head's page (cold.h).
struct Codes {
  const uint8_t *keys, *values;
};

// Which pages queries see in codes: those before their window, but for the first ones.
struct Cold {
  int bits = 0;
  int64_t sink_pages = 0, window_pages = 0;
  Cache cache;                     // in memory, or
  std::unique_ptr<PageFile> file;  // in a file

  int64_t n_pages() const { return file ? file->n_pages() : cache.n_pages(); }
  bool has_failed() const { return file && file->problem(); }

  // Those of a page, or of its keys alone; from a file, they are put into `record`. All null if they
  // could not be read, which the file remembers.
  Codes codes(const Kernels &use, int64_t layer, int64_t page, int64_t group, bool with_values,
              std::vector<uint8_t> &record) const;

  bool hides(int64_t page, int64_t own) const {
    return page >= sink_pages && page < own - window_pages;
  }
};

}  // namespace ds

struct ds_model {
  int64_t d_model, n_heads, n_kv_heads, d_head, d_ff;
  float epsilon;
  std::vector<ds::Layer> layers;
  ds::Matrix head, embedding;
  ds::Cache cache, memory;
  ds::Hierarchy hierarchy;
  ds::Cold cold;
  int64_t n_positions = 0;
  // Rotations by whole pages [n_positions / kPage][d_head / 2], and by positions in a page.
  const float *page_cosines = nullptr, *page_sines = nullptr, *cosines = nullptr, *sines = nullptr;
  int32_t *trace = nullptr;  // [layers][groups][recalled_pages] of the batch's last block
  std::vector<float> last_norm;
  std::map<int64_t, std::unique_ptr<ds::Adapter>> adapters;
  int64_t next_adapter = 0;
  // Working memory, kept from call to call.
  ds::Rounded rounded;
  std::vector<float> normed, qkv, mixed, hidden, ups, out;
  std::vector<float> fused[2];  // votes of a layer and of the one before
  std::vector<float> latest;    // the own votes of the layer before, where there are too many pages
  int64_t fusion_pages = 0;
  std::vector<const ds::Adapter *> adapted;  // of each row of a pass, or null; empty: none has one
  std::vector<float> low;                    // [rows][3][low_width] of their first products
  int64_t low_width = 0;
  ds::Routed routed;
};

namespace ds {

// All layers, in place on x [n_rows][d_model].
void run_layers(ds_model &model, const Batch &batch, float *x);
// Rows of the embedding.
void embed(const ds_model &model, int64_t n_rows, const int64_t *token_ids, float *x);
// Last norm and head: logits [n_rows][vocabulary].
void run_head(ds_model &model, int64_t n_rows, const float *x, float *logits);
// Rows of queries in model.qkv against the pages of one layer, into model.mixed.
void mix_tokens(ds_model &model, const Kernels &use, int64_t layer, const Batch &batch);
// The same for tokens that see a part only.
void mix_hierarchically(ds_model &model, const Kernels &use, int64_t layer, const Batch &batch);
// Write the memory nodes of the pages that new tokens complete.
void remember(ds_model &model, const Kernels &use, int64_t layer, const Batch &batch);
// Write the cold form of the pages that new tokens complete.
void seal(ds_model &model, const Kernels &use, int64_t layer, const Batch &batch);
// Make a page of all layers from its cold form, unless that cannot be read.
void expand(ds_model &model, int64_t cold_page, int64_t page);

// How many of a sequence's new tokens see all that came before: those of its first pages.
inline int64_t n_dense_tokens(const ds_model &model, const Batch &batch, int64_t s) {
  const int64_t count = batch.counts[s];
  if (!batch.memory || !batch.memory[s]) return count;
  const int64_t left = model.hierarchy.n_dense / kPage * kPage - batch.lengths[s];
  return left < 0 ? 0 : left < count ? left : count;
}

}  // namespace ds
