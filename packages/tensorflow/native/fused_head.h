// What sampling reads off the hidden states that leave the last layer: norm, logits, the best token, and one that is drawn. A row's
// results do not depend on the others.

#ifndef ANNEAL_FUSED_HEAD_H_
#define ANNEAL_FUSED_HEAD_H_

#include <cstdint>
#include <vector>

#include "low_rank.h"
#include "skinny_matmul.h"

namespace anneal {

struct HeadInputs {
  // [rows, hidden], the norm's weight [hidden], and the matrix [vocab, hidden].
  const float *x, *norm;
  const void *matrix;
  WeightType type;
  int64_t rows, hidden, vocab;
  float eps;
  // Whether a matrix in bfloat16 is multiplied by x in bfloat16.
  bool narrow;
  std::vector<const Adapter *> adapters;
  // Index into `adapters`, or -1.
  const int32_t *adapter_of_row;
  // Of each row: what its logits are divided by before a token is drawn, and the number in [0, 1) that draws it; none below zero.
  const float *temperatures;
  const double *draws;
};

// One value per row. `mass`: Σ exp((logit - best) / temperature); `log_total`: log Σ exp(logit).
struct HeadResults {
  int32_t *best, *drawn;
  float *best_logit, *drawn_logit, *log_total, *mass;
};

// logits [rows, vocab].
void FusedHead(const HeadInputs &inputs, float *logits, const HeadResults &results);

}  // namespace anneal

#endif  // ANNEAL_FUSED_HEAD_H_
