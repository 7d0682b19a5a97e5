// Methods of texts, dictionaries and loops.
#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "chat/jinja/loop.h"
#include "chat/jinja/operators.h"
#include "chat/jinja/python_text.h"
#include "chat/jinja/vocabulary.h"

namespace h2o::jinja {
namespace {

using Answer = absl::StatusOr<Value>;
using Parts = std::vector<std::string_view>;

bool IsGiven(const Value& value) {
  return !value.IsUndefined() && !value.IsNone();
}

absl::Status WrongKind(const Value& value, const char* wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat("a ", KindOf(value), " stands where ", wanted, " is due"));
}

absl::StatusOr<std::string_view> TextOf(const Value& value) {
  if (value.AsText() == nullptr) return WrongKind(value, "a str");
  return *value.AsText();
}

absl::StatusOr<int64_t> IntOf(const Value& value, int64_t otherwise) {
  int64_t number = otherwise;
  if (value.IsUndefined() || value.AsInt(&number)) return number;
  return WrongKind(value, "an int");
}

Answer MakeTexts(Run& run, const Parts& parts) {
  std::vector<Value> items;
  for (std::string_view part : parts) {
    H2O_ASSIGN_OR_RETURN(Value text, MakeText(run.work, std::string(part)));
    items.push_back(std::move(text));
  }
  return MakeList(run.work, std::move(items));
}

// The text behind its front, its back, or both.
Answer StripSides(Run& run, const Value& self, Given given, bool left,
                  bool right) {
  std::string_view text = *self.AsText();
  if (!IsGiven(given[0])) {
    if (left) text = StripLeft(text);
    if (right) text = StripRight(text);
  } else {
    H2O_ASSIGN_OR_RETURN(const std::string_view characters, TextOf(given[0]));
    H2O_RETURN_IF_ERROR(run.work.Scan(text.size(), characters.size()));
    if (left) text = StripLeft(text, characters);
    if (right) text = StripRight(text, characters);
  }
  return MakeText(run.work, std::string(text));
}

Answer StripBoth(Run& run, const Value& self, Given given) {
  return StripSides(run, self, given, true, true);
}
Answer LStrip(Run& run, const Value& self, Given given) {
  return StripSides(run, self, given, true, false);
}
Answer RStrip(Run& run, const Value& self, Given given) {
  return StripSides(run, self, given, false, true);
}

template <auto kChange>
Answer Changed(Run& run, const Value& self, Given) {
  return MakeText(run.work, kChange(*self.AsText()));
}

absl::StatusOr<std::string_view> Separator(const Value& value) {
  H2O_ASSIGN_OR_RETURN(const std::string_view separator, TextOf(value));
  if (!separator.empty()) return separator;
  return absl::InvalidArgumentError("split at an empty text");
}

// A part costs more than its bytes.
absl::Status ChargeSplit(Run& run, std::string_view text,
                         std::string_view separator) {
  H2O_RETURN_IF_ERROR(run.work.Scan(text.size(), separator.size()));
  return run.work.Make(text.size());
}

Answer SplitText(Run& run, const Value& self, Given given) {
  const std::string_view text = *self.AsText();
  H2O_ASSIGN_OR_RETURN(const int64_t most, IntOf(given[1], -1));
  H2O_RETURN_IF_ERROR(ChargeSplit(run, text, ""));
  if (!IsGiven(given[0])) return MakeTexts(run, SplitAtSpace(text, most));
  H2O_ASSIGN_OR_RETURN(const std::string_view separator, Separator(given[0]));
  H2O_RETURN_IF_ERROR(ChargeSplit(run, text, separator));
  return MakeTexts(run, Split(text, separator, most));
}

Answer RSplitText(Run& run, const Value& self, Given given) {
  const std::string_view text = *self.AsText();
  H2O_ASSIGN_OR_RETURN(const int64_t most, IntOf(given[1], -1));
  H2O_ASSIGN_OR_RETURN(const std::string_view separator, Separator(given[0]));
  H2O_RETURN_IF_ERROR(ChargeSplit(run, text, separator));
  return MakeTexts(run, SplitFromRight(text, separator, most));
}

Answer SplitTextLines(Run& run, const Value& self, Given) {
  H2O_RETURN_IF_ERROR(ChargeSplit(run, *self.AsText(), ""));
  return MakeTexts(run, SplitLines(*self.AsText()));
}

// Whether the text has one of the ends, which is a text or a tuple of them.
Answer HasEnd(Run& run, const Value& self, Given given,
              bool (*has)(std::string_view text, std::string_view end)) {
  const std::string_view text = *self.AsText();
  const List* list = given[0].AsList();
  if (list == nullptr || list->kind != List::Kind::kTuple) {
    H2O_ASSIGN_OR_RETURN(const std::string_view end, TextOf(given[0]));
    H2O_RETURN_IF_ERROR(run.work.Scan(end.size(), 0));
    return Value(has(text, end));
  }
  for (const Value& item : list->items) {
    H2O_ASSIGN_OR_RETURN(const std::string_view end, TextOf(item));
    H2O_RETURN_IF_ERROR(run.work.Scan(end.size(), 0));
    if (has(text, end)) return Value(true);
  }
  return Value(false);
}

Answer StartsWith(Run& run, const Value& self, Given given) {
  return HasEnd(run, self, given,
                [](std::string_view text, std::string_view end) {
                  return text.starts_with(end);
                });
}

Answer EndsWith(Run& run, const Value& self, Given given) {
  return HasEnd(run, self, given,
                [](std::string_view text, std::string_view end) {
                  return text.ends_with(end);
                });
}

Answer RemovePrefix(Run& run, const Value& self, Given given) {
  std::string_view text = *self.AsText();
  H2O_ASSIGN_OR_RETURN(const std::string_view prefix, TextOf(given[0]));
  if (text.starts_with(prefix)) text.remove_prefix(prefix.size());
  return MakeText(run.work, std::string(text));
}

Answer RemoveSuffix(Run& run, const Value& self, Given given) {
  std::string_view text = *self.AsText();
  H2O_ASSIGN_OR_RETURN(const std::string_view suffix, TextOf(given[0]));
  if (text.ends_with(suffix)) text.remove_suffix(suffix.size());
  return MakeText(run.work, std::string(text));
}

Answer ReplaceText(Run& run, const Value& self, Given given) {
  H2O_ASSIGN_OR_RETURN(const std::string_view from, TextOf(given[0]));
  H2O_ASSIGN_OR_RETURN(const std::string_view to, TextOf(given[1]));
  H2O_ASSIGN_OR_RETURN(const int64_t most, IntOf(given[2], -1));
  return ReplaceParts(run.work, *self.AsText(), from, to, most);
}

// In characters; -1: it is not there.
Answer Place(std::string_view text, size_t at) {
  if (at == std::string_view::npos) return Value(int64_t{-1});
  return Value(CountCharacters(text.substr(0, at)));
}

Answer Find(Run& run, const Value& self, Given given) {
  H2O_ASSIGN_OR_RETURN(const std::string_view part, TextOf(given[0]));
  H2O_RETURN_IF_ERROR(run.work.Scan(self.AsText()->size(), part.size()));
  return Place(*self.AsText(), self.AsText()->find(part));
}

Answer RFind(Run& run, const Value& self, Given given) {
  H2O_ASSIGN_OR_RETURN(const std::string_view part, TextOf(given[0]));
  H2O_RETURN_IF_ERROR(run.work.Scan(self.AsText()->size(), part.size()));
  return Place(*self.AsText(), self.AsText()->rfind(part));
}

Answer Count(Run& run, const Value& self, Given given) {
  H2O_ASSIGN_OR_RETURN(const std::string_view part, TextOf(given[0]));
  if (part.empty()) return Value(CountCharacters(*self.AsText()) + 1);
  H2O_RETURN_IF_ERROR(ChargeSplit(run, *self.AsText(), part));
  const size_t parts = Split(*self.AsText(), part, -1).size();
  return Value(static_cast<int64_t>(parts) - 1);
}

Answer Join(Run& run, const Value& self, Given given) {
  H2O_ASSIGN_OR_RETURN(const std::vector<Value> items,
                       ItemsOf(run.work, given[0]));
  std::string joined;
  std::string_view separator;
  for (const Value& item : items) {
    H2O_ASSIGN_OR_RETURN(const std::string_view text, TextOf(item));
    H2O_RETURN_IF_ERROR(run.work.Make(text.size() + separator.size()));
    joined += separator;
    joined += text;
    separator = *self.AsText();
  }
  return Value(std::move(joined));
}

Answer Get(Run& run, const Value& self, Given given) {
  for (const auto& [key, value] : self.AsDict()->entries) {
    H2O_ASSIGN_OR_RETURN(const bool same, AreEqual(run.work, key, given[0]));
    if (same) return value;
  }
  return given[1].IsUndefined() ? Value(None{}) : given[1];
}

Answer Items(Run& run, const Value& self, Given) {
  std::vector<Value> items;
  for (const auto& [key, value] : self.AsDict()->entries) {
    H2O_ASSIGN_OR_RETURN(Value pair,
                         MakeList(run.work, {key, value}, List::Kind::kTuple));
    items.push_back(std::move(pair));
  }
  return MakeList(run.work, std::move(items), List::Kind::kView);
}

Answer Keys(Run& run, const Value& self, Given) {
  H2O_ASSIGN_OR_RETURN(std::vector<Value> keys, ItemsOf(run.work, self));
  return MakeList(run.work, std::move(keys), List::Kind::kView);
}

Answer Values(Run& run, const Value& self, Given) {
  std::vector<Value> values;
  for (const auto& [key, value] : self.AsDict()->entries) {
    values.push_back(value);
  }
  return MakeList(run.work, std::move(values), List::Kind::kView);
}

Answer Cycle(Run&, const Value& self, Given given) {
  const auto count = std::count_if(given.begin(), given.end(),
                                   [](const Value& v) { return IsGiven(v); });
  return given[self.AsLoop()->index() % std::max<int64_t>(count, 1)];
}

constexpr auto kText = Method::Of::kText;
constexpr auto kDict = Method::Of::kDict;
constexpr Signature kPart = {1, {"part"}};

constexpr Method kMethods[] = {
    {kText, "capitalize", {}, Changed<Capitalize>},
    {kText, "count", kPart, Count},
    {kText, "endswith", kPart, EndsWith},
    {kText, "find", kPart, Find},
    {kText, "join", {1, {"parts"}}, Join},
    {kText, "lower", {}, Changed<Lower>},
    {kText, "lstrip", {0, {"characters"}}, LStrip},
    {kText, "removeprefix", kPart, RemovePrefix},
    {kText, "removesuffix", kPart, RemoveSuffix},
    {kText, "replace", {2, {"old", "new", "count"}}, ReplaceText},
    {kText, "rfind", kPart, RFind},
    {kText, "rsplit", {1, {"sep", "maxsplit"}}, RSplitText},
    {kText, "rstrip", {0, {"characters"}}, RStrip},
    {kText, "split", {0, {"sep", "maxsplit"}}, SplitText},
    {kText, "splitlines", {}, SplitTextLines},
    {kText, "startswith", kPart, StartsWith},
    {kText, "strip", {0, {"characters"}}, StripBoth},
    {kText, "title", {}, Changed<Title>},
    {kText, "upper", {}, Changed<Upper>},
    {kDict, "get", {1, {"key", "default"}}, Get},
    {kDict, "items", {}, Items},
    {kDict, "keys", {}, Keys},
    {kDict, "values", {}, Values},
    {Method::Of::kLoop, "cycle", {1, {"a", "b", "c", "d", "e"}}, Cycle},
};

}  // namespace

const Method* FindMethod(Method::Of of, std::string_view name) {
  const auto* it = std::find_if(
      std::begin(kMethods), std::end(kMethods),
      [&](const Method& m) { return m.of == of && m.name == name; });
  return it == std::end(kMethods) ? nullptr : it;
}

bool IsMethod(std::string_view name) {
  return std::any_of(std::begin(kMethods), std::end(kMethods),
                     [&](const Method& m) { return m.name == name; });
}

}  // namespace h2o::jinja
