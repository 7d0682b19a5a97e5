#include "flags/version.h"

#include <cstdint>
#include <fstream>
#include <vector>

#include "absl/strings/str_cat.h"

namespace h2o {

std::string Version() { return H2O_VERSION; }

std::string BuildId() {
  std::ifstream file("/proc/self/exe", std::ios::binary);
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  std::vector<char> block(1 << 20);
  while (file.read(block.data(), block.size()) || file.gcount() > 0) {
    for (std::streamsize i = 0; i < file.gcount(); ++i) {
      hash = (hash ^ static_cast<unsigned char>(block[i])) * 0x100000001b3u;
    }
  }
  return absl::StrCat(absl::Hex(hash, absl::kZeroPad16));
}

}  // namespace h2o
