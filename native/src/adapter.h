// What adapters add to the products of a pass.
#pragma once
#include "model.h"

namespace ds {

// Note which rows of a batch have an adapter; what was noted is forgotten at the end of the scope.
class AdaptedRows {
 public:
  AdaptedRows(ds_model &model, const Batch &batch);
  ~AdaptedRows() { model_.adapted.clear(); }
  AdaptedRows(const AdaptedRows &) = delete;
  AdaptedRows &operator=(const AdaptedRows &) = delete;

 private:
  ds_model &model_;
};

// Additions to the products of some rows with up to three matrices of a layer that have one input.
// Rows without an adapter are left alone.
struct Addition {
  ds_model &model;
  const Kernels &use;
  int64_t layer;
  int first, last;  // matrices, the last one included
  int64_t row;      // of the pass, where these rows begin

  // First halves of the products, of rows [from, to) of x.
  void shrink(const float *x, int64_t from, int64_t to) const;
  // Second halves, added to tiles [from, to) of what a matrix gave.
  void widen(int which, const Share &product, int64_t from, int64_t to) const;

 private:
  // Call `work(adapter, first row, rows)` for rows behind each other that have one adapter.
  template <typename Work>
  void for_runs(int64_t from, int64_t to, const Work &work) const;
  float *low(int64_t r, int which) const;
};

}  // namespace ds
