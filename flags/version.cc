// The version of a release, and the id of one build of it.
#include "flags/version.h"

#include <fstream>
#include <vector>

#include "base/hash.h"

namespace h2o {

std::string Version() { return H2O_VERSION; }

std::string Commit() { return H2O_COMMIT; }

std::string BuildId() {
  std::ifstream file("/proc/self/exe", std::ios::binary);
  Fnv1a hash;
  std::vector<char> block(1 << 20);
  while (file.read(block.data(), block.size()) || file.gcount() > 0) {
    hash.AddBytes(block.data(), file.gcount());
  }
  return hash.Hex();
}

}  // namespace h2o
