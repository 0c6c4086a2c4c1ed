#include "page_file.h"

#include <cerrno>
#include <cstring>
#include <initializer_list>
#include <new>

#if defined(__linux__)
#include <fcntl.h>
#include <unistd.h>
#endif

namespace ds {
namespace {

constexpr int64_t kSum = sizeof(uint32_t);

#if defined(__linux__)
// Bytes that were moved; fewer than asked for at the file's end, or with `errno` after an error.
template <typename Move>
int64_t move_all(int64_t n_bytes, const Move &move) {
  int64_t done = 0;
  errno = 0;
  while (done < n_bytes) {
    const ssize_t now = move(done, size_t(n_bytes - done));
    if (now < 0 && errno == EINTR) continue;
    if (now <= 0) break;
    done += now;
  }
  return done;
}

int64_t read_all(int fd, uint8_t *to, int64_t n_bytes, int64_t place) {
  return move_all(n_bytes, [&](int64_t done, size_t left) {
    return pread(fd, to + done, left, off_t(place + done));
  });
}

int64_t write_all(int fd, const uint8_t *from, int64_t n_bytes, int64_t place) {
  return move_all(n_bytes, [&](int64_t done, size_t left) {
    return pwrite(fd, from + done, left, off_t(place + done));
  });
}

// What was written must be on the disk before the page cache can let go of it.
int let_go(int fd, bool is_dirty) {
  constexpr unsigned kWrite =
      SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
  if (is_dirty && sync_file_range(fd, 0, 0, kWrite) && fdatasync(fd)) return errno;
  return posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

int copy_of(int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 0); }
void close_file(int fd) { close(fd); }
#else
int64_t no_files() {
  errno = ENOSYS;
  return 0;
}
int64_t read_all(int, uint8_t *, int64_t, int64_t) { return no_files(); }
int64_t write_all(int, const uint8_t *, int64_t, int64_t) { return no_files(); }
int let_go(int, bool) { return ENOSYS; }
int copy_of(int) { return -1; }
void close_file(int) {}
#endif

}  // namespace

std::unique_ptr<PageFile> PageFile::open(const ds_page_file &places, int64_t part_bytes,
                                         const PageFile *before) {
  // One's own descriptor: if the caller closed his, its number could be that of another file.
  const int fd = copy_of(int(places.fd));
  if (fd < 0) return nullptr;
  std::unique_ptr<PageFile> file(new (std::nothrow) PageFile(fd, places, part_bytes));
  if (!file) {
    close_file(fd);
  } else if (before) {
    file->held_ = before->held_.load();
    file->is_dirty_ = before->is_dirty_.load();
  }
  return file;
}

PageFile::PageFile(int fd, const ds_page_file &places, int64_t part_bytes)
    : fd_(fd), places_(places), part_bytes_(part_bytes), stored_(part_bytes + kSum) {}

PageFile::~PageFile() { close_file(fd_); }

void PageFile::fail(int problem, int error) {
  int none = 0;
  if (problem_.compare_exchange_strong(none, problem)) error_ = error;
}

void PageFile::count(int64_t n_bytes) {
  int64_t held = held_.fetch_add(n_bytes) + n_bytes;
  if (held < places_.held_bytes || !held_.compare_exchange_strong(held, 0)) return;
  if (const int error = let_go(fd_, is_dirty_.exchange(false))) fail(DS_IO, error);
}

bool PageFile::read(const Kernels &use, int64_t layer, int64_t page, int64_t group,
                    bool with_values, uint8_t *record) {
  if (problem_) return false;
  const int64_t n_bytes = with_values ? 2 * stored_ : stored_;
  const int64_t found = read_all(fd_, record, n_bytes, place(layer, page, group));
  if (found != n_bytes) {
    const int error = errno;
    fail(error ? DS_IO : DS_DAMAGED, error);
    return false;
  }
  for (int64_t start = 0; start < n_bytes; start += stored_) {
    uint32_t sum;
    std::memcpy(&sum, record + start + part_bytes_, sizeof sum);
    if (sum == use.checksum(record + start, part_bytes_)) continue;
    fail(DS_DAMAGED, 0);
    return false;
  }
  count(n_bytes);
  return true;
}

void PageFile::write(const Kernels &use, int64_t layer, int64_t page, int64_t group,
                     uint8_t *record) {
  if (problem_) return;
  for (uint8_t *part : {keys_in(record), values_in(record)}) {
    const uint32_t sum = use.checksum(part, part_bytes_);
    std::memcpy(part + part_bytes_, &sum, sizeof sum);
  }
  is_dirty_ = true;
  if (write_all(fd_, record, record_bytes(), place(layer, page, group)) != record_bytes())
    return fail(DS_IO, errno ? errno : EIO);
  count(record_bytes());
}

}  // namespace ds
