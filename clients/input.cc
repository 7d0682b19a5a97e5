// Reads the prompts of a command from flags or from a file of JSON lines, and
// checks them.
#include "clients/input.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "api/check_request.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

using nlohmann::json;

template <typename... Parts>
absl::Status Bad(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// The request of the flags, without the prompt.
absl::StatusOr<Request> DefaultsOf(const RequestFlags& flags) {
  Request request;
  request.max_tokens = flags.max_tokens;
  request.ignore_eos = flags.ignore_eos;
  request.stop = flags.stop;
  request.sampling = flags.sampling.params;
  H2O_ASSIGN_OR_RETURN(request.kv_policy, flags.policy.Request());
  return request;
}

// For an error: the value as JSON, cut if it is long.
std::string Shown(const json& value) {
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 60) + "...";
  return text;
}

absl::Status ReadInt(const char* key, const json& value, int32_t* out) {
  constexpr auto kLeast = std::numeric_limits<int32_t>::min();
  constexpr auto kMost = std::numeric_limits<int32_t>::max();
  // The JSON library compares unsigned numbers as signed ones.
  const bool fits = value.is_number_unsigned()
                        ? value.get<uint64_t>() <= uint64_t{kMost}
                        : value.is_number_integer() && value >= kLeast;
  if (!fits) {
    return Bad(key, " is ", Shown(value), "; it must be a whole number");
  }
  *out = value.get<int32_t>();
  return absl::OkStatus();
}

absl::Status ReadFloat(const char* key, const json& value, float* out) {
  if (!value.is_number()) {
    return Bad(key, " is ", Shown(value), "; it must be a number");
  }
  *out = value.get<float>();
  return absl::OkStatus();
}

absl::Status ReadString(const char* key, const json& value, std::string* out) {
  if (!value.is_string()) {
    return Bad(key, " is ", Shown(value), "; it must be a string");
  }
  *out = value.get<std::string>();
  return absl::OkStatus();
}

absl::Status ReadTokens(const json& value, std::vector<int32_t>* out) {
  if (!value.is_array() || value.empty()) {
    return Bad("tokens is ", Shown(value),
               "; it must be a list of at least one token id");
  }
  for (const json& id : value) {
    H2O_RETURN_IF_ERROR(ReadInt("tokens", id, &out->emplace_back()));
  }
  return absl::OkStatus();
}

absl::Status ReadStop(const json& value, std::vector<std::string>* out) {
  out->clear();
  if (value.is_string()) {
    out->push_back(value.get<std::string>());
    return absl::OkStatus();
  }
  if (!value.is_array()) {
    return Bad("stop is ", Shown(value),
               "; it must be a string or a list of strings");
  }
  for (const json& text : value) {
    H2O_RETURN_IF_ERROR(ReadString("stop", text, &out->emplace_back()));
  }
  return absl::OkStatus();
}

// A line's own policy replaces the default one, with its budget; a line's own
// budget goes with the default policy's name.
absl::Status ReadPolicy(const json& line,
                        std::optional<KvPolicyRequest>* policy) {
  const auto name = line.find("kv_policy");
  const auto budget = line.find("kv_budget");
  if (name == line.end() && budget == line.end()) return absl::OkStatus();
  KvPolicyRequest request;
  if (name != line.end()) {
    std::string text;
    H2O_RETURN_IF_ERROR(ReadString("kv_policy", *name, &text));
    const std::optional<KvPolicyName> known = ParseKvPolicyName(text);
    if (!known) {
      return Bad("kv_policy is ", Shown(*name),
                 "; it must be full, h2o, recent or sink");
    }
    request.name = *known;
  } else if (*policy) {
    request.name = (*policy)->name;
    request.flexgen_prefill = (*policy)->flexgen_prefill;
  }
  if (budget != line.end()) {
    std::string text;
    if (budget->is_number_integer()) {
      text = budget->dump();
    } else {
      H2O_RETURN_IF_ERROR(ReadString("kv_budget", *budget, &text));
    }
    H2O_RETURN_IF_ERROR(ParseKvBudget(text, &request));
  }
  *policy = request;
  return absl::OkStatus();
}

struct Line {
  Request request;
  bool has_seed = false;
  std::string place;  // FILE:LINE
};

absl::StatusOr<Line> ParseLine(const std::string& text,
                               const Request& defaults) {
  const json line = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (line.is_discarded()) {
    return Bad("not a JSON object in UTF-8: ", Shown(json(text)));
  }
  if (!line.is_object()) {
    return Bad(Shown(line), " is not an object; write {\"prompt\": ..}");
  }
  Line parsed = {.request = defaults};
  Request& request = parsed.request;
  if (line.contains("prompt") == line.contains("tokens")) {
    return Bad("a line needs either \"prompt\" or \"tokens\"");
  }
  for (const auto& [key, value] : line.items()) {
    absl::Status status;
    if (key == "prompt") {
      request.has_text = true;
      status = ReadString("prompt", value, &request.text);
    } else if (key == "tokens") {
      status = ReadTokens(value, &request.tokens);
    } else if (key == "max_tokens") {
      int32_t max_tokens = 0;
      status = ReadInt("max_tokens", value, &max_tokens);
      request.max_tokens = max_tokens;
    } else if (key == "temperature") {
      status = ReadFloat("temperature", value, &request.sampling.temperature);
    } else if (key == "top_k") {
      status = ReadInt("top_k", value, &request.sampling.top_k);
    } else if (key == "top_p") {
      status = ReadFloat("top_p", value, &request.sampling.top_p);
    } else if (key == "seed") {
      if (!value.is_number_unsigned()) {
        status = Bad("seed is ", Shown(value),
                     "; it must be a whole number, 0 or more");
      } else {
        request.sampling.seed = value.get<uint64_t>();
        parsed.has_seed = true;
      }
    } else if (key == "stop") {
      status = ReadStop(value, &request.stop);
    } else if (key == "ignore_eos") {
      if (!value.is_boolean()) {
        status =
            Bad("ignore_eos is ", Shown(value), "; it must be true or false");
      } else {
        request.ignore_eos = value.get<bool>();
      }
    } else if (key != "kv_policy" && key != "kv_budget") {
      status = Bad("unknown key \"", key,
                   "\"; known are prompt, tokens, max_tokens, kv_policy, "
                   "kv_budget, temperature, top_k, top_p, seed, stop, "
                   "ignore_eos");
    }
    H2O_RETURN_IF_ERROR(status);
  }
  H2O_RETURN_IF_ERROR(ReadPolicy(line, &request.kv_policy));
  H2O_RETURN_IF_ERROR(CheckRequest(request));
  return parsed;
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
    absl::StatusOr<Line> line = ParseLine(text, defaults);
    if (!line.ok()) return At(place, line.status());
    line->place = place;
    lines.push_back(*std::move(line));
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
    if (!line.has_seed && !flags.sampling.has_seed) {
      line.request.sampling.seed = seed + requests.size();
    }
    requests.push_back(std::move(line.request));
    if (places != nullptr) places->push_back(std::move(line.place));
  }
  return requests;
}

}  // namespace h2o
