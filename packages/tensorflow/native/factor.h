// What products take their rows from.

#ifndef ANNEAL_FACTOR_H_
#define ANNEAL_FACTOR_H_

#include <cstdint>

#include "cache_lines.h"
#include "low_rank.h"

namespace anneal {

// Rows that matrices multiply, in bfloat16 too where they are multiplied as such.
template <typename Machine>
class Factor {
 public:
  Factor(int64_t count, bool narrow) : values_(count), narrow_(narrow ? count : 0) {}

  float *values() { return values_.data(); }
  const uint16_t *narrow() const { return narrow_.empty() ? nullptr : narrow_.data(); }

  // To be called for what has changed.
  void Narrow(int64_t from, int64_t count) {
    if (!narrow_.empty()) Machine::NarrowRow(values_.data() + from, narrow_.data() + from, count);
  }

 private:
  Floats values_;
  Halves narrow_;
};

// u = x aᵀ of rows of a factor by an adapter's a.
template <typename Machine>
Product ReducedBy(const LowRank &update, Factor<Machine> &x, int64_t first, int64_t count, int64_t k, float *u) {
  const uint16_t *narrow = update.type == WeightType::kBfloat16 && x.narrow() ? x.narrow() + first * k : nullptr;
  return {x.values() + first * k, update.a, update.type, u, count, k, update.rank, narrow};
}

}  // namespace anneal

#endif  // ANNEAL_FACTOR_H_
