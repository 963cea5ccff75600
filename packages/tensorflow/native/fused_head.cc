#include "fused_head.h"

#include <algorithm>
#include <cmath>

#include "cache_lines.h"
#include "factor.h"
#include "helpers.h"
#include "machines.h"

namespace anneal {
namespace {

// Values whose exponentials are added up at a time.
constexpr int64_t kBlock = 1024;
// Logits that a thread adds adapters to at a time.
constexpr int64_t kColumns = 2048;

// A row's logits as shares of all: Σ exp((logit - most) / temperature), block by block.
template <typename Machine>
class Shares {
 public:
  Shares(const float *logits, int64_t vocab, float most, float scale) : logits_(logits), vocab_(vocab), most_(most), scale_(scale) {
    for (int64_t begin = 0; begin < vocab; begin += kBlock) total_ += sums_.emplace_back(Block(begin));
  }

  double total() const { return total_; }

  // The first id at which the running sum passes `share` of the total. Sums within a block are added up in another order than its own sum:
  // where rounding keeps them below, it is the block's last id that has any share.
  int64_t At(double share) {
    double left = share * total_;
    size_t block = 0;
    for (; block + 1 < sums_.size() && left >= sums_[block]; block++) left -= sums_[block];
    const int64_t begin = block * kBlock, count = std::min(kBlock, vocab_ - begin);
    Block(begin);
    int64_t last = 0;
    for (int64_t i = 0; i < count; i++) {
      if (made_[i] > 0) last = i;
      left -= made_[i];
      if (left < 0) return begin + i;
    }
    return begin + last;
  }

 private:
  float Block(int64_t begin) { return Machine::ExpSum(logits_ + begin, made_, std::min(kBlock, vocab_ - begin), most_, scale_); }

  const float *logits_;
  const int64_t vocab_;
  const float most_, scale_;
  double total_ = 0;
  std::vector<double> sums_;
  alignas(64) float made_[kBlock];
};

template <typename Machine>
void ReadRow(const HeadInputs &in, int64_t row, const float *logits, const HeadResults &to) {
  const float most = Machine::Largest(logits, in.vocab);
  const float *best = std::find(logits, logits + in.vocab, most);
  // Nothing is the largest where none of them is a number.
  to.best[row] = best == logits + in.vocab ? 0 : best - logits;
  to.best_logit[row] = most;
  Shares<Machine> shares(logits, in.vocab, most, 1 / in.temperatures[row]);
  const double total = in.temperatures[row] == 1 ? shares.total() : Shares<Machine>(logits, in.vocab, most, 1).total();
  to.log_total[row] = std::log(total) + most;
  to.mass[row] = shares.total();
  to.drawn[row] = in.draws[row] < 0 ? to.best[row] : shares.At(in.draws[row]);
  to.drawn_logit[row] = logits[to.drawn[row]];
}

template <typename Machine>
void Head(const HeadInputs &in, float *logits, const HeadResults &to) {
  const int64_t hidden = in.hidden, vocab = in.vocab, largest = LargestRank(in.adapters);
  Factor<Machine> normed(in.rows * hidden, in.narrow);
  for (int64_t row = 0; row < in.rows; row++) {
    Machine::Norm(in.x + row * hidden, in.norm, normed.values() + row * hidden, hidden, in.eps);
    normed.Narrow(row * hidden, hidden);
  }
  const uint16_t *narrow = in.type == WeightType::kBfloat16 ? normed.narrow() : nullptr;
  std::vector<Product> products = {{normed.values(), in.matrix, in.type, logits, in.rows, hidden, vocab, narrow}};
  Floats reduced(in.rows * largest);
  std::vector<RowRun> runs;
  for (const RowRun &run : RunsOf(in.adapter_of_row, in.rows, in.adapters)) {
    if (!run.adapter || run.adapter->head().rank == 0) continue;
    const LowRank &update = run.adapter->head();
    products.push_back(ReducedBy(update, normed, run.first, run.count, hidden, reduced.data() + run.first * largest));
    runs.push_back(run);
  }
  SkinnyProducts(products.data(), products.size());
  // Column by column, since rows of one adapter read the same of it.
  if (!runs.empty())
    ForEach((vocab + kColumns - 1) / kColumns, in.rows * vocab, [&](int64_t piece) {
      const int64_t begin = piece * kColumns, count = std::min(kColumns, vocab - begin);
      for (const RowRun &run : runs)
        for (int64_t i = 0; i < run.count; i++) {
          const LowRank &update = run.adapter->head();
          const float *u = reduced.data() + run.first * largest + i * update.rank;
          AddUpdate<Machine>(update, u, run.adapter->scale, begin, logits + (run.first + i) * vocab + begin, count);
        }
    });
  ForEach(in.rows, in.rows * vocab, [&](int64_t row) { ReadRow<Machine>(in, row, logits + row * vocab, to); });
}

}  // namespace

void FusedHead(const HeadInputs &inputs, float *logits, const HeadResults &results) {
#if defined(__x86_64__)
  if (ThisMachine() == Machine::kAvx512) return Head<Avx512>(inputs, logits, results);
  if (ThisMachine() == Machine::kAvx2) return Head<Avx2>(inputs, logits, results);
#endif
  Head<Generic>(inputs, logits, results);
}

}  // namespace anneal
