// The beginning of a safetensors file that is to be written: the length of the
// header and the header (model/safetensors.h tells the format).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"

namespace h2o {

// A tensor of a file that is to be written.
struct PlannedTensor {
  std::string name;
  std::string dtype;  // as the header spells it
  std::vector<int64_t> shape;
  int64_t bytes = 0;
};

// What the format calls "__metadata__": texts by their keys, in order.
using SafetensorsMetadata = std::vector<std::pair<std::string, std::string>>;

// The data of the tensors follows, one behind the other, and begins at a
// multiple of 8.  Those of the widest elements should be first, or others leave
// them unaligned.
std::string SafetensorsHeader(const SafetensorsMetadata& metadata,
                              absl::Span<const PlannedTensor> tensors);

}  // namespace h2o
