// Attention over what a cache holds: softmax(q kᵀ) v, where q is already scaled. A general product would be called for each head of each
// sequence, and takes longer to begin than these few rows take.
//
// A query's result does not depend on the others, nor on how much of the cache it does not see.

#ifndef ANNEAL_CACHED_ATTENTION_H_
#define ANNEAL_CACHED_ATTENTION_H_

#include <cstdint>

#include "skinny_matmul.h"

namespace anneal {

struct AttentionShape {
  // Heads of keys, sequences, and queries of each head.
  int64_t heads, slots, group;
  int64_t key_dim, value_dim;
  // Positions that the two parts of the cache have room for.
  int64_t capacity, recent;
};

// All dense and row by row. What is masked by less than kMasked is not looked at.
struct AttentionInputs {
  const float *past_keys, *past_values, *past_mask;    // [heads, slots, capacity, dim], [slots, capacity]
  const float *recent_keys, *recent_values, *recent_mask;  // The same of `recent` positions
  // A further logit for each query, which takes its share of the softmax and mixes nothing: [heads, group], or null.
  const float *sinks;
};

constexpr float kMasked = -5e8f;

// One query of every head of every sequence: q [heads, slots, group, key_dim], y [heads, slots, group, value_dim].
void CachedAttention(const AttentionShape &shape, const AttentionInputs &inputs, const float *q, float *y);

// Neighbouring positions of one head: [count, dim] each, in float32 or bfloat16 as those of all runs.
struct KeyRun {
  const void *keys, *values;
  int64_t count;
};

// Of the positions of all runs, those that a query sees.
struct Visible {
  int64_t begin, end;
};

// `queries` queries of one head see the same runs, each what `visible` says: q and y [queries, dim].
void AttendRuns(const KeyRun *runs, int64_t count, WeightType type, int64_t dim, const Visible *visible, int64_t queries, const float *q,
                float *y);

}  // namespace anneal

#endif  // ANNEAL_CACHED_ATTENTION_H_
