// Rows of several tensors, one after the other, in a new order: what a cache of keys and values is rebuilt by.

#ifndef ANNEAL_GATHER_ROWS_H_
#define ANNEAL_GATHER_ROWS_H_

#include <cstdint>
#include <vector>

#include "skinny_matmul.h"

namespace anneal {

// [heads, rows, dim], in float32 or bfloat16.
struct RowPart {
  const void *values;
  WeightType type;
  int64_t rows;
};

// to [heads, count, dim]: of each head, row i is the row index[i] of the parts' rows put one after the other. In bfloat16 rows of float32 are
// rounded to it; in float32 there are no others.
struct RowGather {
  std::vector<RowPart> parts;
  int64_t heads, dim;
  WeightType type;
  void *to;
};

// All by one index of `count` rows, each of which is there.
void GatherRows(const std::vector<RowGather> &gathers, const int32_t *index, int64_t count);

}  // namespace anneal

#endif  // ANNEAL_GATHER_ROWS_H_
