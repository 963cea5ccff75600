#include "cached_attention_op.h"

#include <cstdio>
#include <string>
#include <vector>

#include "cached_attention.h"
#include "kernel_api.h"

namespace anneal {
namespace {

constexpr char kName[] = "AnnealCachedAttention";
constexpr int kWithoutSinks = 7, kWithSinks = 8;

// [heads, slots, group, key_dim] and values [heads, slots, capacity, value_dim] -> [heads, slots, group, value_dim]
void InferShape(TF_ShapeInferenceContext *context, TF_Status *status) { InferLastDimension(context, 2, -1, 4, status); }

// All but the queries, which come first.
AttentionInputs InputsOf(const float *const *in, bool has_sinks) {
  return {in[1], in[2], in[3], in[4], in[5], in[6], has_sinks ? in[7] : nullptr};
}

// How many values each input has to have.
std::vector<int64_t> Sizes(const AttentionShape &s) {
  const int64_t rows = s.heads * s.slots;
  return {rows * s.group * s.key_dim,      rows * s.capacity * s.key_dim,  rows * s.capacity * s.value_dim,
          s.slots * s.capacity,            rows * s.recent * s.key_dim,    rows * s.recent * s.value_dim,
          s.slots * s.recent,              s.heads * s.group};
}

void Compute(TF_OpKernelContext *context, TF_Status *status) {
  const int count = TF_NumInputs(context);
  std::vector<Input> inputs;
  inputs.reserve(count);
  std::vector<const float *> data;
  for (int i = 0; i < count; i++) {
    inputs.emplace_back(context, i, status);
    if (TF_GetCode(status) != TF_OK) return;
    data.push_back(inputs.back().data<float>());
  }
  bool fits = count == kWithoutSinks || count == kWithSinks;
  for (const int i : {0, 1, 2, 4, 5}) fits = fits && TF_NumDims(inputs[i].tensor()) == 4;
  AttentionShape shape{};
  if (fits) {
    const Input &q = inputs[0], &values = inputs[2], &recent = inputs[4];
    shape = {q.Dim(4), q.Dim(3), q.Dim(2), q.Dim(1), values.Dim(1), values.Dim(2), recent.Dim(2)};
    const std::vector<int64_t> sizes = Sizes(shape);
    for (int i = 0; i < count; i++) fits = fits && TF_TensorElementCount(inputs[i].tensor()) == sizes[i];
  }
  if (!fits) {
    TF_SetStatus(status, TF_INVALID_ARGUMENT, "AnnealCachedAttention was given tensors whose shapes do not fit together");
    return;
  }
  const int64_t dims[] = {shape.heads, shape.slots, shape.group, shape.value_dim};
  const size_t bytes = shape.heads * shape.slots * shape.group * shape.value_dim * sizeof(float);
  TF_Tensor *y = TF_AllocateOutput(context, 0, TF_FLOAT, dims, 4, bytes, status);
  if (TF_GetCode(status) != TF_OK) return;
  CachedAttention(shape, InputsOf(data.data(), count == kWithSinks), data[0], static_cast<float *>(TF_TensorData(y)));
  TF_DeleteTensor(y);
}

// What XLA calls: `config` holds the numbers of AttentionShape and whether there are sinks, since buffers come without their shapes.
void XlaCall(void *y, const void **inputs, const char *config, size_t length, void *) {
  long long n[7];
  int has_sinks = 0;
  const std::string text(config, length);
  if (sscanf(text.c_str(), "%lld %lld %lld %lld %lld %lld %lld %d", n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6,
             &has_sinks) != 8)
    return;
  const float *const *data = reinterpret_cast<const float *const *>(inputs);
  CachedAttention({n[0], n[1], n[2], n[3], n[4], n[5], n[6]}, InputsOf(data, has_sinks != 0), data[0], static_cast<float *>(y));
}

}  // namespace

void RegisterCachedAttention() {
  TF_OpDefinitionBuilder *op = TF_NewOpDefinitionBuilder(kName);
  TF_OpDefinitionBuilderAddInput(op, "inputs: N * float");
  TF_OpDefinitionBuilderAddOutput(op, "y: float");
  TF_OpDefinitionBuilderAddAttr(op, "N: int >= 7");
  TF_OpDefinitionBuilderSetShapeInferenceFunction(op, InferShape);
  RegisterOp(kName, op, ComputeOrFail<Compute>, XlaCall);
}

}  // namespace anneal
