// Renders the templates that it reads, for test_templates.py: one JSON object
// {"template", "variables", "now"} a line of its input, one object {"text"} or
// {"error", "raised", "loads"} a line of its output.
#include <ctime>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "base/check.h"
#include "chat/jinja/parser.h"
#include "chat/jinja/renderer.h"

namespace h2o::jinja {
namespace {

using nlohmann::ordered_json;

ordered_json ErrorJson(const absl::Status& status, bool raised, bool loads) {
  return {{"error", std::string(status.message())},
          {"raised", raised},
          {"loads", loads}};
}

ordered_json AnswerTo(const ordered_json& line) {
  const auto tree = Parse(line["template"].get<std::string>());
  if (!tree.ok()) return ErrorJson(tree.status(), false, false);
  const std::time_t now = line["now"].get<std::time_t>();
  std::tm local = {};
  localtime_r(&now, &local);
  Run run(Limits(), local);
  Variables variables;
  for (const auto& [name, json] : line["variables"].items()) {
    auto value = FromJson(run.work, json);
    H2O_CHECK(value.ok()) << value.status();
    variables.emplace_back(name, *std::move(value));
  }
  const auto text = Render(*tree, std::move(variables), run);
  if (!text.ok()) return ErrorJson(text.status(), run.raised.has_value(), true);
  return {{"text", *text}};
}

}  // namespace
}  // namespace h2o::jinja

int main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    std::cout << h2o::jinja::AnswerTo(nlohmann::ordered_json::parse(line))
              << "\n";
  }
  return 0;
}
