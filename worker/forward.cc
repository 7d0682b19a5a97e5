#include "worker/forward.h"

#include <utility>
#include <vector>

#include "base/status_macros.h"

namespace h2o {
namespace {

// The matrices of the workspace, in order.
struct Shapes {
  int64_t normed, embedded, qkv, attention, ffn, logits;  // columns
};

Shapes ShapesOf(const OptConfig& config, const ShardSpec& shard) {
  const int64_t width = shard.heads.size() * config.head_dim();
  return {config.hidden_size,
          config.has_projections() ? config.embed_dim : 0,
          3 * width,
          width,
          shard.ffn_columns.size(),
          shard.vocabulary.size()};
}

int64_t Floats(int64_t rows, int64_t columns) {
  return rows * AlignedStride(columns);
}

}  // namespace

int64_t Forward::WorkspaceBytes(const OptConfig& config, const ShardSpec& shard,
                                int64_t max_rows, int64_t max_logit_rows) {
  const Shapes s = ShapesOf(config, shard);
  int64_t floats = Floats(max_logit_rows, s.logits);
  for (int64_t columns : {s.normed, s.embedded, s.qkv, s.attention, s.ffn}) {
    floats += Floats(max_rows, columns);
  }
  return floats * sizeof(float);
}

absl::StatusOr<std::unique_ptr<Forward>> Forward::Create(
    const OptConfig& config, const ShardSpec& shard,
    const ShardWeights& weights, Backend* backend, Communicator* communicator,
    int64_t max_rows, int64_t max_logit_rows) {
  H2O_ASSIGN_OR_RETURN(Buffer workspace,
                       Buffer::Allocate(WorkspaceBytes(config, shard, max_rows,
                                                       max_logit_rows)));
  return std::unique_ptr<Forward>(
      new Forward(config, shard, weights, backend, communicator, max_rows,
                  max_logit_rows, std::move(workspace)));
}

Forward::Forward(const OptConfig& config, const ShardSpec& shard,
                 const ShardWeights& weights, Backend* backend,
                 Communicator* communicator, int64_t max_rows,
                 int64_t max_logit_rows, Buffer workspace)
    : config_(config),
      shard_(shard),
      weights_(weights),
      backend_(backend),
      communicator_(communicator),
      workspace_(std::move(workspace)) {
  const Shapes s = ShapesOf(config, shard);
  float* next = reinterpret_cast<float*>(workspace_.data());
  const auto take = [&next](int64_t rows, int64_t columns) {
    const Matrix m{next, rows, columns, AlignedStride(columns)};
    next += Floats(rows, columns);
    return m;
  };
  normed_ = take(max_rows, s.normed);
  embedded_ = take(max_rows, s.embedded);
  qkv_ = take(max_rows, s.qkv);
  attention_ = take(max_rows, s.attention);
  ffn_ = take(max_rows, s.ffn);
  logits_ = take(max_logit_rows, s.logits);
}

absl::Status Forward::Embed(absl::Span<const int32_t> tokens,
                            absl::Span<const int32_t> positions, Matrix x) {
  const bool projected = config_.has_projections();
  const Matrix embedded = projected ? embedded_.Rows(0, x.rows) : x;
  backend_->Embed(tokens, static_cast<int32_t>(shard_.vocabulary.begin),
                  weights_.token_embedding, embedded);
  // One rank has the row, the others add zeros: exact.
  H2O_RETURN_IF_ERROR(communicator_->AllReduceSum(
      embedded.data, embedded.rows * embedded.stride));
  if (projected) {
    backend_->Linear(embedded, weights_.project_in, Epilogue::kNone, false, x);
  }
  StoredMatrix table = weights_.position_embedding;
  table.data = table.Row(kPositionOffset);
  table.rows -= kPositionOffset;
  backend_->AddRows(positions, table, x);
  return absl::OkStatus();
}

absl::Status Forward::AddRowParallel(Matrix input, const LinearWeights& weights,
                                     Matrix x) {
  backend_->Linear(input, weights, Epilogue::kNone,
                   /*accumulate=*/shard_.rank == 0, x);
  return communicator_->AllReduceSum(x.data, x.rows * x.stride);
}

absl::Status Forward::Layer(int layer, Matrix x, Attend attend) {
  const LayerWeights& w = weights_.layers[layer];
  const Matrix normed = normed_.Rows(0, x.rows);
  const Matrix qkv = qkv_.Rows(0, x.rows);
  const Matrix attention = attention_.Rows(0, x.rows);
  const Matrix ffn = ffn_.Rows(0, x.rows);
  const bool before = config_.pre_layer_norm;
  // Before each half (pre-LayerNorm), or behind it (OPT-350m).
  const auto norm = [&](const LayerNormWeights& weights, Matrix out) {
    backend_->LayerNorm(x, weights, out);
  };

  if (before) norm(w.attention_norm, normed);
  backend_->Linear(before ? normed : x, w.qkv, Epilogue::kNone, false, qkv);
  attend(qkv, attention);
  H2O_RETURN_IF_ERROR(AddRowParallel(attention, w.out, x));
  if (!before) norm(w.attention_norm, x);

  if (before) norm(w.ffn_norm, normed);
  backend_->Linear(before ? normed : x, w.fc1,
                   config_.activation == Activation::kRelu ? Epilogue::kRelu
                                                           : Epilogue::kGelu,
                   false, ffn);
  H2O_RETURN_IF_ERROR(AddRowParallel(ffn, w.fc2, x));
  if (!before) norm(w.ffn_norm, x);
  return absl::OkStatus();
}

Matrix Forward::Logits(Matrix x) {
  if (config_.final_layer_norm) backend_->LayerNorm(x, weights_.final_norm, x);
  Matrix features = x;
  if (config_.has_projections()) {
    features = embedded_.Rows(0, x.rows);
    backend_->Linear(x, weights_.project_out, Epilogue::kNone, false, features);
  }
  const Matrix logits = logits_.Rows(0, x.rows);
  backend_->Linear(features, weights_.head, Epilogue::kNone, false, logits);
  return logits;
}

}  // namespace h2o
