// Included by tiles.h once for each machine, and so without a guard, as machine_vectors.h is by machines.h. ANNEAL_MACHINE names the machine,
// ANNEAL_TARGET its instructions.

#define ANNEAL_JOIN_TOKENS(a, b) a##b
#define ANNEAL_JOIN(a, b) ANNEAL_JOIN_TOKENS(a, b)

struct ANNEAL_JOIN(ANNEAL_MACHINE, Tiles) : ANNEAL_MACHINE {
  // kR rows by kC vectors of Σ a · b over `parts`, whose sums stay in registers. In float32 they go to y after so many terms and begin anew: beside
  // a term that is larger than all others, as models have them, those that follow in the same sum lose what they are.
  template <int kR, int kC, typename P, typename Y>
  ANNEAL_TARGET static void Tile(const TilePart<P> *parts, int count, Y *y, int64_t stride, int64_t columns, bool adds) {
    Vector sums[kR][kC];
    Clear(sums);
    constexpr int kStep = sizeof(float) / sizeof(P);
    constexpr int64_t kTerms = 64;
    for (int i = 0; i < count; i++) {
      const P *a = parts[i].a, *end = a + parts[i].depth;
      const float *b = reinterpret_cast<const float *>(parts[i].b);
      const int64_t between = parts[i].stride;
      while (a < end) {
        const P *until = kStep == 1 && end - a > kTerms ? a + kTerms : end;
        for (; a < until; a += kStep, b += kC * kLanes) {
          Vector weights[kC];
          ANNEAL_UNROLL for (int c = 0; c < kC; c++) {
            __builtin_prefetch(b + 8 * kC * kLanes + c * kLanes);
            weights[c] = Load(b + c * kLanes);
          }
          ANNEAL_UNROLL for (int r = 0; r < kR; r++) {
            float value;
            memcpy(&value, a + r * between, sizeof(value));
            const Vector values = All(value);
            ANNEAL_UNROLL for (int c = 0; c < kC; c++)
              sums[r][c] = kStep == 2 ? TimesPairs(values, weights[c], sums[r][c]) : TimesPlus(values, weights[c], sums[r][c]);
          }
        }
        if (a == end) break;
        PutTile(sums, y, stride, columns, adds);
        adds = true;
        Clear(sums);
      }
      if (kStep == 1 && i + 1 < count) {
        PutTile(sums, y, stride, columns, adds);
        adds = true;
        Clear(sums);
      }
    }
    PutTile(sums, y, stride, columns, adds);
  }

  // `count` columns, side by side, of two rows in bfloat16.
  ANNEAL_TARGET static void Interleave(const uint16_t *first, const uint16_t *second, uint32_t *to, int64_t count) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) Store(reinterpret_cast<float *>(to + i), Pairs(first + i, second + i));
    for (; i < count; i++) to[i] = first[i] | static_cast<uint32_t>(second[i]) << 16;
  }

  // dx += what the gradient dy of Norm's result gives its argument.
  ANNEAL_TARGET static void NormBackward(const float *x, const float *weight, const float *dy, float *dx, int64_t n, float eps) {
    Vector squares = Zero(), products = Zero();
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      const Vector value = Load(x + i);
      squares = TimesPlus(value, value, squares);
      products = TimesPlus(value, Times(Load(dy + i), Load(weight + i)), products);
    }
    float square = Sum(squares), product = Sum(products);
    for (; i < n; i++) square += x[i] * x[i], product += x[i] * dy[i] * weight[i];
    const float inverse = 1 / std::sqrt(square / n + eps), back = -product * inverse * inverse * inverse / n;
    const Vector inverses = All(inverse), backs = All(back);
    for (i = 0; i + kLanes <= n; i += kLanes) {
      const Vector share = Times(Times(Load(dy + i), Load(weight + i)), inverses);
      Store(dx + i, TimesPlus(Load(x + i), backs, TimesPlus(share, All(1), Load(dx + i))));
    }
    for (; i < n; i++) dx[i] += dy[i] * weight[i] * inverse + x[i] * back;
  }

  // act = silu(gate) · up
  template <typename P>
  ANNEAL_TARGET static void GateForward(const P *gate, const P *up, P *act, int64_t count) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      const Vector g = Load(gate + i);
      Put(act + i, Times(Times(g, Sigmoid(g)), Load(up + i)), false);
    }
    if (i == count) return;
    P rest[3][kLanes] = {};
    memcpy(rest[0], gate + i, (count - i) * sizeof(P));
    memcpy(rest[1], up + i, (count - i) * sizeof(P));
    GateForward(rest[0], rest[1], rest[2], kLanes);
    memcpy(act + i, rest[2], (count - i) * sizeof(P));
  }

  // Of act = silu(gate) · up and its gradient dact: act again, and what it gives gate and up.
  template <typename P>
  ANNEAL_TARGET static void GateBackward(const P *gate, const P *up, const float *dact, P *act, P *dgate, P *dup, int64_t count) {
    const Vector one = All(1);
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      const Vector g = Load(gate + i), u = Load(up + i), d = Load(dact + i);
      const Vector sigmoid = Sigmoid(g), silu = Times(g, sigmoid);
      // silu' = sigmoid + silu · (1 - sigmoid)
      const Vector slope = TimesPlus(silu, Minus(one, sigmoid), sigmoid);
      Put(act + i, Times(silu, u), false);
      Put(dgate + i, Times(Times(d, u), slope), false);
      Put(dup + i, Times(d, silu), false);
    }
    if (i == count) return;
    P rest[5][kLanes] = {};
    float slopes[kLanes] = {};
    memcpy(rest[0], gate + i, (count - i) * sizeof(P));
    memcpy(rest[1], up + i, (count - i) * sizeof(P));
    memcpy(slopes, dact + i, (count - i) * sizeof(float));
    GateBackward(rest[0], rest[1], slopes, rest[2], rest[3], rest[4], kLanes);
    memcpy(act + i, rest[2], (count - i) * sizeof(P));
    memcpy(dgate + i, rest[3], (count - i) * sizeof(P));
    memcpy(dup + i, rest[4], (count - i) * sizeof(P));
  }

  // y += factor · x
  ANNEAL_TARGET static void AddScaled(const float *x, float factor, float *y, int64_t n) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) Store(y + i, TimesPlus(Load(x + i), All(factor), Load(y + i)));
    for (; i < n; i++) y[i] += x[i] * factor;
  }

  // y = factor · x
  template <typename P>
  ANNEAL_TARGET static void Scaled(const float *x, float factor, P *y, int64_t n) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) Put(y + i, Times(Load(x + i), All(factor)), false);
    if (i == n) return;
    float rest[kLanes] = {};
    P made[kLanes];
    memcpy(rest, x + i, (n - i) * sizeof(float));
    Put(made, Times(Load(rest), All(factor)), false);
    memcpy(y + i, made, (n - i) * sizeof(P));
  }

  // x *= factor
  template <typename P>
  ANNEAL_TARGET static void ScaleRow(P *x, float factor, int64_t n) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) Put(x + i, Times(Load(x + i), All(factor)), false);
    if (i == n) return;
    P rest[kLanes] = {};
    memcpy(rest, x + i, (n - i) * sizeof(P));
    ScaleRow(rest, factor, kLanes);
    memcpy(x + i, rest, (n - i) * sizeof(P));
  }

  ANNEAL_TARGET static float Dot(const float *a, const float *b, int64_t n) {
    Vector sums = Zero();
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) sums = TimesPlus(Load(a + i), Load(b + i), sums);
    float sum = Sum(sums);
    for (; i < n; i++) sum += a[i] * b[i];
    return sum;
  }

  // dx = x · (dx - shift) · factor: what a softmax's result x gives its argument.
  ANNEAL_TARGET static void SoftmaxBackward(const float *x, float *dx, float shift, float factor, int64_t n) {
    const Vector shifts = All(shift), factors = All(factor);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) Store(dx + i, Times(Times(Load(x + i), Minus(Load(dx + i), shifts)), factors));
    for (; i < n; i++) dx[i] = x[i] * (dx[i] - shift) * factor;
  }

 private:
  template <int kR, int kC>
  ANNEAL_TARGET __attribute__((always_inline)) static inline void Clear(Vector (&sums)[kR][kC]) {
    ANNEAL_UNROLL for (int r = 0; r < kR; r++)
      ANNEAL_UNROLL for (int c = 0; c < kC; c++) sums[r][c] = Zero();
  }

  template <int kR, int kC, typename Y>
  ANNEAL_TARGET __attribute__((always_inline)) static inline void PutTile(const Vector (&sums)[kR][kC], Y *y, int64_t stride, int64_t columns, bool adds) {
    if (columns == kC * kLanes) {
      ANNEAL_UNROLL for (int r = 0; r < kR; r++)
        ANNEAL_UNROLL for (int c = 0; c < kC; c++) Put(y + r * stride + c * kLanes, sums[r][c], adds);
      return;
    }
    Y row[kC * kLanes];
    ANNEAL_UNROLL for (int r = 0; r < kR; r++) {
      if (adds) memcpy(row, y + r * stride, columns * sizeof(Y));
      ANNEAL_UNROLL for (int c = 0; c < kC; c++) Put(row + c * kLanes, sums[r][c], adds);
      memcpy(y + r * stride, row, columns * sizeof(Y));
    }
  }

  ANNEAL_TARGET static Vector Sigmoid(Vector x) {
    const Vector one = All(1);
    return Over(one, TimesPlus(one, one, Exp(Minus(Zero(), Most(All(-87.0f), x)))));
  }

  ANNEAL_TARGET static void Put(float *y, Vector v, bool adds) { Store(y, adds ? TimesPlus(v, All(1), Load(y)) : v); }
  ANNEAL_TARGET static void Put(uint16_t *y, Vector v, bool) { StoreNarrow(y, v); }
};

#undef ANNEAL_JOIN
#undef ANNEAL_JOIN_TOKENS
