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

// Says what TensorFlow refused while an op was made known.
inline void Check(const char *name, const TF_Status *status) {
  if (TF_GetCode(status) != TF_OK) fprintf(stderr, "%s: %s\n", name, TF_Message(status));
}

}  // namespace anneal

#endif  // ANNEAL_KERNEL_API_H_
