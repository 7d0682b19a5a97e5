// What a coordinator and its ranks exchange, as bytes: the same bytes on the
// pipes of forked ranks and on the wire.  A new field of a struct costs its
// line in step_fields.h and, if it can hold a wrong value, a check.
//
// Decoding checks every value against the model that both ends agreed on.  So
// the code that uses a decoded struct never meets an impossible value.
//
// Errors   DATA_LOSS for bytes that do not hold the struct; INVALID_ARGUMENT
//          naming a field, its value and what would be right;
//          FAILED_PRECONDITION for a rank of another model than `config`.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "model/model_config.h"
#include "model/model_spec.h"
#include "model/rank_info.h"
#include "model/step.h"

namespace h2o {

std::string Encode(const ModelSpec& spec);
std::string Encode(const ModelConfig& config);
std::string Encode(const RankInfo& info);
std::string Encode(const StepPlan& plan);
std::string Encode(const StepResult& result);

absl::StatusOr<ModelSpec> DecodeModelSpec(std::string_view bytes);
absl::StatusOr<ModelConfig> DecodeModelConfig(std::string_view bytes);
absl::StatusOr<RankInfo> DecodeRankInfo(std::string_view bytes,
                                        const ModelConfig& config);
absl::StatusOr<StepPlan> DecodePlan(std::string_view bytes,
                                    const ModelConfig& config);
absl::StatusOr<StepResult> DecodeResult(std::string_view bytes,
                                        const ModelConfig& config);

// The types of all fields in their order: both ends must have the same.
std::string StepLayout();

}  // namespace h2o
