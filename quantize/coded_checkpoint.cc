// Lists the tensors of a checkpoint of codes, and makes their bytes.
#include "quantize/coded_checkpoint.h"

#include <cstring>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/kv_page.h"
#include "base/status_macros.h"
#include "model/coded_tensors.h"
#include "worker/stored_rows.h"

namespace h2o {
namespace {

std::string_view HeaderName(DType dtype) {
  if (dtype == DType::kFloat32) return "F32";
  return dtype == DType::kBFloat16 ? "BF16" : "F16";
}

int64_t BytesOf(const TensorForm& form) {
  int64_t bytes = 0;
  if (form.dtype == "I64") bytes = 8;
  if (form.dtype == "F32" || form.dtype == "I32") bytes = 4;
  if (form.dtype == "BF16" || form.dtype == "F16") bytes = 2;
  if (form.dtype == "I8" || form.dtype == "F8_E4M3") bytes = 1;
  H2O_CHECK(bytes > 0) << form.name << " is " << std::string(form.dtype);
  for (const int64_t size : form.shape) bytes *= size;
  return bytes;
}

template <class Fn>
void ForEachCoded(const SourceModel& source, Fn&& fn) {
  for (const LayerMap& layer : source.map.layers) {
    for (const LayerProduct product : kLayerProducts) {
      for (const TensorSlice& slice : WeightsOf(layer, product)) fn(slice);
    }
  }
}

StoredTensor Find(const SourceModel& source, const std::string& name) {
  return source.checkpoint->Find(name).value();  // MapCheckpoint found it
}

// Tensors that stay numbers, without the prefix.
std::vector<std::string> Numbers(const SourceModel& source) {
  absl::flat_hash_set<std::string> others(source.family->ignored.begin(),
                                          source.family->ignored.end());
  ForEachCoded(source, [&](const TensorSlice& s) { others.insert(s.name); });
  std::vector<std::string> names;
  for (const std::string& name : source.checkpoint->Names()) {
    if (!others.contains(name)) names.push_back(name);
  }
  return names;
}

CodedTensors TensorsOf(const SourceModel& source,
                       const QuantizationConfig& storage,
                       const TensorSlice& slice) {
  return CodedTensorsOf(storage, Find(source, slice.name).name, slice.full_rows,
                        slice.full_columns);
}

std::vector<PlannedTensor> Plan(const SourceModel& source,
                                const QuantizationConfig& storage) {
  std::vector<PlannedTensor> plan;
  for (const std::string& name : Numbers(source)) {
    const StoredTensor tensor = Find(source, name);
    plan.push_back({tensor.name, std::string(HeaderName(tensor.dtype)),
                    tensor.shape,
                    tensor.num_elements() * SizeOf(tensor.dtype)});
  }
  ForEachCoded(source, [&](const TensorSlice& slice) {
    for (const TensorForm& form : TensorsOf(source, storage, slice).All()) {
      plan.push_back(
          {form.name, std::string(form.dtype), form.shape, BytesOf(form)});
    }
  });
  return plan;
}

template <class T>
absl::Span<const std::byte> BytesIn(const std::vector<T>& values) {
  return {reinterpret_cast<const std::byte*>(values.data()),
          values.size() * sizeof(T)};
}

// Rows of whole words.
std::vector<std::byte> PackedInt8(const CodedMatrix& codes, Range rows) {
  const int64_t row_bytes = CeilDiv(codes.columns, 4) * 4;
  std::vector<std::byte> packed(rows.size() * row_bytes);
  for (int64_t r = 0; r < rows.size(); ++r) {
    FlipPackedInt8(codes.Codes(rows.begin + r), codes.columns,
                   &packed[r * row_bytes]);
  }
  return packed;
}

}  // namespace

QuantizationConfig StorageOf(const SourceModel& source,
                             const WeightCoding& coding) {
  const bool int4 = coding.format == WeightFormat::kInt4;
  QuantizationConfig storage;
  storage.layout = coding.format == WeightFormat::kFp8 ? CodeLayout::kBytes
                                                       : CodeLayout::kPacked;
  storage.coding = coding;
  storage.symmetric = !int4;
  const TensorNames& names = source.family->names;
  storage.ignored = {names.head};
  if (source.config.has_projections()) {
    for (const char* name : {names.project_in, names.project_out}) {
      storage.ignored.push_back(absl::StrCat(names.prefix, name));
    }
  }
  return storage;
}

CodedCheckpoint::CodedCheckpoint(const SourceModel& source,
                                 const QuantizationConfig& storage,
                                 const std::string& directory,
                                 int64_t max_shard_bytes)
    : source_(source),
      storage_(storage),
      writer_(directory, Plan(source, storage), max_shard_bytes) {}

absl::Status CodedCheckpoint::CopyNumbers() {
  for (const std::string& name : Numbers(source_)) {
    const StoredTensor tensor = Find(source_, name);
    const int64_t n = tensor.num_elements();
    if (!AllFinite(tensor.data, tensor.dtype, n)) {
      return absl::DataLossError(absl::StrCat(
          "tensor ", tensor.name, " holds a number that is not finite"));
    }
    H2O_RETURN_IF_ERROR(writer_.Append(
        {tensor.data, static_cast<size_t>(n * SizeOf(tensor.dtype))}));
  }
  return absl::OkStatus();
}

absl::Status CodedCheckpoint::Write(const Slices& slices,
                                    const CodedMatrix& codes) {
  int64_t row = 0;
  for (const TensorSlice& slice : slices) {
    H2O_RETURN_IF_ERROR(WriteSlice(slice, codes, row));
    row += slice.full_rows;
  }
  return absl::OkStatus();
}

absl::Status CodedCheckpoint::WriteSlice(const TensorSlice& slice,
                                         const CodedMatrix& codes,
                                         int64_t first_row) {
  const Range rows = {first_row, first_row + slice.full_rows};
  switch (codes.coding.format) {
    case WeightFormat::kInt4:
      H2O_RETURN_IF_ERROR(WriteInt4(codes, rows));
      break;
    case WeightFormat::kInt8:
      H2O_RETURN_IF_ERROR(writer_.Append(PackedInt8(codes, rows)));
      H2O_RETURN_IF_ERROR(WriteRowScales(codes, rows));
      break;
    default:
      H2O_RETURN_IF_ERROR(WriteCodes(codes, rows));
      return WriteRowScales(codes, rows);
  }
  const std::vector<int64_t> shape = {slice.full_rows, slice.full_columns};
  return writer_.Append(BytesIn(shape));
}

absl::Status CodedCheckpoint::WriteCodes(const CodedMatrix& codes, Range rows) {
  return writer_.Append({codes.Codes(rows.begin),
                         static_cast<size_t>(rows.size() * codes.row_bytes())});
}

absl::Status CodedCheckpoint::WriteRowScales(const CodedMatrix& codes,
                                             Range rows) {
  return writer_.Append(
      {reinterpret_cast<const std::byte*>(codes.RowScale(rows.begin)),
       static_cast<size_t>(rows.size()) * sizeof(float)});
}

absl::Status CodedCheckpoint::WriteInt4(const CodedMatrix& codes, Range rows) {
  const int64_t groups = codes.columns / codes.coding.group;
  std::vector<uint16_t> scales;
  std::vector<uint32_t> zeros(CeilDiv(rows.size(), 8) * groups);
  for (int64_t r = 0; r < rows.size(); ++r) {
    const GroupScale* const of_row = codes.GroupScales(rows.begin + r);
    for (int64_t g = 0; g < groups; ++g) {
      scales.push_back(of_row[g].scale);
      PutPackedZero(zeros.data(), groups, r, g, of_row[g].zero);
    }
  }
  H2O_RETURN_IF_ERROR(WriteCodes(codes, rows));
  H2O_RETURN_IF_ERROR(writer_.Append(BytesIn(scales)));
  return writer_.Append(BytesIn(zeros));
}

}  // namespace h2o
