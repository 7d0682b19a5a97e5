// Cases of tests/golden/kv_codes, which tools/make_kv_code_goldens.py made with
// numpy: a head's codes of keys and values, vectors, and all that follows from
// them.
#pragma once

#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kv_codes/coded_page.h"
#include "kv_codes/vector_code.h"
#include "model/safetensors.h"

namespace h2o {

class Golden {
 public:
  explicit Golden(const std::string& name) {
    auto file = SafetensorsFile::Open(
        absl::StrCat("tests/golden/kv_codes/", name, ".safetensors"));
    H2O_CHECK(file.ok()) << file.status();
    file_ = *std::move(file);
  }
  // Names of all cases of heads.
  static std::vector<std::string> Names() {
    std::vector<std::string> names;
    for (const auto& entry :
         std::filesystem::directory_iterator("tests/golden/kv_codes")) {
      const std::string name = entry.path().stem().string();
      if (name != "scores") names.push_back(name);
    }
    return names;
  }

  template <class T>
  std::vector<T> Get(const std::string& name) const {
    const auto tensor = file_->FindRaw(name);
    H2O_CHECK(tensor.ok()) << tensor.status();
    size_t n = 1;
    for (int64_t size : tensor->shape) n *= static_cast<size_t>(size);
    std::vector<T> values(n);
    if (n > 0) std::memcpy(values.data(), tensor->data, n * sizeof(T));
    return values;
  }

  // Of "key" or "value".
  VectorCode Code(const std::string& kind) const {
    return {.bits = Get<uint8_t>(kind + ".bits"),
            .gain = Get<float>(kind + ".gain"),
            .weight = Get<float>(kind + ".weight"),
            .words = Get<uint8_t>(kind + ".words").at(0)};
  }
  std::vector<CodeField> Fields(const std::string& kind) const {
    const auto numbers = Get<uint8_t>(kind + ".fields");
    std::vector<CodeField> fields;
    for (size_t i = 0; i < numbers.size(); i += 5) {
      fields.push_back({numbers[i], numbers[i + 1], numbers[i + 2],
                        numbers[i + 3], numbers[i + 4]});
    }
    return fields;
  }
  CodedPageLayout Layout() const {
    return {.key_words = Code("key").words, .value_words = Code("value").words};
  }
  int slots() const {
    return static_cast<int>(Get<uint16_t>("positions").size());
  }
  std::vector<std::byte> Page() const { return Get<std::byte>("page"); }

 private:
  std::unique_ptr<const SafetensorsFile> file_;
};

// Row `i` of a matrix with `columns` columns.
template <class T>
absl::Span<const T> RowOf(const std::vector<T>& matrix, int i, size_t columns) {
  return absl::MakeConstSpan(matrix).subspan(i * columns, columns);
}

}  // namespace h2o
