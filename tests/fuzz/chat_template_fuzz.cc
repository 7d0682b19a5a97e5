// Fuzzes chat templates and what they are rendered with: a template, a line of
// five equals signs, and the JSON of the messages.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/utf8.h"
#include "chat/jinja/parser.h"
#include "chat/jinja/renderer.h"
#include "chat/messages.h"

namespace h2o {
namespace {

using nlohmann::ordered_json;

constexpr char kDefaultMessages[] =
    R"([{"role":"system","content":"S"},{"role":"user","content":" u\n"},)"
    R"({"role":"assistant","content":"\u00e9"}])";

ordered_json MessagesIn(std::string_view text) {
  // Deeper values are the reader's to refuse.
  const auto shallow = [](int depth, ordered_json::parse_event_t,
                          ordered_json&) { return depth < 40; };
  ordered_json json = ordered_json::parse(text, shallow, false);
  return json.is_discarded() ? ordered_json::parse(kDefaultMessages) : json;
}

void RenderWith(const jinja::Tree& tree, const ordered_json& messages) {
  const jinja::Limits limits = {
      .steps = 20'000, .bytes = 1 << 20, .output_bytes = 1 << 16};
  std::tm now = {};
  now.tm_mday = 1;
  jinja::Run run(limits, now);
  auto value = jinja::FromJson(run.work, messages);
  if (!value.ok()) return;
  const auto text = jinja::Render(tree,
                                  {{"messages", *std::move(value)},
                                   {"bos_token", "<s>"},
                                   {"add_generation_prompt", true}},
                                  run);
  if (!text.ok()) {
    H2O_CHECK(absl::IsInvalidArgument(text.status())) << text.status();
    return;
  }
  H2O_CHECK(text->size() <= static_cast<size_t>(limits.output_bytes));
  H2O_CHECK(CheckUtf8("text", *text).ok()) << *text;
}

void Run(std::string_view input) {
  constexpr std::string_view kSeparator = "\n=====\n";
  const size_t at = input.find(kSeparator);
  const ordered_json messages = MessagesIn(
      at == std::string_view::npos ? kDefaultMessages
                                   : input.substr(at + kSeparator.size()));
  for (const ContentForm form :
       {ContentForm::kText, ContentForm::kParts, ContentForm::kAsGiven}) {
    auto checked = CheckedMessages(messages, form);
    if (checked.ok()) AppendToLastContent("x", &*checked).IgnoreError();
  }
  const auto tree = jinja::Parse(input.substr(0, at));
  if (tree.ok()) {
    RenderWith(*tree, messages);
  } else {
    H2O_CHECK(!tree.status().message().empty());
  }
}

}  // namespace
}  // namespace h2o

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  h2o::Run({reinterpret_cast<const char*>(data), size});
  return 0;
}
