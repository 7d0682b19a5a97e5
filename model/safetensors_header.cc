// Writes the header of a safetensors file.
#include "model/safetensors_header.h"

#include <cstring>
#include <nlohmann/json.hpp>

namespace h2o {
namespace {

// Data begins at a multiple of this, so that all elements are aligned.
constexpr size_t kHeaderAlignment = 8;

}  // namespace

std::string SafetensorsHeader(const SafetensorsMetadata& metadata,
                              absl::Span<const PlannedTensor> tensors) {
  using nlohmann::ordered_json;
  ordered_json header;
  for (const auto& [key, text] : metadata) header["__metadata__"][key] = text;
  int64_t offset = 0;
  for (const PlannedTensor& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + tensor.bytes}}};
    offset += tensor.bytes;
  }
  // A text that is no UTF-8 must not throw.
  std::string text = header.dump(-1, ' ', /*ensure_ascii=*/false,
                                 ordered_json::error_handler_t::replace);
  text.append(
      (kHeaderAlignment - text.size() % kHeaderAlignment) % kHeaderAlignment,
      ' ');
  const uint64_t length = text.size();
  std::string start(sizeof(length), '\0');
  std::memcpy(start.data(), &length, sizeof(length));
  return start + text;
}

}  // namespace h2o
