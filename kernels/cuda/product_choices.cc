// Reads and writes the file of chosen kernels.
#include "kernels/cuda/product_choices.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <system_error>

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

std::string LineOf(const ProductShape& shape, const ProductChoice& choice) {
  std::ostringstream line;
  line << shape.outputs << ' ' << shape.inputs << ' ' << shape.rows << ' '
       << Name(shape.dtype) << ' ' << shape.bias << ' ' << shape.relu << ' '
       << shape.float32_outputs << ' ' << choice.searched << std::hex;
  for (uint64_t word : choice.algo) line << ' ' << word;
  line << '\n';
  return line.str();
}

// Writes a temporary file and renames it to `path`, so readers see whole files.
bool Write(const ProductChoices& choices, const std::string& path) {
  std::string beside = path + ".XXXXXX";
  const int fd = mkstemp(beside.data());
  if (fd < 0) return false;
  fchmod(fd, 0644);
  close(fd);
  std::ofstream file(beside);
  for (const auto& [shape, choice] : choices) file << LineOf(shape, choice);
  file.close();
  std::error_code failed;
  if (file.good()) std::filesystem::rename(beside, path, failed);
  const bool done = file.good() && !failed;
  if (!done) std::filesystem::remove(beside, failed);
  return done;
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
