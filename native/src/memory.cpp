// Memory for packed weights: large pieces on huge pages, shared by matrices so that a small one
// does not take a huge page of its own.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "deepseek_native.h"

namespace {

constexpr size_t kHugePage = size_t{1} << 21;
constexpr size_t kPiece = size_t{64} << 20;
constexpr size_t kAlignment = 64;

struct Piece {
  char *memory;
  size_t size, used, n_users;
};

std::mutex pieces_mutex;

std::vector<Piece> &pieces() {
  static std::vector<Piece> all;
  return all;
}

size_t rounded_up(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

char *reserve(size_t size) {
#if defined(__linux__)
  void *memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  madvise(memory, size, MADV_HUGEPAGE);
  return static_cast<char *>(memory);
#else
  void *memory = std::aligned_alloc(kAlignment, size);
  if (memory) std::memset(memory, 0, size);
  return static_cast<char *>(memory);
#endif
}

void give_back(const Piece &piece) {
#if defined(__linux__)
  munmap(piece.memory, piece.size);
#else
  std::free(piece.memory);
#endif
}

}  // namespace

extern "C" {

void *ds_allocate(int64_t n_bytes) {
  if (n_bytes <= 0) return nullptr;
  const size_t size = rounded_up(size_t(n_bytes), kAlignment);
  std::lock_guard<std::mutex> lock(pieces_mutex);
  if (!pieces().empty()) {
    Piece &last = pieces().back();
    if (last.size - last.used >= size) {
      char *memory = last.memory + last.used;
      last.used += size;
      ++last.n_users;
      return memory;
    }
  }
  const size_t reserved = rounded_up(size > kPiece ? size : kPiece, kHugePage);
  char *memory = reserve(reserved);
  if (memory) pieces().push_back({memory, reserved, size, 1});
  return memory;
}

void ds_release(void *memory) {
  if (!memory) return;
  std::lock_guard<std::mutex> lock(pieces_mutex);
  const char *place = static_cast<const char *>(memory);
  for (size_t i = 0; i < pieces().size(); ++i) {
    Piece &piece = pieces()[i];
    if (place < piece.memory || place >= piece.memory + piece.size) continue;
    if (--piece.n_users == 0) {
      give_back(piece);
      pieces().erase(pieces().begin() + int64_t(i));
    }
    return;
  }
}

}  // extern "C"
