// What may stand behind a bar.  Those of one value are here; those that go over
// lists are in list_filters.cc.
#include <algorithm>
#include <cmath>
#include <iterator>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "chat/jinja/json_text.h"
#include "chat/jinja/list_filters.h"
#include "chat/jinja/operators.h"
#include "chat/jinja/python_text.h"
#include "chat/jinja/vocabulary.h"

namespace h2o::jinja {
namespace {

using Answer = absl::StatusOr<Value>;

Answer Trim(Run& run, const Value& value, Given given) {
  H2O_ASSIGN_OR_RETURN(const std::string text, ToText(run.work, value));
  if (given[0].IsUndefined() || given[0].IsNone()) {
    return Value(StripRight(StripLeft(text)));
  }
  const std::string* characters = given[0].AsText();
  if (characters == nullptr) {
    return absl::InvalidArgumentError("trim takes a text of characters");
  }
  H2O_RETURN_IF_ERROR(run.work.Scan(text.size(), characters->size()));
  return Value(StripRight(StripLeft(text, *characters), *characters));
}

template <auto kChange>
Answer Changed(Run& run, const Value& value, Given) {
  H2O_ASSIGN_OR_RETURN(const std::string text, ToText(run.work, value));
  return MakeText(run.work, kChange(text));
}

// Jinja's own: a word begins behind white space, a hyphen or a bracket.
std::string TitleOfWords(std::string_view text) {
  std::string titled;
  bool begins = true;
  for (std::string_view c : CharactersOf(text)) {
    titled += begins ? Upper(c) : Lower(c);
    size_t length = 0;
    begins = BeginsWithSpace(c, &length) ||
             std::string_view("-({[<").find(c) != std::string_view::npos;
  }
  return titled;
}

Answer ToString(Run& run, const Value& value, Given) {
  if (value.AsText() != nullptr) return value;
  H2O_ASSIGN_OR_RETURN(std::string text, ToText(run.work, value));
  return Value(std::move(text));
}

// No text is escaped here, so each is safe.
Answer Safe(Run& run, const Value& value, Given given) {
  return ToString(run, value, given);
}

Answer Length(Run& run, const Value& value, Given) {
  H2O_ASSIGN_OR_RETURN(const int64_t length, LengthOf(run.work, value));
  return Value(length);
}

Answer Default(Run&, const Value& value, Given given) {
  const bool take = value.IsUndefined() || (IsTrue(given[1]) && !IsTrue(value));
  if (!take) return value;
  return given[0].IsUndefined() ? Value("") : given[0];
}

Answer ReplaceText(Run& run, const Value& value, Given given) {
  H2O_ASSIGN_OR_RETURN(const std::string text, ToText(run.work, value));
  H2O_ASSIGN_OR_RETURN(const std::string from, ToText(run.work, given[0]));
  H2O_ASSIGN_OR_RETURN(const std::string to, ToText(run.work, given[1]));
  int64_t most = -1;
  if (!given[2].IsUndefined() && !given[2].IsNone() && !given[2].AsInt(&most)) {
    return absl::InvalidArgumentError("replace takes a count");
  }
  return ReplaceParts(run.work, text, from, to, most);
}

Answer Indent(Run& run, const Value& value, Given given) {
  H2O_ASSIGN_OR_RETURN(const std::string text, ToText(run.work, value));
  int64_t width = 4;
  std::string margin;
  if (const std::string* given_margin = given[0].AsText()) {
    margin = *given_margin;
  } else {
    if (!given[0].IsUndefined() && !given[0].AsInt(&width)) {
      return absl::InvalidArgumentError("indent takes a width");
    }
    if (width > 1000) {
      return absl::InvalidArgumentError("indent is at most 1000 wide");
    }
    margin.assign(std::max<int64_t>(width, 0), ' ');
  }
  H2O_RETURN_IF_ERROR(run.work.Make(text.size() * sizeof(std::string_view)));
  // Jinja ends the text with a line, so that its last end stays.
  const std::string ended = text + "\n";
  std::string indented = IsTrue(given[1]) ? margin : "";
  bool first = true;
  for (std::string_view line : SplitLines(ended)) {
    const bool marked = !first && (IsTrue(given[2]) || !line.empty());
    H2O_RETURN_IF_ERROR(run.work.Make(line.size() + margin.size()));
    if (!first) indented += "\n";
    if (marked) indented += margin;
    indented += line;
    first = false;
  }
  return Value(std::move(indented));
}

Answer ToInt(Run&, const Value& value, Given given) {
  Value otherwise = given[0].IsUndefined() ? Value(int64_t{0}) : given[0];
  int64_t whole = 0;
  if (value.AsInt(&whole)) return Value(whole);
  double number = 0;
  if (const std::string* text = value.AsText()) {
    // absl's reader takes white space around it, as Python's does.
    if (absl::SimpleAtoi(*text, &whole)) return Value(whole);
    if (!absl::SimpleAtod(*text, &number)) return otherwise;
  } else if (!value.AsNumber(&number)) {
    return otherwise;
  }
  if (!(std::fabs(number) < 9e18)) return otherwise;
  return Value(static_cast<int64_t>(number));
}

Answer ToFloat(Run&, const Value& value, Given given) {
  double number = 0;
  const std::string* text = value.AsText();
  if (value.AsNumber(&number) ||
      (text != nullptr && absl::SimpleAtod(*text, &number))) {
    return Value(number);
  }
  return given[0].IsUndefined() ? Value(0.0) : given[0];
}

Answer Absolute(Run& run, const Value& value, Given) {
  H2O_ASSIGN_OR_RETURN(const bool negative,
                       Compare(run.work, Comparison::kLess, value, int64_t{0}));
  return negative ? Negate(value) : value;
}

Answer ToJson(Run& run, const Value& value, Given given) {
  H2O_ASSIGN_OR_RETURN(const JsonStyle style,
                       MakeJsonStyle(given[0], given[1], given[2], given[3]));
  H2O_ASSIGN_OR_RETURN(std::string text, JsonText(run.work, value, style));
  return Value(std::move(text));
}

Answer Items(Run& run, const Value& value, Given) {
  std::vector<Value> items;
  const Dict* dict = value.AsDict();
  if (dict == nullptr && !value.IsUndefined()) {
    return absl::InvalidArgumentError(
        absl::StrCat("items takes a dict, not a ", KindOf(value)));
  }
  if (dict != nullptr) {
    for (const auto& [key, item] : dict->entries) {
      H2O_ASSIGN_OR_RETURN(Value pair,
                           MakeList(run.work, {key, item}, List::Kind::kTuple));
      items.push_back(std::move(pair));
    }
  }
  return MakeList(run.work, std::move(items), List::Kind::kIterator);
}

constexpr Signature kMap = {0, {"filter", "a", "b", "attribute", "default"}};
constexpr Signature kTested = {0, {"test", "other"}};
constexpr Signature kTestedAttribute = {1, {"attribute", "test", "other"}};
constexpr Signature kJson = {
    0, {"ensure_ascii", "indent", "separators", "sort_keys"}};
constexpr Signature kDefault = {0, {"default_value", "boolean"}};

constexpr Filter kFilters[] = {
    {"abs", {}, Absolute},
    {"capitalize", {}, Changed<Capitalize>},
    {"count", {}, Length},
    {"d", kDefault, Default},
    {"default", kDefault, Default},
    {"dictsort", {0, {"case_sensitive", "by", "reverse"}}, SortDict},
    {"first", {}, FirstItem},
    {"float", {0, {"default"}}, ToFloat},
    {"indent", {0, {"width", "first", "blank"}}, Indent},
    {"int", {0, {"default"}}, ToInt},
    {"items", {}, Items},
    {"join", {0, {"d", "attribute"}}, JoinItems},
    {"last", {}, LastItem},
    {"length", {}, Length},
    {"list", {}, ToList},
    {"lower", {}, Changed<Lower>},
    {"map", kMap, MapItems},
    {"reject", kTested, RejectItems},
    {"rejectattr", kTestedAttribute, RejectByAttribute},
    {"replace", {2, {"old", "new", "count"}}, ReplaceText},
    {"reverse", {}, ReverseItems},
    {"safe", {}, Safe},
    {"select", kTested, SelectItems},
    {"selectattr", kTestedAttribute, SelectByAttribute},
    {"sort", {0, {"reverse", "case_sensitive", "attribute"}}, SortItems},
    {"string", {}, ToString},
    {"title", {}, Changed<TitleOfWords>},
    {"tojson", kJson, ToJson},
    {"trim", {0, {"chars"}}, Trim},
    {"unique", {0, {"case_sensitive", "attribute"}}, UniqueItems},
    {"upper", {}, Changed<Upper>},
};

}  // namespace

const Filter* FindFilter(std::string_view name) {
  const auto* it =
      std::find_if(std::begin(kFilters), std::end(kFilters),
                   [&](const Filter& f) { return f.name == name; });
  return it == std::end(kFilters) ? nullptr : it;
}

}  // namespace h2o::jinja
