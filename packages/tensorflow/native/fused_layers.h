// Tokens through all layers of a model whose layers are Llama's, see llama_layer.h: they attend to what is kept of their sequence and to what
// comes with them. Each row is a token, with an adapter of its own, or none: decode steps have one row of each sequence, prompts have as many
// as they are long.
//
// What few rows compute between their products is so little that calling it op by op would take longer than doing it. A row's result does
// not depend on the rows that it does not see.

#ifndef ANNEAL_FUSED_LAYERS_H_
#define ANNEAL_FUSED_LAYERS_H_

#include <cstdint>
#include <vector>

#include "llama_layer.h"
#include "low_rank.h"

namespace anneal {

struct FusedShape : LayerSizes {
  int64_t rows;
  // Positions of the cache's two parts: those that are only read, and those among which this call's are.
  int64_t past, recent;
  float eps, attention_scale;
  // Whether matrices in bfloat16 are multiplied by x in bfloat16, and whether the cache is in bfloat16.
  bool narrow, narrow_cache;
};

// Where a row looks, and where its key and value go; as the call takes them. Neighbours of one sequence follow its order, and each sees
// the one before it.
struct RowPlace {
  int32_t past_begin, past_end, recent_begin, recent_end, own;
};

// [kv_heads, past or recent, head_dim], in float32 or bfloat16; no past where nobody looks there.
struct LayerCache {
  const void *past_keys, *past_values;
  void *recent_keys, *recent_values;
};

struct FusedInputs {
  // Of each row's position: [rows, head_dim / 2].
  const float *cos, *sin;
  // Of each row.
  const RowPlace *places;
  std::vector<LayerWeights> layers;
  std::vector<LayerCache> caches;
  // With kModules for each layer.
  std::vector<const Adapter *> adapters;
  // Index into `adapters`, or -1.
  const int32_t *adapter_of_row;
};

// x [rows, hidden] becomes what leaves the last layer; the caches' recent keys and values become the rows' where those have their place.
void FusedLayers(const FusedShape &shape, const FusedInputs &inputs, float *x);

// `count` rows of a table in which a row has `width` values, as kept, widened to y.
void WidenRows(const void *table, WeightType type, int64_t width, const int32_t *rows, int64_t count, float *y);

}  // namespace anneal

#endif  // ANNEAL_FUSED_LAYERS_H_
