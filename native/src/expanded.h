// Cold pages as one thread reads them: in bfloat16, the last few of them kept. Blocks of queries that
// follow each other often choose the same pages.
#pragma once
#include <vector>

#include "model.h"

namespace ds {

class Expanded {
 public:
  struct Page {
    const uint16_t *keys, *values;
  };

  // Room for that many pages, at least those of a stretch.
  void reserve(int64_t n_pages, int64_t d) {
    if (int64_t(slots_.size()) == n_pages && d_ == d) return;
    slots_.assign(size_t(n_pages), {});
    numbers_.resize(size_t(n_pages * 2 * kPage * d));
    d_ = d;
  }

  // Pages that were asked for before may be given up.
  void begin_stretch() { ++stretch_; }

  // A head's page; `pass` is another whenever other numbers may be in the same place.
  Page get(const Kernels &use, int bits, const uint8_t *keys, const uint8_t *values, int64_t number,
           uint64_t pass) {
    const int64_t n = int64_t(slots_.size());
    int64_t at = number % n;
    while (slots_[size_t(at)].stretch == stretch_ && slots_[size_t(at)].keys != keys)
      at = (at + 1) % n;
    Slot &slot = slots_[size_t(at)];
    uint16_t *to = numbers_.data() + at * 2 * kPage * d_;
    if (slot.keys != keys || slot.pass != pass) use.expand(keys, values, d_, bits, to, to + kPage * d_);
    slot = {keys, pass, stretch_};
    return {to, to + kPage * d_};
  }

 private:
  struct Slot {
    const uint8_t *keys = nullptr;
    uint64_t pass = 0, stretch = 0;
  };
  std::vector<Slot> slots_;
  std::vector<uint16_t> numbers_;
  int64_t d_ = 0;
  uint64_t stretch_ = 0;
};

}  // namespace ds
