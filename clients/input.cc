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

absl::Status ParseLine(const std::string& text, const Request& defaults,
                       Prompt* prompt) {
  H2O_ASSIGN_OR_RETURN(prompt->request,
                       RequestFromJson(text, defaults, &prompt->others));
  return CheckRequest(prompt->request);
}

}  // namespace

absl::StatusOr<std::vector<Prompt>> ReadInputLines(const std::string& path,
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
  std::vector<Prompt> prompts;
  std::string text;
  for (int number = 1; std::getline(in, text); ++number) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    Prompt& prompt = prompts.emplace_back();
    prompt.place = absl::StrCat(path, ":", number);
    H2O_RETURN_IF_ERROR(At(prompt.place, ParseLine(text, defaults, &prompt)));
  }
  if (!in.eof()) {
    return absl::DataLossError(
        absl::StrCat("cannot read all of the input '", path, "'"));
  }
  if (prompts.empty()) {
    return Bad(path, " has no prompts; write one JSON object a line");
  }
  return prompts;
}

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

absl::StatusOr<std::vector<Prompt>> PromptsOf(const RequestFlags& flags,
                                              uint64_t seed) {
  H2O_ASSIGN_OR_RETURN(const Request defaults, DefaultsOf(flags));
  std::vector<Prompt> prompts;
  if (flags.input) {
    H2O_ASSIGN_OR_RETURN(prompts, ReadInputLines(*flags.input, defaults));
  } else if (flags.prompt || flags.tokens) {
    Request& request =
        prompts.emplace_back(Prompt{.request = defaults}).request;
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
  for (Prompt& prompt : prompts) {
    if (!prompt.request.has_seed) {
      prompt.request.has_seed = true;
      prompt.request.sampling.seed = seed;
    }
    ++seed;
  }
  return prompts;
}

}  // namespace h2o
