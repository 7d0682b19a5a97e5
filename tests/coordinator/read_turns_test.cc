// Tests that few messages of a connection are read at a time.
#include "coordinator/read_turns.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace h2o {
namespace {

struct Reader final : MessageReader {
  void BeginRead() override { ++begun; }
  int begun = 0;
};

TEST(ReadTurns, AConnectionReadsSoManyAtATime) {
  std::map<std::string, int> reading;
  ReadTurns turns(
      [&](const std::string& peer, int change) { reading[peer] += change; });
  std::vector<std::shared_ptr<Reader>> readers;
  for (size_t i = 0; i < ReadTurns::kAtOnce + 3; ++i) {
    readers.push_back(std::make_shared<Reader>());
    turns.Enter("a", readers.back());
  }
  const auto first = std::make_shared<Reader>();
  turns.Enter("b", first);  // waits for nobody
  EXPECT_EQ(first->begun, 1);
  const auto begun = [&](size_t i) { return readers[i]->begun == 1; };
  const size_t n = ReadTurns::kAtOnce;
  EXPECT_TRUE(begun(n - 1));
  EXPECT_FALSE(begun(n));
  turns.Leave("a", readers[n].get());  // while it waits
  turns.Leave("a", readers[0].get());
  turns.Leave("a", readers[0].get());  // twice
  EXPECT_FALSE(begun(n));
  EXPECT_TRUE(begun(n + 1));
  EXPECT_FALSE(begun(n + 2));
  EXPECT_EQ(reading["a"], static_cast<int>(n));
  for (const auto& reader : readers) turns.Leave("a", reader.get());
  EXPECT_TRUE(begun(n + 2));
  EXPECT_EQ(reading["a"], 0);
  turns.Leave("a", readers[0].get());
}

}  // namespace
}  // namespace h2o
