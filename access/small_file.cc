// Reads whole files of a bounded size.
#include "access/small_file.h"

#include <errno.h>
#include <string.h>

#include <fstream>

#include "absl/strings/str_cat.h"

namespace h2o {

absl::StatusOr<std::string> ReadSmallFile(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::string text;
  char block[16 << 10];
  while (file && static_cast<int64_t>(text.size()) <= kMaxSmallFileBytes) {
    file.read(block, sizeof(block));
    text.append(block, static_cast<size_t>(file.gcount()));
  }
  if (!file.is_open() || file.bad()) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot read ", path, ": ",
                     errno != 0 ? strerror(errno) : "it is no file"));
  }
  if (static_cast<int64_t>(text.size()) > kMaxSmallFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has more than ", kMaxSmallFileBytes, " bytes"));
  }
  return text;
}

}  // namespace h2o
