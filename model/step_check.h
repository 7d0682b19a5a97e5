// Checks values that came from outside: models, ranks, plans and results.
//
// Errors   INVALID_ARGUMENT naming the field, its value and what would be
//          right.
#pragma once

#include "absl/status/status.h"
#include "model/model_config.h"
#include "model/model_spec.h"
#include "model/rank_info.h"
#include "model/step.h"

namespace h2o {

absl::Status Check(const ModelSpec& spec);
absl::Status Check(const ModelConfig& config);

// Also FAILED_PRECONDITION if the rank has another model than `config`.
absl::Status Check(const RankInfo& info, const ModelConfig& config);

// Of the model `config`.
absl::Status Check(const StepPlan& plan, const ModelConfig& config);
absl::Status Check(const StepResult& result, const ModelConfig& config);

// Whether `theirs` is the same model as `ours`, its name aside.
// Errors: FAILED_PRECONDITION naming the first field that differs, both values
// and whose they are.
absl::Status CheckSameModel(const ModelConfig& ours, const ModelConfig& theirs);

}  // namespace h2o
