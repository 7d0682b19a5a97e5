// How a checkpoint stores the weights of its linear layers as codes: what the
// "quantization_config" of its config.json says.
//
// model/quantization_json.h reads and writes it; model/coded_tensors.h has the
// tensors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/weight_format.h"

namespace h2o {

enum class CodeLayout : uint8_t {
  kNone,    // numbers: there is no quantization_config
  kPacked,  // compressed-tensors' pack-quantized: int4, int8 in words of 32
            // bits
  kBytes,   // compressed-tensors' int-, float- and naive-quantized: a byte each
  kGptq,    // GPTQ's: int4
};

struct QuantizationConfig {
  CodeLayout layout = CodeLayout::kNone;
  WeightCoding coding = {};  // fp8, int8, int4; a layout other than kNone
  // Of int4: all zero points are 8, and kPacked stores none.
  bool symmetric = true;
  // Of kGptq's first version: a stored zero point is one less than it means.
  bool zeros_less_one = false;
  // Readers may round a layer's inputs to 8 bits, too, each row by itself. Ours
  // do not.
  bool rounds_inputs = false;
  // Modules that are stored as numbers: names, or "re:" and a pattern.
  std::vector<std::string> ignored;

  friend bool operator==(const QuantizationConfig&,
                         const QuantizationConfig&) = default;
};

// For people: "int8", "int4 in groups of 64".
std::string Describe(const WeightCoding& coding);

}  // namespace h2o
