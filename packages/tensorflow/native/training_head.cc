#include "training_head.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "tiles.h"

namespace anneal {
namespace {

// Of exponentials that exist at once.
constexpr int64_t kMostBytes = 64 << 20;
// Rows of the vocabulary that are packed at a time for the gradient.
constexpr int64_t kWordsTogether = 2048;

template <typename Tiles, typename P>
class Head {
 public:
  Head(const TrainingHeadInputs &in, const TrainingHeadResults &to)
      : in_(in), to_(to), rank_(RoundUp(in.rank, 2)), stride_(RoundUp(in.vocab, 2)), panels_(Panels(in.vocab)) {}

  void Run() {
    const int64_t fit = kMostBytes / static_cast<int64_t>(stride_ * sizeof(P)) / kRowsTogether * kRowsTogether;
    const int64_t most = std::min(RoundUp(in_.rows, kRowsTogether), std::max(kRowsTogether, fit));
    Chunk chunk(most, *this);
    for (int64_t first = 0; first < in_.rows; first += most) {
      chunk.first = first, chunk.count = std::min(most, in_.rows - first);
      Score(chunk);
      if (in_.dlogprobs) Gradients(chunk);
    }
  }

 private:
  using Matrix = Packed<Tiles, P>;

  // Of a row in a panel of the vocabulary: the largest logit, and the sum of exponentials beside it.
  struct Share {
    float most, sum;
  };

  struct Chunk {
    Chunk(int64_t most, const Head &head)
        : h(most * head.in_.hidden), reduced(most * head.rank_), exponentials(head.in_.dlogprobs ? most * head.stride_ : 0),
          shares(most * head.panels_) {}

    int64_t first = 0, count = 0;
    const Room<P> h, reduced, exponentials;
    // By panel.
    const Room<Share> shares;
  };

  static int64_t Panels(int64_t columns) { return (columns + kPanel<Tiles> - 1) / kPanel<Tiles>; }

  Stored Words(int64_t from, int64_t count) const {
    const int64_t more = in_.type == WeightType::kInt8 ? sizeof(float) : 0, stride = in_.hidden + more;
    const int64_t bytes = in_.type == WeightType::kFloat32 ? sizeof(float) : in_.type == WeightType::kBfloat16 ? sizeof(uint16_t) : 1;
    return {static_cast<const char *>(in_.weight) + from * stride * bytes, in_.type, count, in_.hidden, stride};
  }

  // Log-probabilities of the targets, and exponentials where gradients follow.
  void Score(const Chunk &chunk) {
    ForBlocks(chunk.count, [&](int64_t from, int64_t count) {
      ConvertRow<Tiles>(in_.h + (chunk.first + from) * in_.hidden, chunk.h.get() + from * in_.hidden, count * in_.hidden);
    });
    if (rank_ > 0) Reduce(chunk);
    RunWithHelpers(panels_, [&](int64_t panel) { ScorePanel(chunk, panel); });
    RunWithHelpers(chunk.count, [&](int64_t row) {
      float most = 0, total = 0;
      TotalOf(chunk, row, &most, &total);
      for (int64_t i = 0; i < in_.k; i++) {
        const int64_t at = (chunk.first + row) * in_.k + i;
        // Rounding could leave a certain token a hair above log 1.
        const float logprob = Logit(chunk, row, in_.targets[at]) - most - std::log(total);
        to_.logprobs[at] = logprob > 0 ? 0 : logprob;
      }
    });
  }

  // u = scale · h Aᵀ
  void Reduce(const Chunk &chunk) {
    Matrix a(in_.hidden, rank_);
    const Stored rows = StoredRows(in_.a, in_.rank, in_.hidden, in_.hidden, in_.scale);
    for (int64_t panel = 0; panel < a.panels(); panel++) a.PackRows(panel, rows);
    ForBlocks(chunk.count, [&](int64_t from, int64_t count) {
      for (int64_t panel = 0; panel < a.panels(); panel++) {
        const TilePart<P> part{chunk.h.get() + from * in_.hidden, in_.hidden, a.panel(panel), a.depth()};
        MultiplyPanel<Tiles>(&part, 1, count, chunk.reduced.get() + from * rank_ + panel * kPanel<Tiles>, rank_, a.columns_of(panel), false);
      }
    });
  }

  void ScorePanel(const Chunk &chunk, int64_t panel) {
    const int64_t from = panel * kPanel<Tiles>, columns = std::min(kPanel<Tiles>, in_.vocab - from);
    Matrix words(in_.hidden, columns), b(rank_, columns);
    words.PackRows(0, Words(from, columns));
    TilePart<P> parts[] = {{chunk.h.get(), in_.hidden, words.panel(0), words.depth()}, {}};
    if (rank_ > 0) {
      b.PackRows(0, StoredRows(in_.b + from * in_.rank, columns, in_.rank, in_.rank));
      parts[1] = {chunk.reduced.get(), rank_, b.panel(0), b.depth()};
    }
    const Room<float> logits(chunk.count * columns);
    MultiplyPanel<Tiles>(parts, rank_ > 0 ? 2 : 1, chunk.count, logits.get(), columns, columns, false);
    for (int64_t row = 0; row < chunk.count; row++) {
      float *values = logits.get() + row * columns;
      Share &share = chunk.shares.get()[panel * chunk.count + row];
      share.most = Tiles::Largest(values, columns);
      share.sum = Tiles::ExpSum(values, values, columns, share.most, 1);
      if (in_.dlogprobs) ConvertRow<Tiles>(values, chunk.exponentials.get() + row * stride_ + from, columns);
    }
  }

  void TotalOf(const Chunk &chunk, int64_t row, float *most, float *total) const {
    const auto share = [&](int64_t panel) -> const Share & { return chunk.shares.get()[panel * chunk.count + row]; };
    *most = share(0).most;
    for (int64_t panel = 1; panel < panels_; panel++) *most = std::max(*most, share(panel).most);
    double sum = 0;
    for (int64_t panel = 0; panel < panels_; panel++) sum += share(panel).sum * std::exp(share(panel).most - *most);
    *total = static_cast<float>(sum);
  }

  // Of factors as the products have them.
  float Logit(const Chunk &chunk, int64_t row, int64_t word) const {
    std::vector<float> left(std::max(in_.hidden, rank_)), right(left.size());
    std::vector<P> narrow(left.size());
    const auto dot = [&](const P *a, const Stored &b, int64_t count) {
      const float *x = RowAs<Tiles>(StoredRows(a, 1, count, count), 0, 0, count, left.data());
      const P *values = RowAs<Tiles>(b, 0, 0, count, narrow.data());
      return Tiles::Dot(x, RowAs<Tiles>(StoredRows(values, 1, count, count), 0, 0, count, right.data()), count);
    };
    float sum = dot(chunk.h.get() + row * in_.hidden, Words(word, 1), in_.hidden);
    if (rank_ > 0) sum += dot(chunk.reduced.get() + row * rank_, StoredRows(in_.b + word * in_.rank, 1, in_.rank, in_.rank), in_.rank);
    return sum;
  }

  // With p the softmax and G the sum of a row's dlogprobs, dlogits = Σ dlogprobs · onehot(target) - G p.
  void Gradients(const Chunk &chunk) {
    RunWithHelpers(chunk.count, [&](int64_t row) { Spread(chunk, row); });
    const Room<float> product(chunk.count * in_.hidden);
    MultiplySpread(chunk, product.get());
    RunWithHelpers(chunk.count, [&](int64_t row) {
      float *dh = to_.dh + (chunk.first + row) * in_.hidden;
      for (int64_t i = 0; i < in_.hidden; i++) dh[i] = -product.get()[row * in_.hidden + i];
      AddTargets(chunk, row, Words(0, in_.vocab), dh);
    });
    if (rank_ > 0) AdapterGradients(chunk);
  }

  // A row's exponentials become G p.
  void Spread(const Chunk &chunk, int64_t row) {
    float most = 0, total = 0, sum = 0;
    TotalOf(chunk, row, &most, &total);
    for (int64_t i = 0; i < in_.k; i++) sum += in_.dlogprobs[(chunk.first + row) * in_.k + i];
    P *values = chunk.exponentials.get() + row * stride_;
    for (int64_t panel = 0; panel < panels_; panel++) {
      const int64_t from = panel * kPanel<Tiles>;
      const float beside = std::exp(chunk.shares.get()[panel * chunk.count + row].most - most);
      Tiles::ScaleRow(values + from, sum * beside / total, std::min(kPanel<Tiles>, in_.vocab - from));
    }
    if (stride_ > in_.vocab) values[in_.vocab] = P{};
  }

  // y [count, hidden] = G p W
  void MultiplySpread(const Chunk &chunk, float *y) {
    for (int64_t begin = 0; begin < in_.vocab; begin += kWordsTogether) {
      const int64_t words = std::min(kWordsTogether, in_.vocab - begin);
      Matrix packed(words, in_.hidden);
      RunWithHelpers(packed.panels(), [&](int64_t panel) { packed.PackColumns(panel, Words(begin, words)); });
      const int64_t blocks = (chunk.count + kRowsTogether - 1) / kRowsTogether;
      RunWithHelpers(packed.panels() * blocks, [&](int64_t index) {
        const int64_t panel = index / blocks, first = index % blocks * kRowsTogether;
        const TilePart<P> part{chunk.exponentials.get() + first * stride_ + begin, stride_, packed.panel(panel), packed.depth()};
        MultiplyPanel<Tiles>(&part, 1, std::min(kRowsTogether, chunk.count - first), y + first * in_.hidden + panel * kPanel<Tiles>,
                             in_.hidden, packed.columns_of(panel), begin > 0);
      });
    }
  }

  // y += Σ dlogprob · row of its target
  void AddTargets(const Chunk &chunk, int64_t row, const Stored &rows, float *y) const {
    std::vector<float> wide(rows.columns);
    for (int64_t i = 0; i < in_.k; i++) {
      const int64_t at = (chunk.first + row) * in_.k + i;
      if (in_.dlogprobs[at] == 0) continue;
      const float *values = RowAs<Tiles>(rows, in_.targets[at], 0, rows.columns, wide.data());
      Tiles::AddScaled(values, in_.dlogprobs[at], y, rows.columns);
    }
  }

  void AdapterGradients(const Chunk &chunk) {
    const int64_t rank = in_.rank, hidden = in_.hidden;
    // What u is given, times the scale that u has.
    std::vector<float> d_reduced(chunk.count * rank);
    {
      Matrix b(in_.vocab, rank);
      for (int64_t panel = 0; panel < b.panels(); panel++) b.PackColumns(panel, StoredRows(in_.b, in_.vocab, rank, rank));
      ForBlocks(chunk.count, [&](int64_t from, int64_t count) {
        for (int64_t panel = 0; panel < b.panels(); panel++) {
          const TilePart<P> part{chunk.exponentials.get() + from * stride_, stride_, b.panel(panel), b.depth()};
          MultiplyPanel<Tiles>(&part, 1, count, d_reduced.data() + from * rank + panel * kPanel<Tiles>, rank, b.columns_of(panel), false);
        }
      });
    }
    RunWithHelpers(chunk.count, [&](int64_t row) {
      float *own = d_reduced.data() + row * rank;
      for (int64_t i = 0; i < rank; i++) own[i] = -own[i];
      AddTargets(chunk, row, StoredRows(in_.b, in_.vocab, rank, rank), own);
      for (int64_t i = 0; i < rank; i++) {
        own[i] *= in_.scale;
        Tiles::AddScaled(in_.a + i * hidden, own[i], to_.dh + (chunk.first + row) * hidden, hidden);
      }
    });
    RunWithHelpers(rank, [&](int64_t i) {
      for (int64_t row = 0; row < chunk.count; row++)
        Tiles::AddScaled(in_.h + (chunk.first + row) * hidden, d_reduced[row * rank + i], to_.da + i * hidden, hidden);
    });
    AddToB(chunk);
  }

  // dB += onehot(targets)ᵀ dlogprobs u - (G p)ᵀ u
  void AddToB(const Chunk &chunk) {
    const int64_t rank = in_.rank, depth = RoundUp(chunk.count, 2);
    const Room<P> turned(rank_ * depth);
    std::fill(turned.get(), turned.get() + rank_ * depth, P{});
    std::vector<float> wide(rank_);
    for (int64_t row = 0; row < chunk.count; row++) {
      const P *u = chunk.reduced.get() + row * rank_;
      for (int64_t i = 0; i < rank_; i++) turned.get()[i * depth + row] = u[i];
      const float *values = RowAs<Tiles>(StoredRows(u, 1, rank_, rank_), 0, 0, rank_, wide.data());
      for (int64_t i = 0; i < in_.k; i++) {
        const int64_t at = (chunk.first + row) * in_.k + i;
        Tiles::AddScaled(values, in_.dlogprobs[at], to_.db + in_.targets[at] * rank, rank);
      }
    }
    RunWithHelpers(panels_, [&](int64_t panel) {
      const int64_t from = panel * kPanel<Tiles>, columns = std::min(kPanel<Tiles>, in_.vocab - from);
      Matrix spread(chunk.count, columns);
      spread.PackColumns(0, StoredRows(chunk.exponentials.get() + from, chunk.count, columns, stride_));
      const Room<float> made(rank * columns);
      const TilePart<P> part{turned.get(), depth, spread.panel(0), depth};
      MultiplyPanel<Tiles>(&part, 1, rank, made.get(), columns, columns, false);
      for (int64_t j = 0; j < columns; j++)
        for (int64_t i = 0; i < rank; i++) to_.db[(from + j) * rank + i] -= made.get()[i * columns + j];
    });
  }

  template <typename Work>
  static void ForBlocks(int64_t rows, const Work &work) {
    RunWithHelpers((rows + kRowsTogether - 1) / kRowsTogether,
                   [&](int64_t i) { work(i * kRowsTogether, std::min(kRowsTogether, rows - i * kRowsTogether)); });
  }

  const TrainingHeadInputs &in_;
  const TrainingHeadResults &to_;
  // Of u, filled up to an even number; `stride_` so of a row of exponentials.
  const int64_t rank_, stride_, panels_;
};

}  // namespace

void TrainingHead(const TrainingHeadInputs &inputs, const TrainingHeadResults &results) {
  OnThisMachine(inputs.narrow, [&](auto tiles, auto value) { Head<decltype(tiles), decltype(value)>(inputs, results).Run(); });
}

}  // namespace anneal
