// How JavaScript calls AdamStep and SquaredNorm. Included by anneal_extension.cc, whose helpers it uses.

#include "adamw.h"
#include "device_tensors.h"

namespace tfnodejs {
namespace {

// squaredNorm(ids) -> the sum of all squares
napi_value SquaredNorm(napi_env env, napi_callback_info info) {
  napi_value args[1];
  if (!Args(env, info, args)) return nullptr;
  DeviceTensors tensors(GetTFJSBackend(env));
  std::vector<anneal::FloatSpan> spans;
  for (const int32_t id : Ints(env, args[0])) spans.push_back(tensors.AllFloats(id, "a tensor"));
  if (tensors.has_failed()) return Fail(env, "squaredNorm: " + tensors.failure());
  napi_value result = nullptr;
  napi_create_double(env, anneal::SquaredNorm(spans), &result);
  return result;
}

// adamStep(parameters, gradients, m, v, scalars) -> tensor ids of the next parameters; ids of tensors in turn, of which m and v change in
// place, and AdamScalars.
napi_value AdamStep(napi_env env, napi_callback_info info) {
  napi_value args[5];
  if (!Args(env, info, args)) return nullptr;
  std::vector<int32_t> ids[4];
  for (int i = 0; i < 4; i++) ids[i] = Ints(env, args[i]);
  for (int i = 1; i < 4; i++)
    if (ids[i].size() != ids[0].size()) return Fail(env, "adamStep: there must be as many of each");
  DeviceTensors tensors(GetTFJSBackend(env));
  const float *scalars = Values<float>(env, args[4], 7, &tensors, "scalars");
  std::vector<anneal::AdamTensor> steps;
  for (size_t i = 0; i < ids[0].size() && !tensors.has_failed(); i++) {
    const anneal::FloatSpan parameter = tensors.AllFloats(ids[0][i], "a parameter");
    const auto own = [&](int kind, const char *what) {
      float *values = tensors.Floats(ids[kind][i], parameter.count, what);
      if (!values) tensors.Refuse(std::string(what) + " is missing");
      return values;
    };
    steps.push_back({parameter.values, own(1, "a gradient"), own(2, "m"), own(3, "v"), nullptr, parameter.count});
  }
  if (tensors.has_failed()) return Fail(env, "adamStep: " + tensors.failure());
  std::vector<TF_Tensor *> made;
  for (size_t i = 0; i < steps.size(); i++) {
    made.push_back(Allocate(TF_FLOAT, tensors.Dims(ids[0][i])));
    steps[i].next = static_cast<float *>(TF_TensorData(made.back()));
  }
  anneal::AdamStep(steps, {scalars[0], scalars[1], scalars[2], scalars[3], scalars[4], scalars[5], scalars[6]});
  return PlaceAll(env, made);
}

}  // namespace
}  // namespace tfnodejs
