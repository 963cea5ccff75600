#include "decode_layers.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "cache_lines.h"
#include "cached_attention.h"
#include "helpers.h"
#include "machines.h"

namespace anneal {
namespace {

// Below so many values, waking a helper takes longer than the work.
constexpr int64_t kWorthSharing = 16'384;
// Values of the MLP that a thread takes at a time.
constexpr int64_t kPiece = 768;

// Neighbouring rows of one adapter, which are multiplied together.
struct RowRun {
  int64_t first, count;
  const Adapter *adapter;
};

std::vector<RowRun> RunsOf(const DecodeShape &shape, const DecodeInputs &in) {
  std::vector<RowRun> runs;
  for (int64_t row = 0; row < shape.rows; row++) {
    const int32_t index = in.adapter_of_row[row];
    const Adapter *adapter = index < 0 ? nullptr : &in.adapters[index];
    if (runs.empty() || runs.back().adapter != adapter) runs.push_back({row, 0, adapter});
    runs.back().count++;
  }
  return runs;
}

int64_t LargestRank(const DecodeInputs &in) {
  int64_t largest = 0;
  for (const Adapter &adapter : in.adapters)
    for (const LowRank &module : adapter.modules) largest = std::max(largest, module.rank);
  return largest;
}

// Calls work(0) to work(count - 1), which go over `values` in all.
void ForEach(int64_t count, int64_t values, const std::function<void(int64_t)> &work) {
  if (values >= kWorthSharing) return RunWithHelpers(count, work);
  for (int64_t index = 0; index < count; index++) work(index);
}

template <typename Machine>
class Step {
 public:
  Step(const DecodeShape &shape, const DecodeInputs &in, float *x)
      : shape_(shape), in_(in), x_(x), runs_(RunsOf(shape, in)), run_of_row_(shape.rows), rank_(LargestRank(in)) {
    for (const RowRun &run : runs_)
      for (int64_t i = 0; i < run.count; i++) run_of_row_[run.first + i] = &run;
    normed_.resize(shape.rows * shape.hidden);
    mixed_.resize(shape.rows * OutFeatures(shape, kQ));
    for (int module = 0; module < kModules; module++) {
      out_[module].resize(shape.rows * OutFeatures(shape, module));
      reduced_[module].resize(shape.rows * rank_);
    }
  }

  void Run() {
    const int64_t layers = in_.layers.size();
    ForEach(shape_.rows, shape_.rows * shape_.hidden, [&](int64_t row) { Norm(row, in_.layers[0].attn_norm); });
    for (layer_ = 0; layer_ < layers; layer_++) {
      const LayerWeights &weights = in_.layers[layer_];
      Multiply({kQ, kK, kV}, normed_);
      Attend();
      Multiply({kO}, mixed_);
      AddToRows(kO, weights.mlp_norm);
      Multiply({kGate, kUp}, normed_);
      Gate();
      Multiply({kDown}, out_[kGate]);
      AddToRows(kDown, layer_ + 1 < layers ? in_.layers[layer_ + 1].attn_norm : nullptr);
    }
  }

 private:
  void Norm(int64_t row, const float *weight) {
    Machine::Norm(x_ + row * shape_.hidden, weight, normed_.data() + row * shape_.hidden, shape_.hidden, shape_.eps);
  }

  const LowRank &Update(const Adapter &adapter, int module) const { return adapter.modules[layer_ * kModules + module]; }

  float *Reduced(int module, int64_t row, int64_t rank) {
    const auto *run = run_of_row_[row];
    return reduced_[module].data() + run->first * rank_ + (row - run->first) * rank;
  }

  // x of these modules by their matrices, and by their adapters' first ones.
  void Multiply(std::initializer_list<int> modules, const Floats &x) {
    products_.clear();
    for (int module : modules) {
      const int64_t k = InFeatures(shape_, module), n = OutFeatures(shape_, module);
      const auto &matrix = in_.layers[layer_].matrices[module];
      products_.push_back({x.data(), matrix.data, matrix.type, out_[module].data(), shape_.rows, k, n});
      for (const auto &run : runs_) {
        if (!run.adapter) continue;
        const LowRank &update = Update(*run.adapter, module);
        if (update.rank == 0) continue;
        float *to = Reduced(module, run.first, update.rank);
        products_.push_back({x.data() + run.first * k, update.a, WeightType::kFloat32, to, run.count, k, update.rank});
      }
    }
    SkinnyProducts(products_.data(), products_.size());
  }

  // What a row's adapter adds to columns `begin` to `end` of a module's result.
  void AddUpdate(int module, int64_t row, int64_t begin, int64_t end) {
    const Adapter *adapter = run_of_row_[row]->adapter;
    if (!adapter) return;
    const LowRank &update = Update(*adapter, module);
    if (update.rank == 0) return;
    const int64_t n = OutFeatures(shape_, module);
    Machine::AddLowRank(Reduced(module, row, update.rank), update.rank, adapter->scale, update.b + begin, n,
                        out_[module].data() + row * n + begin, end - begin);
  }

  // One head of a row's queries, keys or values, ready to meet the others.
  float *FinishHead(int module, int64_t row, int64_t head) {
    const LayerWeights &weights = in_.layers[layer_];
    const int64_t dim = shape_.head_dim, half = dim / 2, begin = head * dim;
    float *y = out_[module].data() + row * OutFeatures(shape_, module) + begin;
    if (weights.biases[module])
      for (int64_t i = 0; i < dim; i++) y[i] += weights.biases[module][begin + i];
    AddUpdate(module, row, begin, begin + dim);
    if (module == kV) return y;
    if (weights.head_norms[module]) Machine::Norm(y, weights.head_norms[module], y, dim, shape_.eps);
    Machine::Rotate(y, in_.cos + row * half, in_.sin + row * half, half);
    return y;
  }

  void Attend() {
    const int64_t rows = shape_.rows, dim = shape_.head_dim, group = shape_.heads / shape_.kv_heads;
    const AttentionShape shape{shape_.kv_heads, rows, group, dim, dim, shape_.capacity, shape_.recent};
    const LayerCache &cache = in_.caches[layer_];
    const AttentionInputs inputs{cache.past_keys,     cache.past_values, in_.past_mask, cache.recent_keys,
                                 cache.recent_values, in_.recent_mask,   nullptr};
    const int64_t seen = shape_.heads * rows * (shape_.capacity + shape_.recent) * dim / 4;
    ForEach(shape_.kv_heads * rows, seen, [&](int64_t index) {
      const int64_t head = index / rows, row = index % rows, at = (index * shape_.recent + shape_.place) * dim;
      memcpy(cache.recent_keys + at, FinishHead(kK, row, head), dim * sizeof(float));
      memcpy(cache.recent_values + at, FinishHead(kV, row, head), dim * sizeof(float));
      for (int64_t i = 0; i < group; i++) {
        float *q = FinishHead(kQ, row, head * group + i);
        for (int64_t j = 0; j < dim; j++) q[j] *= shape_.attention_scale;
      }
      const int64_t first = row * OutFeatures(shape_, kQ) + head * group * dim;
      AttendOne(shape, inputs, head, row, out_[kQ].data() + first, mixed_.data() + first);
    });
  }

  void Gate() {
    const int64_t n = shape_.intermediate, pieces = (n + kPiece - 1) / kPiece;
    ForEach(shape_.rows * pieces, 8 * shape_.rows * n, [&](int64_t index) {
      const int64_t row = index / pieces, begin = index % pieces * kPiece, end = std::min(n, begin + kPiece);
      AddUpdate(kGate, row, begin, end);
      AddUpdate(kUp, row, begin, end);
      Machine::GateTimes(out_[kGate].data() + row * n + begin, out_[kUp].data() + row * n + begin, end - begin);
    });
  }

  // Adds a module's result to the rows, and norms them for the next.
  void AddToRows(int module, const float *next_norm) {
    const int64_t hidden = shape_.hidden;
    ForEach(shape_.rows, 2 * shape_.rows * hidden, [&](int64_t row) {
      AddUpdate(module, row, 0, hidden);
      const float *y = out_[module].data() + row * hidden;
      float *x = x_ + row * hidden;
      for (int64_t i = 0; i < hidden; i++) x[i] += y[i];
      if (next_norm) Norm(row, next_norm);
    });
  }

  const DecodeShape &shape_;
  const DecodeInputs &in_;
  float *x_;
  const std::vector<RowRun> runs_;
  std::vector<const RowRun *> run_of_row_;
  const int64_t rank_;
  int64_t layer_ = 0;
  // The normed x, what attention mixed, each module's result [rows, out], and x aᵀ of its adapters.
  Floats normed_, mixed_, out_[kModules], reduced_[kModules];
  std::vector<Product> products_;
};

template <typename T>
void Widened(const void *table, int64_t width, const int32_t *rows, int64_t count, float *y) {
  const int64_t stored = sizeof(T) == 1 ? width + static_cast<int64_t>(sizeof(float)) : width;
  for (int64_t i = 0; i < count; i++) Generic::WidenRow(static_cast<const T *>(table) + rows[i] * stored, y + i * width, width);
}

template <typename Machine>
void RunStep(const DecodeShape &shape, const DecodeInputs &inputs, float *x) {
  Step<Machine>(shape, inputs, x).Run();
}

}  // namespace

int64_t InFeatures(const DecodeShape &shape, int module) {
  return module == kO ? shape.heads * shape.head_dim : module == kDown ? shape.intermediate : shape.hidden;
}

int64_t OutFeatures(const DecodeShape &shape, int module) {
  if (module == kO || module == kDown) return shape.hidden;
  if (module == kGate || module == kUp) return shape.intermediate;
  return (module == kQ ? shape.heads : shape.kv_heads) * shape.head_dim;
}

void DecodeLayers(const DecodeShape &shape, const DecodeInputs &inputs, float *x) {
#if defined(__x86_64__)
  if (ThisMachine() == Machine::kAvx512) return RunStep<Avx512>(shape, inputs, x);
  if (ThisMachine() == Machine::kAvx2) return RunStep<Avx2>(shape, inputs, x);
#endif
  RunStep<Generic>(shape, inputs, x);
}

void WidenRows(const void *table, WeightType type, int64_t width, const int32_t *rows, int64_t count, float *y) {
  if (type == WeightType::kInt8) return Widened<int8_t>(table, width, rows, count, y);
  if (type == WeightType::kBfloat16) return Widened<uint16_t>(table, width, rows, count, y);
  for (int64_t i = 0; i < count; i++)
    memcpy(y + i * width, static_cast<const float *>(table) + rows[i] * width, width * sizeof(float));
}

}  // namespace anneal
