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

float Widen(float value) { return value; }
float Widen(int8_t value) { return value; }

// The scale that follows a row of k values in 8 bits.
float ScaleOf(const int8_t *row, int64_t k) {
  float scale;
  memcpy(&scale, row + k, sizeof(scale));
  return scale;
}
float ScaleOf(const uint16_t *, int64_t) { return 1; }

// What a machine brings: Block, the sums of kR rows of x by kC rows of W, which fill its registers at kRows and kColumns; and
// WidenRow, for rows of W that are read more than once. Both ask for the memory `ahead` elements further on, which comes next.

struct Generic {
  static constexpr int kRows = 4, kColumns = 3, kLanes = 8;

  template <typename T>
  static void WidenRow(const T *from, float *to, int64_t k, int64_t) {
    if constexpr (sizeof(T) == 2) {
      for (int64_t i = 0; i < k; i++) to[i] = Widen(from[i]);
    } else {
      const float scale = ScaleOf(from, k);
      for (int64_t i = 0; i < k; i++) to[i] = from[i] * scale;
    }
  }

  template <int kR, int kC, typename T>
  static void Block(const float *x, const T *const *w, float *y, int64_t k, int64_t n, int64_t) {
    for (int r = 0; r < kR; r++)
      for (int c = 0; c < kC; c++) y[r * n + c] = Dot(x + r * k, w[c], k);
  }

  // Sums of kLanes interleaved parts, then of what is left, in the order of the AVX2 build.
  template <typename T>
  static float Dot(const float *a, const T *b, int64_t k) {
    float parts[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= k; i += kLanes)
      for (int lane = 0; lane < kLanes; lane++) parts[lane] += a[i + lane] * Widen(b[i + lane]);
    float sum = ((parts[0] + parts[4]) + (parts[2] + parts[6])) + ((parts[1] + parts[5]) + (parts[3] + parts[7]));
    for (; i < k; i++) sum += a[i] * Widen(b[i]);
    return sum;
  }
};

#if defined(__x86_64__)
// Sums must stay in registers, which takes loops without counters.
#define ANNEAL_UNROLL _Pragma("GCC unroll 8")

template <typename T>
inline void Prefetch(const T *next) {
  _mm_prefetch(reinterpret_cast<const char *>(next), _MM_HINT_T0);
}

// The machines with vectors differ in these; what they do with them is in skinny_matmul_vectors.h.
#define ANNEAL_TARGET __attribute__((target("avx2,fma")))
struct Avx2Vectors {
  using Vector = __m256;
  static constexpr int kRows = 4, kColumns = 3, kLanes = 8;

  ANNEAL_TARGET static Vector Zero() { return _mm256_setzero_ps(); }
  ANNEAL_TARGET static Vector All(float value) { return _mm256_set1_ps(value); }
  ANNEAL_TARGET static Vector Times(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
  ANNEAL_TARGET static Vector TimesPlus(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  ANNEAL_TARGET static void Store(float *to, Vector v) { _mm256_storeu_ps(to, v); }
  ANNEAL_TARGET static Vector Load(const float *from) { return _mm256_loadu_ps(from); }
  ANNEAL_TARGET static Vector Load(const uint16_t *from) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  ANNEAL_TARGET static Vector Load(const int8_t *from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(from))));
  }
  ANNEAL_TARGET static float Sum(Vector v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
  }
};
#define ANNEAL_MACHINE Avx2
#include "skinny_matmul_vectors.h"
#undef ANNEAL_MACHINE
#undef ANNEAL_TARGET

#define ANNEAL_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
struct Avx512Vectors {
  using Vector = __m512;
  static constexpr int kRows = 4, kColumns = 6, kLanes = 16;

  ANNEAL_TARGET static Vector Zero() { return _mm512_setzero_ps(); }
  ANNEAL_TARGET static Vector All(float value) { return _mm512_set1_ps(value); }
  ANNEAL_TARGET static Vector Times(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
  ANNEAL_TARGET static Vector TimesPlus(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  ANNEAL_TARGET static void Store(float *to, Vector v) { _mm512_storeu_ps(to, v); }
  ANNEAL_TARGET static Vector Load(const float *from) { return _mm512_loadu_ps(from); }
  ANNEAL_TARGET static Vector Load(const uint16_t *from) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  ANNEAL_TARGET static Vector Load(const int8_t *from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from))));
  }
  ANNEAL_TARGET static float Sum(Vector v) { return _mm512_reduce_add_ps(v); }
};
#define ANNEAL_MACHINE Avx512
#include "skinny_matmul_vectors.h"
#undef ANNEAL_MACHINE
#undef ANNEAL_TARGET
#endif

// kC rows of W against all rows of x.
template <typename Machine, int kC, typename T>
void Columns(const float *x, const T *const *w, float *y, int64_t m, int64_t k, int64_t n, int64_t ahead) {
  constexpr int kR = Machine::kRows;
  int64_t r = 0;
  for (; r + kR <= m; r += kR) Machine::template Block<kR, kC>(x + r * k, w, y + r * n, k, n, ahead);
  for (; r + 2 <= m; r += 2) Machine::template Block<2, kC>(x + r * k, w, y + r * n, k, n, ahead);
  if (r < m) Machine::template Block<1, kC>(x + r * k, w, y + r * n, k, n, ahead);
}

// `count` rows of W, at most kC.
template <typename Machine, int kC, typename T>
void CountedColumns(int count, const float *x, const T *const *w, float *y, int64_t m, int64_t k, int64_t n,
                    int64_t ahead) {
  if (count == kC) return Columns<Machine, kC>(x, w, y, m, k, n, ahead);
  if constexpr (kC > 1) CountedColumns<Machine, kC - 1>(count, x, w, y, m, k, n, ahead);
}

// Rows `begin` to `end` of W, in which a row takes `stored` elements.
template <typename Machine, typename T>
void Chunk(const float *x, const void *weights, float *y, int64_t m, int64_t k, int64_t n, int64_t begin, int64_t end) {
  constexpr int kC = Machine::kColumns;
  const int64_t stored = sizeof(T) == 1 ? k + static_cast<int64_t>(sizeof(float)) : k;
  const int64_t ahead = kC * stored;
  // Rows of W that many blocks read are widened once; those in 8 bits always, since their scale follows them.
  const bool widen = sizeof(T) == 1 || (sizeof(T) == 2 && m > 2 * Machine::kRows);
  // Grows to the widest W of the process and stays: a few kilobytes for each thread.
  thread_local std::vector<float> widened;
  if (widen && widened.size() < static_cast<size_t>(kC * k)) widened.resize(kC * k);
  for (int64_t column = begin; column < end; column += kC) {
    const int count = static_cast<int>(std::min<int64_t>(kC, end - column));
    const T *rows[kC];
    for (int c = 0; c < count; c++) rows[c] = static_cast<const T *>(weights) + (column + c) * stored;
    if constexpr (sizeof(T) != sizeof(float)) {
      if (widen) {
        const float *wide[kC];
        for (int c = 0; c < count; c++) {
          Machine::WidenRow(rows[c], widened.data() + c * k, k, ahead);
          wide[c] = widened.data() + c * k;
        }
        CountedColumns<Machine, kC>(count, x, wide, y + column, m, k, n, 0);
        continue;
      }
    }
    CountedColumns<Machine, kC>(count, x, rows, y + column, m, k, n, ahead);
  }
}

using ChunkFn = decltype(&Chunk<Generic, float>);

template <typename T>
ChunkFn BestChunk() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq"))
    return Chunk<Avx512, T>;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Chunk<Avx2, T>;
#endif
  return Chunk<Generic, T>;
}

}  // namespace

void SkinnyMatmul(const float *x, const void *w, WeightType type, float *y, int64_t m, int64_t k, int64_t n) {
  if (m == 0) return;
  static const ChunkFn of_floats = BestChunk<float>(), of_halves = BestChunk<uint16_t>(), of_bytes = BestChunk<int8_t>();
  const ChunkFn chunk = type == WeightType::kFloat32 ? of_floats : type == WeightType::kBfloat16 ? of_halves : of_bytes;
  const int64_t chunks = (n + kChunk - 1) / kChunk;
  Helpers::Get().Run(chunks, [&](int64_t index) {
    const int64_t begin = index * kChunk;
    chunk(x, w, y, m, k, n, begin, std::min(n, begin + kChunk));
  });
}

}  // namespace anneal
