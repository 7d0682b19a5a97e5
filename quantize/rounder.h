// Makes the codes of a model's weights, product after product.
//
// Threads  one owner.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/weight_format.h"
#include "quantize/calibration_text.h"
#include "quantize/coded_matrix.h"
#include "quantize/source_model.h"

namespace h2o {

class Rounder {
 public:
  virtual ~Rounder() = default;

  // The codes of WeightsOf(layer, product).  REQUIRES: products are rounded in
  // the order of kLayerProducts, layer after layer.
  // Errors: DATA_LOSS naming a weight that is not finite.
  virtual absl::StatusOr<CodedMatrix> Round(int layer,
                                            LayerProduct product) = 0;
};

// Every weight to its nearest code: those that `--weights` makes when it loads
// the checkpoint.  `source` must outlive it.
absl::StatusOr<std::unique_ptr<Rounder>> NewPlainRounder(
    const SourceModel& source, const WeightCoding& coding, int num_threads);

// With error feedback (calibrated_rounding.h), on `text`, which is not empty.
// `source` must outlive it.
absl::StatusOr<std::unique_ptr<Rounder>> NewCalibratedRounder(
    const SourceModel& source, const WeightCoding& coding, TokenSequences text,
    int num_threads);

}  // namespace h2o
