// Decode attention against float64, head by head and step by step: outputs,
// scores, victims, and that nothing else in the pool was touched.
#include "kernels/cuda/decode_attention.h"

#include <cuda_runtime.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "base/head_dim.h"
#include "kernels/cuda/kernels.h"
#include "tests/kernels/cuda/device_array.h"

namespace h2o::cuda {

namespace {

using Launcher = std::function<cudaError_t(const DecodeAttentionArgs&)>;

Launcher As(const DecodeAttentionShape& shape) {
  return [shape](const DecodeAttentionArgs& args) {
    return DecodeAttentionAs(args, shape, nullptr);
  };
}
cudaError_t Chosen(const DecodeAttentionArgs& args) {
  return DecodeAttention(args, nullptr);
}

std::string Describe(const DecodeAttentionShape& shape) {
  return "split " + std::to_string(shape.split) + " stages " +
         std::to_string(shape.stages);
}

// Short rings too, so that every stage is used many times over.
using Shapes = std::vector<DecodeAttentionShape>;
Shapes BlockShapes() { return {{}, {.stages = 2}, {.stages = 3}}; }
// Only sm_90 and later split.
Shapes ClusterShapes() {
  int device = 0, major = 0;
  CheckCuda(cudaGetDevice(&device));
  CheckCuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor,
                                   device));
  if (major < 9) return {};
  return {{.split = 2}, {.split = 4, .stages = 2}, {.split = 8}};
}
Shapes AllShapes() {
  Shapes shapes = BlockShapes();
  const Shapes clusters = ClusterShapes();
  shapes.insert(shapes.end(), clusters.begin(), clusters.end());
  return shapes;
}

KvSlots H2o(int capacity) {
  return {0, capacity / 2, capacity - capacity / 2, capacity - capacity / 2,
          ScoreRule::kSum};
}
KvSlots Recent(int capacity) { return {0, 0, capacity, capacity}; }
KvSlots Full(int capacity) { return Recent(capacity); }
KvSlots Sink(int capacity) {
  const int sinks = std::min(4, capacity - 1);
  return {sinks, 0, capacity - sinks, capacity - sinks};
}

// One head in float64, by the words of the rule.
struct Token {
  std::vector<uint16_t> k, v;
  int position = 0;
  double score = 0;
};
class ReferenceHead {
 public:
  ReferenceHead(const KvSlots& slots, DType dtype)
      : slots_(slots), dtype_(dtype) {}

  // Attends what is stored and `token` itself; adds to the scores.
  std::vector<double> Attend(const std::vector<float>& q, Token* token) {
    std::vector<Token*> over;
    for (Token& t : stored) over.push_back(&t);
    over.push_back(token);
    std::vector<double> p;
    double sum = 0;
    for (const Token* t : over) {
      const std::vector<float> k = Widen(t->k, dtype_);
      double dot = 0;
      for (size_t i = 0; i < q.size(); ++i) dot += double{q[i]} * k[i];
      p.push_back(std::exp(dot / std::sqrt(double(q.size()))));
      sum += p.back();
    }
    std::vector<double> out(q.size());
    for (size_t j = 0; j < over.size(); ++j) {
      const std::vector<float> v = Widen(over[j]->v, dtype_);
      for (size_t i = 0; i < q.size(); ++i) out[i] += p[j] / sum * v[i];
      if (slots_.score_rule == ScoreRule::kSum) over[j]->score += p[j] / sum;
    }
    return out;
  }

  // Stores `token`; `evicted` is the position that the kernel gave up for it.
  void Store(const Token& token, int evicted) {
    if (static_cast<int>(stored.size()) < slots_.Capacity()) {
      ASSERT_EQ(evicted, -1);
      stored.push_back(token);
      return;
    }
    const Token* least = nullptr;
    Token* chosen = nullptr;
    for (Token& t : stored) {
      if (t.position < slots_.sinks ||
          t.position >= token.position - slots_.recent + 1) {
        ASSERT_NE(t.position, evicted) << "is not to be given up";
        continue;
      }
      if (t.position == evicted) chosen = &t;
      if (least == nullptr || t.score < least->score ||
          (t.score == least->score && t.position > least->position)) {
        least = &t;
      }
    }
    ASSERT_NE(chosen, nullptr) << evicted << " was not there";
    if (chosen != least) {
      // Sums in another order: go on from the kernel's choice.
      ASSERT_LE(chosen->score, least->score * (1 + 1e-4) + 1e-7)
          << "gave up " << chosen->position << " for " << least->position;
      ++near_ties;
    }
    mass -= chosen->score;
    *chosen = token;
  }

  const KvSlots& slots() const { return slots_; }

  std::vector<Token> stored;  // in the order of the slots
  double mass = 0;            // what the scores stored should sum to
  int near_ties = 0;

 private:
  KvSlots slots_;
  DType dtype_;
};

// A sequence at `position`, or a row that does not run (-1).
struct Row {
  int position = -1;
  std::vector<KvSlots> heads;
};

// Rows of sequences whose pages are scattered through a poisoned pool.
class Batch {
 public:
  static constexpr int kLayers = 2, kLayer = 1;

  Batch(int head_dim, DType dtype, std::vector<Row> rows, int max_steps)
      : d_(head_dim),
        dtype_(dtype),
        rows_(std::move(rows)),
        num_heads_(static_cast<int>(rows_[0].heads.size())),
        layout_{head_dim, {dtype}},
        random_(head_dim * 7 + static_cast<int>(dtype)) {
    MakeReference();
    MakePages(max_steps);
    qkv_stride_ = 3 * num_heads_ * d_ + 8;
    out_stride_ = num_heads_ * d_ + 24;
  }

  // One token of every row through `launch` and through the reference.
  void Step(const Launcher& launch, bool scored = true) {
    const int count = static_cast<int>(rows_.size());
    std::vector<float> qkv(count * qkv_stride_);
    std::normal_distribution<float> normal;
    for (float& x : qkv) x = normal(random_);
    const std::vector<uint16_t> bits = Narrow(qkv, dtype_);
    const DeviceArray<uint16_t> device_qkv(bits);
    const DeviceArray<uint16_t> out(count * out_stride_);
    const DeviceArray<int32_t> evicted(count * num_heads_);
    std::vector<int32_t> positions;
    for (const Row& row : rows_) positions.push_back(row.position);
    const DeviceArray<int32_t> device_positions(positions);

    DecodeAttentionArgs args;
    args.qkv = device_qkv.data();
    args.qkv_stride = qkv_stride_;
    args.out = out.data();
    args.out_stride = out_stride_;
    args.heads = row_heads_->data();
    args.positions = device_positions.data();
    args.evicted = evicted.data();
    args.pool = pool();
    args.dtype = dtype_;
    args.rows = count;
    args.num_heads = num_heads_;
    args.layer = kLayer;
    args.max_slots = MaxSlots();
    args.scored = scored;
    CheckCuda(launch(args));
    out_ = out.Read();
    evicted_ = evicted.Read();
    ExpectPoisonBehind(num_heads_ * d_, out_stride_, out_);
    for (int r = 0; r < count; ++r) {
      for (int h = 0; h < num_heads_; ++h) {
        SCOPED_TRACE(::testing::Message() << "row " << r << " head " << h
                                          << " position " << rows_[r].position);
        CheckHead(r, h, bits);
        if (::testing::Test::HasFatalFailure()) return;
      }
      if (rows_[r].position >= 0) ++rows_[r].position;
    }
  }

  // Every byte of the pool, and what the heads say they store.
  void CheckPool() {
    const std::vector<uint8_t> got = pool_->Read();
    const std::vector<KvHead> heads = heads_->Read();
    std::vector<uint8_t> want(got.size(), 0xff);
    for (size_t i = 0; i < references_.size(); ++i) {
      const ReferenceHead& reference = references_[i];
      ASSERT_EQ(heads[HeadIndex(i)].num_slots, Stored(i));
      double mass = 0;
      for (int slot = 0; slot < Stored(i); ++slot) {
        const Token& token = reference.stored[slot];
        SCOPED_TRACE(::testing::Message()
                     << "head " << i << " slot " << slot << " of " << Stored(i)
                     << " position " << token.position);
        PutToken(i, slot, token, want.data());
        // The kernel's score may differ; what it is decides of the mass.
        uint8_t* of_got = const_cast<uint8_t*>(got.data());
        float& score = ScoreAt(i, slot, of_got);
        ASSERT_NEAR(score, token.score, 1e-4 * token.score + 1e-6);
        mass += score;
        ScoreAt(i, slot, want.data()) = score;
      }
      ASSERT_NEAR(mass, reference.mass, 1e-4 * reference.mass + 1e-5);
    }
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_EQ(got[i], want[i]) << "page " << i / layout_.PageBytes()
                                 << " byte " << i % layout_.PageBytes();
    }
  }

  const std::vector<uint16_t>& out() const { return out_; }
  const std::vector<int32_t>& evicted() const { return evicted_; }
  int near_ties() const {
    int sum = 0;
    for (const ReferenceHead& r : references_) sum += r.near_ties;
    return sum;
  }

  // What StoredPositions should find.
  std::vector<std::vector<uint16_t>> Positions() const {
    std::vector<std::vector<uint16_t>> all;
    for (const ReferenceHead& reference : references_) {
      all.emplace_back();
      for (const Token& t : reference.stored) all.back().push_back(t.position);
    }
    return all;
  }
  const KvHead* DeviceHeads(int row) const {
    return heads_->data() + (row * kLayers + kLayer) * num_heads_;
  }
  KvPool pool() const {
    return {reinterpret_cast<std::byte*>(pool_->data()), tables_->data(), d_};
  }

 private:
  std::vector<uint16_t> RandomRow() {
    std::normal_distribution<float> normal;
    std::vector<float> x(d_);
    for (float& e : x) e = normal(random_);
    return Narrow(x, dtype_);
  }

  // What a sequence at its position stores by its policy, in any order.
  void MakeReference() {
    for (const Row& row : rows_) {
      for (const KvSlots& slots : row.heads) {
        ReferenceHead reference(slots, dtype_);
        const int t = std::max(row.position, 0), c = slots.Capacity();
        std::vector<int> kept;
        if (t <= c) {
          kept.resize(t);
          std::iota(kept.begin(), kept.end(), 0);
        } else {
          std::vector<int> middle(t - slots.recent - slots.sinks);
          std::iota(middle.begin(), middle.end(), slots.sinks);
          std::shuffle(middle.begin(), middle.end(), random_);
          kept.assign(middle.begin(), middle.begin() + slots.heavy);
          for (int i = 0; i < slots.sinks; ++i) kept.push_back(i);
          for (int i = t - slots.recent; i < t; ++i) kept.push_back(i);
        }
        std::shuffle(kept.begin(), kept.end(), random_);
        std::uniform_real_distribution<float> score(0, 3);
        for (int position : kept) {
          Token token{RandomRow(), RandomRow(), position, 0};
          if (slots.score_rule == ScoreRule::kSum) token.score = score(random_);
          reference.mass += token.score;
          reference.stored.push_back(token);
        }
        references_.push_back(std::move(reference));
      }
    }
  }

  void MakePages(int max_steps) {
    pages_.resize(references_.size());
    int count = 0;
    for (size_t i = 0; i < references_.size(); ++i) {
      const int most =
          std::min(references_[i].slots().Capacity(), Stored(i) + max_steps);
      pages_[i].resize(CeilDiv(most, kPageSlots));
      count += static_cast<int>(pages_[i].size());
    }
    const int of_pool = count + 5;
    std::vector<int32_t> order(of_pool);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random_);
    std::vector<uint32_t> tables, starts;
    for (auto& pages : pages_) {
      starts.push_back(static_cast<uint32_t>(tables.size()));
      for (int32_t& page : pages) {
        page = order.back();
        order.pop_back();
        tables.push_back(page * layout_.PageBytes() / kLineBytes);
      }
    }
    tables_ = std::make_unique<DeviceArray<uint32_t>>(tables);
    std::vector<uint8_t> pool(of_pool * layout_.PageBytes(), 0xff);
    std::vector<KvHead> heads(rows_.size() * kLayers * num_heads_);
    for (size_t i = 0; i < references_.size(); ++i) {
      for (int slot = 0; slot < Stored(i); ++slot) {
        PutToken(i, slot, references_[i].stored[slot], pool.data());
      }
      heads[HeadIndex(i)] = {starts[i], layout_.format, references_[i].slots(),
                             Stored(i)};
    }
    pool_ = std::make_unique<DeviceArray<uint8_t>>(pool);
    heads_ = std::make_unique<DeviceArray<KvHead>>(heads);
    std::vector<KvHead*> of_rows;
    for (size_t r = 0; r < rows_.size(); ++r) {
      of_rows.push_back(rows_[r].position < 0
                            ? nullptr
                            : heads_->data() + r * kLayers * num_heads_);
    }
    row_heads_ = std::make_unique<DeviceArray<KvHead*>>(of_rows);
  }

  int Stored(size_t i) const {
    return static_cast<int>(references_[i].stored.size());
  }
  int MaxSlots() const {
    int most = 0;
    for (size_t i = 0; i < references_.size(); ++i) {
      most = std::max(most, Stored(i));
    }
    return most;
  }
  size_t HeadIndex(size_t i) const {
    return (i / num_heads_ * kLayers + kLayer) * num_heads_ + i % num_heads_;
  }

  uint8_t* PageAt(size_t i, int slot, uint8_t* pool) const {
    return pool + pages_[i][slot / kPageSlots] * layout_.PageBytes();
  }
  float& ScoreAt(size_t i, int slot, uint8_t* pool) const {
    return reinterpret_cast<float*>(PageAt(i, slot, pool) +
                                    layout_.ScoresOffset())[slot % kPageSlots];
  }
  void PutToken(size_t i, int slot, const Token& token, uint8_t* pool) const {
    uint8_t* page = PageAt(i, slot, pool);
    const int at = slot % kPageSlots, bytes = 2 * d_;
    std::memcpy(page + layout_.KeysOffset() + at * bytes, token.k.data(),
                bytes);
    std::memcpy(page + layout_.ValuesOffset() + at * bytes, token.v.data(),
                bytes);
    ScoreAt(i, slot, pool) = static_cast<float>(token.score);
    reinterpret_cast<uint16_t*>(page + layout_.PositionsOffset())[at] =
        static_cast<uint16_t>(token.position);
  }

  void CheckHead(int r, int h, const std::vector<uint16_t>& qkv) {
    const auto part = [&](int which) {
      const auto begin =
          qkv.begin() + r * qkv_stride_ + (which * num_heads_ + h) * d_;
      return std::vector<uint16_t>(begin, begin + d_);
    };
    const uint16_t* got = out_.data() + r * out_stride_ + h * d_;
    const int32_t evicted = evicted_[r * num_heads_ + h];
    if (rows_[r].position < 0) {
      for (int i = 0; i < d_; ++i) ASSERT_EQ(got[i], 0);
      ASSERT_EQ(evicted, -1);
      return;
    }
    ReferenceHead& reference = references_[r * num_heads_ + h];
    Token token{part(1), part(2), rows_[r].position, 0};
    const std::vector<double> want =
        reference.Attend(Widen(part(0), dtype_), &token);
    for (int i = 0; i < d_; ++i) {
      ASSERT_NEAR(LoadElement(got, dtype_, i), want[i],
                  std::abs(want[i]) * HalfUlp(dtype_) + 1e-5)
          << "channel " << i;
    }
    if (reference.slots().score_rule == ScoreRule::kSum) reference.mass += 1;
    reference.Store(token, evicted);
  }

  const int d_;
  const DType dtype_;
  std::vector<Row> rows_;
  const int num_heads_;
  const KvPageLayout layout_;
  std::mt19937 random_;
  std::vector<ReferenceHead> references_;    // [rows][heads], of kLayer
  std::vector<std::vector<int32_t>> pages_;  // likewise
  int qkv_stride_ = 0, out_stride_ = 0;
  std::unique_ptr<DeviceArray<uint32_t>> tables_;
  std::unique_ptr<DeviceArray<uint8_t>> pool_;
  std::unique_ptr<DeviceArray<KvHead>> heads_;
  std::unique_ptr<DeviceArray<KvHead*>> row_heads_;
  std::vector<uint16_t> out_;
  std::vector<int32_t> evicted_;
};

void RunSteps(Batch* batch, const Launcher& launch, int steps,
              bool scored = true) {
  for (int i = 0; i < steps; ++i) {
    batch->Step(launch, scored);
    if (::testing::Test::HasFatalFailure()) return;
  }
  batch->CheckPool();
}

class DecodeAttentionTest
    : public ::testing::TestWithParam<std::tuple<int, DType>> {
 protected:
  void SetUp() override { H2O_SKIP_WITHOUT_GPU(); }
  int head_dim() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
};

// In shapes that are blocks or, apart from these, clusters of blocks.
class DecodeAttentionInShapes
    : public ::testing::TestWithParam<std::tuple<int, DType, bool>> {
 protected:
  void SetUp() override { H2O_SKIP_WITHOUT_GPU(); }
  int head_dim() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
  Shapes shapes() const {
    return std::get<2>(GetParam()) ? ClusterShapes() : BlockShapes();
  }

  // Runs the case in every shape, each from the start.
  void ForEachShape(const std::vector<Row>& rows, int steps,
                    bool scored = true) {
    for (const DecodeAttentionShape& shape : shapes()) {
      SCOPED_TRACE(Describe(shape));
      Batch batch(head_dim(), dtype(), rows, steps);
      RunSteps(&batch, As(shape), steps, scored);
      if (HasFatalFailure()) return;
    }
  }
};

// Every policy and odd budgets in one launch, from the first token on, beside
// rows that do not run.
TEST_P(DecodeAttentionInShapes, MixedPoliciesFromTheFirstToken) {
  ForEachShape(
      {{0, {H2o(1), H2o(2), H2o(16), H2o(31)}},
       {-1, {H2o(1), H2o(2), H2o(16), H2o(31)}},
       {0, {H2o(32), H2o(33), Sink(33), Recent(32)}},
       {0, {Full(80), Sink(1), Recent(1), {2, 10, 5, 5, ScoreRule::kSum}}},
       {-1, {Full(1), Full(1), Full(1), Full(1)}}},
      70);
}

// Long heads around the edges of pages, stages and splits.
TEST_P(DecodeAttentionInShapes, LongHeads) {
  ForEachShape(
      {{500, {H2o(82), H2o(205), H2o(410)}},
       {63, {H2o(64), H2o(63), Full(66)}},
       {700, {Sink(96), Recent(129), {3, 100, 60, 60, ScoreRule::kSum}}},
       {255, {Full(300), H2o(300), H2o(256)}}},
      4);
}

TEST_P(DecodeAttentionInShapes, VeryLongHeads) {
  ForEachShape({{1200, {H2o(1100), Full(1300)}},
                {2047, {H2o(2048), H2o(2047)}},
                {1, {H2o(2048), Full(2048)}}},
               2);
}

// Slots reused many times over.
TEST_P(DecodeAttentionTest, ManySteps) {
  Batch batch(head_dim(), dtype(),
              {{0, {H2o(82), H2o(40), {0, 19, 20, 19, ScoreRule::kSum}}},
               {100, {H2o(96), {4, 50, 1, 1, ScoreRule::kSum}, H2o(33)}}},
              500);
  RunSteps(&batch, Chosen, 500);
  RecordProperty("near_ties", batch.near_ties());
}

// Without scores: only heads that keep none and have room.
TEST_P(DecodeAttentionInShapes, NotScored) {
  ForEachShape({{0, {Full(50), Full(50)}},
                {-1, {Full(50), Full(50)}},
                {333, {Full(400), Full(1000)}}},
               40, /*scored=*/false);
}

// The same victims, and outputs that differ by rounding alone.
TEST_P(DecodeAttentionTest, ShapesAgree) {
  const std::vector<Row> rows = {{600, {H2o(410), Full(700)}},
                                 {900, {H2o(640), Sink(200)}}};
  std::vector<std::vector<float>> outs;
  std::vector<std::vector<int32_t>> evicted;
  const Shapes shapes = AllShapes();
  for (const DecodeAttentionShape& shape : shapes) {
    Batch batch(head_dim(), dtype(), rows, 1);
    batch.Step(As(shape));
    if (HasFatalFailure()) return;
    outs.push_back(Widen(batch.out(), dtype()));
    evicted.push_back(batch.evicted());
  }
  for (size_t i = 1; i < outs.size(); ++i) {
    SCOPED_TRACE(Describe(shapes[i]));
    ASSERT_EQ(evicted[i], evicted[0]);
    for (size_t j = 0; j < outs[0].size(); ++j) {
      if (std::isnan(outs[0][j])) continue;  // between the rows
      ASSERT_NEAR(outs[i][j], outs[0][j],
                  std::abs(outs[0][j]) * 2 * HalfUlp(dtype()) + 1e-5);
    }
  }
}

// The order of the sums depends on the shape alone.
TEST_P(DecodeAttentionInShapes, TwiceTheSame) {
  for (const DecodeAttentionShape& shape : shapes()) {
    SCOPED_TRACE(Describe(shape));
    const std::vector<Row> rows = {{600, {H2o(410), Full(700)}}};
    Batch one(head_dim(), dtype(), rows, 3), two(head_dim(), dtype(), rows, 3);
    for (int i = 0; i < 3; ++i) {
      one.Step(As(shape));
      two.Step(As(shape));
      if (HasFatalFailure()) return;
      ASSERT_EQ(one.out(), two.out());
      ASSERT_EQ(one.evicted(), two.evicted());
    }
  }
}

// In a graph, right behind the kernel that writes q, k and v: the ring is
// filled before that one is done, q, k and v are read after.
TEST_P(DecodeAttentionTest, BehindAKernelInAGraph) {
  const Launcher in_graph = [](const DecodeAttentionArgs& args) {
    const int columns = 3 * args.num_heads * args.pool.head_dim;
    std::vector<int32_t> rows(args.rows);
    std::iota(rows.begin(), rows.end(), 0);
    const DeviceArray<int32_t> rows_of(rows);
    const DeviceArray<uint16_t> qkv(args.rows * args.qkv_stride);
    DecodeAttentionArgs late = args;
    late.qkv = qkv.data();
    Recording([&](cudaStream_t stream) {
      CheckCuda(GatherRows(args.qkv, args.qkv_stride, rows_of.data(), args.rows,
                           columns, args.dtype, qkv.data(), args.qkv_stride,
                           stream));
      CheckCuda(DecodeAttention(late, stream));
    }).Replay();
    return cudaSuccess;
  };
  Batch batch(head_dim(), dtype(),
              {{300, {H2o(200), Full(400)}}, {-1, {H2o(2), H2o(2)}}}, 5);
  RunSteps(&batch, in_graph, 5);
}

TEST_P(DecodeAttentionTest, StoredPositions) {
  constexpr int kStride = 500, kHeads = 3;
  Batch batch(head_dim(), dtype(), {{600, {H2o(410), Full(700), Sink(31)}}}, 1);
  const DeviceArray<uint16_t> out(kHeads * 700);
  const auto want = batch.Positions();
  CheckCuda(StoredPositions(batch.DeviceHeads(0), 1, batch.pool(), kStride,
                            out.data(), nullptr));
  std::vector<uint16_t> got = out.Read();
  EXPECT_TRUE(std::equal(want[0].begin(), want[0].end(), got.begin()));
  EXPECT_EQ(got[want[0].size()], 0xffff);
  CheckCuda(StoredPositions(batch.DeviceHeads(0), kHeads, batch.pool(), 700,
                            out.data(), nullptr));
  got = out.Read();
  for (int h = 0; h < kHeads; ++h) {
    EXPECT_TRUE(
        std::equal(want[h].begin(), want[h].end(), got.begin() + h * 700));
    if (want[h].size() < 700) {
      EXPECT_EQ(got[h * 700 + want[h].size()], 0xffff);
    }
  }
}

constexpr DType kDTypes[] = {DType::kBFloat16, DType::kFloat16};

std::string NameOf(int head_dim, DType dtype) {
  return std::string(Name(dtype)) + std::to_string(head_dim);
}
INSTANTIATE_TEST_SUITE_P(All, DecodeAttentionTest,
                         ::testing::Combine(::testing::ValuesIn(kCudaHeadDims),
                                            ::testing::ValuesIn(kDTypes)),
                         [](const auto& info) {
                           return NameOf(std::get<0>(info.param),
                                         std::get<1>(info.param));
                         });
INSTANTIATE_TEST_SUITE_P(All, DecodeAttentionInShapes,
                         ::testing::Combine(::testing::ValuesIn(kCudaHeadDims),
                                            ::testing::ValuesIn(kDTypes),
                                            ::testing::Bool()),
                         [](const auto& info) {
                           return NameOf(std::get<0>(info.param),
                                         std::get<1>(info.param)) +
                                  (std::get<2>(info.param) ? "clusters" : "");
                         });

TEST(DecodeAttentionShape, FewItemsAreSplit) {
  H2O_SKIP_WITHOUT_GPU();
  DecodeAttentionArgs args;
  args.num_heads = 56;
  args.rows = 128;
  args.max_slots = 410;
  EXPECT_EQ(ChooseDecodeAttentionShape(args).split, 1);
  args.rows = 1;
  args.max_slots = 16;
  EXPECT_EQ(ChooseDecodeAttentionShape(args).split, 1);
}

// To the page; the row does nothing.
TEST(DecodeAttention, TakesHeadsOfAsManySlotsAsItTells) {
  H2O_SKIP_WITHOUT_GPU();
  const DeviceArray<int32_t> positions(std::vector<int32_t>{-1});
  const DeviceArray<KvHead*> heads(std::vector<KvHead*>{nullptr});
  const DeviceArray<uint16_t> out(128);
  for (int head_dim : kCudaHeadDims) {
    for (DType dtype : {DType::kBFloat16, DType::kFloat16}) {
      DecodeAttentionArgs args;
      args.pool.head_dim = head_dim;
      args.dtype = dtype;
      args.positions = positions.data();
      args.heads = heads.data();
      args.out = out.data();
      args.rows = 1;
      args.num_heads = 1;
      args.scored = true;
      args.max_slots = MostSlots(head_dim);
      EXPECT_GT(args.max_slots, 16384);
      CheckCuda(DecodeAttentionAs(args, {}, nullptr));
      CheckCuda(cudaDeviceSynchronize());
      args.max_slots += kPageSlots;
      EXPECT_EQ(DecodeAttentionAs(args, {}, nullptr), cudaErrorInvalidValue);
    }
  }
}

}  // namespace
}  // namespace h2o::cuda
