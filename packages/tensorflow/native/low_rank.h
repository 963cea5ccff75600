// Adapters of rows: which each row has, and what they add to a product.

#ifndef ANNEAL_LOW_RANK_H_
#define ANNEAL_LOW_RANK_H_

#include <algorithm>
#include <cstdint>
#include <vector>

namespace anneal {

// y += scale · (x aᵀ) b: a [rank, in], b [rank, out]; rank 0 where a module is not adapted.
struct LowRank {
  const float *a, *b;
  int64_t rank;
};

struct Adapter {
  float scale;
  // Of each adapted product in turn.
  std::vector<LowRank> modules;
};

// Neighbouring rows of one adapter, or of none, which are multiplied together.
struct RowRun {
  int64_t first, count;
  const Adapter *adapter;
};

// Rows' adapters by their index, or -1.
inline std::vector<RowRun> RunsOf(const int32_t *adapter_of_row, int64_t rows, const std::vector<Adapter> &adapters) {
  std::vector<RowRun> runs;
  for (int64_t row = 0; row < rows; row++) {
    const Adapter *adapter = adapter_of_row[row] < 0 ? nullptr : &adapters[adapter_of_row[row]];
    if (runs.empty() || runs.back().adapter != adapter) runs.push_back({row, 0, adapter});
    runs.back().count++;
  }
  return runs;
}

inline int64_t LargestRank(const std::vector<Adapter> &adapters) {
  int64_t largest = 0;
  for (const Adapter &adapter : adapters)
    for (const LowRank &module : adapter.modules) largest = std::max(largest, module.rank);
  return largest;
}

}  // namespace anneal

#endif  // ANNEAL_LOW_RANK_H_
