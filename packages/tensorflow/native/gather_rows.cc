#include "gather_rows.h"

#include <algorithm>
#include <cstring>

#include "helpers.h"

namespace anneal {
namespace {

void GatherHead(const RowGather &gather, int64_t head, const int32_t *index, int64_t count) {
  float *to = gather.to + head * count * gather.dim;
  for (int64_t i = 0; i < count;) {
    int64_t row = index[i];
    const RowPart *part = gather.parts.data();
    while (row >= part->rows) row -= (part++)->rows;
    // Rows that follow each other there as here.
    int64_t run = 1;
    while (i + run < count && row + run < part->rows && index[i + run] == index[i] + run) run++;
    memcpy(to + i * gather.dim, part->values + (head * part->rows + row) * gather.dim, run * gather.dim * sizeof(float));
    i += run;
  }
}

}  // namespace

void GatherRows(const std::vector<RowGather> &gathers, const int32_t *index, int64_t count) {
  int64_t values = 0, heads = 0;
  for (const RowGather &gather : gathers) {
    values += gather.heads * count * gather.dim;
    heads = std::max(heads, gather.heads);
  }
  ForEach(gathers.size() * heads, values, [&](int64_t at) {
    const RowGather &gather = gathers[at / heads];
    if (at % heads < gather.heads) GatherHead(gather, at % heads, index, count);
  });
}

}  // namespace anneal
