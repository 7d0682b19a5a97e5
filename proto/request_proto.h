// Between requests, usage and events (api/request.h) and the messages of the
// public interface, inference.proto: servers and clients share these functions.
//
// They only translate; CheckRequest (api/check_request.h) judges the values.
// Errors are INVALID_ARGUMENT for what has no form on the other side.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/admission_answer.h"
#include "api/request.h"
#include "proto/inference.pb.h"

namespace h2o {

// Errors: traces, logits, forced tokens and the prefill of FlexGen are not for
// clients of a server.
absl::StatusOr<h2oserve::v1::GenerateRequest> ToProto(const Request& request);

// A budget without a policy's name goes with that of `server_default`.
// `has_seed` tells whether the client chose a seed.
// Errors: no prompt; an unknown policy.
absl::StatusOr<Request> FromProto(const h2oserve::v1::GenerateRequest& message,
                                  const KvPolicyRequest& server_default);

void ToProto(const Usage& usage, h2oserve::v1::Usage* message);
Usage FromProto(const h2oserve::v1::Usage& message);

void ToProto(const AdmissionAnswer& answer,
             h2oserve::v1::AdmissionAnswer* message);

// Of an event that is no error; an error is the status of the call.
void ToProto(const StreamEvent& event, h2oserve::v1::GenerateResponse* message);
StreamEvent FromProto(const h2oserve::v1::GenerateResponse& message);

}  // namespace h2o
