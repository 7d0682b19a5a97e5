// Runs documents and texts through the cache of every setting and scores the
// logits.
#include "eval/evaluate.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "embedded/teacher_forced.h"
#include "kv/kv_geometry.h"

namespace h2o {
namespace {

// The full cache's logits of so many bytes are kept at a time.
constexpr int64_t kMostLogitBytes = 512 << 20;

class Evaluation {
 public:
  Evaluation(const EvalOptions& options, Embedded* embedded,
             const std::function<void(double)>& progress)
      : options_(options),
        embedded_(embedded),
        progress_(progress),
        vocabulary_(embedded->config().vocab_size) {}

  absl::StatusOr<std::vector<EvalResult>> Run() {
    for (const EvalSetting& setting : options_.settings) {
      EvalResult& result = results_.emplace_back();
      result.setting = setting;
      result.kv_bits = 8 * SizeOf(Geometry().formats[0].dtype);
    }
    const size_t block = DocumentsOfBlock();
    for (size_t at = 0; at < options_.documents.size(); at += block) {
      const auto rows =
          absl::MakeConstSpan(options_.documents).subspan(at, block);
      H2O_RETURN_IF_ERROR(RunFull(rows));
      for (EvalResult& result : results_) {
        H2O_RETURN_IF_ERROR(RunDocuments(rows, &result));
      }
    }
    for (EvalResult& result : results_) {
      H2O_RETURN_IF_ERROR(RunRecall(&result));
      FinishMeans(&result);
    }
    return std::move(results_);
  }

 private:
  const KvGeometry& Geometry() const {
    return embedded_->group_info().geometry();
  }
  int Length() const { return static_cast<int>(options_.documents[0].size()); }
  int64_t LogitsOfDocument() const {
    return int64_t{Length() - options_.prompt_tokens} * vocabulary_;
  }
  size_t DocumentsOfBlock() const {
    const int64_t bytes = LogitsOfDocument() * int64_t{sizeof(float)};
    return static_cast<size_t>(std::max<int64_t>(kMostLogitBytes / bytes, 1));
  }
  // The logits of the full cache for the token at `position`.
  absl::Span<float> Full(int document, int64_t position) {
    return absl::MakeSpan(full_[document])
        .subspan((position - options_.prompt_tokens) * vocabulary_,
                 vocabulary_);
  }

  // Runs `rows` under a setting.  Calls fn(i, p, logits) with the logits for
  // each token p of rows[i] but the first, and done(i, usage).
  template <class Fn, class Done>
  absl::Status RunRows(absl::Span<const std::vector<int32_t>> rows,
                       const EvalSetting& setting, Fn&& fn, Done&& done) {
    std::vector<Request> requests;
    for (const std::vector<int32_t>& row : rows) {
      const int length = static_cast<int>(row.size());
      const int prefill = options_.token_by_token
                              ? 1
                              : std::min(options_.prompt_tokens, length);
      H2O_ASSIGN_OR_RETURN(KvPolicyRequest policy, PolicyOf(setting, length));
      H2O_ASSIGN_OR_RETURN(Request request,
                           TeacherForced(row, prefill, std::move(policy)));
      H2O_RETURN_IF_ERROR(embedded_->engine().Check(request));
      requests.push_back(std::move(request));
    }
    absl::Status unusable;
    H2O_RETURN_IF_ERROR(embedded_->Run(
        std::move(requests), [&](int i, const StreamEvent& event) {
          ForEachLogitRow(
              event, vocabulary_,
              [&](int64_t position, absl::Span<const float> logits) {
                if (!IsUsable(logits)) {
                  unusable.Update(absl::InternalError(
                      absl::StrCat("the model's logits at position ", position,
                                   " are not finite (NaN or infinity)")));
                  return;
                }
                if (position + 1 < static_cast<int64_t>(rows[i].size())) {
                  fn(i, position + 1, logits);
                }
              });
          if (event.done) done(i, event.usage);
        }));
    Progress(rows);
    return unusable;
  }

  absl::Status RunFull(absl::Span<const std::vector<int32_t>> rows) {
    full_.assign(rows.size(), std::vector<float>(LogitsOfDocument()));
    return RunRows(
        rows, EvalSetting(),
        [&](int i, int64_t p, absl::Span<const float> logits) {
          if (p < options_.prompt_tokens) return;
          std::copy(logits.begin(), logits.end(), Full(i, p).begin());
        },
        [](int, const Usage&) {});
  }

  absl::Status RunDocuments(absl::Span<const std::vector<int32_t>> rows,
                            EvalResult* result) {
    std::vector<DocumentScores> scores(rows.size());
    H2O_RETURN_IF_ERROR(RunRows(
        rows, result->setting,
        [&](int i, int64_t p, absl::Span<const float> logits) {
          if (p < options_.prompt_tokens) return;
          scores[i].Add(Full(i, p), logits, rows[i][p]);
        },
        [&](int, const Usage& usage) { AddUsage(usage, result); }));
    result->documents.insert(result->documents.end(), scores.begin(),
                             scores.end());
    return absl::OkStatus();
  }

  // Sums, until FinishMeans divides them.
  void AddUsage(const Usage& usage, EvalResult* result) const {
    result->bytes_share += static_cast<double>(usage.kv_bytes) / FullBytes();
    if (!usage.attention_mass_kept) return;
    result->attention_mass_kept =
        result->attention_mass_kept.value_or(0) + *usage.attention_mass_kept;
  }
  void FinishMeans(EvalResult* result) const {
    const auto count = static_cast<double>(options_.documents.size());
    result->bytes_share /= count;
    if (result->attention_mass_kept) *result->attention_mass_kept /= count;
  }
  // Of a document, in 16 bits.
  double FullBytes() const {
    KvGeometry geometry = Geometry();
    geometry.formats = {KvFormat{DType::kBFloat16}};
    KvPolicy policy;
    policy.slots = {SlotsFor(KvPolicyName::kFull, Length())};
    const int64_t slabs =
        geometry.SlabsNeeded(policy, Length(), {0, geometry.num_heads});
    return static_cast<double>(slabs * geometry.SlabBytes());
  }

  absl::Status RunRecall(EvalResult* result) {
    TokenRows rows, likeliest;
    for (const RecallText& text : options_.recall) {
      rows.push_back(text.tokens);
      likeliest.emplace_back(text.tokens.size());
    }
    if (rows.empty()) return absl::OkStatus();
    H2O_RETURN_IF_ERROR(RunRows(
        rows, result->setting,
        [&](int i, int64_t p, absl::Span<const float> logits) {
          likeliest[i][p] = LikeliestToken(logits);
        },
        [](int, const Usage&) {}));
    for (size_t i = 0; i < rows.size(); ++i) {
      const RecallText& text = options_.recall[i];
      result->facts_right += RightAnswers(text, likeliest[i]);
      result->facts_asked += static_cast<int64_t>(text.answers.size());
    }
    return absl::OkStatus();
  }

  // Rows of one setting are done.
  void Progress(absl::Span<const std::vector<int32_t>> rows) {
    done_ += rows.size();
    const size_t settings = options_.settings.size();
    const size_t all = options_.documents.size() * (settings + 1) +
                       options_.recall.size() * settings;
    if (progress_) progress_(static_cast<double>(done_) / all);
  }

  const EvalOptions& options_;
  Embedded* const embedded_;
  const std::function<void(double)>& progress_;
  const int64_t vocabulary_;
  std::vector<EvalResult> results_;
  // [documents of the block]: logits of the scored tokens.
  std::vector<std::vector<float>> full_;
  size_t done_ = 0;  // rows
};

}  // namespace

absl::StatusOr<std::vector<EvalResult>> Evaluate(
    const EvalOptions& options, Embedded* embedded,
    const std::function<void(double)>& progress) {
  return Evaluation(options, embedded, progress).Run();
}

}  // namespace h2o
