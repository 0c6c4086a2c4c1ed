// A decoder's shapes, weights and working memory; what model.cpp checks and forward.cpp runs.
#pragma once
#include <vector>

#include "layout.h"

namespace ds {

constexpr int kMatrices = 8;  // the last is the head's, of no layer
constexpr int64_t kMaxHead = 256;
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
  Matrix matrices[kMatrices - 1];
  std::vector<float> norms[2];
};

// Memory for rounded activations of the widest input.
struct Rounded {
  std::vector<int8_t> codes;
  std::vector<float> scale, sum;
  std::vector<int32_t> offset;

  Activations reserve(int64_t n_rows, int64_t n_in);
};

// New tokens of some sequences, behind each other, and the pages that keep what came before.
struct Batch {
  int64_t n_sequences, n_rows;
  const int64_t *counts;        // [n_sequences] new tokens
  const int64_t *lengths;       // [n_sequences] earlier tokens
  const int32_t *const *pages;  // [n_sequences]: numbers of the pages, in order
  const float *cosines, *sines; // [n_rows][d_head / 2]
  uint16_t *const *keys, *const *values;  // [n_layers]: page 0 of head 0
  int64_t page_stride, head_stride;
};

}  // namespace ds

struct ds_model {
  int64_t d_model, n_heads, n_kv_heads, d_head, d_ff;
  float epsilon;
  std::vector<ds::Layer> layers;
  ds::Matrix head;
  std::vector<float> last_norm;
  // Working memory, kept from call to call.
  ds::Rounded rounded;
  std::vector<float> normed, qkv, mixed, hidden, ups, out;
};

namespace ds {

// All layers, in place on x [n_rows][d_model].
void run_layers(ds_model &model, const Batch &batch, float *x);
// Last norm and head: logits [n_rows][vocabulary].
void run_head(ds_model &model, int64_t n_rows, const float *x, float *logits);
// Rows of queries in model.qkv against the pages of one layer, into model.mixed.
void mix_tokens(ds_model &model, const Kernels &use, int64_t layer, const Batch &batch);

}  // namespace ds
