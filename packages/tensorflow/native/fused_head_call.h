// How JavaScript calls FusedHead. Included by anneal_extension.cc, whose helpers it uses.

#include "device_tensors.h"
#include "fused_head.h"
#include "kept_adapters.h"

namespace tfnodejs {
namespace {

// fusedHead(call) -> tensor id of the logits [rows, vocab]; see FusedHeadCall in binding.ts.
napi_value FusedHead(napi_env env, napi_callback_info info) {
  napi_value args[1];
  if (!Args(env, info, args)) return nullptr;
  const auto of = [&](const char *name) { return Property(env, args[0], name); };
  DeviceTensors tensors(GetTFJSBackend(env));
  const std::vector<int32_t> sizes = Ints(env, of("sizes")), adapters = Ints(env, of("adapters")), rows = Ints(env, of("adapterOfRow"));
  if (sizes.size() != 2 || sizes[0] < 1 || sizes[1] < 1 || rows.empty()) return Fail(env, "fusedHead: sizes or rows are wrong");
  anneal::HeadInputs in{};
  in.rows = rows.size(), in.hidden = sizes[0], in.vocab = sizes[1];
  in.x = tensors.Floats(Int(env, of("x")), in.rows * in.hidden, "x");
  in.norm = tensors.Floats(Int(env, of("norm")), in.hidden, "norm");
  in.matrix = tensors.Matrix(Int(env, of("weight")), &in.vocab, in.hidden, &in.type, "weight");
  in.eps = static_cast<float>(Double(env, of("normEps")));
  in.narrow = Bool(env, of("bfloat16Products"));
  in.adapters = AdaptersOf(adapters, rows, &tensors);
  for (const anneal::Adapter *adapter : in.adapters)
    if (adapter && !adapter->HeadFits(in.hidden, in.vocab)) tensors.Refuse("an adapter is of another model");
  in.adapter_of_row = rows.data();
  in.temperatures = Values<float>(env, of("temperatures"), in.rows, &tensors, "temperatures");
  in.draws = Values<double>(env, of("draws"), in.rows, &tensors, "draws");
  const napi_value results = of("results");
  const auto floats = [&](const char *name) { return Values<float>(env, Property(env, results, name), in.rows, &tensors, name); };
  const auto ints = [&](const char *name) { return Values<int32_t>(env, Property(env, results, name), in.rows, &tensors, name); };
  const anneal::HeadResults to{ints("argmax"), ints("drawn"), floats("argmaxLogit"), floats("drawnLogit"), floats("logTotal"), floats("mass")};
  if (!in.x || !in.norm) tensors.Refuse("x or norm is missing");
  if (tensors.has_failed()) return Fail(env, "fusedHead: " + tensors.failure());

  TF_Tensor *logits = Allocate(TF_FLOAT, {in.rows, in.vocab});
  anneal::FusedHead(in, static_cast<float *>(TF_TensorData(logits)), to);
  return Place(env, logits);
}

}  // namespace
}  // namespace tfnodejs
