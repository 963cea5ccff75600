#ifndef ANNEAL_SKINNY_MATMUL_OP_H_
#define ANNEAL_SKINNY_MATMUL_OP_H_

namespace anneal {

// Makes SkinnyMatmul known to TensorFlow as the op AnnealSkinnyMatmul(x, w) of the CPU, and to XLA as the call target of the
// same name. Call once, before graphs are built.
void RegisterSkinnyMatmul();

}  // namespace anneal

#endif  // ANNEAL_SKINNY_MATMUL_OP_H_
