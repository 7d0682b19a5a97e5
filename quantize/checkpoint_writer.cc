// Plans shards, then writes header and data of one after the other.
#include "quantize/checkpoint_writer.h"

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

// A NewFile copies what it is given.
constexpr size_t kPieceBytes = 1 << 20;

std::vector<size_t> PlanShards(const std::vector<PlannedTensor>& tensors,
                               int64_t max_shard_bytes) {
  std::vector<size_t> ends;
  int64_t bytes = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (bytes > 0 && bytes + tensors[i].bytes > max_shard_bytes) {
      ends.push_back(i);
      bytes = 0;
    }
    bytes += tensors[i].bytes;
  }
  ends.push_back(tensors.size());
  return ends;
}

std::string In(const std::string& directory, const std::string& name) {
  return (std::filesystem::path(directory) / name).string();
}

}  // namespace

CheckpointWriter::CheckpointWriter(std::string directory,
                                   std::vector<PlannedTensor> tensors,
                                   int64_t max_shard_bytes)
    : directory_(std::move(directory)),
      tensors_(std::move(tensors)),
      shard_ends_(PlanShards(tensors_, max_shard_bytes)) {}

int64_t CheckpointWriter::bytes() const {
  int64_t bytes = 0;
  for (const PlannedTensor& tensor : tensors_) bytes += tensor.bytes;
  return bytes;
}

std::string CheckpointWriter::ShardName(size_t shard) const {
  if (shard_ends_.size() == 1) return "model.safetensors";
  return absl::StrFormat("model-%05d-of-%05d.safetensors", shard + 1,
                         shard_ends_.size());
}

absl::Status CheckpointWriter::OpenShard() {
  H2O_ASSIGN_OR_RETURN(file_,
                       NewFile::Create(In(directory_, ShardName(shard_))));
  file_.Append(SafetensorsHeader({{"format", "pt"}},
                                 absl::MakeConstSpan(tensors_).subspan(
                                     tensor_, shard_ends_[shard_] - tensor_)));
  return absl::OkStatus();
}

absl::Status CheckpointWriter::Append(absl::Span<const std::byte> bytes) {
  H2O_CHECK(tensor_ < tensors_.size()) << "all are written";
  const PlannedTensor& tensor = tensors_[tensor_];
  if (!file_.is_open()) H2O_RETURN_IF_ERROR(OpenShard());
  for (size_t i = 0; i < bytes.size(); i += kPieceBytes) {
    const auto piece = bytes.subspan(i, kPieceBytes);
    file_.Append({reinterpret_cast<const char*>(piece.data()), piece.size()});
  }
  appended_ += static_cast<int64_t>(bytes.size());
  H2O_CHECK(appended_ <= tensor.bytes)
      << tensor.name << " has " << tensor.bytes << " bytes";
  if (appended_ < tensor.bytes) return absl::OkStatus();
  appended_ = 0;
  if (++tensor_ < shard_ends_[shard_]) return absl::OkStatus();
  ++shard_;
  return file_.Commit();
}

absl::Status CheckpointWriter::Finish() {
  H2O_CHECK(tensor_ == tensors_.size()) << tensors_[tensor_].name;
  if (shard_ends_.size() == 1) return absl::OkStatus();
  nlohmann::ordered_json index;
  index["metadata"] = {{"total_size", bytes()}};
  size_t i = 0;
  for (size_t shard = 0; shard < shard_ends_.size(); ++shard) {
    for (; i < shard_ends_[shard]; ++i) {
      index["weight_map"][tensors_[i].name] = ShardName(shard);
    }
  }
  H2O_ASSIGN_OR_RETURN(
      NewFile file,
      NewFile::Create(In(directory_, "model.safetensors.index.json")));
  file.Append(index.dump(2) + "\n");
  return file.Commit();
}

}  // namespace h2o
