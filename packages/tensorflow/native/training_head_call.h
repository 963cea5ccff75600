// How JavaScript calls TrainingHead. Included by anneal_extension.cc, whose helpers it uses.

#include "device_tensors.h"
#include "training_head.h"

namespace tfnodejs {
namespace {

// trainingHead(call) -> tensor ids of the gradients: none where no `dlogprobs` are given, dh [rows of h, hidden], and A's and B's where there
// are those; see TrainingHeadCall in binding.ts.
napi_value TrainingHead(napi_env env, napi_callback_info info) {
  napi_value args[1];
  if (!Args(env, info, args)) return nullptr;
  const auto of = [&](const char *name) { return Property(env, args[0], name); };
  DeviceTensors tensors(GetTFJSBackend(env));
  const std::vector<int32_t> sizes = Ints(env, of("sizes")), targets = Ints(env, of("targets"));
  if (sizes.size() != 6) return Fail(env, "trainingHead: sizes are missing");
  anneal::TrainingHeadInputs in{};
  const int64_t rows_of_h = sizes[0];
  in.rows = sizes[1], in.hidden = sizes[2], in.vocab = sizes[3], in.k = sizes[4], in.rank = sizes[5];
  if (in.rows < 1 || in.rows > rows_of_h || in.hidden < 2 || in.hidden % 2 != 0 || in.vocab < 1 || in.k < 1 || in.rank < 0 ||
      targets.size() != static_cast<size_t>(in.rows * in.k))
    return Fail(env, "trainingHead: sizes do not fit together");
  in.h = tensors.Floats(Int(env, of("h")), rows_of_h * in.hidden, "h");
  in.weight = tensors.Matrix(Int(env, of("weight")), &in.vocab, in.hidden, &in.type, "weight");
  if (in.rank > 0) {
    in.a = tensors.Floats(Int(env, of("a")), in.rank * in.hidden, "A");
    in.b = tensors.Floats(Int(env, of("b")), in.vocab * in.rank, "B");
    if (!in.a || !in.b) tensors.Refuse("A or B is missing");
  }
  in.scale = static_cast<float>(Double(env, of("scale")));
  in.narrow = Bool(env, of("bfloat16Products"));
  in.targets = targets.data();
  for (const int32_t target : targets)
    if (target < 0 || target >= in.vocab) tensors.Refuse("target " + std::to_string(target) + " is not in the vocabulary");
  anneal::TrainingHeadResults to{};
  to.logprobs = Values<float>(env, of("logprobs"), targets.size(), &tensors, "logprobs");
  bool wants_gradients = false;
  napi_has_named_property(env, args[0], "dlogprobs", &wants_gradients);
  if (wants_gradients) in.dlogprobs = Values<float>(env, of("dlogprobs"), targets.size(), &tensors, "dlogprobs");
  if (!in.h) tensors.Refuse("h is missing");
  if (tensors.has_failed()) return Fail(env, "trainingHead: " + tensors.failure());

  std::vector<TF_Tensor *> made;
  const auto make = [&](int64_t rows, int64_t columns) {
    made.push_back(Allocate(TF_FLOAT, {rows, columns}));
    memset(TF_TensorData(made.back()), 0, rows * columns * sizeof(float));
    return static_cast<float *>(TF_TensorData(made.back()));
  };
  if (in.dlogprobs) {
    to.dh = make(rows_of_h, in.hidden);
    if (in.rank > 0) to.da = make(in.rank, in.hidden), to.db = make(in.vocab, in.rank);
  }
  anneal::TrainingHead(in, to);
  return PlaceAll(env, made);
}

}  // namespace
}  // namespace tfnodejs
