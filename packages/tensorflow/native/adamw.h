// AdamW over many tensors at once (Loshchilov & Hutter 2019, arXiv:1711.05101). An adapter has hundreds of small ones: op by op each
// reads and writes all of its values many times.

#ifndef ANNEAL_ADAMW_H_
#define ANNEAL_ADAMW_H_

#include <cstdint>
#include <vector>

namespace anneal {

struct AdamTensor {
  const float *parameter, *gradient;
  // Change in place.
  float *m, *v;
  float *next;
  int64_t count;
};

// decay: what is left of parameters. step: the learning rate over m's bias. v_factor: one over v's bias.
struct AdamScalars {
  float clip, beta1, beta2, decay, step, v_factor, eps;
};

void AdamStep(const std::vector<AdamTensor> &tensors, const AdamScalars &scalars);

struct FloatSpan {
  const float *values;
  int64_t count;
};

// The sum of all squares.
double SquaredNorm(const std::vector<FloatSpan> &tensors);

}  // namespace anneal

#endif  // ANNEAL_ADAMW_H_
