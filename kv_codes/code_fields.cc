// Places codes in bytes, writes them there and reads them.
#include "kv_codes/code_fields.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace h2o {
namespace {

constexpr int kByteBits = 8;

// A byte column while it is filled.
struct Column {
  int free = kByteBits;  // bits
  std::vector<CodeField> fields;
};

// The fullest column with room for `width` bits; if there is none, the
// emptiest.  Of equal ones the first.
Column& ColumnFor(int width, std::vector<Column>* columns) {
  Column* fullest = nullptr;
  Column* emptiest = &columns->front();
  for (Column& column : *columns) {
    if (column.free > emptiest->free) emptiest = &column;
    if (column.free < width) continue;
    if (fullest == nullptr || column.free < fullest->free) fullest = &column;
  }
  return fullest != nullptr ? *fullest : *emptiest;
}

void Place(int channel, int bits, std::vector<Column>* columns) {
  while (bits > 0) {
    Column& column = ColumnFor(bits, columns);
    const int width = std::min(bits, column.free);
    bits -= width;
    column.fields.push_back(
        {.channel = static_cast<int16_t>(channel),
         .shift = static_cast<uint8_t>(kByteBits - column.free),
         .width = static_cast<uint8_t>(width),
         .low = static_cast<uint8_t>(bits)});
    column.free -= width;
  }
}

}  // namespace

std::vector<CodeField> PlaceFields(absl::Span<const uint8_t> bits, int words) {
  const int sum = std::accumulate(bits.begin(), bits.end(), 0);
  H2O_CHECK(sum <= kWordBits * words) << sum << " bits in " << words;
  std::vector<int> channels(bits.size());
  std::iota(channels.begin(), channels.end(), 0);
  std::stable_sort(channels.begin(), channels.end(),
                   [&](int a, int b) { return bits[a] > bits[b]; });
  std::vector<Column> columns(static_cast<size_t>(kWordBytes) * words);
  for (int channel : channels) {
    H2O_CHECK(bits[channel] <= kMaxCodeBits);
    Place(channel, bits[channel], &columns);
  }
  std::stable_sort(columns.begin(), columns.end(),
                   [](const Column& a, const Column& b) {
                     return a.fields.size() > b.fields.size();
                   });
  std::vector<CodeField> placed;
  for (size_t byte = 0; byte < columns.size(); ++byte) {
    for (CodeField field : columns[byte].fields) {
      field.byte = static_cast<int16_t>(byte);
      placed.push_back(field);
    }
  }
  return placed;
}

void PutCodes(absl::Span<const CodeField> fields,
              absl::Span<const uint8_t> codes, absl::Span<uint8_t> columns) {
  std::fill(columns.begin(), columns.end(), uint8_t{0});
  for (const CodeField& field : fields) {
    const unsigned bits = unsigned{codes[field.channel]} >> field.low
                                                                << field.shift;
    columns[field.byte] |= static_cast<uint8_t>(bits & field.mask());
  }
}

void TakeCodes(absl::Span<const CodeField> fields,
               absl::Span<const uint8_t> columns, absl::Span<uint8_t> codes) {
  std::fill(codes.begin(), codes.end(), uint8_t{0});
  for (const CodeField& field : fields) {
    const unsigned bits = columns[field.byte] & unsigned{field.mask()};
    codes[field.channel] |=
        static_cast<uint8_t>(bits >> field.shift << field.low);
  }
}

}  // namespace h2o
