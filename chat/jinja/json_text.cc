// Writes values as Python's json.dumps does.
#include "chat/jinja/json_text.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "chat/jinja/operators.h"
#include "chat/jinja/python_text.h"

namespace h2o::jinja {
namespace {

absl::Status NotJson(const Value& value) {
  return absl::InvalidArgumentError(
      absl::StrCat("a ", KindOf(value), " cannot be written as JSON"));
}

std::string NumberText(double number) {
  if (std::isnan(number)) return "NaN";
  if (std::isinf(number)) return number < 0 ? "-Infinity" : "Infinity";
  return FormatDouble(number);
}

class Writer {
 public:
  Writer(Work& work, const JsonStyle& style) : work_(work), style_(style) {}

  absl::Status Write(const Value& value) {
    H2O_RETURN_IF_ERROR(work_.Step());
    if (const std::string* text = value.AsText()) return WriteText(*text);
    if (const List* list = value.AsList()) return WriteList(*list, value);
    if (const Dict* dict = value.AsDict()) return WriteDict(*dict);
    if (!WriteScalar(value)) return NotJson(value);
    return absl::OkStatus();
  }

  std::string out;

 private:
  bool WriteScalar(const Value& value) {
    int64_t whole = 0;
    if (value.IsNone()) {
      out += "null";
    } else if (const bool* flag = value.AsBool()) {
      out += *flag ? "true" : "false";
    } else if (value.AsInt(&whole)) {
      absl::StrAppend(&out, whole);
    } else if (const double* number = value.AsDouble()) {
      out += NumberText(*number);
    } else {
      return false;
    }
    return true;
  }

  absl::Status WriteText(const std::string& text) {
    H2O_RETURN_IF_ERROR(work_.Make(text.size()));
    out += JsonQuote(text, style_.ascii);
    return absl::OkStatus();
  }

  absl::Status WriteList(const List& list, const Value& value) {
    if (!list.IsSequence()) return NotJson(value);
    out += "[";
    ++level_;
    for (size_t i = 0; i < list.items.size(); ++i) {
      H2O_RETURN_IF_ERROR(BeginItem(i));
      H2O_RETURN_IF_ERROR(Write(list.items[i]));
    }
    return EndItems(!list.items.empty(), "]");
  }

  absl::Status WriteDict(const Dict& dict) {
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (style_.sort_keys) H2O_RETURN_IF_ERROR(Sort(&entries));
    out += "{";
    ++level_;
    for (size_t i = 0; i < entries.size(); ++i) {
      H2O_RETURN_IF_ERROR(BeginItem(i));
      H2O_RETURN_IF_ERROR(WriteKey(entries[i]->first));
      out += style_.behind_key;
      H2O_RETURN_IF_ERROR(Write(entries[i]->second));
    }
    return EndItems(!entries.empty(), "}");
  }

  // A key that is no text is written as one.
  absl::Status WriteKey(const Value& key) {
    if (const std::string* text = key.AsText()) return WriteText(*text);
    out += '"';
    if (!WriteScalar(key)) return NotJson(key);
    out += '"';
    return absl::OkStatus();
  }

  absl::Status Sort(std::vector<const std::pair<Value, Value>*>* entries) {
    absl::Status fault;
    std::stable_sort(
        entries->begin(), entries->end(), [&](const auto* a, const auto* b) {
          const auto less =
              Compare(work_, Comparison::kLess, a->first, b->first);
          if (!less.ok()) fault = less.status();
          return less.ok() && *less;
        });
    return fault;
  }

  absl::Status BeginItem(size_t index) {
    if (index > 0) out += style_.between_items;
    return NewLine();
  }

  absl::Status EndItems(bool any, const char* bracket) {
    --level_;
    if (any) H2O_RETURN_IF_ERROR(NewLine());
    out += bracket;
    return absl::OkStatus();
  }

  absl::Status NewLine() {
    if (!style_.indent.has_value()) return absl::OkStatus();
    H2O_RETURN_IF_ERROR(work_.Make(1 + level_ * style_.indent->size()));
    out += '\n';
    for (int i = 0; i < level_; ++i) out += *style_.indent;
    return absl::OkStatus();
  }

  Work& work_;
  const JsonStyle& style_;
  int level_ = 0;
};

}  // namespace

absl::StatusOr<JsonStyle> MakeJsonStyle(const Value& ascii, const Value& indent,
                                        const Value& separators,
                                        const Value& sort_keys) {
  JsonStyle style{.ascii = IsTrue(ascii), .sort_keys = IsTrue(sort_keys)};
  int64_t width = 0;
  if (const std::string* text = indent.AsText()) {
    style.indent = *text;
  } else if (indent.AsInt(&width)) {
    style.indent = std::string(std::clamp<int64_t>(width, 0, 100), ' ');
  } else if (!indent.IsUndefined() && !indent.IsNone()) {
    return absl::InvalidArgumentError("the indent of tojson must be a number");
  }
  style.between_items = style.indent.has_value() ? "," : ", ";
  style.behind_key = ": ";
  if (separators.IsUndefined() || separators.IsNone()) return style;
  const List* pair = separators.AsList();
  if (pair == nullptr || pair->items.size() != 2 ||
      pair->items[0].AsText() == nullptr ||
      pair->items[1].AsText() == nullptr) {
    return absl::InvalidArgumentError(
        "the separators of tojson must be two texts");
  }
  style.between_items = *pair->items[0].AsText();
  style.behind_key = *pair->items[1].AsText();
  return style;
}

absl::StatusOr<std::string> JsonText(Work& work, const Value& value,
                                     const JsonStyle& style) {
  Writer writer(work, style);
  H2O_RETURN_IF_ERROR(writer.Write(value));
  return std::move(writer.out);
}

}  // namespace h2o::jinja
