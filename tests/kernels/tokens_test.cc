// How the states of sequences move on the CPU; cuda/tokens_test.cc is the twin.
#include "kernels/cpu/tokens.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/sequence_state.h"

namespace h2o {
namespace {

constexpr int32_t kMark = -77;  // a token that no operation writes

SequenceState StateOf(int32_t* tokens, int prompt, int generated) {
  SequenceState state;
  state.tokens = tokens;
  state.num_generated = generated;
  state.position = prompt + generated - 1;
  state.max_tokens = 4;
  return state;
}

TEST(Advance, AppendsTokensOrTakesTheGivenOnes) {
  std::vector<std::vector<int32_t>> tokens(4, std::vector<int32_t>(8, kMark));
  std::vector<SequenceState> states;
  for (auto& of_sequence : tokens) {
    states.push_back(StateOf(of_sequence.data(), 3, 1));
  }
  tokens[1][4] = 40;  // given
  states[1].num_forced = 2;
  tokens[2][3] = 40;  // given, and passed already
  states[2].num_forced = 1;
  states[3].finish = FinishReason::kStop;
  const std::vector<int32_t> seats = {2, -1, 1, 3, 0};
  const std::vector<int32_t> next = {10, 11, 12, 13, 14};
  std::vector<RowResult> results(5);
  cpu::Advance(states.data(), seats.data(), 5, next.data(), results.data());

  const int32_t given_or_next[] = {14, 40, 10};
  for (int s = 0; s < 3; ++s) {
    std::vector<int32_t> expected(8, kMark);
    if (s == 2) expected[3] = 40;
    expected[4] = given_or_next[s];
    EXPECT_EQ(tokens[s], expected) << s;
    EXPECT_EQ(states[s].token, given_or_next[s]) << s;
    EXPECT_EQ(states[s].position, 4) << s;
    EXPECT_EQ(states[s].num_generated, 2) << s;
  }
  EXPECT_EQ(tokens[3], std::vector<int32_t>(8, kMark));
  EXPECT_EQ(results[0].token, 10);
  EXPECT_EQ(results[1].token, -1);
  EXPECT_EQ(results[2].token, 40);
  EXPECT_EQ(results[3].token, -1);
  EXPECT_EQ(results[4].token, 14);
}

TEST(Advance, EndsAtTheLastToken) {
  std::vector<int32_t> tokens(8, kMark);
  SequenceState state = StateOf(tokens.data(), 1, 2);
  const int32_t seat = 0, next = 9;
  for (FinishReason finish : {FinishReason::kNone, FinishReason::kLength}) {
    RowResult result;
    cpu::Advance(&state, &seat, 1, &next, &result);
    EXPECT_EQ(result.token, 9);
    EXPECT_EQ(result.finish, finish);
    EXPECT_EQ(state.finish, finish);
  }
}

TEST(Advance, EndsAtAnyOfItsStopTokens) {
  for (int stops : {0, 1, 2, kMaxStopTokens}) {
    for (int32_t next : {100, 100 + stops - 1, 100 + stops}) {
      std::vector<int32_t> tokens(8, kMark);
      SequenceState state = StateOf(tokens.data(), 1, 1);
      state.num_stop_tokens = stops;
      for (int i = 0; i < stops; ++i) state.stop_tokens[i] = 100 + i;
      const int32_t seat = 0;
      RowResult result;
      cpu::Advance(&state, &seat, 1, &next, &result);
      const bool stopped = next >= 100 && next < 100 + stops;
      EXPECT_EQ(result.finish,
                stopped ? FinishReason::kStop : FinishReason::kNone)
          << stops << " stop tokens, token " << next;
    }
  }
}

}  // namespace
}  // namespace h2o
