// Reads traces of requests.
#include "loadtest/trace_file.h"

#include <cmath>
#include <fstream>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/civil_time.h"
#include "absl/time/time.h"
#include "loadtest/lengths.h"

namespace h2o {
namespace {

constexpr char kHeader[] = "TIMESTAMP,ContextTokens,GeneratedTokens";

// Seconds since 1970, of either form.
bool ParseTime(const std::string& text, double* seconds) {
  if (absl::SimpleAtod(text, seconds)) return std::isfinite(*seconds);
  absl::Time time;
  std::string why;
  if (!absl::ParseTime("%Y-%m-%d %H:%M:%E*S", text, absl::UTCTimeZone(), &time,
                       &why)) {
    return false;
  }
  *seconds = absl::ToDoubleSeconds(time - absl::UnixEpoch());
  return true;
}

bool ParseRow(const std::string& line, TraceRow* row) {
  const std::vector<std::string> cells = absl::StrSplit(line, ',');
  return cells.size() == 3 && ParseTime(cells[0], &row->at_seconds) &&
         absl::SimpleAtoi(cells[1], &row->prompt_tokens) &&
         absl::SimpleAtoi(cells[2], &row->output_tokens) &&
         IsLength(row->prompt_tokens) && IsLength(row->output_tokens);
}

}  // namespace

absl::StatusOr<std::vector<TraceRow>> ParseTrace(const std::string& text,
                                                 const std::string& name) {
  std::vector<TraceRow> rows;
  double first = 0;
  int number = 0;
  std::vector<std::string> lines = absl::StrSplit(text, '\n');
  for (std::string& line : lines) {
    ++number;
    absl::StripAsciiWhitespace(&line);
    if (line.empty() || (number == 1 && line == kHeader)) continue;
    TraceRow row;
    if (!ParseRow(line, &row)) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, ":", number, ": '", line.substr(0, 100), "' is no row of ",
          kHeader,
          " (a time as 2023-11-16 18:15:46.68 or in seconds, and two counts, 1 "
          "to ",
          kLongestTokens, ")"));
    }
    if (rows.empty()) first = row.at_seconds;
    row.at_seconds -= first;
    if (!rows.empty() && row.at_seconds < rows.back().at_seconds) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ":", number,
                       ": its time is before that of the "
                       "line above; sort the trace by time"));
    }
    rows.push_back(row);
  }
  if (rows.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(name, " has no rows"));
  }
  return rows;
}

absl::StatusOr<std::vector<TraceRow>> ReadTrace(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("no file ", path));
  std::ostringstream text;
  text << file.rdbuf();
  return ParseTrace(text.str(), path);
}

}  // namespace h2o
