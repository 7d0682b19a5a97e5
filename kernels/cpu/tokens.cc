// From logits to tokens: the CPU twin of cuda/tokens.cu.
#include "kernels/cpu/tokens.h"

#include <algorithm>
#include <limits>

#include "kernels/cpu/stored_slots.h"

// One source, compiled for each instruction set and picked at run time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/tokens.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace h2o::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

int64_t ArgMaxRowImpl(const float* x, int64_t n) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const F32 d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const VF infinity = hn::Set(d, kInfinity);
  VF greatest = hn::Set(d, -kInfinity);
  auto all_below = hn::Lt(greatest, infinity);  // false where NaN was met
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const VF v = hn::LoadU(d, x + i);
    all_below = hn::And(all_below, hn::Lt(v, infinity));
    greatest = hn::Max(greatest, v);
  }
  bool usable = hn::AllTrue(d, all_below);
  float best = hn::GetLane(hn::MaxOfLanes(d, greatest));
  for (; i < n; ++i) {
    usable &= x[i] < kInfinity;
    best = std::max(best, x[i]);
  }
  if (!usable) return -1;
  for (i = 0; i < n; ++i) {
    if (x[i] == best) return i;
  }
  return 0;  // -Infinity only, of which not every target's MaxOfLanes knows
}

}  // namespace HWY_NAMESPACE
}  // namespace h2o::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace h2o::cpu {

HWY_EXPORT(ArgMaxRowImpl);

namespace {

// The column of the greatest of x[n], of equal ones the first; -1 if one is NaN
// or +Infinity.  REQUIRES: n >= 1.
int64_t ArgMaxRow(const float* x, int64_t n) {
  return HWY_DYNAMIC_DISPATCH(ArgMaxRowImpl)(x, n);
}

double SumOfScores(const KvPool& pool, const KvHead& head) {
  if (head.slots.score_rule == ScoreRule::kNone) return 0;
  double sum = 0;
  for (int32_t slot = 0; slot < head.num_slots; ++slot) {
    sum += *ScoreAt(pool, head, slot);
  }
  return sum;
}

}  // namespace

void BeginDecode(const SequenceState* states, const int32_t* seats,
                 int64_t rows, int32_t* tokens, int32_t* positions,
                 KvHead** heads) {
  for (int64_t r = 0; r < rows; ++r) {
    const bool runs = Runs(states, seats[r]);
    tokens[r] = runs ? states[seats[r]].token : 0;
    positions[r] = runs ? states[seats[r]].position : -1;
    heads[r] = runs ? states[seats[r]].heads : nullptr;
  }
}

void ArgMax(Matrix logits, int32_t first_token, BestLogit* best, Team* team) {
  team->ParallelFor(logits.rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t c = ArgMaxRow(logits.Row(r), logits.columns);
      best[r] =
          c < 0 ? BestLogit{std::numeric_limits<float>::quiet_NaN(), kNoToken}
                : BestLogit{logits.Row(r)[c],
                            static_cast<int32_t>(first_token + c)};
    }
  });
}

void PickBest(const BestLogit* of_ranks, int ranks, int64_t rows,
              int32_t* tokens) {
  for (int64_t r = 0; r < rows; ++r) {
    BestLogit best = of_ranks[r];
    for (int rank = 1; rank < ranks; ++rank) {
      best = BetterOf(best, of_ranks[rank * rows + r]);
    }
    tokens[r] = best.token;
  }
}

int64_t SampleScratchFloats(int64_t vocabulary) {
  return 2 * vocabulary * int64_t{sizeof(double) / sizeof(float)};
}

void Sample(Matrix logits, const SequenceState* states, const int32_t* seats,
            int32_t* tokens, Team* team) {
  const int64_t vocabulary = logits.columns;
  team->ParallelFor(
      logits.rows, 1, [&](int64_t begin, int64_t end, int thread) {
        const absl::Span<double> scratch(
            reinterpret_cast<double*>(team->OfThread(thread)), 2 * vocabulary);
        for (int64_t r = begin; r < end; ++r) {
          if (!Chooses(states, seats[r], tokens[r])) continue;
          const SequenceState& state = states[seats[r]];
          tokens[r] = SampleToken({logits.Row(r), size_t(vocabulary)},
                                  state.sampling, state.num_generated, scratch);
        }
      });
}

void Advance(SequenceState* states, const int32_t* seats, int64_t rows,
             const int32_t* tokens, RowResult* results) {
  for (int64_t r = 0; r < rows; ++r) {
    results[r] = Runs(states, seats[r])
                     ? NextToken(tokens[r], &states[seats[r]])
                     : RowResult();
  }
}

void SumScores(const SequenceState* states, const int32_t* seats, int64_t rows,
               int num_heads, const KvPool& pool, RowResult* results,
               Team* team) {
  team->ParallelFor(rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      if (!WantsScores(states, seats[r], results[r])) continue;
      double sum = 0;
      for (int h = 0; h < num_heads; ++h) {
        sum += SumOfScores(pool, states[seats[r]].heads[h]);
      }
      results[r].kept_scores = static_cast<float>(sum);
    }
  });
}

}  // namespace h2o::cpu
#endif  // HWY_ONCE
