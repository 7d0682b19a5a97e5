// Safetensors files for tests.
#pragma once

#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace h2o {

// A file of `header` and `data`.
inline std::string SafetensorsText(std::string header,
                                   const std::string& data) {
  while (header.size() % 8 != 0) header += ' ';
  const uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + header + data;
}

struct TensorBytes {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

// A file of tensors of any dtype.  Those of the widest elements should be
// first, or others leave them unaligned.
inline std::string SafetensorsText(const std::vector<TensorBytes>& tensors) {
  nlohmann::json header = nlohmann::json::object();
  std::string data;
  for (const TensorBytes& tensor : tensors) {
    const size_t begin = data.size();
    data += tensor.bytes;
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {begin, data.size()}}};
  }
  return SafetensorsText(header.dump(), data);
}

struct Float32Tensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;
};

// A file of float32 tensors.
inline std::string SafetensorsText(const std::vector<Float32Tensor>& tensors) {
  nlohmann::json header = nlohmann::json::object();
  std::string data;
  for (const Float32Tensor& tensor : tensors) {
    const size_t begin = data.size();
    data.append(reinterpret_cast<const char*>(tensor.values.data()),
                tensor.values.size() * sizeof(float));
    header[tensor.name] = {{"dtype", "F32"},
                           {"shape", tensor.shape},
                           {"data_offsets", {begin, data.size()}}};
  }
  return SafetensorsText(header.dump(), data);
}

}  // namespace h2o
