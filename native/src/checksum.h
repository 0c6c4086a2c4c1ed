// CRC-32C of what goes to a disk and comes back: by the processor's own instruction where it has one.
#pragma once
#include <cstdint>

#if defined(__SSE4_2__) && defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#endif

namespace ds {
namespace {

#if defined(__SSE4_2__) && defined(__x86_64__)
inline uint32_t add_word(uint32_t sum, uint64_t word) { return uint32_t(_mm_crc32_u64(sum, word)); }
inline uint32_t add_byte(uint32_t sum, uint8_t byte) { return _mm_crc32_u8(sum, byte); }
#elif defined(__ARM_FEATURE_CRC32)
inline uint32_t add_word(uint32_t sum, uint64_t word) { return __crc32cd(sum, word); }
inline uint32_t add_byte(uint32_t sum, uint8_t byte) { return __crc32cb(sum, byte); }
#else
// What a byte adds to the sum, with up to seven others behind it.
struct Remainders {
  uint32_t of[8][256];

  Remainders() {
    for (uint32_t byte = 0; byte < 256; ++byte) {
      uint32_t sum = byte;
      for (int bit = 0; bit < 8; ++bit) sum = sum >> 1 ^ (sum & 1 ? 0x82f63b78u : 0u);
      of[0][byte] = sum;
    }
    for (int i = 1; i < 8; ++i)
      for (uint32_t byte = 0; byte < 256; ++byte)
        of[i][byte] = of[i - 1][byte] >> 8 ^ of[0][of[i - 1][byte] & 255];
  }
};

inline const Remainders &remainders() {
  static const Remainders all;
  return all;
}

inline uint32_t add_byte(uint32_t sum, uint8_t byte) {
  return sum >> 8 ^ remainders().of[0][(sum ^ byte) & 255];
}

inline uint32_t add_word(uint32_t sum, uint64_t word) {
  const Remainders &all = remainders();
  word ^= sum;
  uint32_t next = 0;
  for (int i = 0; i < 8; ++i) next ^= all.of[7 - i][word >> 8 * i & 255];
  return next;
}
#endif

[[maybe_unused]] uint32_t checksum(const uint8_t *bytes, int64_t n) {
  uint32_t sum = ~0u;
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    uint64_t word;
    __builtin_memcpy(&word, bytes + i, sizeof word);
    sum = add_word(sum, word);
  }
  for (; i < n; ++i) sum = add_byte(sum, bytes[i]);
  return ~sum;
}

}  // namespace
}  // namespace ds
