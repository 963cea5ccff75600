// y = x Wᵀ for few rows of x, as decoding needs it: W is read once, as it is stored, and that is what the time goes into.
// General matrix products convert all of a bfloat16 W first, or share their work in ways that do not pay for few rows.
//
// Each product's terms are added in one order, whatever the number of rows: a row's result does not depend on its company.

#ifndef ANNEAL_SKINNY_MATMUL_H_
#define ANNEAL_SKINNY_MATMUL_H_

#include <cstdint>

namespace anneal {

// kInt8: rows of k bytes, each followed by the float that they are multiplied by.
enum class WeightType : int32_t { kFloat32 = 0, kBfloat16 = 1, kInt8 = 2 };

// x [m, k], w [n, k], y [m, n], all dense and row by row.
struct Product {
  const float *x;
  const void *w;
  WeightType type;
  float *y;
  int64_t m, k, n;
  // x in bfloat16, where it is multiplied as such by a w in bfloat16; x itself is not read then.
  const uint16_t *narrow = nullptr;
};

// Several products share threads, as many as the process may run on. Safe to call from several threads: one of them gets the helpers,
// the others work alone.
void SkinnyProducts(const Product *products, int64_t count);

inline void SkinnyMatmul(const Product &product) { SkinnyProducts(&product, 1); }

}  // namespace anneal

#endif  // ANNEAL_SKINNY_MATMUL_H_
