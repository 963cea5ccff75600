#include "training_layer.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#include "tiles.h"
#include "training_attention.h"

namespace anneal {
namespace {

// Modules that multiply the same rows.
struct Group {
  int first, last;
};
constexpr Group kAttentionGroup{kQ, kV}, kOutGroup{kO, kO}, kMlpGroup{kGate, kUp}, kDownGroup{kDown, kDown};
constexpr Group kGroups[] = {kAttentionGroup, kOutGroup, kMlpGroup, kDownGroup};

// Neighbouring rows of one adapter.
struct Run {
  int64_t first, count, adapter;
};

std::vector<Run> RunsOf(const TrainingShape &shape, const TrainingInputs &in) {
  std::vector<Run> runs;
  for (int64_t i = 0; i < shape.batch; i++) {
    const int64_t adapter = in.adapter_of_row ? in.adapter_of_row[i] : 0;
    if (runs.empty() || runs.back().adapter != adapter) runs.push_back({i * shape.time, 0, adapter});
    runs.back().count += shape.time;
  }
  return runs;
}

// Of all adapters' u of a module: the largest rank, filled up to an even one.
int64_t RoomForRanks(const TrainingInputs &in, int module) {
  int64_t largest = 0;
  for (const auto &modules : in.adapters) largest = std::max(largest, modules[module].rank);
  return RoundUp(largest, 2);
}

// Where things are in what the forward pass keeps, in floats; those of P take half of one each in bfloat16.
struct KeptParts {
  KeptParts(const TrainingShape &shape, const TrainingInputs &in, int64_t ranks) {
    const int64_t rows = shape.rows(), narrow = shape.narrow ? 2 : 1;
    const auto take = [&](int64_t values) {
      const int64_t at = total;
      total += RoundUp(values, 16);
      return at;
    };
    const auto take_of_p = [&](int64_t values) { return take((values + narrow - 1) / narrow); };
    middle = take(shape.hidden * rows);
    reduced = take_of_p(ranks * rows);
    for (int i = 0; i < 3; i++) heads[i] = take_of_p(OutFeatures(shape, i) * rows);
    for (int i = 0; i < 2; i++) before_norm[i] = in.weights.head_norms[i] ? take(OutFeatures(shape, i) * rows) : -1;
    mixed = take_of_p(OutFeatures(shape, kQ) * rows);
    gate = take_of_p(shape.intermediate * rows);
    up = take_of_p(shape.intermediate * rows);
  }

  int64_t middle, reduced, heads[3], before_norm[2], mixed, gate, up, total = 0;
};

template <typename Tiles, typename P>
class Layer {
  using Matrix = Packed<Tiles, P>;

 public:
  Layer(const TrainingShape &shape, const TrainingInputs &in)
      : shape_(shape), in_(in), rows_(shape.rows()), runs_(RunsOf(shape, in)) {
    for (int module = 0; module < kModules; module++) {
      rank_begin_[module] = ranks_;
      ranks_ += RoomForRanks(in, module);
    }
    rank_begin_[kModules] = ranks_;
    for (const Run &run : runs_)
      for (int64_t at = 0; at < run.count; at += kRowsTogether)
        blocks_.push_back({run.first + at, std::min(kRowsTogether, run.count - at), run.adapter});
  }

  KeptParts parts() const { return KeptParts(shape_, in_, ranks_); }

  // y may be null where only what is kept is wanted.
  void Forward(const float *x, float *y, float *kept) {
    const KeptParts at = parts();
    float *middle = kept + at.middle;
    P *reduced = Kept(kept, at.reduced), *mixed = Kept(kept, at.mixed), *gate = Kept(kept, at.gate), *up = Kept(kept, at.up);
    PackForward();
    {
      const Room<P> normed(rows_ * shape_.hidden);
      Norm(x, in_.weights.attn_norm, normed.get());
      Reduce(kAttentionGroup, normed.get(), reduced);
      const Room<float> q(rows_ * Out(kQ)), k(rows_ * Out(kK)), v(rows_ * Out(kV));
      float *const made[] = {q.get(), k.get(), v.get()};
      std::vector<Product<float>> products;
      for (int i = 0; i < 3; i++) products.push_back({Forwards(i, normed.get(), reduced), made[i], Out(i), Out(i), false});
      Multiply(products);
      RunWithHelpers(rows_, [&](int64_t row) {
        for (int i = 0; i < 3; i++) FinishHeads(i, row, made[i] + row * Out(i), kept, at);
      });
    }
    TrainingAttention<Tiles, P>(shape_, Kept(kept, at.heads[0]), Kept(kept, at.heads[1]), Kept(kept, at.heads[2]))
        .Forward(mixed);
    Reduce(kOutGroup, mixed, reduced);
    AddProduct(kO, mixed, reduced, x, middle);
    const Room<P> normed(rows_ * shape_.hidden);
    Norm(middle, in_.weights.mlp_norm, normed.get());
    Reduce(kMlpGroup, normed.get(), reduced);
    Multiply(std::vector<Product<P>>{{Forwards(kGate, normed.get(), reduced), gate, Out(kGate), Out(kGate), false},
                                     {Forwards(kUp, normed.get(), reduced), up, Out(kUp), Out(kUp), false}});
    if (!y && RanksOf(kDownGroup) == 0) return;
    const Room<P> act(rows_ * shape_.intermediate);
    ForMlpValues([&](int64_t from, int64_t count) { Tiles::GateForward(gate + from, up + from, act.get() + from, count); });
    Reduce(kDownGroup, act.get(), reduced);
    if (y) AddProduct(kDown, act.get(), reduced, middle, y);
  }

  void Backward(const float *x, float *kept, const float *dy, float *dx) {
    const KeptParts at = parts();
    const float *middle = kept + at.middle;
    const P *reduced = Kept(kept, at.reduced), *mixed = Kept(kept, at.mixed), *gate = Kept(kept, at.gate), *up = Kept(kept, at.up);
    PackBackward(dx != nullptr);
    const Room<float> through(rows_ * shape_.hidden), d_middle(rows_ * shape_.hidden);
    const Room<P> normed(rows_ * shape_.hidden), narrow(rows_ * shape_.hidden), d_reduced(rows_ * ranks_);
    Narrow(dy, narrow.get());
    {
      const int64_t count = rows_ * shape_.intermediate;
      const Room<float> dact(count);
      const Room<P> act(count), dgate(count), dup(count);
      ReduceGradient({{kDown, narrow.get()}}, d_reduced.get());
      Multiply(std::vector<Product<float>>{{Backwards(kDownGroup, {narrow.get()}, d_reduced.get()), dact.get(), In(kDown), In(kDown), false}});
      ForMlpValues([&](int64_t from, int64_t n) {
        Tiles::GateBackward(gate + from, up + from, dact.get() + from, act.get() + from, dgate.get() + from, dup.get() + from, n);
      });
      Gradients(kDownGroup, act.get(), {narrow.get()}, reduced, d_reduced.get());
      Norm(middle, in_.weights.mlp_norm, normed.get());
      ReduceGradient({{kGate, dgate.get()}, {kUp, dup.get()}}, d_reduced.get());
      Multiply(std::vector<Product<float>>{
          {Backwards(kMlpGroup, {dgate.get(), dup.get()}, d_reduced.get()), through.get(), shape_.hidden, shape_.hidden, false}});
      Gradients(kMlpGroup, normed.get(), {dgate.get(), dup.get()}, reduced, d_reduced.get());
    }
    NormBackward(middle, in_.weights.mlp_norm, through.get(), dy, d_middle.get());
    Narrow(d_middle.get(), narrow.get());
    ReduceGradient({{kO, narrow.get()}}, d_reduced.get());
    const Room<float> d_mixed(rows_ * Out(kQ)), dq(rows_ * Out(kQ)), dk(rows_ * Out(kK)), dv(rows_ * Out(kV));
    Multiply(std::vector<Product<float>>{{Backwards(kOutGroup, {narrow.get()}, d_reduced.get()), d_mixed.get(), In(kO), In(kO), false}});
    Gradients(kOutGroup, mixed, {narrow.get()}, reduced, d_reduced.get());
    TrainingAttention<Tiles, P>(shape_, Kept(kept, at.heads[0]), Kept(kept, at.heads[1]), Kept(kept, at.heads[2]))
        .Backward(d_mixed.get(), dq.get(), dk.get(), dv.get());
    const Room<P> narrow_q(rows_ * Out(kQ)), narrow_k(rows_ * Out(kK)), narrow_v(rows_ * Out(kV));
    float *const made[] = {dq.get(), dk.get(), dv.get()};
    P *const narrowed[] = {narrow_q.get(), narrow_k.get(), narrow_v.get()};
    RunWithHelpers(rows_, [&](int64_t row) {
      for (int i = 0; i < 3; i++) {
        if (i < 2) HeadsBackward(i, row, made[i] + row * Out(i), kept, at);
        ConvertRow<Tiles>(made[i] + row * Out(i), narrowed[i] + row * Out(i), Out(i));
      }
    });
    Norm(x, in_.weights.attn_norm, normed.get());
    ReduceGradient({{kQ, narrow_q.get()}, {kK, narrow_k.get()}, {kV, narrow_v.get()}}, d_reduced.get());
    Gradients(kAttentionGroup, normed.get(), {narrow_q.get(), narrow_k.get(), narrow_v.get()}, reduced, d_reduced.get());
    if (!dx) return;
    Multiply(std::vector<Product<float>>{{Backwards(kAttentionGroup, {narrow_q.get(), narrow_k.get(), narrow_v.get()}, d_reduced.get()),
                                          through.get(), shape_.hidden, shape_.hidden, false}});
    NormBackward(x, in_.weights.attn_norm, through.get(), d_middle.get(), dx);
  }

 private:
  // What rows are multiplied by: one matrix for all, or one for each adapter.
  struct Operand {
    const P *a;
    int64_t stride;
    const std::vector<std::unique_ptr<Matrix>> *b;
  };

  // y [rows, columns], `stride` apart, = Σ a · b.
  template <typename Y>
  struct Product {
    std::vector<Operand> operands;
    Y *y;
    int64_t stride, columns;
    bool adds;
  };

  struct Packing {
    Matrix *to;
    Stored from;
    // Whether the matrix's rows become columns.
    bool turns;
  };

  struct ModuleRows {
    int module;
    const P *rows;
  };

  int64_t In(int module) const { return InFeatures(shape_, module); }
  int64_t Out(int module) const { return OutFeatures(shape_, module); }
  static P *Kept(float *kept, int64_t at) { return reinterpret_cast<P *>(kept + at); }
  int64_t RanksOf(int module) const { return rank_begin_[module + 1] - rank_begin_[module]; }
  int64_t RanksOf(Group group) const { return rank_begin_[group.last + 1] - rank_begin_[group.first]; }
  Stored WeightOf(int module) const {
    const auto &matrix = in_.weights.matrices[module];
    const int64_t columns = In(module), more = matrix.type == WeightType::kInt8 ? sizeof(float) : 0;
    return {matrix.data, matrix.type, Out(module), columns, columns + more};
  }

  void Pack(const std::vector<Packing> &packings) {
    std::vector<std::pair<const Packing *, int64_t>> panels;
    for (const Packing &packing : packings)
      for (int64_t panel = 0; panel < packing.to->panels(); panel++) panels.push_back({&packing, panel});
    RunWithHelpers(panels.size(), [&](int64_t i) {
      const auto &[packing, panel] = panels[i];
      packing->turns ? packing->to->PackRows(panel, packing->from) : packing->to->PackColumns(panel, packing->from);
    });
  }

  Matrix *Add(std::vector<std::unique_ptr<Matrix>> *to, int64_t depth, int64_t columns) {
    to->push_back(std::make_unique<Matrix>(depth, columns));
    return to->back().get();
  }

  int64_t adapters() const { return in_.adapters.size(); }

  // A of a group's modules below one another, times their scales: [ranks of the group, in]; what an adapter has fewer ranks is zero.
  void JoinA() {
    for (const Group group : kGroups)
      for (int64_t adapter = 0; adapter < adapters() && RanksOf(group) > 0; adapter++)
        joined_a_[group.first].push_back(std::make_unique<Room<P>>(RanksOf(group) * In(group.first)));
    RunWithHelpers(kModules * adapters(), [&](int64_t index) {
      const int module = index % kModules;
      const int64_t adapter = index / kModules, in = In(module);
      const TrainedModule &own = in_.adapters[adapter][module];
      const Group group = *std::find_if(std::begin(kGroups), std::end(kGroups), [&](Group g) { return module <= g.last; });
      const Stored a = StoredRows(own.a, own.rank, in, in, own.scale);
      P *to = RanksOf(module) == 0 ? nullptr : joined_a_[group.first][adapter]->get() + (rank_begin_[module] - rank_begin_[group.first]) * in;
      for (int64_t i = 0; i < RanksOf(module); i++, to += in) {
        const P *row = i < own.rank ? RowAs<Tiles>(a, i, 0, in, to) : nullptr;
        if (!row) std::fill(to, to + in, P{});
        else if (row != to) memcpy(to, row, in * sizeof(P));
      }
    });
  }

  Stored BOf(int module, int64_t adapter) const {
    const TrainedModule &own = in_.adapters[adapter][module];
    return StoredRows(own.b, own.rank > 0 ? Out(module) : 0, own.rank, own.rank);
  }

  void PackForward() {
    JoinA();
    std::vector<Packing> packings;
    for (int module = 0; module < kModules; module++)
      packings.push_back({Add(&weights_[module], In(module), Out(module)), WeightOf(module), true});
    PackAdapters(true, &packings);
    Pack(packings);
  }

  void PackBackward(bool wants_dx) {
    JoinA();
    std::vector<Packing> packings;
    for (int module = wants_dx ? 0 : kO; module < kModules; module++)
      packings.push_back({Add(&weights_[module], Out(module), In(module)), WeightOf(module), false});
    PackAdapters(false, &packings);
    Pack(packings);
  }

  void PackAdapters(bool forward, std::vector<Packing> *packings) {
    for (int64_t adapter = 0; adapter < adapters(); adapter++) {
      for (const Group group : kGroups) {
        const int64_t in = In(group.first), ranks = RanksOf(group);
        if (ranks == 0) continue;
        Matrix *a = forward ? Add(&a_[group.first], in, ranks) : Add(&a_[group.first], ranks, in);
        packings->push_back({a, StoredRows(joined_a_[group.first][adapter]->get(), ranks, in, in), forward});
        for (int module = group.first; module <= group.last; module++) {
          const int64_t rank = RanksOf(module);
          if (rank == 0) continue;
          Matrix *b = forward ? Add(&b_[module], rank, Out(module)) : Add(&b_[module], Out(module), rank);
          packings->push_back({b, BOf(module, adapter), forward});
        }
      }
    }
  }

  template <typename Y>
  void Multiply(const std::vector<Product<Y>> &products) {
    struct Panel {
      const Product<Y> *product;
      int64_t index;
    };
    std::vector<Panel> panels;
    for (const Product<Y> &product : products)
      for (int64_t from = 0; from < product.columns; from += kPanel<Tiles>) panels.push_back({&product, from / kPanel<Tiles>});
    const int64_t blocks = blocks_.size();
    RunWithHelpers(panels.size() * blocks, [&](int64_t index) {
      const Panel &panel = panels[index / blocks];
      const Run &block = blocks_[index % blocks];
      const Product<Y> &product = *panel.product;
      TilePart<P> tile_parts[8];
      int count = 0;
      for (const Operand &operand : product.operands) {
        const Matrix &b = *(*operand.b)[operand.b->size() > 1 ? block.adapter : 0];
        tile_parts[count++] = {operand.a + block.first * operand.stride, operand.stride, b.panel(panel.index), b.depth()};
      }
      const int64_t from = panel.index * kPanel<Tiles>;
      MultiplyPanel<Tiles>(tile_parts, count, block.count, product.y + block.first * product.stride + from, product.stride,
                           std::min(kPanel<Tiles>, product.columns - from), product.adds);
    });
  }

  // u = scale · x Aᵀ of a group's modules, side by side with those of the others: [rows, ranks].
  void Reduce(Group group, const P *x, P *reduced) {
    if (RanksOf(group) == 0) return;
    Multiply(std::vector<Product<P>>{
        {{{x, In(group.first), &a_[group.first]}}, reduced + rank_begin_[group.first], ranks_, RanksOf(group), false}});
  }

  // What the gradients of modules' results give their u.
  void ReduceGradient(const std::vector<ModuleRows> &modules, P *d_reduced) {
    std::vector<Product<P>> products;
    for (const auto &[module, rows] : modules)
      if (RanksOf(module) > 0)
        products.push_back({{{rows, Out(module), &b_[module]}}, d_reduced + rank_begin_[module], ranks_, RanksOf(module), false});
    Multiply(products);
  }

  // Of x Wᵀ + u Bᵀ.
  std::vector<Operand> Forwards(int module, const P *x, const P *reduced) {
    std::vector<Operand> operands{{x, In(module), &weights_[module]}};
    if (RanksOf(module) > 0) operands.push_back({reduced + rank_begin_[module], ranks_, &b_[module]});
    return operands;
  }

  // Of Σ dy W + du A over a group's modules.
  std::vector<Operand> Backwards(Group group, const std::vector<const P *> &dys, const P *d_reduced) {
    std::vector<Operand> operands;
    for (int module = group.first; module <= group.last; module++)
      operands.push_back({dys[module - group.first], Out(module), &weights_[module]});
    if (RanksOf(group) > 0) operands.push_back({d_reduced + rank_begin_[group.first], ranks_, &a_[group.first]});
    return operands;
  }

  // y = before + a module's product.
  void AddProduct(int module, const P *x, const P *reduced, const float *before, float *y) {
    RunWithHelpers(blocks_.size(), [&](int64_t i) {
      const int64_t from = blocks_[i].first * shape_.hidden;
      memcpy(y + from, before + from, blocks_[i].count * shape_.hidden * sizeof(float));
    });
    Multiply(std::vector<Product<float>>{{Forwards(module, x, reduced), y, shape_.hidden, shape_.hidden, true}});
  }

  // Gradients of a group's A and B. The rows of each run lie along the products' depth.
  void Gradients(Group group, const P *x, const std::vector<const P *> &dys, const P *reduced, const P *d_reduced) {
    if (RanksOf(group) == 0) return;
    const int64_t begin = rank_begin_[group.first], ranks = RanksOf(group), in = In(group.first);
    // u and du of each run in turn.
    std::vector<std::unique_ptr<Room<P>>> turned;
    for (const Run &run : runs_)
      for (int i = 0; i < 2; i++) turned.push_back(std::make_unique<Room<P>>(ranks * RoundUp(run.count, 2)));
    RunWithHelpers(turned.size(), [&](int64_t i) {
      const Run &run = runs_[i / 2];
      const P *from = (i % 2 ? d_reduced : reduced) + run.first * ranks_ + begin;
      Turn(from, ranks, run.count, RoundUp(run.count, 2), turned[i]->get());
    });
    // Runs of one adapter add to the same gradients, and so go one after another.
    std::vector<std::vector<std::function<void()>>> turns;
    std::vector<size_t> turn_of(adapters());
    for (size_t i = 0; i < runs_.size(); i++) {
      const Run &run = runs_[i];
      const size_t turn = turn_of[run.adapter]++;
      if (turn == turns.size()) turns.emplace_back();
      std::vector<std::function<void()>> &works = turns[turn];
      const P *u = turned[2 * i]->get(), *du = turned[2 * i + 1]->get();
      const int64_t depth = RoundUp(run.count, 2);
      for (int64_t from = 0; from < in; from += kPanel<Tiles>)
        works.push_back([=, &run] { GradientOfA(group, run, du, depth, x + run.first * in + from, from); });
      for (int module = group.first; module <= group.last; module++) {
        const int64_t out = Out(module);
        const P *dy = dys[module - group.first] + run.first * out, *own = u + (rank_begin_[module] - begin) * depth;
        for (int64_t from = 0; from < out && in_.adapters[run.adapter][module].rank > 0; from += kPanel<Tiles>)
          works.push_back([=, &run] { GradientOfB(module, run, own, depth, dy + from, from); });
      }
    }
    for (const auto &works : turns) RunWithHelpers(works.size(), [&](int64_t i) { works[i](); });
  }

  // [count, ranks], ranks_ apart -> [ranks, depth]
  void Turn(const P *from, int64_t ranks, int64_t count, int64_t depth, P *to) const {
    // Some at a time, so that what is written stays in the caches.
    constexpr int64_t kTogether = 32;
    for (int64_t begin = 0; begin < count; begin += kTogether)
      for (int64_t i = 0; i < ranks; i++)
        for (int64_t row = begin; row < std::min(count, begin + kTogether); row++) to[i * depth + row] = from[row * ranks_ + i];
    for (int64_t i = 0; i < ranks && depth > count; i++) to[i * depth + count] = P{};
  }

  // y [height, columns of one panel] = left [height, depth] · right
  int64_t MultiplyByPanel(const P *left, int64_t height, int64_t depth, const P *right, const Run &run, int64_t width, int64_t from,
                          float *y) const {
    const int64_t columns = std::min(kPanel<Tiles>, width - from);
    Matrix packed(run.count, columns);
    packed.PackColumns(0, StoredRows(right, run.count, columns, width));
    const TilePart<P> part{left, depth, packed.panel(0), depth};
    MultiplyPanel<Tiles>(&part, 1, height, y, columns, columns, false);
    return columns;
  }

  void GradientOfA(Group group, const Run &run, const P *du, int64_t depth, const P *x, int64_t from) const {
    const int64_t in = In(group.first), ranks = RanksOf(group);
    const Room<float> made(ranks * kPanel<Tiles>);
    const int64_t columns = MultiplyByPanel(du, ranks, depth, x, run, in, from, made.get());
    for (int module = group.first; module <= group.last; module++) {
      const TrainedModule &own = in_.adapters[run.adapter][module];
      const float *rows = made.get() + (rank_begin_[module] - rank_begin_[group.first]) * columns;
      for (int64_t i = 0; i < own.rank; i++)
        Tiles::AddScaled(rows + i * columns, own.scale, own.da + i * in + from, columns);
    }
  }

  void GradientOfB(int module, const Run &run, const P *u, int64_t depth, const P *dy, int64_t from) const {
    const TrainedModule &own = in_.adapters[run.adapter][module];
    const int64_t out = Out(module);
    const Room<float> made(own.rank * kPanel<Tiles>);
    const int64_t columns = MultiplyByPanel(u, own.rank, depth, dy, run, out, from, made.get());
    float *db = own.db + from * own.rank;
    for (int64_t j = 0; j < columns; j++)
      for (int64_t i = 0; i < own.rank; i++) db[j * own.rank + i] += made.get()[i * columns + j];
  }

  void Norm(const float *x, const float *weight, P *y) {
    const int64_t hidden = shape_.hidden;
    RunWithHelpers(blocks_.size(), [&](int64_t index) {
      const Room<float> normed(hidden);
      for (int64_t row = blocks_[index].first; row < blocks_[index].first + blocks_[index].count; row++) {
        Tiles::Norm(x + row * hidden, weight, normed.get(), hidden, shape_.eps);
        ConvertRow<Tiles>(normed.get(), y + row * hidden, hidden);
      }
    });
  }

  // dx = before + what dy, the gradient of a norm's result, gives.
  void NormBackward(const float *x, const float *weight, const float *dy, const float *before, float *dx) {
    const int64_t hidden = shape_.hidden;
    RunWithHelpers(blocks_.size(), [&](int64_t index) {
      for (int64_t row = blocks_[index].first; row < blocks_[index].first + blocks_[index].count; row++) {
        memcpy(dx + row * hidden, before + row * hidden, hidden * sizeof(float));
        Tiles::NormBackward(x + row * hidden, weight, dy + row * hidden, dx + row * hidden, hidden, shape_.eps);
      }
    });
  }

  void Narrow(const float *x, P *y) {
    RunWithHelpers(blocks_.size(), [&](int64_t i) {
      const int64_t from = blocks_[i].first * shape_.hidden;
      ConvertRow<Tiles>(x + from, y + from, blocks_[i].count * shape_.hidden);
    });
  }

  template <typename Work>
  void ForMlpValues(const Work &work) {
    RunWithHelpers(blocks_.size(),
                   [&](int64_t i) { work(blocks_[i].first * shape_.intermediate, blocks_[i].count * shape_.intermediate); });
  }

  // A row's queries, keys or values, from a product to what attention takes.
  void FinishHeads(int part, int64_t row, float *values, float *kept, const KeptParts &at) {
    const int64_t width = Out(part), dim = shape_.head_dim, half = dim / 2, position = row % shape_.time;
    if (in_.weights.biases[part]) Tiles::AddScaled(in_.weights.biases[part], 1, values, width);
    if (part < 2) {
      const float *norm = in_.weights.head_norms[part];
      if (norm) memcpy(kept + at.before_norm[part] + row * width, values, width * sizeof(float));
      for (int64_t from = 0; from < width; from += dim) {
        if (norm) Tiles::Norm(values + from, norm, values + from, dim, shape_.eps);
        Tiles::Rotate(values + from, in_.cos + position * half, in_.sin + position * half, half);
      }
    }
    ConvertRow<Tiles>(values, Kept(kept, at.heads[part]) + row * width, width);
  }

  // The gradient of a row's queries or keys, from that of what attention takes to that of a product.
  void HeadsBackward(int part, int64_t row, float *values, const float *kept, const KeptParts &at) {
    const int64_t width = Out(part), dim = shape_.head_dim, half = dim / 2, position = row % shape_.time;
    const float *norm = in_.weights.head_norms[part];
    const Room<float> back(half), slopes(dim);
    for (int64_t i = 0; i < half; i++) back.get()[i] = -in_.sin[position * half + i];
    for (int64_t from = 0; from < width; from += dim) {
      Tiles::Rotate(values + from, in_.cos + position * half, back.get(), half);
      if (!norm) continue;
      memcpy(slopes.get(), values + from, dim * sizeof(float));
      std::fill(values + from, values + from + dim, 0.0f);
      Tiles::NormBackward(kept + at.before_norm[part] + row * width + from, norm, slopes.get(), values + from, dim, shape_.eps);
    }
  }

  const TrainingShape &shape_;
  const TrainingInputs &in_;
  const int64_t rows_;
  const std::vector<Run> runs_;
  std::vector<Run> blocks_;
  // Where a module's u begin in a row of them.
  int64_t rank_begin_[kModules + 1], ranks_ = 0;
  std::vector<std::unique_ptr<Matrix>> weights_[kModules], b_[kModules];
  // By the first module of a group.
  std::vector<std::unique_ptr<Matrix>> a_[kModules];
  std::vector<std::unique_ptr<Room<P>>> joined_a_[kModules];
};

template <typename Tiles, typename P>
void RunForward(const TrainingShape &shape, const TrainingInputs &in, const float *x, float *y, float *kept) {
  Layer<Tiles, P> layer(shape, in);
  if (kept) return layer.Forward(x, y, kept);
  const Room<float> room(layer.parts().total);
  layer.Forward(x, y, room.get());
}

template <typename Tiles, typename P>
void RunBackward(const TrainingShape &shape, const TrainingInputs &in, const float *x, const float *kept, const float *dy, float *dx) {
  // What is kept is only read.
  if (kept) return Layer<Tiles, P>(shape, in).Backward(x, const_cast<float *>(kept), dy, dx);
  Layer<Tiles, P> again(shape, in);
  const Room<float> room(again.parts().total);
  again.Forward(x, nullptr, room.get());
  Layer<Tiles, P>(shape, in).Backward(x, room.get(), dy, dx);
}

}  // namespace

int64_t KeptByTraining(const TrainingShape &shape, const TrainingInputs &inputs) {
  int64_t ranks = 0;
  for (int module = 0; module < kModules; module++) ranks += RoomForRanks(inputs, module);
  return KeptParts(shape, inputs, ranks).total;
}

void TrainingForward(const TrainingShape &shape, const TrainingInputs &inputs, const float *x, float *y, float *kept) {
  OnThisMachine(shape.narrow, [&](auto tiles, auto value) { RunForward<decltype(tiles), decltype(value)>(shape, inputs, x, y, kept); });
}

void TrainingBackward(const TrainingShape &shape, const TrainingInputs &inputs, const float *x, const float *kept, const float *dy, float *dx) {
  OnThisMachine(shape.narrow,
                [&](auto tiles, auto value) { RunBackward<decltype(tiles), decltype(value)>(shape, inputs, x, kept, dy, dx); });
}

}  // namespace anneal
