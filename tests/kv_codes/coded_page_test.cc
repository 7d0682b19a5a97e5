// Every byte of a page has one meaning, and slots written are numpy's pages.
#include "kv_codes/coded_page.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "tests/kv_codes/golden.h"

namespace h2o {
namespace {

// How often each byte of a page is part of a slot.
std::vector<int> Uses(const CodedPageLayout& layout) {
  std::vector<int> uses(layout.PageBytes());
  for (int slot = 0; slot < kPageSlots; ++slot) {
    for (int b = 0; b < kWordBytes * layout.key_words; ++b) {
      ++uses[layout.KeyByte(slot, b)];
    }
    for (int b = 0; b < kWordBytes * layout.value_words; ++b) {
      ++uses[layout.ValueByte(slot, b)];
    }
    for (int b = 0; b < 4; ++b) {
      ++uses[layout.MarkOffset(slot) + b];
      if (layout.float_scores) ++uses[layout.ScoreOffset(slot) + b];
    }
  }
  return uses;
}

TEST(CodedPage, EveryByteHasOneMeaning) {
  for (const bool float_scores : {false, true}) {
    for (const auto& [k, v] : {std::pair{1, 1}, {4, 5}, {7, 2}, {32, 32}}) {
      const CodedPageLayout layout{k, v, float_scores};
      EXPECT_EQ(layout.PageBytes(), 128 * (k + v + (float_scores ? 2 : 1)));
      EXPECT_EQ(Uses(layout), std::vector<int>(layout.PageBytes(), 1))
          << k << " and " << v << " words";
    }
  }
}

TEST(CodedPage, LinesAreOperandsOfTensorCores) {
  const CodedPageLayout layout{8, 4};
  // Lane (g, t) reads 16 bytes: of word 4 n + t, slots g, g + 8, g + 16, g
  // + 24.
  for (int word = 0; word < 8; ++word) {
    for (int g = 0; g < 8; ++g) {
      const int start = 128 * word + 16 * (g ^ 2 * (word % 4));
      for (int i = 0; i < 4; ++i) {
        EXPECT_EQ(layout.KeyByte(g + 8 * i, 4 * word), start + 4 * i);
        EXPECT_EQ(layout.KeyByte(g + 8 * i, 4 * word + 3), start + 4 * i + 3);
      }
    }
  }
  // And 8 bytes of a value column: slots 4 t to 4 t + 3 and 16 + 4 t to ...
  for (int t = 0; t < 4; ++t) {
    const int start = 128 * 9 + 32 * 5 + 8 * t;
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(layout.ValueByte(4 * t + i, 5), start + i);
      EXPECT_EQ(layout.ValueByte(16 + 4 * t + i, 5), start + 4 + i);
    }
  }
}

TEST(CodedPage, SlotsAreWrittenAsNumpyWritesThem) {
  for (const std::string& name : Golden::Names()) {
    const Golden golden(name);
    const CodedPageLayout layout = golden.Layout();
    const auto expected = golden.Page();
    std::vector<std::byte> page(expected.size());
    for (size_t i = 0; i < page.size(); ++i) {  // poison
      page[i] = static_cast<std::byte>(i * 37 + 11);
    }
    const auto positions = golden.Get<uint16_t>("positions");
    for (int slot = 0; slot < golden.slots(); ++slot) {
      std::vector<uint8_t> columns[2];
      int scales[2];
      for (const int kind : {0, 1}) {
        const std::string kind_name = kind == 0 ? "key" : "value";
        const VectorCode code = golden.Code(kind_name);
        const auto x = golden.Get<float>(kind_name + ".x");
        std::vector<uint8_t> codes(code.bits.size());
        scales[kind] = Encode(code, RowOf(x, slot, code.bits.size()),
                              absl::MakeSpan(codes));
        columns[kind].resize(4 * code.words);
        PutCodes(PlaceFields(code.bits, code.words), codes,
                 absl::MakeSpan(columns[kind]));
      }
      const SlotMark mark = MarkOf(positions[slot], scales[0], scales[1]);
      WriteSlot(layout, slot, columns[0], columns[1], mark, page.data());

      std::vector<uint8_t> key(columns[0].size()), value(columns[1].size());
      SlotMark read;
      ReadSlot(layout, slot, page.data(), absl::MakeSpan(key),
               absl::MakeSpan(value), &read);
      EXPECT_EQ(key, columns[0]);
      EXPECT_EQ(value, columns[1]);
      EXPECT_EQ(read, mark);
      EXPECT_EQ(read.key_scale(), scales[0]);
      EXPECT_EQ(read.value_scale(), scales[1]);
    }
    EXPECT_EQ(page, expected) << name;
  }
}

TEST(ExactPage, HoldsFourSlotsInWholeLines) {
  EXPECT_EQ((ExactPageLayout{64, DType::kBFloat16}.PageBytes()), 4 * 256);
  EXPECT_EQ((ExactPageLayout{80, DType::kFloat16}.PageBytes()), 4 * 320);
  EXPECT_EQ((ExactPageLayout{72, DType::kFloat16}.PageBytes()), 1152);
  const ExactPageLayout layout{128, DType::kFloat32};
  EXPECT_EQ(layout.PageBytes(), 4 * 1024);
  EXPECT_EQ(layout.KeyOffset(0), 0);
  EXPECT_EQ(layout.ValueOffset(0), 512);
  EXPECT_EQ(layout.KeyOffset(3), 3 * 1024);
  EXPECT_EQ(layout.ValueOffset(3), 3 * 1024 + 512);
}

}  // namespace
}  // namespace h2o
