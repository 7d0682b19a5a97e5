// Names and shapes of the tensors of coded weights.
#include "model/coded_tensors.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/kv_page.h"

namespace h2o {
namespace {

constexpr int64_t kNibblesOfWord = 8;

CodedTensors Packed(const QuantizationConfig& config, const std::string& name,
                    int64_t outputs, int64_t inputs) {
  const WeightCoding& coding = config.coding;
  const bool int4 = coding.format == WeightFormat::kInt4;
  const int64_t groups = int4 ? CeilDiv(inputs, coding.group) : 1;
  CodedTensors tensors;
  tensors.codes = {name + "_packed",
                   "I32",
                   {outputs, CeilDiv(inputs, 32 / BitsOf(coding.format))}};
  tensors.scales = {name + "_scale", int4 ? "BF16" : "F32", {outputs, groups}};
  tensors.shape = {name + "_shape", "I64", {2}};
  if (int4 && !config.symmetric) {
    tensors.zeros = {name + "_zero_point",
                     "I32",
                     {CeilDiv(outputs, kNibblesOfWord), groups}};
  }
  return tensors;
}

CodedTensors Bytes(const QuantizationConfig& config, const std::string& name,
                   int64_t outputs, int64_t inputs) {
  const bool fp8 = config.coding.format == WeightFormat::kFp8;
  CodedTensors tensors;
  tensors.codes = {name, fp8 ? "F8_E4M3" : "I8", {outputs, inputs}};
  tensors.scales = {name + "_scale", "F32", {outputs, 1}};
  return tensors;
}

CodedTensors Gptq(const QuantizationConfig& config, const std::string& name,
                  int64_t outputs, int64_t inputs) {
  const std::string layer(absl::StripSuffix(name, "weight"));
  const int64_t groups = CeilDiv(inputs, config.coding.group);
  CodedTensors tensors;
  tensors.codes = {
      layer + "qweight", "I32", {CeilDiv(inputs, kNibblesOfWord), outputs}};
  tensors.scales = {layer + "scales", "F16", {groups, outputs}};
  tensors.zeros = {
      layer + "qzeros", "I32", {groups, CeilDiv(outputs, kNibblesOfWord)}};
  tensors.input_group = {layer + "g_idx", "I32", {inputs}};
  return tensors;
}

}  // namespace

std::vector<TensorForm> CodedTensors::All() const {
  std::vector<TensorForm> all;
  for (const TensorForm& form : {codes, scales, zeros, shape, input_group}) {
    if (!form.name.empty()) all.push_back(form);
  }
  return all;
}

CodedTensors CodedTensorsOf(const QuantizationConfig& config,
                            std::string_view name, int64_t outputs,
                            int64_t inputs) {
  const std::string weight(name);
  H2O_CHECK(config.layout != CodeLayout::kNone) << weight;
  if (config.layout == CodeLayout::kPacked) {
    return Packed(config, weight, outputs, inputs);
  }
  return config.layout == CodeLayout::kBytes
             ? Bytes(config, weight, outputs, inputs)
             : Gptq(config, weight, outputs, inputs);
}

void FlipPackedInt8(const std::byte* from, int64_t n, std::byte* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i] ^ std::byte{0x80};
}

}  // namespace h2o
