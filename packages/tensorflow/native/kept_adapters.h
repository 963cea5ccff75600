// Adapters that JavaScript keeps for sampling, by number: their hundreds of tensors are looked up once, not with every call. Included by
// anneal_extension.cc, whose helpers it uses.

#ifndef ANNEAL_KEPT_ADAPTERS_H_
#define ANNEAL_KEPT_ADAPTERS_H_

#include <memory>
#include <mutex>
#include <unordered_map>

#include "device_tensors.h"
#include "low_rank.h"

namespace tfnodejs {
namespace {

class KeptAdapters {
 public:
  static KeptAdapters &Get() {
    static KeptAdapters *kept = new KeptAdapters();
    return *kept;
  }

  int32_t Add(std::unique_ptr<anneal::Adapter> adapter) {
    const std::lock_guard<std::mutex> lock(mutex_);
    adapters_[++last_] = std::move(adapter);
    return last_;
  }

  // Null where there is none of that number.
  const anneal::Adapter *Find(int32_t number) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto entry = adapters_.find(number);
    return entry == adapters_.end() ? nullptr : entry->second.get();
  }

  void Drop(int32_t number) {
    const std::lock_guard<std::mutex> lock(mutex_);
    adapters_.erase(number);
  }

 private:
  std::mutex mutex_;
  int32_t last_ = 0;
  std::unordered_map<int32_t, std::unique_ptr<anneal::Adapter>> adapters_;
};

std::vector<const anneal::Adapter *> AdaptersOf(const std::vector<int32_t> &numbers, const std::vector<int32_t> &adapter_of_row,
                                                DeviceTensors *tensors) {
  std::vector<const anneal::Adapter *> adapters;
  for (const int32_t number : numbers) {
    adapters.push_back(KeptAdapters::Get().Find(number));
    if (!adapters.back()) tensors->Refuse("adapter " + std::to_string(number) + " is not kept");
  }
  for (const int32_t index : adapter_of_row)
    if (index >= static_cast<int32_t>(adapters.size())) tensors->Refuse("a row's adapter is missing");
  return adapters;
}

// keepAdapter(ids, shapes, scale, narrow) -> its number. Ids of A and B of each module of each layer, then of the head; of each rank, in, out.
napi_value KeepAdapter(napi_env env, napi_callback_info info) {
  napi_value args[4];
  if (!Args(env, info, args)) return nullptr;
  DeviceTensors tensors(GetTFJSBackend(env));
  const std::vector<int32_t> ids = Ints(env, args[0]), shapes = Ints(env, args[1]);
  const size_t count = ids.size() / 2;
  if (count % anneal::kModules != 1 || ids.size() != 2 * count || shapes.size() != 3 * count)
    return Fail(env, "keepAdapter: there are not as many ids and shapes as modules");
  std::vector<anneal::AdapterMatrices> all;
  for (size_t i = 0; i < count; i++) {
    anneal::AdapterMatrices own{nullptr, nullptr, shapes[3 * i], shapes[3 * i + 1], shapes[3 * i + 2]};
    if (own.rank < 0 || own.in < 0 || own.out < 0) return Fail(env, "keepAdapter: a size is below zero");
    if (own.rank > 0) {
      own.a = tensors.Floats(ids[2 * i], own.rank * own.in, "an adapter's A");
      own.b = tensors.Floats(ids[2 * i + 1], own.rank * own.out, "an adapter's B");
      if (!own.a || !own.b) tensors.Refuse("an adapter's A or B is missing");
    }
    all.push_back(own);
  }
  if (tensors.has_failed()) return Fail(env, "keepAdapter: " + tensors.failure());
  const anneal::AdapterMatrices head = all.back();
  all.pop_back();
  const float scale = static_cast<float>(Double(env, args[2]));
  return Number(env, KeptAdapters::Get().Add(std::make_unique<anneal::Adapter>(all, head, scale, Bool(env, args[3]))));
}

// dropAdapter(number)
napi_value DropAdapter(napi_env env, napi_callback_info info) {
  napi_value args[1];
  if (Args(env, info, args)) KeptAdapters::Get().Drop(Int(env, args[0]));
  return nullptr;
}

}  // namespace
}  // namespace tfnodejs

#endif  // ANNEAL_KEPT_ADAPTERS_H_
