// Finds the tensors of a coded weight, checks what they hold, and copies rows.
#include "worker/stored_codes.h"

#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/kv_page.h"
#include "base/status_macros.h"
#include "base/weight_codes.h"

namespace h2o {
namespace {

std::optional<DType> DTypeOfScales(std::string_view dtype) {
  if (dtype == "F32") return DType::kFloat32;
  if (dtype == "BF16") return DType::kBFloat16;
  if (dtype == "F16") return DType::kFloat16;
  return std::nullopt;
}

const uint32_t* WordsOf(const RawTensor& tensor) {
  return reinterpret_cast<const uint32_t*>(tensor.data);
}

// "FILE: tensor NAME", which errors begin with.
std::string NameOf(const RawTensor& tensor) {
  return absl::StrCat(tensor.file, ": tensor ", tensor.name);
}

absl::StatusOr<RawTensor> FindForm(const Checkpoint& checkpoint,
                                   const TensorForm& form,
                                   const QuantizationConfig& config) {
  absl::StatusOr<RawTensor> tensor = checkpoint.FindRaw(form.name);
  if (absl::IsNotFound(tensor.status())) {
    return absl::FailedPreconditionError(absl::StrCat(
        tensor.status().message(), "; the quantization_config of config.json, ",
        Describe(config.coding), ", asks for it"));
  }
  if (!tensor.ok() || tensor->shape == form.shape) return tensor;
  return absl::FailedPreconditionError(absl::StrCat(
      NameOf(*tensor), " has shape [", absl::StrJoin(tensor->shape, ", "),
      "]; config.json, with ", Describe(config.coding), ", asks for [",
      absl::StrJoin(form.shape, ", "), "]"));
}

absl::Status CheckDType(const RawTensor& tensor, std::string_view right) {
  if (tensor.dtype == right) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(NameOf(tensor), " is stored as ", tensor.dtype,
                   "; it must be ", std::string(right)));
}

// A scale may be negative: some quantizers have it so.
bool IsScale(float scale) { return std::isfinite(scale) && scale != 0; }

bool HasNan(const std::byte* fp8, int64_t n) {
  bool any = false;
  for (int64_t i = 0; i < n; ++i) {
    any |= (static_cast<uint8_t>(fp8[i]) & 0x7f) == 0x7f;
  }
  return any;
}

}  // namespace

absl::StatusOr<StoredCodes> StoredCodes::Find(const Checkpoint& checkpoint,
                                              const QuantizationConfig& config,
                                              const TensorSlice& slice) {
  StoredCodes stored(config, slice);
  H2O_RETURN_IF_ERROR(stored.FindTensors(checkpoint));
  if (stored.is_int4()) {
    const int group = config.coding.group;
    stored.all_groups_ = CeilDiv(slice.full_columns, group);
    stored.groups_ = {slice.columns.begin / group,
                      CeilDiv(slice.columns.end, group)};
  }
  return stored;
}

absl::Status StoredCodes::FindTensors(const Checkpoint& checkpoint) {
  const CodedTensors forms = CodedTensorsOf(
      config_, slice_.name, slice_.full_rows, slice_.full_columns);
  H2O_RETURN_IF_ERROR(CheckOnlyCodes(checkpoint, forms));
  H2O_ASSIGN_OR_RETURN(codes_, FindForm(checkpoint, forms.codes, config_));
  H2O_RETURN_IF_ERROR(CheckDType(codes_, forms.codes.dtype));
  H2O_ASSIGN_OR_RETURN(scales_, FindForm(checkpoint, forms.scales, config_));
  const std::optional<DType> dtype = DTypeOfScales(scales_.dtype);
  if (!dtype) return CheckDType(scales_, "F32, BF16 or F16");
  scale_dtype_ = *dtype;
  if (!forms.zeros.name.empty()) {
    H2O_ASSIGN_OR_RETURN(zeros_, FindForm(checkpoint, forms.zeros, config_));
    H2O_RETURN_IF_ERROR(CheckDType(zeros_, forms.zeros.dtype));
  }
  if (!forms.shape.name.empty()) {
    H2O_ASSIGN_OR_RETURN(const RawTensor shape,
                         FindForm(checkpoint, forms.shape, config_));
    H2O_RETURN_IF_ERROR(CheckWeightShape(shape));
  }
  if (forms.input_group.name.empty()) return absl::OkStatus();
  H2O_ASSIGN_OR_RETURN(const RawTensor input_group,
                       FindForm(checkpoint, forms.input_group, config_));
  return CheckInputsInOrder(input_group);
}

absl::Status StoredCodes::CheckOnlyCodes(const Checkpoint& checkpoint,
                                         const CodedTensors& forms) const {
  if (forms.codes.name == slice_.name) return absl::OkStatus();
  const absl::StatusOr<RawTensor> plain = checkpoint.FindRaw(slice_.name);
  if (!plain.ok()) return absl::OkStatus();
  const bool both = checkpoint.Contains(forms.codes.name);
  return absl::FailedPreconditionError(absl::StrCat(
      NameOf(*plain), " is stored as numbers",
      both ? absl::StrCat(" and as codes, in ", forms.codes.name) : "",
      "; the quantization_config of config.json, ", Describe(config_.coding),
      ", must hold for all linear layers of layers"));
}

absl::Status StoredCodes::CheckWeightShape(const RawTensor& shape) const {
  H2O_RETURN_IF_ERROR(CheckDType(shape, "I64"));
  const auto* sizes = reinterpret_cast<const int64_t*>(shape.data);
  if (sizes[0] == slice_.full_rows && sizes[1] == slice_.full_columns) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat(NameOf(shape), " holds [", sizes[0], ", ", sizes[1],
                   "]; config.json asks for [", slice_.full_rows, ", ",
                   slice_.full_columns, "]"));
}

absl::Status StoredCodes::CheckInputsInOrder(
    const RawTensor& input_group) const {
  H2O_RETURN_IF_ERROR(CheckDType(input_group, "I32"));
  const auto* groups = reinterpret_cast<const int32_t*>(input_group.data);
  for (int64_t i = 0; i < slice_.full_columns; ++i) {
    const int64_t right = i / config_.coding.group;
    if (groups[i] == right) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        NameOf(input_group), " holds ", groups[i], " at [", i,
        "]; without act-order, which is not supported, it is ", right));
  }
  return absl::OkStatus();
}

// ---- Rows

bool StoredCodes::CopyRow(int64_t r, std::byte* codes,
                          std::byte* scales) const {
  const int64_t output = OutputOf(r);
  CopyCodes(output, codes);
  if (is_int4()) return CopyGroupScales(output, scales);
  const bool nan = config_.coding.format == WeightFormat::kFp8 &&
                   HasNan(codes, slice_.columns.size());
  return CopyScale(output, scales) && !nan;
}

void StoredCodes::CopyCodes(int64_t output, std::byte* codes) const {
  if (config_.layout == CodeLayout::kGptq) return GatherGptq(output, codes);
  const Range& columns = slice_.columns;
  if (config_.layout == CodeLayout::kBytes) {
    const std::byte* row = codes_.data + output * slice_.full_columns;
    std::memcpy(codes, row + columns.begin, columns.size());
    return;
  }
  const std::byte* row = codes_.data + output * codes_.shape[1] * 4;
  if (is_int4()) {
    std::memcpy(codes, row + columns.begin / 2, CeilDiv(columns.size(), 2));
  } else {
    FlipPackedInt8(row + columns.begin, columns.size(), codes);
  }
}

// A word has 8 codes of a row, as 4 bytes of ours have.
void StoredCodes::GatherGptq(int64_t output, std::byte* codes) const {
  const Range& columns = slice_.columns;
  const uint32_t* words = WordsOf(codes_);
  int64_t left = CeilDiv(columns.size(), 2);
  for (int64_t i = columns.begin / 8; left > 0; ++i, left -= 4, codes += 4) {
    std::memcpy(codes, words + i * slice_.full_rows + output,
                std::min<int64_t>(left, 4));
  }
}

int64_t StoredCodes::ScaleIndex(int64_t output, int64_t group) const {
  return config_.layout == CodeLayout::kGptq ? group * slice_.full_rows + output
                                             : output * all_groups_ + group;
}

float StoredCodes::ScaleAt(int64_t output, int64_t group) const {
  return LoadElement(scales_.data, scale_dtype_, ScaleIndex(output, group));
}

int StoredCodes::ZeroAt(int64_t output, int64_t group) const {
  if (config_.layout == CodeLayout::kGptq) {
    const int64_t word = group * zeros_.shape[1] + output / 8;
    return NibbleOf(WordsOf(zeros_), word, output % 8) +
           (config_.zeros_less_one ? 1 : 0);
  }
  if (config_.symmetric) return 8;
  return PackedZero(WordsOf(zeros_), all_groups_, output, group);
}

bool StoredCodes::CopyScale(int64_t output, std::byte* scales) const {
  const float scale = ScaleAt(output, 0);
  std::memcpy(scales, &scale, sizeof(scale));
  return IsScale(scale);
}

bool StoredCodes::CopyGroupScales(int64_t output, std::byte* scales) const {
  bool right = true;
  for (int64_t g = groups_.begin; g < groups_.end; ++g) {
    const int zero = ZeroAt(output, g);
    const GroupScale scale = {ToBFloat16(ScaleAt(output, g)),
                              static_cast<uint16_t>(zero)};
    right = right && IsScale(FromBFloat16(scale.scale)) && zero <= 15;
    std::memcpy(scales, &scale, sizeof(scale));
    scales += sizeof(scale);
  }
  return right;
}

// ---- What is wrong

absl::Status StoredCodes::ErrorOf(int64_t r) const {
  const int64_t output = OutputOf(r);
  for (int64_t g = groups_.begin; g < groups_.end; ++g) {
    const float scale = ScaleAt(output, g);
    const float kept = is_int4() ? FromBFloat16(ToBFloat16(scale)) : scale;
    if (!IsScale(kept)) return BadScale(output, g);
    if (is_int4() && ZeroAt(output, g) > 15) return BadZero(output, g);
  }
  const auto* codes = reinterpret_cast<const uint8_t*>(codes_.data);
  const int64_t row = output * slice_.full_columns;
  int64_t c = slice_.columns.begin;
  while (c + 1 < slice_.columns.end && (codes[row + c] & 0x7f) != 0x7f) ++c;
  return absl::DataLossError(absl::StrCat(NameOf(codes_), " holds NaN at [",
                                          output, ", ", c,
                                          "]; get the checkpoint again"));
}

absl::Status StoredCodes::BadScale(int64_t output, int64_t group) const {
  const bool gptq = config_.layout == CodeLayout::kGptq;
  return absl::DataLossError(absl::StrCat(
      NameOf(scales_), " holds ", ScaleAt(output, group), " at [",
      gptq ? group : output, ", ", gptq ? output : group,
      "]; a scale is finite and not 0",
      is_int4() && scale_dtype_ == DType::kFloat32 ? ", also in bf16" : ""));
}

absl::Status StoredCodes::BadZero(int64_t output, int64_t group) const {
  return absl::DataLossError(
      absl::StrCat(NameOf(zeros_), " stands for a zero point of ",
                   ZeroAt(output, group), " at [", group, ", ", output / 8,
                   "], output ", output, "; it must be 0 to 15"));
}

}  // namespace h2o
