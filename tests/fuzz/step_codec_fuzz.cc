// Fuzzes the codec of steps.  The first byte of the input says which struct the
// rest is taken for; whatever is decoded can be encoded and decoded again.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "model/step_codec.h"
#include "tests/model/sample_steps.h"

namespace h2o {
namespace {

// Decodes `bytes` by `decode`, and once more what they stand for.
template <class Decode>
void ThereAndBack(std::string_view bytes, Decode&& decode) {
  const auto value = decode(bytes);
  if (!value.ok()) {
    H2O_CHECK(!value.status().message().empty());
    return;
  }
  const auto again = decode(Encode(*value));
  H2O_CHECK(again.ok()) << again.status().ToString();
}

int Run(std::string_view input) {
  static const ModelConfig config = SampleConfig();
  if (input.empty()) return -1;  // not for the corpus
  const std::string_view bytes = input.substr(1);
  switch (input[0]) {
    case 'p':
      ThereAndBack(bytes,
                   [](std::string_view b) { return DecodePlan(b, config); });
      return 0;
    case 'r':
      ThereAndBack(bytes,
                   [](std::string_view b) { return DecodeResult(b, config); });
      return 0;
    case 'i':
      ThereAndBack(
          bytes, [](std::string_view b) { return DecodeRankInfo(b, config); });
      return 0;
    case 'c':
      ThereAndBack(bytes, DecodeModelConfig);
      return 0;
    case 's':
      ThereAndBack(bytes, DecodeModelSpec);
      return 0;
    default:
      return -1;
  }
}

}  // namespace
}  // namespace h2o

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return h2o::Run({reinterpret_cast<const char*>(data), size});
}
