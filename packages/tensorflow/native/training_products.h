// Products of the rows of a training pass, shared out among threads. Included by training_layer.cc.

#ifndef ANNEAL_TRAINING_PRODUCTS_H_
#define ANNEAL_TRAINING_PRODUCTS_H_

#include <memory>
#include <utility>
#include <vector>

#include "tiles.h"
#include "training_layer.h"

namespace anneal {
namespace {

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

// P: float, or uint16_t for bfloat16.
template <typename Tiles, typename P>
class TrainingProducts {
 public:
  using Matrix = Packed<Tiles, P>;
  // One for all rows, or one for each adapter.
  using Matrices = std::vector<std::unique_ptr<Matrix>>;

  // Rows and what they are multiplied by.
  struct Operand {
    const P *a;
    int64_t stride;
    const Matrices *b;
  };

  // y [rows, columns], `stride` apart, = Σ a · b.
  template <typename Y>
  struct Product {
    std::vector<Operand> operands;
    Y *y;
    int64_t stride, columns;
  };

  struct Packing {
    Matrix *to;
    Stored from;
    // Whether the matrix's rows become columns.
    bool turns;
  };

  TrainingProducts(const TrainingShape &shape, const TrainingInputs &in) : runs_(RunsOf(shape, in)) {
    for (const Run &run : runs_)
      for (int64_t at = 0; at < run.count; at += kRowsTogether)
        blocks_.push_back({run.first + at, std::min(kRowsTogether, run.count - at), run.adapter});
  }

  const std::vector<Run> &runs() const { return runs_; }

  static Matrix *Add(Matrices *to, int64_t depth, int64_t columns) {
    to->push_back(std::make_unique<Matrix>(depth, columns));
    return to->back().get();
  }

  static void Pack(const std::vector<Packing> &packings) {
    std::vector<std::pair<const Packing *, int64_t>> panels;
    for (const Packing &packing : packings)
      for (int64_t panel = 0; panel < packing.to->panels(); panel++) panels.push_back({&packing, panel});
    RunWithHelpers(panels.size(), [&](int64_t i) {
      const auto &[packing, panel] = panels[i];
      packing->turns ? packing->to->PackRows(panel, packing->from) : packing->to->PackColumns(panel, packing->from);
    });
  }

  template <typename Y>
  void Multiply(const std::vector<Product<Y>> &products) const {
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
                           std::min(kPanel<Tiles>, product.columns - from), false);
    });
  }

  // work(first, count) of rows that a thread takes at a time.
  template <typename Work>
  void ForBlocks(const Work &work) const {
    RunWithHelpers(blocks_.size(), [&](int64_t i) { work(blocks_[i].first, blocks_[i].count); });
  }

 private:
  const std::vector<Run> runs_;
  std::vector<Run> blocks_;
};

}  // namespace
}  // namespace anneal

#endif  // ANNEAL_TRAINING_PRODUCTS_H_
