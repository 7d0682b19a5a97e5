// The state of one for, and what templates ask of it.
#include "chat/jinja/loop.h"

#include <memory>
#include <string>

#include "base/status_macros.h"

namespace h2o::jinja {

absl::StatusOr<bool> Loop::Has(size_t count) {
  while (passed_.size() < count && seen_ < items_.size()) {
    const Value& item = items_[seen_++];
    if (filter_ != nullptr) {
      H2O_ASSIGN_OR_RETURN(const bool passes, filter_(item));
      if (!passes) continue;
    }
    passed_.push_back(item);
  }
  return passed_.size() >= count;
}

absl::StatusOr<bool> Loop::Next() {
  H2O_ASSIGN_OR_RETURN(const bool has, Has(index_ + 2));
  if (has) ++index_;
  return has;
}

void Loop::End() {
  seen_ = items_.size();
  filter_ = nullptr;
}

absl::StatusOr<int64_t> Loop::Length() {
  H2O_RETURN_IF_ERROR(Has(items_.size() + 1).status());
  return passed_.size();
}

absl::StatusOr<Value> Loop::At(int64_t index, const char* name) {
  H2O_ASSIGN_OR_RETURN(const bool has, Has(index + 1));
  if (index >= 0 && has) return passed_[index];
  return Value(Undefined{std::make_shared<const std::string>(name)});
}

absl::StatusOr<std::optional<Value>> Loop::Attribute(std::string_view name) {
  if (name == "index") return Value(index_ + 1);
  if (name == "index0") return Value(index_);
  if (name == "first") return Value(index_ == 0);
  // Counts only fors that call themselves, which are not supported.
  if (name == "depth") return Value(int64_t{1});
  if (name == "depth0") return Value(int64_t{0});
  if (name == "last") {
    H2O_ASSIGN_OR_RETURN(const bool has, Has(index_ + 2));
    return Value(!has);
  }
  if (name == "previtem") return At(index_ - 1, "previtem");
  if (name == "nextitem") return At(index_ + 1, "nextitem");
  if (name == "length" || name == "revindex" || name == "revindex0") {
    H2O_ASSIGN_OR_RETURN(const int64_t length, Length());
    if (name == "length") return Value(length);
    return Value(length - index_ - (name == "revindex0" ? 1 : 0));
  }
  return std::nullopt;
}

}  // namespace h2o::jinja
