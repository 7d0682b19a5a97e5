// The "quantization_config" of a config.json.  Only for .cc files, like
// json_file.h.
//
// compressed-tensors is the layout of the package of that name, which
// transformers and vLLM read; GPTQ's is that of AutoGPTQ and GPTQModel (Frantar
// et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
// Transformers", 2022).
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "model/quantization_config.h"

namespace h2o {

// Errors: INVALID_ARGUMENT that begins with `what`, names the key and its
// value, and says what would be right.
absl::StatusOr<QuantizationConfig> ReadQuantizationConfig(
    const nlohmann::json& value, const std::string& what);

// As transformers' compressed-tensors and vLLM read it; but vLLM reads int8 in
// kBytes only with inputs that are rounded, and without in kPacked.
// REQUIRES: a layout of compressed-tensors, and a coding that it has.
nlohmann::ordered_json WriteQuantizationConfig(
    const QuantizationConfig& config);

}  // namespace h2o
