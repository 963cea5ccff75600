// Adds graph functions to the tfjs-node addon: a traced TypeScript function becomes a TF_Graph, parts of that graph become
// TF_Functions of the eager context, and upstream's executeOp(name) then runs each as one op, on CPU or GPU.
//
// Compiled together with the unchanged sources from the tfjs-node(-gpu) npm package. Knows nothing of models or LoRA.

#include <node_api.h>

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

// The eager context and the handle table are private upstream, and there is no accessor.
#define private public
#include "tfjs_backend.h"
#undef private

// Upstream registers its module in its last line; ours registers once, below, with more exports.
#undef NAPI_MODULE
#define NAPI_MODULE(modname, regfunc)
#include "tfjs_binding.cc"

#include "cached_attention_op.h"
#include "heap.h"
#include "skinny_matmul_op.h"
#include "tf_auto_status.h"
#include "tensorflow/c/eager/c_api_experimental.h"
#include "tensorflow/c/tf_tensor.h"

namespace tfnodejs {
namespace {

struct TracedGraph {
  TF_Graph *graph = TF_NewGraph();
  std::vector<TF_Operation *> ops;
  ~TracedGraph() { TF_DeleteGraph(graph); }
};

struct EnvState {
  std::unordered_map<int32_t, std::unique_ptr<TracedGraph>> graphs;
  int32_t next_graph_id = 0;
};

// One entry per JavaScript thread; upstream already owns the addon's only instance-data slot.
std::mutex env_states_mutex;
std::map<napi_env, std::unique_ptr<EnvState>> env_states;

EnvState *StateOf(napi_env env) {
  std::lock_guard<std::mutex> lock(env_states_mutex);
  auto &state = env_states[env];
  if (!state) state = std::make_unique<EnvState>();
  return state.get();
}

void DropState(void *env) {
  std::lock_guard<std::mutex> lock(env_states_mutex);
  env_states.erase(static_cast<napi_env>(env));
}

napi_value Fail(napi_env env, const std::string &message) {
  napi_throw_error(env, nullptr, message.c_str());
  return nullptr;
}

bool Check(napi_env env, const TF_AutoStatus &status, const std::string &what) {
  if (TF_GetCode(status.status) == TF_OK) return true;
  Fail(env, what + ": " + TF_Message(status.status));
  return false;
}

template <size_t N>
bool Args(napi_env env, napi_callback_info info, napi_value (&args)[N]) {
  size_t argc = N;
  if (napi_get_cb_info(env, info, &argc, args, nullptr, nullptr) != napi_ok || argc < N) {
    Fail(env, "expected " + std::to_string(N) + " arguments, got " + std::to_string(argc));
    return false;
  }
  return true;
}

int32_t Int(napi_env env, napi_value value) {
  int32_t result = 0;
  if (napi_get_value_int32(env, value, &result) != napi_ok) Fail(env, "expected an integer");
  return result;
}

bool Bool(napi_env env, napi_value value) {
  bool result = false;
  if (napi_get_value_bool(env, value, &result) != napi_ok) Fail(env, "expected a boolean");
  return result;
}

std::string Str(napi_env env, napi_value value) {
  std::string result;
  if (GetStringParam(env, value, result) != napi_ok) Fail(env, "expected a string");
  return result;
}

std::vector<int64_t> Shape(napi_env env, napi_value value) {
  std::vector<int64_t> shape;
  ExtractArrayShape(env, value, &shape);
  return shape;
}

napi_value Property(napi_env env, napi_value object, const char *name) {
  napi_value value = nullptr;
  napi_get_named_property(env, object, name, &value);
  return value;
}

napi_value Number(napi_env env, int64_t number) {
  napi_value value = nullptr;
  napi_create_int64(env, number, &value);
  return value;
}

// A flat Int32Array: cheaper to pass than nested arrays.
std::vector<int32_t> Ints(napi_env env, napi_value value) {
  napi_typedarray_type type;
  size_t length = 0;
  void *data = nullptr;
  if (napi_get_typedarray_info(env, value, &type, &length, &data, nullptr, nullptr) != napi_ok ||
      type != napi_int32_array) {
    Fail(env, "expected an Int32Array");
    return {};
  }
  const int32_t *ints = static_cast<const int32_t *>(data);
  return std::vector<int32_t>(ints, ints + length);
}

// Memory that TensorFlow owns, to be written.
TF_Tensor *Allocate(TF_DataType dtype, const std::vector<int64_t> &shape) {
  size_t bytes = TF_DataTypeSize(dtype);
  for (const int64_t dim : shape) bytes *= static_cast<size_t>(dim);
  TF_Tensor *tensor = TF_AllocateTensor(dtype, shape.data(), static_cast<int>(shape.size()), bytes);
  anneal::UseLargePages(TF_TensorData(tensor), bytes);
  return tensor;
}

// Copies a typed array into memory that TensorFlow owns. Upstream shares V8's memory instead and releases it from
// whichever thread drops the last reference, which is not safe once graph functions run on TensorFlow's own threads.
TF_Tensor *CopyToTensor(napi_env env, napi_value shape_value, napi_value dtype_value, napi_value array) {
  std::vector<int64_t> shape = Shape(env, shape_value);
  const TF_DataType dtype = static_cast<TF_DataType>(Int(env, dtype_value));
  napi_typedarray_type type;
  size_t length = 0;
  void *data = nullptr;
  if (napi_get_typedarray_info(env, array, &type, &length, &data, nullptr, nullptr) != napi_ok) {
    Fail(env, "expected a typed array");
    return nullptr;
  }
  static const std::map<napi_typedarray_type, size_t> kWidths = {
      {napi_int8_array, 1},   {napi_uint8_array, 1},   {napi_uint8_clamped_array, 1}, {napi_int16_array, 2},
      {napi_uint16_array, 2}, {napi_int32_array, 4},   {napi_uint32_array, 4},        {napi_float32_array, 4},
      {napi_float64_array, 8}, {napi_bigint64_array, 8}, {napi_biguint64_array, 8}};
  size_t expected = TF_DataTypeSize(dtype);
  for (int64_t dim : shape) expected *= static_cast<size_t>(dim);
  const auto width = kWidths.find(type);
  const size_t bytes = width == kWidths.end() ? 0 : length * width->second;
  if (bytes != expected) {
    Fail(env, "tensor data has " + std::to_string(bytes) + " bytes, its shape and dtype need " + std::to_string(expected));
    return nullptr;
  }
  TF_Tensor *tensor = Allocate(dtype, shape);
  if (bytes > 0) memcpy(TF_TensorData(tensor), data, bytes);
  return tensor;
}

// Puts a tensor on the device and deletes it. -> tensor id
napi_value Place(napi_env env, TF_Tensor *tensor) {
  TFJSBackend *backend = GetTFJSBackend(env);
  TF_AutoStatus status;
  TFE_TensorHandle *handle = TFE_NewTensorHandle(tensor, status.status);
  const TF_DataType dtype = TF_TensorType(tensor);
  TF_DeleteTensor(tensor);
  if (!Check(env, status, "new tensor")) return nullptr;
  // GPU kernels expect int32 (shapes, indices) in host memory.
  if (dtype != TF_INT32) {
    TFE_TensorHandle *placed =
        TFE_TensorHandleCopyToDevice(handle, backend->tfe_context_, backend->device_name.c_str(), status.status);
    TFE_DeleteTensorHandle(handle);
    if (!Check(env, status, "new tensor on " + backend->device_name)) return nullptr;
    handle = placed;
  }
  return Number(env, backend->InsertHandle(handle));
}

napi_value Numbers(napi_env env, const std::vector<napi_value> &values) {
  napi_value array = nullptr;
  napi_create_array_with_length(env, values.size(), &array);
  for (size_t i = 0; i < values.size(); i++) napi_set_element(env, array, i, values[i]);
  return array;
}

// -> tensor ids
napi_value PlaceAll(napi_env env, const std::vector<TF_Tensor *> &tensors) {
  std::vector<napi_value> ids;
  for (TF_Tensor *tensor : tensors) ids.push_back(Place(env, tensor));
  return Numbers(env, ids);
}

// createTensorCopy(shape, dtype, typedArray) -> tensor id
napi_value CreateTensorCopy(napi_env env, napi_callback_info info) {
  napi_value args[3];
  if (!Args(env, info, args)) return nullptr;
  TF_Tensor *tensor = CopyToTensor(env, args[0], args[1], args[2]);
  return tensor ? Place(env, tensor) : nullptr;
}

// createTensorFilled(shape, dtype, fill) -> tensor id. `fill` is given the tensor's memory as an ArrayBuffer, which is
// detached when it returns: large values need no second copy.
napi_value CreateTensorFilled(napi_env env, napi_callback_info info) {
  napi_value args[3];
  if (!Args(env, info, args)) return nullptr;
  const std::vector<int64_t> shape = Shape(env, args[0]);
  const TF_DataType dtype = static_cast<TF_DataType>(Int(env, args[1]));
  TF_Tensor *tensor = Allocate(dtype, shape);
  const size_t bytes = TF_TensorByteSize(tensor);
  napi_value buffer = nullptr, global = nullptr;
  napi_get_global(env, &global);
  const bool wrapped =
      napi_create_external_arraybuffer(env, TF_TensorData(tensor), bytes, [](napi_env, void *, void *) {}, nullptr,
                                       &buffer) == napi_ok;
  const bool filled = wrapped && napi_call_function(env, global, args[2], 1, &buffer, nullptr) == napi_ok;
  // Also after an exception in `fill`, which is pending then and would stop the call.
  napi_value thrown = nullptr;
  if (!filled) napi_get_and_clear_last_exception(env, &thrown);
  if (wrapped) napi_detach_arraybuffer(env, buffer);
  if (filled) return Place(env, tensor);
  TF_DeleteTensor(tensor);
  if (thrown && wrapped) napi_throw(env, thrown);
  else Fail(env, "createTensorFilled: its memory cannot be shared with JavaScript");
  return nullptr;
}

TracedGraph *GraphOf(napi_env env, napi_value id) {
  auto &graphs = StateOf(env)->graphs;
  auto entry = graphs.find(Int(env, id));
  if (entry != graphs.end()) return entry->second.get();
  Fail(env, "unknown graph");
  return nullptr;
}

// graphNew() -> graph id
napi_value GraphNew(napi_env env, napi_callback_info) {
  EnvState *state = StateOf(env);
  const int32_t id = state->next_graph_id++;
  state->graphs.emplace(id, std::make_unique<TracedGraph>());
  return Number(env, id);
}

// graphDelete(graph)
napi_value GraphDelete(napi_env env, napi_callback_info info) {
  napi_value args[1];
  if (!Args(env, info, args)) return nullptr;
  StateOf(env)->graphs.erase(Int(env, args[0]));
  return nullptr;
}

std::string NextName(const TracedGraph *graph, const std::string &op) {
  return op + "_" + std::to_string(graph->ops.size());
}

// Finishes the operation and reports {op, outputs: [{dtype, shape}]}; an unknown dimension is -1, an unknown rank null.
napi_value Finish(napi_env env, TracedGraph *graph, TF_OperationDescription *description, const std::string &name) {
  TF_AutoStatus status;
  TF_Operation *op = TF_FinishOperation(description, status.status);
  if (!Check(env, status, name)) return nullptr;
  const int64_t index = static_cast<int64_t>(graph->ops.size());
  graph->ops.push_back(op);
  napi_value result, outputs;
  napi_create_object(env, &result);
  napi_create_array(env, &outputs);
  napi_set_named_property(env, result, "op", Number(env, index));
  napi_set_named_property(env, result, "outputs", outputs);
  for (int i = 0; i < TF_OperationNumOutputs(op); i++) {
    const TF_Output output{op, i};
    napi_value meta, shape;
    napi_create_object(env, &meta);
    napi_set_named_property(env, meta, "dtype", Number(env, TF_OperationOutputType(output)));
    const int rank = TF_GraphGetTensorNumDims(graph->graph, output, status.status);
    if (!Check(env, status, name)) return nullptr;
    if (rank < 0) {
      napi_get_null(env, &shape);
    } else {
      std::vector<int64_t> dims(rank);
      TF_GraphGetTensorShape(graph->graph, output, dims.data(), rank, status.status);
      if (!Check(env, status, name)) return nullptr;
      napi_create_array_with_length(env, rank, &shape);
      for (int d = 0; d < rank; d++) napi_set_element(env, shape, d, Number(env, dims[d]));
    }
    napi_set_named_property(env, meta, "shape", shape);
    napi_set_element(env, outputs, i, meta);
  }
  return result;
}

// graphPlaceholder(graph, dtype, shape | null) -> node
napi_value GraphPlaceholder(napi_env env, napi_callback_info info) {
  napi_value args[3];
  if (!Args(env, info, args)) return nullptr;
  TracedGraph *graph = GraphOf(env, args[0]);
  if (!graph) return nullptr;
  const std::string name = NextName(graph, "Placeholder");
  TF_OperationDescription *description = TF_NewOperation(graph->graph, "Placeholder", name.c_str());
  TF_SetAttrType(description, "dtype", static_cast<TF_DataType>(Int(env, args[1])));
  napi_valuetype type;
  napi_typeof(env, args[2], &type);
  if (type != napi_null) {
    const std::vector<int64_t> shape = Shape(env, args[2]);
    TF_SetAttrShape(description, "shape", shape.data(), static_cast<int>(shape.size()));
  }
  return Finish(env, graph, description, name);
}

// graphConst(graph, shape, dtype, typedArray) -> node
napi_value GraphConst(napi_env env, napi_callback_info info) {
  napi_value args[4];
  if (!Args(env, info, args)) return nullptr;
  TracedGraph *graph = GraphOf(env, args[0]);
  if (!graph) return nullptr;
  TF_Tensor *tensor = CopyToTensor(env, args[1], args[2], args[3]);
  if (!tensor) return nullptr;
  const std::string name = NextName(graph, "Const");
  TF_OperationDescription *description = TF_NewOperation(graph->graph, "Const", name.c_str());
  TF_AutoStatus status;
  TF_SetAttrTensor(description, "value", tensor, status.status);
  TF_SetAttrType(description, "dtype", TF_TensorType(tensor));
  TF_DeleteTensor(tensor);
  if (!Check(env, status, name)) return nullptr;
  return Finish(env, graph, description, name);
}

template <typename T, typename Read>
std::vector<T> List(napi_env env, napi_value array, Read read) {
  uint32_t length = 0;
  napi_get_array_length(env, array, &length);
  std::vector<T> result(length);
  for (uint32_t i = 0; i < length; i++) {
    napi_value element;
    napi_get_element(env, array, i, &element);
    read(env, element, &result[i]);
  }
  return result;
}

// Whether an array's first element is an array: a list of shapes, not a shape.
bool IsNested(napi_env env, napi_value array) {
  uint32_t length = 0;
  napi_get_array_length(env, array, &length);
  napi_value first;
  bool nested = false;
  if (length > 0 && napi_get_element(env, array, 0, &first) == napi_ok) napi_is_array(env, first, &nested);
  return nested;
}

// Sets one tfjs attribute {name, type, value} on a graph operation; the cases mirror upstream's AssignOpAttr.
bool SetAttr(napi_env env, TF_OperationDescription *description, napi_value attr) {
  const std::string name = Str(env, Property(env, attr, "name"));
  const napi_value value = Property(env, attr, "value");
  bool is_array = false;
  napi_is_array(env, value, &is_array);
  switch (Int(env, Property(env, attr, "type"))) {
    case TF_ATTR_STRING: {
      const std::string text = Str(env, value);
      TF_SetAttrString(description, name.c_str(), text.data(), text.size());
      return true;
    }
    case TF_ATTR_INT:
      if (is_array) {
        const auto list = List<int64_t>(env, value, napi_get_value_int64);
        TF_SetAttrIntList(description, name.c_str(), list.data(), static_cast<int>(list.size()));
      } else {
        int64_t number = 0;
        napi_get_value_int64(env, value, &number);
        TF_SetAttrInt(description, name.c_str(), number);
      }
      return true;
    case TF_ATTR_FLOAT: {
      double number = 0;
      napi_get_value_double(env, value, &number);
      TF_SetAttrFloat(description, name.c_str(), static_cast<float>(number));
      return true;
    }
    case TF_ATTR_BOOL:
      TF_SetAttrBool(description, name.c_str(), Bool(env, value) ? 1 : 0);
      return true;
    case TF_ATTR_TYPE:
      if (is_array) {
        const auto list = List<int32_t>(env, value, napi_get_value_int32);
        std::vector<TF_DataType> types;
        for (int32_t type : list) types.push_back(static_cast<TF_DataType>(type));
        TF_SetAttrTypeList(description, name.c_str(), types.data(), static_cast<int>(types.size()));
      } else {
        TF_SetAttrType(description, name.c_str(), static_cast<TF_DataType>(Int(env, value)));
      }
      return true;
    case TF_ATTR_SHAPE: {
      if (is_array && IsNested(env, value)) {
        const auto shapes = List<std::vector<int64_t>>(
            env, value, [](napi_env e, napi_value v, std::vector<int64_t> *shape) { *shape = Shape(e, v); });
        std::vector<const int64_t *> dims;
        std::vector<int> ranks;
        for (const auto &shape : shapes) {
          dims.push_back(shape.data());
          ranks.push_back(static_cast<int>(shape.size()));
        }
        TF_SetAttrShapeList(description, name.c_str(), dims.data(), ranks.data(), static_cast<int>(dims.size()));
        return true;
      }
      const std::vector<int64_t> shape = Shape(env, value);
      TF_SetAttrShape(description, name.c_str(), shape.data(), static_cast<int>(shape.size()));
      return true;
    }
    default:
      Fail(env, "attribute " + name + " has a type that graphs do not take");
      return false;
  }
}

// graphOp(graph, opName, attrs, inputs, controlOps) -> node
// inputs: for each argument, 0 then (op, output), or a list's length n > 0 then n pairs.
napi_value GraphOp(napi_env env, napi_callback_info info) {
  napi_value args[5];
  if (!Args(env, info, args)) return nullptr;
  TracedGraph *graph = GraphOf(env, args[0]);
  if (!graph) return nullptr;
  const std::string op_name = Str(env, args[1]);
  const std::string name = NextName(graph, op_name);
  TF_OperationDescription *description = TF_NewOperation(graph->graph, op_name.c_str(), name.c_str());
  const std::vector<int32_t> inputs = Ints(env, args[3]);
  for (size_t i = 0; i < inputs.size();) {
    const int32_t count = inputs[i++];
    std::vector<TF_Output> list;
    for (int32_t k = 0; k < std::max(count, 1); k++, i += 2) list.push_back({graph->ops.at(inputs[i]), inputs[i + 1]});
    if (count == 0) {
      TF_AddInput(description, list[0]);
    } else {
      TF_AddInputList(description, list.data(), count);
    }
  }
  for (int32_t control : Ints(env, args[4])) TF_AddControlInput(description, graph->ops.at(control));
  uint32_t attr_count = 0;
  napi_get_array_length(env, args[2], &attr_count);
  for (uint32_t i = 0; i < attr_count; i++) {
    napi_value attr;
    napi_get_element(env, args[2], i, &attr);
    if (!SetAttr(env, description, attr)) break;
  }
  // A half-built description cannot be dropped through the C API: finish it even when an attribute was refused.
  return Finish(env, graph, description, name);
}

// graphFunction(graph, name, ops, inputs, outputs, xla): registers the sub-graph `ops` as a function of the context.
// inputs and outputs are flat (op, output) pairs; an input may be any tensor of the graph.
napi_value GraphFunction(napi_env env, napi_callback_info info) {
  napi_value args[6];
  if (!Args(env, info, args)) return nullptr;
  TracedGraph *graph = GraphOf(env, args[0]);
  if (!graph) return nullptr;
  const std::string name = Str(env, args[1]);
  std::vector<TF_Operation *> ops;
  for (int32_t op : Ints(env, args[2])) ops.push_back(graph->ops.at(op));
  auto pairs = [&](napi_value value) {
    const std::vector<int32_t> flat = Ints(env, value);
    std::vector<TF_Output> result;
    for (size_t i = 0; i + 1 < flat.size(); i += 2) result.push_back({graph->ops.at(flat[i]), flat[i + 1]});
    return result;
  };
  const std::vector<TF_Output> inputs = pairs(args[3]);
  const std::vector<TF_Output> outputs = pairs(args[4]);
  TF_AutoStatus status;
  TF_Function *function =
      TF_GraphToFunction(graph->graph, name.c_str(), 0, static_cast<int>(ops.size()), ops.data(),
                         static_cast<int>(inputs.size()), inputs.data(), static_cast<int>(outputs.size()),
                         outputs.data(), nullptr, nullptr, name.c_str(), status.status);
  if (!Check(env, status, name)) return nullptr;
  if (Bool(env, args[5])) {
    const char must_compile[] = {0x28, 0x01};  // AttrValue { b: true }
    TF_FunctionSetAttrValueProto(function, "_XlaMustCompile", must_compile, sizeof(must_compile), status.status);
  }
  if (TF_GetCode(status.status) == TF_OK) {
    TFE_ContextAddFunction(GetTFJSBackend(env)->tfe_context_, function, status.status);
  }
  TF_DeleteFunction(function);
  Check(env, status, name);
  return nullptr;
}

// removeFunction(name)
napi_value RemoveFunction(napi_env env, napi_callback_info info) {
  napi_value args[1];
  if (!Args(env, info, args)) return nullptr;
  const std::string name = Str(env, args[0]);
  TF_AutoStatus status;
  TFE_ContextRemoveFunction(GetTFJSBackend(env)->tfe_context_, name.c_str(), status.status);
  Check(env, status, name);
  return nullptr;
}

}  // namespace
}  // namespace tfnodejs

#include "adamw_call.h"
#include "fused_head_call.h"
#include "fused_layers_call.h"
#include "gather_rows_call.h"
#include "training_head_call.h"
#include "training_layer_call.h"

namespace tfnodejs {
namespace {

// TensorFlow keeps pointers to our ops for as long as the process lives, and Node.js unloads an addon with the last thread
// that uses it: this library stays.
void StayLoaded() {
  Dl_info self;
  if (dladdr(reinterpret_cast<void *>(StayLoaded), &self)) dlopen(self.dli_fname, RTLD_NOW | RTLD_NODELETE);
}

napi_value InitExtension(napi_env env, napi_value exports) {
  static std::once_flag tuned;
  std::call_once(tuned, [] {
    StayLoaded();
    anneal::TuneHeap();
    anneal::RegisterSkinnyMatmul();
    anneal::RegisterCachedAttention();
  });
  exports = InitTFNodeJSBinding(env, exports);
  if (!exports) return nullptr;
  napi_add_env_cleanup_hook(env, DropState, env);
  const napi_property_descriptor properties[] = {
      {"createTensorCopy", nullptr, CreateTensorCopy, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"createTensorFilled", nullptr, CreateTensorFilled, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"keepAdapter", nullptr, KeepAdapter, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"dropAdapter", nullptr, DropAdapter, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"fusedLayers", nullptr, FusedLayers, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"fusedHead", nullptr, FusedHead, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"squaredNorm", nullptr, SquaredNorm, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"adamStep", nullptr, AdamStep, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"trainingHead", nullptr, TrainingHead, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"trainingForward", nullptr, TrainingForward, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"trainingBackward", nullptr, TrainingBackward, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"gatherRows", nullptr, GatherRows, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"graphNew", nullptr, GraphNew, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"graphDelete", nullptr, GraphDelete, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"graphPlaceholder", nullptr, GraphPlaceholder, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"graphConst", nullptr, GraphConst, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"graphOp", nullptr, GraphOp, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"graphFunction", nullptr, GraphFunction, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"removeFunction", nullptr, RemoveFunction, nullptr, nullptr, nullptr, napi_default, nullptr},
  };
  napi_define_properties(env, exports, sizeof(properties) / sizeof(properties[0]), properties);
  return exports;
}

}  // namespace
}  // namespace tfnodejs

NAPI_MODULE_INIT() { return tfnodejs::InitExtension(env, exports); }
