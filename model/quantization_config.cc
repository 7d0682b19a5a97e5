// Names codings for people.
#include "model/quantization_config.h"

#include "absl/strings/str_cat.h"

namespace h2o {

std::string Describe(const WeightCoding& coding) {
  std::string name(Name(coding.format));
  if (coding.format != WeightFormat::kInt4) return name;
  return absl::StrCat(name, " in groups of ", coding.group);
}

}  // namespace h2o
