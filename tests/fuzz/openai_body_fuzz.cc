// Fuzzes bodies of OpenAI's API: the first byte says which form, the rest is
// the body.  What is taken is checked, and answered with an event.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "api/check_request.h"
#include "base/check.h"
#include "openai/answer.h"
#include "openai/api_error.h"
#include "openai/ask.h"

namespace h2o {
namespace {

void ExpectObject(std::string_view text) {
  const auto object = nlohmann::json::parse(text, nullptr, false);
  H2O_CHECK(object.is_object()) << std::string(text);
}

void ExpectEvents(std::string_view text) {
  while (!text.empty()) {
    H2O_CHECK(text.starts_with("data: ")) << std::string(text);
    const size_t end = text.find("\n\n");
    H2O_CHECK(end != std::string_view::npos) << std::string(text);
    const std::string_view object = text.substr(6, end - 6);
    if (object != "[DONE]") ExpectObject(object);
    text.remove_prefix(end + 2);
  }
}

StreamEvent LastEvent() {
  StreamEvent event;
  event.tokens = {5, 6};
  event.prompt = {2, 7};
  event.prompt_logprobs = {{}, {{7, -1}, {{8, -2}}}};
  event.logprobs = {{{5, -1}, {{5, -1}}}, {{6, -1}, {}}};
  event.text = "a\xe2\x80\xa8";
  event.done = true;
  event.finish = FinishReason::kLength;
  return event;
}

void Run(OpenAiForm form, std::string_view body) {
  const auto ask = ParseAsk(form, body, {.model_names = {"demo"}});
  if (!ask.ok()) {
    const ApiError error = ErrorOf(ask.status());
    H2O_CHECK(error.status == 400 || error.status == 404) << error.status;
    return ExpectObject(ErrorJson(error));
  }
  H2O_CHECK(ask->candidates() >= ask->n && ask->candidates() <= kMaxChoices);
  for (const Request& prompt : ask->prompts) (void)CheckRequest(prompt);
  OpenAiAnswer answer(&*ask, {.request_id = "r"}, nullptr);
  if (!ask->stream) {
    return ExpectObject(
        answer.Whole(std::vector<StreamEvent>(ask->candidates(), LastEvent())));
  }
  std::string text;
  for (int i = 0; i < ask->candidates(); ++i) {
    text += answer.Chunks(i, LastEvent());
  }
  ExpectEvents(text + answer.End());
}

}  // namespace
}  // namespace h2o

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  h2o::Run(
      data[0] == 'c' ? h2o::OpenAiForm::kChat : h2o::OpenAiForm::kCompletion,
      {reinterpret_cast<const char*>(data) + 1, size - 1});
  return 0;
}
