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

bool has(int wanted) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                        __builtin_cpu_supports("f16c");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                          __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
  switch (wanted) {
    case DS_AVX2: return has_avx2;
#if defined(DS_VNNI_AS_AVX512)
    case DS_AVX_VNNI: return has_avx512;
#else
    case DS_AVX_VNNI: return has_avx2 && __builtin_cpu_supports("avxvnni");
#endif
    case DS_AVX512_VNNI: return has_avx512;
    case DS_AVX512_BF16: return has_avx512 && __builtin_cpu_supports("avx512bf16");
  }
#elif defined(__aarch64__) && defined(__linux__)
  if (wanted == DS_NEON_DOT) return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#elif defined(__aarch64__) && defined(__APPLE__)
  if (wanted == DS_NEON_DOT) return true;
#endif
  return wanted == DS_PORTABLE;
}

int best_level() {
  for (int level = DS_NEON_DOT; level > DS_PORTABLE; --level)
    if (has(level)) return level;
  return DS_PORTABLE;
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

bool fits_units(int format, int64_t n_in) {
  return !has_units(format) || n_in % (kSuper * kBlock) == 0;
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
  const float *scales, *zeros, *units;
};

bool are_whole(const float *numbers, int64_t n, float least, float most) {
  for (int64_t i = 0; i < n; ++i)
    if (!(numbers[i] >= least && numbers[i] <= most) || numbers[i] != std::floor(numbers[i]))
      return false;
  return true;
}

bool are_finite(const float *numbers, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    if (!std::isfinite(numbers[i])) return false;
  return true;
}

bool good_row(const Row &row) {
  const int64_t n_groups = row.n_in / row.group;
  if (!are_finite(row.scales, n_groups) || (row.zeros && !are_finite(row.zeros, n_groups)))
    return false;
  if (row.units && !are_finite(row.units, row.n_in / (kSuper * kBlock) * 2)) return false;
  if (row.format == DS_U4K &&
      !(are_whole(row.scales, n_groups, 0, 255) && are_whole(row.zeros, n_groups, 0, 255)))
    return false;
  if (row.format == DS_U6K && !are_whole(row.scales, n_groups, -128, 127)) return false;
  const int most = row.format == DS_U8 ? 255 : row.format == DS_U6K ? 63 : 15;
  for (int64_t k = 0; k < row.n_in; ++k)
    if (row.codes[k] > most) return false;
  return true;
}

void pack_pairs(const uint8_t *codes, int64_t lane, uint8_t *place) {
  for (int i = 0; i < 16; ++i)
    place[64 * (i / 4) + 4 * lane + i % 4] = uint8_t((codes[i] & 15) | codes[16 + i] << 4);
}

void pack_block(U4, const Row &row, int64_t b, int64_t lane, float inverse, uint8_t *tile) {
  pack_pairs(row.codes + b * kBlock, lane, tile + U4::codes(b));
  const float scale = row.scales[b], zero = row.zeros ? row.zeros[b] : -8.0f * scale;
  put_half(tile + U4::scales(b) + 2 * lane, scale * inverse);
  put_half(tile + U4::zeros(b) + 2 * lane, zero * inverse);
}

void pack_block(U8, const Row &row, int64_t b, int64_t lane, float inverse, uint8_t *tile) {
  for (int i = 0; i < kBlock; ++i)
    tile[U8::codes(b) + 64 * (i / 4) + 4 * lane + i % 4] = row.codes[b * kBlock + i];
  for (int half = 0; half < 2; ++half) {
    const int64_t g = row.group == 16 ? 2 * b + half : b;
    put_half(tile + U8::scales(b, half) + 2 * lane, row.scales[g] * inverse);
  }
}

void pack_block(U4K, const Row &row, int64_t b, int64_t lane, float, uint8_t *tile) {
  pack_pairs(row.codes + b * kBlock, lane, tile + U4K::codes(b));
  tile[U4K::scales(b) + lane] = uint8_t(row.scales[b]);
  tile[U4K::zeros(b) + lane] = uint8_t(row.zeros[b]);
  put_half(tile + U4K::units(b) + 2 * lane, row.units[b / kSuper * 2]);
  put_half(tile + U4K::zero_units(b) + 2 * lane, row.units[b / kSuper * 2 + 1]);
}

void pack_block(U6K, const Row &row, int64_t b, int64_t lane, float, uint8_t *tile) {
  const uint8_t *codes = row.codes + b * kBlock;
  pack_pairs(codes, lane, tile + U6K::codes(b));
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < 4; ++i) {
      const uint8_t *c = codes + 16 * half + i;
      tile[U6K::tops(b, half) + 4 * lane + i] =
          uint8_t(c[0] >> 4 | c[4] >> 4 << 2 | c[8] >> 4 << 4 | c[12] >> 4 << 6);
    }
    tile[U6K::scales(b, half) + lane] = uint8_t(int8_t(row.scales[2 * b + half]));
  }
  put_half(tile + U6K::units(b) + 2 * lane, row.units[b / kSuper * 2]);
}

void pack_row(const Row &row, int64_t lane, uint8_t *tile, float *factor) {
  *factor = row.units ? 1.0f : factor_of(row.scales, row.zeros, row.n_in / row.group);
  const float inverse = *factor > 0.0f ? 1.0f / *factor : 0.0f;
  for (int64_t b = 0; b < row.n_in / kBlock; ++b) switch (row.format) {
      case DS_U4: pack_block(U4{}, row, b, lane, inverse, tile); break;
      case DS_U8: pack_block(U8{}, row, b, lane, inverse, tile); break;
      case DS_U4K: pack_block(U4K{}, row, b, lane, inverse, tile); break;
      default: pack_block(U6K{}, row, b, lane, inverse, tile);
    }
}

template <typename Format>
float weight_of(Format f, const uint8_t *tile, int64_t b, int64_t lane, int i) {
  if constexpr (Format::kCentre == 0)
    return scale_of(f, tile, b, lane) * float(code_of(f, tile, b, lane, i)) +
           zero_of(f, tile, b, lane);
  else
    return scale_of(f, tile, b, i / 16, lane) * float(code_of(f, tile, b, lane, i));
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

float weight_at(int format, const uint8_t *tile, int64_t lane, int64_t column) {
  const int64_t b = column / kBlock;
  const int i = int(column % kBlock);
  switch (format) {
    case DS_U4: return weight_of(U4{}, tile, b, lane, i);
    case DS_U8: return weight_of(U8{}, tile, b, lane, i);
    case DS_U4K: return weight_of(U4K{}, tile, b, lane, i);
    default: return weight_of(U6K{}, tile, b, lane, i);
  }
}

const Kernels &kernels() {
  switch (level()) {
#if defined(__x86_64__)
    case DS_AVX512_BF16: return avx512_bf16_kernels();
    case DS_AVX512_VNNI: return avx512_kernels();
    case DS_AVX_VNNI: return avx_vnni_kernels();
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

int ds_version(void) { return 13; }

uint32_t ds_checksum(const void *bytes, int64_t n_bytes) {
  return ds::kernels().checksum(static_cast<const uint8_t *>(bytes), bytes ? n_bytes : 0);
}

int ds_best_level(void) { return best_level(); }

int ds_level_in_use(void) { return level(); }

int ds_use_level(int wanted) {
  if (!has(wanted)) return DS_BAD_ENUM;
  level_in_use = wanted;
  return DS_OK;
}

int ds_use_threads(int n_threads) {
  if (n_threads < 1 || n_threads > 256) return DS_BAD_SHAPE;
  Pool::get().resize(n_threads);
  return DS_OK;
}

int64_t ds_packed_bytes(int format, int64_t n_out, int64_t n_in) {
  if (!is_format(format) || !good_shape(n_out, n_in) || !fits_units(format, n_in)) return 0;
  return factors_at(format, n_out, n_in) + tiles_of(n_out) * kTile * int64_t(sizeof(float)) +
         kPadding;
}

int ds_pack(int format, int64_t n_out, int64_t n_in, int group, int64_t first, int64_t n_rows,
            const uint8_t *codes, const float *scales, const float *zeros, const float *units,
            void *packed) {
  if (!is_format(format)) return DS_BAD_ENUM;
  if (!good_shape(n_out, n_in) || !fits_units(format, n_in) || first < 0 || n_rows <= 0 ||
      first + n_rows > n_out)
    return DS_BAD_SHAPE;
  const bool is_fine = format == DS_U6K || format == DS_U8;
  if (group != 32 && !(group == 16 && is_fine)) return DS_BAD_SHAPE;
  if (format == DS_U6K && group != 16) return DS_BAD_SHAPE;
  if (zeros && is_fine) return DS_BAD_SHAPE;
  if (!codes || !scales || !packed || !is_aligned(packed)) return DS_BAD_POINTER;
  if (has_units(format) != (units != nullptr) || (format == DS_U4K && !zeros))
    return DS_BAD_POINTER;
  const int64_t n_groups = n_in / group, n_units = n_in / (kSuper * kBlock) * 2;
  const auto row_of = [&](int64_t r) {
    return Row{format,
               n_in,
               group,
               codes + r * n_in,
               scales + r * n_groups,
               zeros ? zeros + r * n_groups : nullptr,
               units ? units + r * n_units : nullptr};
  };
  for (int64_t r = 0; r < n_rows; ++r)
    if (!good_row(row_of(r))) return DS_BAD_VALUE;
  float *all_factors = factors(format, n_out, n_in, packed);
  for (int64_t r = 0; r < n_rows; ++r) {
    const int64_t n = first + r;
    uint8_t *tile = static_cast<uint8_t *>(packed) + n / kTile * tile_bytes(format, n_in);
    pack_row(row_of(r), n % kTile, tile, all_factors + n);
  }
  return DS_OK;
}

int ds_unpack(int format, int64_t n_out, int64_t n_in, int64_t first, int64_t n_rows,
              const void *packed, float *weights) {
  if (!is_format(format)) return DS_BAD_ENUM;
  if (!good_shape(n_out, n_in) || !fits_units(format, n_in) || first < 0 || n_rows <= 0 ||
      first + n_rows > n_out)
    return DS_BAD_SHAPE;
  if (!weights || !packed || !is_aligned(packed)) return DS_BAD_POINTER;
  const float *all_factors = factors(format, n_out, n_in, const_cast<void *>(packed));
  for (int64_t r = 0; r < n_rows; ++r) {
    const int64_t n = first + r, lane = n % kTile;
    const uint8_t *tile =
        static_cast<const uint8_t *>(packed) + n / kTile * tile_bytes(format, n_in);
    for (int64_t k = 0; k < n_in; ++k)
      weights[r * n_in + k] = weight_at(format, tile, lane, k) * all_factors[n];
  }
  return DS_OK;
}

int ds_matmul(int format, int64_t n_out, int64_t n_in, const void *packed, int dtype,
              int64_t n_rows, const void *x, const float *bias, void *y, int64_t y_stride) {
  if (!is_format(format) || (dtype != DS_F32 && dtype != DS_BF16))
    return DS_BAD_ENUM;
  if (!good_shape(n_out, n_in) || !fits_units(format, n_in)) return DS_BAD_SHAPE;
  if (n_rows < 0 || n_rows > kMaxDimension) return DS_BAD_SHAPE;
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
