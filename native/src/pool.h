// Threads that wait for work: a product takes microseconds, so they spin before they sleep.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace ds {

class Pool {
 public:
  static Pool &get();

  // Run `work(first, last)` over [0, n_pieces). Each thread has a stretch of its own, so that it
  // reads memory in one run, and takes portions of it; then it helps the others.
  // One caller at a time; the calling thread works too.
  void run(int64_t n_pieces, int64_t portion, const std::function<void(int64_t, int64_t)> &work);

  void resize(int n_threads);
  int size() const { return n_threads_; }
  ~Pool();

 private:
  struct alignas(64) Stretch {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  void serve(int thread, uint64_t seen);
  void work_off(int thread);
  void stop();

  std::mutex callers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> threads_;
  int n_threads_ = 1;
  std::atomic<uint64_t> round_{0};
  std::atomic<bool> is_open_{false};  // whether there is work to take
  std::atomic<int> inside_{0};        // threads that may be touching it
  std::atomic<bool> ends_{false};
  std::vector<Stretch> stretches_ = std::vector<Stretch>(1);  // of each thread
  int64_t portion_ = 1;
  const std::function<void(int64_t, int64_t)> *work_ = nullptr;
};

}  // namespace ds
