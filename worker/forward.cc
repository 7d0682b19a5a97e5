// One rank's walk over the layers: products, sums over ranks and norms, around
// an attention that the caller supplies.
#include "worker/forward.h"

#include "base/status_macros.h"

namespace h2o {

Forward::Forward(const ModelConfig& config, const ShardSpec& shard,
                 const ShardWeights& weights, Backend* backend,
                 int64_t max_rows, int64_t max_logit_rows)
    : config_(config), shard_(shard), weights_(weights), backend_(backend) {
  const DType activations = backend->formats().activations;
  const auto matrix = [](int64_t rows, int64_t columns, DType dtype) {
    return Matrix{nullptr, rows, columns, AlignedStride(columns), dtype};
  };
  const int64_t width = shard.qkv.query_columns();
  const int64_t projection = config.has_projections() ? config.embed_dim : 0;
  normed_ = matrix(max_rows, config.hidden_size, activations);
  delta_ = matrix(max_rows, config.hidden_size, activations);
  embedded_ = matrix(max_rows, projection, activations);
  qkv_ = matrix(max_rows, shard.qkv.columns(), activations);
  attention_ = matrix(max_rows, width, activations);
  ffn_ = matrix(max_rows, shard.ffn_columns.size(), activations);
  last_attention_ = matrix(max_logit_rows, width, activations);
  gathered_ = matrix(max_logit_rows, config.hidden_size, activations);
  projected_ = matrix(max_logit_rows, projection, activations);
  logits_ = matrix(max_logit_rows, shard.vocabulary.size(), DType::kFloat32);
}

absl::StatusOr<std::unique_ptr<Forward>> Forward::Create(
    const ModelConfig& config, const ShardSpec& shard,
    const ShardWeights& weights, Backend* backend, Communicator* communicator,
    int64_t max_rows, int64_t max_logit_rows) {
  std::unique_ptr<Forward> f(
      new Forward(config, shard, weights, backend, max_rows, max_logit_rows));
  Matrix* const all[] = {
      &f->normed_,    &f->delta_, &f->embedded_,       &f->qkv_,
      &f->attention_, &f->ffn_,   &f->last_attention_, &f->gathered_,
      &f->projected_, &f->logits_};
  const auto aligned = [](int64_t bytes) { return CeilDiv(bytes, 256) * 256; };
  int64_t bytes = 0;
  for (const Matrix* m : all) bytes += aligned(m->bytes());
  H2O_ASSIGN_OR_RETURN(f->workspace_, backend->Allocate(bytes));
  std::byte* next = f->workspace_.data();
  for (Matrix* m : all) {
    m->data = next;
    next += aligned(m->bytes());
  }
  H2O_ASSIGN_OR_RETURN(
      f->sums_, RankSums::Create(backend, communicator, f->delta_, f->normed_));
  return f;
}

absl::Status Forward::Embed(const int32_t* tokens, const int32_t* positions,
                            Matrix x) {
  const bool projected = config_.has_projections();
  const Matrix delta = delta_.Rows(0, x.rows);
  const Matrix embedded = projected ? embedded_.Rows(0, x.rows) : delta;
  backend_->Embed(tokens, static_cast<int32_t>(shard_.vocabulary.begin),
                  weights_.token_embedding, embedded);
  // One rank has the token's row and the others add zeros: the sum is exact.
  H2O_RETURN_IF_ERROR(sums_->AllReduce(embedded));
  if (projected) {
    backend_->Linear(embedded, weights_.project_in, Epilogue::kNone, delta);
  }
  StoredMatrix table = weights_.position_embedding;
  table.data = table.Row(config_.position_offset);
  table.rows -= config_.position_offset;
  backend_->AddPositions(delta, positions, table, x);
  return absl::OkStatus();
}

absl::Status Forward::Layers(int begin, int end, Matrix x, Attend attend,
                             const LastRows& last_rows) {
  // Later layers find their input in normed_, left by the layer before.
  backend_->AddNorm(
      x, {}, nullptr, pre_norm() ? NormPlace::kBefore : NormPlace::kNone,
      weights_.layers[begin].attention_norm, normed_.Rows(0, x.rows));
  for (int layer = begin; layer < end; ++layer) {
    const LayerWeights& w = weights_.layers[layer];
    const Matrix qkv = qkv_.Rows(0, x.rows);
    Matrix attention = attention_.Rows(0, x.rows);
    Product(normed_.Rows(0, x.rows), w.qkv, Epilogue::kNone, qkv);
    attend(layer, qkv, attention);
    if (layer + 1 == config_.num_layers && last_rows.rows != nullptr) {
      attention = KeepLastRows(last_rows, attention, &x);
    }
    H2O_RETURN_IF_ERROR(AfterAttention(layer, attention, x));
  }
  return absl::OkStatus();
}

void Forward::Product(Matrix input, const LinearWeights& weights,
                      Epilogue epilogue, Matrix output) {
  if (see_input_) see_input_(weights, input);
  backend_->Linear(input, weights, epilogue, output);
}

Matrix Forward::KeepLastRows(const LastRows& last, Matrix attention,
                             Matrix* x) {
  const Matrix kept = last_attention_.Rows(0, last.x.rows);
  backend_->GatherRows(attention, last.rows, kept);
  backend_->GatherRows(*x, last.rows, last.x);
  *x = last.x;
  return kept;
}

Forward::Norm Forward::NormAfterAttention(int layer) const {
  const LayerWeights& w = weights_.layers[layer];
  if (pre_norm()) return {NormPlace::kBefore, w.ffn_norm};
  return {NormPlace::kAfter, w.attention_norm};
}

Forward::Norm Forward::NormAfterMlp(int layer) const {
  if (!pre_norm()) return {NormPlace::kAfter, weights_.layers[layer].ffn_norm};
  if (layer + 1 < config_.num_layers) {
    return {NormPlace::kBefore, weights_.layers[layer + 1].attention_norm};
  }
  return {config_.final_norm ? NormPlace::kBefore : NormPlace::kNone,
          weights_.final_norm};
}

absl::Status Forward::AfterAttention(int layer, Matrix attention, Matrix x) {
  const LayerWeights& w = weights_.layers[layer];
  const Epilogue activation = config_.activation == Activation::kRelu
                                  ? Epilogue::kRelu
                                  : Epilogue::kGelu;
  const Matrix normed = normed_.Rows(0, x.rows);
  const Matrix ffn = ffn_.Rows(0, x.rows);
  const Delta from_attention = sums_->PartOf(x.rows, 0);
  const Delta from_ffn = sums_->PartOf(x.rows, 1);

  const Norm middle = NormAfterAttention(layer);
  Product(attention, w.out, Epilogue::kNone, from_attention.mine);
  H2O_RETURN_IF_ERROR(sums_->AddNorm(x, from_attention, w.out_bias,
                                     middle.place, middle.weights, normed));
  Product(normed, w.fc1, activation, ffn);
  Product(ffn, w.fc2, Epilogue::kNone, from_ffn.mine);
  const Norm end = NormAfterMlp(layer);
  return sums_->AddNorm(x, from_ffn, w.fc2_bias, end.place, end.weights,
                        normed);
}

Matrix Forward::GatherFeatures(const int32_t* rows, int64_t count) {
  const Matrix out = gathered_.Rows(0, count);
  backend_->GatherRows(normed_, rows, out);
  return out;
}

Matrix Forward::Logits(Matrix features) {
  if (config_.has_projections()) {
    const Matrix projected = projected_.Rows(0, features.rows);
    backend_->Linear(features, weights_.project_out, Epilogue::kNone,
                     projected);
    features = projected;
  }
  const Matrix logits = LogitsOf(features.rows);
  backend_->Linear(features, weights_.head, Epilogue::kNone, logits);
  return logits;
}

}  // namespace h2o
