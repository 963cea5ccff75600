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

// What one sequence sees through one head: rows of the cache where they lie. Stays with its thread, as large as was ever needed.
struct Seen {
  std::vector<const float *> keys, values;
  Floats masks, scores;

  void Add(const float *mask, const float *key_rows, const float *value_rows, int64_t count, const AttentionShape &shape) {
    for (int64_t i = 0; i < count; i++) {
      if (mask[i] < kMasked) continue;
      keys.push_back(key_rows + i * shape.key_dim);
      values.push_back(value_rows + i * shape.value_dim);
      masks.push_back(mask[i]);
    }
  }
};

// Scores become shares of the values.
template <typename Machine>
void Softmax(float *scores, const Floats &masks, const float *sink) {
  const int64_t n = masks.size();
  float most = sink ? *sink : -INFINITY;
  for (int64_t i = 0; i < n; i++) most = std::max(most, scores[i] += masks[i]);
  float sum = Machine::ExpSum(scores, n, most);
  if (sink) sum += std::exp(*sink - most);
  for (int64_t i = 0; i < n; i++) scores[i] /= sum;
}

template <typename Machine>
void Attend(const AttentionShape &shape, const AttentionInputs &in, int64_t head, int64_t slot, const float *q, float *y) {
  thread_local Seen seen;
  seen.keys.clear(), seen.values.clear(), seen.masks.clear();
  const int64_t at = head * shape.slots + slot, past = at * shape.capacity, recent = at * shape.recent;
  seen.Add(in.past_mask + slot * shape.capacity, in.past_keys + past * shape.key_dim,
           in.past_values + past * shape.value_dim, shape.capacity, shape);
  seen.Add(in.recent_mask + slot * shape.recent, in.recent_keys + recent * shape.key_dim,
           in.recent_values + recent * shape.value_dim, shape.recent, shape);

  const int64_t n = seen.keys.size(), group = shape.group, dim = shape.value_dim;
  seen.scores.resize(group * n);
  float *scores = seen.scores.data();
  for (int64_t i = 0; i < n; i += Machine::kColumns) {
    const int count = static_cast<int>(std::min<int64_t>(Machine::kColumns, n - i));
    CountedColumns<Machine, Machine::kColumns>(count, q, seen.keys.data() + i, scores + i, group, shape.key_dim, n, {});
  }
  for (int64_t g = 0; g < group; g++)
    Softmax<Machine>(scores + g * n, seen.masks, in.sinks ? in.sinks + head * group + g : nullptr);

  constexpr int kR = Machine::kRows;
  const float *const *values = seen.values.data();
  int64_t g = 0;
  for (; g + kR <= group; g += kR) Machine::template Mix<kR>(scores + g * n, values, y + g * dim, n, dim);
  for (; g + 2 <= group; g += 2) Machine::template Mix<2>(scores + g * n, values, y + g * dim, n, dim);
  if (g < group) Machine::template Mix<1>(scores + g * n, values, y + g * dim, n, dim);
}

using AttendFn = decltype(&Attend<Generic>);

AttendFn BestAttend() {
#if defined(__x86_64__)
  if (ThisMachine() == Machine::kAvx512) return Attend<Avx512>;
  if (ThisMachine() == Machine::kAvx2) return Attend<Avx2>;
#endif
  return Attend<Generic>;
}

}  // namespace

void AttendOne(const AttentionShape &shape, const AttentionInputs &inputs, int64_t head, int64_t slot, const float *q, float *y) {
  static const AttendFn attend = BestAttend();
  attend(shape, inputs, head, slot, q, y);
}

void CachedAttention(const AttentionShape &shape, const AttentionInputs &inputs, const float *q, float *y) {
  const int64_t count = shape.heads * shape.slots;
  const auto work = [&](int64_t index) {
    const int64_t first = index * shape.group;
    AttendOne(shape, inputs, index / shape.slots, index % shape.slots, q + first * shape.key_dim, y + first * shape.value_dim);
  };
  const int64_t products = count * (shape.capacity + shape.recent) * shape.group * (shape.key_dim + shape.value_dim);
  if (products >= kWorthSharing) return RunWithHelpers(count, work);
  for (int64_t index = 0; index < count; index++) work(index);
}

}  // namespace anneal
