#include "kernels/cuda/product_choices.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace h2o::cuda {

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

void KeepProductChoices(ProductChoices choices, const std::string& path) {
  for (const auto& [shape, kept] : ReadProductChoices(path)) {
    const auto [it, is_new] = choices.emplace(shape, kept);
    if (!is_new && kept.searched && !it->second.searched) it->second = kept;
  }
  const std::string beside = absl::StrCat(path, ".", getpid());
  std::ofstream file(beside);
  for (const auto& [shape, choice] : choices) {
    file << std::dec << shape.outputs << ' ' << shape.inputs << ' '
         << shape.rows << ' ' << Name(shape.dtype) << ' ' << shape.bias << ' '
         << shape.relu << ' ' << shape.float32_outputs << ' ' << choice.searched
         << std::hex;
    for (uint64_t word : choice.algo) file << ' ' << word;
    file << '\n';
  }
  file.close();
  std::error_code failed;
  if (file.good()) std::filesystem::rename(beside, path, failed);
  if (!file.good() || failed) std::filesystem::remove(beside, failed);
}

}  // namespace h2o::cuda
