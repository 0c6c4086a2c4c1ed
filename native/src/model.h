// A decoder's shapes, weights and working memory; what model.cpp checks and forward.cpp runs.
#pragma once
#include <vector>

#include "layout.h"

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
};

// Where keys and values are: page 0 of head 0 of each layer.
struct Cache {
  std::vector<uint16_t *> keys, values;
  int64_t page_stride = 0, head_stride = 0, n_pages = 0;
};

}  // namespace ds

struct ds_model {
  int64_t d_model, n_heads, n_kv_heads, d_head, d_ff;
  float epsilon;
  std::vector<ds::Layer> layers;
  ds::Matrix head, embedding;
  ds::Cache cache;
  int64_t n_positions = 0;
  const float *cosines = nullptr, *sines = nullptr;  // [n_positions][d_head / 2]
  std::vector<float> last_norm;
  // Working memory, kept from call to call.
  ds::Rounded rounded;
  std::vector<float> normed, qkv, mixed, hidden, ups, out;
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

}  // namespace ds
