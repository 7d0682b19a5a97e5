// Opens checkpoints: maps safetensors files and checks their headers.
#include "model/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "model/json_file.h"

namespace h2o {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little,
              "tensors are used where they lie");

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr size_t kMaxDimensions = 8;              // errors print them all

// Bits of an element; nullopt for a dtype younger than this file.
std::optional<int64_t> BitsOf(std::string_view dtype) {
  static constexpr std::pair<std::string_view, int> kBits[] = {
      {"F4", 4},   {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"BOOL", 8},    {"U8", 8},
      {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"I16", 16},
      {"U16", 16}, {"F16", 16},    {"BF16", 16},   {"I32", 32},    {"U32", 32},
      {"F32", 32}, {"F64", 64},    {"I64", 64},    {"U64", 64},    {"C64", 64},
  };
  for (const auto& [name, bits] : kBits) {
    if (dtype == name) return bits;
  }
  return std::nullopt;
}

std::optional<DType> ToDType(std::string_view dtype) {
  if (dtype == "F32") return DType::kFloat32;
  if (dtype == "BF16") return DType::kBFloat16;
  if (dtype == "F16") return DType::kFloat16;
  return std::nullopt;
}

// A size or an offset: not negative, not beyond int64.
std::optional<int64_t> ToSize(const json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const uint64_t size = value.get<uint64_t>();
  if (size > INT64_MAX) return std::nullopt;
  return static_cast<int64_t>(size);
}

std::string Quoted(std::string_view name) { return Describe(json(name)); }

// ---- One tensor's entry of a header: {"dtype": "F16", "shape": [2, 3],
// "data_offsets": [0, 12]}.  Errors do not name the tensor; the caller does.

template <typename... Parts>
absl::Status Malformed(const Parts&... what) {
  return absl::DataLossError(absl::StrCat(what...));
}

// The elements of a shape, which is appended to `shape`.
absl::StatusOr<int64_t> ParseShape(const json& sizes,
                                   std::vector<int64_t>* shape) {
  if (!sizes.is_array()) {
    return Malformed("\"shape\" is ", Describe(sizes),
                     "; it must be an array of sizes");
  }
  if (sizes.size() > kMaxDimensions) {
    return Malformed("\"shape\" has ", sizes.size(),
                     " dimensions; a model's tensors have at most ",
                     kMaxDimensions);
  }
  int64_t num_elements = 1;
  for (const json& size : sizes) {
    const std::optional<int64_t> n = ToSize(size);
    if (!n) {
      return Malformed("\"shape\" holds ", Describe(size),
                       "; it must hold sizes from 0 on");
    }
    // Also where another size is 0: a caller may multiply in any order.
    if (*n > 0 && num_elements > INT64_MAX / 64 / *n) {
      return Malformed("\"shape\" overflows: no file holds so many elements");
    }
    num_elements *= std::max<int64_t>(*n, 1);
    shape->push_back(*n);
  }
  const bool empty = std::find(shape->begin(), shape->end(), 0) != shape->end();
  return empty ? 0 : num_elements;
}

// [begin, end) in bytes.
absl::StatusOr<std::pair<int64_t, int64_t>> ParseOffsets(const json& offsets,
                                                         int64_t data_bytes) {
  const bool is_pair = offsets.is_array() && offsets.size() == 2;
  std::optional<int64_t> begin, end;
  if (is_pair) {
    begin = ToSize(offsets[0]);
    end = ToSize(offsets[1]);
  }
  if (!begin || !end || *begin > *end) {
    return Malformed("\"data_offsets\" is ",
                     is_pair ? absl::StrCat("[", Describe(offsets[0]), ", ",
                                            Describe(offsets[1]), "]")
                             : Describe(offsets),
                     "; it must be [begin, end) in bytes");
  }
  if (*end > data_bytes) {
    return Malformed("it ends at byte ", *end, " of the data, the file at ",
                     data_bytes, ": the file is torn");
  }
  return std::pair(*begin, *end);
}

absl::StatusOr<HeaderEntry> ParseEntry(const json& value, int64_t data_bytes) {
  if (!value.is_object()) {
    return Malformed("its entry is ", Describe(value),
                     "; it must be an object");
  }
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!value.contains(key)) return Malformed("\"", key, "\" is missing");
  }
  const json& dtype = value["dtype"];
  if (!dtype.is_string()) {
    return Malformed("\"dtype\" is ", Describe(dtype),
                     "; it must be a string like \"F16\"");
  }
  HeaderEntry entry;
  entry.dtype = dtype.get<std::string>();
  H2O_ASSIGN_OR_RETURN(const int64_t num_elements,
                       ParseShape(value["shape"], &entry.shape));
  H2O_ASSIGN_OR_RETURN(const auto range,
                       ParseOffsets(value["data_offsets"], data_bytes));
  entry.begin_bytes = range.first;
  entry.end_bytes = range.second;
  if (const auto bits = BitsOf(entry.dtype)) {
    const int64_t right_bytes = (num_elements * *bits + 7) / 8;
    const int64_t bytes = entry.end_bytes - entry.begin_bytes;
    if (bytes != right_bytes) {
      return Malformed("it has ", bytes, " bytes; ", entry.dtype, " [",
                       absl::StrJoin(entry.shape, ", "), "] takes ",
                       right_bytes);
    }
  }
  return entry;
}

// What is no text is none of the format's, and left out.
std::map<std::string, std::string, std::less<>> TextsOf(const json& metadata) {
  std::map<std::string, std::string, std::less<>> texts;
  if (!metadata.is_object()) return texts;
  for (const auto& [key, value] : metadata.items()) {
    if (value.is_string()) texts.emplace(key, value.get<std::string>());
  }
  return texts;
}

}  // namespace

FileStamp StampOf(int fd) {
  struct stat info;
  if (fstat(fd, &info) != 0) return {};
  const auto nanoseconds = [](const timespec& time) {
    return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
  };
  return {info.st_dev, info.st_ino, info.st_size, nanoseconds(info.st_mtim),
          nanoseconds(info.st_ctim)};
}

std::string_view WithoutPrefix(std::string_view name, std::string_view prefix) {
  return name.starts_with(prefix) ? name.substr(prefix.size()) : name;
}

// ---- SafetensorsFile

absl::StatusOr<std::unique_ptr<const SafetensorsFile>> SafetensorsFile::Open(
    const std::string& path) {
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile(path));
  H2O_RETURN_IF_ERROR(file->Map());
  H2O_RETURN_IF_ERROR(file->ParseHeader());
  return file;
}

SafetensorsFile::~SafetensorsFile() {
  if (map_ != nullptr) {
    munmap(const_cast<std::byte*>(map_), static_cast<size_t>(map_bytes_));
  }
}

absl::Status SafetensorsFile::Map() {
  // O_NONBLOCK: a named pipe must be refused, not waited for.
  const int fd = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const std::string why = absl::StrCat(path_, ": ", std::strerror(errno));
    return errno == ENOENT ? absl::NotFoundError(why)
                           : absl::DataLossError(why);
  }
  struct stat info;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return absl::DataLossError(absl::StrCat(path_, " is not a plain file"));
  }
  if (info.st_size < kLengthBytes) {
    close(fd);
    return absl::DataLossError(
        absl::StrCat(path_, " is torn: it has ", info.st_size,
                     " bytes; a safetensors file begins with 8 bytes that hold "
                     "its header's length"));
  }
  stamp_ = StampOf(fd);
  void* map = mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ,
                   MAP_PRIVATE, fd, 0);
  const int error = errno;
  close(fd);  // the mapping stays
  if (map == MAP_FAILED) {
    return absl::DataLossError(
        absl::StrCat(path_, " cannot be mapped: ", std::strerror(error)));
  }
  map_ = static_cast<const std::byte*>(map);
  map_bytes_ = info.st_size;
  return absl::OkStatus();
}

absl::Status SafetensorsFile::ParseHeader() {
  uint64_t header_bytes;
  std::memcpy(&header_bytes, map_, kLengthBytes);
  if (header_bytes > kMaxHeaderBytes) {
    return absl::DataLossError(absl::StrCat(
        path_, ": the header's length is ", header_bytes, " bytes; at most ",
        kMaxHeaderBytes, " are right (is this a safetensors file?)"));
  }
  const int64_t data_offset = kLengthBytes + static_cast<int64_t>(header_bytes);
  if (data_offset > map_bytes_) {
    return absl::DataLossError(
        absl::StrCat(path_, " is torn: its header ends at byte ", data_offset,
                     ", the file at ", map_bytes_));
  }
  data_ = map_ + data_offset;
  const int64_t data_bytes = map_bytes_ - data_offset;

  H2O_ASSIGN_OR_RETURN(
      const json header,
      ParseJsonObject(
          std::string_view(reinterpret_cast<const char*>(map_) + kLengthBytes,
                           static_cast<size_t>(header_bytes)),
          absl::StrCat("the header of ", path_)));

  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      metadata_ = TextsOf(value);
      continue;
    }
    absl::StatusOr<HeaderEntry> entry = ParseEntry(value, data_bytes);
    if (!entry.ok()) {
      return absl::DataLossError(absl::StrCat(path_, ": tensor ", Quoted(name),
                                              ": ", entry.status().message()));
    }
    entries_.emplace(name, *std::move(entry));
  }
  return CheckNoGaps(data_bytes);
}

absl::Status SafetensorsFile::CheckNoGaps(int64_t data_bytes) const {
  std::vector<std::pair<const std::string*, const HeaderEntry*>> in_order;
  for (const auto& [name, entry] : entries_)
    in_order.push_back({&name, &entry});
  std::sort(in_order.begin(), in_order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->begin_bytes, a.second->end_bytes) <
           std::pair(b.second->begin_bytes, b.second->end_bytes);
  });
  int64_t filled_bytes = 0;
  for (const auto& [name, entry] : in_order) {
    if (entry->begin_bytes != filled_bytes) {
      return absl::DataLossError(absl::StrCat(
          path_, ": tensor ", Quoted(*name), " begins at byte ",
          entry->begin_bytes, " of the data; the one before it ends at ",
          filled_bytes,
          entry->begin_bytes < filled_bytes ? ": they overlap"
                                            : ": there is a hole"));
    }
    filled_bytes = entry->end_bytes;
  }
  if (filled_bytes != data_bytes) {
    return absl::DataLossError(
        absl::StrCat(path_, ": the tensors end at byte ", filled_bytes,
                     " of the data, the file at ", data_bytes,
                     "; nothing may follow the last tensor"));
  }
  return absl::OkStatus();
}

absl::StatusOr<StoredTensor> SafetensorsFile::Find(
    std::string_view name) const {
  H2O_ASSIGN_OR_RETURN(RawTensor raw, FindRaw(name));
  const std::optional<DType> dtype = ToDType(raw.dtype);
  if (!dtype) {
    return absl::FailedPreconditionError(absl::StrCat(
        path_, ": tensor ", Quoted(name), " is stored as ", Quoted(raw.dtype),
        "; only F32, F16 and BF16 are supported"));
  }
  return StoredTensor{raw.data, *dtype, std::move(raw.shape),
                      std::move(raw.name)};
}

absl::StatusOr<RawTensor> SafetensorsFile::FindRaw(
    std::string_view name) const {
  const auto it = entries_.find(name);
  if (it == entries_.end()) {
    return absl::NotFoundError(
        absl::StrCat(path_, " has no tensor ", Quoted(name)));
  }
  const HeaderEntry& entry = it->second;
  const std::byte* data = data_ + entry.begin_bytes;
  const int64_t element =
      std::max<int64_t>(BitsOf(entry.dtype).value_or(8) / 8, 1);
  if (reinterpret_cast<uintptr_t>(data) % element != 0) {
    // Files of the first writers, whose headers were not padded.
    return absl::FailedPreconditionError(absl::StrCat(
        path_, ": tensor ", Quoted(name), " is not aligned to its ", element,
        "-byte elements; save the file again with a newer safetensors"));
  }
  return RawTensor{data, entry.dtype, entry.shape, it->first, path_};
}

std::vector<std::string> SafetensorsFile::Names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_) names.push_back(name);
  return names;
}

// ---- Checkpoint

absl::StatusOr<std::unique_ptr<const Checkpoint>> Checkpoint::Open(
    const std::string& directory, std::string_view prefix) {
  namespace fs = std::filesystem;
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint(directory, prefix));
  const fs::path root(directory);
  std::error_code ignored;
  if (!fs::is_directory(root, ignored)) {
    return absl::NotFoundError(absl::StrCat("no model directory ", directory));
  }
  if (fs::exists(root / "model.safetensors", ignored)) {
    H2O_ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open(
                                        (root / "model.safetensors").string()));
    for (const std::string& name : file->Names()) {
      H2O_RETURN_IF_ERROR(checkpoint->Add(file.get(), name));
    }
    checkpoint->files_.push_back(std::move(file));
  } else if (fs::exists(root / "model.safetensors.index.json", ignored)) {
    H2O_RETURN_IF_ERROR(checkpoint->OpenShards(directory));
  } else {
    for (fs::directory_iterator it(root, ignored), end; it != end;
         it.increment(ignored)) {
      const std::string name = it->path().filename().string();
      if (name.starts_with("pytorch_model") && name.ends_with(".bin")) {
        return absl::FailedPreconditionError(
            absl::StrCat(directory, " has its weights in ", name,
                         ", not in safetensors; convert it once: "
                         "tools/convert_checkpoint.py ",
                         directory, " OUTPUT_DIRECTORY"));
      }
    }
    return absl::NotFoundError(absl::StrCat(
        "no weights in ", directory,
        "; there must be model.safetensors, or model.safetensors.index.json "
        "and the files it names"));
  }
  return checkpoint;
}

absl::Status Checkpoint::OpenShards(const std::string& directory) {
  const std::filesystem::path root(directory);
  const std::string index_path =
      (root / "model.safetensors.index.json").string();
  H2O_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(index_path));
  H2O_ASSIGN_OR_RETURN(const json index, ParseJsonObject(text, index_path));
  const auto weight_map = index.find("weight_map");
  if (weight_map == index.end() || !weight_map->is_object() ||
      weight_map->empty()) {
    return absl::DataLossError(
        absl::StrCat(index_path,
                     ": \"weight_map\" must be an object of tensor names and "
                     "the files that hold them"));
  }
  std::map<std::string, const SafetensorsFile*> shards;
  for (const auto& [name, shard] : weight_map->items()) {
    // A plain name: an index must not lead out of its directory.
    if (!shard.is_string() || shard.get_ref<const std::string&>().empty() ||
        shard.get_ref<const std::string&>().find_first_of(
            std::string_view("/\\\0", 3)) != std::string::npos) {
      return absl::DataLossError(absl::StrCat(
          index_path, ": tensor ", Quoted(name), " is said to be in ",
          Describe(shard), "; it must be the name of a file beside the index"));
    }
    const std::string shard_name = shard.get<std::string>();
    auto it = shards.find(shard_name);
    if (it == shards.end()) {
      auto file = SafetensorsFile::Open((root / shard_name).string());
      if (absl::IsNotFound(file.status())) {
        return absl::NotFoundError(absl::StrCat(
            "no file ", (root / shard_name).string(), ", which holds ",
            Quoted(name), " according to ", index_path));
      }
      H2O_RETURN_IF_ERROR(file.status());
      files_.push_back(*std::move(file));
      it = shards.emplace(shard_name, files_.back().get()).first;
    }
    if (!it->second->Contains(name)) {
      return absl::DataLossError(
          absl::StrCat(it->second->path(), " has no tensor ", Quoted(name),
                       ", which it holds according to ", index_path));
    }
    H2O_RETURN_IF_ERROR(Add(it->second, name));
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::Add(const SafetensorsFile* file,
                             const std::string& name) {
  const auto [it, is_new] =
      places_.emplace(WithoutPrefix(name, prefix_), Place{file, name});
  if (is_new) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(directory_, " has both ", Quoted(it->second.name), " and ",
                   Quoted(name), "; one of them must go"));
}

absl::StatusOr<Checkpoint::Place> Checkpoint::PlaceOf(
    std::string_view name) const {
  const auto it = places_.find(WithoutPrefix(name, prefix_));
  if (it != places_.end()) return it->second;
  return absl::NotFoundError(absl::StrCat(directory_, " has no tensor ",
                                          Quoted(name), ", with or without \"",
                                          prefix_, "\" in front"));
}

absl::StatusOr<StoredTensor> Checkpoint::Find(std::string_view name) const {
  H2O_ASSIGN_OR_RETURN(const Place place, PlaceOf(name));
  return place.file->Find(place.name);
}

absl::StatusOr<RawTensor> Checkpoint::FindRaw(std::string_view name) const {
  H2O_ASSIGN_OR_RETURN(const Place place, PlaceOf(name));
  return place.file->FindRaw(place.name);
}

bool Checkpoint::Contains(std::string_view name) const {
  return places_.find(WithoutPrefix(name, prefix_)) != places_.end();
}

std::vector<std::string> Checkpoint::Names() const {
  std::vector<std::string> names;
  for (const auto& [name, place] : places_) names.push_back(name);
  return names;
}

}  // namespace h2o
