// How JavaScript calls TrainingForward and TrainingBackward. Included by anneal_extension.cc, whose helpers it uses.

#include "device_tensors.h"
#include "heap.h"
#include "training_layer.h"

namespace tfnodejs {
namespace {

// What both calls are given; see TrainingLayerCall in binding.ts.
struct TrainingCall {
  anneal::TrainingShape shape;
  anneal::TrainingInputs in;
  const float *x;
};

// False after a failure, which is then JavaScript's.
bool ReadTrainingCall(napi_env env, napi_value call, DeviceTensors *tensors, TrainingCall *to) {
  const auto of = [&](const char *name) { return Property(env, call, name); };
  const auto refuse = [&](const char *problem) {
    Fail(env, std::string("training layer: ") + problem);
    return false;
  };
  const std::vector<int32_t> sizes = Ints(env, of("sizes")), weights = Ints(env, of("weights")), modules = Ints(env, of("modules")),
                             ranks = Ints(env, of("ranks"));
  const size_t adapters = ranks.size() / anneal::kModules;
  if (sizes.size() != 8 || weights.size() != kIdsOfLayer || adapters < 1 || ranks.size() != adapters * anneal::kModules ||
      modules.size() != 2 * ranks.size())
    return refuse("sizes or ids are missing");
  for (const int32_t size : sizes)
    if (size < 1) return refuse("sizes are positive");
  to->shape = {{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]},
               sizes[5],
               sizes[6],
               sizes[7],
               static_cast<float>(Double(env, of("normEps"))),
               static_cast<float>(Double(env, of("attentionScale"))),
               Bool(env, of("bfloat16Products"))};
  const anneal::TrainingShape &shape = to->shape;
  if (shape.heads % shape.kv_heads != 0 || shape.head_dim % 2 != 0 || shape.hidden % 2 != 0 || shape.intermediate % 2 != 0)
    return refuse("sizes are odd, or do not fit together");
  anneal::TrainingInputs &in = to->in;
  in.weights = WeightsOf(weights.data(), shape, tensors);
  const float *scales = Values<float>(env, of("scales"), ranks.size(), tensors, "scales");
  in.adapters.resize(adapters);
  for (size_t i = 0; i < ranks.size() && !tensors->has_failed(); i++) {
    const int module = i % anneal::kModules;
    anneal::TrainedModule &own = in.adapters[i / anneal::kModules][module];
    own = {nullptr, nullptr, ranks[i], scales[i], nullptr, nullptr};
    if (own.rank < 1) continue;
    own.a = tensors->Floats(modules[2 * i], own.rank * anneal::InFeatures(shape, module), "an adapter's A");
    own.b = tensors->Floats(modules[2 * i + 1], own.rank * anneal::OutFeatures(shape, module), "an adapter's B");
    if (!own.a || !own.b) tensors->Refuse("an adapter's A or B is missing");
  }
  in.adapter_of_row = tensors->Integers(Int(env, of("adapterOfRow")), shape.batch, "adapterOfRow");
  for (int64_t i = 0; in.adapter_of_row && i < shape.batch; i++)
    if (in.adapter_of_row[i] < 0 || in.adapter_of_row[i] >= static_cast<int32_t>(adapters)) tensors->Refuse("a row's adapter is missing");
  if (!in.adapter_of_row && adapters > 1) tensors->Refuse("adapterOfRow is missing");
  in.cos = tensors->Floats(Int(env, of("cos")), shape.time * shape.head_dim / 2, "cos");
  in.sin = tensors->Floats(Int(env, of("sin")), shape.time * shape.head_dim / 2, "sin");
  to->x = tensors->Floats(Int(env, of("x")), shape.rows() * shape.hidden, "x");
  if (!in.cos || !in.sin || !to->x) tensors->Refuse("cos, sin or x is missing");
  if (tensors->has_failed()) return refuse(tensors->failure().c_str());
  return true;
}

// float32 of one dimension, for as long as a pass takes.
TF_Tensor *AllocateBlock(int64_t count) {
  const size_t bytes = count * sizeof(float);
  return TF_NewTensor(TF_FLOAT, &count, 1, anneal::TakeBlock(bytes), bytes, [](void *data, size_t, void *) { anneal::GiveBlock(data); }, nullptr);
}

// trainingForward(call, keeps) -> id of y, as x; where it `keeps` what the backward pass wants, the id of that and how many floats it is.
napi_value TrainingForward(napi_env env, napi_callback_info info) {
  napi_value args[2];
  if (!Args(env, info, args)) return nullptr;
  DeviceTensors tensors(GetTFJSBackend(env));
  TrainingCall call{};
  if (!ReadTrainingCall(env, args[0], &tensors, &call)) return nullptr;
  const anneal::TrainingShape &shape = call.shape;
  TF_Tensor *y = Allocate(TF_FLOAT, {shape.batch, shape.time, shape.hidden});
  const int64_t count = anneal::KeptByTraining(shape, call.in);
  TF_Tensor *kept = Bool(env, args[1]) ? AllocateBlock(count) : nullptr;
  anneal::TrainingForward(shape, call.in, call.x, static_cast<float *>(TF_TensorData(y)),
                          kept ? static_cast<float *>(TF_TensorData(kept)) : nullptr);
  std::vector<napi_value> ids{Place(env, y)};
  if (kept) ids.insert(ids.end(), {Place(env, kept), Number(env, count)});
  return Numbers(env, ids);
}

// trainingBackward(call, kept or -1, dy, needs dx) -> tensor ids: dx where it is needed, then the gradients of A and B of each adapter's
// modules, as those are.
napi_value TrainingBackward(napi_env env, napi_callback_info info) {
  napi_value args[4];
  if (!Args(env, info, args)) return nullptr;
  DeviceTensors tensors(GetTFJSBackend(env));
  TrainingCall call{};
  if (!ReadTrainingCall(env, args[0], &tensors, &call)) return nullptr;
  const anneal::TrainingShape &shape = call.shape;
  const float *kept = tensors.Floats(Int(env, args[1]), anneal::KeptByTraining(shape, call.in), "kept");
  const float *dy = tensors.Floats(Int(env, args[2]), shape.rows() * shape.hidden, "dy");
  if (!dy) tensors.Refuse("dy is missing");
  if (tensors.has_failed()) return Fail(env, "training layer: " + tensors.failure());
  std::vector<TF_Tensor *> made;
  const auto make = [&](const std::vector<int64_t> &dims) {
    made.push_back(Allocate(TF_FLOAT, dims));
    return static_cast<float *>(TF_TensorData(made.back()));
  };
  float *dx = Bool(env, args[3]) ? make({shape.batch, shape.time, shape.hidden}) : nullptr;
  for (auto &modules : call.in.adapters)
    for (int module = 0; module < anneal::kModules; module++) {
      anneal::TrainedModule &own = modules[module];
      if (own.rank < 1) continue;
      const int64_t in = anneal::InFeatures(shape, module), out = anneal::OutFeatures(shape, module);
      own.da = make({own.rank, in});
      own.db = make({out, own.rank});
      memset(own.da, 0, own.rank * in * sizeof(float));
      memset(own.db, 0, own.rank * out * sizeof(float));
    }
  anneal::TrainingBackward(shape, call.in, call.x, kept, dy, dx);
  return PlaceAll(env, made);
}

}  // namespace
}  // namespace tfnodejs
