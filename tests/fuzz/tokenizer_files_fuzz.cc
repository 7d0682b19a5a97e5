// Fuzzes the readers of a tokenizer's files.  The first line of the input names
// the file that the rest is (vocab.json, merges.txt, tokenizer.json,
// tokenizer_config.json, special_tokens_map.json or added_tokens.json); the
// others are those of tests/fuzz/tokenizer.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/check.h"
#include "model/tokenizer.h"
#include "tests/model/temp_directory.h"

namespace h2o {
namespace {

constexpr char kGood[] = "tests/fuzz/tokenizer";
constexpr int kVocabSize = 512;
constexpr std::array<std::string_view, 6> kNames = {"vocab.json",
                                                    "merges.txt",
                                                    "tokenizer.json",
                                                    "tokenizer_config.json",
                                                    "special_tokens_map.json",
                                                    "added_tokens.json"};

struct TokenizerDirectory : TempDirectory {
  TokenizerDirectory() { std::filesystem::copy(kGood, path()); }
  void Restore(std::string_view name) const {
    std::filesystem::remove(File(name));
    const auto good = std::filesystem::path(kGood) / name;
    if (std::filesystem::exists(good)) {
      std::filesystem::copy_file(good, File(name));
    }
  }
};

// Whatever the files say, ids are below the vocabulary's size and decode.
void Use(const Tokenizer& tokenizer) {
  for (std::string_view text :
       {"", "The kernel's </s> <pad><unk> file\n\n  \xc3\xa9 <mask>x"}) {
    const auto ids = tokenizer.Encode(text);
    H2O_CHECK(ids.ok()) << ids.status().ToString();
    IncrementalDecoder decoder(&tokenizer);
    std::string streamed;
    for (int32_t id : *ids) {
      H2O_CHECK(id >= 0 && id < kVocabSize) << id;
      streamed += decoder.Push(id);
    }
    streamed += decoder.Finish();
    H2O_CHECK(streamed == tokenizer.Decode(*ids, true)) << streamed;
  }
}

int Run(std::string_view bytes) {
  const size_t end = bytes.find('\n');
  const std::string_view name = bytes.substr(0, end);
  if (end == std::string_view::npos ||
      std::find(kNames.begin(), kNames.end(), name) == kNames.end()) {
    return -1;  // not for the corpus
  }
  static const TokenizerDirectory directory;
  directory.Write(name, bytes.substr(end + 1));
  const auto tokenizer = Tokenizer::Load(directory.path(), kVocabSize);
  directory.Restore(name);
  if (tokenizer.ok()) {
    Use(**tokenizer);
  } else {
    H2O_CHECK(!tokenizer.status().message().empty());
  }
  return 0;
}

}  // namespace
}  // namespace h2o

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return h2o::Run({reinterpret_cast<const char*>(data), size});
}
