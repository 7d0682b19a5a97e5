// Reads and writes the file of chosen kernels.
#include "kernels/cuda/product_choices.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/new_file.h"

namespace h2o::cuda {
namespace {

// Locks the directory of `path` while a process changes its files.  If the
// directory cannot be locked, processes do not wait for each other.
class DirectoryLock {
 public:
  explicit DirectoryLock(const std::string& path)
      : directory_(open(std::filesystem::path(path).parent_path().c_str(),
                        O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    if (directory_ >= 0) flock(directory_, LOCK_EX);
  }
  ~DirectoryLock() {
    if (directory_ >= 0) close(directory_);
  }
  DirectoryLock(const DirectoryLock&) = delete;

 private:
  const int directory_;
};

// Of what is multiplied and, behind e4m3 codes, of what comes of it.
constexpr std::string_view kFp8Prefix = "fp8:";

std::string LineOf(const ProductShape& shape, const ProductChoice& choice) {
  std::ostringstream line;
  line << shape.outputs << ' ' << shape.inputs << ' ' << shape.rows << ' '
       << (shape.fp8 ? kFp8Prefix : "") << Name(shape.dtype) << ' '
       << shape.bias << ' ' << shape.relu << ' ' << shape.float32_outputs << ' '
       << choice.searched << std::hex;
  for (uint64_t word : choice.algo) line << ' ' << word;
  line << '\n';
  return line.str();
}

bool Write(const ProductChoices& choices, const std::string& path) {
  absl::StatusOr<NewFile> file = NewFile::Create(path);
  if (!file.ok()) return false;
  for (const auto& [shape, choice] : choices) {
    file->Append(LineOf(shape, choice));
  }
  return file->Commit().ok();
}

}  // namespace

ProductChoices ReadProductChoices(const std::string& path) {
  ProductChoices choices;
  std::ifstream file(path);
  // A line without its end may lack digits, too.
  for (std::string line; std::getline(file, line) && !file.eof();) {
    std::istringstream words(line);
    ProductShape shape;
    std::string dtype;
    words >> shape.outputs >> shape.inputs >> shape.rows >> dtype >>
        shape.bias >> shape.relu >> shape.float32_outputs;
    ProductChoice choice;
    words >> choice.searched >> std::hex;
    for (uint64_t& word : choice.algo) words >> word;
    shape.fp8 = dtype.starts_with(kFp8Prefix);
    if (shape.fp8) dtype.erase(0, kFp8Prefix.size());
    const std::optional<DType> parsed = ParseDType(dtype);
    if (words.fail() || !words.eof() || !parsed) continue;
    shape.dtype = *parsed;
    choices[shape] = choice;
  }
  return choices;
}

bool KeepProductChoice(const ProductShape& shape, const ProductChoice& choice,
                       bool overrules, const std::string& path) {
  const DirectoryLock lock(path);
  ProductChoices choices = ReadProductChoices(path);
  ProductChoice& kept = choices[shape];
  if (overrules || choice.searched || !kept.searched) kept = choice;
  return Write(choices, path);
}

}  // namespace h2o::cuda
