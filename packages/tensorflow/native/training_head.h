// A model's last step in training: hidden rows to log-probabilities of given targets, and back. Logits over the whole vocabulary exist for
// some hundred rows at a time; what is kept of them for the gradient are their exponentials, each panel's beside its own largest.

#ifndef ANNEAL_TRAINING_HEAD_H_
#define ANNEAL_TRAINING_HEAD_H_

#include <cstdint>

#include "skinny_matmul.h"

namespace anneal {

struct TrainingHeadInputs {
  int64_t rows, hidden, vocab;
  // After the final norm, [rows, hidden].
  const float *h;
  // [vocab, hidden]
  const void *weight;
  WeightType type;
  // A [rank, hidden] and B [vocab, rank]; rank 0 where the head is not adapted.
  const float *a, *b;
  int64_t rank;
  float scale;
  // [rows, k]
  const int32_t *targets;
  int64_t k;
  // [rows, k]; null where no gradient is wanted.
  const float *dlogprobs;
  // Whether products are of bfloat16; their sums are float32.
  bool narrow;
};

// Gradients of Σ dlogprobs · logprobs: dh [rows, hidden], and of A and B, to which they are added.
struct TrainingHeadResults {
  // [rows, k]
  float *logprobs;
  float *dh, *da, *db;
};

void TrainingHead(const TrainingHeadInputs &inputs, const TrainingHeadResults &results);

}  // namespace anneal

#endif  // ANNEAL_TRAINING_HEAD_H_
