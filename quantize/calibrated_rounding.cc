// Rounds tiles of rows, block after block of inputs.  Rows do not depend on
// each other, so each thread takes tiles of its own.
#include "quantize/calibrated_rounding.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/cpu/matrix_product.h"

namespace h2o {
namespace {

constexpr int64_t kTileRows = 64;
constexpr int64_t kBlock = 128;  // inputs, but of int4 a group

// What a number becomes: its code, and what that stands for.
struct Int4Grid {
  float step, zero;
  explicit Int4Grid(const GroupScale& scale)
      : step(FromBFloat16(scale.scale)), zero(scale.zero) {}
  float Round(float x, uint8_t* code) const {
    const float nearest =
        std::clamp(std::nearbyint(x / step) + zero, 0.0f, 15.0f);
    *code = static_cast<uint8_t>(nearest);
    return (nearest - zero) * step;
  }
};
struct Int8Grid {
  float scale;
  float Round(float x, uint8_t* code) const {
    const float nearest =
        std::clamp(std::nearbyint(x / scale), -127.0f, 127.0f);
    *code = static_cast<uint8_t>(static_cast<int8_t>(nearest));
    return nearest * scale;
  }
};
struct Fp8Grid {
  float scale;
  float Round(float x, uint8_t* code) const {
    *code = ToFp8(x / scale);
    return FromFp8(*code) * scale;
  }
};

// A block of one row while it is rounded.
struct RowBlock {
  std::array<float, kBlock> target;  // moved by each error in front
  std::array<float, kBlock> error;
  std::array<uint8_t, kBlock> codes;
  float cost = 0;
};

// Rounds a block's weights `w`, of which `targets` is what they are to be by
// now.  Gives up when it costs as much as `most`.
template <class Grid>
void Round(const Grid& grid, const ErrorFeedback& feedback, Range block,
           const float* w, const float* targets, float most, RowBlock* out) {
  const int64_t n = block.size();
  std::copy_n(targets, n, out->target.data());
  out->cost = 0;
  for (int64_t k = 0; k < n && out->cost < most; ++k) {
    const float value = grid.Round(out->target[k], &out->codes[k]);
    const float left = out->target[k] - value;
    const float error = w[k] - value;
    const float* const u = feedback.u.Row(block.begin + k) + block.begin;
    out->cost += feedback.d[block.begin + k] * left * left;
    out->error[k] = error;
    for (int64_t j = k + 1; j < n; ++j) out->target[j] += error * u[j];
  }
}

// What one thread needs.
struct Tile {
  explicit Tile(int64_t columns)
      : errors(kTileRows * columns),
        codes(kTileRows * columns),
        targets(kTileRows * kBlock) {}

  std::vector<float> errors;   // [rows, columns]
  std::vector<uint8_t> codes;  // likewise, a byte each
  std::vector<float> targets;  // [rows, block]
};

class Rounding {
 public:
  Rounding(Matrix weights, const ErrorFeedback& feedback, CodedMatrix* out)
      : weights_(weights), feedback_(feedback), out_(*out) {}

  void RoundRows(Range rows, Tile* tile) const {
    switch (out_.coding.format) {
      case WeightFormat::kInt4:
        return RoundGroups(rows, tile);
      case WeightFormat::kInt8:
        return RoundWhole<Int8Grid>(rows, tile);
      default:
        return RoundWhole<Fp8Grid>(rows, tile);
    }
  }

 private:
  // tile->targets of a block: the weights, and what makes up for the errors of
  // the blocks in front.
  void MakeTargets(Range rows, Range block, Tile* tile) const {
    const int64_t n = block.size();
    for (int64_t r = 0; r < rows.size(); ++r) {
      std::copy_n(weights_.Row(rows.begin + r) + block.begin, n,
                  &tile->targets[r * n]);
    }
    if (block.begin == 0) return;
    cpu::Sgemm(false, rows.size(), n, block.begin, tile->errors.data(),
               weights_.columns, feedback_.u.Row(0) + block.begin,
               weights_.columns, tile->targets.data(), n, 1);
  }

  void Keep(const RowBlock& done, int64_t r, Range block, Tile* tile) const {
    const int64_t at = r * weights_.columns + block.begin;
    std::copy_n(done.error.data(), block.size(), &tile->errors[at]);
    std::copy_n(done.codes.data(), block.size(), &tile->codes[at]);
  }

  void RoundGroups(Range rows, Tile* tile) const {
    const int64_t group = out_.coding.group;
    RowBlock now, best;
    for (int64_t begin = 0; begin < weights_.columns; begin += group) {
      const Range block = {begin, begin + group};
      MakeTargets(rows, block, tile);
      for (int64_t r = 0; r < rows.size(); ++r) {
        const int64_t row = rows.begin + r;
        const float* const targets = &tile->targets[r * group];
        best.cost = std::numeric_limits<float>::infinity();
        for (const GroupScale& scale :
             ScalesToTry({targets, static_cast<size_t>(group)})) {
          Round(Int4Grid(scale), feedback_, block, weights_.Row(row) + begin,
                targets, best.cost, &now);
          if (now.cost >= best.cost) continue;
          std::swap(now, best);
          out_.GroupScales(row)[begin / group] = scale;
        }
        Keep(best, r, block, tile);
      }
    }
    for (int64_t r = 0; r < rows.size(); ++r) {
      PackNibbles(&tile->codes[r * weights_.columns], weights_.columns,
                  out_.Codes(rows.begin + r));
    }
  }

  static void PackNibbles(const uint8_t* codes, int64_t n, std::byte* out) {
    for (int64_t i = 0; i < n; i += 2) {
      const int upper = i + 1 < n ? codes[i + 1] : 0;
      out[i / 2] = static_cast<std::byte>(codes[i] | upper << 4);
    }
  }

  // With the scale that costs the row least.
  template <class Grid>
  void RoundWhole(Range rows, Tile* tile) const {
    std::vector<std::vector<float>> scales;  // to try, of each row
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      scales.push_back(RowScalesToTry(out_.coding.format, MostOf(r)));
    }
    std::vector<double> least(rows.size(),
                              std::numeric_limits<double>::infinity());
    for (size_t i = 0; i < scales[0].size(); ++i) {
      std::vector<float> tried;
      for (const std::vector<float>& of_row : scales) {
        tried.push_back(of_row[i]);
      }
      const std::vector<double> costs = TryScales<Grid>(rows, tried, tile);
      for (int64_t r = 0; r < rows.size(); ++r) {
        if (costs[r] >= least[r]) continue;
        least[r] = costs[r];
        *out_.RowScale(rows.begin + r) = tried[r];
        std::copy_n(&tile->codes[r * weights_.columns], weights_.columns,
                    reinterpret_cast<uint8_t*>(out_.Codes(rows.begin + r)));
      }
    }
  }

  float MostOf(int64_t row) const {
    float most = 0;
    for (int64_t c = 0; c < weights_.columns; ++c) {
      most = std::max(most, std::fabs(weights_.Row(row)[c]));
    }
    return most;
  }

  // What each row costs.
  template <class Grid>
  std::vector<double> TryScales(Range rows, const std::vector<float>& scales,
                                Tile* tile) const {
    constexpr float kAny = std::numeric_limits<float>::infinity();
    std::vector<double> costs(rows.size());
    RowBlock now;
    for (int64_t begin = 0; begin < weights_.columns; begin += kBlock) {
      const Range block = {begin, std::min(begin + kBlock, weights_.columns)};
      MakeTargets(rows, block, tile);
      for (int64_t r = 0; r < rows.size(); ++r) {
        Round(Grid{scales[r]}, feedback_, block,
              weights_.Row(rows.begin + r) + begin,
              &tile->targets[r * block.size()], kAny, &now);
        costs[r] += now.cost;
        Keep(now, r, block, tile);
      }
    }
    return costs;
  }

  const Matrix weights_;
  const ErrorFeedback& feedback_;
  CodedMatrix& out_;
};

}  // namespace

CodedMatrix RoundWithFeedback(Matrix weights, const ErrorFeedback& feedback,
                              const WeightCoding& coding, ThreadPool* pool) {
  CodedMatrix out(coding, weights.rows, weights.columns);
  const Rounding rounding(weights, feedback, &out);
  std::vector<Tile> tiles(pool->num_threads(), Tile(weights.columns));
  pool->ParallelFor(
      CeilDiv(weights.rows, kTileRows), 1,
      [&](int64_t begin, int64_t end, int thread) {
        for (int64_t t = begin; t < end; ++t) {
          rounding.RoundRows(
              {t * kTileRows, std::min((t + 1) * kTileRows, weights.rows)},
              &tiles[thread]);
        }
      });
  return out;
}

}  // namespace h2o
