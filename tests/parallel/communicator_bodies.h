// What every kind of Communicator must do: bodies that each rank of a group
// runs, whatever the ranks are.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace h2o::testing {

using RankBody = std::function<void(Communicator*)>;

inline constexpr int kSizes[] = {1, 2, 3, 4, 7};

// All distinct over ranks and elements; of mixed magnitudes, so that sums in
// another order have other bits.
inline float ValueOf(int rank, int64_t i, int size, int round) {
  const float scale = rank % 3 == 0 ? 1.f : rank % 3 == 1 ? 1e-3f : -37.f;
  return static_cast<float>(i * size + rank + 1 + 1000003 * (round % 7)) *
         scale;
}

inline void ExpectSum(Communicator* c, int64_t count, int round = 0) {
  constexpr float kGuard = -123.5f;
  std::vector<float> data(count + 2, kGuard);
  std::vector<float> want = data;
  for (int64_t i = 0; i < count; ++i) {
    data[i + 1] = ValueOf(c->rank(), i, c->size(), round);
    float sum = ValueOf(0, i, c->size(), round);
    for (int k = 1; k < c->size(); ++k) {
      sum += ValueOf(k, i, c->size(), round);
    }
    want[i + 1] = sum;
  }
  const absl::Status status = c->AllReduceSum(data.data() + 1, count);
  ASSERT_TRUE(status.ok()) << status.ToString();
  ASSERT_EQ(std::memcmp(data.data(), want.data(), data.size() * sizeof(float)),
            0)
      << "rank " << c->rank() << " of " << c->size() << ", count " << count;
}

inline void ExpectGather(Communicator* c, const std::vector<int64_t>& bytes,
                         bool in_place, int round = 0) {
  const int64_t total = std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
  std::vector<uint8_t> want(total + 2, 0xee), all(total + 2, 0xee);
  std::vector<uint8_t> mine;
  int64_t at = 1, my_place = 1;
  for (int k = 0; k < c->size(); ++k) {
    if (k == c->rank()) my_place = at;
    for (int64_t i = 0; i < bytes[k]; ++i) {
      want[at] = static_cast<uint8_t>((i * 31 + k * 101 + round) % 251);
      if (k == c->rank()) mine.push_back(want[at]);
      ++at;
    }
  }
  const void* from = mine.data();
  if (in_place) {
    std::copy(mine.begin(), mine.end(), all.begin() + my_place);
    from = all.data() + my_place;
  }
  const absl::Status status = c->AllGather(from, bytes, all.data() + 1);
  ASSERT_TRUE(status.ok()) << status.ToString();
  ASSERT_EQ(all, want) << "rank " << c->rank() << " of " << c->size();
}

inline void SumsOfManySizes(Communicator* c) {
  for (int64_t count : {0, 1, 2, 3, 17, 1000, 4096, 4097, 100003, 300007}) {
    ExpectSum(c, count);
  }
}

inline void UnevenGathers(Communicator* c) {
  for (bool in_place : {false, true}) {
    for (int64_t unit : {0, 1, 40, 5000, 90001}) {
      std::vector<int64_t> bytes;  // 0 of rank 0, and of rank 3
      for (int k = 0; k < c->size(); ++k) bytes.push_back(k % 3 * unit);
      ExpectGather(c, bytes, in_place);
      bytes[0] = unit + 3;
      ExpectGather(c, bytes, in_place);
    }
  }
}

// Back to back, of random kinds and sizes, the same on every rank.
inline void ManyOperations(Communicator* c) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    const int64_t limit = int64_t{1} << (random() % 18);
    const int64_t count = random() % limit;
    if (random() % 3 > 0) {
      ExpectSum(c, count, round);
    } else {
      std::vector<int64_t> bytes;
      for (int k = 0; k < c->size(); ++k) bytes.push_back(random() % limit);
      ExpectGather(c, bytes, random() % 2 == 0, round);
    }
    if (::testing::Test::HasFatalFailure()) return;
  }
}

// Two ranks that do not agree on the operation must not get numbers.
inline void OutOfStep(Communicator* c) {
  ExpectSum(c, 5);
  std::vector<float> data(100);
  const absl::Status status =
      c->AllReduceSum(data.data(), c->rank() == 0 ? 10 : 20);
  EXPECT_FALSE(status.ok());
  EXPECT_FALSE(c->AllReduceSum(data.data(), 10).ok()) << "unusable afterwards";
}

struct NamedBody {
  const char* name;
  void (*run)(Communicator*);
};
inline constexpr NamedBody kBodies[] = {
    {"SumsOfManySizes", SumsOfManySizes},
    {"UnevenGathers", UnevenGathers},
    {"ManyOperations", ManyOperations},
};

}  // namespace h2o::testing
