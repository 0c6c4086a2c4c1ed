// The C interface: checks every argument, then packs weights or shares a product among threads.
#include <cmath>
#include <cstring>
#include <memory>
#include <new>

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "deepseek_native.h"
#include "layout.h"
#include "pool.h"

namespace ds {
namespace {

constexpr int64_t kPadding = 8192;  // kernels ask for weights ahead; never past the allocation

int best_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni"))
    return __builtin_cpu_supports("avx512bf16") ? DS_AVX512_BF16 : DS_AVX512_VNNI;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c"))
    return DS_AVX2;
#elif defined(__aarch64__) && defined(__linux__)
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) return DS_NEON_DOT;
#elif defined(__aarch64__) && defined(__APPLE__)
  return DS_NEON_DOT;
#endif
  return DS_PORTABLE;
}

// Those below the best of the same family of processors are there too.
bool is_level(int wanted) {
  const int best = best_level();
  return wanted == DS_PORTABLE || wanted == best ||
         (wanted > DS_PORTABLE && wanted < best && best <= DS_AVX512_BF16);
}

std::atomic<int> level_in_use{-1};

int level() {
  int now = level_in_use.load(std::memory_order_relaxed);
  if (now < 0) level_in_use = now = best_level();
  return now;
}

bool good_shape(int64_t n_out, int64_t n_in) {
  return n_out > 0 && n_in > 0 && n_out <= kMaxDimension && n_in <= kMaxDimension &&
         n_in % kBlock == 0;
}

bool is_aligned(const void *memory) { return reinterpret_cast<uintptr_t>(memory) % 64 == 0; }

float *factors(int format, int64_t n_out, int64_t n_in, void *packed) {
  return reinterpret_cast<float *>(static_cast<uint8_t *>(packed) +
                                   factors_at(format, n_out, n_in));
}

void put_half(uint8_t *place, float value) {
  const uint16_t h = float_to_half(value);
  std::memcpy(place, &h, 2);
}

// One row's factor: scales and zeros relative to it keep half precision's full fraction.
float factor_of(const float *scales, const float *zeros, int64_t n_groups) {
  float largest = 0.0f;
  for (int64_t g = 0; g < n_groups; ++g) {
    largest = std::fmax(largest, std::fabs(scales[g]));
    if (zeros) largest = std::fmax(largest, std::fabs(zeros[g]) / 64.0f);
  }
  return largest;
}

struct Row {
  int format;
  int64_t n_in;
  int group;
  const uint8_t *codes;
  const float *scales, *zeros;
};

bool good_row(const Row &row) {
  const int64_t n_groups = row.n_in / row.group;
  for (int64_t g = 0; g < n_groups; ++g)
    if (!std::isfinite(row.scales[g]) || (row.zeros && !std::isfinite(row.zeros[g]))) return false;
  const int most = row.format == DS_U4 ? 15 : row.format == DS_U6 ? 63 : 255;
  for (int64_t k = 0; k < row.n_in; ++k)
    if (row.codes[k] > most) return false;
  return true;
}

void pack_row(const Row &row, int64_t lane, uint8_t *tile, float *factor) {
  *factor = factor_of(row.scales, row.zeros, row.n_in / row.group);
  const float inverse = *factor > 0.0f ? 1.0f / *factor : 0.0f;
  const int64_t n_bytes = tile_bytes(row.format, kBlock);
  for (int64_t b = 0; b < row.n_in / kBlock; ++b) {
    uint8_t *block = tile + b * n_bytes;
    const uint8_t *codes = row.codes + b * kBlock;
    if (row.format == DS_U8) {
      for (int i = 0; i < kBlock; ++i) block[64 * (i / 4) + 4 * lane + i % 4] = codes[i];
    } else {
      for (int i = 0; i < 16; ++i)
        block[64 * (i / 4) + 4 * lane + i % 4] = uint8_t((codes[i] & 15) | codes[16 + i] << 4);
    }
    if (row.format == DS_U6)
      for (int i = 0; i < kBlock; ++i)
        block[U6::kTops + 64 * (i / 16) + 4 * lane + i % 4] |=
            uint8_t(codes[i] >> 4 << 2 * (i % 16 / 4));
    if (row.format == DS_U4) {
      const float scale = row.scales[b];
      const float zero = row.zeros ? row.zeros[b] : -8.0f * scale;
      put_half(block + U4::kScales + 2 * lane, scale * inverse);
      put_half(block + U4::kScales + 32 + 2 * lane, zero * inverse);
      continue;
    }
    const int64_t scales = row.format == DS_U6 ? U6::kScales : U8::kScales;
    for (int half = 0; half < 2; ++half) {
      const int64_t g = row.group == 16 ? 2 * b + half : b;
      put_half(block + scales + 32 * half + 2 * lane, row.scales[g] * inverse);
    }
  }
}

// Memory for rounded activations, kept by the calling thread from product to product.
struct Scratch {
  std::unique_ptr<char[]> memory;
  size_t size = 0;

  bool reserve(size_t n_bytes) {
    if (n_bytes <= size) return true;
    memory.reset(new (std::nothrow) char[n_bytes]);
    size = memory ? n_bytes : 0;
    return memory != nullptr;
  }
};

bool lay_out(Scratch &scratch, int64_t n_rows, int64_t n_in, Activations *x) {
  const size_t n_blocks = size_t(n_in / kBlock), rows = size_t(n_rows);
  const size_t codes = (rows * size_t(n_in) + 63) / 64 * 64;
  const size_t floats = (rows * n_blocks * 4 + 63) / 64 * 64;
  if (!scratch.reserve(codes + 4 * floats + 64)) return false;
  char *base = scratch.memory.get();
  base += (64 - reinterpret_cast<uintptr_t>(base) % 64) % 64;
  x->codes = reinterpret_cast<int8_t *>(base);
  x->scale = reinterpret_cast<float *>(base + codes);
  x->sum = reinterpret_cast<float *>(base + codes + floats);
  x->offset = reinterpret_cast<int32_t *>(base + codes + 2 * floats);
  return true;
}

// Tiles that a thread takes at once: a few dozen portions in all, so that none waits long.
int64_t portion_of(int64_t n_tiles, int n_threads) {
  const int64_t portion = n_tiles / (int64_t{16} * n_threads);
  return portion < 1 ? 1 : portion;
}

}  // namespace

// One weight as it is used in products, but for its row's factor.
float weight_at(int format, const uint8_t *block, int64_t lane, int64_t i) {
  const auto half_at = [](const uint8_t *place) {
    uint16_t h;
    std::memcpy(&h, place, 2);
    return half_to_float(h);
  };
  const uint8_t pair = block[64 * (i % 16 / 4) + 4 * lane + i % 4];
  const int low = i < 16 ? pair & 15 : pair >> 4;
  if (format == DS_U4)
    return half_at(block + U4::kScales + 2 * lane) * float(low) +
           half_at(block + U4::kScales + 32 + 2 * lane);
  if (format == DS_U6) {
    const int top = block[U6::kTops + 64 * (i / 16) + 4 * lane + i % 4] >> 2 * (i % 16 / 4) & 3;
    return half_at(block + U6::kScales + 32 * (i / 16) + 2 * lane) *
           float((low | top << 4) - U6::kCentre);
  }
  return half_at(block + U8::kScales + 32 * (i / 16) + 2 * lane) *
         float(int(block[64 * (i / 4) + 4 * lane + i % 4]) - U8::kCentre);
}

const Kernels &kernels() {
  switch (level()) {
#if defined(__x86_64__)
    case DS_AVX512_BF16: return avx512_bf16_kernels();
    case DS_AVX512_VNNI: return avx512_kernels();
    case DS_AVX2: return avx2_kernels();
#elif defined(__aarch64__)
    case DS_NEON_DOT: return neon_kernels();
#endif
    default: return portable_kernels();
  }
}

}  // namespace ds

using namespace ds;

extern "C" {

int ds_version(void) { return 5; }

int ds_best_level(void) { return best_level(); }

int ds_level_in_use(void) { return level(); }

int ds_use_level(int wanted) {
  if (!is_level(wanted)) return DS_BAD_ENUM;
  level_in_use = wanted;
  return DS_OK;
}

int ds_use_threads(int n_threads) {
  if (n_threads < 1 || n_threads > 256) return DS_BAD_SHAPE;
  Pool::get().resize(n_threads);
  return DS_OK;
}

int64_t ds_packed_bytes(int format, int64_t n_out, int64_t n_in) {
  if (!is_format(format) || !good_shape(n_out, n_in)) return 0;
  return factors_at(format, n_out, n_in) + tiles_of(n_out) * kTile * int64_t(sizeof(float)) +
         kPadding;
}

int ds_pack(int format, int64_t n_out, int64_t n_in, int group, int64_t first, int64_t n_rows,
            const uint8_t *codes, const float *scales, const float *zeros, void *packed) {
  if (!is_format(format)) return DS_BAD_ENUM;
  if (!good_shape(n_out, n_in) || first < 0 || n_rows <= 0 || first + n_rows > n_out)
    return DS_BAD_SHAPE;
  if (group != 32 && !(group == 16 && format != DS_U4)) return DS_BAD_SHAPE;
  if (zeros && format != DS_U4) return DS_BAD_SHAPE;
  if (!codes || !scales || !packed || !is_aligned(packed)) return DS_BAD_POINTER;
  const int64_t n_groups = n_in / group;
  for (int64_t r = 0; r < n_rows; ++r) {
    const Row row{format, n_in,          group, codes + r * n_in, scales + r * n_groups,
                  zeros ? zeros + r * n_groups : nullptr};
    if (!good_row(row)) return DS_BAD_VALUE;
  }
  float *all_factors = factors(format, n_out, n_in, packed);
  for (int64_t r = 0; r < n_rows; ++r) {
    const int64_t n = first + r;
    const Row row{format, n_in,          group, codes + r * n_in, scales + r * n_groups,
                  zeros ? zeros + r * n_groups : nullptr};
    uint8_t *tile = static_cast<uint8_t *>(packed) + n / kTile * tile_bytes(format, n_in);
    pack_row(row, n % kTile, tile, all_factors + n);
  }
  return DS_OK;
}

int ds_unpack(int format, int64_t n_out, int64_t n_in, int64_t first, int64_t n_rows,
              const void *packed, float *weights) {
  if (!is_format(format)) return DS_BAD_ENUM;
  if (!good_shape(n_out, n_in) || first < 0 || n_rows <= 0 || first + n_rows > n_out)
    return DS_BAD_SHAPE;
  if (!weights || !packed || !is_aligned(packed)) return DS_BAD_POINTER;
  const float *all_factors = factors(format, n_out, n_in, const_cast<void *>(packed));
  for (int64_t r = 0; r < n_rows; ++r) {
    const int64_t n = first + r, lane = n % kTile;
    const uint8_t *tile =
        static_cast<const uint8_t *>(packed) + n / kTile * tile_bytes(format, n_in);
    for (int64_t k = 0; k < n_in; ++k)
      weights[r * n_in + k] =
          weight_at(format, tile + tile_bytes(format, k / kBlock * kBlock), lane, k % kBlock) *
          all_factors[n];
  }
  return DS_OK;
}

int ds_matmul(int format, int64_t n_out, int64_t n_in, const void *packed, int dtype,
              int64_t n_rows, const void *x, const float *bias, void *y, int64_t y_stride) {
  if (!is_format(format) || (dtype != DS_F32 && dtype != DS_BF16))
    return DS_BAD_ENUM;
  if (!good_shape(n_out, n_in) || n_rows < 0 || n_rows > kMaxDimension) return DS_BAD_SHAPE;
  if (y_stride < n_out) return DS_BAD_SHAPE;
  if (n_rows == 0) return DS_OK;
  if (!packed || !is_aligned(packed) || !x || !y) return DS_BAD_POINTER;
  static thread_local Scratch scratch;
  Share share{};
  if (!lay_out(scratch, n_rows, n_in, &share.x)) return DS_NO_MEMORY;
  share.packed = static_cast<const uint8_t *>(packed);
  share.factors = factors(format, n_out, n_in, const_cast<void *>(packed));
  share.n_out = n_out;
  share.n_in = n_in;
  share.n_rows = n_rows;
  share.bias = bias;
  share.y_stride = y_stride;
  share.y = dtype == DS_F32 ? static_cast<float *>(y) : nullptr;
  share.y_half = dtype == DS_BF16 ? static_cast<uint16_t *>(y) : nullptr;
  const Kernels &use = ds::kernels();
  Pool &pool = Pool::get();
  if (n_rows < 4) {
    use.quantise(x, dtype == DS_BF16, n_in, 0, n_rows, share.x);
  } else {
    pool.run(n_rows, portion_of(n_rows, pool.size()), [&](int64_t first, int64_t last) {
      use.quantise(x, dtype == DS_BF16, n_in, first, last, share.x);
    });
  }
  const Kernel kernel = use.multiply[format];
  const int64_t tiles = tiles_of(n_out);
  pool.run(tiles, portion_of(tiles, pool.size()),
           [&](int64_t first, int64_t last) { kernel(share, first, last); });
  return DS_OK;
}

}  // extern "C"
