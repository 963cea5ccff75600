// Included by machines.h once for each width of vectors, and so without a guard: a template cannot choose the instructions that
// its functions are compiled for. ANNEAL_MACHINE names what is made, of ANNEAL_MACHINE##Vectors, for the instructions ANNEAL_TARGET.

#define ANNEAL_JOIN_TOKENS(a, b) a##b
#define ANNEAL_JOIN(a, b) ANNEAL_JOIN_TOKENS(a, b)

struct ANNEAL_MACHINE : ANNEAL_JOIN(ANNEAL_MACHINE, Vectors) {
  template <typename T>
  ANNEAL_TARGET static void WidenRow(const T *from, float *to, int64_t k) {
    const float scale = ScaleOf(from, k);
    const Vector scales = All(scale);
    int64_t i = 0;
    for (; i + kLanes <= k; i += kLanes) {
      const Vector wide = Load(from + i);
      Store(to + i, sizeof(T) == 1 ? Times(wide, scales) : wide);
    }
    for (; i < k; i++) to[i] = Widen(from[i]) * scale;
  }

  ANNEAL_TARGET static void NarrowRow(const float *from, uint16_t *to, int64_t n) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) StoreNarrow(to + i, Load(from + i));
    for (; i < n; i++) to[i] = Narrow(from[i]);
  }

  template <int kR, int kC, typename X, typename T>
  ANNEAL_TARGET static void Block(const X *x, const T *const *w, float *y, int64_t k, int64_t n, int64_t ahead, const char *next) {
    Vector sums[kR][kC];
    ANNEAL_UNROLL for (int r = 0; r < kR; r++)
      ANNEAL_UNROLL for (int c = 0; c < kC; c++) sums[r][c] = Zero();
    int64_t i = 0;
    for (; i + kLanes <= k; i += kLanes) {
      Vector weights[kC];
      if (next) Prefetch(next + i * sizeof(float));
      ANNEAL_UNROLL for (int c = 0; c < kC; c++) {
        if (ahead > 0) Prefetch(w[c] + i + ahead);
        weights[c] = Load(w[c] + i);
      }
      ANNEAL_UNROLL for (int r = 0; r < kR; r++) {
        const Vector values = Load(x + r * k + i);
        ANNEAL_UNROLL for (int c = 0; c < kC; c++) sums[r][c] = TimesPlus(values, weights[c], sums[r][c]);
      }
    }
    float totals[kR * kC];
    SumAll<kR * kC>(&sums[0][0], totals);
    ANNEAL_UNROLL for (int r = 0; r < kR; r++)
      ANNEAL_UNROLL for (int c = 0; c < kC; c++) {
        float sum = totals[r * kC + c];
        for (int64_t rest = i; rest < k; rest++) sum += Widen(x[r * k + rest]) * Widen(w[c][rest]);
        y[r * n + c] = sum;
      }
  }

  template <int kCount>
  ANNEAL_TARGET static void SumAll(const Vector *v, float *to) {
    constexpr int kFours = kCount / 4 * 4;
    ANNEAL_UNROLL for (int i = 0; i < kFours; i += 4) SumFour(v + i, to + i);
    ANNEAL_UNROLL for (int i = kFours; i < kCount; i++) to[i] = Sum(v[i]);
  }

  // As Cephes' expf: 2^n · exp(r) with |r| <= ln 2 / 2, to about one unit in the last place. What is below -87 counts as -87: exp of it is
  // the least that float32 keeps whole. What is not a number stays so.
  ANNEAL_TARGET static Vector Exp(Vector x) {
    x = Most(All(-87.0f), x);
    const Vector n = Round(Times(x, All(1.44269504088896341f)));
    const Vector r = TimesPlus(n, All(2.12194440e-4f), TimesPlus(n, All(-0.693359375f), x));
    Vector sum = All(1.9875691500e-4f);
    for (const float term : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
      sum = TimesPlus(sum, r, All(term));
    return Scale(TimesPlus(Times(sum, r), r, TimesPlus(r, All(1), All(1))), n);
  }

  ANNEAL_TARGET static float Largest(const float *x, int64_t n) {
    Vector largest = All(x[0]);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) largest = Most(Load(x + i), largest);
    float most = LargestOf(largest);
    for (; i < n; i++) most = std::max(most, x[i]);
    return most;
  }

  ANNEAL_TARGET static float ExpSum(const float *x, float *y, int64_t n, float most, float scale) {
    const Vector mosts = All(most), scales = All(scale), one = All(1);
    Vector sums = Zero();
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      const Vector made = Exp(Times(Minus(Load(x + i), mosts), scales));
      Store(y + i, made);
      sums = TimesPlus(made, one, sums);
    }
    float sum = Sum(sums), rest[kLanes] = {};
    if (i == n) return sum;
    memcpy(rest, x + i, (n - i) * sizeof(float));
    Store(rest, Exp(Times(Minus(Load(rest), mosts), scales)));
    for (int64_t at = i; at < n; at++) sum += y[at] = rest[at - i];
    return sum;
  }

  template <int kR, typename V>
  ANNEAL_TARGET static void Mix(const float *p, const V *const *v, float *y, int64_t n, int64_t dim) {
    int64_t from = 0;
    for (; from + kMixed * kLanes <= dim; from += kMixed * kLanes) MixColumns<kR, kMixed>(p, v, y, n, dim, from);
    for (; from + kLanes <= dim; from += kLanes) MixColumns<kR, 1>(p, v, y, n, dim, from);
    for (; from < dim; from++)
      for (int r = 0; r < kR; r++) {
        float sum = 0;
        for (int64_t i = 0; i < n; i++) sum += p[r * n + i] * Widen(v[i][from]);
        y[r * dim + from] = sum;
      }
  }

  template <typename B>
  ANNEAL_TARGET static void AddLowRank(const float *u, int64_t rank, float scale, const B *b, int64_t begin, float *y, int64_t n) {
    for (int64_t end = begin + n; begin < end;) {
      const int64_t from = begin % kUpdatePanel, count = std::min(kUpdatePanel - from, end - begin);
      const B *panel = b + (begin - from) * rank + from;
      int64_t at = 0;
      if (count == kUpdatePanel) at = AddAll<kUpdatePanel / kLanes>(u, rank, scale, panel, y);
      for (; at + kLanes <= count; at += kLanes) AddColumns<1>(u, rank, scale, panel + at, y + at);
      for (; at < count; at++)
        for (int64_t i = 0; i < rank; i++) y[at] += u[i] * scale * Widen(panel[i * kUpdatePanel + at]);
      begin += count, y += count;
    }
  }

  ANNEAL_TARGET static void Norm(const float *x, const float *weight, float *y, int64_t n, float eps) {
    Vector squares = Zero();
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) squares = TimesPlus(Load(x + i), Load(x + i), squares);
    float sum = Sum(squares);
    for (; i < n; i++) sum += x[i] * x[i];
    const float inverse = 1 / std::sqrt(sum / n + eps);
    const Vector inverses = All(inverse);
    for (i = 0; i + kLanes <= n; i += kLanes) Store(y + i, Times(Times(Load(x + i), inverses), Load(weight + i)));
    for (; i < n; i++) y[i] = x[i] * inverse * weight[i];
  }

  ANNEAL_TARGET static void GateTimes(float *gate, const float *up, int64_t n) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) Store(gate + i, Times(Silu(Load(gate + i)), Load(up + i)));
    if (i == n) return;
    float rest[kLanes] = {};
    memcpy(rest, gate + i, (n - i) * sizeof(float));
    Store(rest, Silu(Load(rest)));
    for (int64_t at = i; at < n; at++) gate[at] = rest[at - i] * up[at];
  }

  ANNEAL_TARGET static void Rotate(float *x, const float *cos, const float *sin, int64_t half) {
    int64_t i = 0;
    for (; i + kLanes <= half; i += kLanes) {
      const Vector first = Load(x + i), second = Load(x + half + i), c = Load(cos + i), s = Load(sin + i);
      Store(x + i, Minus(Times(first, c), Times(second, s)));
      Store(x + half + i, TimesPlus(second, c, Times(first, s)));
    }
    RotateFrom(i, x, cos, sin, half);
  }

 private:
  // Below -87 the sigmoid is as at -87, which is less than float32 tells from zero beside any other value.
  ANNEAL_TARGET static Vector Silu(Vector x) { return Over(x, TimesPlus(All(1), All(1), Exp(Minus(Zero(), Most(All(-87.0f), x))))); }

  // A whole panel, as many of its columns at a time as registers hold.
  template <int kVectors, typename B>
  ANNEAL_TARGET static int64_t AddAll(const float *u, int64_t rank, float scale, const B *b, float *y) {
    constexpr int kC = kVectors < 8 ? kVectors : 8;
    for (int64_t at = 0; at < kUpdatePanel; at += kC * kLanes) AddColumns<kC>(u, rank, scale, b + at, y + at);
    return kUpdatePanel;
  }

  // Asks for the same columns of the next panel.
  template <int kC, typename B>
  ANNEAL_TARGET static void AddColumns(const float *u, int64_t rank, float scale, const B *b, float *y) {
    constexpr int64_t kLine = 64 / sizeof(B);
    Vector sums[kC];
    ANNEAL_UNROLL for (int c = 0; c < kC; c++) sums[c] = Load(y + c * kLanes);
    for (int64_t i = 0; i < rank; i++, b += kUpdatePanel) {
      const Vector share = All(u[i] * scale);
      ANNEAL_UNROLL for (int64_t line = 0; line < kC * kLanes; line += kLine) Prefetch(b + rank * kUpdatePanel + line);
      ANNEAL_UNROLL for (int c = 0; c < kC; c++) sums[c] = TimesPlus(share, Load(b + c * kLanes), sums[c]);
    }
    ANNEAL_UNROLL for (int c = 0; c < kC; c++) Store(y + c * kLanes, sums[c]);
  }

  template <int kR, int kC, typename V>
  ANNEAL_TARGET static void MixColumns(const float *p, const V *const *v, float *y, int64_t n, int64_t dim, int64_t from) {
    Vector sums[kR][kC];
    ANNEAL_UNROLL for (int r = 0; r < kR; r++)
      ANNEAL_UNROLL for (int c = 0; c < kC; c++) sums[r][c] = Zero();
    for (int64_t i = 0; i < n; i++) {
      Vector values[kC];
      ANNEAL_UNROLL for (int c = 0; c < kC; c++) values[c] = Load(v[i] + from + c * kLanes);
      ANNEAL_UNROLL for (int r = 0; r < kR; r++) {
        const Vector share = All(p[r * n + i]);
        ANNEAL_UNROLL for (int c = 0; c < kC; c++) sums[r][c] = TimesPlus(share, values[c], sums[r][c]);
      }
    }
    ANNEAL_UNROLL for (int r = 0; r < kR; r++)
      ANNEAL_UNROLL for (int c = 0; c < kC; c++) Store(y + r * dim + from + c * kLanes, sums[r][c]);
  }
};

#undef ANNEAL_JOIN
#undef ANNEAL_JOIN_TOKENS
