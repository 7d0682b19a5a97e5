// Why a sequence is over.
#pragma once

#include <cstdint>

namespace h2o {

enum class FinishReason : uint8_t {
  kNone = 0,
  kStop = 1,    // end-of-text
  kLength = 2,  // max_tokens
};

}  // namespace h2o
