// Mixtures of experts: which experts rows go to, and what these compute.
#pragma once
#include <cstdint>
#include <vector>

#include "deepseek_native.h"
#include "layout.h"

namespace ds {

// An expert's weights in tiles: what is multiplied by its input, and what by its inner numbers.
struct Expert {
  int64_t width = 0;  // ranks or neurons, in whole tiles
  Panel first;
  std::vector<Panel> second;
};

// Slots of some rows, those of an expert behind each other.
struct Slots {
  struct Run {
    int64_t expert, first, n;
  };
  std::vector<int32_t> rows, places;  // of each slot: its row, and row * n_slots + slot
  std::vector<float> weights;
  std::vector<Run> runs;  // experts that have any

  int64_t size() const { return int64_t(rows.size()); }
  // Take rows [first, last) of a choice. An expert of number n_experts is nobody.
  void sort(const int64_t *experts, const float *weights, int64_t n_slots, int64_t first,
            int64_t last, int64_t n_experts, float scale);

 private:
  std::vector<int64_t> next_;
};

// Whether a gate can be computed.
int check_gate(const ds_gate &gate);
int check_rows(const ds_gate *gate, int dtype, int64_t n_rows, const int64_t *domains,
               const int64_t *experts, const float *weights);
// Experts and weights [n_slots] of rows [first, last) of x [n_rows][d_model].
void choose(const Kernels &use, const ds_gate &gate, int dtype, const void *x, int64_t first,
            int64_t last, const int64_t *domains, int64_t *experts, float *weights);
// Add to the gate's loads.
void count_load(const ds_gate &gate, int64_t n_rows, const int64_t *domains, const int64_t *experts);

// First products of slots with experts of low rank: rows of `experts.low_width()` numbers.
void shrink(const Kernels &use, const ds_experts &experts, const Slots &slots, const Slots::Run &run,
            const void *x, void *low);
// Second ones, added to tiles [from, to) of what one of the matrices gave.
void widen(const Kernels &use, const ds_experts &experts, int which, const Slots &slots,
           const void *low, int64_t from, int64_t to, void *y, int y_dtype, int64_t y_stride);

}  // namespace ds

struct ds_experts {
  bool is_low_rank = false;
  int dtype = DS_F32;
  int64_t n_in = 0;
  double scale = 1.0;
  std::vector<int64_t> n_outs;  // of each matrix that is added to
  std::vector<int64_t> sizes;   // ranks or neurons of each expert, as they were given
  std::vector<ds::Expert> experts;
  int64_t n_bytes = 0;
  void *memory = nullptr;

  int64_t per_word() const { return dtype == DS_BF16 ? 2 : 1; }
  int64_t n_experts() const { return int64_t(sizes.size()); }
  // Numbers that a slot has between the products.
  int64_t low_width() const {
    int64_t most = 0;
    for (const ds::Expert &e : experts) most = e.width > most ? e.width : most;
    return most * (is_low_rank ? int64_t(n_outs.size()) : 1);
  }
  int64_t number_bytes() const { return dtype == DS_BF16 ? 2 : 4; }
};
