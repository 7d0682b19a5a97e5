// How probable tokens were: natural logarithms of the softmax of the raw
// logits, before any sampling option changes them.
#pragma once

#include <cstdint>
#include <vector>

namespace h2o {

// The most likely tokens that can be asked for beside the chosen one.
inline constexpr int32_t kMostTopLogprobs = 20;

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;

  friend bool operator==(const TokenLogprob&, const TokenLogprob&) = default;
};

// Of one position.
struct Logprobs {
  TokenLogprob chosen;            // the token that stands there
  std::vector<TokenLogprob> top;  // the likeliest first; of equals the lower id

  friend bool operator==(const Logprobs&, const Logprobs&) = default;
};

}  // namespace h2o
