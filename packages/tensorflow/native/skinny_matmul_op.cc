#include "skinny_matmul_op.h"

#include <cstdio>
#include <string>

#include "kernel_api.h"
#include "skinny_matmul.h"

namespace anneal {
namespace {

constexpr char kName[] = "AnnealSkinnyMatmul";

// [..., k], [..., n, k] -> [..., n]
void InferShape(TF_ShapeInferenceContext *context, TF_Status *status) { InferLastDimension(context, 1, -2, -1, status); }

void Compute(TF_OpKernelContext *context, TF_Status *status) {
  const Input x(context, 0, status);
  if (TF_GetCode(status) != TF_OK) return;
  const Input w(context, 1, status);
  if (TF_GetCode(status) != TF_OK) return;
  const int64_t k = x.Dim(1), n = w.Dim(2), m = TF_TensorElementCount(x.tensor()) / (k > 0 ? k : 1);
  const bool packed = TF_TensorType(w.tensor()) == TF_INT8;
  const int64_t stored = packed ? k + static_cast<int64_t>(sizeof(float)) : k;
  if (k == 0 || w.Dim(1) != stored || TF_TensorElementCount(w.tensor()) != n * stored) {
    TF_SetStatus(status, TF_INVALID_ARGUMENT, "AnnealSkinnyMatmul takes x [..., k] and w [n, k], or [n, k + 4] in int8");
    return;
  }
  int64_t shape[8];
  const int rank = TF_NumDims(x.tensor());
  for (int i = 0; i < rank; i++) shape[i] = TF_Dim(x.tensor(), i);
  shape[rank - 1] = n;
  TF_Tensor *y = TF_AllocateOutput(context, 0, TF_FLOAT, shape, rank, m * n * sizeof(float), status);
  if (TF_GetCode(status) != TF_OK) return;
  const WeightType type = packed                                         ? WeightType::kInt8
                          : TF_TensorType(w.tensor()) == TF_BFLOAT16 ? WeightType::kBfloat16
                                                                     : WeightType::kFloat32;
  SkinnyMatmul({x.data<float>(), w.data<void>(), type, static_cast<float *>(TF_TensorData(y)), m, k, n});
  TF_DeleteTensor(y);
}

// What XLA calls: `config` holds "type m k n", since buffers come without their shapes.
void XlaCall(void *y, const void **inputs, const char *config, size_t length, void *) {
  int type = 0;
  long long m = 0, k = 0, n = 0;
  const std::string text(config, length);
  if (sscanf(text.c_str(), "%d %lld %lld %lld", &type, &m, &k, &n) != 4) return;
  SkinnyMatmul({static_cast<const float *>(inputs[0]), inputs[1], static_cast<WeightType>(type), static_cast<float *>(y), m, k, n});
}

}  // namespace

void RegisterSkinnyMatmul() {
  TF_OpDefinitionBuilder *op = TF_NewOpDefinitionBuilder(kName);
  TF_OpDefinitionBuilderAddInput(op, "x: float");
  TF_OpDefinitionBuilderAddInput(op, "w: T");
  TF_OpDefinitionBuilderAddOutput(op, "y: float");
  TF_OpDefinitionBuilderAddAttr(op, "T: {float, bfloat16, int8}");
  TF_OpDefinitionBuilderSetShapeInferenceFunction(op, InferShape);
  RegisterOp(kName, op, ComputeOrFail<Compute>, XlaCall);
}

}  // namespace anneal
