// Tests what `serve` reads from its children.
#include "clients/child_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

namespace h2o {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class LineReaderTest : public ::testing::Test {
 protected:
  LineReaderTest() {
    UniqueFd read_end;
    EXPECT_TRUE(MakePipe(&read_end, &write_end_).ok());
    reader_ = LineReader(std::move(read_end));
  }
  void Write(const std::string& text) {
    ASSERT_EQ(write(write_end_.get(), text.data(), text.size()),
              static_cast<ssize_t>(text.size()));
  }

  UniqueFd write_end_;
  LineReader reader_{UniqueFd()};
};

TEST_F(LineReaderTest, GivesWholeLines) {
  Write("a\nb");
  EXPECT_THAT(reader_.Read(), ElementsAre("a"));
  Write("c\n\nd\n");
  EXPECT_THAT(reader_.Read(), ElementsAre("bc", "", "d"));
  Write("rest");
  EXPECT_THAT(reader_.Read(), IsEmpty());
  write_end_.Close();
  EXPECT_THAT(reader_.Read(), ElementsAre("rest"));
  EXPECT_EQ(reader_.fd(), -1);
}

// Each block was once searched, and moved, together with all before it.
TEST_F(LineReaderTest, ALineWithoutEndTakesLittleTimeAndMemory) {
  constexpr size_t kBytes = 64 << 20;
  std::thread writer([&] {
    const std::string block(64 << 10, 'x');
    for (size_t n = 0; n < kBytes; n += block.size()) Write(block);
    write_end_.Close();
  });
  size_t bytes = 0;
  while (reader_.fd() >= 0) {
    for (const std::string& line : reader_.Read()) {
      EXPECT_LE(line.size(), LineReader::kMaxLine + 4096);
      bytes += line.size();
    }
  }
  writer.join();
  EXPECT_EQ(bytes, kBytes);
}

}  // namespace
}  // namespace h2o
