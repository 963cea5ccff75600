#include "helpers.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#ifdef __linux__
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace anneal {
namespace {

int UsableThreads() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

class Helpers {
 public:
  static Helpers &Get() {
    // Never destroyed: its threads outlive main.
    static Helpers *helpers = new Helpers(UsableThreads() - 1);
    return *helpers;
  }

  void Run(int64_t chunks, const std::function<void(int64_t)> &work) {
    std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner.owns_lock() || threads_ == 0 || chunks < 2) {
      for (int64_t chunk = 0; chunk < chunks; chunk++) work(chunk);
      return;
    }
    work_ = &work;
    chunks_ = chunks;
    next_ = 0;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      round_++;
      open_ = true;
    }
    wake_.notify_all();
    Take();
    // A helper counts itself before it looks whether the round is open, so that none begins unseen.
    open_ = false;
    while (busy_ > 0) Pause();
  }

 private:
  explicit Helpers(int threads) : threads_(threads) {
    for (int i = 0; i < threads; i++) std::thread([this] { Loop(); }).detach();
  }

  void Take() {
    for (int64_t chunk; (chunk = next_++) < chunks_;) (*work_)(chunk);
  }

  void Loop() {
    for (uint64_t seen = 0;;) {
      for (int i = 0; i < kAwake && round_ == seen; i++) Pause();
      if (round_ == seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return round_ != seen; });
      }
      seen = round_;
      busy_++;
      if (open_) Take();
      busy_--;
    }
  }

  static void Pause() {
#if defined(__x86_64__)
    _mm_pause();
#else
    std::this_thread::yield();
#endif
  }

  static constexpr int kAwake = 2000;

  const int threads_;
  std::mutex owner_, mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> round_{0};
  std::atomic<bool> open_{false};
  std::atomic<int64_t> next_{0};
  std::atomic<int> busy_{0};
  int64_t chunks_ = 0;
  const std::function<void(int64_t)> *work_ = nullptr;
};

}  // namespace

void RunWithHelpers(int64_t count, const std::function<void(int64_t)> &work) { Helpers::Get().Run(count, work); }

void ForEach(int64_t count, int64_t values, const std::function<void(int64_t)> &work) {
  constexpr int64_t kWorthSharing = 16'384;
  if (values >= kWorthSharing) return RunWithHelpers(count, work);
  for (int64_t index = 0; index < count; index++) work(index);
}

}  // namespace anneal
