#ifndef ANNEAL_CACHED_ATTENTION_OP_H_
#define ANNEAL_CACHED_ATTENTION_OP_H_

namespace anneal {

// Makes CachedAttention known to TensorFlow as the op AnnealCachedAttention of the CPU, and to XLA as the call target of the same name.
// Inputs, in a list: q, past keys, values and mask, recent keys, values and mask, and the sinks where there are any. Call once,
// before graphs are built.
void RegisterCachedAttention();

}  // namespace anneal

#endif  // ANNEAL_CACHED_ATTENTION_OP_H_
