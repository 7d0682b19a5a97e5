// Fuzzes the reader of safetensors files: the input is model.safetensors.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "model/checkpoint_map.h"
#include "model/family.h"
#include "model/fingerprint.h"
#include "model/safetensors.h"
#include "tests/model/small_config.h"
#include "tests/model/temp_directory.h"

namespace h2o {
namespace {

// A tensor that was found lies within the file: every byte of it can be read.
void ReadAll(const StoredTensor& tensor, size_t file_bytes) {
  const size_t num_bytes = tensor.num_elements() * SizeOf(tensor.dtype);
  H2O_CHECK(num_bytes <= file_bytes) << tensor.name << ": " << num_bytes;
  const volatile std::byte* data = tensor.data;
  for (size_t i = 0; i < num_bytes; ++i) (void)data[i];
}

void Run(std::string_view bytes) {
  static const TempDirectory directory;
  directory.Write("model.safetensors", bytes);
  const auto checkpoint = Checkpoint::Open(directory.path(), "model.");
  if (!checkpoint.ok()) {
    H2O_CHECK(!checkpoint.status().message().empty());
    return;
  }
  for (const std::string& name : (*checkpoint)->Names()) {
    const auto tensor = (*checkpoint)->Find(name);
    if (tensor.ok()) ReadAll(*tensor, bytes.size());
  }
  const auto map = MapCheckpoint(*FindFamily("opt").value(), SmallConfig(),
                                 SmallConfig().Shard(0, 1), **checkpoint);
  H2O_CHECK(map.ok() || !map.status().message().empty());
  H2O_CHECK(Fingerprint(**checkpoint, {}).value().size() == 16);
}

}  // namespace
}  // namespace h2o

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  h2o::Run({reinterpret_cast<const char*>(data), size});
  return 0;
}
