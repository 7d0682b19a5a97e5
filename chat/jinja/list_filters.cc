// Filters over lists: choosing, mapping, sorting and joining items.
#include "chat/jinja/list_filters.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "chat/jinja/operators.h"
#include "chat/jinja/python_text.h"

namespace h2o::jinja {
namespace {

using Answer = absl::StatusOr<Value>;

// "a.b" of an item is its a's b; a number is an index.
Answer AttributeOf(Run& run, const Value& item, const Value& path) {
  const std::string* text = path.AsText();
  if (text == nullptr) return GetItem(run, item, path);
  Value value = item;
  for (std::string_view part : Split(*text, ".", -1)) {
    int64_t index = 0;
    const bool is_index = absl::SimpleAtoi(std::string(part), &index);
    H2O_ASSIGN_OR_RETURN(
        value, GetItem(run, value, is_index ? Value(index) : Value(part)));
  }
  return value;
}

// Whether an item is chosen: by a test and its argument, or by its truth.
class Chooser {
 public:
  static absl::StatusOr<Chooser> Make(const Value& test, const Value& other) {
    if (test.IsUndefined()) return Chooser(nullptr, {});
    const std::string* name = test.AsText();
    const Test* found = name == nullptr ? nullptr : FindTest(*name);
    if (found == nullptr) {
      return absl::InvalidArgumentError("there is no such test");
    }
    Arguments arguments;
    if (!other.IsUndefined()) arguments.positional.push_back(other);
    H2O_ASSIGN_OR_RETURN(std::vector<Value> given,
                         Bind(*name, found->signature, std::move(arguments)));
    return Chooser(found, std::move(given));
  }

  absl::StatusOr<bool> Chooses(Run& run, const Value& value) const {
    H2O_RETURN_IF_ERROR(run.work.Step());
    return test_ == nullptr ? IsTrue(value) : test_->holds(run, value, given_);
  }

 private:
  Chooser(const Test* test, std::vector<Value> given)
      : test_(test), given_(std::move(given)) {}

  const Test* test_;
  std::vector<Value> given_;
};

// The items, or those with an attribute, whose choice is `wanted`.
Answer Choose(Run& run, const Value& value, const Value& attribute,
              const Chooser& chooser, bool wanted) {
  H2O_ASSIGN_OR_RETURN(const std::vector<Value> items,
                       ItemsOf(run.work, value));
  std::vector<Value> chosen;
  for (const Value& item : items) {
    Value looked_at = item;
    if (!attribute.IsUndefined()) {
      H2O_ASSIGN_OR_RETURN(looked_at, AttributeOf(run, item, attribute));
    }
    H2O_ASSIGN_OR_RETURN(const bool is_chosen, chooser.Chooses(run, looked_at));
    if (is_chosen == wanted) chosen.push_back(item);
  }
  return MakeList(run.work, std::move(chosen), List::Kind::kIterator);
}

Answer ChooseItems(Run& run, const Value& value, Given given, bool wanted) {
  H2O_ASSIGN_OR_RETURN(const Chooser chooser,
                       Chooser::Make(given[0], given[1]));
  return Choose(run, value, Undefined{}, chooser, wanted);
}

Answer ChooseByAttribute(Run& run, const Value& value, Given given,
                         bool wanted) {
  H2O_ASSIGN_OR_RETURN(const Chooser chooser,
                       Chooser::Make(given[1], given[2]));
  return Choose(run, value, given[0], chooser, wanted);
}

// What items are compared by: an attribute, without case if asked.
absl::StatusOr<std::vector<Value>> KeysOf(Run& run,
                                          const std::vector<Value>& items,
                                          const Value& attribute,
                                          bool with_case) {
  std::vector<Value> keys;
  for (Value key : items) {
    if (!attribute.IsUndefined() && !attribute.IsNone()) {
      H2O_ASSIGN_OR_RETURN(key, AttributeOf(run, key, attribute));
    }
    if (!with_case && key.AsText() != nullptr) {
      H2O_ASSIGN_OR_RETURN(key, MakeText(run.work, Lower(*key.AsText())));
    }
    keys.push_back(std::move(key));
  }
  return keys;
}

Answer SortByKeys(Run& run, std::vector<Value> items,
                  const std::vector<Value>& keys, bool reverse) {
  std::vector<size_t> order(items.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  absl::Status fault;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (!fault.ok()) return false;
    if (reverse) std::swap(a, b);
    const auto less = Compare(run.work, Comparison::kLess, keys[a], keys[b]);
    if (!less.ok()) fault = less.status();
    return less.ok() && *less;
  });
  H2O_RETURN_IF_ERROR(fault);
  std::vector<Value> sorted;
  for (size_t i : order) sorted.push_back(items[i]);
  return MakeList(run.work, std::move(sorted));
}

}  // namespace

Answer ToList(Run& run, const Value& value, Given) {
  H2O_ASSIGN_OR_RETURN(std::vector<Value> items, ItemsOf(run.work, value));
  return MakeList(run.work, std::move(items));
}

Answer FirstItem(Run& run, const Value& value, Given) {
  H2O_ASSIGN_OR_RETURN(const std::vector<Value> items,
                       ItemsOf(run.work, value));
  return items.empty() ? Value() : items.front();
}

Answer LastItem(Run& run, const Value& value, Given) {
  const List* list = value.AsList();
  if (list != nullptr && list->kind == List::Kind::kIterator) {
    return absl::InvalidArgumentError("last takes no iterator");
  }
  H2O_ASSIGN_OR_RETURN(const std::vector<Value> items,
                       ItemsOf(run.work, value));
  return items.empty() ? Value() : items.back();
}

Answer JoinItems(Run& run, const Value& value, Given given) {
  H2O_ASSIGN_OR_RETURN(const std::vector<Value> items,
                       ItemsOf(run.work, value));
  H2O_ASSIGN_OR_RETURN(const std::string separator, ToText(run.work, given[0]));
  std::string joined;
  for (size_t i = 0; i < items.size(); ++i) {
    Value item = items[i];
    if (!given[1].IsUndefined() && !given[1].IsNone()) {
      H2O_ASSIGN_OR_RETURN(item, AttributeOf(run, item, given[1]));
    }
    H2O_RETURN_IF_ERROR(run.work.Make(separator.size()));
    if (i > 0) joined += separator;
    H2O_RETURN_IF_ERROR(Print(run.work, item, &joined));
  }
  return Value(std::move(joined));
}

Answer ReverseItems(Run& run, const Value& value, Given) {
  if (value.AsText() != nullptr) {
    return Slice(run.work, value, None{}, None{}, int64_t{-1});
  }
  H2O_ASSIGN_OR_RETURN(std::vector<Value> items, ItemsOf(run.work, value));
  std::reverse(items.begin(), items.end());
  return MakeList(run.work, std::move(items), List::Kind::kIterator);
}

Answer SortItems(Run& run, const Value& value, Given given) {
  H2O_ASSIGN_OR_RETURN(std::vector<Value> items, ItemsOf(run.work, value));
  H2O_ASSIGN_OR_RETURN(const std::vector<Value> keys,
                       KeysOf(run, items, given[2], IsTrue(given[1])));
  return SortByKeys(run, std::move(items), keys, IsTrue(given[0]));
}

Answer SortDict(Run& run, const Value& value, Given given) {
  const Dict* dict = value.AsDict();
  const std::string* by = given[1].AsText();
  if (dict == nullptr) {
    return absl::InvalidArgumentError("dictsort takes a dict");
  }
  if (!given[1].IsUndefined() &&
      (by == nullptr || (*by != "key" && *by != "value"))) {
    return absl::InvalidArgumentError("dictsort sorts by \"key\" or \"value\"");
  }
  std::vector<Value> items, parts;
  for (const auto& [key, item] : dict->entries) {
    H2O_ASSIGN_OR_RETURN(Value pair,
                         MakeList(run.work, {key, item}, List::Kind::kTuple));
    items.push_back(std::move(pair));
    parts.push_back(by != nullptr && *by == "value" ? item : key);
  }
  H2O_ASSIGN_OR_RETURN(const std::vector<Value> keys,
                       KeysOf(run, parts, Undefined{}, IsTrue(given[0])));
  return SortByKeys(run, std::move(items), keys, IsTrue(given[2]));
}

Answer UniqueItems(Run& run, const Value& value, Given given) {
  H2O_ASSIGN_OR_RETURN(const std::vector<Value> items,
                       ItemsOf(run.work, value));
  H2O_ASSIGN_OR_RETURN(const std::vector<Value> keys,
                       KeysOf(run, items, given[1], IsTrue(given[0])));
  std::vector<Value> unique;
  std::vector<size_t> kept;
  for (size_t i = 0; i < items.size(); ++i) {
    bool seen = false;
    for (size_t other : kept) {
      H2O_ASSIGN_OR_RETURN(seen, AreEqual(run.work, keys[other], keys[i]));
      if (seen) break;
    }
    if (seen) continue;
    kept.push_back(i);
    unique.push_back(items[i]);
  }
  return MakeList(run.work, std::move(unique), List::Kind::kIterator);
}

Answer MapItems(Run& run, const Value& value, Given given) {
  H2O_ASSIGN_OR_RETURN(const std::vector<Value> items,
                       ItemsOf(run.work, value));
  const std::string* name = given[0].AsText();
  const Filter* filter = name == nullptr ? nullptr : FindFilter(*name);
  if (given[3].IsUndefined() && filter == nullptr) {
    return absl::InvalidArgumentError("map takes a filter or an attribute");
  }
  std::vector<Value> filter_given;
  if (filter != nullptr) {
    Arguments arguments;
    for (const Value& argument : {given[1], given[2]}) {
      if (!argument.IsUndefined()) arguments.positional.push_back(argument);
    }
    H2O_ASSIGN_OR_RETURN(filter_given,
                         Bind(*name, filter->signature, std::move(arguments)));
  }
  std::vector<Value> mapped;
  for (const Value& item : items) {
    H2O_RETURN_IF_ERROR(run.work.Step());
    Value result;
    if (filter != nullptr) {
      H2O_ASSIGN_OR_RETURN(result, filter->apply(run, item, filter_given));
    } else {
      H2O_ASSIGN_OR_RETURN(result, AttributeOf(run, item, given[3]));
      if (result.IsUndefined()) result = given[4];
    }
    mapped.push_back(std::move(result));
  }
  return MakeList(run.work, std::move(mapped), List::Kind::kIterator);
}

Answer SelectItems(Run& run, const Value& value, Given given) {
  return ChooseItems(run, value, given, true);
}
Answer RejectItems(Run& run, const Value& value, Given given) {
  return ChooseItems(run, value, given, false);
}
Answer SelectByAttribute(Run& run, const Value& value, Given given) {
  return ChooseByAttribute(run, value, given, true);
}
Answer RejectByAttribute(Run& run, const Value& value, Given given) {
  return ChooseByAttribute(run, value, given, false);
}

}  // namespace h2o::jinja
