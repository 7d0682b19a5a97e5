// Writes and reads slots of coded pages.
#include "kv_codes/coded_page.h"

#include <cstring>

#include "base/check.h"

namespace h2o {
namespace {

void CheckSizes(const CodedPageLayout& layout, size_t key_bytes,
                size_t value_bytes) {
  H2O_CHECK(key_bytes == static_cast<size_t>(kWordBytes) * layout.key_words &&
            value_bytes == static_cast<size_t>(kWordBytes) * layout.value_words)
      << key_bytes << " and " << value_bytes;
}

}  // namespace

void WriteSlot(const CodedPageLayout& layout, int slot,
               absl::Span<const uint8_t> key, absl::Span<const uint8_t> value,
               const SlotMark& mark, std::byte* page) {
  CheckSizes(layout, key.size(), value.size());
  for (int byte = 0; byte < static_cast<int>(key.size()); ++byte) {
    page[layout.KeyByte(slot, byte)] = std::byte{key[byte]};
  }
  for (int byte = 0; byte < static_cast<int>(value.size()); ++byte) {
    page[layout.ValueByte(slot, byte)] = std::byte{value[byte]};
  }
  std::memcpy(page + layout.MarkOffset(slot), &mark, sizeof(mark));
}

void ReadSlot(const CodedPageLayout& layout, int slot, const std::byte* page,
              absl::Span<uint8_t> key, absl::Span<uint8_t> value,
              SlotMark* mark) {
  CheckSizes(layout, key.size(), value.size());
  for (int byte = 0; byte < static_cast<int>(key.size()); ++byte) {
    key[byte] = static_cast<uint8_t>(page[layout.KeyByte(slot, byte)]);
  }
  for (int byte = 0; byte < static_cast<int>(value.size()); ++byte) {
    value[byte] = static_cast<uint8_t>(page[layout.ValueByte(slot, byte)]);
  }
  std::memcpy(mark, page + layout.MarkOffset(slot), sizeof(*mark));
}

}  // namespace h2o
