// What sampling options change of logits: both twins against the formulas, over
// poisoned memory.
#include <gtest/gtest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/logit_changes.h"
#include "tests/kernels/test_backend.h"

namespace h2o {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kVocabulary = 1003;
constexpr int64_t kStride = AlignedStride(kVocabulary);

// A sequence as the host knows it.
struct Case {
  std::vector<int32_t> prompt, answer;
  std::vector<LogitBias> biases;
  std::vector<int32_t> stops;
  int min_tokens = 0;
  SamplingParams sampling;
};

// The row behind all changes, by the words of the definitions.
std::vector<float> Changed(std::vector<float> row, const Case& c) {
  const SamplingParams& s = c.sampling;
  for (const LogitBias& bias : c.biases) row[bias.token] += bias.bias;
  std::map<int32_t, int> counts;  // of the answer; of the prompt's tokens too
  for (int32_t token : c.prompt) counts.emplace(token, 0);
  for (int32_t token : c.answer) ++counts[token];
  for (const auto& [token, count] : counts) {
    double x = row[token];
    if (s.repetition_penalty > 0) {
      x = x < 0 ? x * s.repetition_penalty : x / s.repetition_penalty;
    }
    x -= double{s.frequency_penalty} * count;
    if (count > 0) x -= s.presence_penalty;
    row[token] = static_cast<float>(std::min<double>(x, FLT_MAX));
  }
  if (static_cast<int>(c.answer.size()) < c.min_tokens) {
    for (int32_t stop : c.stops) row[stop] = -kInfinity;
  }
  return row;
}

std::vector<float> NormalRow(uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 4);
  std::vector<float> row(kVocabulary);
  for (float& x : row) x = normal(random);
  return row;
}

// Sequences on a device, one a row, in another order than their rows.
class Sequences {
 public:
  Sequences(Backend* backend, const std::vector<Case>& cases)
      : size_(static_cast<int>(cases.size())) {
    std::vector<SequenceState> states(size_);
    std::vector<int32_t> seats(size_);
    for (int r = 0; r < size_; ++r) {
      const Case& c = cases[r];
      const int seat = seats[r] = size_ - 1 - r;
      std::vector<int32_t> tokens = c.prompt;
      tokens.insert(tokens.end(), c.answer.begin(), c.answer.end());
      most_tokens_ =
          std::max(most_tokens_, static_cast<int64_t>(tokens.size()));
      SequenceState& state = states[seat];
      state.position = static_cast<int32_t>(tokens.size()) - 1;
      state.num_generated = static_cast<int32_t>(c.answer.size());
      state.max_tokens = 1 << 20;
      state.min_tokens = c.min_tokens;
      state.sampling = c.sampling;
      state.num_biases = static_cast<int32_t>(c.biases.size());
      state.num_stop_tokens = static_cast<int32_t>(c.stops.size());
      std::copy(c.stops.begin(), c.stops.end(), state.stop_tokens);
      tokens_.emplace_back(backend, tokens);
      biases_.emplace_back(backend, c.biases);
      state.tokens = tokens_.back().data();
      state.biases = biases_.back().data();
    }
    states_.emplace_back(backend, states);
    seats_.emplace_back(backend, seats);
    undo_.emplace_back(backend, size_ * UndoStride());
  }

  const SequenceState* states() const { return states_[0].data(); }
  const int32_t* seats() const { return seats_[0].data(); }
  Matrix undo() const {
    return {undo_[0].data(), size_, UndoFloats(most_tokens_), UndoStride()};
  }

 private:
  int64_t UndoStride() const { return AlignedStride(UndoFloats(most_tokens_)); }

  const int size_;
  int64_t most_tokens_ = 0;
  std::vector<OnDevice<int32_t>> tokens_;
  std::vector<OnDevice<LogitBias>> biases_;
  // One each.
  std::vector<OnDevice<SequenceState>> states_;
  std::vector<OnDevice<int32_t>> seats_;
  std::vector<OnDevice<float>> undo_;
};

class Logits : public BackendTest {
 protected:
  // The rows side by side, with zeros behind their columns.
  OnDevice<float> PutRows(const std::vector<std::vector<float>>& rows) const {
    std::vector<float> all(rows.size() * kStride);
    for (size_t r = 0; r < rows.size(); ++r) {
      std::copy(rows[r].begin(), rows[r].end(), all.begin() + r * kStride);
    }
    return OnDevice<float>(backend_.get(), all);
  }
  static Matrix View(const OnDevice<float>& rows, int64_t count) {
    return {rows.data(), count, kVocabulary, kStride};
  }
  OnDevice<int32_t> Put(const std::vector<int32_t>& values) const {
    return OnDevice<int32_t>(backend_.get(), values);
  }
};

INSTANTIATE_TEST_SUITE_P(Backends, Logits,
                         ::testing::ValuesIn(BackendVariants()), VariantName);

// Tokens that repeat, in the prompt, in the answer and in both.
Case RandomCase(std::mt19937* random) {
  const auto number = [random](int most) {
    return static_cast<int>((*random)() % (most + 1));
  };
  const auto token = [&](int most) {
    return std::min(number(most), number(most));
  };
  Case c;
  const int prompt = 1 + number(1500), answer = number(2) * number(600);
  const int most = number(3) == 0 ? 3 : kVocabulary - 1;
  for (int i = 0; i < prompt; ++i) c.prompt.push_back(token(most));
  for (int i = 0; i < answer; ++i) c.answer.push_back(token(most));
  if (number(1) == 0) {
    std::map<int32_t, float> biases;
    for (int i = number(2) * number(400); i >= 0; --i) {
      biases[token(most)] = 0.01f * static_cast<float>(number(20000) - 10000);
    }
    for (const auto& [id, bias] : biases) c.biases.push_back({id, bias});
  }
  const float penalties[] = {0, 0.5f, 1, 1.3f};
  c.sampling.repetition_penalty = penalties[number(3)];
  if (number(1) == 0) c.sampling.frequency_penalty = 0.3f;
  if (number(1) == 0) c.sampling.presence_penalty = -0.7f;
  for (int i = number(kMaxStopTokens); i > 0; --i) c.stops.push_back(token(20));
  c.min_tokens = number(1) * (answer + number(2));
  return c;
}

TEST_P(Logits, ChangeByTheFormulasAndComeBack) {
  std::mt19937 random(1);
  std::vector<Case> cases;
  std::vector<std::vector<float>> rows;
  for (int r = 0; r < 60; ++r) {
    cases.push_back(RandomCase(&random));
    rows.push_back(NormalRow(r));
    rows.back()[5] = -kInfinity;
    rows.back()[6] = 0;
  }
  const Sequences sequences(backend_.get(), cases);
  const OnDevice<float> logits = PutRows(rows);
  const std::vector<float> before = logits.Read();
  const auto tokens = Put(std::vector<int32_t>(cases.size(), 9));
  const Matrix view = View(logits, cases.size());
  backend_->ChangeLogits(view, sequences.states(), sequences.seats(),
                         tokens.data(), sequences.undo());
  const std::vector<float> after = logits.Read();
  for (size_t r = 0; r < cases.size(); ++r) {
    const std::vector<float> want = Changed(rows[r], cases[r]);
    for (int i = 0; i < kVocabulary; ++i) {
      ASSERT_FLOAT_EQ(after[r * kStride + i], want[i]) << r << ", token " << i;
    }
    for (int64_t i = kVocabulary; i < kStride; ++i) {
      ASSERT_EQ(after[r * kStride + i], 0);
    }
  }
  backend_->RestoreLogits(view, sequences.states(), sequences.seats(),
                          tokens.data(), sequences.undo());
  const std::vector<float> again = logits.Read();
  EXPECT_EQ(
      std::memcmp(again.data(), before.data(), before.size() * sizeof(float)),
      0);
}

TEST_P(Logits, OfRowsWithoutOptionsOrTokensStay) {
  std::vector<Case> cases(4, Case{.prompt = {1, 2, 3}, .answer = {2}});
  cases[0].sampling.repetition_penalty = 1;
  cases[1].min_tokens = 1;  // it has one
  cases[1].stops = {7};
  cases[2].sampling.repetition_penalty = 2;  // but no token: not finite
  cases[3].sampling.repetition_penalty = 2;  // but its row is nobody's
  const Sequences sequences(backend_.get(), cases);
  const std::vector<float> row = NormalRow(3);
  const OnDevice<float> logits = PutRows({row, row, row, row});
  const std::vector<float> before = logits.Read();
  backend_->ChangeLogits(View(logits, 4), sequences.states(),
                         Put({3, 2, 1, -1}).data(),
                         Put({9, 9, kNoToken, 9}).data(), sequences.undo());
  EXPECT_EQ(logits.Read(), before);
}

// What is changed beyond the range of float32 stays a logit.
TEST_P(Logits, NeverChangeToInfinity) {
  Case c{.prompt = {1, 2}, .biases = {{3, 100}}};
  c.sampling.repetition_penalty = 1e-30f;
  const Sequences sequences(backend_.get(), {c});
  std::vector<float> row(kVocabulary, 0);
  row[1] = 1e20f;
  row[2] = -1e20f;
  row[3] = FLT_MAX;
  const OnDevice<float> logits = PutRows({row});
  backend_->ChangeLogits(View(logits, 1), sequences.states(), sequences.seats(),
                         Put({1}).data(), sequences.undo());
  const std::vector<float> after = logits.Read();
  EXPECT_EQ(after[1], FLT_MAX);
  EXPECT_NEAR(after[2], -1e-10, 1e-12);
  EXPECT_EQ(after[3], FLT_MAX);
}

// Without a temperature the greatest changed logit wins, of equal ones the
// lowest token; rows without changes keep what PickBest says.
TEST_P(Logits, ChangedRowsAreChosenFromAgain) {
  std::vector<Case> cases(5, Case{.prompt = {1}});
  cases[0].biases = {{40, 7.5f}};
  cases[1].biases = {{900, 5}, {30, 3}};  // as great as 10
  cases[2].stops = {10, 20};
  cases[2].min_tokens = 1;
  cases[3].answer = {10, 10};
  cases[3].sampling.frequency_penalty = 2;
  std::vector<float> row(kVocabulary, -1);
  row[10] = 5;
  row[20] = 3;
  row[30] = 2;
  row[900] = 0;
  const std::vector<std::vector<float>> rows(5, row);
  const Sequences sequences(backend_.get(), cases);
  const OnDevice<float> logits = PutRows(rows);
  const auto tokens = Put(std::vector<int32_t>{10, 10, 10, 10, 77});
  backend_->ChangeLogits(View(logits, 5), sequences.states(), sequences.seats(),
                         tokens.data(), sequences.undo());
  backend_->Sample(View(logits, 5), sequences.states(), sequences.seats(),
                   tokens.data());
  EXPECT_EQ(tokens.Read(), (std::vector<int32_t>{40, 10, 30, 20, 77}));
}

TEST_P(Logits, RowsWithNothingLeftGetTokenZero) {
  Case c{.prompt = {1}, .stops = {3, 4}, .min_tokens = 2};
  std::vector<float> row(kVocabulary, -kInfinity);
  row[3] = row[4] = 1;
  const Sequences sequences(backend_.get(), {c});
  const OnDevice<float> logits = PutRows({row});
  const auto tokens = Put(std::vector<int32_t>{3});
  backend_->ChangeLogits(View(logits, 1), sequences.states(), sequences.seats(),
                         tokens.data(), sequences.undo());
  backend_->Sample(View(logits, 1), sequences.states(), sequences.seats(),
                   tokens.data());
  EXPECT_EQ(tokens.Read()[0], 0);
}

// Draws from changed rows have the probabilities of the changed logits.
TEST_P(Logits, TenThousandDrawsOfChangedRowsPassChiSquare) {
  constexpr int kDraws = 10000, kTokens = 40;
  Case c{.prompt = {1, 2, 3, 3}, .answer = {5, 5, 6, 2}, .stops = {8}};
  c.biases = {{7, 2}, {9, -100}};
  c.min_tokens = 5;
  c.sampling = {.temperature = 0.8f,
                .repetition_penalty = 1.2f,
                .frequency_penalty = 0.4f,
                .presence_penalty = 0.3f};
  std::vector<float> row(kVocabulary, -kInfinity);
  std::copy_n(NormalRow(9).begin(), kTokens, row.begin());
  for (int i = 0; i < kTokens; ++i) row[i] *= 0.25f;
  const std::vector<float> changed = Changed(row, c);
  double total = 0;
  for (float x : changed) total += std::exp(x / 0.8);

  constexpr int kRows = 500;  // at once
  std::vector<int> seen(kVocabulary);
  const Sequences one(backend_.get(), {c});
  const OnDevice<float> logits = PutRows(std::vector<std::vector<float>>{row});
  const auto best = Put(std::vector<int32_t>{7});
  backend_->ChangeLogits(View(logits, 1), one.states(), one.seats(),
                         best.data(), one.undo());
  for (int first = 0; first < kDraws; first += kRows) {
    std::vector<Case> cases(kRows, c);
    for (int i = 0; i < kRows; ++i) cases[i].sampling.seed = first + i;
    const Sequences sequences(backend_.get(), cases);
    const auto tokens = Put(std::vector<int32_t>(kRows, 7));
    backend_->Sample({logits.data(), kRows, kVocabulary, /*stride=*/0},
                     sequences.states(), sequences.seats(), tokens.data());
    for (int32_t token : tokens.Read()) ++seen[token];
  }
  double chi_square = 0;
  int cells = 0;
  for (int i = 0; i < kVocabulary; ++i) {
    const double expected = std::exp(changed[i] / 0.8) / total * kDraws;
    EXPECT_TRUE(expected > 0 || seen[i] == 0) << i;
    if (expected < 5) continue;
    ++cells;
    chi_square += (seen[i] - expected) * (seen[i] - expected) / expected;
  }
  EXPECT_GT(cells, 30);
  EXPECT_EQ(seen[8], 0);
  EXPECT_LT(chi_square, 72);  // the 0.999 quantile for 39 degrees
}

// ---- logprobs ---------------------------------------------------------------

// By the words of the definition, in float64.
std::vector<double> LogprobsOf(const std::vector<float>& row) {
  double total = 0;
  for (float x : row) total += std::exp(double{x});
  std::vector<double> logprobs;
  for (float x : row) logprobs.push_back(x - std::log(total));
  return logprobs;
}

void ExpectLogprobs(const LogprobRow& got, const std::vector<float>& row,
                    int32_t token, int top) {
  const std::vector<double> want = LogprobsOf(row);
  const auto same = [&](const TokenLogprob& t) {
    if (std::isinf(want[t.token])) return t.logprob == -kInfinity;
    return std::abs(t.logprob - want[t.token]) <
           1e-5 * std::max(1.0, std::abs(want[t.token]));
  };
  EXPECT_EQ(got.chosen.token, token);
  EXPECT_TRUE(same(got.chosen)) << got.chosen.logprob;
  std::vector<int32_t> order(row.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return row[a] > row[b]; });
  ASSERT_EQ(got.num_top, std::min(top, static_cast<int>(row.size())));
  for (int i = 0; i < got.num_top; ++i) {
    EXPECT_EQ(got.top[i].token, order[i]) << i;
    EXPECT_TRUE(same(got.top[i])) << i << ": " << got.top[i].logprob;
  }
}

TEST_P(Logits, LogprobsOfRowsThatWantThem) {
  std::vector<Case> cases(6, Case{.prompt = {1}});
  const Sequences sequences(backend_.get(), cases);
  const std::vector<int> tops = {0, 5, kMostTopLogprobs, -1, 3, 1};
  std::vector<SequenceState> states(6);
  std::vector<int32_t> seats = {5, 4, 3, 2, -1, 0};
  std::vector<RowResult> results(6);
  std::vector<std::vector<float>> rows;
  for (int r = 0; r < 6; ++r) {
    if (seats[r] >= 0) states[seats[r]].top_logprobs = tops[r];
    if (seats[r] >= 0) results[r] = {17 * r, FinishReason::kNone};
    rows.push_back(NormalRow(r));
  }
  results[5] = {kNoToken, FinishReason::kNonFinite};
  for (float& x : rows[1]) x = std::round(x);  // ties
  rows[2].assign(kVocabulary, -kInfinity);     // fewer than are asked for
  for (int i = 0; i < 9; ++i) rows[2][34 + i] = 80;
  const OnDevice<float> logits = PutRows(rows);
  OnDevice<LogprobRow> out(backend_.get(), 6);
  backend_->Logprobs(
      View(logits, 6), OnDevice<SequenceState>(backend_.get(), states).data(),
      Put(seats).data(), OnDevice<RowResult>(backend_.get(), results).data(),
      out.data());
  const std::vector<LogprobRow> got = out.Read();
  for (int r = 0; r < 3; ++r) ExpectLogprobs(got[r], rows[r], 17 * r, tops[r]);
  for (int r = 3; r < 6; ++r) EXPECT_EQ(got[r].chosen.token, kNoToken) << r;
}

TEST_P(Logits, LogprobsOfPromptsAndSmallVocabularies) {
  for (const int columns : {1, 2, 7, 40, kVocabulary}) {
    std::vector<std::vector<float>> rows;
    std::vector<int32_t> tokens;
    for (int r = 0; r < 70; ++r) {
      std::vector<float> row = NormalRow(r);
      row.resize(columns);
      row[r % columns] = -kInfinity;
      if (columns == 1) row[0] = 3;
      rows.push_back(row);
      tokens.push_back(r * 31 % columns);
    }
    const OnDevice<float> logits = PutRows(rows);
    for (const int top : {0, 2, kMostTopLogprobs}) {
      OnDevice<LogprobRow> out(backend_.get(), 70);
      backend_->PromptLogprobs({logits.data(), 70, columns, kStride},
                               Put(tokens).data(), top, out.data());
      const std::vector<LogprobRow> got = out.Read();
      for (int r = 0; r < 70; ++r) {
        ExpectLogprobs(got[r], rows[r], tokens[r], top);
      }
    }
  }
}

TEST_P(Logits, LogprobsOfRowsThatAreNotFiniteAreNaN) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), kInfinity}) {
    std::vector<float> row = NormalRow(1);
    row[500] = bad;
    OnDevice<LogprobRow> out(backend_.get(), 1);
    backend_->PromptLogprobs(View(PutRows({row}), 1), Put({3}).data(), 4,
                             out.data());
    EXPECT_TRUE(std::isnan(out.Read()[0].chosen.logprob));
  }
}

}  // namespace
}  // namespace h2o
