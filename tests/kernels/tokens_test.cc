// From logits to tokens, and the states of sequences: both twins against the
// words of kernels/backend.h.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/types/span.h"
#include "tests/kernels/test_backend.h"

namespace h2o {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr int32_t kMark = -77;  // a token that no kernel writes

class Tokens : public BackendTest {
 protected:
  template <class T>
  OnDevice<T> Put(const std::vector<T>& values) const {
    return OnDevice<T>(backend_.get(), values);
  }
  template <class T>
  OnDevice<T> Poisoned(int64_t size) const {
    return OnDevice<T>(backend_.get(), size);
  }

  std::vector<BestLogit> ArgMaxOf(const std::vector<std::vector<float>>& rows,
                                  int first_token) const;
  void CheckArgMax(const std::vector<std::vector<float>>& rows) const;
  std::vector<int32_t> Draws(const std::vector<float>& logits,
                             const SamplingParams& sampling, int count) const;
  void ExpectSameDraws(const std::vector<float>& logits,
                       const SamplingParams& sampling, int wanted) const;
};

INSTANTIATE_TEST_SUITE_P(Backends, Tokens,
                         ::testing::ValuesIn(BackendVariants()), VariantName);

// ---- states -----------------------------------------------------------------

TEST_P(Tokens, BeginDecodeReadsLiveRows) {
  KvHead* const heads = reinterpret_cast<KvHead*>(0x1000);
  std::vector<SequenceState> states(3);
  for (int i = 0; i < 3; ++i) {
    states[i].heads = heads + i;
    states[i].token = 10 + i;
    states[i].position = 100 + i;
  }
  states[1].finish = FinishReason::kStop;
  const auto device_states = Put(states);
  const auto seats = Put<int32_t>({2, -1, 0, 1});
  const auto tokens = Poisoned<int32_t>(4), positions = Poisoned<int32_t>(4);
  const auto heads_of = Poisoned<KvHead*>(4);
  backend_->BeginDecode(device_states.data(), seats.data(), 4, tokens.data(),
                        positions.data(), heads_of.data());
  EXPECT_EQ(tokens.Read(), (std::vector<int32_t>{12, 0, 10, 0}));
  EXPECT_EQ(positions.Read(), (std::vector<int32_t>{102, -1, 100, -1}));
  EXPECT_EQ(heads_of.Read(),
            (std::vector<KvHead*>{heads + 2, nullptr, heads, nullptr}));
}

TEST_P(Tokens, AdvanceMovesLiveRows) {
  constexpr int kRows = 300;                         // more than a block
  constexpr int kPrompt = 6, kTokens = kPrompt + 5;  // of a sequence
  std::vector<int32_t> before(kRows * kTokens, kMark);
  for (int i = 0; i < kRows; i += 4) {
    for (int t = 0; t < 3; ++t) before[i * kTokens + kPrompt + t] = 40 + t;
  }
  const auto all_tokens = Put(before);
  std::vector<SequenceState> states(kRows);
  std::vector<int32_t> seats(kRows), tokens(kRows);
  for (int i = 0; i < kRows; ++i) {
    SequenceState& s = states[i];
    s.num_generated = i % 5;
    s.position = kPrompt + s.num_generated - 1;
    s.tokens = all_tokens.data() + i * kTokens;
    s.max_tokens = 4;
    // None, token 2 alone, or as many as there can be, token 2 the last.
    s.num_stop_tokens = i % 3 == 0 ? 0 : i % 3 == 1 ? 1 : kMaxStopTokens;
    std::fill_n(s.stop_tokens, kMaxStopTokens, 3);
    s.stop_tokens[std::max(s.num_stop_tokens - 1, 0)] = 2;
    if (i % 4 == 0) s.num_forced = 3;
    if (i % 7 == 0) s.finish = FinishReason::kLength;
    seats[i] = i % 11 == 0 ? -1 : kRows - 1 - i;
    tokens[i] = i % 2 == 0 ? 2 : 1000 + i;
  }
  const auto device_states = Put(states);
  const auto device_seats = Put(seats), device_tokens = Put(tokens);
  const auto results = Poisoned<RowResult>(kRows);
  backend_->Advance(device_states.data(), device_seats.data(), kRows,
                    device_tokens.data(), results.data());
  const std::vector<SequenceState> after = device_states.Read();
  const std::vector<RowResult> got = results.Read();
  std::vector<int32_t> appended = before;
  int forced_rows = 0;
  for (int r = 0; r < kRows; ++r) {
    const int seat = seats[r];
    if (seat < 0 || states[seat].finish != FinishReason::kNone) {
      EXPECT_EQ(got[r].token, kNoToken) << r;
      EXPECT_EQ(got[r].finish, FinishReason::kNone) << r;
      if (seat >= 0) {
        EXPECT_EQ(after[seat].num_generated, states[seat].num_generated);
      }
      continue;
    }
    const SequenceState& s = states[seat];
    const bool is_forced = s.num_generated < s.num_forced;
    forced_rows += is_forced;
    const int32_t token = is_forced ? 40 + s.num_generated : tokens[r];
    FinishReason finish = FinishReason::kNone;
    if (s.num_generated + 1 == s.max_tokens) finish = FinishReason::kLength;
    const bool stops = token == 2 && s.num_stop_tokens > 0;
    if (stops) finish = FinishReason::kStop;
    EXPECT_EQ(got[r].token, token) << r;
    EXPECT_EQ(got[r].finish, finish) << r;
    EXPECT_EQ(after[seat].token, token) << r;
    EXPECT_EQ(after[seat].finish, finish) << r;
    EXPECT_EQ(after[seat].num_generated, s.num_generated + 1) << r;
    EXPECT_EQ(after[seat].position, s.position + 1) << r;
    appended[seat * kTokens + s.position + 1] = token;
  }
  EXPECT_EQ(all_tokens.Read(), appended);
  EXPECT_GT(forced_rows, 10);
}

TEST_P(Tokens, ScoresAreSummedOfRowsThatEndOrAlwaysWant) {
  // Heads of 1 to 70 slots, so one to three pages; the third keeps no scores.
  constexpr int kHeads = 37, kTable = 3, kHeadDim = 8;
  const KvPageLayout layout{kHeadDim, {DType::kBFloat16}};
  const int64_t lines = layout.PageBytes() / kLineBytes;
  std::mt19937 random(5);
  std::uniform_real_distribution<float> score(0, 3);
  std::vector<std::byte> pool_bytes(kHeads * kTable * layout.PageBytes(),
                                    std::byte{0xff});  // NaN
  std::vector<uint32_t> tables(kHeads * kTable);
  std::vector<KvHead> heads(kHeads);
  double wanted = 0;
  for (int h = 0; h < kHeads; ++h) {
    KvHead& head = heads[h];
    head.table = h * kTable;
    head.format = layout.format;
    head.num_slots = 1 + (h * 29) % 70;
    head.slots.score_rule = h == 2 ? ScoreRule::kNone : ScoreRule::kSum;
    for (int page = 0; page < kTable; ++page) {
      // Pages lie in another order than they are used.
      const int at = (h * kTable + page) * 7 % (kHeads * kTable);
      tables[h * kTable + page] = static_cast<uint32_t>(at * lines);
      auto* scores = reinterpret_cast<float*>(
          pool_bytes.data() + at * layout.PageBytes() + layout.ScoresOffset());
      for (int i = 0; i < kPageSlots; ++i) {
        if (page * kPageSlots + i >= head.num_slots) continue;
        scores[i] = score(random);
        if (h != 2) wanted += scores[i];
      }
    }
  }
  const auto device_pool = Put(pool_bytes);
  const auto device_tables = Put(tables);
  const auto device_heads = Put(heads);
  const KvPool pool{device_pool.data(), device_tables.data(), kHeadDim};
  std::vector<SequenceState> states(3);
  for (SequenceState& s : states) s.heads = device_heads.data();
  states[1].reports_scores = true;
  std::vector<RowResult> results(5);
  results[0] = {5, FinishReason::kLength};  // ends
  results[1] = {6, FinishReason::kNone};    // always wants
  results[2] = {7, FinishReason::kNone};    // goes on
  results[3] = {};                          // nobody's
  results[4] = {kNoToken, FinishReason::kNonFinite};
  const auto device_results = Put(results);
  backend_->SumScores(Put(states).data(), Put<int32_t>({0, 1, 2, -1, 0}).data(),
                      5, kHeads, pool, device_results.data());
  const std::vector<RowResult> got = device_results.Read();
  for (int r = 0; r < 5; ++r) {
    EXPECT_EQ(got[r].token, results[r].token);
    EXPECT_EQ(got[r].finish, results[r].finish);
    EXPECT_NEAR(got[r].kept_scores, r < 2 ? wanted : 0, 1e-5 * wanted) << r;
  }
}

TEST_P(Tokens, AdvanceEndsAtAnyOfTheStopTokens) {
  for (int stops : {0, 1, 2, kMaxStopTokens}) {
    for (int32_t next : {100, 100 + stops - 1, 100 + stops}) {
      const auto tokens = Put(std::vector<int32_t>(8, kMark));
      SequenceState state;
      state.tokens = tokens.data();
      state.num_generated = 1;
      state.position = 1;
      state.max_tokens = 4;
      state.num_stop_tokens = stops;
      for (int i = 0; i < stops; ++i) state.stop_tokens[i] = 100 + i;
      const auto results = Poisoned<RowResult>(1);
      backend_->Advance(Put<SequenceState>({state}).data(),
                        Put<int32_t>({0}).data(), 1,
                        Put<int32_t>({next}).data(), results.data());
      const bool stopped = next >= 100 && next < 100 + stops;
      EXPECT_EQ(results.Read()[0].finish,
                stopped ? FinishReason::kStop : FinishReason::kNone)
          << stops << " stop tokens, token " << next;
    }
  }
}

// A row without a token ends where it stands, forced or not; others move on.
TEST_P(Tokens, AdvanceEndsRowsWithoutAToken) {
  constexpr int kTokens = 8;  // of a sequence
  const std::vector<int32_t> before(3 * kTokens, kMark);
  const auto all_tokens = Put(before);
  std::vector<SequenceState> states(3);
  for (int i = 0; i < 3; ++i) {
    states[i].tokens = all_tokens.data() + i * kTokens;
    states[i].token = 7;
    states[i].position = 5;
    states[i].num_generated = 1;
    states[i].max_tokens = 9;
  }
  states[1].num_forced = 3;
  const auto device_states = Put(states);
  const auto seats = Put<int32_t>({0, 1, 2});
  const auto tokens = Put<int32_t>({kNoToken, kNoToken, 5});
  const auto results = Poisoned<RowResult>(3);
  backend_->Advance(device_states.data(), seats.data(), 3, tokens.data(),
                    results.data());
  const std::vector<SequenceState> after = device_states.Read();
  const std::vector<RowResult> got = results.Read();
  for (int r : {0, 1}) {
    EXPECT_EQ(got[r].token, kNoToken) << r;
    EXPECT_EQ(got[r].finish, FinishReason::kNonFinite) << r;
    EXPECT_EQ(after[r].finish, FinishReason::kNonFinite) << r;
    EXPECT_EQ(after[r].token, 7) << r;
    EXPECT_EQ(after[r].position, 5) << r;
    EXPECT_EQ(after[r].num_generated, 1) << r;
  }
  EXPECT_EQ(got[2].token, 5);
  EXPECT_EQ(got[2].finish, FinishReason::kNone);
  std::vector<int32_t> appended = before;
  appended[2 * kTokens + 6] = 5;
  EXPECT_EQ(all_tokens.Read(), appended);
  // Neither goes on.
  backend_->Advance(device_states.data(), seats.data(), 3,
                    Put<int32_t>({5, 5, 6}).data(), results.data());
  const std::vector<RowResult> next = results.Read();
  EXPECT_EQ(next[0].token, kNoToken);
  EXPECT_EQ(next[0].finish, FinishReason::kNone);
  EXPECT_EQ(next[2].token, 6);
}

// ---- the greatest -----------------------------------------------------------

// The first of the greatest; -1 if one is NaN or +Infinity.
int GreatestColumn(absl::Span<const float> row) {
  int best = 0;
  for (int c = 0; c < static_cast<int>(row.size()); ++c) {
    if (!(row[c] < kInfinity)) return -1;
    if (row[c] > row[best]) best = c;
  }
  return best;
}

// ArgMax of rows that are padded with NaN, which must not be looked at.
std::vector<BestLogit> Tokens::ArgMaxOf(
    const std::vector<std::vector<float>>& rows, int first_token) const {
  const int64_t count = rows.size(), columns = rows[0].size();
  const int64_t stride = AlignedStride(columns);
  std::vector<float> logits(count * stride, kNaN);
  for (int64_t r = 0; r < count; ++r) {
    std::copy(rows[r].begin(), rows[r].end(), logits.begin() + r * stride);
  }
  const auto device_logits = Put(logits);
  const auto best = Poisoned<BestLogit>(count);
  backend_->ArgMax({device_logits.data(), count, columns, stride}, first_token,
                   best.data());
  return best.Read();
}

void Tokens::CheckArgMax(const std::vector<std::vector<float>>& rows) const {
  constexpr int kFirst = 1000;
  const std::vector<BestLogit> got = ArgMaxOf(rows, kFirst);
  for (size_t r = 0; r < rows.size(); ++r) {
    const int want = GreatestColumn(rows[r]);
    if (want < 0) {
      ASSERT_EQ(got[r].token, kNoToken) << r << " of " << rows[r].size();
      ASSERT_TRUE(std::isnan(got[r].logit)) << r;
    } else {
      ASSERT_EQ(got[r].token, kFirst + want) << r << " of " << rows[r].size();
      ASSERT_EQ(got[r].logit, rows[r][want]) << r;
    }
  }
}

TEST_P(Tokens, ArgMaxFindsTheGreatest) {
  for (const int columns : {1, 3, 50, 4095, 25136, 50272}) {
    for (const int rows : {1, 3, 40, 300}) {
      if (int64_t{columns} * rows > 1000000) continue;
      std::vector<std::vector<float>> x;
      for (int r = 0; r < rows; ++r) {
        x.push_back(Normal(columns, r, 5));
        if (r % 2 == 0) {
          for (float& v : x.back()) v -= 100;  // negative ones only
        }
      }
      CheckArgMax(x);
    }
  }
}

TEST_P(Tokens, ArgMaxOfEqualLogitsIsTheLowestColumn) {
  std::mt19937 random(3);
  std::vector<std::vector<float>> x;
  for (int r = 0; r < 60; ++r) {
    x.emplace_back(50272, -1.0f);
    for (int i = 0; i < 1 + r % 5; ++i) x.back()[random() % 50272] = 3;
  }
  x.emplace_back(50272, -1.0f);  // all equal
  x.emplace_back(50272, -kInfinity);
  x.emplace_back(50272, -1.0f);
  x.back()[7000] = -0.0f;  // equal to 0
  x.back()[9000] = 0.0f;
  x.emplace_back(50272, -1.0f);
  x.back()[50270] = x.back()[50271] = 1;
  CheckArgMax(x);
}

// NaN and +Infinity anywhere leave the row without a token, and no other row;
// -Infinity is a number like others.
TEST_P(Tokens, ArgMaxOfRowsThatAreNotFinite) {
  for (const int columns : {1, 2, 3, 16, 17, 50, 5000}) {
    std::vector<std::vector<float>> x;
    for (const float bad : {kNaN, -kNaN, kInfinity, -kInfinity}) {
      for (const int at : {0, columns / 2, columns - 1}) {
        x.push_back(Normal(columns, at, 5));
        x.back()[at] = bad;
        x.push_back(Normal(columns, at + 1, 5));  // sound
      }
      x.emplace_back(columns, bad);
      x.emplace_back(columns, -kInfinity);
      x.back()[columns / 2] = bad;
    }
    CheckArgMax(x);
  }
}

TEST_P(Tokens, PickBestPrefersTheLowestRank) {
  const auto of_ranks = Put<BestLogit>({
      {1, 10},
      {5, 11},
      {-2, 12},
      {-kInfinity, 0},  // rank 0
      {3, 20},
      {5, 21},
      {-kInfinity, 22},
      {-kInfinity, 1},  // rank 1
      {2, 30},
      {5, 31},
      {-3, 32},
      {-kInfinity, 2},  // rank 2
  });
  const auto tokens = Poisoned<int32_t>(4);
  backend_->PickBest(of_ranks.data(), 3, 4, tokens.data());
  EXPECT_EQ(tokens.Read(), (std::vector<int32_t>{20, 11, 12, 0}));
}

// The slice of one rank decides for all, whatever the others have.
TEST_P(Tokens, PickBestOfARankWithoutATokenIsNone) {
  const BestLogit none = {kNaN, kNoToken};
  const auto of_ranks = Put<BestLogit>({
      none,
      {5, 11},
      {2, 12},
      none,
      {9, 14},  // rank 0
      {3, 20},
      none,
      {1, 22},
      none,
      {1, 24},  // rank 1
      {2, 30},
      {5, 31},
      none,
      none,
      {2, 34},  // rank 2
  });
  const auto tokens = Poisoned<int32_t>(5);
  backend_->PickBest(of_ranks.data(), 3, 5, tokens.data());
  EXPECT_EQ(tokens.Read(),
            (std::vector<int32_t>{kNoToken, kNoToken, kNoToken, kNoToken, 14}));
}

// ---- draws ------------------------------------------------------------------

// `count` draws from one row: seeds of a hundred tokens each.
SamplingParams DrawOf(SamplingParams sampling, int i) {
  sampling.seed += i / 100;
  return sampling;
}

std::vector<int32_t> Tokens::Draws(const std::vector<float>& logits,
                                   const SamplingParams& sampling,
                                   int count) const {
  std::vector<SequenceState> states(count);
  std::vector<int32_t> seats(count);
  for (int i = 0; i < count; ++i) {
    states[i].sampling = DrawOf(sampling, i);
    states[i].num_generated = i % 100;
    seats[i] = i;
  }
  const auto device_logits = Put(logits);
  const auto device_states = Put(states);
  const auto device_seats = Put(seats);
  const auto tokens = Put(std::vector<int32_t>(count, kMark));
  const int64_t columns = logits.size(), stride = 0;  // all rows are this one
  backend_->Sample({device_logits.data(), count, columns, stride},
                   device_states.data(), device_seats.data(), tokens.data());
  return tokens.Read();
}

// The same by SampleToken, on all cores: sorting long rows takes its time.
std::vector<int32_t> HostDraws(const std::vector<float>& logits,
                               const SamplingParams& sampling, int count) {
  std::vector<int32_t> tokens(count);
  const int num_threads = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> threads;
  for (int t = 0; t < num_threads; ++t) {
    threads.emplace_back([&, t] {
      std::vector<double> scratch(2 * logits.size());
      for (int i = t; i < count; i += num_threads) {
        tokens[i] = SampleToken(logits, DrawOf(sampling, i), i % 100,
                                absl::MakeSpan(scratch));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return tokens;
}

// Sums within about 1e-9 of a draw may fall on either side: one in a thousand
// draws may differ, though none is to be expected.
void Tokens::ExpectSameDraws(const std::vector<float>& logits,
                             const SamplingParams& sampling, int wanted) const {
  const int count = AffordableDraws(wanted);
  const std::vector<int32_t> got = Draws(logits, sampling, count);
  const std::vector<int32_t> want = HostDraws(logits, sampling, count);
  int differ = 0;
  std::string first;
  for (int i = 0; i < count; ++i) {
    if (got[i] == want[i]) continue;
    if (differ++ == 0) {
      first = "draw " + std::to_string(i) + " is " + std::to_string(got[i]) +
              ", not " + std::to_string(want[i]);
    }
  }
  EXPECT_LE(differ, count / 1000) << first;
}

constexpr SamplingParams kSamplers[] = {
    {1.0f, 0, 0},
    {0.7f, 0, 1},
    {1.5f, 40, 0},
    {1, 0, 0.9f},
    {0.8f, 40, 0.9f},
    {1, 999, 0.5f},
    {1, 1, 0},
    {0.01f, 5, 0.999f},
    {1, 0, 1e-6f},
    {1, 60000, 0.9f},
    {.temperature = 1, .min_p = 0.05f},
    {.temperature = 0.8f, .top_k = 40, .top_p = 0.9f, .min_p = 0.02f},
    {.temperature = 1, .top_k = 30, .min_p = 0.3f},
    {.temperature = 1, .top_p = 0.7f, .min_p = 1}};

TEST_P(Tokens, DrawsAsSampleTokenFromSmallVocabularies) {
  for (const SamplingParams& sampling : kSamplers) {
    ExpectSameDraws(Normal(50, 1, 1), sampling, 10000);
    ExpectSameDraws(Normal(1001, 2, 2), sampling, 10000);
  }
}

TEST_P(Tokens, DrawsAsSampleTokenFromOptsVocabulary) {
  const std::vector<float> logits = Normal(50272, 3, 3);
  // As a model that is sure of little, at another level.
  std::vector<float> flat = Normal(50272, 4, 0.5f);
  for (float& x : flat) x -= 40;
  for (const SamplingParams& sampling : kSamplers) {
    ExpectSameDraws(logits, sampling, 500);
    ExpectSameDraws(flat, sampling, 200);
  }
}

TEST_P(Tokens, DrawsAsSampleTokenAmongTies) {
  std::vector<float> logits = Normal(2000, 5, 2);
  for (float& x : logits) x = std::round(x);
  logits[10] = -0.0f;
  for (const SamplingParams& sampling : kSamplers) {
    ExpectSameDraws(logits, sampling, 3000);
  }
}

TEST_P(Tokens, NeverDrawsTokensThatAreImpossible) {
  std::vector<float> logits(300, -kInfinity);
  for (int i = 7; i < 300; i += 10) logits[i] = 0.01f * i;
  for (const SamplingParams& sampling : kSamplers) {
    for (const int32_t token : Draws(logits, sampling, 2000)) {
      ASSERT_EQ(token % 10, 7) << token;
    }
  }
}

TEST_P(Tokens, TenThousandDrawsPassChiSquare) {
  constexpr int kTokens = 50, kDraws = 10000;
  const std::vector<float> logits = Normal(kTokens, 6, 1);
  const SamplingParams sampling = {0.9f, 0, 0, 4711};
  double total = 0;
  for (float x : logits) total += std::exp(x / 0.9);
  std::vector<int> seen(kTokens);
  for (const int32_t token : Draws(logits, sampling, kDraws)) {
    ASSERT_GE(token, 0);
    ASSERT_LT(token, kTokens);
    ++seen[token];
  }
  double chi_square = 0;
  for (int t = 0; t < kTokens; ++t) {
    const double expected = std::exp(logits[t] / 0.9) / total * kDraws;
    chi_square += (seen[t] - expected) * (seen[t] - expected) / expected;
  }
  EXPECT_LT(chi_square, 85.35);  // the 0.999 quantile for 49 degrees
}

TEST_P(Tokens, SampleLeavesOtherRowsAlone) {
  constexpr int64_t kStride = AlignedStride(1000);
  std::vector<SequenceState> states(3);
  states[0].sampling = {1.0f, 1, 0, 5};  // the greatest
  states[1].sampling = {0.0f, 0, 0, 5};
  states[2].sampling = {1.0f, 0, 0, 5};
  states[2].finish = FinishReason::kLength;
  std::vector<float> logits(6 * kStride);
  for (int r = 0; r < 6; ++r) logits[r * kStride + 100 * r + 7] = 1;
  logits[5 * kStride] = kNaN;
  const auto device_logits = Put(logits);
  const auto device_states = Put(states);
  const auto seats = Put<int32_t>({1, 2, -1, 0, 1, 0});
  const auto tokens =
      Put<int32_t>({kMark, kMark, kMark, kMark, kMark, kNoToken});
  backend_->Sample({device_logits.data(), 6, 1000, kStride},
                   device_states.data(), seats.data(), tokens.data());
  EXPECT_EQ(tokens.Read(),
            (std::vector<int32_t>{kMark, kMark, kMark, 307, kMark, kNoToken}));
}

TEST_P(Tokens, SampleOfNothingButMinusInfinityIsTokenZero) {
  for (const SamplingParams& sampling :
       {SamplingParams{1, 0, 0}, SamplingParams{1, 5, 0.5f}}) {
    EXPECT_EQ(Draws(std::vector<float>(100, -kInfinity), sampling, 3),
              std::vector<int32_t>(3, 0));
  }
}

// ---- all of it --------------------------------------------------------------

// Every step of a batch, replayed (on GPUs from a graph).
TEST_P(Tokens, StepsReplay) {
  constexpr int kRows = 3, kColumns = 1000, kSteps = 5;
  const int64_t stride = AlignedStride(kColumns);
  const std::vector<float> logits = Normal(kRows * stride, 8, 2);
  std::vector<SequenceState> states(kRows);
  const auto all_tokens = Poisoned<int32_t>(kRows * 100);
  for (int r = 0; r < kRows; ++r) {
    states[r].tokens = all_tokens.data() + r * 100;
    states[r].max_tokens = kSteps - r;
    states[r].position = 10 * r;
    states[r].sampling = {r == 1 ? 1.0f : 0.0f, 0, 0.9f, 99};
  }
  const auto device_logits = Put(logits);
  const auto device_states = Put(states);
  const auto seats = Put<int32_t>({0, 1, 2});
  const auto inputs = Poisoned<int32_t>(kRows),
             positions = Poisoned<int32_t>(kRows),
             tokens = Poisoned<int32_t>(kRows);
  const auto heads = Poisoned<KvHead*>(kRows);
  const auto best = Poisoned<BestLogit>(kRows);
  const auto results = Poisoned<RowResult>(kRows);
  const Matrix all{device_logits.data(), kRows, kColumns, stride};
  const auto step_once = [&] {
    backend_->BeginDecode(device_states.data(), seats.data(), kRows,
                          inputs.data(), positions.data(), heads.data());
    backend_->ArgMax(all, 0, best.data());
    backend_->PickBest(best.data(), 1, kRows, tokens.data());
    backend_->Sample(all, device_states.data(), seats.data(), tokens.data());
    backend_->Advance(device_states.data(), seats.data(), kRows, tokens.data(),
                      results.data());
    return absl::OkStatus();
  };

  std::vector<double> scratch(2 * kColumns);
  std::vector<int32_t> last(kRows, 0);  // of the step before
  for (int step = 0; step < kSteps; ++step) {
    ASSERT_TRUE(backend_->Replay(1, step_once).ok());
    const std::vector<RowResult> got = results.Read();
    const std::vector<int32_t> began = inputs.Read(), at = positions.Read();
    for (int r = 0; r < kRows; ++r) {
      const absl::Span<const float> row(logits.data() + r * stride, kColumns);
      const bool runs = step < states[r].max_tokens;
      int32_t want = GreatestColumn(row);
      if (r == 1) {
        want =
            SampleToken(row, states[r].sampling, step, absl::MakeSpan(scratch));
      }
      EXPECT_EQ(got[r].token, runs ? want : kNoToken) << step << ", " << r;
      EXPECT_EQ(got[r].finish == FinishReason::kLength,
                step + 1 == states[r].max_tokens)
          << step << ", " << r;
      EXPECT_EQ(began[r], runs ? last[r] : 0) << step << ", " << r;
      EXPECT_EQ(at[r], runs ? 10 * r + step : -1) << step << ", " << r;
      last[r] = want;
    }
  }
}

// Rows whose logits break in the columns of one rank only: greedy and drawn
// ones end, and the sound rows between them get the tokens that they would
// have had alone.
TEST_P(Tokens, ARowThatIsNotFiniteEndsAloneWhicheverRankHasIt) {
  constexpr int kRanks = 3, kColumns = 40, kRows = 6;
  constexpr int64_t kVocabulary = kRanks * kColumns;
  for (const float bad : {kNaN, kInfinity}) {
    for (int rank = 0; rank < kRanks; ++rank) {
      std::vector<std::vector<float>> rows;
      for (int r = 0; r < kRows; ++r) {
        rows.push_back(Normal(kVocabulary, r, 2));
        if (r % 2 == 1) rows[r][rank * kColumns + 13 * r % kColumns] = bad;
      }
      std::vector<BestLogit> of_ranks;
      for (int k = 0; k < kRanks; ++k) {
        std::vector<std::vector<float>> slices;
        for (const std::vector<float>& row : rows) {
          slices.emplace_back(row.begin() + k * kColumns,
                              row.begin() + (k + 1) * kColumns);
        }
        const std::vector<BestLogit> best = ArgMaxOf(slices, k * kColumns);
        of_ranks.insert(of_ranks.end(), best.begin(), best.end());
      }
      std::vector<SequenceState> states(kRows);
      const auto all_tokens = Poisoned<int32_t>(kRows * 10);
      for (int r = 0; r < kRows; ++r) {
        states[r].tokens = all_tokens.data() + r * 10;
        states[r].max_tokens = 9;
        states[r].sampling = {r < 3 ? 0.0f : 1.0f, 0, 0, 5};
      }
      const int64_t stride = AlignedStride(kVocabulary);
      std::vector<float> whole(kRows * stride);
      for (int r = 0; r < kRows; ++r) {
        std::copy(rows[r].begin(), rows[r].end(), whole.begin() + r * stride);
      }
      const auto device_states = Put(states);
      const auto seats = Put<int32_t>({0, 1, 2, 3, 4, 5});
      const auto tokens = Poisoned<int32_t>(kRows);
      const auto results = Poisoned<RowResult>(kRows);
      backend_->PickBest(Put(of_ranks).data(), kRanks, kRows, tokens.data());
      backend_->Sample({Put(whole).data(), kRows, kVocabulary, stride},
                       device_states.data(), seats.data(), tokens.data());
      backend_->Advance(device_states.data(), seats.data(), kRows,
                        tokens.data(), results.data());
      const std::vector<RowResult> got = results.Read();
      std::vector<double> scratch(2 * kVocabulary);
      for (int r = 0; r < kRows; ++r) {
        const bool sound = r % 2 == 0;
        const int32_t want = !sound  ? kNoToken
                             : r < 3 ? GreatestColumn(rows[r])
                                     : SampleToken(rows[r], states[r].sampling,
                                                   0, absl::MakeSpan(scratch));
        EXPECT_EQ(got[r].token, want) << r << " broken in rank " << rank;
        EXPECT_EQ(got[r].finish,
                  sound ? FinishReason::kNone : FinishReason::kNonFinite);
      }
    }
  }
}

}  // namespace
}  // namespace h2o
