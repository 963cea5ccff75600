// Products of many rows, whose sums stay in registers: tile by tile, of matrices that are packed for it. Included by the files that compute,
// as machines.h is.

#ifndef ANNEAL_TILES_H_
#define ANNEAL_TILES_H_

#include <cstring>

#include "cache_lines.h"
#include "heap.h"
#include "helpers.h"
#include "machines.h"
#include "skinny_matmul.h"

namespace anneal {
namespace {

// Rows a, `stride` apart, of `depth` values, times a packed panel b. Depths of bfloat16 are even.
template <typename P>
struct TilePart {
  const P *a;
  int64_t stride;
  const P *b;
  int64_t depth;
};

#define ANNEAL_MACHINE Generic
#define ANNEAL_TARGET
#include "tile_vectors.h"
#undef ANNEAL_TARGET
#undef ANNEAL_MACHINE

#if defined(__x86_64__)
#define ANNEAL_MACHINE Avx2
#define ANNEAL_TARGET __attribute__((target("avx2,fma")))
#include "tile_vectors.h"
#undef ANNEAL_TARGET
#undef ANNEAL_MACHINE

#define ANNEAL_MACHINE Avx512
#define ANNEAL_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#include "tile_vectors.h"
#undef ANNEAL_TARGET
#undef ANNEAL_MACHINE

#if defined(ANNEAL_HAS_BFLOAT16)
#define ANNEAL_MACHINE Avx512Bfloat16
#define ANNEAL_TARGET __attribute__((target("avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#include "tile_vectors.h"
#undef ANNEAL_TARGET
#undef ANNEAL_MACHINE
#endif
#endif

template <typename Tiles>
constexpr int64_t kPanel = Tiles::kTileVectors *Tiles::kLanes;

// Rows that a thread multiplies at a time: few enough to stay in its cache, and a multiple of every tile's.
constexpr int64_t kRowsTogether = 96;

inline int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// Memory that is written before it is read.
template <typename T>
class Room {
 public:
  explicit Room(int64_t count)
      : is_large_(count * static_cast<int64_t>(sizeof(T)) >= kLarge),
        values_(is_large_ ? static_cast<T *>(TakeBlock(count * sizeof(T))) : CacheLineAllocator<T>().allocate(count > 0 ? count : 1)) {}
  ~Room() { is_large_ ? GiveBlock(values_) : CacheLineAllocator<T>().deallocate(values_, 0); }
  Room(const Room &) = delete;
  Room &operator=(const Room &) = delete;
  T *get() const { return values_; }

 private:
  static constexpr int64_t kLarge = 1 << 20;

  const bool is_large_;
  T *const values_;
};

// From float32 to P.
template <typename Tiles>
void ConvertRow(const float *from, float *to, int64_t count) {
  memcpy(to, from, count * sizeof(float));
}
template <typename Tiles>
void ConvertRow(const float *from, uint16_t *to, int64_t count) {
  Tiles::NarrowRow(from, to, count);
}

// A matrix as it lies: rows, `stride` values apart. In 8 bits each row is followed by its scale.
struct Stored {
  const void *data;
  WeightType type;
  int64_t rows, columns, stride;
  // What values in float32 are multiplied by.
  float factor = 1;
};

inline Stored StoredRows(const float *data, int64_t rows, int64_t columns, int64_t stride, float factor = 1) {
  return {data, WeightType::kFloat32, rows, columns, stride, factor};
}
inline Stored StoredRows(const uint16_t *data, int64_t rows, int64_t columns, int64_t stride) {
  return {data, WeightType::kBfloat16, rows, columns, stride};
}

// Values `from` to `from + count` of a row as P; `room` takes them where they are of another type.
template <typename Tiles, typename P>
const P *RowAs(const Stored &m, int64_t row, int64_t from, int64_t count, P *room) {
  constexpr bool kIsFloat = sizeof(P) == sizeof(float);
  if (m.type == WeightType::kBfloat16) {
    const uint16_t *values = static_cast<const uint16_t *>(m.data) + row * m.stride + from;
    if constexpr (kIsFloat) {
      Tiles::WidenRow(values, room, count);
      return room;
    } else {
      return values;
    }
  }
  if (m.type == WeightType::kFloat32) {
    const float *values = static_cast<const float *>(m.data) + row * m.stride + from;
    if (m.factor == 1) {
      if constexpr (kIsFloat) return values;
      ConvertRow<Tiles>(values, room, count);
    } else {
      Tiles::Scaled(values, m.factor, room, count);
    }
    return room;
  }
  const int8_t *values = static_cast<const int8_t *>(m.data) + row * m.stride;
  const float scale = ScaleOf(values, m.columns);
  for (int64_t i = 0; i < count; i++) {
    if constexpr (kIsFloat)
      room[i] = values[from + i] * scale;
    else
      room[i] = Narrow(values[from + i] * scale);
  }
  return room;
}

// A matrix b [depth, columns] in panels of columns, which tiles read from the first to the last value. In bfloat16 two rows alternate; what
// is beyond the matrix is zero.
template <typename Tiles, typename P>
class Packed {
 public:
  Packed(int64_t depth, int64_t columns)
      : depth_(RoundUp(depth, 2)), columns_(columns), room_(RoundUp(columns, kPanel<Tiles>) * depth_) {}

  int64_t depth() const { return depth_; }
  int64_t columns() const { return columns_; }
  int64_t panels() const { return (columns_ + kPanel<Tiles> - 1) / kPanel<Tiles>; }
  // From an even row of it on.
  const P *panel(int64_t index, int64_t row = 0) const {
    return room_.get() + index * kPanel<Tiles> * depth_ + row * WidthOf(columns_of(index));
  }
  int64_t columns_of(int64_t panel) const { return std::min(kPanel<Tiles>, columns_ - panel * kPanel<Tiles>); }

  // Column j is row j of m.
  void PackRows(int64_t panel, const Stored &m) {
    const int64_t width = WidthOf(columns_of(panel)), units = depth_ / kUnit;
    const int64_t count = std::max<int64_t>(0, std::min(columns_of(panel), m.rows - panel * kPanel<Tiles>));
    Room<P> values(count * depth_);
    const uint32_t *rows[kPanel<Tiles>];
    for (int64_t j = 0; j < count; j++) {
      P *own = values.get() + j * depth_;
      const P *row = RowAs<Tiles>(m, panel * kPanel<Tiles> + j, 0, m.columns, own);
      if (m.columns < depth_) {
        if (row != own) memcpy(own, row, m.columns * sizeof(P));
        std::fill(own + m.columns, own + depth_, P{});
        row = own;
      }
      rows[j] = reinterpret_cast<const uint32_t *>(row);
    }
    uint32_t *to = reinterpret_cast<uint32_t *>(room_.get() + panel * kPanel<Tiles> * depth_);
    constexpr int64_t kLanes = Tiles::kLanes;
    int64_t j = 0;
    for (; j + kLanes <= count; j += kLanes) {
      int64_t unit = 0;
      for (; unit + kLanes <= units; unit += kLanes) Tiles::Turn(rows + j, unit, to + unit * width + j, width);
      for (; unit < units; unit++)
        for (int64_t i = j; i < j + kLanes; i++) to[unit * width + i] = rows[i][unit];
    }
    for (int64_t unit = 0; unit < units; unit++)
      for (int64_t i = j; i < width; i++) to[unit * width + i] = i < count ? rows[i][unit] : 0;
  }

  // Row i is row i of m.
  void PackColumns(int64_t panel, const Stored &m) {
    const int64_t from = panel * kPanel<Tiles>, width = WidthOf(columns_of(panel));
    const int64_t count = std::max<int64_t>(0, std::min(columns_of(panel), m.columns - from));
    P first[kPanel<Tiles>], second[kPanel<Tiles>];
    const P zeros[kPanel<Tiles>] = {};
    uint32_t *to = reinterpret_cast<uint32_t *>(room_.get() + from * depth_);
    for (int64_t row = 0; row < depth_; row += kUnit, to += width) {
      const P *a = row < m.rows ? RowAs<Tiles>(m, row, from, count, first) : zeros;
      if constexpr (kUnit == 1) {
        memcpy(to, a, count * sizeof(float));
      } else {
        Tiles::Interleave(a, row + 1 < m.rows ? RowAs<Tiles>(m, row + 1, from, count, second) : zeros, to, count);
      }
      for (int64_t j = count; j < width; j++) to[j] = 0;
    }
  }

 private:
  // Values of a column that lie in one lane.
  static constexpr int64_t kUnit = sizeof(float) / sizeof(P);
  static int64_t WidthOf(int64_t columns) { return RoundUp(columns, Tiles::kLanes); }

  const int64_t depth_, columns_;
  const Room<P> room_;
};

template <typename Tiles, int kC, typename P, typename Y>
void TileRows(const TilePart<P> *parts, int count, int64_t rows, Y *y, int64_t stride, int64_t columns, bool adds) {
  constexpr int kMost = 12, kFit = Tiles::kTileSums / kC, kR = kFit < kMost ? kFit : kMost;
  TilePart<P> at[8];
  std::copy(parts, parts + count, at);
  const auto step = [&](int64_t by) {
    for (int i = 0; i < count; i++) at[i].a += by * at[i].stride;
    y += by * stride;
    rows -= by;
  };
  for (; rows >= kR; step(kR)) Tiles::template Tile<kR, kC>(at, count, y, stride, columns, adds);
  for (; rows >= kR / 2 && kR > 3; step(kR / 2)) Tiles::template Tile<kR / 2, kC>(at, count, y, stride, columns, adds);
  for (; rows > 0; step(1)) Tiles::template Tile<1, kC>(at, count, y, stride, columns, adds);
}

// y [rows, columns of a panel], `stride` apart, = Σ a · b, or is added to; sums are float32 and in the same order for every row.
template <typename Tiles, typename P, typename Y, int kC = Tiles::kTileVectors>
void MultiplyPanel(const TilePart<P> *parts, int count, int64_t rows, Y *y, int64_t stride, int64_t columns, bool adds) {
  if (columns > (kC - 1) * Tiles::kLanes) return TileRows<Tiles, kC>(parts, count, rows, y, stride, columns, adds);
  if constexpr (kC > 1) MultiplyPanel<Tiles, P, Y, kC - 1>(parts, count, rows, y, stride, columns, adds);
}

// Calls work(tiles, value) with those of this machine, for products of bfloat16 or of float32.
template <typename Work>
void OnThisMachine(bool narrow, const Work &work) {
  switch (ThisMachine()) {
#if defined(__x86_64__)
    case Machine::kAvx512:
#if defined(ANNEAL_HAS_BFLOAT16)
      if (narrow && MultipliesBfloat16()) return work(Avx512Bfloat16Tiles(), uint16_t());
#endif
      return narrow ? work(Avx512Tiles(), uint16_t()) : work(Avx512Tiles(), float());
    case Machine::kAvx2:
      return narrow ? work(Avx2Tiles(), uint16_t()) : work(Avx2Tiles(), float());
#endif
    default:
      return narrow ? work(GenericTiles(), uint16_t()) : work(GenericTiles(), float());
  }
}

}  // namespace
}  // namespace anneal

#endif  // ANNEAL_TILES_H_
