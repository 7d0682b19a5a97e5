// Early return on error, for functions that return Status or StatusOr.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define H2O_RETURN_IF_ERROR(expression)       \
  do {                                        \
    ::absl::Status h2o_status = (expression); \
    if (!h2o_status.ok()) return h2o_status;  \
  } while (false)

#define H2O_STATUS_CONCAT_INNER(a, b) a##b
#define H2O_STATUS_CONCAT(a, b) H2O_STATUS_CONCAT_INNER(a, b)

// H2O_ASSIGN_OR_RETURN(auto file, OpenFile(path));
#define H2O_ASSIGN_OR_RETURN(declaration, expression)                     \
  H2O_ASSIGN_OR_RETURN_INNER(H2O_STATUS_CONCAT(h2o_status_or_, __LINE__), \
                             declaration, expression)
#define H2O_ASSIGN_OR_RETURN_INNER(result, declaration, expression) \
  auto result = (expression);                                       \
  if (!result.ok()) return std::move(result).status();              \
  declaration = std::move(result).value()
