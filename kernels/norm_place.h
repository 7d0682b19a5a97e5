// Whether a norm stands before or after a half of a layer.
#pragma once

#include <cstdint>

namespace h2o {

enum class NormPlace : uint8_t {
  kNone,    // out = x
  kBefore,  // out = norm(x), x is left as it is (pre-LayerNorm)
  kAfter,   // x = norm(x), out = x (post-LayerNorm)
};

}  // namespace h2o
