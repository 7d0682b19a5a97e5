// Draws the tables of `h2oserve top`.
#include "clients/top_view.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "base/cut_text.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

using Json = nlohmann::json;

// A server of another version may lack a field.
double NumberOf(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_number() ? it->get<double>() : 0;
}
std::string TextOf(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}
const Json& PartOf(const Json& object, const char* key) {
  static const Json nothing = Json::array();
  const auto it = object.find(key);
  return it != object.end() ? *it : nothing;
}

absl::StatusOr<Json> Parse(const std::string& text) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::DataLossError(
        absl::StrCat("the server's status is no JSON object: ", CutText(text)));
  }
  return json;
}

bool Draining(const Json& group) {
  const auto it = group.find("draining");
  return it != group.end() && it->is_boolean() && it->get<bool>();
}

// 1234567 -> "1,234,567".
std::string WithCommas(double value) {
  std::string digits = absl::StrFormat("%.0f", value);
  for (int at = static_cast<int>(digits.size()) - 3; at > 0; at -= 3) {
    digits.insert(at, 1, ',');
  }
  return digits;
}

std::string Bar(double share, int width) {
  const int full =
      std::clamp(static_cast<int>(std::lround(share * width)), 0, width);
  return absl::StrCat("[", std::string(full, '#'),
                      std::string(width - full, '.'), "]");
}

// Columns as wide as their widest entry; numbers to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> head) { Row(std::move(head)); }
  void Row(std::vector<std::string> cells) {
    widths_.resize(std::max(widths_.size(), cells.size()));
    for (size_t i = 0; i < cells.size(); ++i) {
      widths_[i] = std::max(widths_[i], cells[i].size());
    }
    rows_.push_back(std::move(cells));
  }
  std::vector<std::string> Lines() const {
    std::vector<std::string> lines;
    for (const std::vector<std::string>& cells : rows_) {
      std::string line;
      for (size_t i = 0; i < cells.size(); ++i) {
        const std::string space(widths_[i] - cells[i].size(), ' ');
        absl::StrAppend(&line, i == 0 ? "" : "  ",
                        i == 0 ? cells[i] + space : space + cells[i]);
      }
      lines.push_back(line);
    }
    return lines;
  }

 private:
  std::vector<std::vector<std::string>> rows_;
  std::vector<size_t> widths_;
};

std::vector<std::string> Head(const Json& now, const Json& before,
                              double seconds) {
  const Json& queue = PartOf(now, "queue");
  std::string rate = "-";
  if (seconds > 0) {
    rate = WithCommas(std::max(0.0, NumberOf(now, "generated_tokens") -
                                        NumberOf(before, "generated_tokens")) /
                      seconds);
  }
  return {absl::StrCat("h2oserve ", TextOf(PartOf(now, "build"), "version"),
                       "   ", CutText(TextOf(now, "model")), "   ",
                       PartOf(now, "groups").size(), " group(s) ready"),
          absl::StrFormat("running %s   waiting %s (oldest %.1f s)   tokens/s "
                          "%s   finished %s   refused %s   replays %s",
                          WithCommas(NumberOf(now, "running")),
                          WithCommas(NumberOf(queue, "waiting")),
                          NumberOf(queue, "age_seconds"), rate,
                          WithCommas(NumberOf(now, "finished")),
                          WithCommas(NumberOf(now, "refused")),
                          WithCommas(NumberOf(now, "replays")))};
}

std::vector<std::string> Ranks(const Json& now) {
  Table table({"group", "running", "rank", "device", "address", "pages held",
               "step p50", "p99", "last step"});
  for (const Json& group : PartOf(now, "groups")) {
    for (const Json& rank : PartOf(group, "ranks")) {
      const double held = NumberOf(rank, "pages_held");
      const double share = held / std::max(1.0, NumberOf(rank, "pages_total"));
      table.Row({absl::StrFormat("%.0f", NumberOf(group, "group")),
                 absl::StrFormat("%.0f%s", NumberOf(group, "running"),
                                 Draining(group) ? " drains" : ""),
                 absl::StrFormat("%.0f", NumberOf(rank, "rank")),
                 CutText(TextOf(rank, "device")),
                 CutText(TextOf(rank, "address")),
                 absl::StrFormat("%s %3.0f %%", Bar(share, 16), 100 * share),
                 absl::StrFormat("%.1f ms", NumberOf(rank, "step_ms_p50")),
                 absl::StrFormat("%.1f ms", NumberOf(rank, "step_ms_p99")),
                 absl::StrFormat("%.1f s ago",
                                 NumberOf(rank, "last_step_age_seconds"))});
    }
  }
  return table.Lines();
}

std::vector<std::string> Tenants(const Json& now, const Json& before,
                                 double seconds) {
  Table table({"tenant", "waiting", "running", "tokens/s"});
  for (const Json& tenant : PartOf(PartOf(now, "queue"), "tenants")) {
    const std::string name = TextOf(tenant, "name");
    std::string rate = "-";
    for (const Json& then : PartOf(PartOf(before, "queue"), "tenants")) {
      if (seconds <= 0 || TextOf(then, "name") != name) continue;
      rate = WithCommas(std::max(
          0.0,
          (NumberOf(tenant, "tokens") - NumberOf(then, "tokens")) / seconds));
    }
    table.Row({CutText(name), WithCommas(NumberOf(tenant, "waiting")),
               WithCommas(NumberOf(tenant, "running")), rate});
  }
  return table.Lines();
}

std::string LastFault(const Json& now) {
  const Json& fault = PartOf(now, "last_fault");
  if (!fault.is_object()) return "";
  return absl::StrCat(
      "last fault: ",
      absl::FormatTime("%Y-%m-%d %H:%M:%S",
                       absl::FromUnixSeconds(static_cast<int64_t>(
                           NumberOf(fault, "unix_seconds"))),
                       absl::UTCTimeZone()),
      " UTC, ", CutText(TextOf(fault, "kind")), ": ",
      CutText(TextOf(fault, "words")));
}

}  // namespace

absl::StatusOr<std::string> TopView(const TopSample& now,
                                    const std::optional<TopSample>& before,
                                    int columns) {
  H2O_ASSIGN_OR_RETURN(const Json status, Parse(now.status));
  Json earlier = Json::object();
  double seconds = 0;
  if (before) {
    H2O_ASSIGN_OR_RETURN(earlier, Parse(before->status));
    seconds = now.when - before->when;
  }
  std::vector<std::string> lines = Head(status, earlier, seconds);
  for (const std::vector<std::string>& part :
       {Ranks(status), Tenants(status, earlier, seconds)}) {
    if (part.size() < 2) continue;  // a head alone
    lines.emplace_back();
    lines.insert(lines.end(), part.begin(), part.end());
  }
  if (const std::string fault = LastFault(status); !fault.empty()) {
    lines.push_back("");
    lines.push_back(fault);
  }
  for (std::string& line : lines)
    line.resize(std::min<size_t>(line.size(), columns));
  return absl::StrCat(absl::StrJoin(lines, "\n"), "\n");
}

}  // namespace h2o
