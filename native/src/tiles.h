// How products go through tiles and rows; the same for every instruction set that has its own.
//
// A level names how many rows of activations share one unpacking (kRows) and in how many parts it
// takes a tile's rows (kParts), and multiplies M rows with one part.
#pragma once
#include "layout.h"

namespace ds {
namespace {

// How far ahead of use weights are asked for: the latency of memory at the speed they are used.
constexpr int64_t kAhead = 4096;

template <typename Format>
inline void prefetch(const uint8_t *tile, int64_t b) {
  const uint8_t *ahead = tile + b * Format::kBytes + kAhead;
  for (int64_t i = 0; i < (Format::kBytes + 63) / 64; ++i) __builtin_prefetch(ahead + 64 * i);
}

template <typename Level, typename Format, int M>
void multiply_rows(const Share &s, int64_t tile, int part, int64_t row) {
  if constexpr (Format::kCentre == 0)
    Level::template multiply<Format, M>(s, tile, part, row);
  else
    Level::template multiply_centred<Format, M>(s, tile, part, row);
}

// As many rows as are left, at most M.
template <typename Level, typename Format, int M>
void multiply_rest(const Share &s, int64_t tile, int part, int64_t row) {
  if constexpr (M > 0) {
    if (s.n_rows - row == M)
      multiply_rows<Level, Format, M>(s, tile, part, row);
    else
      multiply_rest<Level, Format, M - 1>(s, tile, part, row);
  }
}

// All rows against one part before the next: its weights stay in the nearest cache.
template <typename Level, typename Format>
void matmul(const Share &s, int64_t first, int64_t last) {
  for (int64_t tile = first; tile < last; ++tile)
    for (int part = 0; part < Level::kParts; ++part) {
      int64_t row = 0;
      for (; row + Level::kRows <= s.n_rows; row += Level::kRows)
        multiply_rows<Level, Format, Level::kRows>(s, tile, part, row);
      multiply_rest<Level, Format, Level::kRows - 1>(s, tile, part, row);
    }
}

}  // namespace

#define DS_MATMULS(Level) \
  { matmul<Level, U4>, matmul<Level, U8>, matmul<Level, U6K>, matmul<Level, U4K> }

}  // namespace ds
