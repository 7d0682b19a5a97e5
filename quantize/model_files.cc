// Copies a model's tokenizer and settings, and writes its config.json.
#include "quantize/model_files.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/new_file.h"
#include "base/status_macros.h"
#include "model/json_file.h"
#include "model/quantization_json.h"

namespace h2o {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig = "config.json";

// Files that a model hub has beside the tensors that are read here: the same
// weights for other programs.
bool IsOfWeights(const std::string& name) {
  constexpr std::string_view kEnds[] = {
      ".safetensors", ".index.json", ".bin",  ".pt", ".pth",
      ".h5",          ".msgpack",    ".gguf", ".ot", ".onnx"};
  return std::any_of(std::begin(kEnds), std::end(kEnds),
                     [&](std::string_view end) { return name.ends_with(end); });
}

absl::Status WriteFile(const fs::path& path, std::string_view text) {
  H2O_ASSIGN_OR_RETURN(NewFile file, NewFile::Create(path.string()));
  file.Append(text);
  return file.Commit();
}

absl::StatusOr<std::vector<std::string>> FilesToCopy(const std::string& from) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(from, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    const bool plain = it->is_regular_file(error) && !name.starts_with('.');
    if (plain && name != kConfig && !IsOfWeights(name)) names.push_back(name);
  }
  if (error) {
    return absl::DataLossError(
        absl::StrCat("cannot read ", from, ": ", error.message()));
  }
  return names;
}

}  // namespace

absl::Status CopyModelFiles(const std::string& from,
                            const QuantizationConfig& storage,
                            const std::string& to) {
  H2O_ASSIGN_OR_RETURN(const std::vector<std::string> names, FilesToCopy(from));
  for (const std::string& name : names) {
    H2O_ASSIGN_OR_RETURN(const std::string text,
                         ReadWholeFile((fs::path(from) / name).string()));
    H2O_RETURN_IF_ERROR(WriteFile(fs::path(to) / name, text));
  }
  H2O_ASSIGN_OR_RETURN(auto config, ReadJsonObject<nlohmann::ordered_json>(
                                        (fs::path(from) / kConfig).string()));
  config["quantization_config"] = WriteQuantizationConfig(storage);
  return WriteFile(fs::path(to) / kConfig, config.dump(2) + "\n");
}

}  // namespace h2o
