// How packed weights lie in memory. The same for every instruction set.
//
// A tile is 16 rows of weights, its columns in blocks of 32. 64 bytes of codes hold 16 rows of 4
// columns, so that one byte-dot-product instruction serves 16 rows:
//
//   u4   a block, 320 bytes: 4 x 64 bytes of codes, 16 scales, 16 zeros (half precision)
//   u8   a block, 576 bytes: 8 x 64 bytes of codes, 2 x 16 scales (half precision)
//   u4k  8 blocks, 2,368 bytes: 8 x 4 x 64 bytes of codes; 8 x 16 scales and 8 x 16 zeros (whole
//        numbers of one byte); the 16 rows' units of scales and of zeros (half precision)
//   u6k  8 blocks, 3,392 bytes: 8 x 6 x 64 bytes of codes; 8 x 2 x 16 scales (signed whole numbers
//        of one byte); 16 units (half precision), and as much unused
//
// In u4 and u4k the low halves are columns 4j..4j+3 and the high halves 16 more; u6k has two more
// bits of each beside them, those of 4 columns in a byte. Scales and zeros of u4 and u8 are relative
// to the row's own factor, kept behind the tiles in single precision: half precision alone would
// lose what a product of two needs. The others hold what the file holds; their factors are one.
#pragma once
#include <cstdint>
#include <cstring>

#include "deepseek_native.h"

namespace ds {

constexpr int64_t kTile = 16;
constexpr int64_t kBlock = 32;
constexpr int64_t kSuper = 8;  // blocks whose rows share units

struct U4 {
  static constexpr int64_t kUnit = 1;  // blocks that share units
  static constexpr int64_t kBytes = 320;  // a block
  static constexpr int kCentre = 0;       // the code of zero; 0: zeros are added
  static constexpr int64_t codes(int64_t b) { return b * kBytes; }
  static constexpr int64_t scales(int64_t b) { return b * kBytes + 256; }
  static constexpr int64_t zeros(int64_t b) { return b * kBytes + 288; }
};

struct U8 {
  static constexpr int64_t kUnit = 1;  // blocks that share units
  static constexpr int64_t kBytes = 576;
  static constexpr int kCentre = 128;
  static constexpr int64_t codes(int64_t b) { return b * kBytes; }
  static constexpr int64_t scales(int64_t b, int half) { return b * kBytes + 512 + 32 * half; }
};

struct U4K {
  static constexpr int64_t kUnit = kSuper;  // blocks that share units
  static constexpr int64_t kBytes = 296;  // a block, on average
  static constexpr int kCentre = 0;
  static constexpr int64_t super(int64_t b) { return b / kSuper * kSuper * kBytes; }
  static constexpr int64_t codes(int64_t b) { return super(b) + b % kSuper * 256; }
  static constexpr int64_t scales(int64_t b) { return super(b) + 2048 + b % kSuper * 16; }
  static constexpr int64_t zeros(int64_t b) { return scales(b) + 128; }
  static constexpr int64_t units(int64_t b) { return super(b) + 2304; }
  static constexpr int64_t zero_units(int64_t b) { return super(b) + 2336; }
};

struct U6K {
  static constexpr int64_t kUnit = kSuper;  // blocks that share units
  static constexpr int64_t kBytes = 424;
  static constexpr int kCentre = 32;
  static constexpr int64_t super(int64_t b) { return b / kSuper * kSuper * kBytes; }
  static constexpr int64_t codes(int64_t b) { return super(b) + b % kSuper * 384; }
  static constexpr int64_t tops(int64_t b, int half) { return codes(b) + 256 + 64 * half; }
  static constexpr int64_t scales(int64_t b, int half) {
    return super(b) + 3072 + b % kSuper * 32 + 16 * half;
  }
  static constexpr int64_t units(int64_t b) { return super(b) + 3328; }
};

inline bool is_format(int format) { return format >= DS_U4 && format <= DS_U4K; }

inline bool has_units(int format) { return format == DS_U6K || format == DS_U4K; }

inline int64_t tile_bytes(int format, int64_t n_in) {
  const int64_t n_blocks = n_in / kBlock;
  switch (format) {
    case DS_U4: return n_blocks * U4::kBytes;
    case DS_U8: return n_blocks * U8::kBytes;
    case DS_U4K: return n_blocks * U4K::kBytes;
    default: return n_blocks * U6K::kBytes;
  }
}

inline int64_t tiles_of(int64_t n_out) { return (n_out + kTile - 1) / kTile; }

// Where a packed matrix keeps its rows' factors.
inline int64_t factors_at(int format, int64_t n_out, int64_t n_in) {
  return tiles_of(n_out) * tile_bytes(format, n_in);
}

inline float half_at(const uint8_t *place);

// Scales and zeros of one row, as every instruction set computes them.
inline float scale_of(U4, const uint8_t *tile, int64_t b, int64_t lane) {
  return half_at(tile + U4::scales(b) + 2 * lane);
}

inline float zero_of(U4, const uint8_t *tile, int64_t b, int64_t lane) {
  return half_at(tile + U4::zeros(b) + 2 * lane);
}

inline float scale_of(U4K, const uint8_t *tile, int64_t b, int64_t lane) {
  return half_at(tile + U4K::units(b) + 2 * lane) * float(tile[U4K::scales(b) + lane]);
}

inline float zero_of(U4K, const uint8_t *tile, int64_t b, int64_t lane) {
  return half_at(tile + U4K::zero_units(b) + 2 * lane) * float(tile[U4K::zeros(b) + lane]);
}

inline float scale_of(U8, const uint8_t *tile, int64_t b, int half, int64_t lane) {
  return half_at(tile + U8::scales(b, half) + 2 * lane);
}

inline float scale_of(U6K, const uint8_t *tile, int64_t b, int half, int64_t lane) {
  return half_at(tile + U6K::units(b) + 2 * lane) *
         float(static_cast<int8_t>(tile[U6K::scales(b, half) + lane]));
}

// Column i of a block.
template <typename Format>
inline int low_code(Format, const uint8_t *tile, int64_t b, int64_t lane, int i) {
  const int pair = tile[Format::codes(b) + 64 * (i % 16 / 4) + 4 * lane + i % 4];
  return i < 16 ? pair & 15 : pair >> 4;
}

inline int code_of(U4 f, const uint8_t *tile, int64_t b, int64_t lane, int i) {
  return low_code(f, tile, b, lane, i);
}

inline int code_of(U4K f, const uint8_t *tile, int64_t b, int64_t lane, int i) {
  return low_code(f, tile, b, lane, i);
}

// The same without the code of zero.
inline int code_of(U8, const uint8_t *tile, int64_t b, int64_t lane, int i) {
  return tile[U8::codes(b) + 64 * (i / 4) + 4 * lane + i % 4] - U8::kCentre;
}

inline int code_of(U6K f, const uint8_t *tile, int64_t b, int64_t lane, int i) {
  const int tops = tile[U6K::tops(b, i / 16) + 4 * lane + i % 4];
  return (low_code(f, tile, b, lane, i) | (tops >> 2 * (i % 16 / 4) & 3) << 4) - U6K::kCentre;
}

}  // namespace ds
