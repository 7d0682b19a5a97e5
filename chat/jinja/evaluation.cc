// The values of expressions.
#include "chat/jinja/evaluation.h"

#include <memory>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace h2o::jinja {

const Value* Scope::Find(const std::string& name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->around) {
    const auto it = scope->values.find(name);
    if (it != scope->values.end()) return &it->second;
  }
  return nullptr;
}

absl::Status Evaluation::Depth::Check() const {
  const int most = evaluation_.run_.work.limits().depth;
  if (evaluation_.depth_ > most) {
    return absl::InvalidArgumentError(
        absl::StrCat("more than ", most, " evaluations within each other"));
  }
  return evaluation_.run_.work.Step();
}

Evaluation::Result Evaluation::Get(const Expression& expression) {
  const Depth depth(this);
  H2O_RETURN_IF_ERROR(depth.Check());
  return std::visit([this](const auto& node) { return Of(node); },
                    expression.of);
}

Evaluation::Result Evaluation::GetIfGiven(const ExpressionPtr& expression) {
  return expression == nullptr ? Result(Value()) : Get(*expression);
}

Evaluation::Result Evaluation::Of(const Constant& node) {
  if (const auto* text = std::get_if<std::string>(&node.value)) {
    return MakeText(run_.work, *text);
  }
  return std::visit([](const auto& value) { return Value(value); }, node.value);
}

Evaluation::Result Evaluation::Of(const Variable& node) {
  if (const Value* value = scope_->Find(node.name)) return *value;
  if (const Function* function = FindFunction(node.name)) {
    return Value(function);
  }
  return Value(Undefined{std::make_shared<const std::string>(node.name)});
}

Evaluation::Result Evaluation::Of(const ListLiteral& node) {
  std::vector<Value> items;
  for (const ExpressionPtr& item : node.items) {
    H2O_ASSIGN_OR_RETURN(Value value, Get(*item));
    items.push_back(std::move(value));
  }
  return MakeList(run_.work, std::move(items),
                  node.is_tuple ? List::Kind::kTuple : List::Kind::kList);
}

Evaluation::Result Evaluation::Of(const DictLiteral& node) {
  std::vector<std::pair<Value, Value>> entries;
  for (const auto& [key, value] : node.entries) {
    H2O_ASSIGN_OR_RETURN(Value name, Get(*key));
    H2O_ASSIGN_OR_RETURN(Value item, Get(*value));
    entries.emplace_back(std::move(name), std::move(item));
  }
  return MakeDict(run_.work, std::move(entries));
}

Evaluation::Result Evaluation::Of(const Attribute& node) {
  H2O_ASSIGN_OR_RETURN(const Value of, Get(*node.of));
  return GetAttribute(run_, of, node.name);
}

Evaluation::Result Evaluation::Of(const Item& node) {
  H2O_ASSIGN_OR_RETURN(const Value of, Get(*node.of));
  H2O_ASSIGN_OR_RETURN(const Value key, Get(*node.key));
  return GetItem(run_, of, key);
}

Evaluation::Result Evaluation::Of(const SliceOf& node) {
  H2O_ASSIGN_OR_RETURN(const Value of, Get(*node.of));
  H2O_ASSIGN_OR_RETURN(const Value begin, GetIfGiven(node.begin));
  H2O_ASSIGN_OR_RETURN(const Value end, GetIfGiven(node.end));
  H2O_ASSIGN_OR_RETURN(const Value step, GetIfGiven(node.step));
  return Slice(run_.work, of, begin, end, step);
}

absl::StatusOr<Arguments> Evaluation::GetArguments(const CallArguments& node) {
  Arguments arguments;
  for (const ExpressionPtr& argument : node.positional) {
    H2O_ASSIGN_OR_RETURN(Value value, Get(*argument));
    arguments.positional.push_back(std::move(value));
  }
  for (const auto& [name, argument] : node.named) {
    H2O_ASSIGN_OR_RETURN(Value value, Get(*argument));
    arguments.named.emplace_back(name, std::move(value));
  }
  return arguments;
}

Evaluation::Result Evaluation::Of(const Call& node) {
  H2O_ASSIGN_OR_RETURN(const Value callee, Get(*node.callee));
  if (!callee.IsCallable()) {
    const auto* undefined = std::get_if<Undefined>(&callee.of());
    return absl::InvalidArgumentError(
        undefined != nullptr && undefined->name != nullptr
            ? absl::StrCat("'", *undefined->name, "' is undefined")
            : absl::StrCat("a ", KindOf(callee), " cannot be called"));
  }
  H2O_ASSIGN_OR_RETURN(Arguments arguments, GetArguments(node.arguments));
  if (const auto* function = std::get_if<const Function*>(&callee.of())) {
    return (*function)->call(run_, std::move(arguments));
  }
  if (const auto* macro = std::get_if<const MacroStatement*>(&callee.of())) {
    return CallMacro(**macro, std::move(arguments));
  }
  const auto& bound = std::get<std::shared_ptr<const Bound>>(callee.of());
  const Method& method = *bound->method;
  H2O_ASSIGN_OR_RETURN(
      const std::vector<Value> given,
      Bind(method.name, method.signature, std::move(arguments)));
  return method.call(run_, bound->self, given);
}

Evaluation::Result Evaluation::ApplyFilter(const Filtered& node,
                                           const Value& value) {
  H2O_ASSIGN_OR_RETURN(Arguments arguments, GetArguments(node.arguments));
  const Filter& filter = *node.filter;
  H2O_ASSIGN_OR_RETURN(
      const std::vector<Value> given,
      Bind(filter.name, filter.signature, std::move(arguments)));
  return filter.apply(run_, value, given);
}

Evaluation::Result Evaluation::Of(const Filtered& node) {
  H2O_ASSIGN_OR_RETURN(const Value value, Get(*node.of));
  return ApplyFilter(node, value);
}

Evaluation::Result Evaluation::Of(const Tested& node) {
  H2O_ASSIGN_OR_RETURN(const Value value, Get(*node.of));
  H2O_ASSIGN_OR_RETURN(Arguments arguments, GetArguments(node.arguments));
  H2O_ASSIGN_OR_RETURN(
      const std::vector<Value> given,
      Bind(node.test->name, node.test->signature, std::move(arguments)));
  H2O_ASSIGN_OR_RETURN(const bool holds, node.test->holds(run_, value, given));
  return Value(holds);
}

Evaluation::Result Evaluation::Of(const Not& node) {
  H2O_ASSIGN_OR_RETURN(const Value value, Get(*node.of));
  return Value(!IsTrue(value));
}

Evaluation::Result Evaluation::Of(const Sign& node) {
  H2O_ASSIGN_OR_RETURN(const Value value, Get(*node.of));
  H2O_ASSIGN_OR_RETURN(Value negative, Negate(value));
  return node.negative ? negative : value;
}

Evaluation::Result Evaluation::Of(const Arithmetic& node) {
  H2O_ASSIGN_OR_RETURN(const Value a, Get(*node.a));
  H2O_ASSIGN_OR_RETURN(const Value b, Get(*node.b));
  return Compute(run_.work, node.op, a, b);
}

Evaluation::Result Evaluation::Of(const Comparisons& node) {
  H2O_ASSIGN_OR_RETURN(Value a, Get(*node.first));
  for (const auto& [comparison, expression] : node.next) {
    H2O_ASSIGN_OR_RETURN(Value b, Get(*expression));
    H2O_ASSIGN_OR_RETURN(const bool holds,
                         Compare(run_.work, comparison, a, b));
    if (!holds) return Value(false);
    a = std::move(b);
  }
  return Value(true);
}

Evaluation::Result Evaluation::Of(const Either& node) {
  H2O_ASSIGN_OR_RETURN(const Value a, Get(*node.a));
  return IsTrue(a) ? Result(a) : Get(*node.b);
}

Evaluation::Result Evaluation::Of(const Both& node) {
  H2O_ASSIGN_OR_RETURN(const Value a, Get(*node.a));
  return IsTrue(a) ? Get(*node.b) : Result(a);
}

Evaluation::Result Evaluation::Of(const Concatenation& node) {
  std::string text;
  for (const ExpressionPtr& part : node.parts) {
    H2O_ASSIGN_OR_RETURN(const Value value, Get(*part));
    H2O_RETURN_IF_ERROR(Print(run_.work, value, &text));
  }
  return Value(std::move(text));
}

Evaluation::Result Evaluation::Of(const Choice& node) {
  H2O_ASSIGN_OR_RETURN(const Value condition, Get(*node.condition));
  return IsTrue(condition) ? Get(*node.then) : GetIfGiven(node.otherwise);
}

}  // namespace h2o::jinja
