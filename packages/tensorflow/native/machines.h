// What the processors that we know do with a few rows at a time, and which of them this one is. Included by the files that compute, each
// of which compiles what it needs.

#ifndef ANNEAL_MACHINES_H_
#define ANNEAL_MACHINES_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace anneal {
namespace {

float Widen(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  memcpy(&value, &wide, sizeof(value));
  return value;
}

// To the nearest, of two as near to the even one.
uint16_t Narrow(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return value == value ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fc0;
}

float Widen(float value) { return value; }
float Widen(int8_t value) { return value; }

// The scale that follows a row of k values in 8 bits.
float ScaleOf(const int8_t *row, int64_t k) {
  float scale;
  memcpy(&scale, row + k, sizeof(scale));
  return scale;
}
float ScaleOf(const uint16_t *, int64_t) { return 1; }

// Of pairs `i` and on, see Rotate below.
inline void RotateFrom(int64_t i, float *x, const float *cos, const float *sin, int64_t half) {
  for (; i < half; i++) {
    const float first = x[i], second = x[half + i];
    x[i] = first * cos[i] - second * sin[i];
    x[half + i] = second * cos[i] + first * sin[i];
  }
}

// What a machine brings:
// Pairs: of two rows in bfloat16, whose values lie side by side in each lane. TimesPairs: a · b + c of such.
// Turn: of as many rows as there are lanes, so many values of 32 bits from `from` on, each of which goes to a row of its own.
// Block: the sums of kR rows of x by kC rows of W, which fill its registers at kRows and kColumns. It asks for the memory `ahead` elements
// further on, which comes next, or for `next`, a line with each vector. Both in bfloat16: products are exact, sums are float32.
// NarrowRow: from float32 to bfloat16.
// WidenRow: for rows of W that are read more than once.
// Largest: of n values, at least one; whether what is not a number counts is left open.
// ExpSum: y = exp((x - most) · scale) of n values x, and their sum. In place where y is x.
// Mix: y[r] = Σ p[r * n + i] · v[i] over n rows v[i] of `dim` values, for kR rows of p and y.
// AddLowRank: y += scale · Σ u[i] · b[i] over `rank` rows b[i], of which n values from `begin` on; b lies in panels, see kUpdatePanel.
// Norm: y = x / sqrt(mean(x²) + eps) · weight. In place where y is x.
// GateTimes: gate = gate · sigmoid(gate) · up.
// Rotate: pairs (x[i], x[half + i]) turn by the angle whose cosine and sine are given.

// Sums must stay in registers, which takes loops without counters.
#define ANNEAL_UNROLL _Pragma("GCC unroll 16")

// Asks for what lies in memory, into the cache's second level: what is on its way to the first takes one of its few places to wait, which the
// processor's own requests need.
template <typename T>
inline void Prefetch(const T *next) {
  __builtin_prefetch(next, 0, 2);
}

// Columns of an adapter's b that lie together, [rank, kUpdatePanel] after each other, so that memory is read in one direction.
constexpr int64_t kUpdatePanel = 64;

// The machines differ in their vectors; what they do with them is in machine_vectors.h.

// What every compiler makes of its machine's vectors, or of single values.
#define ANNEAL_TARGET
struct GenericVectors {
  typedef float Vector __attribute__((vector_size(16)));
  typedef uint32_t Bits __attribute__((vector_size(16)));
  static constexpr int kRows = 4, kColumns = 3, kLanes = 4, kMixed = 2, kTileVectors = 2, kTileSums = 8;

  static Vector Zero() { return All(0); }
  static Vector All(float value) { return Vector{value, value, value, value}; }
  static Vector Times(Vector a, Vector b) { return a * b; }
  static Vector TimesPlus(Vector a, Vector b, Vector c) { return a * b + c; }
  static Vector Minus(Vector a, Vector b) { return a - b; }
  static Vector Over(Vector a, Vector b) { return a / b; }
  static Vector Most(Vector a, Vector b) {
    for (int i = 0; i < kLanes; i++) a[i] = a[i] > b[i] ? a[i] : b[i];
    return a;
  }
  static Vector Round(Vector v) {
    for (int i = 0; i < kLanes; i++) v[i] = std::nearbyint(v[i]);
    return v;
  }
  static Vector Scale(Vector v, Vector n) {
    for (int i = 0; i < kLanes; i++) v[i] = n[i] == n[i] ? std::ldexp(v[i], static_cast<int>(n[i])) : n[i];
    return v;
  }
  static void Store(float *to, Vector v) { memcpy(to, &v, sizeof(v)); }
  static Vector Load(const float *from) {
    Vector v;
    memcpy(&v, from, sizeof(v));
    return v;
  }
  template <typename T>
  static Vector Load(const T *from) {
    return Vector{Widen(from[0]), Widen(from[1]), Widen(from[2]), Widen(from[3])};
  }
  static void StoreNarrow(uint16_t *to, Vector v) {
    for (int i = 0; i < kLanes; i++) to[i] = Narrow(v[i]);
  }
  static Vector Pairs(const uint16_t *first, const uint16_t *second) {
    Bits bits{};
    for (int i = 0; i < kLanes; i++) bits[i] = first[i] | static_cast<uint32_t>(second[i]) << 16;
    return (Vector)bits;
  }
  static Vector TimesPairs(Vector a, Vector b, Vector c) {
    const Bits x = (Bits)a, y = (Bits)b;
    return c + (Vector)(x << 16) * (Vector)(y << 16) + (Vector)(x & 0xffff0000u) * (Vector)(y & 0xffff0000u);
  }
  static void Turn(const uint32_t *const *rows, int64_t from, uint32_t *to, int64_t apart) {
    for (int i = 0; i < kLanes; i++)
      for (int j = 0; j < kLanes; j++) to[i * apart + j] = rows[j][from + i];
  }
  static float LargestOf(Vector v) { return std::max(std::max(v[0], v[2]), std::max(v[1], v[3])); }
  static float Sum(Vector v) { return (v[0] + v[2]) + (v[1] + v[3]); }
  static void SumFour(const Vector *v, float *to) {
    for (int i = 0; i < 4; i++) to[i] = Sum(v[i]);
  }
};
#define ANNEAL_MACHINE Generic
#include "machine_vectors.h"
#undef ANNEAL_MACHINE
#undef ANNEAL_TARGET

#if defined(__x86_64__)
#define ANNEAL_TARGET __attribute__((target("avx2,fma")))
struct Avx2Vectors {
  using Vector = __m256;
  static constexpr int kRows = 4, kColumns = 3, kLanes = 8, kMixed = 2, kTileVectors = 2, kTileSums = 12;

  ANNEAL_TARGET static Vector Zero() { return _mm256_setzero_ps(); }
  ANNEAL_TARGET static Vector All(float value) { return _mm256_set1_ps(value); }
  ANNEAL_TARGET static Vector Times(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
  ANNEAL_TARGET static Vector TimesPlus(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  ANNEAL_TARGET static Vector Minus(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
  ANNEAL_TARGET static Vector Over(Vector a, Vector b) { return _mm256_div_ps(a, b); }
  // The larger; b where either is not a number.
  ANNEAL_TARGET static Vector Most(Vector a, Vector b) { return _mm256_max_ps(a, b); }
  ANNEAL_TARGET static Vector Round(Vector v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // v · 2^n of whole n.
  ANNEAL_TARGET static Vector Scale(Vector v, Vector n) {
    const __m256i bits = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(v, _mm256_castsi256_ps(bits));
  }
  ANNEAL_TARGET static void Store(float *to, Vector v) { _mm256_storeu_ps(to, v); }
  ANNEAL_TARGET static Vector Load(const float *from) { return _mm256_loadu_ps(from); }
  ANNEAL_TARGET static Vector Load(const uint16_t *from) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  ANNEAL_TARGET static Vector Load(const int8_t *from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(from))));
  }
  ANNEAL_TARGET static void StoreNarrow(uint16_t *to, Vector v) {
    const __m256i bits = _mm256_castps_si256(v), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i narrow = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i unordered = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    narrow = _mm256_blendv_epi8(narrow, _mm256_set1_epi32(0x7fc0), unordered);
    _mm_storeu_si128(reinterpret_cast<__m128i *>(to),
                     _mm_packus_epi32(_mm256_castsi256_si128(narrow), _mm256_extracti128_si256(narrow, 1)));
  }
  ANNEAL_TARGET static Vector Pairs(const uint16_t *first, const uint16_t *second) {
    const __m256i low = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(first)));
    return _mm256_castsi256_ps(_mm256_or_si256(low, _mm256_castps_si256(Load(second))));
  }
  ANNEAL_TARGET static Vector TimesPairs(Vector a, Vector b, Vector c) {
    const __m256i highs = _mm256_set1_epi32(static_cast<int>(0xffff0000)), x = _mm256_castps_si256(a), y = _mm256_castps_si256(b);
    const Vector low = TimesPlus(_mm256_castsi256_ps(_mm256_slli_epi32(x, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(y, 16)), c);
    return TimesPlus(_mm256_castsi256_ps(_mm256_and_si256(x, highs)), _mm256_castsi256_ps(_mm256_and_si256(y, highs)), low);
  }
  ANNEAL_TARGET static void Turn(const uint32_t *const *rows, int64_t from, uint32_t *to, int64_t apart) {
    __m256i pairs[8], fours[8];
    ANNEAL_UNROLL for (int i = 0; i < 8; i += 2) {
      const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(rows[i] + from));
      const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(rows[i + 1] + from));
      pairs[i] = _mm256_unpacklo_epi32(first, second), pairs[i + 1] = _mm256_unpackhi_epi32(first, second);
    }
    ANNEAL_UNROLL for (int i = 0; i < 8; i += 4)
      ANNEAL_UNROLL for (int j = 0; j < 2; j++) {
        fours[i + 2 * j] = _mm256_unpacklo_epi64(pairs[i + j], pairs[i + 2 + j]);
        fours[i + 2 * j + 1] = _mm256_unpackhi_epi64(pairs[i + j], pairs[i + 2 + j]);
      }
    ANNEAL_UNROLL for (int j = 0; j < 4; j++) {
      const __m256i low = _mm256_permute2x128_si256(fours[j], fours[4 + j], 0x20);
      const __m256i high = _mm256_permute2x128_si256(fours[j], fours[4 + j], 0x31);
      _mm256_storeu_si256(reinterpret_cast<__m256i *>(to + j * apart), low);
      _mm256_storeu_si256(reinterpret_cast<__m256i *>(to + (4 + j) * apart), high);
    }
  }
  ANNEAL_TARGET static float LargestOf(Vector v) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
  }
  ANNEAL_TARGET static float Sum(Vector v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
  }
  // The four vectors' sums, side by side.
  ANNEAL_TARGET static void SumFour(const Vector *v, float *to) {
    for (int i = 0; i < 4; i++) to[i] = Sum(v[i]);
  }
};
#define ANNEAL_MACHINE Avx2
#include "machine_vectors.h"
#undef ANNEAL_MACHINE
#undef ANNEAL_TARGET

#define ANNEAL_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
struct Avx512Vectors {
  using Vector = __m512;
  static constexpr int kRows = 4, kColumns = 6, kLanes = 16, kMixed = 4, kTileVectors = 4, kTileSums = 24;

  ANNEAL_TARGET static Vector Zero() { return _mm512_setzero_ps(); }
  ANNEAL_TARGET static Vector All(float value) { return _mm512_set1_ps(value); }
  ANNEAL_TARGET static Vector Times(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
  ANNEAL_TARGET static Vector TimesPlus(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  ANNEAL_TARGET static Vector Minus(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
  ANNEAL_TARGET static Vector Over(Vector a, Vector b) { return _mm512_div_ps(a, b); }
  ANNEAL_TARGET static Vector Most(Vector a, Vector b) { return _mm512_max_ps(a, b); }
  ANNEAL_TARGET static Vector Round(Vector v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT); }
  ANNEAL_TARGET static Vector Scale(Vector v, Vector n) { return _mm512_scalef_ps(v, n); }
  ANNEAL_TARGET static void Store(float *to, Vector v) { _mm512_storeu_ps(to, v); }
  ANNEAL_TARGET static Vector Load(const float *from) { return _mm512_loadu_ps(from); }
  ANNEAL_TARGET static Vector Load(const uint16_t *from) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  ANNEAL_TARGET static Vector Load(const int8_t *from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from))));
  }
  ANNEAL_TARGET static void StoreNarrow(uint16_t *to, Vector v) {
    const __m512i bits = _mm512_castps_si512(v), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i narrow = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    const __mmask16 unordered = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to),
                        _mm512_cvtepi32_epi16(_mm512_mask_set1_epi32(narrow, unordered, 0x7fc0)));
  }
  ANNEAL_TARGET static Vector Pairs(const uint16_t *first, const uint16_t *second) {
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(first)));
    return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_castps_si512(Load(second))));
  }
  ANNEAL_TARGET static Vector TimesPairs(Vector a, Vector b, Vector c) {
    const __m512i highs = _mm512_set1_epi32(static_cast<int>(0xffff0000)), x = _mm512_castps_si512(a), y = _mm512_castps_si512(b);
    const Vector low = TimesPlus(_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(y, 16)), c);
    return TimesPlus(_mm512_castsi512_ps(_mm512_and_si512(x, highs)), _mm512_castsi512_ps(_mm512_and_si512(y, highs)), low);
  }
  ANNEAL_TARGET static void Turn(const uint32_t *const *rows, int64_t from, uint32_t *to, int64_t apart) {
    __m512i pairs[16], fours[16];
    ANNEAL_UNROLL for (int i = 0; i < 16; i += 2) {
      const __m512i first = _mm512_loadu_si512(rows[i] + from), second = _mm512_loadu_si512(rows[i + 1] + from);
      pairs[i] = _mm512_unpacklo_epi32(first, second), pairs[i + 1] = _mm512_unpackhi_epi32(first, second);
    }
    ANNEAL_UNROLL for (int i = 0; i < 16; i += 4)
      ANNEAL_UNROLL for (int j = 0; j < 2; j++) {
        fours[i + 2 * j] = _mm512_unpacklo_epi64(pairs[i + j], pairs[i + 2 + j]);
        fours[i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[i + j], pairs[i + 2 + j]);
      }
    // Each holds, in its quarters, columns j, 4 + j, 8 + j and 12 + j of four rows.
    ANNEAL_UNROLL for (int j = 0; j < 4; j++) {
      const __m512i even = _mm512_shuffle_i32x4(fours[j], fours[4 + j], 0x88), odd = _mm512_shuffle_i32x4(fours[j], fours[4 + j], 0xdd);
      const __m512i low = _mm512_shuffle_i32x4(fours[8 + j], fours[12 + j], 0x88);
      const __m512i high = _mm512_shuffle_i32x4(fours[8 + j], fours[12 + j], 0xdd);
      _mm512_storeu_si512(to + j * apart, _mm512_shuffle_i32x4(even, low, 0x88));
      _mm512_storeu_si512(to + (4 + j) * apart, _mm512_shuffle_i32x4(odd, high, 0x88));
      _mm512_storeu_si512(to + (8 + j) * apart, _mm512_shuffle_i32x4(even, low, 0xdd));
      _mm512_storeu_si512(to + (12 + j) * apart, _mm512_shuffle_i32x4(odd, high, 0xdd));
    }
  }
  ANNEAL_TARGET static float LargestOf(Vector v) { return _mm512_reduce_max_ps(v); }
  ANNEAL_TARGET static float Sum(Vector v) { return _mm512_reduce_add_ps(v); }
  // In the order of Sum, with a third of its shuffles: those of short rows took a fifth of a product.
  ANNEAL_TARGET static void SumFour(const Vector *v, float *to) {
    const Vector first = AddHalves(v[0], v[1]), second = AddHalves(v[2], v[3]);
    Vector quarters = _mm512_add_ps(_mm512_shuffle_f32x4(first, second, 0x88), _mm512_shuffle_f32x4(first, second, 0xdd));
    quarters = _mm512_add_ps(quarters, _mm512_permute_ps(quarters, 0x4e));
    quarters = _mm512_add_ps(quarters, _mm512_permute_ps(quarters, 0xb1));
    const __m512i firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
    _mm_storeu_ps(to, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, quarters)));
  }

 private:
  // The sum of a's halves, then that of b's.
  ANNEAL_TARGET static Vector AddHalves(Vector a, Vector b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  }
};
#define ANNEAL_MACHINE Avx512
#include "machine_vectors.h"
#undef ANNEAL_MACHINE
#undef ANNEAL_TARGET

#if defined(__clang__) || __GNUC__ >= 10
#define ANNEAL_HAS_BFLOAT16
#define ANNEAL_TARGET __attribute__((target("avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
// As Avx512, where the processor multiplies bfloat16 itself, twice as many at a time.
struct Avx512Bfloat16 : Avx512 {
  ANNEAL_TARGET static Vector TimesPairs(Vector a, Vector b, Vector c) {
    return _mm512_dpbf16_ps(c, (__m512bh)_mm512_castps_si512(a), (__m512bh)_mm512_castps_si512(b));
  }
  // Values below the least normal one become zero.
  ANNEAL_TARGET static void StoreNarrow(uint16_t *to, Vector v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), (__m256i)_mm512_cvtneps_pbh(v));
  }
  ANNEAL_TARGET static void NarrowRow(const float *from, uint16_t *to, int64_t n) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) StoreNarrow(to + i, Load(from + i));
    for (; i < n; i++) to[i] = Narrow(from[i]);
  }

  template <int kR, int kC>
  ANNEAL_TARGET static void Block(const uint16_t *x, const uint16_t *const *w, float *y, int64_t k, int64_t n, int64_t ahead,
                                  const char *next) {
    constexpr int64_t kVector = 2 * kLanes * sizeof(uint16_t);
    const int64_t apart = kC > 1 ? (w[kC > 1] - w[0]) * sizeof(uint16_t) : 0;
    if (next) return AskingBlock<kR, kC, true>(x, w, y, k, n, next, kVector, kC * kVector);
    if (ahead > 0) return AskingBlock<kR, kC, true>(x, w, y, k, n, reinterpret_cast<const char *>(w[0] + ahead), apart, kVector);
    AskingBlock<kR, kC, false>(x, w, y, k, n, nullptr, 0, 0);
  }

 private:
  // With each vector of all rows of W it asks for as many lines, `each` bytes apart, and `step` bytes further on with the next. Asking takes
  // a twentieth of the time of what is in the cache.
  template <int kR, int kC, bool kAsks>
  ANNEAL_TARGET static void AskingBlock(const uint16_t *x, const uint16_t *const *w, float *y, int64_t k, int64_t n, const char *asked,
                                        int64_t each, int64_t step) {
    constexpr int64_t kPairs = 2 * kLanes;
    Vector sums[kR][kC];
    ANNEAL_UNROLL for (int r = 0; r < kR; r++)
      ANNEAL_UNROLL for (int c = 0; c < kC; c++) sums[r][c] = Zero();
    int64_t i = 0;
    for (; i + kPairs <= k; i += kPairs) {
      __m512bh weights[kC];
      ANNEAL_UNROLL for (int c = 0; c < kC; c++) {
        if (kAsks) Prefetch(asked + c * each);
        weights[c] = (__m512bh)_mm512_loadu_si512(w[c] + i);
      }
      if (kAsks) asked += step;
      ANNEAL_UNROLL for (int r = 0; r < kR; r++) {
        const __m512bh values = (__m512bh)_mm512_loadu_si512(x + r * k + i);
        ANNEAL_UNROLL for (int c = 0; c < kC; c++) sums[r][c] = _mm512_dpbf16_ps(sums[r][c], values, weights[c]);
      }
    }
    if (i < k) {
      const __mmask32 rest = (1u << (k - i)) - 1;
      ANNEAL_UNROLL for (int c = 0; c < kC; c++) {
        const __m512bh weight = (__m512bh)_mm512_maskz_loadu_epi16(rest, w[c] + i);
        ANNEAL_UNROLL for (int r = 0; r < kR; r++)
          sums[r][c] = _mm512_dpbf16_ps(sums[r][c], (__m512bh)_mm512_maskz_loadu_epi16(rest, x + r * k + i), weight);
      }
    }
    float totals[kR * kC];
    SumAll<kR * kC>(&sums[0][0], totals);
    ANNEAL_UNROLL for (int r = 0; r < kR; r++)
      ANNEAL_UNROLL for (int c = 0; c < kC; c++) y[r * n + c] = totals[r * kC + c];
  }
};
#undef ANNEAL_TARGET
#endif
#endif

// What comes after some rows of W: `ahead` elements further on, where they are read as they lie, or `bytes` at `next`, of which each block
// asks for a part.
struct Upcoming {
  int64_t ahead = 0;
  const char *next = nullptr;
  int64_t bytes = 0;
};

// kC rows of W against all rows of x.
template <typename Machine, int kC, typename X, typename T>
void Columns(const X *x, const T *const *w, float *y, int64_t m, int64_t k, int64_t n, const Upcoming &upcoming) {
  constexpr int kR = Machine::kRows;
  // Blocks ask for a part each, so that memory is read while they compute.
  const int64_t part = k * static_cast<int64_t>(sizeof(X) * (sizeof(X) == 2 ? kC : 1));
  int64_t asked = 0;
  const auto next = [&]() -> const char * {
    if (!upcoming.next || asked + part > upcoming.bytes + part / 2) return nullptr;
    asked += part;
    return upcoming.next + asked - part;
  };
  int64_t r = 0;
  // Twice: a request is dropped where too many wait.
  const auto ahead = [&] { return sizeof(X) == 2 && r >= 2 * kR ? 0 : upcoming.ahead; };
  if constexpr (kC <= 2 && sizeof(X) == 2)
    for (; r + 8 <= m; r += 8) Machine::template Block<8, kC>(x + r * k, w, y + r * n, k, n, ahead(), next());
  for (; r + kR <= m; r += kR) Machine::template Block<kR, kC>(x + r * k, w, y + r * n, k, n, ahead(), next());
  for (; r + 2 <= m; r += 2) Machine::template Block<2, kC>(x + r * k, w, y + r * n, k, n, ahead(), next());
  if (r < m) Machine::template Block<1, kC>(x + r * k, w, y + r * n, k, n, ahead(), next());
}

// `count` rows of W, at most kC.
template <typename Machine, int kC, typename X, typename T>
void CountedColumns(int count, const X *x, const T *const *w, float *y, int64_t m, int64_t k, int64_t n,
                    const Upcoming &upcoming) {
  if (count == kC) return Columns<Machine, kC>(x, w, y, m, k, n, upcoming);
  if constexpr (kC > 1) CountedColumns<Machine, kC - 1>(count, x, w, y, m, k, n, upcoming);
}

enum class Machine { kGeneric, kAvx2, kAvx512 };

Machine ThisMachine() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq"))
    return Machine::kAvx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Machine::kAvx2;
#endif
  return Machine::kGeneric;
}

// Of a machine with AVX-512.
bool MultipliesBfloat16() {
#if defined(ANNEAL_HAS_BFLOAT16)
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

}  // namespace
}  // namespace anneal

#endif  // ANNEAL_MACHINES_H_
