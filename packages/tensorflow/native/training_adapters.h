// What adapters add to a layer's products in training, and their gradients. Included by training_layer.cc.

#ifndef ANNEAL_TRAINING_ADAPTERS_H_
#define ANNEAL_TRAINING_ADAPTERS_H_

#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#include "training_products.h"

namespace anneal {
namespace {

// Modules that multiply the same rows.
struct Group {
  int first, last;
};
constexpr Group kAttentionGroup{kQ, kV}, kOutGroup{kO, kO}, kMlpGroup{kGate, kUp}, kDownGroup{kDown, kDown};
constexpr Group kGroups[] = {kAttentionGroup, kOutGroup, kMlpGroup, kDownGroup};

// Of all adapters' u of a module: the largest rank, filled up to an even one.
int64_t RoomForRanks(const TrainingInputs &in, int module) {
  int64_t largest = 0;
  for (const auto &modules : in.adapters) largest = std::max(largest, modules[module].rank);
  return RoundUp(largest, 2);
}

// u = scale · x Aᵀ of all modules lie side by side in a row of them.
template <typename Tiles, typename P>
class TrainingAdapters {
  using Products = TrainingProducts<Tiles, P>;
  using Matrix = typename Products::Matrix;
  using Packing = typename Products::Packing;
  using Operand = typename Products::Operand;
  template <typename Y>
  using Product = typename Products::template Product<Y>;

 public:
  struct ModuleRows {
    int module;
    const P *rows;
  };

  TrainingAdapters(const TrainingShape &shape, const TrainingInputs &in, const Products &products) : shape_(shape), in_(in), products_(products) {
    for (int module = 0; module < kModules; module++) {
      rank_begin_[module] = ranks_;
      ranks_ += RoomForRanks(in, module);
    }
    rank_begin_[kModules] = ranks_;
  }

  // Values of a row of u.
  int64_t ranks() const { return ranks_; }
  int64_t RanksOf(int module) const { return rank_begin_[module + 1] - rank_begin_[module]; }
  int64_t RanksOf(Group group) const { return rank_begin_[group.last + 1] - rank_begin_[group.first]; }

  // What the methods below multiply by, in one direction; to be packed before them.
  void AddPackings(bool forward, std::vector<Packing> *packings) {
    JoinA();
    for (int64_t adapter = 0; adapter < adapters(); adapter++) {
      for (const Group group : kGroups) {
        const int64_t in = In(group.first), ranks = RanksOf(group);
        if (ranks == 0) continue;
        Matrix *a = forward ? Products::Add(&a_[group.first], in, ranks) : Products::Add(&a_[group.first], ranks, in);
        packings->push_back({a, StoredRows(joined_a_[group.first][adapter]->get(), ranks, in, in), forward});
        for (int module = group.first; module <= group.last; module++) {
          const int64_t rank = RanksOf(module);
          if (rank == 0) continue;
          Matrix *b = forward ? Products::Add(&b_[module], rank, Out(module)) : Products::Add(&b_[module], Out(module), rank);
          packings->push_back({b, BOf(module, adapter), forward});
        }
      }
    }
  }

  // u of a group's modules.
  void Reduce(Group group, const P *x, P *reduced) const {
    if (RanksOf(group) == 0) return;
    products_.Multiply(std::vector<Product<P>>{
        {{{x, In(group.first), &a_[group.first]}}, reduced + rank_begin_[group.first], ranks_, RanksOf(group)}});
  }

  // What the gradients of modules' results give their u.
  void ReduceGradient(const std::vector<ModuleRows> &modules, P *d_reduced) const {
    std::vector<Product<P>> products;
    for (const auto &[module, rows] : modules)
      if (RanksOf(module) > 0)
        products.push_back({{{rows, Out(module), &b_[module]}}, d_reduced + rank_begin_[module], ranks_, RanksOf(module)});
    products_.Multiply(products);
  }

  // What u adds to a module's result: u Bᵀ.
  void AddForward(int module, const P *reduced, std::vector<Operand> *to) const {
    if (RanksOf(module) > 0) to->push_back({reduced + rank_begin_[module], ranks_, &b_[module]});
  }

  // What du adds to the gradient of what a group multiplies: du A.
  void AddBackward(Group group, const P *d_reduced, std::vector<Operand> *to) const {
    if (RanksOf(group) > 0) to->push_back({d_reduced + rank_begin_[group.first], ranks_, &a_[group.first]});
  }

  // Gradients of a group's A and B. The rows of each run lie along the products' depth.
  void Gradients(Group group, const P *x, const std::vector<const P *> &dys, const P *reduced, const P *d_reduced) const {
    if (RanksOf(group) == 0) return;
    const int64_t begin = rank_begin_[group.first], ranks = RanksOf(group), in = In(group.first);
    // u and du of each run in turn.
    std::vector<std::unique_ptr<Room<P>>> turned;
    for (const Run &run : products_.runs())
      for (int i = 0; i < 2; i++) turned.push_back(std::make_unique<Room<P>>(ranks * RoundUp(run.count, 2)));
    RunWithHelpers(turned.size(), [&](int64_t i) {
      const Run &run = products_.runs()[i / 2];
      const P *from = (i % 2 ? d_reduced : reduced) + run.first * ranks_ + begin;
      Turn(from, ranks, run.count, RoundUp(run.count, 2), turned[i]->get());
    });
    // Runs of one adapter add to the same gradients, and so go one after another.
    std::vector<std::vector<std::function<void()>>> turns;
    std::vector<size_t> turn_of(adapters());
    for (size_t i = 0; i < products_.runs().size(); i++) {
      const Run &run = products_.runs()[i];
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

 private:
  int64_t In(int module) const { return InFeatures(shape_, module); }
  int64_t Out(int module) const { return OutFeatures(shape_, module); }
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

  const TrainingShape &shape_;
  const TrainingInputs &in_;
  const Products &products_;
  // Where a module's u begin in a row of them.
  int64_t rank_begin_[kModules + 1], ranks_ = 0;
  // By the first module of a group.
  typename Products::Matrices a_[kModules];
  std::vector<std::unique_ptr<Room<P>>> joined_a_[kModules];
  typename Products::Matrices b_[kModules];
};

}  // namespace
}  // namespace anneal

#endif  // ANNEAL_TRAINING_ADAPTERS_H_
