// The gate of a mixture: which experts each row goes to, and how much they count.
//
// The rules are those of `deepseek.ops.moe.gate`, its reference. Of equal scores the first wins.
#include <algorithm>
#include <new>
#include <vector>

#include "mixture.h"
#include "pool.h"

namespace ds {
namespace {

constexpr float kEpsilon = 1e-20f;
constexpr int64_t kUnknown = -1;  // the domain of rows without a label
constexpr float kNever = -__builtin_inff();

// What is known of one row.
struct Row {
  const ds_gate &gate;
  std::vector<float> scores, biased;  // biased: `kNever` where the row may not go
  std::vector<float> worths;
  std::vector<uint8_t> is_open;  // groups
  float nothing[16];             // the score of no expert, and room that the kernel needs

  explicit Row(const ds_gate &g)
      : gate(g),
        scores(size_t((g.n_experts + 15) / 16 * 16)),
        biased(size_t(g.n_experts)),
        worths(size_t(g.n_groups)),
        is_open(size_t(g.n_groups)) {}

  // Groups that a row with a label may go to: its own and those for all.
  void open_domain(int64_t domain) {
    for (int64_t g = 0; g < gate.n_groups; ++g)
      is_open[size_t(g)] = domain == kUnknown || domain == g || gate.always[g];
  }

  // A group is worth its two best experts; few of them, and those for all, are open.
  void open_best() {
    for (int64_t g = 0; g < gate.n_groups; ++g) {
      float best = kNever, second = kNever;
      for (int64_t e = gate.bounds[g]; e < gate.bounds[g + 1]; ++e) {
        const float value = biased[size_t(e)];
        if (value > best) {
          second = best;
          best = value;
        } else if (value > second) {
          second = value;
        }
      }
      const bool is_single = gate.bounds[g + 1] - gate.bounds[g] < 2;
      worths[size_t(g)] = is_single ? best : best + second;
      is_open[size_t(g)] = gate.always[g] != 0;
    }
    for (int64_t i = 0; i < gate.n_domains; ++i) {
      int64_t best = -1;
      for (int64_t g = 0; g < gate.n_groups; ++g)
        if (!is_open[size_t(g)] && (best < 0 || worths[size_t(g)] > worths[size_t(best)])) best = g;
      if (best < 0) return;
      is_open[size_t(best)] = true;
    }
  }

  void close_others() {
    for (int64_t g = 0; g < gate.n_groups; ++g)
      if (!is_open[size_t(g)])
        std::fill(biased.begin() + gate.bounds[g], biased.begin() + gate.bounds[g + 1], kNever);
  }

  // The best experts of one part of the layer, the best first.
  void take_best(int64_t part, int64_t n_slots, int64_t *experts) {
    for (int64_t slot = 0; slot < n_slots; ++slot) {
      int64_t best = gate.n_experts;
      float most = kNever;
      for (int64_t g = 0; g < gate.n_groups; ++g)
        for (int64_t e = gate.bounds[g] + part; e < gate.bounds[g + 1]; e += gate.n_parts)
          if (biased[size_t(e)] > most) {
            most = biased[size_t(e)];
            best = e;
          }
      experts[slot] = best;
      if (best < gate.n_experts) biased[size_t(best)] = kNever;
    }
  }

  void choose(const int64_t *domain, int64_t *experts, float *weights) {
    for (int64_t e = 0; e < gate.n_experts; ++e)
      biased[size_t(e)] = scores[size_t(e)] + gate.bias[e];
    if (domain)
      open_domain(*domain);
    else if (gate.n_domains)
      open_best();
    if (domain || gate.n_domains) close_others();
    const int64_t n_slots = gate.n_active / gate.n_parts;
    for (int64_t part = 0; part < gate.n_parts; ++part)
      take_best(part, n_slots, experts + part * n_slots);
    weigh(experts, weights);
  }

  void weigh(int64_t *experts, float *weights) const {
    const float level = gate.null_row ? nothing[0] + gate.null_bias[0] : kNever;
    float total = 0.0f;
    for (int64_t i = 0; i < gate.n_active; ++i) {
      const int64_t e = experts[i];
      if (e < gate.n_experts && gate.null_row && scores[size_t(e)] + gate.bias[e] <= level)
        experts[i] = gate.n_experts;
      const bool is_empty = experts[i] == gate.n_experts;
      weights[i] = is_empty ? 0.0f : gate.kind == DS_ONES ? 1.0f : scores[size_t(e)];
      total += is_empty && gate.null_row ? nothing[0] : weights[i];
    }
    if (gate.kind == DS_SHARES)
      for (int64_t i = 0; i < gate.n_active; ++i) weights[i] /= total + kEpsilon;
  }
};

}  // namespace

int check_gate(const ds_gate &g) {
  if (!g.bounds || !g.always || !g.weight || !g.bias || (g.null_row && !g.null_bias))
    return DS_BAD_POINTER;
  if (g.kind != DS_SHARES && g.kind != DS_SCORES && g.kind != DS_ONES) return DS_BAD_ENUM;
  if (g.d_model < 1 || g.d_model > kMaxDimension || g.d_model % kTile || g.n_experts < 1 ||
      g.n_experts > 4096 || g.n_active < 0 || g.n_active > g.n_experts || g.n_parts < 1 ||
      g.n_active % g.n_parts || g.n_groups < 1 || g.n_groups > g.n_experts || g.n_domains < 0 ||
      g.n_domains > g.n_groups || g.bounds[0] != 0 || g.bounds[g.n_groups] != g.n_experts)
    return DS_BAD_SHAPE;
  for (int64_t i = 0; i < g.n_groups; ++i)
    if (g.bounds[i] >= g.bounds[i + 1]) return DS_BAD_SHAPE;
  return DS_OK;
}

int check_rows(const ds_gate *gate, int dtype, int64_t n_rows, const int64_t *domains,
               const int64_t *experts, const float *weights) {
  if (!gate || !experts || !weights) return DS_BAD_POINTER;
  if (dtype != DS_F32 && dtype != DS_BF16) return DS_BAD_ENUM;
  if (n_rows < 0 || n_rows > kMaxDimension) return DS_BAD_SHAPE;
  if (const int problem = check_gate(*gate)) return problem;
  if (n_rows * gate->n_active > INT32_MAX) return DS_BAD_SHAPE;
  for (int64_t r = 0; domains && r < n_rows; ++r)
    if (domains[r] < kUnknown || domains[r] >= gate->n_groups) return DS_BAD_VALUE;
  return DS_OK;
}

void choose(const Kernels &use, const ds_gate &gate, int dtype, const void *x, int64_t first,
            int64_t last, const int64_t *domains, int64_t *experts, float *weights) {
  Row row(gate);
  const int64_t size = gate.d_model * (dtype == DS_BF16 ? 2 : 4);
  const auto score = use.experts[dtype].scores;
  for (int64_t r = first; r < last; ++r) {
    const void *numbers = static_cast<const char *>(x) + r * size;
    score(gate.weight, gate.n_experts, numbers, gate.d_model, row.scores.data());
    if (gate.null_row) score(gate.null_row, 1, numbers, gate.d_model, row.nothing);
    row.choose(domains ? domains + r : nullptr, experts + r * gate.n_active,
               weights + r * gate.n_active);
  }
}

void count_load(const ds_gate &gate, int64_t n_rows, const int64_t *domains,
                const int64_t *experts) {
  if (!gate.load) return;
  const int64_t width = gate.n_experts + 1;
  for (int64_t r = 0; r < n_rows; ++r) {
    const int64_t domain = domains && domains[r] != kUnknown ? domains[r] : gate.n_groups;
    for (int64_t i = 0; i < gate.n_active; ++i)
      ++gate.load[domain * width + experts[r * gate.n_active + i]];
  }
}

}  // namespace ds

using namespace ds;

extern "C" int ds_gate_choose(const ds_gate *gate, int dtype, int64_t n_rows, const void *x,
                              const int64_t *domains, int64_t *experts, float *weights) {
  if (!x) return DS_BAD_POINTER;
  if (const int problem = check_rows(gate, dtype, n_rows, domains, experts, weights))
    return problem;
  const Kernels &use = ds::kernels();
  try {
    if (n_rows < 8)
      choose(use, *gate, dtype, x, 0, n_rows, domains, experts, weights);
    else
      Pool::get().run(n_rows, 32, [&](int64_t first, int64_t last) {
        choose(use, *gate, dtype, x, first, last, domains, experts, weights);
      });
  } catch (const std::bad_alloc &) {
    return DS_NO_MEMORY;
  }
  count_load(*gate, n_rows, domains, experts);
  return DS_OK;
}
