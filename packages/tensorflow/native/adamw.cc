// Loops over values become vectors.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3")
#endif

#include "adamw.h"

#include <algorithm>
#include <cmath>

#include "helpers.h"

namespace anneal {
namespace {

// Values that a thread takes at a time.
constexpr int64_t kTogether = 1 << 14;

// Calls work(tensor, from, count) for all of their values.
template <typename Tensor, typename Work>
void ForParts(const std::vector<Tensor> &tensors, const Work &work) {
  struct Part {
    size_t tensor;
    int64_t from;
  };
  std::vector<Part> parts;
  for (size_t i = 0; i < tensors.size(); i++)
    for (int64_t from = 0; from < tensors[i].count; from += kTogether) parts.push_back({i, from});
  RunWithHelpers(parts.size(), [&](int64_t i) {
    const auto &[tensor, from] = parts[i];
    work(i, tensors[tensor], from, std::min(kTogether, tensors[tensor].count - from));
  });
}

void Step(const AdamScalars &s, const float *__restrict parameter, const float *__restrict gradient, float *__restrict m,
          float *__restrict v, float *__restrict next, int64_t count) {
  const float rest1 = 1 - s.beta1, rest2 = 1 - s.beta2;
  for (int64_t i = 0; i < count; i++) {
    const float g = gradient[i] * s.clip;
    m[i] = m[i] * s.beta1 + g * rest1;
    v[i] = v[i] * s.beta2 + g * g * rest2;
    next[i] = parameter[i] * s.decay - m[i] * s.step / (std::sqrt(v[i] * s.v_factor) + s.eps);
  }
}

double SumOfSquares(const float *values, int64_t count) {
  constexpr int kLanes = 8;
  double sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; lane++) sums[lane] += static_cast<double>(values[i + lane]) * values[i + lane];
  for (; i < count; i++) sums[0] += static_cast<double>(values[i]) * values[i];
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace

void AdamStep(const std::vector<AdamTensor> &tensors, const AdamScalars &scalars) {
  ForParts(tensors, [&](int64_t, const AdamTensor &t, int64_t from, int64_t count) {
    Step(scalars, t.parameter + from, t.gradient + from, t.m + from, t.v + from, t.next + from, count);
  });
}

double SquaredNorm(const std::vector<FloatSpan> &tensors) {
  int64_t parts = 0;
  for (const FloatSpan &tensor : tensors) parts += (tensor.count + kTogether - 1) / kTogether;
  // Added up in their order, whoever computed them.
  std::vector<double> sums(parts);
  ForParts(tensors, [&](int64_t i, const FloatSpan &t, int64_t from, int64_t count) { sums[i] = SumOfSquares(t.values + from, count); });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace anneal
