// Cold pages as one thread reads them: in bfloat16, the last few of them kept. Blocks of queries that
// follow each other often choose the same pages.
#pragma once
#include <algorithm>
#include <vector>

#include "model.h"

namespace ds {

// A head's cold page in one layer; `pass` is another whenever other numbers may be in the same place.
struct ColdHead {
  int64_t layer, page, group;
  uint64_t pass;

  bool operator==(const ColdHead &other) const {
    return page == other.page && group == other.group && pass == other.pass;
  }
};

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

  // A head's page; `number` says where to look first.
  Page get(const Kernels &use, const ds_model &model, const ColdHead &head, int64_t number) {
    const int64_t n = int64_t(slots_.size());
    int64_t at = number % n;
    while (slots_[size_t(at)].stretch == stretch_ && !(slots_[size_t(at)].head == head))
      at = (at + 1) % n;
    Slot &slot = slots_[size_t(at)];
    uint16_t *keys = numbers_.data() + at * 2 * kPage * d_, *values = keys + kPage * d_;
    if (!(slot.head == head)) {
      const Codes codes = model.cold.codes(use, head.layer, head.page, head.group, true, record_);
      if (codes.keys)
        use.expand(codes.keys, codes.values, d_, model.cold.bits, keys, values);
      else
        std::fill_n(keys, 2 * kPage * d_, uint16_t{0});  // numbers, whatever is made of them
    }
    slot.head = head;
    slot.stretch = stretch_;
    return {keys, values};
  }

 private:
  struct Slot {
    ColdHead head{};
    uint64_t stretch = 0;
  };
  std::vector<Slot> slots_;
  std::vector<uint16_t> numbers_;
  std::vector<uint8_t> record_;  // as it was read from a file
  int64_t d_ = 0;
  uint64_t stretch_ = 0;
};

}  // namespace ds
