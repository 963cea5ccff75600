#include "skinny_matmul.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cache_lines.h"
#include "helpers.h"
#include "machines.h"

namespace anneal {
namespace {

// Rows of W that a thread takes at a time.
constexpr int64_t kChunk = 48;
// Of so few rows of x, memory sets the pace: it is fastest row after row of W, and of a few more, where a row of W would keep x waiting,
// in groups of which the next is asked for line after line. Eight rows in bfloat16 keep all sums of two rows of W in registers.
constexpr int64_t kByRow = 2;
constexpr int64_t kInTurn = 4;
constexpr int64_t kByTwo = 8;
// How far ahead a row of W asks, in bytes.
constexpr int64_t kAhead = 8192;
// Below so many multiplications, waking a helper takes longer than the work.
constexpr int64_t kWorthSharing = 50'000;

// Rows `begin` to `end` of W, in which a row takes `stored` elements.
template <typename Machine, typename X, typename T>
void Chunk(const void *rows_of_x, const void *weights, float *y, int64_t m, int64_t k, int64_t n, int64_t begin, int64_t end) {
  const X *x = static_cast<const X *>(rows_of_x);
  constexpr int kC = Machine::kColumns;
  const int64_t stored = sizeof(T) == 1 ? k + static_cast<int64_t>(sizeof(float)) : k;
  const int64_t ahead = kC * stored;
  // Rows of W that many blocks read are widened once; those in 8 bits always, since their scale follows them.
  const bool widen = sizeof(T) == 1 || (sizeof(T) == 2 && sizeof(X) == 4 && m > 2 * Machine::kRows);
  // Grows to the widest W of the process and stays: a few kilobytes for each thread.
  thread_local Floats widened;
  if (widen && widened.size() < static_cast<size_t>(kC * k)) widened.resize(kC * k);
  if constexpr (sizeof(T) != 1)
    if (m <= kByRow) {
      for (int64_t column = begin; column < end; column++) {
        const T *row = static_cast<const T *>(weights) + column * k;
        Columns<Machine, 1>(x, &row, y + column, m, k, n, {kAhead / sizeof(T)});
      }
      return;
    }
  if constexpr (sizeof(X) == 2 && sizeof(T) == 2)
    if (m > kInTurn && m <= kByTwo) {
      for (int64_t column = begin; column < end; column += 2) {
        const T *row = static_cast<const T *>(weights) + column * k, *rows[2] = {row, row + k};
        CountedColumns<Machine, 2>(std::min<int64_t>(2, end - column), x, rows, y + column, m, k, n, {kAhead / sizeof(T)});
      }
      return;
    }
  for (int64_t column = begin; column < end; column += kC) {
    const int count = static_cast<int>(std::min<int64_t>(kC, end - column));
    const T *rows[kC];
    for (int c = 0; c < count; c++) rows[c] = static_cast<const T *>(weights) + (column + c) * stored;
    if constexpr (sizeof(T) < sizeof(X)) {
      if (widen) {
        const float *wide[kC];
        for (int c = 0; c < count; c++) {
          Machine::WidenRow(rows[c], widened.data() + c * k, k);
          wide[c] = widened.data() + c * k;
        }
        const Upcoming following{0, reinterpret_cast<const char *>(rows[0] + ahead), ahead * static_cast<int64_t>(sizeof(T))};
        CountedColumns<Machine, kC>(count, x, wide, y + column, m, k, n, following);
        continue;
      }
    }
    const Upcoming in_turn{0, reinterpret_cast<const char *>(rows[0] + ahead), ahead * static_cast<int64_t>(sizeof(T))};
    CountedColumns<Machine, kC>(count, x, rows, y + column, m, k, n, sizeof(X) == 2 && m <= kInTurn ? in_turn : Upcoming{ahead});
  }
}

int64_t ChunksOf(const Product &product) { return (product.n + kChunk - 1) / kChunk; }

using ChunkFn = decltype(&Chunk<Generic, float, float>);

template <typename X, typename T>
ChunkFn BestChunk() {
#if defined(__x86_64__)
#if defined(ANNEAL_HAS_BFLOAT16)
  if constexpr (sizeof(X) == 2)
    if (ThisMachine() == Machine::kAvx512 && MultipliesBfloat16()) return Chunk<Avx512Bfloat16, X, T>;
#endif
  if (ThisMachine() == Machine::kAvx512) return Chunk<Avx512, X, T>;
  if (ThisMachine() == Machine::kAvx2) return Chunk<Avx2, X, T>;
#endif
  return Chunk<Generic, X, T>;
}

}  // namespace

void SkinnyProducts(const Product *products, int64_t count) {
  static const ChunkFn of_floats = BestChunk<float, float>(), of_halves = BestChunk<float, uint16_t>(),
                       of_bytes = BestChunk<float, int8_t>(), of_narrow = BestChunk<uint16_t, uint16_t>();
  const auto chunk = [&](const Product &p, int64_t begin, int64_t end) {
    if (p.narrow) return of_narrow(p.narrow, p.w, p.y, p.m, p.k, p.n, begin, std::min(p.n, end));
    const ChunkFn run = p.type == WeightType::kFloat32 ? of_floats : p.type == WeightType::kBfloat16 ? of_halves : of_bytes;
    run(p.x, p.w, p.y, p.m, p.k, p.n, begin, std::min(p.n, end));
  };
  int64_t work = 0, chunks = 0;
  for (int64_t i = 0; i < count; i++) {
    work += products[i].m * products[i].k * products[i].n;
    if (products[i].m > 0) chunks += ChunksOf(products[i]);
  }
  if (work < kWorthSharing) {
    for (int64_t i = 0; i < count; i++)
      if (products[i].m > 0) chunk(products[i], 0, products[i].n);
    return;
  }
  RunWithHelpers(chunks, [&](int64_t index) {
    const Product *product = products;
    for (; product->m == 0 || index >= ChunksOf(*product); product++)
      if (product->m > 0) index -= ChunksOf(*product);
    chunk(*product, index * kChunk, (index + 1) * kChunk);
  });
}

}  // namespace anneal
