// Choosing the codes of a unit: the word or two words and the eight (four) signs that are coded
// together, under a diagonal metric (exactly) or a full one.
#include <algorithm>

#include "quant/iq_search-inl.h"

#if defined(PENNYWEIGHT_QUANT_IQ_CHOOSE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PENNYWEIGHT_QUANT_IQ_CHOOSE_INL_H_
#undef PENNYWEIGHT_QUANT_IQ_CHOOSE_INL_H_
#else
#define PENNYWEIGHT_QUANT_IQ_CHOOSE_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {

// kDims: values of a word. kParity: seven signs are stored for eight values.
template <int kDims, bool kParity>
class IqChooser {
 public:
  static constexpr int64_t kUnit = kParity ? 8 : kDims;
  static constexpr int64_t kWords = kUnit / kDims;  // of a unit

  // The codes of a unit: signed values (without scale), places of the words, signs as a number.
  struct Codes {
    HWY_ALIGN float values[kUnit * kLanes];
    HWY_ALIGN int32_t places[kWords * kLanes];
    HWY_ALIGN float signs[kLanes];
  };

  // Codes under a full metric take this many proposals more than the two that cost least.
  IqChooser(const CodebookIndex& index, int proposals) : index_(index), proposals_(proposals) {}

  // The best codes of x[kUnit] under h and a scale.
  void Choose(const float* x, const float* h, V scale, Codes* out) const {
    const LaneTag d;
    HWY_ALIGN float u[kUnit * kLanes];
    const V zero = hn::Zero(d);
    V signs = zero, parity = zero;
    for (int64_t j = 0; j < kUnit; ++j) {
      const V v = LoadCol(x, j);
      StoreCol(hn::Mul(hn::Abs(v), Splat(2 * h[j])), u, j);
      const VMask minus = hn::Lt(v, zero);
      signs = hn::Add(signs, hn::IfThenElseZero(minus, Splat(static_cast<float>(1 << j))));
      parity = hn::IfThenElse(minus, hn::Sub(Splat(1.0f), parity), parity);
    }
    const VMask odd = hn::Gt(parity, zero);
    const IntTag di;
    if constexpr (!kParity) {
      const V scales[1] = {scale};
      FoundV found[1];
      FindWords<kDims>(index_, u, h, scales, found);
      hn::Store(PlaceOf(index_, found[0]), di, out->places);
    } else if constexpr (kWords == 1) {
      const FoundPairV found = FindWordPair<kDims>(index_, u, h, scale, odd);
      hn::Store(PlaceOf(index_, found.odd), di, out->places);
    } else {
      const FoundPairV a = FindWordPair<kDims>(index_, u, h, scale, odd);
      const FoundPairV b = FindWordPair<kDims>(index_, u + kDims * kLanes, h + kDims, scale, odd);
      const VMask first =
          hn::Gt(hn::Add(a.odd.score, b.plain.score), hn::Add(a.plain.score, b.odd.score));
      const auto store = [&](const FoundV& yes, const FoundV& no, int64_t k) {
        hn::Store(
            hn::IfThenElse(hn::RebindMask(di, first), PlaceOf(index_, yes), PlaceOf(index_, no)),
            di, out->places + k * kLanes);
      };
      store(a.odd, a.plain, 0);
      store(b.plain, b.odd, 1);
    }
    SignValues(x, u, odd, signs, out);
  }

  // Codes of low |(x - q) R|^2, q = scale values. Exact choices under diagonal metrics propose
  // them: of the weights themselves; of the targets that are left when each weight in turn makes
  // up for the misses before it, rounded freely, and then as the best so far has them; and of steps
  // down the gradient from the best so far, of several lengths.
  void ChooseCorrelated(const float* x, const float* r, int64_t stride, V scale,
                        Codes* best) const {
    float m[kUnit][kUnit];  // R R^T
    float h[kUnit], conditional[kUnit];
    for (int64_t i = 0; i < kUnit; ++i) {
      for (int64_t j = 0; j < kUnit; ++j) {
        float sum = 0;
        for (int64_t k = std::max(i, j); k < kUnit; ++k) {
          sum += r[i * stride + k] * r[j * stride + k];
        }
        m[i][j] = sum;
      }
      h[i] = m[i][i];
      conditional[i] = r[i * stride + i] * r[i * stride + i];
    }
    HWY_ALIGN float targets[kUnit * kLanes];
    HWY_ALIGN float misses[kUnit * kLanes];
    Codes trial;
    Choose(x, h, scale, best);
    V cost = Cost(x, r, stride, scale, *best);
    const auto propose = [&](const float* metric) {
      Choose(targets, metric, scale, &trial);
      const V c = Cost(x, r, stride, scale, trial);
      const VMask better = hn::Lt(c, cost);
      cost = hn::Min(c, cost);
      Take(better, trial, best);
    };
    SequentialTargets(x, r, stride, scale, targets);
    propose(conditional);
    for (int step = 0; step < proposals_; ++step) {
      Misses(x, scale, *best, misses);
      if (step % 2 == 0) {
        for (int64_t j = 0; j < kUnit; ++j) {
          StoreCol(Conditional(x, misses, r, stride, j), targets, j);
        }
        propose(conditional);
        continue;
      }
      constexpr float kStrides[] = {1.0f, 0.5f, 2.0f, 0.7f};
      for (int64_t j = 0; j < kUnit; ++j) {
        V pull = hn::Zero(LaneTag());
        for (int64_t i = 0; i < kUnit; ++i) {
          pull = hn::Add(pull, hn::Mul(Splat(m[j][i]), LoadCol(misses, i)));
        }
        const V move = hn::Mul(pull, Splat(kStrides[step / 2 % 4] / h[j]));
        StoreCol(hn::Add(hn::Sub(LoadCol(x, j), LoadCol(misses, j)), move), targets, j);
      }
      propose(h);
    }
  }

 private:
  // Values of the chosen words with their signs; in lanes of `odd` the value whose wrong sign costs
  // least, u g, takes it.
  void SignValues(const float* x, const float* u, VMask odd, V signs, Codes* out) const {
    const LaneTag d;
    V least = Splat(1e30f);
    for (int64_t j = 0; j < kUnit; ++j) {
      const V g = ValueOf(index_, hn::Load(IntTag(), out->places + j / kDims * kLanes),
                          static_cast<int>(j % kDims));
      StoreCol(g, out->values, j);
      if constexpr (kParity) least = hn::Min(least, hn::Mul(g, LoadCol(u, j)));
    }
    VMask open = odd;
    for (int64_t j = 0; j < kUnit; ++j) {
      const V g = LoadCol(out->values, j);
      const VMask minus = hn::Lt(LoadCol(x, j), hn::Zero(d));
      V value = hn::IfThenElse(minus, hn::Neg(g), g);
      if constexpr (kParity) {
        const VMask flip = hn::And(open, hn::Le(hn::Mul(g, LoadCol(u, j)), least));
        open = hn::AndNot(flip, open);
        const V bit = Splat(static_cast<float>(1 << j));
        value = hn::IfThenElse(flip, hn::Neg(value), value);
        signs = hn::Add(signs, hn::IfThenElseZero(flip, hn::IfThenElse(minus, hn::Neg(bit), bit)));
      }
      StoreCol(value, out->values, j);
    }
    StoreCol(signs, out->signs, 0);
  }

  static void Misses(const float* x, V scale, const Codes& chosen, float* misses) {
    for (int64_t j = 0; j < kUnit; ++j) {
      const V q = hn::Mul(scale, LoadCol(chosen.values, j));
      StoreCol(hn::Sub(LoadCol(x, j), q), misses, j);
    }
  }
  // What value j should be to make up for the misses before it.
  static V Conditional(const float* x, const float* misses, const float* r, int64_t stride,
                       int64_t j) {
    V sum = hn::Zero(LaneTag());
    for (int64_t i = 0; i < j; ++i) {
      sum = hn::Add(sum, hn::Mul(LoadCol(misses, i), Splat(r[i * stride + j])));
    }
    return hn::Add(LoadCol(x, j), hn::Mul(sum, Splat(1.0f / r[j * stride + j])));
  }

  // |(x - q) R|^2.
  static V Cost(const float* x, const float* r, int64_t stride, V scale, const Codes& chosen) {
    V cost = hn::Zero(LaneTag());
    for (int64_t j = 0; j < kUnit; ++j) {
      V sum = hn::Zero(LaneTag());
      for (int64_t i = 0; i <= j; ++i) {
        const V e = hn::Sub(LoadCol(x, i), hn::Mul(scale, LoadCol(chosen.values, i)));
        sum = hn::Add(sum, hn::Mul(e, Splat(r[i * stride + j])));
      }
      cost = hn::Add(cost, hn::Mul(sum, sum));
    }
    return cost;
  }

  // What each value should be, given the misses of those before it when these are rounded to the
  // nearest values of a word, whatever the codebook has.
  void SequentialTargets(const float* x, const float* r, int64_t stride, V scale,
                         float* targets) const {
    HWY_ALIGN float misses[kUnit * kLanes];
    for (int64_t j = 0; j < kUnit; ++j) {
      const V target = Conditional(x, misses, r, stride, j);
      StoreCol(target, targets, j);
      V value = Splat(index_.level_values[0]);
      for (int k = 1; k < index_.levels; ++k) {
        const float middle = 0.5f * (index_.level_values[k - 1] + index_.level_values[k]);
        const VMask above = hn::Gt(hn::Abs(target), hn::Mul(scale, Splat(middle)));
        value = hn::IfThenElse(above, Splat(index_.level_values[k]), value);
      }
      const V q = hn::CopySign(hn::Mul(scale, value), target);
      StoreCol(hn::Sub(LoadCol(x, j), q), misses, j);
    }
  }

  // In lanes of `better`, the codes of `from`.
  static void Take(VMask better, const Codes& from, Codes* to) {
    const IntTag di;
    const auto floats = [&](const float* source, float* target) {
      StoreCol(hn::IfThenElse(better, LoadCol(source, 0), LoadCol(target, 0)), target, 0);
    };
    for (int64_t j = 0; j < kUnit; ++j) floats(from.values + j * kLanes, to->values + j * kLanes);
    floats(from.signs, to->signs);
    for (int64_t k = 0; k < kWords * kLanes; k += kLanes) {
      hn::Store(hn::IfThenElse(hn::RebindMask(di, better), hn::Load(di, from.places + k),
                               hn::Load(di, to->places + k)),
                di, to->places + k);
    }
  }

  const CodebookIndex& index_;
  int proposals_;
};

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
