#include "skinny_matmul.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#ifdef __linux__
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace anneal {
namespace {

constexpr int kLanes = 8;
// Rows of W that are multiplied together: their partial sums and those of kRows rows of x fill the registers.
constexpr int kColumns = 3;
constexpr int kRows = 4;
// Rows of W that a thread takes at a time.
constexpr int64_t kChunk = 48;

int UsableThreads() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// Threads that help with one product after another. They stay awake for a moment after each, since the next usually follows
// at once; nobody waits for one that has not begun.
class Helpers {
 public:
  static Helpers &Get() {
    // Never destroyed: its threads outlive main.
    static Helpers *helpers = new Helpers(UsableThreads() - 1);
    return *helpers;
  }

  // Runs work(chunk) for every chunk in [0, chunks), here and on the helpers.
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

float Widen(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  memcpy(&value, &wide, sizeof(value));
  return value;
}

float ScaleOf(const int8_t *row, int64_t k) {
  float scale;
  memcpy(&scale, row + k, sizeof(scale));
  return scale;
}

// Sums of kLanes interleaved parts, then of what is left, so that every build adds in the same order.
float Dot(const float *a, const float *b, int64_t k) {
  float parts[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= k; i += kLanes)
    for (int lane = 0; lane < kLanes; lane++) parts[lane] += a[i + lane] * b[i + lane];
  float sum = ((parts[0] + parts[4]) + (parts[2] + parts[6])) + ((parts[1] + parts[5]) + (parts[3] + parts[7]));
  for (; i < k; i++) sum += a[i] * b[i];
  return sum;
}

struct Generic {
  static void WidenRow(const uint16_t *from, float *to, int64_t k) {
    for (int64_t i = 0; i < k; i++) to[i] = Widen(from[i]);
  }

  static void WidenRow(const int8_t *from, float *to, int64_t k) {
    const float scale = ScaleOf(from, k);
    for (int64_t i = 0; i < k; i++) to[i] = from[i] * scale;
  }

  template <int kR, int kC>
  static void Block(const float *x, const float *const *w, float *y, int64_t k, int64_t n) {
    for (int r = 0; r < kR; r++)
      for (int c = 0; c < kC; c++) y[r * n + c] = Dot(x + r * k, w[c], k);
  }
};

#if defined(__x86_64__)
#define ANNEAL_AVX2 __attribute__((target("avx2,fma")))
// Sums must stay in registers, which takes loops without counters.
#define ANNEAL_UNROLL _Pragma("GCC unroll 8")

ANNEAL_AVX2 inline float Sum(__m256 v) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}

struct Avx2 {
  ANNEAL_AVX2 static void WidenRow(const uint16_t *from, float *to, int64_t k) {
    int64_t i = 0;
    for (; i + kLanes <= k; i += kLanes) {
      const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from + i)));
      _mm256_storeu_ps(to + i, _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
    }
    for (; i < k; i++) to[i] = Widen(from[i]);
  }

  ANNEAL_AVX2 static void WidenRow(const int8_t *from, float *to, int64_t k) {
    const float scale = ScaleOf(from, k);
    const __m256 scales = _mm256_set1_ps(scale);
    int64_t i = 0;
    for (; i + kLanes <= k; i += kLanes) {
      const __m256i wide = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(from + i)));
      _mm256_storeu_ps(to + i, _mm256_mul_ps(_mm256_cvtepi32_ps(wide), scales));
    }
    for (; i < k; i++) to[i] = from[i] * scale;
  }

  template <int kR, int kC>
  ANNEAL_AVX2 static void Block(const float *x, const float *const *w, float *y, int64_t k, int64_t n) {
    __m256 sums[kR][kC];
    ANNEAL_UNROLL for (int r = 0; r < kR; r++)
      ANNEAL_UNROLL for (int c = 0; c < kC; c++) sums[r][c] = _mm256_setzero_ps();
    int64_t i = 0;
    for (; i + kLanes <= k; i += kLanes) {
      __m256 weights[kC];
      ANNEAL_UNROLL for (int c = 0; c < kC; c++) weights[c] = _mm256_loadu_ps(w[c] + i);
      ANNEAL_UNROLL for (int r = 0; r < kR; r++) {
        const __m256 values = _mm256_loadu_ps(x + r * k + i);
        ANNEAL_UNROLL for (int c = 0; c < kC; c++) sums[r][c] = _mm256_fmadd_ps(values, weights[c], sums[r][c]);
      }
    }
    ANNEAL_UNROLL for (int r = 0; r < kR; r++)
      ANNEAL_UNROLL for (int c = 0; c < kC; c++) {
        float sum = Sum(sums[r][c]);
        for (int64_t rest = i; rest < k; rest++) sum += x[r * k + rest] * w[c][rest];
        y[r * n + c] = sum;
      }
  }
};
#endif

// kC rows of W against all rows of x.
template <typename Machine, int kC>
void Columns(const float *x, const float *const *w, float *y, int64_t m, int64_t k, int64_t n) {
  int64_t r = 0;
  for (; r + kRows <= m; r += kRows) Machine::template Block<kRows, kC>(x + r * k, w, y + r * n, k, n);
  for (; r < m; r++) Machine::template Block<1, kC>(x + r * k, w, y + r * n, k, n);
}

template <typename Machine>
void Chunk(const float *x, const void *w, WeightType type, float *y, int64_t m, int64_t k, int64_t n, int64_t begin,
           int64_t end) {
  // Grows to the widest W of the process and stays: a few kilobytes for each thread.
  thread_local std::vector<float> widened;
  if (type != WeightType::kFloat32 && widened.size() < static_cast<size_t>(kColumns * k)) widened.resize(kColumns * k);
  for (int64_t column = begin; column < end; column += kColumns) {
    const int count = static_cast<int>(std::min<int64_t>(kColumns, end - column));
    const float *rows[kColumns];
    for (int c = 0; c < count; c++) {
      if (type == WeightType::kFloat32) {
        rows[c] = static_cast<const float *>(w) + (column + c) * k;
        continue;
      }
      float *row = widened.data() + c * k;
      if (type == WeightType::kBfloat16) {
        Machine::WidenRow(static_cast<const uint16_t *>(w) + (column + c) * k, row, k);
      } else {
        const int64_t stored = k + static_cast<int64_t>(sizeof(float));
        Machine::WidenRow(static_cast<const int8_t *>(w) + (column + c) * stored, row, k);
      }
      rows[c] = row;
    }
    if (count == 3) Columns<Machine, 3>(x, rows, y + column, m, k, n);
    if (count == 2) Columns<Machine, 2>(x, rows, y + column, m, k, n);
    if (count == 1) Columns<Machine, 1>(x, rows, y + column, m, k, n);
  }
}

using ChunkFn = decltype(&Chunk<Generic>);

ChunkFn BestChunk() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Chunk<Avx2>;
#endif
  return Chunk<Generic>;
}

}  // namespace

void SkinnyMatmul(const float *x, const void *w, WeightType type, float *y, int64_t m, int64_t k, int64_t n) {
  if (m == 0) return;
  static const ChunkFn chunk = BestChunk();
  const int64_t chunks = (n + kChunk - 1) / kChunk;
  Helpers::Get().Run(chunks, [&](int64_t index) {
    const int64_t begin = index * kChunk;
    chunk(x, w, type, y, m, k, n, begin, std::min(n, begin + kChunk));
  });
}

}  // namespace anneal
