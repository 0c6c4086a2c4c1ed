// One token of each of some sequences through all layers, without leaving the library.
//
// Threads meet five times a layer: after the projections, attention, the output, the gates and the
// way down. Everything between is small and done by the caller.
#include <cmath>
#include <cstring>
#include <vector>

#include "deepseek_native.h"
#include "layout.h"
#include "pool.h"

namespace ds {
namespace {

constexpr int kMatrices = 7;
constexpr int64_t kMaxHead = 256;
constexpr int64_t kMaxLayers = 1024;

struct Matrix {
  int format = -1;
  int64_t n_out = 0, n_in = 0;
  const uint8_t *packed = nullptr;
  const float *bias = nullptr;

  int64_t n_tiles() const { return (n_out + kTile - 1) / kTile; }
  const float *factors() const {
    const int64_t bytes = format == DS_U4 ? U4::kBytes : U8::kBytes;
    return reinterpret_cast<const float *>(packed + n_tiles() * (n_in / kBlock) * bytes);
  }
};

struct Layer {
  Matrix matrices[kMatrices];
  std::vector<float> norms[2];
};

// Memory for rounded activations of the widest input.
struct Rounded {
  std::vector<int8_t> codes;
  std::vector<float> scale, sum;
  std::vector<int32_t> offset;

  Activations reserve(int64_t n_rows, int64_t n_in) {
    const size_t blocks = size_t(n_rows * (n_in / kBlock));
    if (codes.size() < size_t(n_rows * n_in)) codes.resize(size_t(n_rows * n_in));
    if (scale.size() < blocks) {
      scale.resize(blocks);
      sum.resize(blocks);
      offset.resize(2 * blocks);
    }
    return {codes.data(), scale.data(), sum.data(), offset.data()};
  }
};

}  // namespace
}  // namespace ds

struct ds_model {
  int64_t d_model, n_heads, n_kv_heads, d_head, d_ff;
  float epsilon;
  std::vector<ds::Layer> layers;
  ds::Rounded rounded;
  std::vector<float> normed, qkv, mixed, hidden, ups, out;
};

namespace ds {
namespace {

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
  (m.format == DS_U4 ? use.u4 : use.u8)(s, first, last);
}

int64_t portion_of(int64_t n_pieces) {
  const int64_t portion = n_pieces / (int64_t{8} * Pool::get().size());
  return portion < 1 ? 1 : portion;
}

Activations round_rows(ds_model &model, const Kernels &use, const float *x, int64_t n_rows,
                       int64_t n_in) {
  const Activations to = model.rounded.reserve(n_rows, n_in);
  use.quantise(x, false, n_in, 0, n_rows, to);
  return to;
}

void project(ds_model &model, const Kernels &use, const Layer &layer, const float *x,
             int64_t n_rows) {
  const int64_t width = (model.n_heads + 2 * model.n_kv_heads) * model.d_head;
  for (int64_t r = 0; r < n_rows; ++r)
    use.normalise(x + r * model.d_model, layer.norms[0].data(), model.d_model, model.epsilon,
                  model.normed.data() + r * model.d_model);
  const Activations in = round_rows(model, use, model.normed.data(), n_rows, model.d_model);
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
      const int64_t from = first > start ? first : start, to = last < ends[i] ? last : ends[i];
      if (from < to) multiply(use, layer.matrices[i], shares[i], from - start, to - start);
    }
  });
}

void mix(ds_model &model, const Kernels &use, int64_t layer, int64_t n_rows, const float *cosines,
         const float *sines, uint16_t *const *keys, uint16_t *const *values,
         const int64_t *lengths, const int64_t *strides) {
  const int64_t d = model.d_head, heads = model.n_heads, groups = model.n_kv_heads;
  const int64_t width = (heads + 2 * groups) * d;
  const float scale = 1.0f / std::sqrt(float(d));
  for (int64_t r = 0; r < n_rows; ++r) {
    float *row = model.qkv.data() + r * width;
    for (int64_t h = 0; h < heads + groups; ++h)
      use.rotate(row + h * d, cosines + r * (d / 2), sines + r * (d / 2), d);
    for (int64_t i = 0; i < heads * d; ++i) row[i] *= scale;
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t place = (g * strides[r] + lengths[r]) * d;
      use.to_half(row + (heads + g) * d, d, keys[layer * n_rows + r] + place);
      use.to_half(row + (heads + groups + g) * d, d, values[layer * n_rows + r] + place);
    }
  }
  Pool::get().run(n_rows * heads, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t r = i / heads, h = i % heads;
      const int64_t start = h / (heads / groups) * strides[r] * d;
      use.attend(model.qkv.data() + r * width + h * d, keys[layer * n_rows + r] + start,
                 values[layer * n_rows + r] + start, lengths[r] + 1, d,
                 model.mixed.data() + i * d);
    }
  });
}

void multiply_and_add(ds_model &model, const Kernels &use, const Matrix &m, const float *in,
                      int64_t n_rows, float *x) {
  const Activations rounded = round_rows(model, use, in, n_rows, m.n_in);
  const Share s = share_of(m, rounded, n_rows, model.out.data(), m.n_out);
  const int64_t n_tiles = m.n_tiles();
  Pool::get().run(n_tiles, portion_of(n_tiles),
                  [&](int64_t first, int64_t last) { multiply(use, m, s, first, last); });
  use.add(x, model.out.data(), n_rows * m.n_out);
}

void feed_forward(ds_model &model, const Kernels &use, const Layer &layer, float *x,
                  int64_t n_rows) {
  for (int64_t r = 0; r < n_rows; ++r)
    use.normalise(x + r * model.d_model, layer.norms[1].data(), model.d_model, model.epsilon,
                  model.normed.data() + r * model.d_model);
  const Activations in = round_rows(model, use, model.normed.data(), n_rows, model.d_model);
  const Matrix &gate = layer.matrices[DS_GATE], &up = layer.matrices[DS_UP];
  const Share gates = share_of(gate, in, n_rows, model.hidden.data(), model.d_ff);
  const Share ups = share_of(up, in, n_rows, model.ups.data(), model.d_ff);
  const int64_t n_tiles = gate.n_tiles();
  Pool::get().run(n_tiles, portion_of(n_tiles), [&](int64_t first, int64_t last) {
    multiply(use, gate, gates, first, last);
    multiply(use, up, ups, first, last);
    for (int64_t r = 0; r < n_rows; ++r) {
      const int64_t start = r * model.d_ff + first * kTile;
      use.gate(model.hidden.data() + start, model.ups.data() + start, (last - first) * kTile);
    }
  });
  multiply_and_add(model, use, layer.matrices[DS_DOWN], model.hidden.data(), n_rows, x);
}

bool is_complete(const ds_model &model) {
  for (const Layer &layer : model.layers) {
    for (const Matrix &m : layer.matrices)
      if (!m.packed) return false;
    if (layer.norms[0].empty() || layer.norms[1].empty()) return false;
  }
  return true;
}

}  // namespace
}  // namespace ds

using namespace ds;

extern "C" {

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
  if (format != DS_U4 && format != DS_U8) return DS_BAD_ENUM;
  if (which < 0 || which >= kMatrices) return DS_BAD_ENUM;
  if (layer < 0 || layer >= int64_t(model->layers.size())) return DS_BAD_SHAPE;
  const int64_t q = model->n_heads * model->d_head, kv = model->n_kv_heads * model->d_head;
  const int64_t outs[kMatrices] = {q, kv, kv, model->d_model, model->d_ff, model->d_ff,
                                   model->d_model};
  const int64_t ins[kMatrices] = {model->d_model, model->d_model, model->d_model, q,
                                  model->d_model, model->d_model, model->d_ff};
  if (n_out != outs[which] || n_in != ins[which]) return DS_BAD_SHAPE;
  model->layers[size_t(layer)].matrices[which] = {
      format, n_out, n_in, static_cast<const uint8_t *>(packed), bias};
  return DS_OK;
}

int ds_model_set_norm(ds_model *model, int64_t layer, int which, const float *weight) {
  if (!model || !weight) return DS_BAD_POINTER;
  if (which < 0 || which > 1) return DS_BAD_ENUM;
  if (layer < 0 || layer >= int64_t(model->layers.size())) return DS_BAD_SHAPE;
  model->layers[size_t(layer)].norms[which].assign(weight, weight + model->d_model);
  return DS_OK;
}

int ds_model_step(ds_model *model, int64_t n_rows, float *x, const float *cosines,
                  const float *sines, uint16_t *const *keys, uint16_t *const *values,
                  const int64_t *lengths, const int64_t *strides) {
  if (!model || !x || !cosines || !sines || !keys || !values || !lengths || !strides)
    return DS_BAD_POINTER;
  if (n_rows < 1 || n_rows > 4096 || !is_complete(*model)) return DS_BAD_SHAPE;
  for (int64_t r = 0; r < n_rows; ++r)
    if (lengths[r] < 0 || lengths[r] >= strides[r]) return DS_BAD_SHAPE;
  for (size_t i = 0; i < model->layers.size() * size_t(n_rows); ++i)
    if (!keys[i] || !values[i]) return DS_BAD_POINTER;
  const int64_t d = model->d_head, width = (model->n_heads + 2 * model->n_kv_heads) * d;
  const auto reserve = [n_rows](std::vector<float> &memory, int64_t size) {
    if (memory.size() < size_t(n_rows * size)) memory.resize(size_t(n_rows * size));
  };
  reserve(model->normed, model->d_model);
  reserve(model->qkv, width);
  reserve(model->mixed, model->n_heads * d);
  reserve(model->hidden, model->d_ff);
  reserve(model->ups, model->d_ff);
  reserve(model->out, model->d_model);
  const Kernels &use = ds::kernels();
  for (size_t i = 0; i < model->layers.size(); ++i) {
    const Layer &layer = model->layers[i];
    project(*model, use, layer, x, n_rows);
    mix(*model, use, int64_t(i), n_rows, cosines, sines, keys, values, lengths, strides);
    multiply_and_add(*model, use, layer.matrices[DS_O], model->mixed.data(), n_rows, x);
    feed_forward(*model, use, layer, x, n_rows);
  }
  return DS_OK;
}

}  // extern "C"
