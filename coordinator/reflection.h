// Describes the public services to tools, by gRPC's reflection protocol.  The
// service of gRPC's own library asks nobody for a key.
#pragma once

#include <grpcpp/generic/async_generic_service.h>

#include <functional>
#include <string>
#include <string_view>

namespace h2o {

// Whether `method` is one of the protocol: v1 or v1alpha.
bool IsReflection(std::string_view method);

// Answers one call, and deletes itself at its end.  `on_message` hears of the
// bytes of each message; may be null.
grpc::ServerGenericBidiReactor* NewReflectionCall(
    std::function<void(int64_t bytes)> on_message);

}  // namespace h2o
