// Fuzzes the reader of calibrations: the input is kv-codes.safetensors, for a
// model of one layer and two heads of dimension 8.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "kv_codes/code_fields.h"
#include "kv_codes/coded_page.h"
#include "model/kv_calibration.h"
#include "tests/model/temp_directory.h"

namespace h2o {
namespace {

// What was taken can be placed, and all of it be read.
void CheckHead(const VectorCalibration& vectors) {
  for (const auto& numbers : {vectors.mean, vectors.forward, vectors.inverse,
                              vectors.gain, vectors.weight}) {
    for (const float number : numbers) H2O_CHECK(std::isfinite(number));
  }
  const auto fields = PlaceFields(vectors.bits, vectors.words[0]);
  for (const CodeField& field : fields) {
    H2O_CHECK(field.byte < kWordBytes * vectors.words[0]) << field.byte;
  }
}

void Run(std::string_view bytes) {
  static const TempDirectory directory;
  directory.Write("kv-codes.safetensors", bytes);
  const KvCalibrationModel model = {.layers = 1,
                                    .heads = 2,
                                    .head_dim = 8,
                                    .fingerprint = "0123456789abcdef"};
  const auto calibration =
      KvCalibration::Open(directory.File("kv-codes.safetensors"), model);
  if (!calibration.ok()) {
    H2O_CHECK(!calibration.status().message().empty());
    return;
  }
  H2O_CHECK((*calibration)->model() == model);
  H2O_CHECK((*calibration)->origin().exact <= kMaxExactSlots);
  for (int head = 0; head < model.heads; ++head) {
    CheckHead((*calibration)->Keys(0, head));
    CheckHead((*calibration)->Values(0, head));
  }
}

}  // namespace
}  // namespace h2o

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  h2o::Run({reinterpret_cast<const char*>(data), size});
  return 0;
}
