// One decode step through all layers of a model whose layers are Llama's: norm, attention with rotary positions to what a cache holds,
// norm, gated MLP; with or without biases and norms of queries and keys; every row with an adapter of its own, or none. What a step
// computes between its products is so little that calling it op by op would take longer than doing it.
//
// A row's result does not depend on the others.

#ifndef ANNEAL_DECODE_LAYERS_H_
#define ANNEAL_DECODE_LAYERS_H_

#include <cstdint>
#include <vector>

#include "skinny_matmul.h"

namespace anneal {

struct DecodeShape {
  int64_t rows, hidden, heads, kv_heads, head_dim, intermediate;
  // Positions that the two parts of the cache have room for, and the recent one that this step writes.
  int64_t capacity, recent, place;
  float eps, attention_scale;
};

// The matrices of a layer, which adapters adapt.
enum Module { kQ, kK, kV, kO, kGate, kUp, kDown, kModules };

// Columns and rows of a module's matrix.
int64_t InFeatures(const DecodeShape &shape, int module);
int64_t OutFeatures(const DecodeShape &shape, int module);

struct LayerWeights {
  const float *attn_norm, *mlp_norm;
  struct {
    const void *data;
    WeightType type;
  } matrices[kModules];
  // Of queries, keys and values, and norms of queries' and keys' heads; null where there are none.
  const float *biases[3], *head_norms[2];
};

// [kv_heads, rows, capacity or recent, head_dim]
struct LayerCache {
  const float *past_keys, *past_values;
  float *recent_keys, *recent_values;
};

// y += scale · (x aᵀ) b: a [rank, in], b [rank, out]; rank 0 where a module is not adapted.
struct LowRank {
  const float *a, *b;
  int64_t rank;
};

struct Adapter {
  float scale;
  // kModules for each layer.
  std::vector<LowRank> modules;
};

struct DecodeInputs {
  // Of each row's position: [rows, head_dim / 2].
  const float *cos, *sin;
  // See AttentionInputs.
  const float *past_mask, *recent_mask;
  std::vector<LayerWeights> layers;
  std::vector<LayerCache> caches;
  std::vector<Adapter> adapters;
  // Index into `adapters`, or -1.
  const int32_t *adapter_of_row;
};

// x [rows, hidden] becomes what leaves the last layer; the caches' recent keys and values at `place` become this step's.
void DecodeLayers(const DecodeShape &shape, const DecodeInputs &inputs, float *x);

// `count` rows of a table in which a row has `width` values, as kept, widened to y.
void WidenRows(const void *table, WeightType type, int64_t width, const int32_t *rows, int64_t count, float *y);

}  // namespace anneal

#endif  // ANNEAL_DECODE_LAYERS_H_
