// Adapters of rows, kept as sampling reads them: which each row has, and what they add to a product.

#ifndef ANNEAL_LOW_RANK_H_
#define ANNEAL_LOW_RANK_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "skinny_matmul.h"

namespace anneal {

// y += scale · (x aᵀ) b: a [rank, in], b [rank, out] in panels as AddLowRank reads it, in float32 or bfloat16; rank 0 where a module is not
// adapted.
struct LowRank {
  const void *a, *b;
  WeightType type;
  int64_t rank;
};

// A module's A [rank, in] and B [out, rank], as training has them.
struct AdapterMatrices {
  const float *a, *b;
  int64_t rank, in, out;
};

// All of an adapter in one piece of memory.
class Adapter {
 public:
  // `layers`: of each adapted product of each layer in turn. `narrow`: in bfloat16.
  Adapter(const std::vector<AdapterMatrices> &layers, const AdapterMatrices &head, float scale, bool narrow);
  ~Adapter();
  Adapter(const Adapter &) = delete;
  Adapter &operator=(const Adapter &) = delete;

  const float scale;
  const LowRank &module(int64_t index) const { return layers_[index]; }
  int64_t modules() const { return layers_.size(); }
  const LowRank &head() const { return head_; }
  int64_t largest_rank() const { return largest_rank_; }
  // Whether every module that is adapted fits a matrix of as many columns and rows.
  bool Fits(int64_t index, int64_t in, int64_t out) const {
    return shapes_[index].rank == 0 || (shapes_[index].in == in && shapes_[index].out == out);
  }
  bool HeadFits(int64_t in, int64_t out) const { return head_shape_.rank == 0 || (head_shape_.in == in && head_shape_.out == out); }

 private:
  std::vector<AdapterMatrices> shapes_;
  AdapterMatrices head_shape_;
  std::vector<LowRank> layers_;
  LowRank head_;
  int64_t largest_rank_ = 0;
  void *block_;
};

// Neighbouring rows of one adapter, or of none, which are multiplied together.
struct RowRun {
  int64_t first, count;
  const Adapter *adapter;
};

// Rows' adapters by their index, or -1.
inline std::vector<RowRun> RunsOf(const int32_t *adapter_of_row, int64_t rows, const std::vector<const Adapter *> &adapters) {
  std::vector<RowRun> runs;
  for (int64_t row = 0; row < rows; row++) {
    const Adapter *adapter = adapter_of_row[row] < 0 ? nullptr : adapters[adapter_of_row[row]];
    if (runs.empty() || runs.back().adapter != adapter) runs.push_back({row, 0, adapter});
    runs.back().count++;
  }
  return runs;
}

inline int64_t LargestRank(const std::vector<const Adapter *> &adapters) {
  int64_t largest = 0;
  for (const Adapter *adapter : adapters) largest = std::max(largest, adapter->largest_rank());
  return largest;
}

// y += scale · u b of `count` columns of b, from `begin` on.
template <typename Machine>
void AddUpdate(const LowRank &update, const float *u, float scale, int64_t begin, float *y, int64_t count) {
  if (update.type == WeightType::kBfloat16)
    Machine::AddLowRank(u, update.rank, scale, static_cast<const uint16_t *>(update.b), begin, y, count);
  else
    Machine::AddLowRank(u, update.rank, scale, static_cast<const float *>(update.b), begin, y, count);
}

}  // namespace anneal

#endif  // ANNEAL_LOW_RANK_H_
