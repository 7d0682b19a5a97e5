// Codes find their places in bytes as numpy's do, and come back from them.
#include "kv_codes/code_fields.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/kv_codes/golden.h"

namespace h2o {
namespace {

TEST(CodeFields, ArePlacedAsInNumpy) {
  for (const std::string& name : Golden::Names()) {
    const Golden golden(name);
    for (const char* kind : {"key", "value"}) {
      const VectorCode code = golden.Code(kind);
      EXPECT_EQ(PlaceFields(code.bits, code.words), golden.Fields(kind))
          << name << " " << kind;
    }
  }
}

struct PlacingCase {
  const char* what;
  std::vector<uint8_t> bits;
  int words;
  std::vector<CodeField> fields;  // channel, byte, shift, width, low
};

TEST(CodeFields, TableOfPlaces) {
  const PlacingCase cases[] = {
      {"no channel has bits", {0, 0}, 1, {}},
      {"a byte each", {8, 8}, 1, {{0, 0, 0, 8, 0}, {1, 1, 0, 8, 0}}},
      {"wide ones first, each in the fullest byte",
       {2, 5, 1, 6},
       1,
       // Byte 0 gets 6 and then 2 bits, byte 1 gets 5 and 1.
       {{3, 0, 0, 6, 0}, {0, 0, 6, 2, 0}, {1, 1, 0, 5, 0}, {2, 1, 5, 1, 0}}},
      {"a byte of more fields comes first",
       {8, 4, 4},
       1,
       {{1, 0, 0, 4, 0}, {2, 0, 4, 4, 0}, {0, 1, 0, 8, 0}}},
      {"what fits in none is cut, high bits into the emptiest",
       {5, 5, 5, 5, 5, 5, 2},
       1,
       // Four bytes have 3 bits left each.  Two of them take channel 4, the
       // other two channel 5, and the two bits that are left channel 6.
       {{1, 0, 0, 5, 0},
        {4, 0, 5, 2, 0},
        {6, 0, 7, 1, 1},
        {3, 1, 0, 5, 0},
        {5, 1, 5, 2, 0},
        {6, 1, 7, 1, 0},
        {0, 2, 0, 5, 0},
        {4, 2, 5, 3, 2},
        {2, 3, 0, 5, 0},
        {5, 3, 5, 3, 2}}},
  };
  for (const PlacingCase& c : cases) {
    EXPECT_EQ(PlaceFields(c.bits, c.words), c.fields) << c.what;
  }
}

TEST(CodeFields, GiveBackWhatTheyHold) {
  for (const std::string& name : Golden::Names()) {
    const Golden golden(name);
    for (const std::string kind : {"key", "value"}) {
      const VectorCode code = golden.Code(kind);
      const auto codes = golden.Get<uint8_t>(kind + ".codes");
      const auto fields = golden.Fields(kind);
      std::vector<uint8_t> columns(4 * code.words, 0xee);
      std::vector<uint8_t> back(code.bits.size(), 0xee);
      for (int slot = 0; slot < golden.slots(); ++slot) {
        const auto row = RowOf(codes, slot, code.bits.size());
        PutCodes(fields, row, absl::MakeSpan(columns));
        TakeCodes(fields, columns, absl::MakeSpan(back));
        EXPECT_EQ(back, std::vector<uint8_t>(row.begin(), row.end())) << name;
      }
    }
  }
}

TEST(CodeFields, MoreBitsThanWordsAreABug) {
  EXPECT_DEATH(PlaceFields(std::vector<uint8_t>{8, 8, 8, 8, 1}, 1), "33 bits");
}

}  // namespace
}  // namespace h2o
