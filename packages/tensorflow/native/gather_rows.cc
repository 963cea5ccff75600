#include "gather_rows.h"

#include <algorithm>
#include <cstring>

#include "helpers.h"
#include "machines.h"

namespace anneal {
namespace {

template <typename To, typename From>
void Copy(const From *from, int64_t count, To *to) {
  if constexpr (sizeof(To) == sizeof(From))
    memcpy(to, from, count * sizeof(To));
  else
    for (int64_t i = 0; i < count; i++) to[i] = Narrow(from[i]);
}

template <typename To>
void GatherHead(const RowGather &gather, int64_t head, const int32_t *index, int64_t count) {
  To *to = static_cast<To *>(gather.to) + head * count * gather.dim;
  for (int64_t i = 0; i < count;) {
    int64_t row = index[i];
    const RowPart *part = gather.parts.data();
    while (row >= part->rows) row -= (part++)->rows;
    // Rows that follow each other there as here.
    int64_t run = 1;
    while (i + run < count && row + run < part->rows && index[i + run] == index[i] + run) run++;
    const int64_t from = (head * part->rows + row) * gather.dim;
    if (sizeof(To) == sizeof(uint16_t) && part->type == WeightType::kFloat32)
      Copy(static_cast<const float *>(part->values) + from, run * gather.dim, to + i * gather.dim);
    else
      Copy(static_cast<const To *>(part->values) + from, run * gather.dim, to + i * gather.dim);
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
    if (at % heads >= gather.heads) return;
    if (gather.type == WeightType::kBfloat16)
      GatherHead<uint16_t>(gather, at % heads, index, count);
    else
      GatherHead<float>(gather, at % heads, index, count);
  });
}

}  // namespace anneal
