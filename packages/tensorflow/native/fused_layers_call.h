// How JavaScript calls FusedLayers. Included by anneal_extension.cc, whose helpers it uses.
//
// Not an op of TensorFlow: it changes a cache in place, and takes hundreds of tensors.

#include "device_tensors.h"
#include "fused_layers.h"
#include "kept_adapters.h"

namespace tfnodejs {
namespace {

constexpr int kIdsOfCache = 4;

anneal::LayerCache CacheOf(const int32_t *ids, const anneal::FusedShape &shape, DeviceTensors *tensors) {
  void *parts[kIdsOfCache];
  for (int i = 0; i < kIdsOfCache; i++) {
    const int64_t positions = i < 2 ? shape.past : shape.recent;
    parts[i] = tensors->Positions(ids[i], shape.kv_heads * positions * shape.head_dim, shape.narrow_cache, "a part of the cache");
    if (!parts[i] && positions > 0) tensors->Refuse("a part of the cache is missing");
  }
  return {parts[0], parts[1], parts[2], parts[3]};
}

// Places as the call gives them, once all of them are in the cache.
const anneal::RowPlace *PlacesOf(const std::vector<int32_t> &values, const anneal::FusedShape &shape, DeviceTensors *tensors) {
  static_assert(sizeof(anneal::RowPlace) == 5 * sizeof(int32_t), "places are read where they lie");
  const auto *places = reinterpret_cast<const anneal::RowPlace *>(values.data());
  if (values.size() != static_cast<size_t>(shape.rows * 5)) {
    tensors->Refuse("places are not five for each row");
    return nullptr;
  }
  for (int64_t row = 0; row < shape.rows; row++) {
    const anneal::RowPlace &at = places[row];
    const bool in_past = at.past_begin >= 0 && at.past_begin <= at.past_end && at.past_end <= shape.past;
    const bool in_recent = at.recent_begin >= 0 && at.recent_begin <= at.own && at.own < at.recent_end && at.recent_end <= shape.recent;
    if (!in_past || !in_recent) tensors->Refuse("row " + std::to_string(row) + " looks beyond the cache, or not at itself");
  }
  return places;
}

// fusedLayers(call) -> tensor id of x [rows, hidden]; see FusedLayersCall in binding.ts.
napi_value FusedLayers(napi_env env, napi_callback_info info) {
  napi_value args[1];
  if (!Args(env, info, args)) return nullptr;
  const auto of = [&](const char *name) { return Property(env, args[0], name); };
  const std::vector<int32_t> sizes = Ints(env, of("sizes")), tokens = Ints(env, of("tokens")), places = Ints(env, of("places")),
                             weights = Ints(env, of("weights")), cache = Ints(env, of("cache")), adapters = Ints(env, of("adapters")),
                             rows = Ints(env, of("adapterOfRow"));
  TFJSBackend *backend = GetTFJSBackend(env);
  DeviceTensors tensors(backend);
  if (sizes.size() != 7 || tokens.empty() || rows.size() != tokens.size()) return Fail(env, "fusedLayers: sizes or tokens are wrong");
  const anneal::FusedShape shape{{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]},
                                 static_cast<int64_t>(tokens.size()),
                                 sizes[5],
                                 sizes[6],
                                 static_cast<float>(Double(env, of("normEps"))),
                                 static_cast<float>(Double(env, of("attentionScale"))),
                                 Bool(env, of("bfloat16Products")),
                                 Bool(env, of("bfloat16Cache"))};
  for (int i = 0; i < 7; i++)
    if (sizes[i] < 1 && i != 5) return Fail(env, "fusedLayers: sizes are positive");
  if (shape.past < 0 || shape.heads % shape.kv_heads != 0 || shape.head_dim % 2 != 0)
    return Fail(env, "fusedLayers: sizes do not fit together");

  const int64_t layers = weights.size() / kIdsOfLayer;
  anneal::FusedInputs in{};
  const size_t half = shape.rows * shape.head_dim / 2;
  in.cos = Values<float>(env, of("cos"), half, &tensors, "cos");
  in.sin = Values<float>(env, of("sin"), half, &tensors, "sin");
  in.places = PlacesOf(places, shape, &tensors);
  if (layers == 0 || weights.size() % kIdsOfLayer != 0 || cache.size() != static_cast<size_t>(layers * kIdsOfCache))
    return Fail(env, "fusedLayers: ids are missing");
  for (int64_t i = 0; i < layers; i++) {
    in.layers.push_back(WeightsOf(weights.data() + i * kIdsOfLayer, shape, &tensors));
    in.caches.push_back(CacheOf(cache.data() + i * kIdsOfCache, shape, &tensors));
  }
  in.adapters = AdaptersOf(adapters, rows, &tensors);
  for (const anneal::Adapter *adapter : in.adapters)
    for (int64_t i = 0; adapter && i < layers * anneal::kModules; i++) {
      const int module = i % anneal::kModules;
      if (adapter->modules() != layers * anneal::kModules ||
          !adapter->Fits(i, anneal::InFeatures(shape, module), anneal::OutFeatures(shape, module))) {
        tensors.Refuse("an adapter is of another model");
        break;
      }
    }
  in.adapter_of_row = rows.data();

  int64_t vocab = -1;
  anneal::WeightType type = anneal::WeightType::kFloat32;
  const void *table = tensors.Matrix(Int(env, of("embed")), &vocab, shape.hidden, &type, "embed");
  for (const int32_t token : tokens)
    if (token < 0 || token >= vocab) tensors.Refuse("token " + std::to_string(token) + " is not in the vocabulary");
  if (tensors.has_failed()) return Fail(env, "fusedLayers: " + tensors.failure());

  const bool as_steps = Bool(env, of("asSteps"));
  TF_Tensor *x = Allocate(TF_FLOAT, as_steps ? std::vector<int64_t>{shape.rows, 1, shape.hidden} : std::vector<int64_t>{shape.rows, shape.hidden});
  float *values = static_cast<float *>(TF_TensorData(x));
  anneal::WidenRows(table, type, shape.hidden, tokens.data(), shape.rows, values);
  const float scale = static_cast<float>(Double(env, of("embedScale")));
  for (int64_t i = 0; i < shape.rows * shape.hidden; i++) values[i] *= scale;
  anneal::FusedLayers(shape, in, values);
  return Place(env, x);
}

}  // namespace
}  // namespace tfnodejs
