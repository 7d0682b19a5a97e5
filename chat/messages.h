// The messages of a conversation, checked and in the form that a template
// expects.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"

namespace h2o {

// The form of a message's content.
enum class ContentForm {
  kText,     // "..": the texts of a list are joined by the ends of lines
  kParts,    // [{"type": "text", "text": ".."}, ..]
  kAsGiven,  // the template takes both
};

// Errors: INVALID_ARGUMENT naming the place, for what is no list of messages
// and for parts that are no text.
absl::StatusOr<nlohmann::ordered_json> CheckedMessages(
    nlohmann::ordered_json messages, ContentForm form);

// Appends to the text of the last message's content, to the last part of a
// list. Errors: INVALID_ARGUMENT if it has none.
absl::Status AppendToLastContent(const std::string& text,
                                 nlohmann::ordered_json* messages);

}  // namespace h2o
