#include "cached_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "cache_lines.h"
#include "helpers.h"
#include "machines.h"

namespace anneal {
namespace {

// Below so many multiplications, waking a helper takes longer than the work.
constexpr int64_t kWorthSharing = 100'000;
// How many keys ahead are asked for.
constexpr int64_t kKeysAhead = 12;

// What queries of one head see: rows of the cache where they lie, and what is added to their scores, if anything. Stays with its thread, as
// large as was ever needed.
template <typename K>
struct Seen {
  std::vector<const K *> keys, values;
  Floats masks, scores, factors;

  static Seen &Empty() {
    thread_local Seen seen;
    seen.keys.clear(), seen.values.clear(), seen.masks.clear();
    return seen;
  }

  // `count` rows of `dim` values each.
  void AddRows(const K *key_rows, const K *value_rows, int64_t count, int64_t dim) {
    const size_t first = keys.size();
    keys.resize(first + count), values.resize(first + count);
    for (int64_t i = 0; i < count; i++) keys[first + i] = key_rows + i * dim, values[first + i] = value_rows + i * dim;
  }

  void AddUnmasked(const float *mask, const K *key_rows, const K *value_rows, int64_t count, const AttentionShape &shape) {
    for (int64_t i = 0; i < count; i++) {
      if (mask[i] < kMasked) continue;
      keys.push_back(key_rows + i * shape.key_dim);
      values.push_back(value_rows + i * shape.value_dim);
      masks.push_back(mask[i]);
    }
  }
};

// Some of the rows, which are read soon: without that, memory keeps a few queries waiting. Inlined, since compilers leave out calls of what
// only asks.
template <typename K>
__attribute__((always_inline)) inline void AskFor(const std::vector<const K *> &rows, int64_t begin, int64_t end, int64_t dim) {
  constexpr int64_t kLine = 64 / sizeof(K);
  for (int64_t i = begin; i < std::min<int64_t>(end, rows.size()); i++)
    for (int64_t j = 0; j < dim; j += kLine) Prefetch(rows[i] + j);
}

// Scores become their exponentials beside the largest; returned is what those, as shares, have to be multiplied by.
template <typename Machine>
float Softmax(float *scores, const float *masks, int64_t n, const float *sink) {
  if (n == 0) return 0;
  if (masks)
    for (int64_t i = 0; i < n; i++) scores[i] += masks[i];
  float most = Machine::Largest(scores, n);
  if (sink) most = std::max(most, *sink);
  float sum = Machine::ExpSum(scores, scores, n, most, 1);
  if (sink) sum += std::exp(*sink - most);
  return 1 / sum;
}

// q [queries, key_dim], y [queries, value_dim]; each query sees what `visible` says, or all, and has one of the `sinks`, if any.
template <typename Machine, typename K>
void Attend(Seen<K> &seen, int64_t key_dim, int64_t value_dim, const Visible *visible, const float *sinks, int64_t queries, const float *q,
            float *y) {
  const int64_t n = seen.keys.size();
  seen.scores.resize(queries * n), seen.factors.resize(queries);
  float *scores = seen.scores.data();
  AskFor(seen.values, 0, n, value_dim);
  for (int64_t i = 0; i < n; i += Machine::kColumns) {
    const int count = static_cast<int>(std::min<int64_t>(Machine::kColumns, n - i));
    AskFor(seen.keys, i + kKeysAhead, i + kKeysAhead + count, key_dim);
    CountedColumns<Machine, Machine::kColumns>(count, q, seen.keys.data() + i, scores + i, queries, key_dim, n, {});
  }
  for (int64_t r = 0; r < queries; r++) {
    const Visible own = visible ? visible[r] : Visible{0, n};
    float *row = scores + r * n;
    std::fill(row, row + own.begin, 0.0f);
    const float *masks = seen.masks.empty() ? nullptr : seen.masks.data() + own.begin;
    seen.factors[r] = Softmax<Machine>(row + own.begin, masks, own.end - own.begin, sinks ? sinks + r : nullptr);
    std::fill(row + own.end, row + n, 0.0f);
  }
  constexpr int kR = Machine::kRows;
  const K *const *values = seen.values.data();
  int64_t r = 0;
  for (; r + kR <= queries; r += kR) Machine::template Mix<kR>(scores + r * n, values, y + r * value_dim, n, value_dim);
  for (; r + 2 <= queries; r += 2) Machine::template Mix<2>(scores + r * n, values, y + r * value_dim, n, value_dim);
  if (r < queries) Machine::template Mix<1>(scores + r * n, values, y + r * value_dim, n, value_dim);
  for (r = 0; r < queries; r++)
    for (int64_t i = 0; i < value_dim; i++) y[r * value_dim + i] *= seen.factors[r];
}

template <typename K>
using AttendFn = decltype(&Attend<Generic, K>);

template <typename K>
AttendFn<K> BestAttend() {
#if defined(__x86_64__)
  if (ThisMachine() == Machine::kAvx512) return Attend<Avx512, K>;
  if (ThisMachine() == Machine::kAvx2) return Attend<Avx2, K>;
#endif
  return Attend<Generic, K>;
}

template <typename K>
const AttendFn<K> kAttend = BestAttend<K>();

// One head's queries of one sequence: q [group, key_dim], y [group, value_dim].
void AttendSlot(const AttentionShape &shape, const AttentionInputs &in, int64_t head, int64_t slot, const float *q, float *y) {
  Seen<float> &seen = Seen<float>::Empty();
  const int64_t at = head * shape.slots + slot, past = at * shape.capacity, recent = at * shape.recent;
  seen.AddUnmasked(in.past_mask + slot * shape.capacity, in.past_keys + past * shape.key_dim, in.past_values + past * shape.value_dim,
                   shape.capacity, shape);
  seen.AddUnmasked(in.recent_mask + slot * shape.recent, in.recent_keys + recent * shape.key_dim,
                   in.recent_values + recent * shape.value_dim, shape.recent, shape);
  const float *sinks = in.sinks ? in.sinks + head * shape.group : nullptr;
  kAttend<float>(seen, shape.key_dim, shape.value_dim, nullptr, sinks, shape.group, q, y);
}

template <typename K>
void AttendTo(const KeyRun *runs, int64_t count, int64_t dim, const Visible *visible, int64_t queries, const float *q, float *y) {
  Seen<K> &seen = Seen<K>::Empty();
  for (const KeyRun *run = runs; run < runs + count; run++)
    seen.AddRows(static_cast<const K *>(run->keys), static_cast<const K *>(run->values), run->count, dim);
  kAttend<K>(seen, dim, dim, visible, nullptr, queries, q, y);
}

}  // namespace

void CachedAttention(const AttentionShape &shape, const AttentionInputs &inputs, const float *q, float *y) {
  const int64_t count = shape.heads * shape.slots;
  const auto work = [&](int64_t index) {
    const int64_t first = index * shape.group;
    AttendSlot(shape, inputs, index / shape.slots, index % shape.slots, q + first * shape.key_dim, y + first * shape.value_dim);
  };
  const int64_t products = count * (shape.capacity + shape.recent) * shape.group * (shape.key_dim + shape.value_dim);
  if (products >= kWorthSharing) return RunWithHelpers(count, work);
  for (int64_t index = 0; index < count; index++) work(index);
}

void AttendRuns(const KeyRun *runs, int64_t count, WeightType type, int64_t dim, const Visible *visible, int64_t queries, const float *q,
                float *y) {
  if (type == WeightType::kBfloat16) return AttendTo<uint16_t>(runs, count, dim, visible, queries, q, y);
  AttendTo<float>(runs, count, dim, visible, queries, q, y);
}

}  // namespace anneal
