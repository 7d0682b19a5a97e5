// Causal attention over whole prompts, and the choice of the tokens that the
// cache keeps of them: the CPU twin of cuda/prefill_attention.cu.
#include "kernels/cpu/prefill_attention.h"

#include <algorithm>
#include <vector>

#include "base/kv_policy.h"
#include "kernels/cpu/matrix_product.h"
#include "kernels/cpu/stored_slots.h"

// One source, compiled for each instruction set and picked at run time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/prefill_attention.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/softmax-inl.h"
#include "kernels/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace h2o::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void CausalSoftmaxImpl(float* scores, int64_t rows, int64_t columns,
                       int64_t stride, int64_t first_length, float scale,
                       float* column_sums) {
  const F32 d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < rows; ++r) {
    float* row = scores + r * stride;
    const int64_t n = first_length + r;
    const VF inverse = hn::Set(d, 1.0f / ExpRow(row, n, scale));
    const int64_t padded = (n + lanes - 1) / lanes * lanes;
    for (int64_t i = 0; i < padded; i += lanes) {
      const VF p = hn::Mul(hn::LoadU(d, row + i), inverse);
      hn::StoreU(p, d, row + i);
      if (column_sums != nullptr) {
        hn::StoreU(hn::Add(hn::LoadU(d, column_sums + i), p), d,
                   column_sums + i);
      }
    }
    if (padded < columns) std::fill(row + padded, row + columns, 0.0f);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace h2o::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace h2o::cpu {

HWY_EXPORT(CausalSoftmaxImpl);

namespace {

// One thread adds up the probabilities of the kTilesPerGroup tiles of a group,
// kQueryTile queries each; then groups are added in order.  So the sums do not
// depend on the number of threads.
constexpr int64_t kQueryTile = 64;
constexpr int64_t kTilesPerGroup = 4;
constexpr int64_t kQueriesPerGroup = kQueryTile * kTilesPerGroup;

int64_t NumGroups(int64_t length) { return CeilDiv(length, kQueriesPerGroup); }

// The sums of one head: those of each group, then their total.
int64_t ColumnSumFloats(int64_t length) {
  return (NumGroups(length) + 1) * AlignedStride(length);
}

// One prompt in one layer.
struct Prompt {
  Matrix qkv;  // [length, 3 * heads * head_dim]
  absl::Span<KvHead> heads;
  int head_dim;
  float scale;
  float* column_sums;  // [heads, ColumnSumFloats(length)]
  Matrix out;          // [length, heads * head_dim]

  int64_t length() const { return qkv.rows; }
  int64_t num_heads() const { return static_cast<int64_t>(heads.size()); }
  const float* Queries(int64_t head) const {
    return qkv.Row(0) + head * head_dim;
  }
  const float* Keys(int64_t head) const { return Queries(num_heads() + head); }
  const float* Values(int64_t head) const {
    return Queries(2 * num_heads() + head);
  }
  bool Scored(int64_t head) const {
    return heads[head].slots.score_rule == ScoreRule::kSum;
  }
  // Of `group`, or of all with group == NumGroups(length()).
  float* ColumnSums(int64_t head, int64_t group) const {
    return column_sums + head * ColumnSumFloats(length()) +
           group * AlignedStride(length());
  }
};

// Turns scores[r][0 .. first_length + r) of `rows` rows into softmax(scale *
// score), zero from there to `columns`, and adds each row to column_sums, if
// that is not null.
void CausalSoftmax(float* scores, int64_t rows, int64_t columns, int64_t stride,
                   int64_t first_length, float scale, float* column_sums) {
  HWY_DYNAMIC_DISPATCH(CausalSoftmaxImpl)
  (scores, rows, columns, stride, first_length, scale, column_sums);
}

// Queries [group * kQueriesPerGroup, ...) of one head.  `scores` is scratch.
void AttendGroup(const Prompt& prompt, int64_t head, int64_t group,
                 float* scores) {
  const int d = prompt.head_dim;
  const int64_t stride_in = prompt.qkv.stride;
  const float* queries = prompt.Queries(head);
  float* sums = nullptr;
  if (prompt.Scored(head)) {
    sums = prompt.ColumnSums(head, group);
    std::fill_n(sums, AlignedStride(prompt.length()), 0.0f);
  }
  const int64_t group_end =
      std::min((group + 1) * kQueriesPerGroup, prompt.length());
  for (int64_t q = group * kQueriesPerGroup; q < group_end; q += kQueryTile) {
    const int64_t rows = std::min(kQueryTile, group_end - q);
    const int64_t columns = q + rows;
    const int64_t stride = AlignedStride(columns);
    Sgemm(true, rows, columns, d, queries + q * stride_in, stride_in,
          prompt.Keys(head), stride_in, scores, stride);
    CausalSoftmax(scores, rows, columns, stride, q + 1, prompt.scale, sums);
    Sgemm(false, rows, d, columns, scores, stride, prompt.Values(head),
          stride_in, prompt.out.Row(q) + head * d, prompt.out.stride);
  }
}

// Adds up the column sums of one head, chooses the tokens that the policy
// keeps, and stores them in the head's slots.
void KeepPrompt(const Prompt& prompt, int64_t head, const KvPool& pool) {
  const int64_t groups = NumGroups(prompt.length());
  const bool scored = prompt.Scored(head);
  float* total = prompt.ColumnSums(head, groups);
  std::fill_n(total, prompt.length(), 0.0f);
  for (int64_t g = 0; scored && g < groups; ++g) {
    const float* sums = prompt.ColumnSums(head, g);
    for (int64_t i = 0; i < prompt.length(); ++i) total[i] += sums[i];
  }
  KvHead& stored = prompt.heads[head];
  const std::vector<int32_t> kept =
      SelectKept(stored.slots, {total, size_t(prompt.length())});
  for (size_t i = 0; i < kept.size(); ++i) {
    const int64_t row = kept[i] * prompt.qkv.stride;
    WriteSlot(prompt.Keys(head) + row, prompt.Values(head) + row,
              scored ? total[kept[i]] : 0.0f, kept[i], pool, stored,
              static_cast<int32_t>(i));
  }
  stored.num_slots = static_cast<int32_t>(kept.size());
}

void AttendPrompt(const Prompt& prompt, const KvPool& pool, Team* team) {
  const int64_t num_heads = prompt.num_heads();
  const int64_t groups = NumGroups(prompt.length());
  team->ParallelFor(
      num_heads * groups, 1, [&](int64_t begin, int64_t end, int thread) {
        for (int64_t i = begin; i < end; ++i) {
          // The last groups first: they take the longest.
          AttendGroup(prompt, i % num_heads, groups - 1 - i / num_heads,
                      team->OfThread(thread));
        }
      });
  team->ParallelFor(num_heads, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t h = begin; h < end; ++h) KeepPrompt(prompt, h, pool);
  });
}

}  // namespace

Team::Scratch PrefillScratch(int64_t max_prompt, int64_t max_heads) {
  return {.thread_floats = kQueryTile * AlignedStride(max_prompt),
          .shared_bytes = max_heads * ColumnSumFloats(max_prompt) * 4};
}

void PrefillAttention(Matrix qkv, const PromptBatch& prompts, int layer,
                      int head_dim, float scale, const KvPool& pool, Matrix out,
                      Team* team) {
  const int64_t num_heads = out.columns / head_dim;
  for (int64_t p = 0; p < prompts.size(); ++p) {
    if (prompts.heads[p] == nullptr) continue;
    const int64_t begin = prompts.starts[p];
    const int64_t length = prompts.starts[p + 1] - begin;
    AttendPrompt({qkv.Rows(begin, length),
                  {prompts.heads[p] + layer * num_heads, size_t(num_heads)},
                  head_dim,
                  scale,
                  team->Shared<float>(),
                  out.Rows(begin, length)},
                 pool, team);
  }
}

}  // namespace h2o::cpu
#endif  // HWY_ONCE
