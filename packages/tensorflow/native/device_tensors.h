// Tensors and numbers that JavaScript gives our own calls, checked. Included by anneal_extension.cc, whose helpers it uses.

#ifndef ANNEAL_DEVICE_TENSORS_H_
#define ANNEAL_DEVICE_TENSORS_H_

#include "adamw.h"
#include "gather_rows.h"
#include "llama_layer.h"
#include "skinny_matmul.h"

namespace tfnodejs {
namespace {

// Looks tensors up by their ids; remembers what was wrong first.
class DeviceTensors {
 public:
  explicit DeviceTensors(TFJSBackend *backend) : backend_(backend) {}

  bool has_failed() const { return !failure_.empty(); }
  const std::string &failure() const { return failure_; }

  // `count` float32 values; null for an id below zero.
  float *Floats(int32_t id, int64_t count, const char *what) {
    if (id < 0) return nullptr;
    TFE_TensorHandle *handle = Find(id, what);
    if (!handle) return nullptr;
    if (TFE_TensorHandleDataType(handle) != TF_FLOAT || Count(handle) != count) {
      Refuse(std::string(what) + " is not float32 of " + std::to_string(count) + " values");
      return nullptr;
    }
    return static_cast<float *>(Data(handle));
  }

  // `count` values in bfloat16 or float32; null for an id below zero.
  void *Positions(int32_t id, int64_t count, bool narrow, const char *what) {
    if (!narrow || id < 0) return Floats(id, count, what);
    TFE_TensorHandle *handle = Find(id, what);
    if (!handle) return nullptr;
    if (TFE_TensorHandleDataType(handle) == TF_BFLOAT16 && Count(handle) == count) return Data(handle);
    Refuse(std::string(what) + " is not bfloat16 of " + std::to_string(count) + " values");
    return nullptr;
  }

  // All values of a float32 tensor.
  anneal::FloatSpan AllFloats(int32_t id, const char *what) {
    TFE_TensorHandle *handle = Find(id, what);
    if (!handle) return {};
    const int64_t count = Count(handle);
    return {Floats(id, count, what), count};
  }

  std::vector<int64_t> Dims(int32_t id) {
    std::vector<int64_t> dims;
    TFE_TensorHandle *handle = Find(id, "a tensor");
    const int rank = handle ? TFE_TensorHandleNumDims(handle, status_.status) : 0;
    for (int i = 0; i < rank; i++) dims.push_back(TFE_TensorHandleDim(handle, i, status_.status));
    return dims;
  }

  // `count` int32 values; null for an id below zero.
  const int32_t *Integers(int32_t id, int64_t count, const char *what) {
    if (id < 0) return nullptr;
    TFE_TensorHandle *handle = Find(id, what);
    if (!handle) return nullptr;
    if (TFE_TensorHandleDataType(handle) == TF_INT32 && Count(handle) == count) return static_cast<const int32_t *>(Data(handle));
    Refuse(std::string(what) + " is not int32 of " + std::to_string(count) + " values");
    return nullptr;
  }

  // A matrix [rows, columns] as it is kept; rows below zero: any number of them, which is returned in `rows`.
  const void *Matrix(int32_t id, int64_t *rows, int64_t columns, anneal::WeightType *type, const char *what) {
    TFE_TensorHandle *handle = Find(id, what);
    if (!handle) return nullptr;
    const TF_DataType dtype = TFE_TensorHandleDataType(handle);
    *type = dtype == TF_INT8       ? anneal::WeightType::kInt8
            : dtype == TF_BFLOAT16 ? anneal::WeightType::kBfloat16
                                   : anneal::WeightType::kFloat32;
    const int64_t stored = dtype == TF_INT8 ? columns + static_cast<int64_t>(sizeof(float)) : columns;
    const bool known = dtype == TF_INT8 || dtype == TF_BFLOAT16 || dtype == TF_FLOAT;
    const int64_t found = stored > 0 ? Count(handle) / stored : 0;
    if (!known || found * stored != Count(handle) || (*rows >= 0 && found != *rows)) {
      Refuse(std::string(what) + " is not a matrix of " + std::to_string(*rows) + " rows and " + std::to_string(columns) + " columns");
      return nullptr;
    }
    *rows = found;
    return Data(handle);
  }

  // float32 or, where it is taken, bfloat16 of [heads, ..., dim] as rows of heads; heads and dim of zero: any number of them, which is returned
  // there.
  anneal::RowPart Rows(int32_t id, bool takes_narrow, int64_t *heads, int64_t *dim) {
    TFE_TensorHandle *handle = Find(id, "a part");
    if (!handle) return {};
    const int rank = TFE_TensorHandleNumDims(handle, status_.status);
    const int64_t first = rank < 3 ? 0 : TFE_TensorHandleDim(handle, 0, status_.status);
    const int64_t last = rank < 3 ? 0 : TFE_TensorHandleDim(handle, rank - 1, status_.status);
    const bool fits = (*heads == 0 || *heads == first) && (*dim == 0 || *dim == last);
    const TF_DataType dtype = TFE_TensorHandleDataType(handle);
    const bool is_narrow = dtype == TF_BFLOAT16;
    if ((dtype != TF_FLOAT && !(takes_narrow && is_narrow)) || first < 1 || last < 1 || !fits) {
      Refuse(std::string("a part is not float32") + (takes_narrow ? " or bfloat16" : "") + " of [heads, ..., dim] like the others");
      return {};
    }
    *heads = first, *dim = last;
    return {Data(handle), is_narrow ? anneal::WeightType::kBfloat16 : anneal::WeightType::kFloat32, Count(handle) / (first * last)};
  }

  void Refuse(const std::string &failure) {
    if (failure_.empty()) failure_ = failure;
  }

 private:
  TFE_TensorHandle *Find(int32_t id, const char *what) {
    const auto entry = backend_->tfe_handle_map_.find(id);
    if (entry != backend_->tfe_handle_map_.end()) return entry->second;
    Refuse(std::string(what) + " is missing");
    return nullptr;
  }

  int64_t Count(TFE_TensorHandle *handle) { return TFE_TensorHandleNumElements(handle, status_.status); }

  void *Data(TFE_TensorHandle *handle) {
    void *data = TFE_TensorHandleDevicePointer(handle, status_.status);
    if (TF_GetCode(status_.status) != TF_OK) Refuse(TF_Message(status_.status));
    return data;
  }

  TFJSBackend *backend_;
  // One for all: making it takes longer than the calls that set it, and adapters have thousands of tensors.
  TF_AutoStatus status_;
  std::string failure_;
};

// Ids of a layer's weights, as layerWeightIds gives them: norms, matrices, biases, norms of heads.
constexpr int kIdsOfLayer = 2 + anneal::kModules + 3 + 2;

anneal::LayerWeights WeightsOf(const int32_t *ids, const anneal::LayerSizes &sizes, DeviceTensors *tensors) {
  anneal::LayerWeights layer{};
  layer.attn_norm = tensors->Floats(*ids++, sizes.hidden, "attnNorm");
  layer.mlp_norm = tensors->Floats(*ids++, sizes.hidden, "mlpNorm");
  if (!layer.attn_norm || !layer.mlp_norm) tensors->Refuse("a norm is missing");
  for (int module = 0; module < anneal::kModules; module++) {
    int64_t rows = anneal::OutFeatures(sizes, module);
    auto &matrix = layer.matrices[module];
    matrix.data = tensors->Matrix(*ids++, &rows, anneal::InFeatures(sizes, module), &matrix.type, "a weight");
  }
  for (int i = 0; i < 3; i++) layer.biases[i] = tensors->Floats(*ids++, anneal::OutFeatures(sizes, i), "a bias");
  for (int i = 0; i < 2; i++) layer.head_norms[i] = tensors->Floats(*ids++, sizes.head_dim, "a head norm");
  return layer;
}

template <typename T>
constexpr napi_typedarray_type kArrayOf = napi_float32_array;
template <>
constexpr napi_typedarray_type kArrayOf<double> = napi_float64_array;
template <>
constexpr napi_typedarray_type kArrayOf<int32_t> = napi_int32_array;

// A typed array of `count` values, where it lies.
template <typename T>
T *Values(napi_env env, napi_value array, size_t count, DeviceTensors *tensors, const char *what) {
  napi_typedarray_type type;
  size_t length = 0;
  void *data = nullptr;
  if (napi_get_typedarray_info(env, array, &type, &length, &data, nullptr, nullptr) == napi_ok && type == kArrayOf<T> && length == count)
    return static_cast<T *>(data);
  tensors->Refuse(std::string(what) + " is not a typed array of " + std::to_string(count) + " values");
  return nullptr;
}

double Double(napi_env env, napi_value value) {
  double number = 0;
  if (napi_get_value_double(env, value, &number) != napi_ok) Fail(env, "expected a number");
  return number;
}

}  // namespace
}  // namespace tfnodejs

#endif  // ANNEAL_DEVICE_TENSORS_H_
