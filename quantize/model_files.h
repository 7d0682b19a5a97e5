// The files of a model's directory beside its weights.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "model/quantization_config.h"

namespace h2o {

// Copies all plain files of a model's directory but its weights, of whatever
// format, and its config.json: that becomes the same with
// "quantization_config". Errors: those of ReadWholeFile and of NewFile.
absl::Status CopyModelFiles(const std::string& from,
                            const QuantizationConfig& storage,
                            const std::string& to);

}  // namespace h2o
