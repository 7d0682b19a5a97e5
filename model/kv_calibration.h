// What calibration found about the keys and values of a model: the file
// kv-codes.safetensors (docs/kv_codes.md), which says how each head's vectors
// become codes.
//
// Threads  const methods may be called by any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/safetensors.h"

namespace h2o {

inline constexpr std::string_view kKvCalibrationFile = "kv-codes.safetensors";
inline constexpr int kKvCalibrationVersion = 1;

// The model that a calibration is for.
struct KvCalibrationModel {
  int layers = 0;
  int heads = 0;  // of keys and values
  int head_dim = 0;
  std::string fingerprint;  // of its weights (model/fingerprint.h)

  friend bool operator==(const KvCalibrationModel&,
                         const KvCalibrationModel&) = default;
};

// How a calibration was made.
struct KvCalibrationOrigin {
  double bits = 0;     // asked for, averaged over all channels
  int64_t tokens = 0;  // of the text
  std::string text;    // its name
  double key_weight = 2;
  double loss = 0;  // measured: nats a token more than without codes
  int exact = 0;    // first tokens of a sequence that are kept as they are

  friend bool operator==(const KvCalibrationOrigin&,
                         const KvCalibrationOrigin&) = default;
};

// How the keys, or the values, of heads are coded, d = head_dim:
//
//   coded basis  x = (v - mean) forward,  v = mean + x inverse
//
// forward and inverse are row-major, their inputs the rows.  One head's, or
// those of all heads, layer by layer, one behind the other.
struct VectorCalibration {
  absl::Span<const float> mean;     // [d]
  absl::Span<const float> forward;  // [d, d]
  absl::Span<const float> inverse;  // [d, d], or empty: to be computed
  absl::Span<const float> gain;     // [d], kv_codes/vector_code.h
  absl::Span<const float> weight;   // [d], likewise
  absl::Span<const uint8_t> bits;   // [d]
  absl::Span<const uint8_t> words;  // one number
};

// A whole calibration; views of memory elsewhere.
struct KvCalibrationView {
  KvCalibrationModel model;
  KvCalibrationOrigin origin;
  VectorCalibration keys, values;  // of all heads
  absl::Span<const float> need;    // [layers, heads]: slots that hold 0.99 of
                                   // the attention
};

// The part of `all` that is the head's.
VectorCalibration OfHead(const VectorCalibration& all,
                         const KvCalibrationModel& model, int layer, int head);

class KvCalibration {
 public:
  // Maps the file and checks all of it.  An empty fingerprint of `model` goes
  // with any (dummy weights).
  // Errors: NOT_FOUND without the file; INVALID_ARGUMENT if it is of another
  // version or model, naming both; DATA_LOSS if it is torn or malformed, holds
  // a number that is none, or its bits do not fit its words.
  static absl::StatusOr<std::unique_ptr<const KvCalibration>> Open(
      const std::string& path, const KvCalibrationModel& model);

  const KvCalibrationModel& model() const { return view_.model; }
  const KvCalibrationOrigin& origin() const { return view_.origin; }
  const KvCalibrationView& view() const { return view_; }
  VectorCalibration Keys(int layer, int head) const {
    return OfHead(view_.keys, view_.model, layer, head);
  }
  VectorCalibration Values(int layer, int head) const {
    return OfHead(view_.values, view_.model, layer, head);
  }

 private:
  explicit KvCalibration(std::unique_ptr<const SafetensorsFile> file)
      : file_(std::move(file)) {}
  absl::Status ReadMetadata();
  absl::Status FindTensors();
  // Checks sizes while it does.
  template <class T>
  absl::Status Find(const std::string& name, std::vector<int64_t> shape,
                    absl::Span<const T>* tensor) const;

  const std::unique_ptr<const SafetensorsFile> file_;
  KvCalibrationView view_;
};

// Writes the same file for the same calibration, to the byte.
// Errors: those of NewFile.  REQUIRES: sizes as above.
absl::Status WriteKvCalibration(const KvCalibrationView& calibration,
                                const std::string& path);

}  // namespace h2o
