// What logits of a cache are worth beside those of the full one.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace h2o {

// Sums over the tokens of one document.
struct DocumentScores {
  int64_t tokens = 0;
  double nll = 0;      // -log p of the tokens, in nats
  double kl = 0;       // KL divergence from the full cache's distribution
  int64_t agreed = 0;  // the likeliest token is the full cache's

  // Adds a token, of which `logits` were computed, and `full` with the full
  // cache.
  void Add(absl::Span<const float> full, absl::Span<const float> logits,
           int32_t token);

  friend bool operator==(const DocumentScores&,
                         const DocumentScores&) = default;
};

// The token with the greatest logit, of equal ones the lowest.
int32_t LikeliestToken(absl::Span<const float> logits);

DocumentScores SumOf(absl::Span<const DocumentScores> documents);

// exp of the mean of -log p.
double Perplexity(absl::Span<const DocumentScores> documents);

// Between which perplexities 95 of 100 lie, if the documents are drawn anew
// from themselves (bootstrap: Efron, "Bootstrap methods: another look at the
// jackknife", 1979).  The same for the same documents.
struct Interval {
  double low = 0, high = 0;
};
Interval PerplexityInterval(absl::Span<const DocumentScores> documents);

}  // namespace h2o
