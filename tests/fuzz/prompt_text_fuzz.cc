// Fuzzes the tokenizer's two ways: the input is the text of a prompt, which is
// encoded and decoded again.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "model/tokenizer.h"

namespace h2o {
namespace {

void Run(std::string_view text) {
  static const auto tokenizer = Tokenizer::Load("tests/fuzz/tokenizer", 512);
  H2O_CHECK(tokenizer.ok()) << tokenizer.status().ToString();
  const auto ids = (*tokenizer)->Encode(text);
  if (!ids.ok()) {
    H2O_CHECK(!ids.status().message().empty());
    return;
  }
  IncrementalDecoder decoder(tokenizer->get());
  std::string streamed;
  for (int32_t id : *ids) streamed += decoder.Push(id);
  streamed += decoder.Finish();
  H2O_CHECK(streamed == (*tokenizer)->Decode(*ids, true));
  if (text.find('<') == std::string_view::npos) {  // no special token
    H2O_CHECK(streamed == text) << streamed;
  }
}

}  // namespace
}  // namespace h2o

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  h2o::Run({reinterpret_cast<const char*>(data), size});
  return 0;
}
