// A layer of Llama's forward and backward, for the training of adapters: see llama_layer.h.
//
// TensorFlow's ops multiply as well, but each reads and writes all of its values, and attention's matrix is kept from the forward pass to the
// backward one. Here what leaves a product is used while it is in the caches, sums stay in registers, and attention goes in blocks whose
// probabilities are computed again (Dao et al. 2022, arXiv:2205.14135).

#ifndef ANNEAL_TRAINING_LAYER_H_
#define ANNEAL_TRAINING_LAYER_H_

#include <array>
#include <cstdint>
#include <vector>

#include "llama_layer.h"

namespace anneal {

struct TrainingShape : LayerSizes {
  int64_t batch, time;
  // Positions that a query sees, its own included.
  int64_t window;
  float eps, attention_scale;
  // Whether products are of bfloat16; their sums are float32.
  bool narrow;

  int64_t rows() const { return batch * time; }
};

// Of one module of an adapter: A [rank, in], B [out, rank]; rank 0 where it is not adapted. Gradients have the same shapes.
struct TrainedModule {
  const float *a, *b;
  int64_t rank;
  float scale;
  float *da, *db;
};

struct TrainingInputs {
  LayerWeights weights;
  std::vector<std::array<TrainedModule, kModules>> adapters;
  // Of each sequence; null where all have the first.
  const int32_t *adapter_of_row;
  // [time, head_dim / 2]
  const float *cos, *sin;
};

// How many floats the forward pass keeps for the backward one.
int64_t KeptByTraining(const TrainingShape &shape, const TrainingInputs &inputs);

// y = layer(x), both [batch, time, hidden]; `kept` may be null.
void TrainingForward(const TrainingShape &shape, const TrainingInputs &inputs, const float *x, float *y, float *kept);

// Of dy, the gradient of y: the modules' gradients, and dx unless it is null. Without `kept` the forward pass is done again.
void TrainingBackward(const TrainingShape &shape, const TrainingInputs &inputs, const float *x, const float *kept, const float *dy, float *dx);

}  // namespace anneal

#endif  // ANNEAL_TRAINING_LAYER_H_
