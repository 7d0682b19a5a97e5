// Between the structs of model/ and the messages of worker.proto.
//
// What comes from the wire is checked here, against the model both ends agreed
// on, so that nothing behind a door ever meets a value that cannot be.
//
// Errors   INVALID_ARGUMENT naming the field, its value and what would be
//          right.  Messages that were made by ToProto always convert back.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/model_config.h"
#include "model/model_spec.h"
#include "model/step.h"
#include "proto/worker.pb.h"

namespace h2o {

// Which wire this program speaks: a hash of worker.proto as it was compiled.
std::string WireId();

// The largest message either end accepts.
inline constexpr int kMaxMessageBytes = 64 << 20;

void ToProto(const ModelSpec& spec, h2oserve::worker::ModelSpec* message);
absl::StatusOr<ModelSpec> FromProto(const h2oserve::worker::ModelSpec& message);

void ToProto(const ModelConfig& config, h2oserve::worker::ModelConfig* message);
absl::StatusOr<ModelConfig> FromProto(
    const h2oserve::worker::ModelConfig& message);

// Whether `theirs` is the same model as `ours`, its name aside.
// Errors: FAILED_PRECONDITION naming the first number that differs, both values
// and whose they are.
absl::Status CheckSameModel(const ModelConfig& ours, const ModelConfig& theirs);

void ToProto(const StepPlan& plan, h2oserve::worker::StepPlan* message);
absl::StatusOr<StepPlan> FromProto(const h2oserve::worker::StepPlan& message,
                                   const ModelConfig& config);

void ToProto(const StepResult& result, h2oserve::worker::StepResult* message);
absl::StatusOr<StepResult> FromProto(
    const h2oserve::worker::StepResult& message, const ModelConfig& config);

}  // namespace h2o
