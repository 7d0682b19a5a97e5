// A small calibration with numbers of its own in every place.
#pragma once

#include <cstdint>
#include <vector>

#include "model/kv_calibration.h"

namespace h2o {

// Owns what a KvCalibrationView shows.
struct SampleCalibration {
  struct Vectors {
    std::vector<float> mean, forward, inverse, gain, weight;
    std::vector<uint8_t> bits, words;

    VectorCalibration View() const {
      return {mean, forward, inverse, gain, weight, bits, words};
    }
  };

  explicit SampleCalibration(int layers = 2, int heads = 3, int head_dim = 8)
      : model{layers, heads, head_dim, "0123456789abcdef"},
        keys(Sample(model, 0.5F)),
        values(Sample(model, 0.25F)) {
    for (int i = 0; i < layers * heads; ++i) {
      need.push_back(100.5F + static_cast<float>(i));
    }
  }

  KvCalibrationView View() const {
    return {model, origin, keys.View(), values.View(), need};
  }

  KvCalibrationModel model;
  KvCalibrationOrigin origin{.bits = 1.5,
                             .tokens = 8192,
                             .text = "heldout.txt",
                             .key_weight = 2,
                             .loss = 0.0125,
                             .exact = 4};
  Vectors keys, values;
  std::vector<float> need;

 private:
  // Maps are `scale` on the diagonal and 1 right of it.
  static Vectors Sample(const KvCalibrationModel& model, float scale) {
    Vectors vectors;
    const int d = model.head_dim;
    for (int head = 0; head < model.layers * model.heads; ++head) {
      for (int i = 0; i < d; ++i) {
        const auto number = static_cast<float>(head * d + i);
        vectors.mean.push_back(-number);
        vectors.gain.push_back(1 + number / 1024);
        vectors.weight.push_back(number);
        vectors.bits.push_back(static_cast<uint8_t>(i < 4 ? 8 - i : 0));
        for (int j = 0; j < d; ++j) {
          vectors.forward.push_back(i == j ? scale : i + 1 == j ? 1 : 0);
          // The geometric series of the part that is off the diagonal.
          float inverse = i <= j ? 1 / scale : 0;
          for (int k = i; k < j; ++k) inverse *= -1 / scale;
          vectors.inverse.push_back(inverse);
        }
      }
      vectors.words.push_back(static_cast<uint8_t>(1 + head % 2));
    }
    return vectors;
  }
};

}  // namespace h2o
