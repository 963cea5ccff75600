#include "training_layer.h"

#include <algorithm>
#include <vector>

#include "training_adapters.h"
#include "training_attention.h"
#include "training_products.h"

namespace anneal {
namespace {

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
  using Products = TrainingProducts<Tiles, P>;
  using Adapters = TrainingAdapters<Tiles, P>;
  using Operand = typename Products::Operand;
  using Packing = typename Products::Packing;
  template <typename Y>
  using Product = typename Products::template Product<Y>;

 public:
  Layer(const TrainingShape &shape, const TrainingInputs &in)
      : shape_(shape), in_(in), rows_(shape.rows()), products_(shape, in), adapters_(shape, in, products_) {}

  KeptParts parts() const { return KeptParts(shape_, in_, adapters_.ranks()); }

  // y may be null where only what is kept is wanted.
  void Forward(const float *x, float *y, float *kept) {
    const KeptParts at = parts();
    float *middle = kept + at.middle;
    P *reduced = Kept(kept, at.reduced), *mixed = Kept(kept, at.mixed), *gate = Kept(kept, at.gate), *up = Kept(kept, at.up);
    PackForward();
    {
      const Room<P> normed(rows_ * shape_.hidden);
      Norm(x, in_.weights.attn_norm, normed.get());
      adapters_.Reduce(kAttentionGroup, normed.get(), reduced);
      const Room<float> q(rows_ * Out(kQ)), k(rows_ * Out(kK)), v(rows_ * Out(kV));
      float *const made[] = {q.get(), k.get(), v.get()};
      std::vector<Product<float>> products;
      for (int i = 0; i < 3; i++) products.push_back({Forwards(i, normed.get(), reduced), made[i], Out(i), Out(i)});
      products_.Multiply(products);
      RunWithHelpers(rows_, [&](int64_t row) {
        for (int i = 0; i < 3; i++) FinishHeads(i, row, made[i] + row * Out(i), kept, at);
      });
    }
    TrainingAttention<Tiles, P>(shape_, Kept(kept, at.heads[0]), Kept(kept, at.heads[1]), Kept(kept, at.heads[2]))
        .Forward(mixed);
    adapters_.Reduce(kOutGroup, mixed, reduced);
    AddProduct(kO, mixed, reduced, x, middle);
    const Room<P> normed(rows_ * shape_.hidden);
    Norm(middle, in_.weights.mlp_norm, normed.get());
    adapters_.Reduce(kMlpGroup, normed.get(), reduced);
    products_.Multiply(std::vector<Product<P>>{{Forwards(kGate, normed.get(), reduced), gate, Out(kGate), Out(kGate)},
                                     {Forwards(kUp, normed.get(), reduced), up, Out(kUp), Out(kUp)}});
    if (!y && adapters_.RanksOf(kDownGroup) == 0) return;
    const Room<P> act(rows_ * shape_.intermediate);
    ForMlpValues([&](int64_t from, int64_t count) { Tiles::GateForward(gate + from, up + from, act.get() + from, count); });
    adapters_.Reduce(kDownGroup, act.get(), reduced);
    if (y) AddProduct(kDown, act.get(), reduced, middle, y);
  }

  void Backward(const float *x, float *kept, const float *dy, float *dx) {
    const KeptParts at = parts();
    const float *middle = kept + at.middle;
    const P *reduced = Kept(kept, at.reduced), *mixed = Kept(kept, at.mixed), *gate = Kept(kept, at.gate), *up = Kept(kept, at.up);
    PackBackward(dx != nullptr);
    const Room<float> through(rows_ * shape_.hidden), d_middle(rows_ * shape_.hidden);
    const Room<P> normed(rows_ * shape_.hidden), narrow(rows_ * shape_.hidden), d_reduced(rows_ * adapters_.ranks());
    Narrow(dy, narrow.get());
    {
      const int64_t count = rows_ * shape_.intermediate;
      const Room<float> dact(count);
      const Room<P> act(count), dgate(count), dup(count);
      adapters_.ReduceGradient({{kDown, narrow.get()}}, d_reduced.get());
      products_.Multiply(std::vector<Product<float>>{{Backwards(kDownGroup, {narrow.get()}, d_reduced.get()), dact.get(), In(kDown), In(kDown)}});
      ForMlpValues([&](int64_t from, int64_t n) {
        Tiles::GateBackward(gate + from, up + from, dact.get() + from, act.get() + from, dgate.get() + from, dup.get() + from, n);
      });
      adapters_.Gradients(kDownGroup, act.get(), {narrow.get()}, reduced, d_reduced.get());
      Norm(middle, in_.weights.mlp_norm, normed.get());
      adapters_.ReduceGradient({{kGate, dgate.get()}, {kUp, dup.get()}}, d_reduced.get());
      products_.Multiply(std::vector<Product<float>>{
          {Backwards(kMlpGroup, {dgate.get(), dup.get()}, d_reduced.get()), through.get(), shape_.hidden, shape_.hidden}});
      adapters_.Gradients(kMlpGroup, normed.get(), {dgate.get(), dup.get()}, reduced, d_reduced.get());
    }
    NormBackward(middle, in_.weights.mlp_norm, through.get(), dy, d_middle.get());
    Narrow(d_middle.get(), narrow.get());
    adapters_.ReduceGradient({{kO, narrow.get()}}, d_reduced.get());
    const Room<float> d_mixed(rows_ * Out(kQ)), dq(rows_ * Out(kQ)), dk(rows_ * Out(kK)), dv(rows_ * Out(kV));
    products_.Multiply(std::vector<Product<float>>{{Backwards(kOutGroup, {narrow.get()}, d_reduced.get()), d_mixed.get(), In(kO), In(kO)}});
    adapters_.Gradients(kOutGroup, mixed, {narrow.get()}, reduced, d_reduced.get());
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
    adapters_.ReduceGradient({{kQ, narrow_q.get()}, {kK, narrow_k.get()}, {kV, narrow_v.get()}}, d_reduced.get());
    adapters_.Gradients(kAttentionGroup, normed.get(), {narrow_q.get(), narrow_k.get(), narrow_v.get()}, reduced, d_reduced.get());
    if (!dx) return;
    products_.Multiply(std::vector<Product<float>>{{Backwards(kAttentionGroup, {narrow_q.get(), narrow_k.get(), narrow_v.get()}, d_reduced.get()),
                                          through.get(), shape_.hidden, shape_.hidden}});
    NormBackward(x, in_.weights.attn_norm, through.get(), d_middle.get(), dx);
  }

 private:
  int64_t In(int module) const { return InFeatures(shape_, module); }
  int64_t Out(int module) const { return OutFeatures(shape_, module); }
  static P *Kept(float *kept, int64_t at) { return reinterpret_cast<P *>(kept + at); }
  Stored WeightOf(int module) const {
    const auto &matrix = in_.weights.matrices[module];
    const int64_t columns = In(module), more = matrix.type == WeightType::kInt8 ? sizeof(float) : 0;
    return {matrix.data, matrix.type, Out(module), columns, columns + more};
  }

  void PackForward() {
    std::vector<Packing> packings;
    for (int module = 0; module < kModules; module++)
      packings.push_back({Products::Add(&weights_[module], In(module), Out(module)), WeightOf(module), true});
    adapters_.AddPackings(true, &packings);
    Products::Pack(packings);
  }

  void PackBackward(bool wants_dx) {
    std::vector<Packing> packings;
    for (int module = wants_dx ? 0 : kO; module < kModules; module++)
      packings.push_back({Products::Add(&weights_[module], Out(module), In(module)), WeightOf(module)});
    adapters_.AddPackings(false, &packings);
    Products::Pack(packings);
  }

  // Of x Wᵀ + u Bᵀ.
  std::vector<Operand> Forwards(int module, const P *x, const P *reduced) {
    std::vector<Operand> operands{{x, In(module), &weights_[module]}};
    adapters_.AddForward(module, reduced, &operands);
    return operands;
  }

  // Of Σ dy W + du A over a group's modules.
  std::vector<Operand> Backwards(Group group, const std::vector<const P *> &dys, const P *d_reduced) {
    std::vector<Operand> operands;
    for (int module = group.first; module <= group.last; module++)
      operands.push_back({dys[module - group.first], Out(module), &weights_[module]});
    adapters_.AddBackward(group, d_reduced, &operands);
    return operands;
  }

  // y = before + a module's product.
  void AddProduct(int module, const P *x, const P *reduced, const float *before, float *y) {
    products_.Multiply(std::vector<Product<float>>{{Forwards(module, x, reduced), y, shape_.hidden, shape_.hidden}});
    // In one addition: what leaves a layer may be far larger than what it adds.
    products_.ForBlocks([&](int64_t first, int64_t count) {
      Tiles::AddScaled(before + first * shape_.hidden, 1, y + first * shape_.hidden, count * shape_.hidden);
    });
  }

  void Norm(const float *x, const float *weight, P *y) {
    const int64_t hidden = shape_.hidden;
    products_.ForBlocks([&](int64_t first, int64_t count) {
      const Room<float> normed(hidden);
      for (int64_t row = first; row < first + count; row++) {
        Tiles::Norm(x + row * hidden, weight, normed.get(), hidden, shape_.eps);
        ConvertRow<Tiles>(normed.get(), y + row * hidden, hidden);
      }
    });
  }

  // dx = before + what dy, the gradient of a norm's result, gives.
  void NormBackward(const float *x, const float *weight, const float *dy, const float *before, float *dx) {
    const int64_t hidden = shape_.hidden;
    products_.ForBlocks([&](int64_t first, int64_t count) {
      for (int64_t row = first; row < first + count; row++) {
        memcpy(dx + row * hidden, before + row * hidden, hidden * sizeof(float));
        Tiles::NormBackward(x + row * hidden, weight, dy + row * hidden, dx + row * hidden, hidden, shape_.eps);
      }
    });
  }

  void Narrow(const float *x, P *y) {
    products_.ForBlocks([&](int64_t first, int64_t count) {
      const int64_t from = first * shape_.hidden;
      ConvertRow<Tiles>(x + from, y + from, count * shape_.hidden);
    });
  }

  template <typename Work>
  void ForMlpValues(const Work &work) {
    products_.ForBlocks([&](int64_t first, int64_t count) { work(first * shape_.intermediate, count * shape_.intermediate); });
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
  const Products products_;
  Adapters adapters_;
  typename Products::Matrices weights_[kModules];
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
