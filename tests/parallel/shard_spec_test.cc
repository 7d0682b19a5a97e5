// Who owns which heads, columns and rows.
#include "parallel/shard_spec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace h2o {
namespace {

TEST(ShardOf, PutsTheLargerPartsFirst) {
  EXPECT_EQ(ShardOf(6, 0, 4), (Range{0, 2}));
  EXPECT_EQ(ShardOf(6, 1, 4), (Range{2, 4}));
  EXPECT_EQ(ShardOf(6, 2, 4), (Range{4, 5}));
  EXPECT_EQ(ShardOf(6, 3, 4), (Range{5, 6}));
}

TEST(ShardOf, CoversAllContiguouslyAndEvenly) {
  for (int64_t total : {0, 1, 2, 7, 12, 32, 50272}) {
    for (int size = 1; size <= 9; ++size) {
      int64_t end = 0, least = total, most = 0;
      for (int rank = 0; rank < size; ++rank) {
        const Range range = ShardOf(total, rank, size);
        EXPECT_EQ(range.begin, end) << total << " over " << size;
        end = range.end;
        least = std::min(least, range.size());
        most = std::max(most, range.size());
      }
      EXPECT_EQ(end, total) << "over " << size;
      EXPECT_LE(most - least, 1) << total << " over " << size;
    }
  }
}

TEST(ShardSpec, CutsHeadsColumnsAndVocabularyAlike) {
  const ShardSpec spec = ShardSpec::Of(1, 3, {32, 32, 64}, 8192, 50272);
  EXPECT_EQ(spec.rank, 1);
  EXPECT_EQ(spec.size, 3);
  EXPECT_EQ(spec.heads, (Range{11, 22}));
  EXPECT_EQ(spec.kv_heads, (Range{11, 22}));
  EXPECT_EQ(spec.qkv, (QkvLayout{11, 11, 64}));
  EXPECT_EQ(spec.ffn_columns, ShardOf(8192, 1, 3));
  EXPECT_EQ(spec.vocabulary, ShardOf(50272, 1, 3));
}

TEST(ShardSpec, KeepsQueryHeadsWithTheirKvHead) {
  const ShardSpec spec = ShardSpec::Of(2, 3, {32, 8, 128}, 14336, 128256);
  EXPECT_EQ(spec.kv_heads, (Range{6, 8}));
  EXPECT_EQ(spec.heads, (Range{24, 32}));
  EXPECT_EQ(spec.qkv, (QkvLayout{8, 2, 128}));
  EXPECT_EQ(spec.qkv.query_columns(), 1024);
  EXPECT_EQ(spec.qkv.kv_columns(), 256);
  EXPECT_EQ(spec.qkv.columns(), 1536);
}

}  // namespace
}  // namespace h2o
