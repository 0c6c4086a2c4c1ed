// Every instruction set of this processor against the plain code, on random matrices.
// For machines that Python's tests do not run on, e.g. in an emulator.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "deepseek_native.h"

namespace {

struct Case {
  int format, bits, group;
  int64_t n_out, n_in, n_rows;
};

void *packed_matrix(const Case &c, std::mt19937 &random) {
  const bool has_units = c.format == DS_U4K || c.format == DS_U6K;
  std::uniform_int_distribution<int> code(0, (1 << c.bits) - 1), whole(0, 63);
  std::uniform_real_distribution<float> scale(-0.005f, 0.015f), zero(-0.2f, 0.0f);
  std::vector<uint8_t> codes(size_t(c.n_out * c.n_in));
  std::vector<float> scales(size_t(c.n_out * c.n_in / c.group)), zeros(scales.size());
  std::vector<float> units(has_units ? size_t(c.n_out * c.n_in / 128) : 0);
  for (auto &v : codes) v = uint8_t(code(random));
  for (auto &v : scales) v = has_units ? float(whole(random)) : scale(random);
  for (auto &v : zeros) v = has_units ? float(whole(random)) : zero(random);
  for (auto &v : units) v = scale(random) * 0.01f;
  void *packed = ds_allocate(ds_packed_bytes(c.format, c.n_out, c.n_in));
  const int problem = ds_pack(c.format, c.n_out, c.n_in, c.group, 0, c.n_out, codes.data(),
                              scales.data(), c.bits == 4 ? zeros.data() : nullptr,
                              has_units ? units.data() : nullptr, packed);
  if (problem) std::printf("packing: %d\n", problem);
  return packed;
}

std::vector<float> product(const Case &c, const void *packed, const std::vector<float> &x) {
  std::vector<float> y(size_t(c.n_rows * c.n_out));
  const int problem = ds_matmul(c.format, c.n_out, c.n_in, packed, DS_F32, c.n_rows, x.data(),
                                nullptr, y.data(), c.n_out);
  if (problem) std::printf("product: %d\n", problem);
  return y;
}

double difference(const std::vector<float> &a, const std::vector<float> &b) {
  double apart = 0.0, size = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    apart += double(a[i] - b[i]) * double(a[i] - b[i]);
    size += double(b[i]) * double(b[i]);
  }
  return std::sqrt(apart / size);
}

}  // namespace

int main() {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  const Case cases[] = {{DS_U4, 4, 32, 37, 96, 3},     {DS_U6K, 6, 16, 64, 256, 8},
                        {DS_U8, 8, 16, 130, 64, 17},   {DS_U8, 8, 32, 16, 576, 1},
                        {DS_U4K, 4, 32, 128, 1536, 5}, {DS_U6K, 6, 16, 1, 512, 2},
                        {DS_U4K, 4, 32, 33, 256, 9},   {DS_U4, 4, 32, 1, 32, 2}};
  int n_levels = 0;
  bool agrees = true;
  for (int level = DS_AVX2; level <= DS_NEON_DOT; ++level) {
    if (ds_use_level(level) != DS_OK) continue;
    ++n_levels;
    for (const Case &c : cases) {
      void *packed = packed_matrix(c, random);
      std::vector<float> x(size_t(c.n_rows * c.n_in));
      for (auto &v : x) v = normal(random);
      ds_use_level(DS_PORTABLE);
      const auto wanted = product(c, packed, x);
      for (int n_threads = 1; n_threads <= 3; ++n_threads) {
        ds_use_threads(n_threads);
        ds_use_level(level);
        const double apart = difference(product(c, packed, x), wanted);
        if (!(apart < 1e-5)) {
          std::printf("level %d, format %d: %g apart\n", level, c.format, apart);
          agrees = false;
        }
      }
      ds_release(packed);
    }
  }
  std::printf("%d levels beside the plain code %s\n", n_levels, agrees ? "agree" : "DISAGREE");
  return agrees && n_levels > 0 ? 0 : 1;
}
