// Prints results as JSON and as a table.
#include "eval/report.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace h2o {
namespace {

// Means over the tokens of all documents.
struct Means {
  explicit Means(const EvalResult& result) {
    const DocumentScores sum = SumOf(result.documents);
    const auto tokens = static_cast<double>(sum.tokens);
    agreement = static_cast<double>(sum.agreed) / tokens;
    kl = sum.kl / tokens;
  }
  double agreement, kl;
};

}  // namespace

std::string EvalJson(const EvalResult& result) {
  const Means means(result);
  const Interval interval = PerplexityInterval(result.documents);
  nlohmann::ordered_json line;
  line["policy"] = std::string(Name(result.setting.policy));
  line["budget"] = nullptr;
  if (!result.setting.budget.empty()) line["budget"] = result.setting.budget;
  line["kv_bits"] = result.kv_bits;
  line["bytes_share"] = result.bytes_share;
  line["perplexity"] = Perplexity(result.documents);
  line["perplexity_low"] = interval.low;
  line["perplexity_high"] = interval.high;
  line["agreement"] = means.agreement;
  line["kl"] = means.kl;
  line["attention_mass_kept"] = nullptr;
  if (result.attention_mass_kept) {
    line["attention_mass_kept"] = *result.attention_mass_kept;
  }
  line["recall"] = nullptr;
  if (result.facts_asked > 0) {
    line["recall"] = {{"right", result.facts_right},
                      {"asked", result.facts_asked}};
  }
  return line.dump();
}

std::string EvalTable(const std::vector<EvalResult>& results) {
  std::string table = absl::StrFormat(
      "%-8s %7s %8s %7s %11s %19s %9s %8s %8s\n", "policy", "budget", "kv bits",
      "bytes", "perplexity", "95 % within", "agreement", "KL", "recall");
  for (const EvalResult& result : results) {
    const Means means(result);
    const Interval interval = PerplexityInterval(result.documents);
    const std::string budget = result.setting.budget;
    absl::StrAppendFormat(
        &table, "%-8s %7s %8d %6.1f%% %11.3f %9.3f-%9.3f %8.1f%% %8.4f %8s\n",
        std::string(Name(result.setting.policy)),
        budget.empty() ? "all" : budget, result.kv_bits,
        100 * result.bytes_share, Perplexity(result.documents), interval.low,
        interval.high, 100 * means.agreement, means.kl,
        result.facts_asked == 0
            ? "-"
            : absl::StrCat(result.facts_right, "/", result.facts_asked));
  }
  return table;
}

}  // namespace h2o
