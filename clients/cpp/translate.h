// Between the public types of h2oserve/client.h and the messages of
// inference.proto.  The server judges the values.
#pragma once

#include "absl/status/status.h"
#include "h2oserve/client.h"
#include "proto/inference.pb.h"

namespace h2o {

h2oserve::v1::GenerateRequest MessageOf(const GenerateRequest& request);

Piece PieceOf(const h2oserve::v1::GenerateResponse& message, int resumes);
ModelInfo InfoOf(const h2oserve::v1::ModelInfo& message);
AdmissionForecast ForecastOf(const h2oserve::v1::AdmissionAnswer& message);

// REQUIRES: !status.ok().
Error ErrorOf(const absl::Status& status,
              std::optional<double> retry_after_seconds = std::nullopt);

// Puts a piece behind what has come.
void Append(Piece piece, Completion* completion);

}  // namespace h2o
