// Fills in the formats that an operator left open, and checks those that were
// named.
#include "model/model_spec.h"

#include <filesystem>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

absl::StatusOr<DType> DTypeOr(const std::string& name, const char* what) {
  if (name.empty()) return DType::kFloat32;
  if (const std::optional<DType> dtype = ParseDType(name)) return *dtype;
  return absl::InvalidArgumentError(absl::StrCat(
      what, " '", name, "' is unknown; known are float32, bf16 and fp16"));
}

bool IsAuto(const ModelSpec& spec) {
  return spec.weights.empty() || spec.weights == "auto";
}

// Codes that are stored are not made anew.
absl::Status CheckStored(const ModelSpec& spec, const ModelConfig& config) {
  const QuantizationConfig& stored = config.quantization;
  if (spec.dummy || stored.layout == CodeLayout::kNone || IsAuto(spec)) {
    return absl::OkStatus();
  }
  H2O_ASSIGN_OR_RETURN(const WeightCoding asked, CodingOf(spec));
  const std::string a = Describe(stored.coding), b = Describe(asked);
  if (a == b) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("weights ", b, ": those of ", spec.model, " are stored as ",
                   a, "; leave --weights and --weight-group out"));
}

absl::Status CheckActivations(const ModelSpec& spec,
                              const ModelConfig& config) {
  if (!spec.fp8_activations) return absl::OkStatus();
  const std::string& weights = WithFormats(spec, config, /*gpu=*/false).weights;
  if (weights == Name(WeightFormat::kFp8)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "activations fp8 with weights ", weights.empty() ? "auto" : weights,
      "; they need --weights fp8"));
}

}  // namespace

ModelSpec WithFormats(ModelSpec spec, const ModelConfig& config, bool gpu) {
  DType preferred = DType::kFloat32;
  if (gpu) {
    preferred = config.checkpoint_dtype == DType::kFloat32
                    ? DType::kBFloat16
                    : config.checkpoint_dtype;
  }
  if (IsAuto(spec) && config.quantization.layout != CodeLayout::kNone) {
    spec.weights = Name(config.quantization.coding.format);
    spec.weight_group = config.quantization.coding.group;
  }
  const std::optional<WeightFormat> weights = ParseWeightFormat(spec.weights);
  if (gpu && weights && IsPlain(*weights)) preferred = DTypeOf(*weights);
  if (spec.dtype.empty()) spec.dtype = Name(preferred);
  if (spec.kv_dtype.empty()) spec.kv_dtype = gpu ? spec.dtype : Name(preferred);
  return spec;
}

absl::Status CheckGpuFormats(const ModelSpec& spec) {
  if (spec.kv_dtype != spec.dtype) {
    return absl::InvalidArgumentError(
        absl::StrCat("kv-dtype ", spec.kv_dtype, " with dtype ", spec.dtype,
                     "; on GPUs both must be the same, bf16 or fp16"));
  }
  H2O_ASSIGN_OR_RETURN(const WeightCoding coding, CodingOf(spec));
  if (!IsPlain(coding.format) || Name(coding.format) == spec.dtype) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("weights ", spec.weights, " with dtype ", spec.dtype,
                   "; on GPUs both must be the same, bf16 or fp16"));
}

absl::StatusOr<ModelConfig> ConfigOf(const ModelSpec& spec) {
  std::error_code ignored;
  const bool built_in =
      spec.dummy && !std::filesystem::is_directory(spec.model, ignored);
  H2O_ASSIGN_OR_RETURN(ModelConfig config, built_in
                                               ? BuiltInModelConfig(spec.model)
                                               : ReadModelConfig(spec.model));
  if (!built_in) H2O_RETURN_IF_ERROR(CheckStored(spec, config));
  H2O_RETURN_IF_ERROR(CheckActivations(spec, config));
  return config;
}

absl::StatusOr<DType> ProductDType(const ModelSpec& spec) {
  return DTypeOr(spec.dtype, "dtype");
}

absl::StatusOr<WeightCoding> CodingOf(const ModelSpec& spec) {
  if (spec.weight_group != 64 && spec.weight_group != 128) {
    return absl::InvalidArgumentError(absl::StrCat(
        "weight-group ", spec.weight_group, "; it must be 64 or 128"));
  }
  WeightCoding coding = {.group = spec.weight_group};
  if (IsAuto(spec)) {
    H2O_ASSIGN_OR_RETURN(const DType dtype, ProductDType(spec));
    coding.format = FormatOf(dtype);
  } else if (const auto format = ParseWeightFormat(spec.weights)) {
    coding.format = *format;
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("weights '", spec.weights,
                     "' are unknown; known are auto, float32, bf16, fp16, fp8, "
                     "int8 and int4"));
  }
  return coding;
}

absl::StatusOr<KvGeometry> GeometryOf(const ModelConfig& config,
                                      const ModelSpec& spec) {
  H2O_ASSIGN_OR_RETURN(DType dtype, DTypeOr(spec.kv_dtype, "kv-dtype"));
  return KvGeometry{
      config.num_layers, config.qkv.kv_heads, config.qkv.head_dim, {{dtype}}};
}

}  // namespace h2o
