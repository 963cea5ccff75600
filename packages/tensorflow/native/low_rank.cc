#include "low_rank.h"

#include <cstring>

#include "heap.h"
#include "helpers.h"
#include "machines.h"

namespace anneal {
namespace {

// Matrices begin where lines of the cache do.
constexpr int64_t kLine = 64;

int64_t BytesOf(int64_t values, bool narrow) {
  const int64_t bytes = values * static_cast<int64_t>(narrow ? sizeof(uint16_t) : sizeof(float));
  return (bytes + kLine - 1) / kLine * kLine;
}

void Put(const AdapterMatrices &from, const LowRank &to) {
  const auto put = [&](const void *at, int64_t i, float value) {
    char *block = const_cast<char *>(static_cast<const char *>(at));
    if (to.type == WeightType::kBfloat16)
      reinterpret_cast<uint16_t *>(block)[i] = Narrow(value);
    else
      reinterpret_cast<float *>(block)[i] = value;
  };
  for (int64_t i = 0; i < from.rank * from.in; i++) put(to.a, i, from.a[i]);
  for (int64_t row = 0; row < from.out; row++) {
    const int64_t in_panel = row % kUpdatePanel, panel = (row - in_panel) * from.rank;
    for (int64_t i = 0; i < from.rank; i++) put(to.b, panel + i * kUpdatePanel + in_panel, from.b[row * from.rank + i]);
  }
}

}  // namespace

Adapter::Adapter(const std::vector<AdapterMatrices> &layers, const AdapterMatrices &head, float scale, bool narrow)
    : scale(scale), shapes_(layers), head_shape_(head) {
  int64_t bytes = 0;
  const auto take = [&](int64_t values) {
    const int64_t at = bytes;
    bytes += BytesOf(values, narrow);
    return at;
  };
  std::vector<AdapterMatrices> all = layers;
  all.push_back(head);
  std::vector<std::pair<int64_t, int64_t>> places;
  for (const AdapterMatrices &m : all) {
    const int64_t a = take(m.rank * m.in);
    places.push_back({a, take(m.rank * ((m.out + kUpdatePanel - 1) / kUpdatePanel * kUpdatePanel))});
    largest_rank_ = std::max(largest_rank_, m.rank);
  }
  block_ = TakeBlock(bytes);
  const char *begin = static_cast<const char *>(block_);
  for (size_t i = 0; i < all.size(); i++)
    layers_.push_back({begin + places[i].first, begin + places[i].second, narrow ? WeightType::kBfloat16 : WeightType::kFloat32, all[i].rank});
  RunWithHelpers(all.size(), [&](int64_t i) { Put(all[i], layers_[i]); });
  head_ = layers_.back();
  layers_.pop_back();
}

Adapter::~Adapter() { GiveBlock(block_); }

}  // namespace anneal
