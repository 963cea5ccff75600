// Causal attention forward and backward, in blocks of queries. Included by training_layer.cc.

#ifndef ANNEAL_TRAINING_ATTENTION_H_
#define ANNEAL_TRAINING_ATTENTION_H_

#include <memory>
#include <vector>

#include "tiles.h"
#include "training_layer.h"

namespace anneal {
namespace {

// P: float or uint16_t, for bfloat16. Queries, keys and values are [batch · time, heads · head_dim].
template <typename Tiles, typename P>
class TrainingAttention {
 public:
  TrainingAttention(const TrainingShape &shape, const P *q, const P *k, const P *v)
      : shape_(shape), q_(q), k_(k), v_(v), dim_(shape.head_dim), group_(shape.heads / shape.kv_heads),
        queries_stride_(shape.heads * dim_), keys_stride_(shape.kv_heads * dim_), stride_(RoundUp(shape.time, kPanel<Tiles>)) {}

  // o as q.
  void Forward(P *o) {
    const auto keys = PackAll(k_, true), values = PackAll(v_, false);
    const int64_t blocks = (shape_.time + kQueries - 1) / kQueries;
    RunWithHelpers(shape_.batch * shape_.heads * blocks, [&](int64_t index) {
      const Block block = BlockAt(index / blocks, index % blocks);
      const Room<float> scores(kQueries * stride_), mixed(kQueries * dim_);
      const Room<P> shares(kQueries * stride_);
      Scores(block, q_, *keys[KeysOf(block)], scores.get());
      float sums[kQueries];
      for (int64_t r = 0; r < block.count; r++) {
        const Range seen = SeenBy(block, r);
        float *row = scores.get() + r * stride_;
        const float most = Tiles::Largest(row + seen.begin, seen.end - seen.begin);
        sums[r] = Tiles::ExpSum(row + seen.begin, row + seen.begin, seen.end - seen.begin, most, shape_.attention_scale);
        PutShares(block, seen, row, shares.get() + r * stride_);
      }
      Mix(block, shares.get(), *values[KeysOf(block)], mixed.get(), dim_);
      for (int64_t r = 0; r < block.count; r++) {
        float *row = mixed.get() + r * dim_;
        for (int64_t i = 0; i < dim_; i++) row[i] /= sums[r];
        ConvertRow<Tiles>(row, o + (block.row + r) * queries_stride_ + block.head * dim_, dim_);
      }
    });
  }

  // What d_o, the gradient of Forward's result, gives q, k and v, in float32.
  void Backward(const float *d_o, float *dq, float *dk, float *dv) {
    const auto keys = PackAll(k_, true), values = PackAll(v_, true), key_columns = PackAll(k_, false);
    const int64_t blocks = (shape_.time + kQueries - 1) / kQueries, of_head = shape_.time * dim_;
    const Room<float> dks(shape_.batch * shape_.heads * of_head), dvs(shape_.batch * shape_.heads * of_head);
    RunWithHelpers(shape_.batch * shape_.heads, [&](int64_t head) {
      float *own_dk = dks.get() + head * of_head, *own_dv = dvs.get() + head * of_head;
      memset(own_dk, 0, of_head * sizeof(float));
      memset(own_dv, 0, of_head * sizeof(float));
      BackwardRooms rooms(stride_, dim_);
      for (int64_t i = 0; i < blocks; i++) {
        const Block block = BlockAt(head, i);
        const int64_t at = KeysOf(block);
        BackwardBlock(block, {*keys[at], *values[at], *key_columns[at]}, d_o, rooms, dq, own_dk, own_dv);
      }
    });
    RunWithHelpers(shape_.rows(), [&](int64_t row) {
      const int64_t sequence = row / shape_.time, position = row % shape_.time;
      for (int64_t kv = 0; kv < shape_.kv_heads; kv++) {
        float *to_dk = dk + row * keys_stride_ + kv * dim_, *to_dv = dv + row * keys_stride_ + kv * dim_;
        for (int64_t member = 0; member < group_; member++) {
          const int64_t from = (sequence * shape_.heads + kv * group_ + member) * of_head + position * dim_;
          Gather(member, dks.get() + from, to_dk);
          Gather(member, dvs.get() + from, to_dv);
        }
      }
    });
  }

 private:
  // A multiple of every tile's rows, few enough that scores of some thousand keys stay in the caches.
  static constexpr int64_t kQueries = 48;

  using Matrix = Packed<Tiles, P>;

  // Queries of one head; `row` is the first one's, `begin` to `end` the keys that any of them sees, from a panel's begin on.
  struct Block {
    int64_t sequence, head, first, count, row, begin, end;
  };
  struct Range {
    int64_t begin, end;
  };
  struct PackedKeys {
    const Matrix &keys, &values, &key_columns;
  };
  struct BackwardRooms {
    BackwardRooms(int64_t stride, int64_t dim)
        : scores(kQueries * stride), slopes(kQueries * stride), shares(kQueries * stride), narrow_slopes(kQueries * stride),
          shares_by_key(kQueries * stride), slopes_by_key(kQueries * stride), narrow_do(kQueries * dim) {}
    const Room<float> scores, slopes;
    const Room<P> shares, narrow_slopes, shares_by_key, slopes_by_key, narrow_do;
  };

  // Of each sequence and key head: [head_dim, time] where keys are columns, or [time, head_dim].
  std::vector<std::unique_ptr<Matrix>> PackAll(const P *values, bool as_columns) {
    std::vector<std::unique_ptr<Matrix>> all;
    const int64_t count = shape_.batch * shape_.kv_heads;
    for (int64_t i = 0; i < count; i++)
      all.push_back(as_columns ? std::make_unique<Matrix>(dim_, shape_.time) : std::make_unique<Matrix>(shape_.time, dim_));
    RunWithHelpers(count, [&](int64_t i) {
      const int64_t sequence = i / shape_.kv_heads, head = i % shape_.kv_heads;
      const Stored rows = StoredRows(values + sequence * shape_.time * keys_stride_ + head * dim_, shape_.time, dim_, keys_stride_);
      for (int64_t panel = 0; panel < all[i]->panels(); panel++)
        as_columns ? all[i]->PackRows(panel, rows) : all[i]->PackColumns(panel, rows);
    });
    return all;
  }

  Block BlockAt(int64_t head, int64_t index) const {
    Block block{head / shape_.heads, head % shape_.heads, index * kQueries, 0, 0, 0, 0};
    block.count = std::min(kQueries, shape_.time - block.first);
    block.row = block.sequence * shape_.time + block.first;
    const int64_t earliest = std::max<int64_t>(0, block.first + 1 - shape_.window);
    block.begin = earliest / kPanel<Tiles> * kPanel<Tiles>;
    block.end = std::min(RoundUp(block.first + block.count, kPanel<Tiles>), RoundUp(shape_.time, 2));
    return block;
  }

  int64_t KeysOf(const Block &block) const { return block.sequence * shape_.kv_heads + block.head / group_; }

  Range SeenBy(const Block &block, int64_t r) const {
    const int64_t own = block.first + r;
    return {std::max<int64_t>(0, own + 1 - shape_.window), own + 1};
  }

  // scores [count, stride_]: of queries, or of what has their shape, by keys as columns.
  void Scores(const Block &block, const P *queries, const Matrix &keys, float *scores) const {
    Scores(block, queries + block.row * queries_stride_ + block.head * dim_, queries_stride_, keys, scores);
  }
  void Scores(const Block &block, const P *rows, int64_t stride, const Matrix &keys, float *scores) const {
    for (int64_t panel = block.begin / kPanel<Tiles>; panel * kPanel<Tiles> < block.end; panel++) {
      const TilePart<P> part{rows, stride, keys.panel(panel), dim_};
      MultiplyPanel<Tiles>(&part, 1, block.count, scores + panel * kPanel<Tiles>, stride_, keys.columns_of(panel), false);
    }
  }

  // A row of shares as P; what is not seen is zero.
  void PutShares(const Block &block, Range seen, const float *row, P *to) const {
    std::fill(to + block.begin, to + seen.begin, P{});
    ConvertRow<Tiles>(row + seen.begin, to + seen.begin, seen.end - seen.begin);
    std::fill(to + seen.end, to + block.end, P{});
  }

  // y [count, head_dim] = shares · rows of keys or values.
  void Mix(const Block &block, const P *shares, const Matrix &rows, float *y, int64_t stride) const {
    for (int64_t panel = 0; panel < rows.panels(); panel++) {
      const TilePart<P> part{shares + block.begin, stride_, rows.panel(panel, block.begin), block.end - block.begin};
      MultiplyPanel<Tiles>(&part, 1, block.count, y + panel * kPanel<Tiles>, stride, rows.columns_of(panel), false);
    }
  }

  void BackwardBlock(const Block &block, const PackedKeys &packed, const float *d_o, const BackwardRooms &rooms,
                     float *dq, float *dk, float *dv) const {
    const float scale = shape_.attention_scale;
    const int64_t from = block.row * queries_stride_ + block.head * dim_;
    for (int64_t r = 0; r < block.count; r++) ConvertRow<Tiles>(d_o + from + r * queries_stride_, rooms.narrow_do.get() + r * dim_, dim_);
    Scores(block, q_, packed.keys, rooms.scores.get());
    Scores(block, rooms.narrow_do.get(), dim_, packed.values, rooms.slopes.get());
    for (int64_t r = 0; r < block.count; r++) {
      const Range seen = SeenBy(block, r);
      const int64_t count = seen.end - seen.begin;
      float *share = rooms.scores.get() + r * stride_, *slope = rooms.slopes.get() + r * stride_;
      const float most = Tiles::Largest(share + seen.begin, count);
      const float sum = Tiles::ExpSum(share + seen.begin, share + seen.begin, count, most, scale);
      Tiles::ScaleRow(share + seen.begin, 1 / sum, count);
      const float shift = Tiles::Dot(share + seen.begin, slope + seen.begin, count);
      Tiles::SoftmaxBackward(share + seen.begin, slope + seen.begin, shift, scale, count);
      PutShares(block, seen, share, rooms.shares.get() + r * stride_);
      PutShares(block, seen, slope, rooms.narrow_slopes.get() + r * stride_);
    }
    Mix(block, rooms.narrow_slopes.get(), packed.key_columns, dq + from, queries_stride_);
    const int64_t depth = RoundUp(block.count, 2);
    ByKey(block, depth, rooms.shares.get(), rooms.shares_by_key.get());
    ByKey(block, depth, rooms.narrow_slopes.get(), rooms.slopes_by_key.get());
    AddOfQueries(block, depth, rooms.shares_by_key.get(), StoredRows(rooms.narrow_do.get(), block.count, dim_, dim_), dv);
    AddOfQueries(block, depth, rooms.slopes_by_key.get(), StoredRows(q_ + from, block.count, dim_, queries_stride_), dk);
  }

  // shares [count, stride_] -> [keys, depth]
  void ByKey(const Block &block, int64_t depth, const P *shares, P *to) const {
    constexpr int64_t kTogether = 16;
    for (int64_t begin = block.begin; begin < block.end; begin += kTogether) {
      const int64_t end = std::min(block.end, begin + kTogether);
      for (int64_t r = 0; r < block.count; r++)
        for (int64_t key = begin; key < end; key++) to[(key - block.begin) * depth + r] = shares[r * stride_ + key];
      for (int64_t key = begin; key < end && depth > block.count; key++) to[(key - block.begin) * depth + block.count] = P{};
    }
  }

  // y [time, head_dim] += sharesᵀ · rows, where shares are by key.
  void AddOfQueries(const Block &block, int64_t depth, const P *shares, const Stored &rows, float *y) const {
    Matrix packed(block.count, dim_);
    for (int64_t panel = 0; panel < packed.panels(); panel++) {
      packed.PackColumns(panel, rows);
      const TilePart<P> part{shares, depth, packed.panel(panel), depth};
      MultiplyPanel<Tiles>(&part, 1, std::min(block.end, shape_.time) - block.begin,
                           y + block.begin * dim_ + panel * kPanel<Tiles>, dim_, packed.columns_of(panel), true);
    }
  }

  void Gather(int64_t member, const float *from, float *to) const {
    if (member == 0)
      memcpy(to, from, dim_ * sizeof(float));
    else
      Tiles::AddScaled(from, 1, to, dim_);
  }

  const TrainingShape &shape_;
  const P *const q_, *const k_, *const v_;
  const int64_t dim_, group_, queries_stride_, keys_stride_, stride_;
};

}  // namespace
}  // namespace anneal

#endif  // ANNEAL_TRAINING_ATTENTION_H_
