#include "pool.h"

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ds {

namespace {
// Long enough to bridge the gap between two products of one token, short enough that an idle
// program leaves the cores to others.
constexpr auto kSpin = std::chrono::microseconds(100);

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}
}  // namespace

Pool &Pool::get() {
  static Pool pool;
  return pool;
}

Pool::~Pool() { stop(); }

void Pool::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ends_ = true;
    round_.fetch_add(1);
  }
  wake_.notify_all();
  for (auto &thread : threads_) thread.join();
  threads_.clear();
  ends_ = false;
}

void Pool::resize(int n_threads) {
  std::lock_guard<std::mutex> caller(callers_);
  if (n_threads == n_threads_) return;
  stop();
  n_threads_ = n_threads;
  stretches_ = std::vector<Stretch>(size_t(n_threads));
  const uint64_t seen = round_.load();
  for (int i = 1; i < n_threads; ++i) threads_.emplace_back([this, i, seen] { serve(i, seen); });
}

void Pool::work_off(int thread) {
  for (int i = 0; i < n_threads_; ++i) {
    Stretch &stretch = stretches_[size_t((thread + i) % n_threads_)];
    for (;;) {
      const int64_t first = stretch.next.fetch_add(portion_);
      if (first >= stretch.end) break;
      (*work_)(first, first + portion_ < stretch.end ? first + portion_ : stretch.end);
    }
  }
}

void Pool::serve(int thread, uint64_t seen) {
  for (;;) {
    const auto until = std::chrono::steady_clock::now() + kSpin;
    int spins = 0;
    while (round_.load(std::memory_order_acquire) == seen) {
      relax();
      if (++spins % 64 == 0 && std::chrono::steady_clock::now() > until) {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return round_.load() != seen; });
      }
    }
    seen = round_.load();
    if (ends_) return;
    // A thread that comes late, because others use the processor, finds the work closed: the
    // caller never waits for one that took nothing.
    inside_.fetch_add(1);
    if (is_open_) work_off(thread);
    inside_.fetch_sub(1);
  }
}

void Pool::run(int64_t n_pieces, int64_t portion,
               const std::function<void(int64_t, int64_t)> &work) {
  std::lock_guard<std::mutex> caller(callers_);
  if (threads_.empty() || n_pieces <= portion) {
    work(0, n_pieces);
    return;
  }
  portion_ = portion;
  work_ = &work;
  for (int i = 0; i < n_threads_; ++i) {
    stretches_[size_t(i)].next = n_pieces * i / n_threads_;
    stretches_[size_t(i)].end = n_pieces * (i + 1) / n_threads_;
  }
  is_open_ = true;
  {
    // Under the lock, so that a thread between its check and its sleep does not miss it.
    std::lock_guard<std::mutex> lock(mutex_);
    round_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  work_off(0);
  is_open_ = false;
  for (int spins = 0; inside_ != 0; ++spins) {
    if (spins < 4096)
      relax();
    else
      std::this_thread::yield();
  }
}

}  // namespace ds
