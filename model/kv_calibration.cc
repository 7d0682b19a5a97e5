// Reads, checks and writes kv-codes.safetensors.
#include "model/kv_calibration.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/new_file.h"
#include "base/status_macros.h"
#include "kv_codes/code_fields.h"
#include "kv_codes/coded_page.h"
#include "model/json_file.h"
#include "model/safetensors_header.h"

namespace h2o {
namespace {

// A NewFile copies what it is given.
constexpr size_t kPieceBytes = 1 << 20;

using Shape = std::vector<int64_t>;

template <class T>
constexpr const char* kDType = sizeof(T) == 1 ? "U8" : "F32";

// Calls fn(name, shape, span) for each tensor of the file, in its order: those
// of wide elements first.
template <class View, class Fn>
absl::Status ForEachTensor(View& view, Fn&& fn) {
  const int64_t layers = view.model.layers, heads = view.model.heads;
  const int64_t d = view.model.head_dim;
  const std::pair<const char*, decltype(&view.keys)> kinds[] = {
      {"key", &view.keys}, {"value", &view.values}};
  for (const auto& [kind, vectors] : kinds) {
    const auto name = [kind = kind](const char* what) {
      return absl::StrCat(kind, ".", what);
    };
    const Shape each_map = {layers, heads, d, d},
                each_channel = {layers, heads, d};
    H2O_RETURN_IF_ERROR(fn(name("mean"), each_channel, &vectors->mean));
    H2O_RETURN_IF_ERROR(fn(name("forward"), each_map, &vectors->forward));
    H2O_RETURN_IF_ERROR(fn(name("inverse"), each_map, &vectors->inverse));
    H2O_RETURN_IF_ERROR(fn(name("gain"), each_channel, &vectors->gain));
    H2O_RETURN_IF_ERROR(fn(name("weight"), each_channel, &vectors->weight));
  }
  H2O_RETURN_IF_ERROR(fn("need", {layers, heads}, &view.need));
  for (const auto& [kind, vectors] : kinds) {
    H2O_RETURN_IF_ERROR(
        fn(absl::StrCat(kind, ".bits"), {layers, heads, d}, &vectors->bits));
    H2O_RETURN_IF_ERROR(
        fn(absl::StrCat(kind, ".words"), {layers, heads}, &vectors->words));
  }
  return absl::OkStatus();
}

bool MayBeLeftOut(const std::string& name) {
  return name == "key.inverse" || name == "value.inverse";
}

size_t ElementsOf(const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), size_t{1},
                         std::multiplies<>());
}

std::string ShapeText(const Shape& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

std::string ModelText(const KvCalibrationModel& model) {
  return absl::StrCat(model.layers, " layers of ", model.heads,
                      " heads of dimension ", model.head_dim);
}

// ---- Checks of one head's vectors.  Errors do not name the head; the caller
// does.

template <class Fn>
absl::Status CheckNumbers(absl::Span<const float> numbers, const char* what,
                          const char* right, Fn&& is_right) {
  const auto wrong = std::find_if_not(numbers.begin(), numbers.end(), is_right);
  if (wrong == numbers.end()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(what, "[", wrong - numbers.begin(),
                                          "] is ", *wrong, "; it must be ",
                                          right));
}

absl::Status CheckBits(const VectorCalibration& vectors) {
  int sum = 0;
  for (size_t i = 0; i < vectors.bits.size(); ++i) {
    sum += vectors.bits[i];
    if (vectors.bits[i] > kMaxCodeBits) {
      return absl::DataLossError(absl::StrCat("bits[", i, "] is ",
                                              vectors.bits[i], "; at most ",
                                              kMaxCodeBits, " are right"));
    }
  }
  const int words = vectors.words[0];
  const int most = MaxWords(static_cast<int>(vectors.bits.size()));
  if (words < 1 || words > most) {
    return absl::DataLossError(
        absl::StrCat("words is ", words, "; it must be 1 to ", most));
  }
  if (sum > kWordBits * words) {
    return absl::DataLossError(absl::StrCat("bits and words disagree: ", sum,
                                            " bits do not fit into ", words,
                                            " words of ", kWordBits));
  }
  return absl::OkStatus();
}

// Whether `inverse` takes `forward` back, tried with one vector of 1 and -1
// (Freivalds, "Probabilistic machines can use less running time", 1977).  What
// rounding to float32 leaves is bounded by the sums of magnitudes.
absl::Status CheckInverse(const VectorCalibration& vectors) {
  constexpr double kRounding = 1e-4;
  const size_t d = vectors.mean.size();
  if (vectors.inverse.empty()) return absl::OkStatus();
  const auto sign = [](size_t i) {
    return static_cast<uint32_t>(i + 1) * 0x9e3779b9U >> 31 == 0 ? 1.0 : -1.0;
  };
  std::vector<double> coded(d), coded_sum(d), back(d), back_sum(d);
  for (size_t i = 0; i < d; ++i) {
    for (size_t k = 0; k < d; ++k) {
      const double x = vectors.forward[i * d + k];
      coded[k] += sign(i) * x;
      coded_sum[k] += std::fabs(x);
    }
  }
  for (size_t k = 0; k < d; ++k) {
    for (size_t i = 0; i < d; ++i) {
      const double x = vectors.inverse[k * d + i];
      back[i] += coded[k] * x;
      back_sum[i] += coded_sum[k] * std::fabs(x);
    }
  }
  for (size_t i = 0; i < d; ++i) {
    if (!(std::fabs(back[i] - sign(i)) <= kRounding * (1 + back_sum[i]))) {
      return absl::DataLossError("inverse is not forward's inverse");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckVectors(const VectorCalibration& vectors) {
  const auto finite = [](float x) { return std::isfinite(x); };
  const auto positive = [](float x) { return std::isfinite(x) && x > 0; };
  const auto not_negative = [](float x) { return std::isfinite(x) && x >= 0; };
  H2O_RETURN_IF_ERROR(CheckNumbers(vectors.mean, "mean", "finite", finite));
  H2O_RETURN_IF_ERROR(
      CheckNumbers(vectors.forward, "forward", "finite", finite));
  H2O_RETURN_IF_ERROR(
      CheckNumbers(vectors.inverse, "inverse", "finite", finite));
  H2O_RETURN_IF_ERROR(
      CheckNumbers(vectors.gain, "gain", "finite and over 0", positive));
  H2O_RETURN_IF_ERROR(CheckNumbers(vectors.weight, "weight",
                                   "finite and at least 0", not_negative));
  H2O_RETURN_IF_ERROR(CheckBits(vectors));
  return CheckInverse(vectors);
}

absl::Status CheckView(const KvCalibrationView& view, const std::string& path) {
  const std::pair<const char*, const VectorCalibration*> kinds[] = {
      {"key", &view.keys}, {"value", &view.values}};
  for (int layer = 0; layer < view.model.layers; ++layer) {
    for (int head = 0; head < view.model.heads; ++head) {
      for (const auto& [kind, all] : kinds) {
        const absl::Status status =
            CheckVectors(OfHead(*all, view.model, layer, head));
        if (status.ok()) continue;
        return absl::DataLossError(absl::StrCat(path, ": layer ", layer,
                                                ", head ", head, ": ", kind,
                                                ".", status.message()));
      }
    }
  }
  const absl::Status need =
      CheckNumbers(view.need, "need", "finite and at least 0",
                   [](float x) { return std::isfinite(x) && x >= 0; });
  if (need.ok()) return need;
  return absl::DataLossError(absl::StrCat(path, ": ", need.message()));
}

// ---- Metadata

// Numbers as texts.  Those that are missing keep their defaults.
class MetadataReader {
 public:
  explicit MetadataReader(const SafetensorsFile& file) : file_(file) {}

  std::optional<std::string> Text(const char* key) const {
    const auto it = file_.metadata().find(key);
    if (it == file_.metadata().end()) return std::nullopt;
    return it->second;
  }
  absl::Status Number(const char* key, double least, double most,
                      double* number) const {
    const auto text = Text(key);
    if (!text) return absl::OkStatus();
    double value;
    if (!absl::SimpleAtod(*text, &value) || !(value >= least) ||
        !(value <= most)) {
      return Wrong(key, *text,
                   absl::StrCat("a number from ", least, " to ", most));
    }
    *number = value;
    return absl::OkStatus();
  }
  template <class Int>
  absl::Status Whole(const char* key, int64_t most, Int* number) const {
    const auto text = Text(key);
    if (!text) return absl::OkStatus();
    int64_t value;
    if (!absl::SimpleAtoi(*text, &value) || value < 0 || value > most) {
      return Wrong(key, *text, absl::StrCat("a whole number up to ", most));
    }
    *number = static_cast<Int>(value);
    return absl::OkStatus();
  }

 private:
  absl::Status Wrong(const char* key, const std::string& text,
                     const std::string& right) const {
    return absl::DataLossError(absl::StrCat(file_.path(), ": ", key, " is ",
                                            Describe(text), "; it must be ",
                                            right));
  }

  const SafetensorsFile& file_;
};

SafetensorsMetadata MetadataOf(const KvCalibrationView& calibration) {
  const KvCalibrationOrigin& origin = calibration.origin;
  return {{"version", absl::StrCat(kKvCalibrationVersion)},
          {"fingerprint", calibration.model.fingerprint},
          {"d", absl::StrCat(calibration.model.head_dim)},
          {"bits", absl::StrCat(origin.bits)},
          {"exact", absl::StrCat(origin.exact)},
          {"tokens", absl::StrCat(origin.tokens)},
          {"text", origin.text},
          {"key_weight", absl::StrCat(origin.key_weight)},
          {"loss", absl::StrCat(origin.loss)}};
}

// The model of which a file is by its shapes.
absl::StatusOr<KvCalibrationModel> ModelOf(const SafetensorsFile& file) {
  H2O_ASSIGN_OR_RETURN(const RawTensor bits, file.FindRaw("key.bits"));
  const auto fits = [](int64_t size) { return size > 0 && size < 1 << 16; };
  if (bits.shape.size() != 3 ||
      !std::all_of(bits.shape.begin(), bits.shape.end(), fits)) {
    return absl::DataLossError(
        absl::StrCat(file.path(), ": key.bits has the shape ",
                     ShapeText(bits.shape), "; [layers, heads, d] is right"));
  }
  return KvCalibrationModel{.layers = static_cast<int>(bits.shape[0]),
                            .heads = static_cast<int>(bits.shape[1]),
                            .head_dim = static_cast<int>(bits.shape[2])};
}

}  // namespace

VectorCalibration OfHead(const VectorCalibration& all,
                         const KvCalibrationModel& model, int layer, int head) {
  const size_t at = static_cast<size_t>(layer) * model.heads + head;
  const auto part = [at, d = static_cast<size_t>(model.head_dim)](
                        const auto& span, int dimensions) {
    const size_t size = dimensions == 0 ? 1 : dimensions == 1 ? d : d * d;
    return span.empty() ? span : span.subspan(at * size, size);
  };
  return {.mean = part(all.mean, 1),
          .forward = part(all.forward, 2),
          .inverse = part(all.inverse, 2),
          .gain = part(all.gain, 1),
          .weight = part(all.weight, 1),
          .bits = part(all.bits, 1),
          .words = part(all.words, 0)};
}

// ---- KvCalibration

absl::StatusOr<std::unique_ptr<const KvCalibration>> KvCalibration::Open(
    const std::string& path, const KvCalibrationModel& model) {
  H2O_ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open(path));
  std::unique_ptr<KvCalibration> calibration(
      new KvCalibration(std::move(file)));
  H2O_RETURN_IF_ERROR(calibration->ReadMetadata());
  const KvCalibrationModel& found = calibration->model();
  if (found.layers != model.layers || found.heads != model.heads ||
      found.head_dim != model.head_dim) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is of another model: it has ", ModelText(found),
                     ", this model has ", ModelText(model)));
  }
  if (!model.fingerprint.empty() && found.fingerprint != model.fingerprint) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is of other weights: their fingerprint is ",
                     Describe(found.fingerprint), ", this model's is ",
                     model.fingerprint, "; calibrate this model"));
  }
  H2O_RETURN_IF_ERROR(calibration->FindTensors());
  H2O_RETURN_IF_ERROR(CheckView(calibration->view_, path));
  return calibration;
}

absl::Status KvCalibration::ReadMetadata() {
  const MetadataReader metadata(*file_);
  const std::string version = metadata.Text("version").value_or("");
  if (version != absl::StrCat(kKvCalibrationVersion)) {
    return absl::InvalidArgumentError(absl::StrCat(
        file_->path(), " is of version ", Describe(version), "; version ",
        kKvCalibrationVersion, " is read (is this a calibration?)"));
  }
  H2O_ASSIGN_OR_RETURN(view_.model, ModelOf(*file_));
  view_.model.fingerprint = metadata.Text("fingerprint").value_or("");
  KvCalibrationOrigin& origin = view_.origin;
  origin.text = metadata.Text("text").value_or("");
  int d = view_.model.head_dim;
  H2O_RETURN_IF_ERROR(metadata.Whole("d", INT32_MAX, &d));
  if (d != view_.model.head_dim) {
    return absl::DataLossError(absl::StrCat(file_->path(), ": d is ", d,
                                            ", key.bits has ",
                                            view_.model.head_dim, " channels"));
  }
  H2O_RETURN_IF_ERROR(metadata.Number("bits", 0, kMaxCodeBits, &origin.bits));
  H2O_RETURN_IF_ERROR(metadata.Whole("exact", kMaxExactSlots, &origin.exact));
  H2O_RETURN_IF_ERROR(metadata.Whole("tokens", INT64_MAX, &origin.tokens));
  H2O_RETURN_IF_ERROR(
      metadata.Number("key_weight", 0, 1e6, &origin.key_weight));
  return metadata.Number("loss", -1e6, 1e6, &origin.loss);
}

template <class T>
absl::Status KvCalibration::Find(const std::string& name, Shape shape,
                                 absl::Span<const T>* tensor) const {
  if (MayBeLeftOut(name) && !file_->Contains(name)) return absl::OkStatus();
  H2O_ASSIGN_OR_RETURN(const RawTensor raw, file_->FindRaw(name));
  if (raw.dtype != kDType<T> || raw.shape != shape) {
    return absl::DataLossError(
        absl::StrCat(file_->path(), ": ", name, " is ", Describe(raw.dtype),
                     " ", ShapeText(raw.shape), "; ", kDType<T>, " ",
                     ShapeText(shape), " is right"));
  }
  *tensor = {reinterpret_cast<const T*>(raw.data), ElementsOf(shape)};
  return absl::OkStatus();
}

absl::Status KvCalibration::FindTensors() {
  return ForEachTensor(
      view_, [this](const std::string& name, Shape shape, auto* tensor) {
        const absl::Status status = Find(name, std::move(shape), tensor);
        // The file is there; what it lacks makes it no calibration.
        return absl::IsNotFound(status) ? absl::DataLossError(status.message())
                                        : status;
      });
}

// ---- Writing

absl::Status WriteKvCalibration(const KvCalibrationView& calibration,
                                const std::string& path) {
  std::vector<PlannedTensor> tensors;
  std::vector<std::string_view> data;
  H2O_RETURN_IF_ERROR(ForEachTensor(calibration, [&]<class T>(
                                                     const std::string& name,
                                                     const Shape& shape,
                                                     const absl::Span<const T>*
                                                         tensor) {
    if (MayBeLeftOut(name) && tensor->empty()) return absl::OkStatus();
    H2O_CHECK(tensor->size() == ElementsOf(shape))
        << name << " has " << tensor->size();
    const size_t bytes = tensor->size() * sizeof(T);
    tensors.push_back({name, kDType<T>, shape, static_cast<int64_t>(bytes)});
    data.emplace_back(reinterpret_cast<const char*>(tensor->data()), bytes);
    return absl::OkStatus();
  }));
  H2O_ASSIGN_OR_RETURN(NewFile file, NewFile::Create(path));
  file.Append(SafetensorsHeader(MetadataOf(calibration), tensors));
  for (const std::string_view bytes : data) {
    for (size_t i = 0; i < bytes.size(); i += kPieceBytes) {
      file.Append(bytes.substr(i, kPieceBytes));
    }
  }
  return file.Commit();
}

}  // namespace h2o
