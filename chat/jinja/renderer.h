// Renders a parsed template.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "chat/jinja/tree.h"
#include "chat/jinja/value.h"
#include "chat/jinja/vocabulary.h"

namespace h2o::jinja {

// What a template sees from outside: messages, bos_token, ...
using Variables = std::vector<std::pair<std::string, Value>>;

// Errors: INVALID_ARGUMENT with the line for what does not go together and for
// what takes too much; with the template's own words where it calls
// raise_exception.
absl::StatusOr<std::string> Render(const Tree& tree, Variables variables,
                                   Run& run);

}  // namespace h2o::jinja
