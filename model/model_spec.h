// Which model a group serves and in which formats: what an operator names, and
// what every rank is told.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/dtype.h"
#include "base/weight_format.h"
#include "kv/kv_geometry.h"
#include "model/model_config.h"

namespace h2o {

struct ModelSpec {
  std::string model;   // directory, or a built-in config's name
  bool dummy = false;  // --load-format dummy: random weights
  uint64_t dummy_seed = 0;
  std::string dtype;     // float32, bf16, fp16; empty: as the device prefers
  std::string kv_dtype;  // likewise
  // Of weights alone, also fp8, int8 or int4, which is for the linear layers of
  // layers; empty or auto: as they are stored, or as dtype says.
  std::string weights;
  int32_t weight_group = 128;  // inputs that share a scale, of int4
  // Whether products with fp8 weights round their inputs to e4m3, too.
  bool fp8_activations = false;

  friend bool operator==(const ModelSpec&, const ModelSpec&) = default;
};

// With the empty formats filled in: float32 on CPUs, on GPUs the checkpoint's
// 16-bit format (bf16 for one of float32); weights that are stored as codes
// stay so.
ModelSpec WithFormats(ModelSpec spec, const ModelConfig& config, bool gpu);

// A directory's config.json, or for dummy weights also a built-in config.
// Errors: as ReadModelConfig and BuiltInModelConfig; INVALID_ARGUMENT naming
// both formats if weights are stored as other codes than `spec` asks for, or
// if activations are to be fp8 and weights are not.
absl::StatusOr<ModelConfig> ConfigOf(const ModelSpec& spec);

// A GPU keeps keys, values and weights that are not codes in one 16-bit format.
// Errors: INVALID_ARGUMENT naming two that differ.
absl::Status CheckGpuFormats(const ModelSpec& spec);

// Errors (all): INVALID_ARGUMENT naming an unknown format and the known ones.
//
// Of products; what is stored has it, too, unless `weights` says else.
absl::StatusOr<DType> ProductDType(const ModelSpec& spec);
// Of the linear layers of layers.  A plain one is that of all weights.
absl::StatusOr<WeightCoding> CodingOf(const ModelSpec& spec);
absl::StatusOr<KvGeometry> GeometryOf(const ModelConfig& config,
                                      const ModelSpec& spec);

}  // namespace h2o
