// Filters that go over the items of a value.
#pragma once

#include "absl/status/statusor.h"
#include "chat/jinja/value.h"
#include "chat/jinja/vocabulary.h"

namespace h2o::jinja {

// Each is a Filter::apply of the vocabulary; the parameters are named there.
absl::StatusOr<Value> ToList(Run& run, const Value& value, Given given);
absl::StatusOr<Value> FirstItem(Run& run, const Value& value, Given given);
absl::StatusOr<Value> LastItem(Run& run, const Value& value, Given given);
absl::StatusOr<Value> JoinItems(Run& run, const Value& value, Given given);
absl::StatusOr<Value> ReverseItems(Run& run, const Value& value, Given given);
absl::StatusOr<Value> SortItems(Run& run, const Value& value, Given given);
absl::StatusOr<Value> SortDict(Run& run, const Value& value, Given given);
absl::StatusOr<Value> UniqueItems(Run& run, const Value& value, Given given);
absl::StatusOr<Value> MapItems(Run& run, const Value& value, Given given);
absl::StatusOr<Value> SelectItems(Run& run, const Value& value, Given given);
absl::StatusOr<Value> RejectItems(Run& run, const Value& value, Given given);
absl::StatusOr<Value> SelectByAttribute(Run& run, const Value& value,
                                        Given given);
absl::StatusOr<Value> RejectByAttribute(Run& run, const Value& value,
                                        Given given);

}  // namespace h2o::jinja
