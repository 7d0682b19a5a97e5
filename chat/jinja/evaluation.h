// One rendering: statements write text, expressions give values.  Only for
// renderer.cc and evaluation.cc.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "chat/jinja/renderer.h"
#include "chat/jinja/tree.h"
#include "chat/jinja/value.h"
#include "chat/jinja/vocabulary.h"

namespace h2o::jinja {

// Names and their values; a scope sees those around it.
struct Scope {
  const Value* Find(const std::string& name) const;

  const Scope* around = nullptr;
  absl::flat_hash_map<std::string, Value> values;
};

class Evaluation {
 public:
  // `run` outlives this.
  Evaluation(Run* run, Scope* globals)
      : run_(*run), globals_(*globals), scope_(globals) {}

  // Writes what the body says.
  absl::Status Write(const Body& body);
  std::string TakeOutput() { return std::move(out_); }

 private:
  using Result = absl::StatusOr<Value>;
  enum class Flow { kOn, kBreak, kContinue };

  // ---- statements (renderer.cc)
  absl::Status Do(const Data& node);
  absl::Status Do(const Output& node);
  absl::Status Do(const If& node);
  absl::Status Do(const For& node);
  absl::Status Do(const Set& node);
  absl::Status Do(const SetBlock& node);
  absl::Status Do(const std::unique_ptr<MacroStatement>& node);
  absl::Status Do(const Scoped& node);
  absl::Status Do(const Break& node);
  absl::Status Do(const Continue& node);
  absl::Status WriteInScope(const Body& body);
  absl::Status Assign(const Target& target, Value value);
  absl::Status CheckOutput() const;
  // What the body writes, as a text.
  Result Capture(const Body& body);
  Result CallMacro(const MacroStatement& macro, Arguments arguments);

  // ---- expressions (evaluation.cc)
  Result Get(const Expression& expression);
  // Undefined if it is not given.
  Result GetIfGiven(const ExpressionPtr& expression);
  Result Of(const Constant& node);
  Result Of(const Variable& node);
  Result Of(const ListLiteral& node);
  Result Of(const DictLiteral& node);
  Result Of(const Attribute& node);
  Result Of(const Item& node);
  Result Of(const SliceOf& node);
  Result Of(const Call& node);
  Result Of(const Filtered& node);
  Result Of(const Tested& node);
  Result Of(const Not& node);
  Result Of(const Sign& node);
  Result Of(const Arithmetic& node);
  Result Of(const Comparisons& node);
  Result Of(const Either& node);
  Result Of(const Both& node);
  Result Of(const Concatenation& node);
  Result Of(const Choice& node);
  absl::StatusOr<Arguments> GetArguments(const CallArguments& node);
  Result ApplyFilter(const Filtered& node, const Value& value);

  class Depth;
  class Inner;

  Run& run_;
  Scope& globals_;
  Scope* scope_;
  std::string out_;
  Flow flow_ = Flow::kOn;  // what the loop around has to do
  int depth_ = 0;
  bool located_ = false;  // the fault has its line
};

// One more evaluation within another, for as long as this lives.
class Evaluation::Depth {
 public:
  explicit Depth(Evaluation* evaluation) : evaluation_(*evaluation) {
    ++evaluation_.depth_;
  }
  ~Depth() { --evaluation_.depth_; }
  Depth(const Depth&) = delete;
  Depth& operator=(const Depth&) = delete;

  absl::Status Check() const;

 private:
  Evaluation& evaluation_;
};

// A scope of its own, for as long as this lives.
class Evaluation::Inner {
 public:
  Inner(Evaluation* evaluation, const Scope* around)
      : evaluation_(*evaluation), outer_(evaluation->scope_) {
    scope_.around = around;
    evaluation_.scope_ = &scope_;
  }
  explicit Inner(Evaluation* evaluation)
      : Inner(evaluation, evaluation->scope_) {}
  ~Inner() { evaluation_.scope_ = outer_; }
  Inner(const Inner&) = delete;
  Inner& operator=(const Inner&) = delete;

  void Set(const std::string& name, Value value) {
    scope_.values[name] = std::move(value);
  }

 private:
  Evaluation& evaluation_;
  Scope* const outer_;
  Scope scope_;
};

}  // namespace h2o::jinja
