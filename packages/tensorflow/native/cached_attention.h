// Attention of one query per sequence over what a cache holds, as a decode step needs it: softmax(q kᵀ + mask) v, where q is already
// scaled. A general product would be called for each head of each sequence, and takes longer to begin than these few rows take.
//
// A sequence's result does not depend on the others, nor on how much of the cache is masked.

#ifndef ANNEAL_CACHED_ATTENTION_H_
#define ANNEAL_CACHED_ATTENTION_H_

#include <cstdint>

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

// Of one head's queries of one sequence: q [group, key_dim], y [group, value_dim].
void AttendOne(const AttentionShape &shape, const AttentionInputs &inputs, int64_t head, int64_t slot, const float *q, float *y);

// Of all: q [heads, slots, group, key_dim], y [heads, slots, group, value_dim].
void CachedAttention(const AttentionShape &shape, const AttentionInputs &inputs, const float *q, float *y);

}  // namespace anneal

#endif  // ANNEAL_CACHED_ATTENTION_H_
