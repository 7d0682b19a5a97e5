// Checkpoints in Hugging Face's safetensors format, memory-mapped: only the
// pages of a file that are accessed are read from disk.
//
// A file is 8 bytes (the header's length, little-endian), a JSON header
// {name: {"dtype", "shape", "data_offsets": [begin, end)}} and the data, which
// the tensors fill without holes.  All of the header is checked when a file is
// opened, so a StoredTensor lies within its file.
//
// Threads  const methods may be called by any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/dtype.h"

namespace h2o {

// A view into a mapped file; lives as long as the Checkpoint it came from.
struct StoredTensor {
  const std::byte* data = nullptr;  // aligned to an element
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;  // row-major
  std::string name;            // as the file spells it

  int64_t num_elements() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
};

// The same of any dtype.
struct RawTensor {
  const std::byte* data = nullptr;  // aligned to an element
  std::string dtype;                // as the header spells it
  std::vector<int64_t> shape;
  std::string name;
  std::string file;  // its path
};

// A tensor as a file's header describes it.
struct HeaderEntry {
  std::string dtype;  // as the header spells it
  std::vector<int64_t> shape;
  int64_t begin_bytes = 0, end_bytes = 0;  // in the data
};

// What tells whether a file is still the one that was opened.
struct FileStamp {
  uint64_t device = 0, inode = 0;
  int64_t bytes = 0;
  int64_t modified_ns = 0, changed_ns = 0;
  friend bool operator==(const FileStamp&, const FileStamp&) = default;
};
FileStamp StampOf(int fd);  // all 0 if it cannot be told

// `name` without `prefix`, if that is in front.
std::string_view WithoutPrefix(std::string_view name, std::string_view prefix);

class SafetensorsFile {
 public:
  // Errors: NOT_FOUND without the file, DATA_LOSS if it is torn or malformed.
  static absl::StatusOr<std::unique_ptr<const SafetensorsFile>> Open(
      const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  // By its exact name.  Errors: NOT_FOUND; FAILED_PRECONDITION if the tensor is
  // neither F32, F16 nor BF16, or not aligned to its elements.
  absl::StatusOr<StoredTensor> Find(std::string_view name) const;
  // Of any dtype.  Errors: NOT_FOUND; FAILED_PRECONDITION if it is not aligned.
  absl::StatusOr<RawTensor> FindRaw(std::string_view name) const;
  bool Contains(std::string_view name) const {
    return entries_.find(name) != entries_.end();
  }
  std::vector<std::string> Names() const;  // ascending
  // The texts that the header has under "__metadata__", by their keys.
  const std::map<std::string, std::string, std::less<>>& metadata() const {
    return metadata_;
  }
  const std::string& path() const { return path_; }
  const FileStamp& stamp() const { return stamp_; }  // when it was opened
  // By name.
  const std::map<std::string, HeaderEntry, std::less<>>& entries() const {
    return entries_;
  }
  int64_t data_offset() const { return data_ - map_; }  // in bytes

 private:
  explicit SafetensorsFile(std::string path) : path_(std::move(path)) {}
  absl::Status Map();
  absl::Status ParseHeader();
  // Side by side the tensors fill the data: nothing twice, nothing unclaimed.
  absl::Status CheckNoGaps(int64_t data_bytes) const;

  const std::string path_;
  FileStamp stamp_;
  const std::byte* map_ = nullptr;
  int64_t map_bytes_ = 0;
  const std::byte* data_ = nullptr;  // behind the header
  std::map<std::string, HeaderEntry, std::less<>> entries_;
  std::map<std::string, std::string, std::less<>> metadata_;
};

// All tensors of a model: DIR/model.safetensors, or the shards that
// DIR/model.safetensors.index.json names.
class Checkpoint {
 public:
  // Errors: NOT_FOUND without the directory, a checkpoint in it or one of its
  // shards; FAILED_PRECONDITION if there are only pytorch_model*.bin files;
  // DATA_LOSS if a file is torn or malformed or index and shards disagree.
  // Some writers put `prefix` in front of every tensor's name, others do not.
  static absl::StatusOr<std::unique_ptr<const Checkpoint>> Open(
      const std::string& directory, std::string_view prefix);

  // `name` with or without the prefix, however the files spell it.
  // Errors: as SafetensorsFile::Find.
  absl::StatusOr<StoredTensor> Find(std::string_view name) const;
  absl::StatusOr<RawTensor> FindRaw(std::string_view name) const;
  bool Contains(std::string_view name) const;
  std::vector<std::string> Names() const;  // without the prefix, ascending

  const std::vector<std::unique_ptr<const SafetensorsFile>>& files() const {
    return files_;
  }
  const std::string& prefix() const { return prefix_; }

 private:
  struct Place {
    const SafetensorsFile* file;
    std::string name;  // in that file
  };

  // NOT_FOUND if there is none.
  absl::StatusOr<Place> PlaceOf(std::string_view name) const;
  Checkpoint(std::string directory, std::string_view prefix)
      : directory_(std::move(directory)), prefix_(prefix) {}
  absl::Status OpenShards(const std::string& directory);
  absl::Status Add(const SafetensorsFile* file, const std::string& name);

  const std::string directory_;
  const std::string prefix_;
  std::vector<std::unique_ptr<const SafetensorsFile>> files_;
  std::map<std::string, Place, std::less<>> places_;  // without the prefix
};

}  // namespace h2o
