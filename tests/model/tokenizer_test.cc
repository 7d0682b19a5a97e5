// Compares with what Hugging Face's tokenizer did; see
// tools/make_tokenizer_goldens.py.
#include "model/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "base/hash.h"
#include "model/pre_tokenizer.h"
#include "tests/model/temp_directory.h"

namespace h2o {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kModel[] = "models/opt-demo";
constexpr char kGoldens[] = "tests/golden/tokenizer/";
constexpr int kVocabSize = 8192;

std::unique_ptr<Tokenizer> LoadDemo() {
  auto tokenizer = Tokenizer::Load(kModel, kVocabSize);
  H2O_CHECK(tokenizer.ok()) << tokenizer.status().ToString();
  return *std::move(tokenizer);
}

const Tokenizer& Demo() {
  static const Tokenizer* const demo = LoadDemo().release();
  return *demo;
}

// The order of keys counts: it is the order of new ids.
std::vector<nlohmann::ordered_json> ReadGoldens(const std::string& name) {
  std::ifstream file(kGoldens + name);
  H2O_CHECK(file.good()) << name;
  std::vector<nlohmann::ordered_json> values;
  for (std::string line; std::getline(file, line);) {
    values.push_back(nlohmann::ordered_json::parse(line));
  }
  return values;
}

// Of the ids as little-endian int32.
std::string HashOf(const std::vector<int32_t>& ids) {
  return Fnv1a().AddBytes(ids.data(), ids.size() * sizeof(int32_t)).Hex();
}

std::string Utf8(uint32_t c) {
  const auto b = [](uint32_t x) { return static_cast<char>(x); };
  if (c < 0x80) return {b(c)};
  if (c < 0x800) return {b(0xc0 | c >> 6), b(0x80 | (c & 63))};
  if (c < 0x10000) {
    return {b(0xe0 | c >> 12), b(0x80 | (c >> 6 & 63)), b(0x80 | (c & 63))};
  }
  return {b(0xf0 | c >> 18), b(0x80 | (c >> 12 & 63)), b(0x80 | (c >> 6 & 63)),
          b(0x80 | (c & 63))};
}

// ---- Encode

TEST(TokenizerTest, EncodesAsHuggingFaceDoes) {
  int num_lines = 0;
  for (const auto& line : ReadGoldens("encode.jsonl")) {
    ++num_lines;
    std::string text = line[0];
    size_t next = 1;
    if (line.size() == 4) {
      const int times = line[next++];
      std::string repeated;
      for (int i = 0; i < times; ++i) repeated += text;
      text = repeated;
    }
    const auto ids = Demo().Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    if (line[next].is_array()) {
      ASSERT_EQ(*ids, line[next].get<std::vector<int32_t>>()) << line[0];
    } else {
      ASSERT_EQ(ids->size(), line[next].get<size_t>()) << line[0];
      ASSERT_EQ(HashOf(*ids), line[next + 1].get<std::string>()) << line[0];
    }
  }
  EXPECT_GE(num_lines, 10000);
}

TEST(TokenizerTest, EmptyTextIsOneToken) {
  EXPECT_THAT(*Demo().Encode(""), ElementsAre(2));
}

// opt-demo's longest tokens have 16 bytes.
TEST(TokenizerTest, TellsTheLeastTokensFromTheLength) {
  EXPECT_EQ(Demo().LeastTokens(""), 0);
  EXPECT_EQ(Demo().LeastTokens("a"), 1);
  EXPECT_EQ(Demo().LeastTokens(std::string(4'000'000, 'x')), 250'000);
  for (const auto& line : ReadGoldens("encode.jsonl")) {
    const std::string text = line[0];
    ASSERT_LE(Demo().LeastTokens(text),
              static_cast<int64_t>(Demo().Encode(text)->size()))
        << text;
  }
}

std::vector<std::string_view> SplitWords(std::string_view text) {
  std::vector<std::string_view> words;
  ForEachWord(text, [&](std::string_view word) { words.push_back(word); });
  return words;
}

// Every code point that there is belongs to the kind of word that Hugging Face
// puts it in, whatever Unicode the PCRE2 at hand knows.
TEST(TokenizerTest, CutsWordsAsHuggingFaceDoesForAllOfUnicode) {
  std::vector<char> expected(0x110000, 'O');
  std::ifstream file(std::string(kGoldens) + "unicode_classes.txt");
  char kind, dash;
  uint32_t begin, last;
  int num_ranges = 0;
  while (file >> kind >> std::hex >> begin >> dash >> last) {
    ++num_ranges;
    ASSERT_LT(last, expected.size());
    for (uint32_t c = begin; c <= last; ++c) expected[c] = kind;
  }
  ASSERT_GT(num_ranges, 700);
  const auto continues = [](char word, const std::string& c) {
    return SplitWords(word + c).size() == 1;
  };
  int num_different = 0;
  for (uint32_t code_point = 0; code_point < 0x110000; ++code_point) {
    if (code_point >= 0xd800 && code_point <= 0xdfff) continue;
    const std::string c = Utf8(code_point);
    const char ours = continues('a', c)   ? 'L'
                      : continues('1', c) ? 'N'
                      : continues('!', c) ? 'O'
                                          : 'S';
    if (ours != expected[code_point] && ++num_different <= 20) {
      ADD_FAILURE() << std::hex << code_point << " is " << ours
                    << ", Hugging Face has " << expected[code_point];
    }
  }
  EXPECT_EQ(num_different, 0);
}

TEST(TokenizerTest, WordsAreTheWholeText) {
  const std::string text = "It's  a\u00a0test,\n\n 12\u30003!  ";
  std::string joined;
  for (std::string_view word : SplitWords(text)) joined += word;
  EXPECT_EQ(joined, text);
  EXPECT_THAT(
      SplitWords("don't  stop 42!!\n x "),
      ElementsAre("don", "'t", " ", " stop", " 42", "!!", "\n", " x", " "));
  EXPECT_TRUE(SplitWords("").empty());
}

TEST(TokenizerTest, RefusesTextThatIsNotUtf8) {
  const std::vector<std::pair<std::string, int>> bad = {
      {"\x80", 0},
      {"ab\xff", 2},
      {"\u20ac\xe2\x82", 3},  // cut off
      {"a\xe2\x82z", 1}};
  for (const auto& [text, offset] : bad) {
    const auto ids = Demo().Encode(text);
    ASSERT_FALSE(ids.ok());
    EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(ids.status().message()),
                HasSubstr("at offset " + std::to_string(offset)));
  }
  EXPECT_TRUE(Demo().Encode(std::string("a\0b", 3)).ok());
  EXPECT_TRUE(Demo()
                  .Encode("\u0080\u07ff\u0800\ud7ff\ue000\uffff"
                          "\U00010000\U0010ffff")
                  .ok());
}

// Prompts are hostile: time must not grow with the square of a word.
TEST(TokenizerTest, HostileTextTakesLinearTime) {
  for (const std::string& part :
       {std::string("a"), std::string(" "), std::string("!"),
        std::string("the"), std::string("\u3000"), std::string("</s"),
        std::string("<"), std::string("\U0001f600"), std::string("'"),
        std::string(" a")}) {
    std::string text;
    while (text.size() < 1'000'000) text += part;
    text += "x";
    const auto begin = std::chrono::steady_clock::now();
    const auto ids = Demo().Encode(text);
    const std::chrono::duration<double> seconds =
        std::chrono::steady_clock::now() - begin;
    ASSERT_TRUE(ids.ok());
    // 0.5 s of a fast machine; the square would be hours.
    EXPECT_LT(seconds.count(), 20) << part;
    EXPECT_EQ(Demo().Decode(*ids, true), part == "</s>" ? "" : text);
  }
}

// ---- Decode

TEST(TokenizerTest, DecodesAsHuggingFaceDoes) {
  int num_lines = 0;
  for (const auto& line : ReadGoldens("decode.jsonl")) {
    ++num_lines;
    const std::vector<int32_t> ids = line[0];
    const std::string text = line[1];
    const std::string skipped = line.back();
    ASSERT_EQ(Demo().Decode(ids, false), text) << line[0];
    ASSERT_EQ(Demo().Decode(ids, true), skipped) << line[0];

    IncrementalDecoder decoder(&Demo());
    std::string pieces;
    for (int32_t id : ids) {
      const std::string piece = decoder.Push(id);
      // Every piece is UTF-8 by itself.
      ASSERT_TRUE(Demo().Encode(piece).ok()) << line[0];
      pieces += piece;
    }
    pieces += decoder.Finish();
    ASSERT_EQ(pieces, skipped) << line[0];
    EXPECT_EQ(decoder.Finish(), "");
  }
  EXPECT_GE(num_lines, 2000);
}

TEST(TokenizerTest, EncodedTextDecodesToItself) {
  std::mt19937 random(7);
  for (int i = 0; i < 300; ++i) {
    std::string text;
    for (int j = 0; j < 20; ++j) {
      uint32_t c = random() % (j % 2 ? 0x110000 : 0x400);
      if (c >= 0xd800 && c <= 0xdfff) c = 'x';
      text += Utf8(c);
    }
    const auto ids = Demo().Encode(text);
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ(Demo().Decode(*ids, true), text);
  }
}

TEST(TokenizerTest, PiecesNeverSplitACharacter) {
  const auto ids = Demo().Encode("\U0001f9ed");  // four bytes, several tokens
  ASSERT_TRUE(ids.ok());
  ASSERT_GT(ids->size(), 3u);
  IncrementalDecoder decoder(&Demo());
  for (size_t i = 0; i + 1 < ids->size(); ++i) {
    EXPECT_EQ(decoder.Push((*ids)[i]), "");
  }
  EXPECT_EQ(decoder.Push(ids->back()), "\U0001f9ed");
  // An unfinished one is replaced at the end.
  decoder.Push((*ids)[1]);
  EXPECT_EQ(decoder.Finish(), "\ufffd");
}

TEST(TokenizerTest, KnowsItsTokens) {
  EXPECT_TRUE(Demo().IsSpecial(1));
  EXPECT_TRUE(Demo().IsSpecial(2));
  EXPECT_TRUE(Demo().IsSpecial(3));
  EXPECT_EQ(Demo().TokenBytes(2), "");
  EXPECT_FALSE(Demo().IsSpecial(0));  // <s> is an ordinary token here
  EXPECT_EQ(Demo().TokenBytes(0), "<s>");
  EXPECT_EQ(Demo().TokenBytes(4), "!");
  for (int32_t id : {-1, kVocabSize, INT32_MAX, INT32_MIN}) {
    EXPECT_FALSE(Demo().IsSpecial(id));
    EXPECT_EQ(Demo().TokenBytes(id), "");
    EXPECT_EQ(Demo().Decode({id}, false), "");
  }
}

// ---- Loading

class TokenizerFilesTest : public ::testing::Test {
 protected:
  TokenizerFilesTest() {
    for (const char* name : {"vocab.json", "merges.txt"}) {
      fs::copy_file(fs::path(kModel) / name, directory_.File(name));
    }
  }
  // All bytes, the special tokens and "ab": 260 tokens.
  static json SmallVocabulary() {
    json vocabulary = {{"<s>", 0}, {"<pad>", 1}, {"</s>", 2}, {"ab", 3}};
    std::ifstream file(fs::path(kModel) / "vocab.json");
    const json demo = json::parse(file);
    for (const auto& [token, id] : demo.items()) {
      if (id >= 4 && id < 260) vocabulary[token] = id;
    }
    H2O_CHECK(vocabulary.size() == 260);
    return vocabulary;
  }
  // A tokenizer.json with the vocabulary and the merges of the demo model.
  static json Whole(json file) {
    std::ifstream vocabulary(fs::path(kModel) / "vocab.json");
    file["model"]["vocab"] = json::parse(vocabulary);
    std::ifstream merges(fs::path(kModel) / "merges.txt");
    file["model"]["merges"] = json::array();
    for (std::string line; std::getline(merges, line);) {
      if (!line.starts_with("#version")) {
        file["model"]["merges"].push_back(line);
      }
    }
    return file;
  }
  void WriteSmall(const json& vocabulary, const std::string& merges) {
    directory_.Write("vocab.json", vocabulary.dump());
    directory_.Write("merges.txt", merges);
  }
  void ExpectFails(absl::StatusCode code,
                   const std::vector<std::string>& fragments,
                   int vocab_size = kVocabSize) {
    const auto tokenizer = Tokenizer::Load(directory_.path(), vocab_size);
    ASSERT_FALSE(tokenizer.ok());
    EXPECT_EQ(tokenizer.status().code(), code) << tokenizer.status();
    for (const std::string& fragment : fragments) {
      EXPECT_THAT(std::string(tokenizer.status().message()),
                  HasSubstr(fragment));
    }
  }

  TempDirectory directory_;
};

TEST_F(TokenizerFilesTest, DeclaresAddedTokensAsHuggingFaceDoes) {
  int num_cases = 0;
  for (const auto& variant : ReadGoldens("variants.jsonl")) {
    for (const char* name : {"tokenizer.json", "tokenizer_config.json",
                             "special_tokens_map.json", "added_tokens.json"}) {
      fs::remove(directory_.File(name));
    }
    for (const auto& [name, value] : variant["files"].items()) {
      directory_.Write(
          name, name == "tokenizer.json" ? Whole(value).dump() : value.dump());
    }
    const auto tokenizer = Tokenizer::Load(directory_.path(), kVocabSize + 8);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    for (const auto& line : variant["cases"]) {
      ++num_cases;
      const auto ids = (*tokenizer)->Encode(line[0].get<std::string>());
      ASSERT_TRUE(ids.ok());
      EXPECT_EQ(*ids, line[1].get<std::vector<int32_t>>())
          << line[0] << " under " << variant["files"];
      EXPECT_LE((*tokenizer)->LeastTokens(line[0].get<std::string>()),
                static_cast<int64_t>(ids->size()))
          << line[0] << " under " << variant["files"];
    }
    std::vector<int32_t> special;
    for (int32_t id = 0; id < kVocabSize + 8; ++id) {
      if ((*tokenizer)->IsSpecial(id)) special.push_back(id);
    }
    EXPECT_EQ(special, variant["special"].get<std::vector<int32_t>>())
        << variant["files"];
  }
  EXPECT_GT(num_cases, 1000);
}

TEST_F(TokenizerFilesTest, WithoutAConfigHasOptsTokens) {
  const auto tokenizer = Tokenizer::Load(directory_.path(), kVocabSize);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(*(*tokenizer)->Encode("</s><pad>!"), ElementsAre(2, 2, 1, 4));
  EXPECT_TRUE((*tokenizer)->IsSpecial(2));
}

TEST_F(TokenizerFilesTest, TheVocabularyMayBeSmallerThanTheModels) {
  WriteSmall(SmallVocabulary(), "#version: 0.2\na b\n");
  const auto tokenizer = Tokenizer::Load(directory_.path(), 300);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(*(*tokenizer)->Encode("abb"),
              ElementsAre(2, 3, SmallVocabulary()["b"].get<int>()));
  EXPECT_EQ((*tokenizer)->Decode({3, 299, 3}, false), "abab");
  ExpectFails(absl::StatusCode::kFailedPrecondition,
              {"vocab.json", "has the id 259", "vocab_size, 259"}, 259);
}

TEST_F(TokenizerFilesTest, LineEndsAndVersionsMayVary) {
  for (const char* merges :
       {"a b", "a b\n", "#version: 0.2\r\na b\r\n", "#version: 9\na b\n"}) {
    WriteSmall(SmallVocabulary(), merges);
    const auto tokenizer = Tokenizer::Load(directory_.path(), 300);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_THAT(*(*tokenizer)->Encode("ab"), ElementsAre(2, 3));
  }
}

TEST_F(TokenizerFilesTest, NamesMissingFiles) {
  fs::remove(directory_.File("merges.txt"));
  ExpectFails(absl::StatusCode::kDataLoss, {directory_.File("merges.txt")});
  directory_.Write("merges.txt", "");
  fs::remove(directory_.File("vocab.json"));
  ExpectFails(absl::StatusCode::kDataLoss, {directory_.File("vocab.json")});
  // Without both there is no tokenizer, which token ids do not need.
  fs::remove(directory_.File("merges.txt"));
  ExpectFails(absl::StatusCode::kNotFound,
              {directory_.path(), "tokenizer.json", "vocab.json"});
}

TEST_F(TokenizerFilesTest, RefusesMalformedVocabularies) {
  const std::string good = SmallVocabulary().dump();
  for (const std::string& text :
       {std::string(), good.substr(0, good.size() - 1), good.substr(0, 100),
        std::string("[]"), std::string("{\"\xff\": 1}")}) {
    directory_.Write("vocab.json", text);
    ExpectFails(absl::StatusCode::kDataLoss, {"vocab.json"});
  }
  const auto with = [](const std::string& token, const json& id) {
    json vocabulary = SmallVocabulary();
    vocabulary[token] = id;
    return vocabulary;
  };
  for (const json& id : {json("7"), json(-1), json(1.5), json(nullptr),
                         json(true), json::array({1})}) {
    WriteSmall(with("zz", id), "a b\n");
    ExpectFails(absl::StatusCode::kDataLoss, {"\"zz\"", "an integer"});
  }
  WriteSmall(with("zz", 3), "a b\n");
  ExpectFails(absl::StatusCode::kDataLoss,
              {"\"ab\"", "\"zz\"", "the same id 3"});
  WriteSmall(with("", 270), "a b\n");
  ExpectFails(absl::StatusCode::kDataLoss, {"id 270", "is empty"});
  WriteSmall(with("zz", UINT64_MAX), "a b\n");
  ExpectFails(absl::StatusCode::kFailedPrecondition, {"18446744073709551615"});
  json vocabulary = SmallVocabulary();
  vocabulary.erase("a");
  WriteSmall(vocabulary, "");
  ExpectFails(absl::StatusCode::kDataLoss, {"no token for byte 97 (\"a\")"});
  vocabulary = SmallVocabulary();
  vocabulary.erase("</s>");
  WriteSmall(vocabulary, "a b\n");
  ExpectFails(absl::StatusCode::kDataLoss, {"\"</s>\""});
}

TEST_F(TokenizerFilesTest, RefusesMalformedMerges) {
  const auto expect = [&](const std::string& merges,
                          const std::vector<std::string>& fragments) {
    WriteSmall(SmallVocabulary(), merges);
    ExpectFails(absl::StatusCode::kDataLoss, fragments);
  };
  expect("#version: 0.2\na b\na",
         {"merges.txt", "line 3", "\"a\" is no merge"});
  expect("a b\n\na b\n", {"line 2", "is no merge"});
  expect("a b c\n", {"line 1", "is no merge"});
  expect("a  b\n", {"line 1", "is no merge"});
  expect("[\"a\", 3]\n", {"line 1"});
  expect("a qq\n", {"line 1", "\"qq\"", "not in the vocabulary"});
  expect("qq a\n", {"\"qq\"", "not in the vocabulary"});
  expect("b a\n", {"\"ba\"", "not in the vocabulary"});
  expect("a \xff\n", {"not in the vocabulary"});
  expect("ab \n", {"not in the vocabulary"});
  expect(std::string("a\0 b\n", 5), {"not in the vocabulary"});
}

TEST_F(TokenizerFilesTest, RefusesMalformedConfigs) {
  const auto expect = [&](absl::StatusCode code, const std::string& config,
                          const std::vector<std::string>& fragments) {
    directory_.Write("tokenizer_config.json", config);
    ExpectFails(code, fragments);
  };
  const auto kDataLoss = absl::StatusCode::kDataLoss;
  expect(kDataLoss, "{", {"tokenizer_config.json", "not JSON"});
  expect(kDataLoss, "", {"tokenizer_config.json"});
  expect(kDataLoss, R"({"pad_token": 3})", {"\"pad_token\" is 3"});
  expect(kDataLoss, R"({"pad_token": {}})", {"\"pad_token\" is an object"});
  expect(kDataLoss, R"({"pad_token": {"content": "x", "lstrip": 1}})",
         {"\"lstrip\" of \"pad_token\" is 1"});
  expect(kDataLoss, R"({"added_tokens_decoder": {"x": {"content": "y"}}})",
         {"\"added_tokens_decoder\"", "\"x\""});
  expect(absl::StatusCode::kFailedPrecondition,
         R"({"pad_token": {"content": "x", "single_word": true}})",
         {"single_word"});
  expect(absl::StatusCode::kFailedPrecondition, R"({"mask_token": "<mask>"})",
         {"\"<mask>\"", "id 8192", "vocab_size, 8192"});
  std::string many = "\"</s>\"";
  for (int i = 0; i < 4096; ++i) many += ", \"</s>\"";
  expect(kDataLoss, "{\"additional_special_tokens\": [" + many + "]}",
         {"\"additional_special_tokens\" has 4097 tokens", "4096"});
  // A null is no token; an empty one cannot be found.
  directory_.Write("tokenizer_config.json",
                   R"({"pad_token": null, "unk_token": ""})");
  const auto tokenizer = Tokenizer::Load(directory_.path(), kVocabSize);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_FALSE((*tokenizer)->IsSpecial(1));
}

}  // namespace
}  // namespace h2o
