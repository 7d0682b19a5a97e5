// Why a sequence is over.
#pragma once

#include <cstdint>

namespace h2o {

enum class FinishReason : uint8_t {
  kNone = 0,
  kStop = 1,       // a stop token (end-of-text)
  kLength = 2,     // max_tokens
  kNonFinite = 3,  // the model's logits held a NaN or +Infinity: no token
};

inline constexpr FinishReason kLastFinishReason = FinishReason::kNonFinite;

// Most stop tokens of a sequence, the model's included.
inline constexpr int kMaxStopTokens = 32;

}  // namespace h2o
