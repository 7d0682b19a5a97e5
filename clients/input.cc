// Reads the prompts of a command from flags or from a file of JSON lines, and
// checks them.
#include "clients/input.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iostream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "api/check_request.h"
#include "api/request_json.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

template <typename... Parts>
absl::Status Bad(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// The request of the flags, without the prompt.
absl::StatusOr<Request> DefaultsOf(const RequestFlags& flags) {
  Request request = flags.defaults;
  H2O_ASSIGN_OR_RETURN(request.kv_policy, flags.policy.Request());
  return request;
}

struct Line {
  Request request;
  std::string place;  // FILE:LINE
};

absl::StatusOr<Request> ParseLine(const std::string& text,
                                  const Request& defaults) {
  H2O_ASSIGN_OR_RETURN(Request request, RequestFromJson(text, defaults));
  H2O_RETURN_IF_ERROR(CheckRequest(request));
  return request;
}

absl::StatusOr<std::vector<Line>> ReadLines(const std::string& path,
                                            const Request& defaults) {
  std::ifstream file;
  if (path != "-") {
    file.open(path);
    if (!file) {
      return absl::NotFoundError(absl::StrCat("cannot read the input '", path,
                                              "': ", std::strerror(errno)));
    }
  }
  std::istream& in = path == "-" ? std::cin : file;
  std::vector<Line> lines;
  std::string text;
  for (int number = 1; std::getline(in, text); ++number) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string place = absl::StrCat(path, ":", number);
    absl::StatusOr<Request> request = ParseLine(text, defaults);
    if (!request.ok()) return At(place, request.status());
    lines.push_back({*std::move(request), place});
  }
  if (!in.eof()) {
    return absl::DataLossError(
        absl::StrCat("cannot read all of the input '", path, "'"));
  }
  if (lines.empty()) {
    return Bad(path, " has no prompts; write one JSON object a line");
  }
  return lines;
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> ParseTokenList(std::string_view text) {
  std::vector<int32_t> ids;
  for (absl::string_view word :
       absl::StrSplit(absl::string_view(text.data(), text.size()),
                      absl::ByAnyChar(" ,\t\n"), absl::SkipEmpty())) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(word, &id) || id < 0) {
      return Bad("'", word,
                 "' is not a token id; give numbers, as in \"2 5 9\"");
    }
    ids.push_back(id);
  }
  return ids;
}

absl::Status At(const std::string& place, const absl::Status& status) {
  if (place.empty()) return status;
  return absl::Status(status.code(),
                      absl::StrCat(place, ": ", status.message()));
}

absl::StatusOr<std::vector<Request>> ReadInputLines(
    const std::string& path, const Request& defaults,
    std::vector<std::string>* places) {
  H2O_ASSIGN_OR_RETURN(std::vector<Line> lines, ReadLines(path, defaults));
  std::vector<Request> requests;
  for (Line& line : lines) {
    requests.push_back(std::move(line.request));
    if (places != nullptr) places->push_back(std::move(line.place));
  }
  return requests;
}

absl::StatusOr<std::vector<Request>> RequestsOf(
    const RequestFlags& flags, uint64_t seed,
    std::vector<std::string>* places) {
  H2O_ASSIGN_OR_RETURN(const Request defaults, DefaultsOf(flags));
  std::vector<Line> lines;
  if (flags.input) {
    H2O_ASSIGN_OR_RETURN(lines, ReadLines(*flags.input, defaults));
  } else if (flags.prompt || flags.tokens) {
    Request& request = lines.emplace_back(Line{.request = defaults}).request;
    if (flags.prompt) {
      request.has_text = true;
      request.text = *flags.prompt;
    } else {
      H2O_ASSIGN_OR_RETURN(request.tokens, ParseTokenList(*flags.tokens));
    }
    H2O_RETURN_IF_ERROR(CheckRequest(request));
  } else {
    return Bad(
        "give one of --prompt TEXT, --tokens \"2 5 9\" and --input FILE");
  }
  std::vector<Request> requests;
  for (Line& line : lines) {
    if (!line.request.has_seed) {
      line.request.has_seed = true;
      line.request.sampling.seed = seed + requests.size();
    }
    requests.push_back(std::move(line.request));
    if (places != nullptr) places->push_back(std::move(line.place));
  }
  return requests;
}

}  // namespace h2o
