// Fuzzes the reader of a checkpoint in shards: the input is
// model.safetensors.index.json, beside the shards of tests/fuzz/shards.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string_view>

#include "base/check.h"
#include "model/fingerprint.h"
#include "model/safetensors.h"
#include "tests/model/temp_directory.h"

namespace h2o {
namespace {

struct ShardDirectory : TempDirectory {
  ShardDirectory() { std::filesystem::copy("tests/fuzz/shards", path()); }
};

void Run(std::string_view bytes) {
  static const ShardDirectory directory;
  directory.Write("model.safetensors.index.json", bytes);
  const auto checkpoint = Checkpoint::Open(directory.path(), "model.");
  if (!checkpoint.ok()) {
    H2O_CHECK(!checkpoint.status().message().empty());
    return;
  }
  for (const std::string& name : (*checkpoint)->Names()) {
    H2O_CHECK((*checkpoint)->Find(name).ok()) << name;
  }
  H2O_CHECK(Fingerprint(**checkpoint, {}).value().size() == 16);
}

}  // namespace
}  // namespace h2o

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  h2o::Run({reinterpret_cast<const char*>(data), size});
  return 0;
}
