// Included by skinny_matmul.cc once for each width of vectors, and so without a guard: a template cannot choose the instructions that
// its functions are compiled for. ANNEAL_MACHINE names what is made, of ANNEAL_MACHINE##Vectors, for the instructions ANNEAL_TARGET.

#define ANNEAL_JOIN_TOKENS(a, b) a##b
#define ANNEAL_JOIN(a, b) ANNEAL_JOIN_TOKENS(a, b)

struct ANNEAL_MACHINE : ANNEAL_JOIN(ANNEAL_MACHINE, Vectors) {
  template <typename T>
  ANNEAL_TARGET static void WidenRow(const T *from, float *to, int64_t k, int64_t ahead) {
    const float scale = ScaleOf(from, k);
    const Vector scales = All(scale);
    int64_t i = 0;
    for (; i + kLanes <= k; i += kLanes) {
      Prefetch(from + i + ahead);
      const Vector wide = Load(from + i);
      Store(to + i, sizeof(T) == 1 ? Times(wide, scales) : wide);
    }
    for (; i < k; i++) to[i] = Widen(from[i]) * scale;
  }

  template <int kR, int kC, typename T>
  ANNEAL_TARGET static void Block(const float *x, const T *const *w, float *y, int64_t k, int64_t n, int64_t ahead) {
    Vector sums[kR][kC];
    ANNEAL_UNROLL for (int r = 0; r < kR; r++)
      ANNEAL_UNROLL for (int c = 0; c < kC; c++) sums[r][c] = Zero();
    int64_t i = 0;
    for (; i + kLanes <= k; i += kLanes) {
      Vector weights[kC];
      ANNEAL_UNROLL for (int c = 0; c < kC; c++) {
        if (ahead > 0) Prefetch(w[c] + i + ahead);
        weights[c] = Load(w[c] + i);
      }
      ANNEAL_UNROLL for (int r = 0; r < kR; r++) {
        const Vector values = Load(x + r * k + i);
        ANNEAL_UNROLL for (int c = 0; c < kC; c++) sums[r][c] = TimesPlus(values, weights[c], sums[r][c]);
      }
    }
    ANNEAL_UNROLL for (int r = 0; r < kR; r++)
      ANNEAL_UNROLL for (int c = 0; c < kC; c++) {
        float sum = Sum(sums[r][c]);
        for (int64_t rest = i; rest < k; rest++) sum += x[r * k + rest] * Widen(w[c][rest]);
        y[r * n + c] = sum;
      }
  }
};

#undef ANNEAL_JOIN
#undef ANNEAL_JOIN_TOKENS
