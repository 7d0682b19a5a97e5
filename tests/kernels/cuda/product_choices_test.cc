// Checks the file of chosen kernels: what is written is read, the rest refused.
#include "kernels/cuda/product_choices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/model/temp_directory.h"

namespace h2o::cuda {
namespace {

using ::testing::IsEmpty;

// Shapes that differ in one thing each, and words of every length.
ProductChoices SomeChoices() {
  const ProductShape shape = {6283, 768, 96, DType::kBFloat16};
  ProductShape others[8];
  std::fill(std::begin(others), std::end(others), shape);
  others[0].outputs = 1;
  others[1].inputs = 100;
  others[2].rows = 2048;
  others[3].dtype = DType::kFloat16;
  others[4].bias = true;
  others[5].relu = true;
  others[6].float32_outputs = true;
  others[7].fp8 = true;
  ProductChoices choices = {{shape, {}}};
  uint64_t word = ~uint64_t{0};
  for (const ProductShape& other : others) {
    for (uint64_t& w : choices[other].algo) w = word = word / 3;
    choices[other].searched = other.relu;
  }
  return choices;
}

// Whether all of them were kept.
bool Keep(const ProductChoices& choices, const std::string& path) {
  return std::all_of(choices.begin(), choices.end(), [&](const auto& c) {
    return KeepProductChoice(c.first, c.second, /*overrules=*/false, path);
  });
}

class ProductChoicesFile : public ::testing::Test {
 protected:
  // What is read of a file with this content.
  ProductChoices Parse(const std::string& content) {
    return ReadProductChoices(directory_.Write("content", content));
  }
  std::string Format(const ProductChoices& choices) {
    EXPECT_TRUE(Keep(choices, path_));
    std::ifstream file(path_);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }

  const TempDirectory directory_;
  const std::string path_ = directory_.File("choices");
};

TEST_F(ProductChoicesFile, ReadsWhatWasWrittenAndLeavesNothingBeside) {
  EXPECT_EQ(SomeChoices().size(), 9u);
  EXPECT_TRUE(Keep(SomeChoices(), path_));
  EXPECT_EQ(ReadProductChoices(path_), SomeChoices());
  EXPECT_TRUE(Keep(SomeChoices(), path_));
  EXPECT_EQ(ReadProductChoices(path_), SomeChoices());
  using Files = std::filesystem::directory_iterator;
  EXPECT_EQ(std::distance(Files(directory_.path()), Files()), 1);
}

// A new choice takes an old one's place, but of one searched for only if that
// did not do.
TEST_F(ProductChoicesFile, WhatWasSearchedForStays) {
  const ProductShape shape = SomeChoices().begin()->first;
  const auto kept = [&](const ProductChoice& choice, bool overrules) {
    EXPECT_TRUE(KeepProductChoice(shape, choice, overrules, path_));
    return ReadProductChoices(path_).at(shape);
  };
  const ProductChoice guessed = {false, {1}}, anew = {false, {2}};
  const ProductChoice searched = {true, {3}}, searched_anew = {true, {4}};
  EXPECT_EQ(kept(guessed, false), guessed);
  EXPECT_EQ(kept(anew, false), anew);
  EXPECT_EQ(kept(searched, false), searched);
  EXPECT_EQ(kept(searched_anew, false), searched_anew);
  EXPECT_EQ(kept(guessed, false), searched_anew);
  EXPECT_EQ(kept(guessed, true), guessed);
}

// Processes that write at once lose nothing of each other's.
TEST_F(ProductChoicesFile, ManyMayWriteAtOnce) {
  constexpr int kWriters = 4, kShapes = 25;
  std::vector<std::thread> writers;
  for (int w = 0; w < kWriters; ++w) {
    writers.emplace_back([&, w] {
      for (int n = 0; n < kShapes; ++n) {
        ProductShape shape;
        shape.outputs = 1 + w;
        shape.rows = 1 + n;
        EXPECT_TRUE(KeepProductChoice(shape, {}, false, path_));
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(ReadProductChoices(path_).size(), size_t{kWriters * kShapes});
}

TEST(ChoiceRows, ShapesOfManyRowsShare) {
  for (int64_t rows : {1, 7, 255, 256}) EXPECT_EQ(ChoiceRows(rows), rows);
  EXPECT_EQ(ChoiceRows(257), 288);
  EXPECT_EQ(ChoiceRows(276), 288);
  EXPECT_EQ(ChoiceRows(288), 288);
  EXPECT_EQ(ChoiceRows(512), 512);
  EXPECT_EQ(ChoiceRows(513), 768);
  EXPECT_EQ(ChoiceRows(2000), 2048);
}

TEST_F(ProductChoicesFile, ProductsOfCodesAreNamedSo) {
  ProductShape shape = {16, 128, 1, DType::kBFloat16};
  shape.fp8 = true;
  EXPECT_EQ(Format({{shape, {}}}),
            "16 128 1 fp8:bf16 0 0 0 0 0 0 0 0 0 0 0 0\n");
}

TEST_F(ProductChoicesFile, IsALineAShape) {
  const ProductChoices choices = {
      {{7, 32, 1, DType::kFloat16, true, false, true},
       {true, {1, 2, 0, 0xab, 0, 0, 0, ~uint64_t{0}}}}};
  EXPECT_EQ(Format(choices), "7 32 1 fp16 1 0 1 1 1 2 0 ab 0 0 0 " +
                                 std::string(16, 'f') + "\n");
}

// Cut anywhere, a file still gives its whole lines, and no line in part.
TEST_F(ProductChoicesFile, TornFilesGiveTheirWholeLines) {
  const ProductChoices choices = SomeChoices();
  const std::string content = Format(choices);
  for (size_t size = 0; size <= content.size(); ++size) {
    const std::string torn = content.substr(0, size);
    const auto whole = std::count(torn.begin(), torn.end(), '\n');
    ASSERT_EQ(Parse(torn), ProductChoices(choices.begin(),
                                          std::next(choices.begin(), whole)))
        << size;
  }
}

TEST_F(ProductChoicesFile, OtherLinesAreLeftOut) {
  const std::string line = "7 32 1 fp16 1 0 1 0 1 2 3 4 5 6 7 8";
  ASSERT_EQ(Parse(line + "\n").size(), 1u);
  for (const std::string& other :
       {std::string("7 32 1 1 0 1 0 1 2 3 4 5 6 7 8"),  // no format
        std::string("7 32 1 int8 1 0 1 0 1 2 3 4 5 6 7 8"),
        std::string("7 32 1 fp8: 1 0 1 0 1 2 3 4 5 6 7 8"),
        std::string("7 32 1 fp16 2 0 1 0 1 2 3 4 5 6 7 8"),
        std::string("7 32 1 fp16 1 0 1 0 1 2 3 4 5 6 7 g"),
        std::string("7 32 1 fp16 1 0 1 0 1 2 3 4 5 6 7 fffffffffffffffff"),
        line + " 9", line + "x", "x" + line, line.substr(0, line.size() - 2),
        std::string(), std::string("\0\xff\0 garbage", 11),
        std::string(4096, '\0')}) {
    EXPECT_THAT(Parse(other + "\n"), IsEmpty()) << other;
    EXPECT_EQ(Parse(absl::StrCat(other, "\n", line, "\n")), Parse(line + "\n"))
        << other;
  }
}

TEST_F(ProductChoicesFile, IsDoneWithoutWhereThereCanBeNone) {
  EXPECT_THAT(ReadProductChoices(path_), IsEmpty());
  EXPECT_THAT(ReadProductChoices(directory_.path()), IsEmpty());
  // Neither may be written, not even by root.
  for (const std::string& path :
       {std::string("/proc/choices"), directory_.File("none/choices")}) {
    EXPECT_FALSE(Keep(SomeChoices(), path));
    EXPECT_FALSE(std::filesystem::exists(path));
  }
  // A directory is in the way.
  std::filesystem::create_directories(path_ + "/in_the_way");
  EXPECT_FALSE(Keep(SomeChoices(), path_));
  EXPECT_TRUE(std::filesystem::is_directory(path_ + "/in_the_way"));
  using Files = std::filesystem::directory_iterator;
  EXPECT_EQ(std::distance(Files(directory_.path()), Files()), 1);
}

}  // namespace
}  // namespace h2o::cuda
