// The statements of a template, and its rendering as a whole.
#include "chat/jinja/renderer.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "chat/jinja/evaluation.h"
#include "chat/jinja/loop.h"

namespace h2o::jinja {

absl::Status Evaluation::CheckOutput() const {
  const int64_t most = run_.work.limits().output_bytes;
  if (static_cast<int64_t>(out_.size()) <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("it writes more than ", most, " bytes"));
}

absl::Status Evaluation::Write(const Body& body) {
  const Depth depth(this);
  H2O_RETURN_IF_ERROR(depth.Check());
  for (const Statement& statement : body) {
    absl::Status status = run_.work.Step();
    if (status.ok()) {
      status = std::visit([this](const auto& node) { return Do(node); },
                          statement.of);
    }
    if (!status.ok()) {
      // The innermost statement says where.
      if (std::exchange(located_, true)) return status;
      return absl::InvalidArgumentError(
          absl::StrCat("line ", statement.line, ": ", status.message()));
    }
    if (flow_ != Flow::kOn) break;
  }
  return CheckOutput();
}

absl::Status Evaluation::WriteInScope(const Body& body) {
  const Inner inner(this);
  return Write(body);
}

absl::Status Evaluation::Do(const Data& node) {
  out_ += node.text;
  return run_.work.Make(node.text.size());
}

absl::Status Evaluation::Do(const Output& node) {
  H2O_ASSIGN_OR_RETURN(const Value value, Get(*node.value));
  H2O_RETURN_IF_ERROR(Print(run_.work, value, &out_));
  return CheckOutput();
}

absl::Status Evaluation::Do(const If& node) {
  for (const auto& [condition, body] : node.branches) {
    H2O_ASSIGN_OR_RETURN(const Value value, Get(*condition));
    if (IsTrue(value)) return Write(body);
  }
  return Write(node.otherwise);
}

absl::Status Evaluation::Do(const For& node) {
  H2O_ASSIGN_OR_RETURN(const Value over, Get(*node.items));
  H2O_ASSIGN_OR_RETURN(std::vector<Value> items, ItemsOf(run_.work, over));
  Scope* const around = scope_;
  Loop::Filter filter;
  if (node.condition != nullptr) {
    filter = [this, &node, around](const Value& item) -> absl::StatusOr<bool> {
      const Inner inner(this, around);
      H2O_RETURN_IF_ERROR(Assign(node.target, item));
      H2O_ASSIGN_OR_RETURN(const Value value, Get(*node.condition));
      return IsTrue(value);
    };
  }
  const auto loop = std::make_shared<Loop>(std::move(items), std::move(filter));
  bool any = false;
  const auto write_all = [&]() -> absl::Status {
    while (flow_ != Flow::kBreak) {
      H2O_ASSIGN_OR_RETURN(const bool has, loop->Next());
      if (!has) break;
      any = true;
      Inner inner(this);
      inner.Set("loop", loop);
      H2O_RETURN_IF_ERROR(Assign(node.target, loop->item()));
      H2O_RETURN_IF_ERROR(Write(node.body));
      if (flow_ == Flow::kContinue) flow_ = Flow::kOn;
    }
    flow_ = Flow::kOn;
    return absl::OkStatus();
  };
  const absl::Status status = write_all();
  loop->End();
  H2O_RETURN_IF_ERROR(status);
  return any ? absl::OkStatus() : WriteInScope(node.otherwise);
}

absl::Status Evaluation::Assign(const Target& target, Value value) {
  if (!target.attribute.empty()) {
    const Value* held = scope_->Find(target.names[0]);
    Namespace* space = held == nullptr ? nullptr : held->AsNamespace();
    if (space == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", target.names[0], "' is no namespace"));
    }
    H2O_RETURN_IF_ERROR(run_.work.Make(2 * sizeof(Value)));
    space->attributes[target.attribute] = std::move(value);
    return absl::OkStatus();
  }
  if (!target.unpacks) {
    scope_->values[target.names[0]] = std::move(value);
    return absl::OkStatus();
  }
  H2O_ASSIGN_OR_RETURN(std::vector<Value> items, ItemsOf(run_.work, value));
  if (items.size() != target.names.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        items.size(), " values for ", target.names.size(), " names"));
  }
  for (size_t i = 0; i < items.size(); ++i) {
    scope_->values[target.names[i]] = std::move(items[i]);
  }
  return absl::OkStatus();
}

absl::Status Evaluation::Do(const Set& node) {
  H2O_ASSIGN_OR_RETURN(Value value, Get(*node.value));
  return Assign(node.target, std::move(value));
}

Evaluation::Result Evaluation::Capture(const Body& body) {
  std::string outer = std::exchange(out_, {});
  const absl::Status status = WriteInScope(body);
  std::string text = std::exchange(out_, std::move(outer));
  H2O_RETURN_IF_ERROR(status);
  return Value(std::move(text));
}

absl::Status Evaluation::Do(const SetBlock& node) {
  H2O_ASSIGN_OR_RETURN(Value value, Capture(node.body));
  for (const Filtered& filter : node.filters) {
    H2O_ASSIGN_OR_RETURN(value, ApplyFilter(filter, value));
  }
  return Assign(node.target, std::move(value));
}

absl::Status Evaluation::Do(const std::unique_ptr<MacroStatement>& node) {
  scope_->values[node->name] = Value(node.get());
  return absl::OkStatus();
}

// A macro sees what the template itself has set, and its arguments.
Evaluation::Result Evaluation::CallMacro(const MacroStatement& macro,
                                         Arguments arguments) {
  if (arguments.positional.size() > macro.parameters.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("macro ", macro.name, " takes at most ",
                     macro.parameters.size(), " arguments"));
  }
  Inner inner(this, &globals_);
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const auto& [name, otherwise] = macro.parameters[i];
    const auto is_it = [&](const auto& named) { return named.first == name; };
    const auto named =
        std::find_if(arguments.named.begin(), arguments.named.end(), is_it);
    Value value = Undefined{std::make_shared<const std::string>(name)};
    if (i < arguments.positional.size()) {
      value = std::move(arguments.positional[i]);
    } else if (named != arguments.named.end()) {
      value = std::move(named->second);
      arguments.named.erase(named);
    } else if (otherwise != nullptr) {
      H2O_ASSIGN_OR_RETURN(value, Get(*otherwise));
    }
    inner.Set(name, std::move(value));
  }
  if (!arguments.named.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "macro ", macro.name, " takes no argument ", arguments.named[0].first));
  }
  return Capture(macro.body);
}

absl::Status Evaluation::Do(const Scoped& node) {
  return WriteInScope(node.body);
}

absl::Status Evaluation::Do(const Break&) {
  flow_ = Flow::kBreak;
  return absl::OkStatus();
}

absl::Status Evaluation::Do(const Continue&) {
  flow_ = Flow::kContinue;
  return absl::OkStatus();
}

absl::StatusOr<std::string> Render(const Tree& tree, Variables variables,
                                   Run& run) {
  Scope globals;
  for (auto& [name, value] : variables) {
    globals.values[name] = std::move(value);
  }
  Evaluation evaluation(&run, &globals);
  const absl::Status status = evaluation.Write(tree.body);
  if (run.raised.has_value()) return absl::InvalidArgumentError(*run.raised);
  H2O_RETURN_IF_ERROR(status);
  return evaluation.TakeOutput();
}

}  // namespace h2o::jinja
