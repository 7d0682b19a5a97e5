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
  void GiveUpTurn() override { ++given_up; }
  int begun = 0, given_up = 0;
};

TEST(ReadTurns, AConnectionReadsSoManyAtATime) {
  std::map<std::string, int> reading;
  ReadTurns turns(
      [&](const std::string& peer, int change) { reading[peer] += change; },
      /*most_waiting=*/100);
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

TEST(ReadTurns, WhereTooManyWaitTheLongestQueueLosesItsFirst) {
  ReadTurns turns(nullptr, /*most_waiting=*/5);
  std::vector<std::shared_ptr<Reader>> many, few;
  const auto enter = [&](const char* peer, int n, auto* readers) {
    for (int i = 0; i < n; ++i) {
      readers->push_back(std::make_shared<Reader>());
      turns.Enter(peer, readers->back());
    }
  };
  const int n = ReadTurns::kAtOnce;
  enter("many", n + 4, &many);
  enter("few", n + 1, &few);
  for (const auto& reader : many) EXPECT_EQ(reader->given_up, 0);
  enter("few", 1, &few);
  EXPECT_EQ(many[n]->given_up, 1);
  EXPECT_EQ(many[n + 1]->given_up, 0);
  turns.Leave("many", many[n].get());  // as one that was given up does
  turns.Leave("many", many[0].get());
  EXPECT_EQ(many[n]->begun, 0);
  EXPECT_EQ(many[n + 1]->begun, 1);
  enter("few", 1, &few);  // the place that came free
  EXPECT_EQ(many[n + 2]->given_up, 0);
  EXPECT_EQ(few[n]->given_up, 0);
  enter("few", 1, &few);
  EXPECT_EQ(few[n]->given_up, 1);
}

}  // namespace
}  // namespace h2o
