// Tests how a client reads streams of OpenAI's API, good and bad ones.
#include "openai/chunk_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace h2o {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ChunkStreamTest : public ::testing::Test {
 protected:
  std::vector<std::string> chunks_;
  ChunkStream stream_{[this](const ChunkStream::Json& chunk) {
    chunks_.push_back(chunk.dump());
    return absl::OkStatus();
  }};
};

TEST_F(ChunkStreamTest, GivesChunksOfPiecesThatEndAnywhere) {
  const std::string all =
      ": a comment\n\ndata: {\"a\": 1}\r\n\r\nevent: x\nid\nretry: 3\n"
      "data:{\"b\": 2}\n\ndata: [DONE]\n\n";
  for (const char c : all) ASSERT_TRUE(stream_.Add({&c, 1}).ok());
  EXPECT_THAT(chunks_, ElementsAre(R"({"a":1})", R"({"b":2})"));
  EXPECT_TRUE(stream_.ended());
}

TEST_F(ChunkStreamTest, GivesAllChunksOfOnePiece) {
  EXPECT_TRUE(
      stream_.Add("data: {\"b\":1,\"a\":2}\n\ndata: {}\n\ndata: {").ok());
  EXPECT_THAT(chunks_, ElementsAre(R"({"b":1,"a":2})", "{}"));
}

TEST_F(ChunkStreamTest, ReturnsTheErrorOfTheServer) {
  EXPECT_EQ(stream_.Add("data: {\"error\": {\"message\": \"lost\", \"code\": "
                        "\"server_is_unavailable\"}}\n"),
            absl::UnavailableError("lost"));
  EXPECT_THAT(chunks_, IsEmpty());
}

TEST(ChunkStream, ReturnsTheErrorOfItsReader) {
  ChunkStream stream(
      [](const ChunkStream::Json&) { return absl::AbortedError("enough"); });
  EXPECT_EQ(stream.Add("data: {}\n"), absl::AbortedError("enough"));
}

TEST(ChunkStream, RefusesWhatIsNoStream) {
  for (const std::string bad :
       {"<html>\n", "{}\n", "data\n", "data:\n", "data: 1\n", "data: {\n",
        "data: []\n", "data: {} {}\n", "datas: {}\n", "[DONE]\n"}) {
    ChunkStream stream(
        [](const ChunkStream::Json&) { return absl::OkStatus(); });
    const absl::Status status = stream.Add(bad);
    EXPECT_TRUE(absl::IsDataLoss(status)) << bad << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("OpenAI's API"));
  }
}

TEST(ChunkStream, EndsALineThatNeverEnds) {
  ChunkStream stream([](const ChunkStream::Json&) { return absl::OkStatus(); });
  const std::string piece(1 << 20, 'x');
  for (size_t held = 0; held < ChunkStream::kMaxLineBytes;
       held += piece.size()) {
    ASSERT_TRUE(stream.Add(piece).ok());
  }
  EXPECT_TRUE(absl::IsDataLoss(stream.Add("x")));
}

}  // namespace
}  // namespace h2o
