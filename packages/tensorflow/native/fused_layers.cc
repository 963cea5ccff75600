#include "fused_layers.h"

#include <algorithm>
#include <cstring>

#include "cache_lines.h"
#include "cached_attention.h"
#include "factor.h"
#include "helpers.h"
#include "machines.h"

namespace anneal {
namespace {

// Values of the MLP that a thread takes at a time.
constexpr int64_t kPiece = 768;

// Neighbouring rows of one sequence, which attend together.
struct RowBlock {
  int64_t first, count;
};

// A block's queries of one head, at most.
constexpr int64_t kQueries = 48;

std::vector<RowBlock> BlocksOf(const FusedShape &shape, const FusedInputs &in) {
  std::vector<RowBlock> blocks;
  const int64_t most = std::max<int64_t>(1, kQueries * shape.kv_heads / shape.heads);
  for (int64_t row = 0; row < shape.rows; row++) {
    const RowPlace &place = in.places[row];
    const int32_t before = row == 0 ? -1 : in.places[row - 1].own;
    const bool continues = before >= place.recent_begin && before < place.recent_end;
    if (!continues || blocks.back().count == most) blocks.push_back({row, 0});
    blocks.back().count++;
  }
  return blocks;
}

template <typename Machine>
class Pass {
 public:
  Pass(const FusedShape &shape, const FusedInputs &in, float *x)
      : shape_(shape), in_(in), x_(x), runs_(RunsOf(in.adapter_of_row, shape.rows, in.adapters)), blocks_(BlocksOf(shape, in)),
        run_of_row_(shape.rows), rank_(LargestRank(in.adapters)), normed_(shape.rows * shape.hidden, shape.narrow),
        mixed_(shape.rows * OutFeatures(shape, kQ), shape.narrow), gated_(shape.rows * shape.intermediate, shape.narrow) {
    for (const RowRun &run : runs_)
      for (int64_t i = 0; i < run.count; i++) run_of_row_[run.first + i] = &run;
    for (int module = 0; module < kModules; module++) {
      if (module != kGate) out_[module].resize(shape.rows * OutFeatures(shape, module));
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
      Multiply({kDown}, gated_);
      AddToRows(kDown, layer_ + 1 < layers ? in_.layers[layer_ + 1].attn_norm : nullptr);
    }
  }

 private:
  void Norm(int64_t row, const float *weight) {
    const int64_t hidden = shape_.hidden;
    Machine::Norm(x_ + row * hidden, weight, normed_.values() + row * hidden, hidden, shape_.eps);
    normed_.Narrow(row * hidden, hidden);
  }

  const LowRank &Update(const Adapter &adapter, int module) const { return adapter.module(layer_ * kModules + module); }

  float *Reduced(int module, int64_t row, int64_t rank) {
    const auto *run = run_of_row_[row];
    return reduced_[module].data() + run->first * rank_ + (row - run->first) * rank;
  }

  // x of these modules by their matrices, and by their adapters' first ones.
  void Multiply(std::initializer_list<int> modules, Factor<Machine> &x) {
    products_.clear();
    for (int module : modules) {
      const int64_t k = InFeatures(shape_, module), n = OutFeatures(shape_, module);
      const auto &matrix = in_.layers[layer_].matrices[module];
      const uint16_t *narrow = matrix.type == WeightType::kBfloat16 ? x.narrow() : nullptr;
      products_.push_back({x.values(), matrix.data, matrix.type, Out(module), shape_.rows, k, n, narrow});
      for (const auto &run : runs_) {
        if (!run.adapter) continue;
        const LowRank &update = Update(*run.adapter, module);
        if (update.rank == 0) continue;
        float *to = Reduced(module, run.first, update.rank);
        products_.push_back(ReducedBy(update, x, run.first, run.count, k, to));
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
    anneal::AddUpdate<Machine>(update, Reduced(module, row, update.rank), adapter->scale, begin, Out(module) + row * n + begin, end - begin);
  }

  // One head of a row's queries, keys or values, ready to meet the others.
  float *FinishHead(int module, int64_t row, int64_t head) {
    const LayerWeights &weights = in_.layers[layer_];
    const int64_t dim = shape_.head_dim, half = dim / 2, begin = head * dim;
    float *y = Out(module) + row * OutFeatures(shape_, module) + begin;
    if (weights.biases[module])
      for (int64_t i = 0; i < dim; i++) y[i] += weights.biases[module][begin + i];
    AddUpdate(module, row, begin, begin + dim);
    if (module == kV) return y;
    if (weights.head_norms[module]) Machine::Norm(y, weights.head_norms[module], y, dim, shape_.eps);
    Machine::Rotate(y, in_.cos + row * half, in_.sin + row * half, half);
    return y;
  }

  void Attend() {
    const int64_t rows = shape_.rows, heads = shape_.kv_heads, blocks = blocks_.size();
    ForEach(heads * rows, 8 * shape_.heads * rows * shape_.head_dim, [&](int64_t index) { FinishRow(index / rows, index % rows); });
    int64_t seen = 0;
    for (int64_t row = 0; row < rows; row++) {
      const RowPlace &place = in_.places[row];
      seen += place.past_end - place.past_begin + place.recent_end - place.recent_begin;
    }
    ForEach(heads * blocks, seen * shape_.heads * shape_.head_dim / 4,
            [&](int64_t index) { AttendBlock(index / blocks, blocks_[index % blocks]); });
  }

  // A row's key and value of one head, and the queries that meet them.
  void FinishRow(int64_t head, int64_t row) {
    const int64_t dim = shape_.head_dim, group = shape_.heads / shape_.kv_heads;
    const LayerCache &cache = in_.caches[layer_];
    const int64_t place = head * shape_.recent + in_.places[row].own;
    Keep(FinishHead(kK, row, head), place, cache.recent_keys);
    Keep(FinishHead(kV, row, head), place, cache.recent_values);
    for (int64_t i = 0; i < group; i++) {
      float *q = FinishHead(kQ, row, head * group + i);
      for (int64_t j = 0; j < dim; j++) q[j] *= shape_.attention_scale;
    }
  }

  // Positions from `first` on, of which a head's have `dim` values each.
  const void *At(const void *positions, int64_t first) const {
    return static_cast<const char *>(positions) + first * shape_.head_dim * (shape_.narrow_cache ? sizeof(uint16_t) : sizeof(float));
  }

  // A key or value goes to its place in the cache.
  void Keep(const float *head, int64_t place, void *positions) {
    const int64_t dim = shape_.head_dim;
    if (shape_.narrow_cache)
      Machine::NarrowRow(head, static_cast<uint16_t *>(positions) + place * dim, dim);
    else
      memcpy(static_cast<float *>(positions) + place * dim, head, dim * sizeof(float));
  }

  void AttendBlock(int64_t head, const RowBlock &block) {
    const int64_t dim = shape_.head_dim, group = shape_.heads / shape_.kv_heads, wide = group * dim, queries = block.count * group;
    const RowPlace *places = in_.places + block.first;
    RowPlace all = places[0];
    for (int64_t i = 1; i < block.count; i++) {
      all.past_begin = std::min(all.past_begin, places[i].past_begin);
      all.recent_begin = std::min(all.recent_begin, places[i].recent_begin);
      all.recent_end = std::max(all.recent_end, places[i].recent_end);
    }
    const LayerCache &cache = in_.caches[layer_];
    const int64_t past = all.past_end - all.past_begin;
    const int64_t first_past = head * shape_.past + all.past_begin, first_recent = head * shape_.recent + all.recent_begin;
    KeyRun runs[2];
    int64_t count = 0;
    if (past > 0) runs[count++] = {At(cache.past_keys, first_past), At(cache.past_values, first_past), past};
    runs[count++] = {At(cache.recent_keys, first_recent), At(cache.recent_values, first_recent), all.recent_end - all.recent_begin};

    thread_local Floats q, y;
    thread_local std::vector<Visible> visible;
    q.resize(queries * dim), y.resize(queries * dim), visible.resize(queries);
    for (int64_t i = 0; i < block.count; i++) {
      memcpy(q.data() + i * wide, HeadsOf(Out(kQ), block.first + i, head), wide * sizeof(float));
      // What a window hides is at the beginning: a row that sees some of the past sees all of the recent positions before it.
      const RowPlace &own = places[i];
      const int64_t begin = own.past_begin < own.past_end ? own.past_begin - all.past_begin : past + own.recent_begin - all.recent_begin;
      std::fill_n(visible.begin() + i * group, group, Visible{begin, past + own.recent_end - all.recent_begin});
    }
    AttendRuns(runs, count, shape_.narrow_cache ? WeightType::kBfloat16 : WeightType::kFloat32, dim, visible.data(), queries, q.data(), y.data());
    for (int64_t i = 0; i < block.count; i++) {
      float *mixed = HeadsOf(mixed_.values(), block.first + i, head);
      memcpy(mixed, y.data() + i * wide, wide * sizeof(float));
      mixed_.Narrow(mixed - mixed_.values(), wide);
    }
  }

  // What a row has of the query heads that share a key head: [group, head_dim].
  float *HeadsOf(float *heads, int64_t row, int64_t head) {
    return heads + row * OutFeatures(shape_, kQ) + head * (shape_.heads / shape_.kv_heads) * shape_.head_dim;
  }

  void Gate() {
    const int64_t n = shape_.intermediate, pieces = (n + kPiece - 1) / kPiece;
    ForEach(shape_.rows * pieces, 8 * shape_.rows * n, [&](int64_t index) {
      const int64_t row = index / pieces, begin = index % pieces * kPiece, end = std::min(n, begin + kPiece);
      AddUpdate(kGate, row, begin, end);
      AddUpdate(kUp, row, begin, end);
      Machine::GateTimes(Out(kGate) + row * n + begin, Out(kUp) + row * n + begin, end - begin);
      gated_.Narrow(row * n + begin, end - begin);
    });
  }

  // Adds a module's result to the rows, and norms them for the next.
  void AddToRows(int module, const float *next_norm) {
    const int64_t hidden = shape_.hidden;
    ForEach(shape_.rows, 2 * shape_.rows * hidden, [&](int64_t row) {
      AddUpdate(module, row, 0, hidden);
      const float *y = Out(module) + row * hidden;
      float *x = x_ + row * hidden;
      for (int64_t i = 0; i < hidden; i++) x[i] += y[i];
      if (next_norm) Norm(row, next_norm);
    });
  }

  // A module's result, [rows, out].
  float *Out(int module) { return module == kGate ? gated_.values() : out_[module].data(); }

  const FusedShape &shape_;
  const FusedInputs &in_;
  float *x_;
  const std::vector<RowRun> runs_;
  const std::vector<RowBlock> blocks_;
  std::vector<const RowRun *> run_of_row_;
  const int64_t rank_;
  int64_t layer_ = 0;
  // The normed x, what attention mixed, and the gate, which is gated in place.
  Factor<Machine> normed_, mixed_, gated_;
  // Results of the modules but the gate, and x aᵀ of their adapters.
  Floats out_[kModules], reduced_[kModules];
  std::vector<Product> products_;
};

template <typename T>
void Widened(const void *table, int64_t width, const int32_t *rows, int64_t count, float *y) {
  const int64_t stored = sizeof(T) == 1 ? width + static_cast<int64_t>(sizeof(float)) : width;
  for (int64_t i = 0; i < count; i++) Generic::WidenRow(static_cast<const T *>(table) + rows[i] * stored, y + i * width, width);
}

template <typename Machine>
void RunPass(const FusedShape &shape, const FusedInputs &inputs, float *x) {
  Pass<Machine>(shape, inputs, x).Run();
}

}  // namespace

void FusedLayers(const FusedShape &shape, const FusedInputs &inputs, float *x) {
#if defined(__x86_64__)
  if (ThisMachine() == Machine::kAvx512) return RunPass<Avx512>(shape, inputs, x);
  if (ThisMachine() == Machine::kAvx2) return RunPass<Avx2>(shape, inputs, x);
#endif
  RunPass<Generic>(shape, inputs, x);
}

void WidenRows(const void *table, WeightType type, int64_t width, const int32_t *rows, int64_t count, float *y) {
  if (type == WeightType::kInt8) return Widened<int8_t>(table, width, rows, count, y);
  if (type == WeightType::kBfloat16) return Widened<uint16_t>(table, width, rows, count, y);
  for (int64_t i = 0; i < count; i++)
    memcpy(y + i * width, static_cast<const float *>(table) + rows[i] * width, width * sizeof(float));
}

}  // namespace anneal
