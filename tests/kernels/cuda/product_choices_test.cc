#include "kernels/cuda/product_choices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "tests/model/temp_directory.h"

namespace h2o::cuda {
namespace {

using ::testing::IsEmpty;

// Shapes that differ in one thing each, and words of every length.
ProductChoices SomeChoices() {
  const ProductShape shape = {6283, 768, 96, DType::kBFloat16};
  ProductShape others[7];
  std::fill(std::begin(others), std::end(others), shape);
  others[0].outputs = 1;
  others[1].inputs = 100;
  others[2].rows = 2048;
  others[3].dtype = DType::kFloat16;
  others[4].bias = true;
  others[5].relu = true;
  others[6].float32_outputs = true;
  ProductChoices choices = {{shape, {}}};
  uint64_t word = ~uint64_t{0};
  for (const ProductShape& other : others) {
    for (uint64_t& w : choices[other].algo) w = word = word / 3;
    choices[other].searched = other.relu;
  }
  return choices;
}

class ProductChoicesFile : public ::testing::Test {
 protected:
  // What is read of a file with this content.
  ProductChoices Parse(const std::string& content) {
    return ReadProductChoices(directory_.Write("content", content));
  }
  std::string Format(const ProductChoices& choices) {
    KeepProductChoices(choices, path_);
    std::ifstream file(path_);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }

  const TempDirectory directory_;
  const std::string path_ = directory_.File("choices");
};

TEST_F(ProductChoicesFile, ReadsWhatWasWritten) {
  EXPECT_EQ(SomeChoices().size(), 8u);
  KeepProductChoices(SomeChoices(), path_);
  EXPECT_EQ(ReadProductChoices(path_), SomeChoices());
}

TEST_F(ProductChoicesFile, GrowsAndLeavesNothingBeside) {
  const ProductChoices all = SomeChoices();
  const ProductChoices one = {*all.begin()};
  KeepProductChoices(one, path_);
  EXPECT_EQ(ReadProductChoices(path_), one);
  KeepProductChoices({std::next(all.begin()), all.end()}, path_);
  EXPECT_EQ(ReadProductChoices(path_), all);
  using Files = std::filesystem::directory_iterator;
  EXPECT_EQ(std::distance(Files(directory_.path()), Files()), 1);
}

// A new choice takes an old one's place, but not that of one searched for.
TEST_F(ProductChoicesFile, WhatWasSearchedForStays) {
  const ProductShape shape = SomeChoices().begin()->first;
  const ProductChoices guessed = {{shape, {false, {1}}}};
  const ProductChoices guessed_anew = {{shape, {false, {2}}}};
  const ProductChoices searched = {{shape, {true, {3}}}};
  const ProductChoices searched_anew = {{shape, {true, {4}}}};
  for (const ProductChoices& next :
       {guessed, guessed_anew, searched, searched_anew}) {
    KeepProductChoices(next, path_);
    EXPECT_EQ(ReadProductChoices(path_), next);
  }
  KeepProductChoices(guessed, path_);
  EXPECT_EQ(ReadProductChoices(path_), searched_anew);
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
        std::string("7 32 1 fp16 2 0 1 0 1 2 3 4 5 6 7 8"),
        std::string("7 32 1 fp16 1 0 1 0 1 2 3 4 5 6 7 g"),
        std::string("7 32 1 fp16 1 0 1 0 1 2 3 4 5 6 7 " +
                    std::string(17, 'f')),
        line + " 9", line + "x", "x" + line, line.substr(0, line.size() - 2),
        std::string(), std::string("\0\xff\0 garbage", 11),
        std::string(4096, '\0')}) {
    EXPECT_THAT(Parse(other + "\n"), IsEmpty()) << other;
    EXPECT_EQ(Parse(other + "\n" + line + "\n"), Parse(line + "\n")) << other;
  }
}

TEST_F(ProductChoicesFile, IsDoneWithoutWhereThereCanBeNone) {
  EXPECT_THAT(ReadProductChoices(path_), IsEmpty());
  EXPECT_THAT(ReadProductChoices(directory_.path()), IsEmpty());
  // Neither may be written, not even by root.
  for (const std::string& path :
       {std::string("/proc/choices"), directory_.File("none/choices")}) {
    KeepProductChoices(SomeChoices(), path);
    EXPECT_FALSE(std::filesystem::exists(path));
  }
  // A directory is in the way.
  std::filesystem::create_directories(path_ + "/in_the_way");
  KeepProductChoices(SomeChoices(), path_);
  EXPECT_TRUE(std::filesystem::is_directory(path_ + "/in_the_way"));
  using Files = std::filesystem::directory_iterator;
  EXPECT_EQ(std::distance(Files(directory_.path()), Files()), 1);
}

}  // namespace
}  // namespace h2o::cuda
