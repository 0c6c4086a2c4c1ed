// Cold pages in a file: what a context of millions of tokens keeps outside of memory.
//
// A record is a head's page in one layer, so that one read brings it: keys and their checksum, then
// values and theirs. Reads and writes go through the system's page cache, which is told to let go
// each time that so many bytes have passed: else it would hold in memory what was moved out of it.
//
// What fails is noted, and nothing more is read or written in that pass: its result is of no use.
#pragma once
#include <atomic>
#include <memory>

#include "deepseek_native.h"
#include "layout.h"

namespace ds {

class PageFile {
 public:
  // A file of its own descriptor; null if there can be none here. `before` is the file that it takes
  // the place of, or null.
  static std::unique_ptr<PageFile> open(const ds_page_file &places, int64_t part_bytes,
                                        const PageFile *before);
  ~PageFile();
  PageFile(const PageFile &) = delete;
  PageFile &operator=(const PageFile &) = delete;

  int64_t n_pages() const { return places_.n_blocks * places_.block_pages; }
  int64_t part_bytes() const { return part_bytes_; }      // of keys, or of values
  int64_t record_bytes() const { return 2 * stored_; }
  // Where keys and values are in a record.
  uint8_t *keys_in(uint8_t *record) const { return record; }
  uint8_t *values_in(uint8_t *record) const { return record + stored_; }

  // Whether a record, or its keys alone, was read and is as it was written.
  bool read(const Kernels &use, int64_t layer, int64_t page, int64_t group, bool with_values,
            uint8_t *record);
  // Write a record; its checksums are filled in.
  void write(const Kernels &use, int64_t layer, int64_t page, int64_t group, uint8_t *record);

  void begin_pass() { problem_ = error_ = 0; }
  int problem() const { return problem_; }  // a `ds_status`
  int error() const { return error_; }      // the system's number of it, or 0

 private:
  PageFile(int fd, const ds_page_file &places, int64_t part_bytes);
  int64_t place(int64_t layer, int64_t page, int64_t group) const {
    return page / places_.block_pages * places_.block_stride + layer * places_.layer_stride +
           page % places_.block_pages * places_.page_stride + group * places_.head_stride;
  }
  void fail(int problem, int error);
  void count(int64_t n_bytes);

  const int fd_;
  const ds_page_file places_;
  const int64_t part_bytes_, stored_;
  std::atomic<int64_t> held_{0};  // bytes that may be in the page cache
  std::atomic<bool> is_dirty_{false};
  std::atomic<int> problem_{0}, error_{0};
};

}  // namespace ds
