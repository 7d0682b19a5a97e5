// Reads and writes the "quantization_config" of a config.json.
#include "model/quantization_json.h"

#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "model/config_reader.h"

namespace h2o {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr int kMostGroup = 1 << 30;

// The inputs that share a scale, of int4.
void ReadGroup(ConfigReader* read, int* group) {
  read->RequiredInt("group_size", -1, kMostGroup, group);
  if (*group == 64 || *group == 128) return;
  read->Fail(
      absl::StrCat("\"group_size\" is ", *group, "; it must be 64 or 128"));
}

// ---- compressed-tensors

// In the order of kFormats.
enum class Format { kPack, kInt, kFloat, kNaive };
constexpr const char* kFormats[] = {"pack-quantized", "int-quantized",
                                    "float-quantized", "naive-quantized"};

// Of codes of 8 bits, in the order of the names of types.
constexpr const char* kTypes[] = {"int", "float"};
constexpr WeightFormat kFormatsOf8Bits[] = {WeightFormat::kInt8,
                                            WeightFormat::kFp8};

// A strategy that is not named follows from the size of groups.
void ReadStrategy(ConfigReader* read, std::string_view right) {
  if (read->Has("strategy")) {
    read->RequiredWord("strategy", {right.data()});
    return;
  }
  int group = 0;
  read->Int("group_size", -1, kMostGroup, 0, &group);
  const std::string_view implied = group > 0    ? "group"
                                   : group == 0 ? "tensor"
                                                : "channel";
  if (implied == right) return;
  read->Fail(absl::StrCat("\"strategy\" is missing, which stands for \"",
                          std::string(implied), "\"; it must be \"",
                          std::string(right), "\""));
}

// Calibration may have taken the inputs in another order, which the codes do
// not show; a layout in that order is another matter.
void CheckOrder(const json& weights, ConfigReader* read) {
  const auto it = weights.find("actorder");
  if (it != weights.end() && (*it == "weight" || *it == "static")) return;
  read->Without("actorder");
}

void ReadWeights(const json& weights, ConfigReader* read,
                 QuantizationConfig* config) {
  int bits = 0;
  read->RequiredInt("num_bits", 4, 8, &bits);
  if (bits != 4 && bits != 8) {
    read->Fail(absl::StrCat("\"num_bits\" is ", bits, "; it must be 4 or 8"));
  }
  const int type = read->Word("type", kTypes, 0);
  read->Bool("symmetric", true, &config->symmetric);
  read->Without("dynamic");
  read->Without("block_structure");
  CheckOrder(weights, read);
  if (bits == 8) {
    config->coding.format = kFormatsOf8Bits[type];
    ReadStrategy(read, "channel");
    if (!config->symmetric) {
      read->Fail("\"symmetric\" is false; of 8 bits it must be true");
    }
    return;
  }
  config->coding.format = WeightFormat::kInt4;
  read->Word("type", {"int"}, 0);
  ReadStrategy(read, "group");
  ReadGroup(read, &config->coding.group);
}

// Rounding that a reader does by itself, for each row of a layer's inputs.
void ReadInputs(ConfigReader* read, QuantizationConfig* config) {
  config->rounds_inputs = true;
  int bits = 0;
  bool dynamic = false, symmetric = true;
  read->RequiredInt("num_bits", 8, 8, &bits);
  read->Word("type", kTypes, 0);
  read->RequiredWord("strategy", {"token"});
  read->Bool("dynamic", false, &dynamic);
  read->Bool("symmetric", true, &symmetric);
  if (!dynamic) read->Fail("\"dynamic\" is false; it must be true");
  if (!symmetric) read->Fail("\"symmetric\" is false; it must be true");
}

absl::Status CheckFormat(Format format, const QuantizationConfig& config,
                         const std::string& what) {
  const WeightFormat stored = config.coding.format;
  const bool fits = format == Format::kPack    ? stored != WeightFormat::kFp8
                    : format == Format::kInt   ? stored == WeightFormat::kInt8
                    : format == Format::kFloat ? stored == WeightFormat::kFp8
                                               : stored != WeightFormat::kInt4;
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      what, ": \"format\" is \"", kFormats[static_cast<int>(format)],
      "\" with weights of ", std::string(Name(stored)),
      "; int4 is pack-quantized, int8 that, int-quantized or naive-quantized, "
      "fp8 float-quantized or naive-quantized"));
}

// One entry of "config_groups".
absl::Status ReadScheme(const json& scheme, const std::string& what,
                        Format format, QuantizationConfig* config) {
  ConfigReader read(scheme, what);
  const json* weights = read.RequiredObject("weights");
  const json* inputs = read.Object("input_activations");
  read.Without("output_activations");
  read.Word("format", {kFormats[static_cast<int>(format)]}, 0);
  H2O_RETURN_IF_ERROR(read.status());
  ConfigReader of_weights(*weights, what + ".weights");
  ReadWeights(*weights, &of_weights, config);
  H2O_RETURN_IF_ERROR(of_weights.status());
  if (inputs != nullptr) {
    ConfigReader of_inputs(*inputs, what + ".input_activations");
    ReadInputs(&of_inputs, config);
    H2O_RETURN_IF_ERROR(of_inputs.status());
  }
  return CheckFormat(format, *config, what);
}

// Sparse checkpoints say "dense" of weights that are not.
void CheckDense(const json& value, ConfigReader* read) {
  const auto it = value.find("sparsity_config");
  if (it != value.end() && it->is_object() &&
      it->value("format", json()) == "dense") {
    return;
  }
  read->Without("sparsity_config");
}

absl::StatusOr<QuantizationConfig> ReadCompressedTensors(
    const json& value, const std::string& what) {
  QuantizationConfig config;
  ConfigReader read(value, what);
  const auto format =
      static_cast<Format>(read.RequiredWord("format", kFormats));
  config.layout =
      format == Format::kPack ? CodeLayout::kPacked : CodeLayout::kBytes;
  read.Words("ignore", &config.ignored);
  read.Without("kv_cache_scheme");
  read.Without("transform_config");
  read.Without("moe_sparsity_config");
  CheckDense(value, &read);
  const json* groups = read.RequiredObject("config_groups");
  H2O_RETURN_IF_ERROR(read.status());
  if (groups->size() != 1) {
    read.Fail(absl::StrCat("\"config_groups\" has ", groups->size(),
                           " groups; it must have 1, for all linear layers"));
    return read.status();
  }
  const std::string name = groups->items().begin().key();
  ConfigReader of_groups(*groups, what + ".config_groups");
  const json* scheme = of_groups.RequiredObject(name.c_str());
  H2O_RETURN_IF_ERROR(of_groups.status());
  H2O_RETURN_IF_ERROR(
      ReadScheme(*scheme, what + ".config_groups." + name, format, &config));
  return config;
}

const char* FormatName(const QuantizationConfig& config) {
  if (config.layout == CodeLayout::kPacked) return "pack-quantized";
  return config.coding.format == WeightFormat::kFp8 ? "float-quantized"
                                                    : "int-quantized";
}

ordered_json WriteWeights(const QuantizationConfig& config) {
  const WeightCoding& coding = config.coding;
  const bool int4 = coding.format == WeightFormat::kInt4;
  ordered_json weights;
  weights["num_bits"] = BitsOf(coding.format);
  weights["type"] = coding.format == WeightFormat::kFp8 ? "float" : "int";
  weights["symmetric"] = config.symmetric;
  weights["strategy"] = int4 ? "group" : "channel";
  weights["group_size"] = int4 ? ordered_json(coding.group) : ordered_json();
  weights["dynamic"] = false;
  return weights;
}

ordered_json WriteInputs(const QuantizationConfig& config) {
  if (!config.rounds_inputs) return {};
  const bool fp8 = config.coding.format == WeightFormat::kFp8;
  return {{"num_bits", 8},
          {"type", fp8 ? "float" : "int"},
          {"symmetric", true},
          {"strategy", "token"},
          {"dynamic", true}};
}

// ---- GPTQ

absl::StatusOr<QuantizationConfig> ReadGptq(const json& value,
                                            const std::string& what) {
  QuantizationConfig config;
  config.layout = CodeLayout::kGptq;
  config.coding.format = WeightFormat::kInt4;
  ConfigReader read(value, what);
  int bits = 0;
  read.RequiredInt("bits", 4, 4, &bits);
  ReadGroup(&read, &config.coding.group);
  read.Bool("sym", true, &config.symmetric);
  read.Without("desc_act");
  read.Without("lm_head");
  read.Without("dynamic");  // layers that are stored in other ways
  read.Without("is_marlin_format");
  read.Word("pack_dtype", {"int32"}, 0);
  const int version = read.Word("checkpoint_format", {"gptq", "gptq_v2"}, 0);
  config.zeros_less_one = version == 0;
  H2O_RETURN_IF_ERROR(read.status());
  return config;
}

}  // namespace

absl::StatusOr<QuantizationConfig> ReadQuantizationConfig(
    const json& value, const std::string& what) {
  ConfigReader read(value, what);
  if (!value.is_object()) {
    read.Fail("it must be an object");
    return read.status();
  }
  const int method =
      read.RequiredWord("quant_method", {"compressed-tensors", "gptq"});
  H2O_RETURN_IF_ERROR(read.status());
  return method == 0 ? ReadCompressedTensors(value, what)
                     : ReadGptq(value, what);
}

ordered_json WriteQuantizationConfig(const QuantizationConfig& config) {
  const bool fp8 = config.coding.format == WeightFormat::kFp8;
  const bool int4 = config.coding.format == WeightFormat::kInt4;
  H2O_CHECK(!IsPlain(config.coding.format) &&
            ((config.layout == CodeLayout::kPacked && !fp8) ||
             (config.layout == CodeLayout::kBytes && !int4)));
  ordered_json scheme;
  scheme["targets"] = {"Linear"};
  scheme["weights"] = WriteWeights(config);
  scheme["input_activations"] = WriteInputs(config);
  scheme["output_activations"] = nullptr;
  scheme["format"] = FormatName(config);
  ordered_json value;
  value["quant_method"] = "compressed-tensors";
  value["format"] = FormatName(config);
  value["quantization_status"] = "compressed";
  value["config_groups"]["group_0"] = scheme;
  value["ignore"] = config.ignored;
  value["kv_cache_scheme"] = nullptr;
  // compressed-tensors 0.18.0 to 0.20.1 do not find room for packed zero points
  // in a model whose weights stay codes.  For transformers; vLLM does not read
  // it.
  if (!config.symmetric) value["dequantize"] = true;
  return value;
}

}  // namespace h2o
