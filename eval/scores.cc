// Scores tokens, sums scores up and says how sure a perplexity is.
#include "eval/scores.h"

#include <algorithm>
#include <cmath>

#include "base/sampling.h"
#include "embedded/teacher_forced.h"

namespace h2o {
namespace {

constexpr int kDraws = 2000;
constexpr uint64_t kSeed = 22;

// sum of p log(p / q) over the vocabulary.
double Divergence(absl::Span<const float> p_logits, double p_sum,
                  absl::Span<const float> q_logits, double q_sum) {
  double divergence = 0;
  for (size_t i = 0; i < p_logits.size(); ++i) {
    const double log_p = p_logits[i] - p_sum;
    const double p = std::exp(log_p);
    if (p > 0) divergence += p * (log_p - (q_logits[i] - q_sum));
  }
  return divergence;
}

}  // namespace

void DocumentScores::Add(absl::Span<const float> full,
                         absl::Span<const float> logits, int32_t token) {
  const double sum = LogSumExp(logits);
  ++tokens;
  nll += sum - logits[token];
  kl += Divergence(full, LogSumExp(full), logits, sum);
  agreed += LikeliestToken(full) == LikeliestToken(logits) ? 1 : 0;
}

int32_t LikeliestToken(absl::Span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) -
                              logits.begin());
}

DocumentScores SumOf(absl::Span<const DocumentScores> documents) {
  DocumentScores sum;
  for (const DocumentScores& document : documents) {
    sum.tokens += document.tokens;
    sum.nll += document.nll;
    sum.kl += document.kl;
    sum.agreed += document.agreed;
  }
  return sum;
}

double Perplexity(absl::Span<const DocumentScores> documents) {
  const DocumentScores sum = SumOf(documents);
  return std::exp(sum.nll / static_cast<double>(sum.tokens));
}

Interval PerplexityInterval(absl::Span<const DocumentScores> documents) {
  std::vector<double> perplexities;
  std::vector<DocumentScores> drawn(documents.size());
  for (uint64_t draw = 0; draw < kDraws; ++draw) {
    for (size_t i = 0; i < drawn.size(); ++i) {
      drawn[i] = documents[CounterRandom(kSeed, draw, i)[0] % drawn.size()];
    }
    perplexities.push_back(Perplexity(drawn));
  }
  std::sort(perplexities.begin(), perplexities.end());
  constexpr int kTail = kDraws / 40;  // 2.5 of 100 on either side
  return {perplexities[kTail], perplexities[kDraws - 1 - kTail]};
}

}  // namespace h2o
