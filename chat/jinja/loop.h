// The `loop` of a for: its items, one ahead of the body only as far as the body
// asks, as the filter of the for may depend on what the body does.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "chat/jinja/value.h"

namespace h2o::jinja {

class Loop {
 public:
  // Whether an item passes the filter of the for; null: all do.
  using Filter = std::function<absl::StatusOr<bool>(const Value&)>;

  Loop(std::vector<Value> items, Filter filter)
      : items_(std::move(items)), filter_(std::move(filter)) {}

  // Steps to the next item; false: there is none.  Errors: the filter's.
  absl::StatusOr<bool> Next();
  const Value& item() const { return passed_[index_]; }

  // The for has ended.  A template may keep its loop; the filter is gone then.
  void End();

  // loop.NAME; none if it has no such attribute.
  absl::StatusOr<std::optional<Value>> Attribute(std::string_view name);

  int64_t index() const { return index_; }

 private:
  // Whether `count` items pass.
  absl::StatusOr<bool> Has(size_t count);
  absl::StatusOr<int64_t> Length();
  absl::StatusOr<Value> At(int64_t index, const char* name);

  std::vector<Value> items_;
  Filter filter_;
  size_t seen_ = 0;  // of items_
  std::vector<Value> passed_;
  int64_t index_ = -1;
};

}  // namespace h2o::jinja
