// config.json of OPT and its kin: what is read, and what is refused how.
#include "model/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "model/model_spec.h"
#include "tests/model/temp_directory.h"

namespace h2o {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The four keys that have no default.
json Minimal() {
  return {{"model_type", "opt"},
          {"num_hidden_layers", 2},
          {"hidden_size", 128},
          {"num_attention_heads", 2},
          {"vocab_size", 100}};
}

// `patch` over Minimal(); its nulls are left out of the text.
std::string With(const json& patch) {
  json values = Minimal();
  values.merge_patch(patch);
  return values.dump();
}

void ExpectInvalid(const std::string& text,
                   const std::vector<std::string>& fragments) {
  const auto config = ParseModelConfig(text, "tiny");
  ASSERT_FALSE(config.ok()) << text;
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument)
      << config.status();
  EXPECT_THAT(std::string(config.status().message()),
              HasSubstr("config.json of tiny"));
  for (const std::string& fragment : fragments) {
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(fragment));
  }
}

TEST(ModelConfigTest, ReadsHowWeightsAreQuantized) {
  const json gptq = {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 64}};
  const auto config =
      ParseModelConfig(With({{"quantization_config", gptq}}), "tiny");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->quantization.layout, CodeLayout::kGptq);
  EXPECT_EQ(config->quantization.coding.group, 64);
  EXPECT_EQ(ParseModelConfig(With(json::object()), "tiny")->quantization.layout,
            CodeLayout::kNone);
  ExpectInvalid(With({{"quantization_config", {{"quant_method", "awq"}}}}),
                {"quantization_config: \"quant_method\" is \"awq\""});
}

TEST(ModelConfigTest, CodesThatAreStoredAreServedAsTheyAre) {
  TempDirectory directory;
  directory.Write(
      "config.json",
      With({{"quantization_config",
             {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 64}}}}));
  ModelSpec spec = {.model = directory.path()};
  for (const char* weights : {"", "auto"}) {
    spec.weights = weights;
    const auto config = ConfigOf(spec);
    ASSERT_TRUE(config.ok()) << config.status();
    const ModelSpec full = WithFormats(spec, *config, /*gpu=*/false);
    EXPECT_EQ(full.weights, "int4");
    EXPECT_EQ(full.weight_group, 64);
    EXPECT_EQ(full.dtype, "float32");
    EXPECT_EQ(WithFormats(spec, *config, /*gpu=*/true).dtype, "fp16");
  }
  spec.weights = "int4";  // in groups of 128
  EXPECT_THAT(std::string(ConfigOf(spec).status().message()),
              AllOf(HasSubstr("weights int4 in groups of 128"),
                    HasSubstr("stored as int4 in groups of 64")));
  spec.weight_group = 64;
  EXPECT_TRUE(ConfigOf(spec).ok());
  for (const char* other : {"bf16", "int8", "fp8"}) {
    spec.weights = other;
    EXPECT_EQ(ConfigOf(spec).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  spec.dummy = true;  // nothing is stored
  EXPECT_TRUE(ConfigOf(spec).ok());
}

TEST(ModelConfigTest, Fp8ActivationsNeedFp8Weights) {
  ModelSpec spec = {
      .model = "opt-125m", .dummy = true, .fp8_activations = true};
  for (const char* weights : {"", "auto", "bf16", "int8"}) {
    spec.weights = weights;
    const absl::Status status = ConfigOf(spec).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("activations fp8 with weights "),
                      HasSubstr("need --weights fp8")));
  }
  spec.weights = "fp8";
  EXPECT_TRUE(ConfigOf(spec).ok());
}

TEST(ModelConfigTest, ReadsTheModelThatShips) {
  for (const char* directory : {"models/opt-demo", "models/opt-demo/"}) {
    const auto config = ReadModelConfig(directory);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->name, "opt-demo");
    EXPECT_EQ(config->num_layers, 6);
    EXPECT_EQ(config->qkv.heads, 6);
    EXPECT_EQ(config->qkv.kv_heads, 6);
    EXPECT_EQ(config->hidden_size, 384);
    EXPECT_EQ(config->qkv.head_dim, 64);
    EXPECT_EQ(config->ffn_dim, 1536);
    EXPECT_EQ(config->vocab_size, 8192);
    EXPECT_EQ(config->max_positions, 2048);
    EXPECT_EQ(config->position_offset, 2);
    EXPECT_EQ(config->norm_epsilon, 1e-5f);
    EXPECT_EQ(config->embed_dim, 384);
    EXPECT_FALSE(config->has_projections());
    EXPECT_EQ(config->activation, Activation::kRelu);
    EXPECT_EQ(config->block, Block::kPreNorm);
    EXPECT_TRUE(config->final_norm);
    EXPECT_TRUE(config->norm_affine);
    EXPECT_TRUE(config->bias);
    EXPECT_TRUE(config->tied_head);
    EXPECT_THAT(config->stop_tokens, ElementsAre(2));
    EXPECT_EQ(config->checkpoint_dtype, DType::kFloat16);
    EXPECT_EQ(config->num_parameters(), 14580480);  // of the index's metadata
  }
}

TEST(ModelConfigTest, HasHuggingFacesDefaults) {
  const auto config = ParseModelConfig(With(json::object()), "tiny");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->ffn_dim, 3072);
  EXPECT_EQ(config->max_positions, 2048);
  EXPECT_EQ(config->embed_dim, config->hidden_size);
  EXPECT_EQ(config->activation, Activation::kRelu);
  EXPECT_EQ(config->block, Block::kPreNorm);
  EXPECT_TRUE(config->final_norm);
  EXPECT_TRUE(config->norm_affine);
  EXPECT_TRUE(config->bias);
  EXPECT_TRUE(config->tied_head);
  EXPECT_THAT(config->stop_tokens, ElementsAre(2));
}

TEST(ModelConfigTest, NullIsAbsent) {
  json values = Minimal();
  values["word_embed_proj_dim"] = nullptr;
  values["eos_token_id"] = nullptr;
  values["dtype"] = nullptr;
  values["torch_dtype"] = "bfloat16";
  const auto config = ParseModelConfig(values.dump(), "tiny");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->embed_dim, 128);
  EXPECT_THAT(config->stop_tokens, ElementsAre(2));
  EXPECT_EQ(config->checkpoint_dtype, DType::kBFloat16);
}

// Counted by Hugging Face's OPTForCausalLM.
TEST(ModelConfigTest, BuiltInConfigsCountTheirParameters) {
  const std::vector<std::pair<std::string, int64_t>> expected = {
      {"opt-125m", 125239296},   {"opt-350m", 331196416},
      {"opt-1.3b", 1315758080},  {"opt-2.7b", 2651596800},
      {"opt-6.7b", 6658473984},  {"opt-13b", 12853473280},
      {"opt-30b", 29974540288},  {"opt-66b", 65719701504},
      {"opt-175b", 174604468224}};
  std::vector<std::string> names;
  for (const auto& [name, parameters] : expected) {
    names.push_back(name);
    const auto config = BuiltInModelConfig(name);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->name, name);
    EXPECT_EQ(config->num_parameters(), parameters) << name;
    EXPECT_EQ(config->ffn_dim, 4 * config->hidden_size);
    EXPECT_EQ(config->vocab_size, 50272);
    EXPECT_EQ(config->max_positions, 2048);
    EXPECT_TRUE(config->qkv.head_dim == 64 || config->qkv.head_dim == 80 ||
                config->qkv.head_dim == 128);
  }
  EXPECT_EQ(BuiltInModelConfigNames(), names);
  EXPECT_EQ(BuiltInModelConfig("opt-2.7b")->qkv.head_dim, 80);
  EXPECT_EQ(BuiltInModelConfig("opt-350m")->block, Block::kPostNorm);
  EXPECT_FALSE(BuiltInModelConfig("opt-350m")->final_norm);
  EXPECT_TRUE(BuiltInModelConfig("opt-350m")->has_projections());

  const auto unknown = BuiltInModelConfig("opt-7b");
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(unknown.status().message()), HasSubstr("\"opt-7b\""));
  EXPECT_THAT(std::string(unknown.status().message()), HasSubstr("opt-6.7b"));
}

TEST(ModelConfigTest, ReadsWhatTheOtherOptsAre) {
  // opt-350m
  auto config = ParseModelConfig(
      With({{"do_layer_norm_before", false}, {"word_embed_proj_dim", 64}}),
      "post");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->block, Block::kPostNorm);
  EXPECT_FALSE(config->final_norm);
  EXPECT_TRUE(config->has_projections());
  // Galactica; counted by Hugging Face's OPTForCausalLM.
  const json base = {{"num_hidden_layers", 12},
                     {"num_attention_heads", 12},
                     {"hidden_size", 768},
                     {"vocab_size", 50272}};
  json galactica = base;
  galactica.update({{"activation_function", "gelu"},
                    {"enable_bias", false},
                    {"layer_norm_elementwise_affine", false}});
  config = ParseModelConfig(With(galactica), "galactica");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->activation, Activation::kGelu);
  EXPECT_FALSE(config->bias);
  EXPECT_FALSE(config->norm_affine);
  EXPECT_EQ(config->num_parameters(), 125117952);
  // An untied head and projections.
  json untied = base;
  untied.update({{"tie_word_embeddings", false}, {"word_embed_proj_dim", 512}});
  config = ParseModelConfig(With(untied), "untied");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FALSE(config->tied_head);
  EXPECT_EQ(config->num_parameters(), 138895360);
  json removed = base;
  removed.update({{"_remove_final_layer_norm", true}});
  config = ParseModelConfig(With(removed), "removed");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->block, Block::kPreNorm);
  EXPECT_FALSE(config->final_norm);
  EXPECT_EQ(config->num_parameters(), 125237760);
  // Dtypes: the newer key wins.
  config = ParseModelConfig(
      With({{"dtype", "float32"}, {"torch_dtype", "float16"}}), "d");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->checkpoint_dtype, DType::kFloat32);
  // Stop tokens in a list; the largest position table.
  config = ParseModelConfig(
      With({{"eos_token_id", {7, 2}}, {"max_position_embeddings", 65536}}),
      "e");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->stop_tokens, ElementsAre(7, 2));
  EXPECT_EQ(config->max_positions, 65536);
}

TEST(ModelConfigTest, NamesEveryValueThatCannotBe) {
  ExpectInvalid(With({{"model_type", "llama"}}),
                {"\"model_type\" is \"llama\"", "must be \"opt\""});
  ExpectInvalid(With({{"model_type", nullptr}}), {"\"model_type\" is missing"});
  ExpectInvalid(With({{"model_type", 3}}), {"\"model_type\" is 3"});
  for (const char* key : {"num_hidden_layers", "hidden_size",
                          "num_attention_heads", "vocab_size"}) {
    const std::string name = std::string("\"") + key + "\"";
    ExpectInvalid(With({{key, nullptr}}), {name + " is missing", "from 1 to"});
    ExpectInvalid(With({{key, 0}}), {name + " is 0", "from 1 to"});
    ExpectInvalid(With({{key, -4}}), {name + " is -4"});
    ExpectInvalid(With({{key, 1 << 30}}), {name + " is 1073741824"});
    ExpectInvalid(With({{key, 12.5}}), {name + " is 12.5", "an integer"});
    ExpectInvalid(With({{key, 12.0}}), {name + " is 12.0", "an integer"});
    ExpectInvalid(With({{key, "12"}}), {name + " is \"12\"", "an integer"});
    ExpectInvalid(With({{key, true}}), {name + " is true", "an integer"});
    ExpectInvalid(With({{key, {1, 2}}}), {name + " is an array"});
    ExpectInvalid(With({{key, {{"a", 1}}}}), {name + " is an object"});
    ExpectInvalid(With({{key, UINT64_MAX}}),
                  {name + " is 18446744073709551615"});
  }
  // 2^64 and more are no integers for the parser; they must not wrap around.
  ExpectInvalid(
      R"({"model_type":"opt","num_hidden_layers":18446744073709551617})",
      {"\"num_hidden_layers\" is 1.8446744"});
  ExpectInvalid(With({{"ffn_dim", 0}}), {"\"ffn_dim\" is 0", "from 1 to"});
  ExpectInvalid(With({{"ffn_dim", "big"}}), {"\"ffn_dim\" is \"big\""});
  ExpectInvalid(With({{"word_embed_proj_dim", 0}}),
                {"\"word_embed_proj_dim\" is 0"});
  ExpectInvalid(With({{"max_position_embeddings", 0}}),
                {"\"max_position_embeddings\" is 0", "from 1 to 65536"});
  ExpectInvalid(With({{"max_position_embeddings", 65537}}),
                {"\"max_position_embeddings\" is 65537", "from 1 to 65536"});
  ExpectInvalid(With({{"num_attention_heads", 3}}),
                {"\"num_attention_heads\" is 3", "must divide", "128"});
  ExpectInvalid(With({{"hidden_size", 1024}}),
                {"\"hidden_size\" 1024", "512 a head", "256"});
  ExpectInvalid(With({{"activation_function", "gelu_new"}}),
                {"\"activation_function\" is \"gelu_new\"",
                 "must be \"relu\" or \"gelu\""});
  ExpectInvalid(With({{"dtype", "float64"}}),
                {"\"dtype\" is \"float64\"",
                 "\"float32\" or \"bfloat16\" or \"float16\""});
  ExpectInvalid(With({{"torch_dtype", 16}}), {"\"torch_dtype\" is 16"});
  for (const char* key :
       {"do_layer_norm_before", "_remove_final_layer_norm", "enable_bias",
        "layer_norm_elementwise_affine", "tie_word_embeddings"}) {
    const std::string name = std::string("\"") + key + "\"";
    ExpectInvalid(With({{key, 1}}), {name + " is 1", "true or false"});
    ExpectInvalid(With({{key, "yes"}}), {name + " is \"yes\""});
  }
  ExpectInvalid(With({{"eos_token_id", 100}}),
                {"\"eos_token_id\" is 100", "from 0 to 99"});
  ExpectInvalid(With({{"eos_token_id", -1}}), {"\"eos_token_id\" is -1"});
  ExpectInvalid(With({{"eos_token_id", {2, 100}}}),
                {"\"eos_token_id\" is 100", "from 0 to 99"});
  ExpectInvalid(With({{"eos_token_id", "</s>"}}),
                {"\"eos_token_id\" is \"</s>\""});
  ExpectInvalid(With({{"eos_token_id", json::array()}}),
                {"\"eos_token_id\" is an array of 0", "1 to 32"});
  ExpectInvalid(With({{"eos_token_id", std::vector<int>(33, 2)}}),
                {"\"eos_token_id\" is an array of 33", "1 to 32"});
  // The default id 2 must exist too.
  ExpectInvalid(With({{"vocab_size", 2}}),
                {"\"eos_token_id\" is 2", "below \"vocab_size\", 2"});
  // A hostile value makes no hostile message.
  const auto long_value =
      ParseModelConfig(With({{"hidden_size", std::string(100000, 'x')}}), "t");
  EXPECT_LT(long_value.status().message().size(), 300u);
}

TEST(ModelConfigTest, SaysWhatIsNoJson) {
  const std::string good = With(json::object());
  for (const std::string& text :
       {std::string(), std::string("{"), good.substr(0, good.size() / 2),
        std::string("[1, 2]"), std::string("null"), std::string("\xff\xfe"),
        std::string(1 << 20, '['), good + "x",
        std::string("{\"a\": \"\xc3\"}")}) {
    const auto config = ParseModelConfig(text, "tiny");
    EXPECT_EQ(config.status().code(), absl::StatusCode::kDataLoss)
        << text.substr(0, 80) << ": " << config.status();
    EXPECT_THAT(std::string(config.status().message()),
                HasSubstr("config.json of tiny"));
  }
  // Deep, but well-formed.
  const std::string deep =
      R"({"x": )" + std::string(1 << 20, '[') + std::string(1 << 20, ']') + "}";
  const auto config = ParseModelConfig(deep, "tiny");
  EXPECT_EQ(config.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(config.status().message()), HasSubstr("nested"));
}

// Python's json module writes these numbers and reads them.
TEST(ModelConfigTest, TakesNaNAndInfinityWhereTheyAreNotUsed) {
  std::string text = With(json::object());
  text.pop_back();
  const auto config = ParseModelConfig(
      text + R"(, "layerdrop": NaN, "init_std":Infinity, "x": [-Infinity],
                 "y": "\"NaN", "activation_function": "gelu"})",
      "tiny");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->activation, Activation::kGelu);
  ExpectInvalid(text + R"(, "ffn_dim": NaN})", {"\"ffn_dim\" is \"NaN\""});
  ExpectInvalid(text + R"(, "ffn_dim": -Infinity})",
                {"\"ffn_dim\" is \"-Infinity\""});
  for (const char* bad : {"NaNN", "Infinity1", "-NaN", "nan", "\\NaN"}) {
    EXPECT_EQ(
        ParseModelConfig(text + ", \"x\": " + bad + "}", "t").status().code(),
        absl::StatusCode::kDataLoss)
        << bad;
  }
}

TEST(ModelConfigTest, OfAKeyThatOccursTwiceTheLastCounts) {
  std::string text = With({{"ffn_dim", 5}});
  text.pop_back();
  const auto config =
      ParseModelConfig(text + R"(, "ffn_dim": 7, "ffn_dim": 6})", "tiny");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->ffn_dim, 6);
}

TEST(ModelConfigTest, StopTokensOfTheGenerationConfigComeFirst) {
  TempDirectory directory;
  directory.Write("config.json", With({{"eos_token_id", 5}}));
  const auto stop_tokens = [&] {
    return ReadModelConfig(directory.path()).value().stop_tokens;
  };
  EXPECT_THAT(stop_tokens(), ElementsAre(5));
  for (const char* without : {"{}", R"({"eos_token_id": null})"}) {
    directory.Write("generation_config.json", without);
    EXPECT_THAT(stop_tokens(), ElementsAre(5));
  }
  directory.Write("generation_config.json", R"({"eos_token_id": 7})");
  EXPECT_THAT(stop_tokens(), ElementsAre(7));
  directory.Write("generation_config.json", R"({"eos_token_id": [8, 9]})");
  EXPECT_THAT(stop_tokens(), ElementsAre(8, 9));

  for (const auto& [text, says] :
       {std::pair(R"({"eos_token_id": 100})", "from 0 to 99"),
        {R"({"eos_token_id": -1})", "\"eos_token_id\" is -1"},
        {R"({"eos_token_id": 18446744073709551615})", "18446744073709551615"},
        {"[", "not JSON"}}) {
    directory.Write("generation_config.json", text);
    const auto config = ReadModelConfig(directory.path());
    ASSERT_FALSE(config.ok()) << text;
    EXPECT_THAT(std::string(config.status().message()),
                AllOf(HasSubstr("generation_config.json"), HasSubstr(says)));
  }
}

TEST(ModelConfigTest, SaysWhatIsMissing) {
  TempDirectory directory;
  auto config = ReadModelConfig(directory.path());
  EXPECT_EQ(config.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(config.status().message()),
              HasSubstr(directory.File("config.json")));
  config = ReadModelConfig(directory.File("nowhere"));
  EXPECT_EQ(config.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(config.status().message()), HasSubstr("nowhere"));
  std::filesystem::create_directory(directory.File("config.json"));
  config = ReadModelConfig(directory.path());
  EXPECT_EQ(config.status().code(), absl::StatusCode::kDataLoss);
}

TEST(ModelConfigTest, EveryRankNeedsAHead) {
  for (const auto& [name, heads] :
       {std::pair("opt-125m", 12), {"opt-175b", 96}}) {
    const auto config = BuiltInModelConfig(name);
    ASSERT_TRUE(config.ok());
    for (int size : {1, 5, 7, 8, heads}) {
      EXPECT_TRUE(ValidateTensorParallel(*config, size).ok());
    }
    for (int size : {0, -1, heads + 1, 1 << 30}) {
      const absl::Status status = ValidateTensorParallel(*config, size);
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(status.message()),
                  HasSubstr("size " + std::to_string(size)));
      EXPECT_THAT(std::string(status.message()),
                  HasSubstr("from 1 to " + std::to_string(heads)));
    }
  }
}

}  // namespace
}  // namespace h2o
