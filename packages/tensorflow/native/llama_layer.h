// What a layer of Llama's has: norm, attention with rotary positions, norm, gated MLP; with or without biases and norms of queries and keys.

#ifndef ANNEAL_LLAMA_LAYER_H_
#define ANNEAL_LLAMA_LAYER_H_

#include <cstdint>

#include "skinny_matmul.h"

namespace anneal {

struct LayerSizes {
  int64_t hidden, heads, kv_heads, head_dim, intermediate;
};

// The matrices of a layer, which adapters adapt.
enum Module { kQ, kK, kV, kO, kGate, kUp, kDown, kModules };

// Columns of a module's matrix.
inline int64_t InFeatures(const LayerSizes &sizes, int module) {
  if (module == kO) return sizes.heads * sizes.head_dim;
  return module == kDown ? sizes.intermediate : sizes.hidden;
}

// Rows of a module's matrix.
inline int64_t OutFeatures(const LayerSizes &sizes, int module) {
  if (module == kQ) return sizes.heads * sizes.head_dim;
  if (module == kK || module == kV) return sizes.kv_heads * sizes.head_dim;
  return module == kGate || module == kUp ? sizes.intermediate : sizes.hidden;
}

struct LayerWeights {
  const float *attn_norm, *mlp_norm;
  struct {
    const void *data;
    WeightType type;
  } matrices[kModules];
  // Of queries, keys and values, and norms of queries' and keys' heads; null where there are none.
  const float *biases[3], *head_norms[2];
};

}  // namespace anneal

#endif  // ANNEAL_LLAMA_LAYER_H_
