// How JavaScript calls GatherRows. Included by anneal_extension.cc, whose helpers it uses.

#include "device_tensors.h"
#include "gather_rows.h"

namespace tfnodejs {
namespace {

// gatherRows(ids of each gather's parts in turn, parts of each gather, index, dims between heads and dim, whether to make bfloat16)
// -> ids of what each gather makes.
napi_value GatherRows(napi_env env, napi_callback_info info) {
  napi_value args[5];
  if (!Args(env, info, args)) return nullptr;
  const std::vector<int32_t> ids = Ints(env, args[0]), index = Ints(env, args[2]), middle = Ints(env, args[3]);
  const int32_t parts = Int(env, args[1]);
  const bool narrow = Bool(env, args[4]);
  DeviceTensors tensors(GetTFJSBackend(env));
  if (parts < 1 || ids.size() % parts != 0) return Fail(env, "gatherRows: ids are incomplete");
  int64_t count = 1;
  for (const int32_t size : middle) count *= size;
  if (index.empty() || count != static_cast<int64_t>(index.size())) return Fail(env, "gatherRows: the index does not fit the shape");
  const int32_t least = *std::min_element(index.begin(), index.end()), most = *std::max_element(index.begin(), index.end());

  std::vector<anneal::RowGather> gathers;
  for (size_t at = 0; at < ids.size(); at += parts) {
    anneal::RowGather gather{{}, 0, 0, narrow ? anneal::WeightType::kBfloat16 : anneal::WeightType::kFloat32, nullptr};
    int64_t rows = 0;
    for (int32_t i = 0; i < parts; i++) {
      gather.parts.push_back(tensors.Rows(ids[at + i], narrow, &gather.heads, &gather.dim));
      rows += gather.parts.back().rows;
    }
    for (const int32_t row : {least, most})
      if (row < 0 || row >= rows) tensors.Refuse("row " + std::to_string(row) + " is not among " + std::to_string(rows));
    gathers.push_back(gather);
    if (tensors.has_failed()) return Fail(env, "gatherRows: " + tensors.failure());
  }

  std::vector<TF_Tensor *> made;
  for (anneal::RowGather &gather : gathers) {
    std::vector<int64_t> dims{gather.heads};
    dims.insert(dims.end(), middle.begin(), middle.end());
    dims.push_back(gather.dim);
    made.push_back(Allocate(narrow ? TF_BFLOAT16 : TF_FLOAT, dims));
    gather.to = TF_TensorData(made.back());
  }
  anneal::GatherRows(gathers, index.data(), count);
  return PlaceAll(env, made);
}

}  // namespace
}  // namespace tfnodejs
