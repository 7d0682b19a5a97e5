// Encodes and decodes the structs of steps; what a decoded value may be is in
// step_check.cc.
#include "model/step_codec.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/byte_codec.h"
#include "base/status_macros.h"
#include "model/step_check.h"
#include "model/step_fields.h"

namespace h2o {
namespace {

template <class T>
std::string BytesOf(const T& value) {
  ByteWriter writer;
  writer.Put(value);
  return writer.Take();
}

// Reads a T and checks it; `what` names it in errors.
template <class T, class... Config>
absl::StatusOr<T> ValueOf(std::string_view bytes, const char* what,
                          const Config&... config) {
  T value;
  ByteReader reader(bytes);
  reader.Get(value);
  if (!reader.Whole()) {
    return absl::DataLossError(absl::StrCat(bytes.size(), " bytes do not hold ",
                                            what, " and nothing else"));
  }
  H2O_RETURN_IF_ERROR(Check(value, config...));
  return value;
}

}  // namespace

std::string Encode(const ModelSpec& spec) { return BytesOf(spec); }
std::string Encode(const ModelConfig& config) { return BytesOf(config); }
std::string Encode(const RankInfo& info) { return BytesOf(info); }
std::string Encode(const StepPlan& plan) { return BytesOf(plan); }
std::string Encode(const StepResult& result) { return BytesOf(result); }

absl::StatusOr<ModelSpec> DecodeModelSpec(std::string_view bytes) {
  return ValueOf<ModelSpec>(bytes, "a model's spec");
}

absl::StatusOr<ModelConfig> DecodeModelConfig(std::string_view bytes) {
  return ValueOf<ModelConfig>(bytes, "a model's config");
}

absl::StatusOr<RankInfo> DecodeRankInfo(std::string_view bytes,
                                        const ModelConfig& config) {
  return ValueOf<RankInfo>(bytes, "the facts of a rank", config);
}

absl::StatusOr<StepPlan> DecodePlan(std::string_view bytes,
                                    const ModelConfig& config) {
  return ValueOf<StepPlan>(bytes, "a plan", config);
}

absl::StatusOr<StepResult> DecodeResult(std::string_view bytes,
                                        const ModelConfig& config) {
  return ValueOf<StepResult>(bytes, "a result", config);
}

std::string StepLayout() {
  return LayoutOf<ModelSpec>() + LayoutOf<RankInfo>() + LayoutOf<StepPlan>() +
         LayoutOf<StepResult>();
}

}  // namespace h2o
