// What kernels of our own need of TensorFlow and XLA, and its packages' headers leave out.

#ifndef ANNEAL_KERNEL_API_H_
#define ANNEAL_KERNEL_API_H_

#include <cstdint>
#include <cstdio>
#include <string>

#include "tensorflow/c/ops.h"
#include "tensorflow/c/tf_status.h"
#include "tensorflow/c/tf_tensor.h"

// From tensorflow/c/kernels.h, which includes a header that TensorFlow's package leaves out.
extern "C" {
struct TF_KernelBuilder;
struct TF_OpKernelConstruction;
struct TF_OpKernelContext;
TF_KernelBuilder *TF_NewKernelBuilder(const char *op, const char *device, void *(*create)(TF_OpKernelConstruction *),
                                      void (*compute)(void *, TF_OpKernelContext *), void (*destroy)(void *));
void TF_RegisterKernelBuilder(const char *name, TF_KernelBuilder *builder, TF_Status *status);
void TF_GetInput(TF_OpKernelContext *context, int index, TF_Tensor **tensor, TF_Status *status);
int TF_NumInputs(TF_OpKernelContext *context);
TF_Tensor *TF_AllocateOutput(TF_OpKernelContext *context, int index, TF_DataType dtype, const int64_t *dims, int rank,
                             size_t bytes, TF_Status *status);
void TF_OpKernelContext_Failure(TF_OpKernelContext *context, TF_Status *status);
}

// Exported by TensorFlow's library, but in none of the headers that come with it.
namespace xla {
class CustomCallTargetRegistry {
 public:
  static CustomCallTargetRegistry *Global();
  void Register(const std::string &symbol, void *address, const std::string &platform);
};
}  // namespace xla

namespace anneal {

class Input {
 public:
  Input(TF_OpKernelContext *context, int index, TF_Status *status) { TF_GetInput(context, index, &tensor_, status); }
  ~Input() {
    if (tensor_) TF_DeleteTensor(tensor_);
  }
  Input(Input &&other) : tensor_(other.tensor_) { other.tensor_ = nullptr; }
  // Counted from the end: 1 is the last.
  int64_t Dim(int back) const { return TF_Dim(tensor_, TF_NumDims(tensor_) - back); }
  TF_Tensor *tensor() const { return tensor_; }
  template <typename T>
  const T *data() const {
    return static_cast<const T *>(TF_TensorData(tensor_));
  }

 private:
  TF_Tensor *tensor_ = nullptr;
};

// The output's shape: that of the first input, whose last dimension gives way to dimensions `begin` to `end` of input `other`.
inline void InferLastDimension(TF_ShapeInferenceContext *context, int other, int64_t begin, int64_t end, TF_Status *status) {
  TF_ShapeHandle *x = TF_NewShapeHandle(), *w = TF_NewShapeHandle();
  TF_ShapeHandle *rows = TF_NewShapeHandle(), *columns = TF_NewShapeHandle(), *y = TF_NewShapeHandle();
  TF_ShapeInferenceContextGetInput(context, 0, x, status);
  if (TF_GetCode(status) == TF_OK) TF_ShapeInferenceContextGetInput(context, other, w, status);
  if (TF_GetCode(status) == TF_OK) TF_ShapeInferenceContextSubshape(context, x, 0, -1, rows, status);
  if (TF_GetCode(status) == TF_OK) TF_ShapeInferenceContextSubshape(context, w, begin, end, columns, status);
  if (TF_GetCode(status) == TF_OK) TF_ShapeInferenceContextConcatenateShapes(context, rows, columns, y, status);
  if (TF_GetCode(status) == TF_OK) TF_ShapeInferenceContextSetOutput(context, 0, y, status);
  for (TF_ShapeHandle *handle : {x, w, rows, columns, y}) TF_DeleteShapeHandle(handle);
}

// Of a function that sets a status, one that tells TensorFlow of it.
template <void (*kCompute)(TF_OpKernelContext *, TF_Status *)>
void ComputeOrFail(void *, TF_OpKernelContext *context) {
  TF_Status *status = TF_NewStatus();
  kCompute(context, status);
  if (TF_GetCode(status) != TF_OK) TF_OpKernelContext_Failure(context, status);
  TF_DeleteStatus(status);
}

// Makes an op known to TensorFlow, with its kernel for the CPU, and to XLA under the same name. `op` is complete, and used up.
inline void RegisterOp(const char *name, TF_OpDefinitionBuilder *op, void (*compute)(void *, TF_OpKernelContext *),
                       void (*xla_call)(void *y, const void **inputs, const char *config, size_t length, void *)) {
  TF_Status *status = TF_NewStatus();
  const auto check = [&] {
    if (TF_GetCode(status) != TF_OK) fprintf(stderr, "%s: %s\n", name, TF_Message(status));
  };
  TF_RegisterOpDefinition(op, status);
  check();
  TF_RegisterKernelBuilder(name, TF_NewKernelBuilder(name, "CPU", nullptr, compute, nullptr), status);
  check();
  TF_DeleteStatus(status);
  xla::CustomCallTargetRegistry::Global()->Register(name, reinterpret_cast<void *>(xla_call), "Host");
}

}  // namespace anneal

#endif  // ANNEAL_KERNEL_API_H_
