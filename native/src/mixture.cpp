// What experts compute, for layers that are called one by one and for whole decoders.
#include "mixture.h"

#include <algorithm>
#include <memory>
#include <new>

#include "pool.h"

namespace ds {

void Slots::sort(const int64_t *experts, const float *given, int64_t n_slots, int64_t first,
                 int64_t last, int64_t n_experts, float scale) {
  next_.assign(size_t(n_experts + 1), 0);
  for (int64_t i = first * n_slots; i < last * n_slots; ++i) ++next_[size_t(experts[i])];
  int64_t n = 0;
  runs.clear();
  for (int64_t e = 0; e < n_experts; ++e) {
    const int64_t count = next_[size_t(e)];
    if (count) runs.push_back({e, n, count});
    next_[size_t(e)] = n;
    n += count;
  }
  rows.resize(size_t(n));
  places.resize(size_t(n));
  weights.resize(size_t(n));
  for (int64_t row = first; row < last; ++row)
    for (int64_t i = row * n_slots; i < (row + 1) * n_slots; ++i) {
      if (experts[i] == n_experts) continue;
      const size_t at = size_t(next_[size_t(experts[i])]++);
      rows[at] = int32_t(row);
      places[at] = int32_t(i);
      weights[at] = given[i] * scale;
    }
}

namespace {

WordRows rows_of(const ds_experts &experts, const void *x, int64_t width, const int32_t *index,
                 int64_t n_rows) {
  return {static_cast<const uint32_t *>(x), width / experts.per_word(), index, n_rows};
}

// Row `row` of numbers in the format of some experts.
const void *at(const ds_experts &experts, const void *numbers, int64_t row, int64_t width) {
  return static_cast<const char *>(numbers) + row * width * experts.number_bytes();
}

void *at(const ds_experts &experts, void *numbers, int64_t row, int64_t width) {
  return static_cast<char *>(numbers) + row * width * experts.number_bytes();
}

}  // namespace

void shrink(const Kernels &use, const ds_experts &experts, const Slots &slots, const Slots::Run &run,
            const void *x, void *low) {
  const Expert &expert = experts.experts[size_t(run.expert)];
  const int64_t n_tiles = expert.width / kTile * int64_t(experts.n_outs.size());
  const int64_t width = experts.low_width();
  const int32_t *index = slots.rows.data() + run.first;
  use.experts[experts.dtype].shrink(expert.first, n_tiles,
                                    rows_of(experts, x, experts.n_in, index, run.n),
                                    slots.weights.data() + run.first,
                                    at(experts, low, run.first, width), width);
}

void widen(const Kernels &use, const ds_experts &experts, int which, const Slots &slots,
           const void *low, int64_t from, int64_t to, void *y, int y_dtype, int64_t y_stride) {
  const int64_t width = experts.low_width();
  for (const Slots::Run &run : slots.runs) {
    const Expert &expert = experts.experts[size_t(run.expert)];
    const void *own = static_cast<const char *>(at(experts, low, run.first, width)) +
                      which * expert.width * experts.number_bytes();
    use.experts[experts.dtype].widen[y_dtype](expert.second[size_t(which)], from, to,
                                              rows_of(experts, own, width, nullptr, run.n),
                                              slots.rows.data() + run.first, y, y_stride);
  }
}

namespace {

constexpr int64_t kFewRows = 4;     // fewer are not worth sharing
constexpr int64_t kMostRows = 128;  // of a block: what they read and write stays in a cache
constexpr int64_t kRunRows = 72;    // of an expert that a thread takes at once

int64_t block_of(int64_t n_rows) {
  if (n_rows < kFewRows) return n_rows;
  const int64_t even = (n_rows + 2 * Pool::get().size() - 1) / (2 * Pool::get().size());
  return std::min(kMostRows, std::max(int64_t{8}, even));
}

// Blocks of rows are of one thread from the first product to the last. `prepare` may choose their
// experts.
template <typename Prepare>
void add_low_rank(const Kernels &use, const ds_experts &experts, const ds_choice &choice,
                  const void *x, void *y, const Prepare &prepare) {
  int64_t y_stride = 0;
  for (const int64_t n_out : experts.n_outs) y_stride += n_out;
  const int64_t size = block_of(choice.n_rows), width = experts.low_width();
  Pool::get().run((choice.n_rows + size - 1) / size, 1, [&](int64_t first, int64_t last) {
    static thread_local Slots slots;
    static thread_local std::vector<uint32_t> low;
    for (int64_t block = first; block < last; ++block) {
      const int64_t start = block * size, end = std::min(start + size, choice.n_rows);
      prepare(start, end);
      slots.sort(choice.experts, choice.weights, choice.n_slots, start, end, experts.n_experts(),
                 float(experts.scale));
      low.resize(std::max(low.size(), size_t(slots.size() * width / experts.per_word())));
      for (const Slots::Run &run : slots.runs) shrink(use, experts, slots, run, x, low.data());
      int64_t column = 0;
      for (size_t m = 0; m < experts.n_outs.size(); column += experts.n_outs[m++])
        widen(use, experts, int(m), slots, low.data(), 0, experts.n_outs[m] / kTile,
              static_cast<char *>(y) + column * experts.number_bytes(), experts.dtype, y_stride);
    }
  });
}

// Runs that are long are cut, so that threads can share them.
std::vector<Slots::Run> cut(const std::vector<Slots::Run> &runs) {
  std::vector<Slots::Run> parts;
  for (const Slots::Run &run : runs) {
    const int64_t n_parts = (run.n + kRunRows - 1) / kRunRows;
    for (int64_t i = 0; i < n_parts; ++i) {
      const int64_t first = run.n * i / n_parts, last = run.n * (i + 1) / n_parts;
      parts.push_back({run.expert, run.first + first, last - first});
    }
  }
  return parts;
}

// Neurons of all slots, then the sums of each row's slots.
void run_neurons(const Kernels &use, const ds_experts &experts, const ds_choice &choice,
                 const void *x, void *y) {
  static thread_local Slots slots;
  static thread_local std::vector<float> out;
  static thread_local std::vector<uint8_t> is_there;
  const int64_t n_all = choice.n_rows * choice.n_slots, n_out = experts.n_outs[0];
  const ExpertKernels &own = use.experts[experts.dtype];
  slots.sort(choice.experts, choice.weights, choice.n_slots, 0, choice.n_rows,
             experts.n_experts(), float(experts.scale));
  out.resize(std::max(out.size(), size_t(n_all * n_out)));
  is_there.resize(std::max(is_there.size(), size_t(n_all)));
  for (int64_t i = 0; i < n_all; ++i)
    is_there[size_t(i)] = choice.experts[i] != experts.n_experts();
  const Slots &sorted = slots;  // of this thread, for all
  float *parts_of_rows = out.data();
  const uint8_t *present = is_there.data();
  const std::vector<Slots::Run> parts = cut(sorted.runs);
  Pool::get().run(int64_t(parts.size()), 1, [&](int64_t first, int64_t last) {
    static thread_local std::vector<uint32_t> inner;
    for (int64_t i = first; i < last; ++i) {
      const Slots::Run &run = parts[size_t(i)];
      const Expert &e = experts.experts[size_t(run.expert)];
      inner.resize(std::max(inner.size(), size_t(run.n * e.width / experts.per_word())));
      own.swiglu(e.first, 2 * e.width / kTile,
                 rows_of(experts, x, experts.n_in, sorted.rows.data() + run.first, run.n),
                 sorted.weights.data() + run.first, inner.data(), e.width);
      own.down(e.second[0], n_out / kTile,
               rows_of(experts, inner.data(), e.width, nullptr, run.n),
               sorted.places.data() + run.first, parts_of_rows, n_out);
    }
  });
  const auto add_up = [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      own.total(parts_of_rows + r * choice.n_slots * n_out, present + r * choice.n_slots,
                choice.n_slots, n_out, at(experts, y, r, n_out));
  };
  if (choice.n_rows < kFewRows)
    add_up(0, choice.n_rows);
  else
    Pool::get().run(choice.n_rows, 32, add_up);
}

// An expert's numbers beside their places, in memory and as they are given: the one description
// for packing and unpacking.
template <typename T, typename Work>
void for_weights(const ds_experts &e, T *const *first, T *const *second, const Work &work) {
  const int64_t per = e.per_word(), n_matrices = int64_t(e.n_outs.size());
  const auto place = [per](const Panel &p, int64_t out, int64_t in) {
    T *weights = reinterpret_cast<T *>(const_cast<uint32_t *>(p.weights));
    return weights + ((out / kTile * p.n_words + in / per) * kTile + out % kTile) * per + in % per;
  };
  int64_t start = 0;
  for (int64_t i = 0; i < e.n_experts(); start += e.sizes[size_t(i++)]) {
    const Expert &expert = e.experts[size_t(i)];
    const int64_t size = e.sizes[size_t(i)], n_halves = e.is_low_rank ? n_matrices : 2;
    for (int64_t h = 0; h < n_halves; ++h)
      for (int64_t j = 0; j < size; ++j) {
        // Of neurons, an expert's gate rows lie before its up rows, and tiles of both take turns.
        T *given = e.is_low_rank ? first[h] + (start + j) * e.n_in
                                 : first[0] + (2 * start + h * size + j) * e.n_in;
        const int64_t out = e.is_low_rank ? h * expert.width + j
                                          : (j / kTile * 2 + h) * kTile + j % kTile;
        for (int64_t k = 0; k < e.n_in; ++k) work(place(expert.first, out, k), given + k);
      }
    for (int64_t m = 0; m < n_matrices; ++m)
      for (int64_t j = 0; j < size; ++j)
        for (int64_t n = 0; n < e.n_outs[size_t(m)]; ++n)
          work(place(expert.second[size_t(m)], n, j),
               second[m] + (start + j) * e.n_outs[size_t(m)] + n);
  }
}

// Take memory for all tiles and say where they are.
bool reserve(ds_experts &e) {
  const int64_t per = e.per_word(), n_firsts = e.is_low_rank ? int64_t(e.n_outs.size()) : 2;
  const auto lay_out = [&](uint32_t *place) {
    int64_t n = 0;
    const auto next = [&](int64_t n_out, int64_t n_words) {
      const Panel panel{place ? place + n : nullptr, n_words};
      n += n_out * n_words;
      return panel;
    };
    e.experts.clear();
    for (const int64_t size : e.sizes) {
      Expert expert;
      expert.width = tiles_of(size) * kTile;
      expert.first = next(n_firsts * expert.width, e.n_in / per);
      for (const int64_t n_out : e.n_outs) expert.second.push_back(next(n_out, (size + per - 1) / per));
      e.experts.push_back(std::move(expert));
    }
    return n;
  };
  e.n_bytes = lay_out(nullptr) * 4;
  e.memory = ds_allocate(e.n_bytes);
  if (!e.memory) return false;
  lay_out(static_cast<uint32_t *>(e.memory));
  return true;
}

constexpr int64_t kMaxExperts = 4096;

int check_experts(int dtype, int64_t n_experts, const int64_t *sizes, int64_t n_in,
                  int64_t n_matrices, const int64_t *n_outs) {
  if (dtype != DS_F32 && dtype != DS_BF16) return DS_BAD_ENUM;
  if (!sizes || !n_outs) return DS_BAD_POINTER;
  const auto is_bad = [](int64_t n) { return n < 1 || n > kMaxDimension || n % kTile; };
  if (n_experts < 1 || n_experts > kMaxExperts || n_matrices < 1 || n_matrices > 2 || is_bad(n_in))
    return DS_BAD_SHAPE;
  for (int64_t m = 0; m < n_matrices; ++m)
    if (is_bad(n_outs[m])) return DS_BAD_SHAPE;
  for (int64_t i = 0; i < n_experts; ++i)
    if (sizes[i] < 1 || sizes[i] > kMaxDimension) return DS_BAD_SHAPE;
  return DS_OK;
}

template <typename T>
void copy_all(const ds_experts &e, void *const *first, void *const *second, bool is_out) {
  T *const *a = reinterpret_cast<T *const *>(first), *const *b = reinterpret_cast<T *const *>(second);
  if (is_out)
    for_weights<T>(e, a, b, [](const T *packed, T *given) { *given = *packed; });
  else
    for_weights<T>(e, a, b, [](T *packed, const T *given) { *packed = *given; });
}

void copy_all(const ds_experts &e, void *const *first, void *const *second, bool is_out) {
  if (e.dtype == DS_BF16)
    copy_all<uint16_t>(e, first, second, is_out);
  else
    copy_all<uint32_t>(e, first, second, is_out);
}

bool are_there(const ds_experts &e, void *const *first, void *const *second) {
  if (!first || !second) return false;
  const size_t n_firsts = e.is_low_rank ? e.n_outs.size() : 1;
  for (size_t m = 0; m < n_firsts; ++m)
    if (!first[m]) return false;
  for (size_t m = 0; m < e.n_outs.size(); ++m)
    if (!second[m]) return false;
  return true;
}

int check_choice(const ds_experts *experts, const ds_choice *choice) {
  if (!experts || !choice || !choice->experts || !choice->weights) return DS_BAD_POINTER;
  if (choice->n_rows < 0 || choice->n_rows > kMaxDimension || choice->n_slots < 0 ||
      choice->n_slots > kMaxExperts || choice->n_rows * choice->n_slots > INT32_MAX)
    return DS_BAD_SHAPE;
  for (int64_t i = 0; i < choice->n_rows * choice->n_slots; ++i)
    if (choice->experts[i] < 0 || choice->experts[i] > experts->n_experts()) return DS_BAD_VALUE;
  return DS_OK;
}

}  // namespace
}  // namespace ds

using namespace ds;

extern "C" {

int ds_experts_new(int is_low_rank, int dtype, int64_t n_experts, const int64_t *sizes, double scale,
                   int64_t n_in, int64_t n_matrices, const int64_t *n_outs, void *const *first,
                   void *const *second, ds_experts **made) {
  if (!made) return DS_BAD_POINTER;
  if (const int problem = check_experts(dtype, n_experts, sizes, n_in, n_matrices, n_outs))
    return problem;
  if (!is_low_rank && n_matrices != 1) return DS_BAD_SHAPE;
  try {
    auto found = std::make_unique<ds_experts>();
    found->is_low_rank = is_low_rank;
    found->dtype = dtype;
    found->n_in = n_in;
    found->scale = scale;
    found->n_outs.assign(n_outs, n_outs + n_matrices);
    found->sizes.assign(sizes, sizes + n_experts);
    if (!are_there(*found, first, second)) return DS_BAD_POINTER;
    if (!reserve(*found)) return DS_NO_MEMORY;
    copy_all(*found, first, second, false);
    *made = found.release();
  } catch (const std::bad_alloc &) {
    return DS_NO_MEMORY;
  }
  return DS_OK;
}

void ds_experts_free(ds_experts *experts) {
  if (experts) ds_release(experts->memory);
  delete experts;
}

int64_t ds_experts_bytes(const ds_experts *experts) { return experts ? experts->n_bytes : 0; }

int ds_experts_unpack(const ds_experts *experts, void *const *first, void *const *second) {
  if (!experts || !are_there(*experts, first, second)) return DS_BAD_POINTER;
  copy_all(*experts, first, second, true);
  return DS_OK;
}

int ds_experts_add(const ds_experts *experts, const ds_choice *choice, const void *x, void *y) {
  if (const int problem = check_choice(experts, choice)) return problem;
  if (!experts->is_low_rank || !x || !y) return DS_BAD_POINTER;
  try {
    if (choice->n_rows)
      add_low_rank(ds::kernels(), *experts, *choice, x, y, [](int64_t, int64_t) {});
  } catch (const std::bad_alloc &) {
    return DS_NO_MEMORY;
  }
  return DS_OK;
}

int ds_experts_route(const ds_experts *experts, const ds_gate *gate, int64_t n_rows,
                     const int64_t *domains, int64_t *chosen, float *weights, const void *x,
                     void *y) {
  if (!experts || !x || !y) return DS_BAD_POINTER;
  if (const int problem = check_rows(gate, experts->dtype, n_rows, domains, chosen, weights))
    return problem;
  if (!experts->is_low_rank || gate->d_model != experts->n_in ||
      gate->n_experts != experts->n_experts())
    return DS_BAD_SHAPE;
  const ds_choice choice{n_rows, gate->n_active, chosen, weights};
  const Kernels &use = ds::kernels();
  try {
    if (n_rows)
      add_low_rank(use, *experts, choice, x, y, [&](int64_t first, int64_t last) {
        choose(use, *gate, experts->dtype, x, first, last, domains, chosen, weights);
      });
  } catch (const std::bad_alloc &) {
    return DS_NO_MEMORY;
  }
  count_load(*gate, n_rows, domains, chosen);
  return DS_OK;
}

int ds_experts_run(const ds_experts *experts, const ds_choice *choice, const void *x, void *y) {
  if (const int problem = check_choice(experts, choice)) return problem;
  if (experts->is_low_rank || !x || !y) return DS_BAD_POINTER;
  try {
    if (choice->n_rows) run_neurons(ds::kernels(), *experts, *choice, x, y);
  } catch (const std::bad_alloc &) {
    return DS_NO_MEMORY;
  }
  return DS_OK;
}

}  // extern "C"
