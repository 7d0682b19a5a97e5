// Reads requests out of JSON objects and out of the texts of flags.
#include "api/request_json.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "api/json_values.h"
#include "api/result.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

using nlohmann::json;

template <typename... Parts>
absl::Status Bad(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status ReadSeed(const json& value, Request* request) {
  if (!value.is_number_unsigned()) {
    return Bad("seed is ", Shown(value), "; it must be a whole number, 0 to ",
               std::numeric_limits<uint64_t>::max());
  }
  request->sampling.seed = value.get<uint64_t>();
  request->has_seed = true;
  return absl::OkStatus();
}

// A policy of its own replaces the default one together with its budget.
absl::Status ReadPolicy(const json& value, Request* request) {
  std::string text;
  H2O_RETURN_IF_ERROR(ReadString("kv_policy", value, &text));
  const std::optional<KvPolicyName> name = ParseKvPolicyName(text);
  if (!name) {
    return Bad("kv_policy is ", Shown(value),
               "; it must be full, h2o, recent or sink");
  }
  request->kv_policy = KvPolicyRequest{.name = *name};
  return absl::OkStatus();
}

// A budget without a policy goes with the default policy's name.
absl::Status ReadBudget(const json& value, Request* request) {
  const KvPolicyRequest base = request->kv_policy.value_or(KvPolicyRequest{});
  KvPolicyRequest policy = {.name = base.name,
                            .flexgen_prefill = base.flexgen_prefill};
  std::string text;
  if (value.is_number()) {
    text = value.dump();  // a fraction is refused with a hint
  } else {
    H2O_RETURN_IF_ERROR(ReadString("kv_budget", value, &text));
  }
  H2O_RETURN_IF_ERROR(ParseKvBudget(text, &policy));
  request->kv_policy = policy;
  return absl::OkStatus();
}

struct Option {
  const char* key;
  absl::Status (*read)(const json& value, Request* request);
  // Of its flag; no help: the option is no flag, or one of another kind.
  const char* help = nullptr;
  RequestFlag::Takes takes = RequestFlag::Takes::kNumber;
  const char* placeholder = "";
  const char* shown_default = "";
};

// In the order in which they are read: a budget after its policy.
constexpr Option kOptions[] = {
    {"prompt",
     [](const json& value, Request* request) {
       request->has_text = true;
       return ReadString("prompt", value, &request->text);
     }},
    {"tokens",
     [](const json& value, Request* request) {
       request->has_text = false;
       return ReadTokens("tokens", value, &request->tokens);
     }},
    {"max_tokens",
     [](const json& value, Request* request) {
       return ReadInt("max_tokens", value, &request->max_tokens.emplace());
     },
     "Most tokens to generate. Default: 128, or fewer if the model has fewer "
     "positions left",
     RequestFlag::Takes::kNumber, "N"},
    {"kv_policy", ReadPolicy},
    {"kv_budget", ReadBudget},
    {"temperature",
     [](const json& value, Request* request) {
       return ReadFloat("temperature", value, &request->sampling.temperature);
     },
     "0: the most probable token (greedy); over 0: sample, with more variety "
     "the higher it is",
     RequestFlag::Takes::kNumber, "T", "0"},
    {"top_k",
     [](const json& value, Request* request) {
       return ReadInt("top_k", value, &request->sampling.top_k);
     },
     "Sample among the K most probable tokens; 0: all",
     RequestFlag::Takes::kNumber, "K"},
    {"top_p",
     [](const json& value, Request* request) {
       return ReadFloat("top_p", value, &request->sampling.top_p);
     },
     "Sample among the most probable tokens that together have probability P; "
     "0 or 1: all",
     RequestFlag::Takes::kNumber, "P"},
    {"min_p",
     [](const json& value, Request* request) {
       return ReadFloat("min_p", value, &request->sampling.min_p);
     },
     "Sample among the tokens at least P times as probable as the most "
     "probable one; 0: all",
     RequestFlag::Takes::kNumber, "P"},
    {"repetition_penalty",
     [](const json& value, Request* request) {
       return ReadFloat("repetition_penalty", value,
                        &request->sampling.repetition_penalty);
     },
     "Over 1: tokens that the prompt or the answer holds become less probable; "
     "1: off",
     RequestFlag::Takes::kNumber, "R", "1"},
    {"frequency_penalty",
     [](const json& value, Request* request) {
       return ReadFloat("frequency_penalty", value,
                        &request->sampling.frequency_penalty);
     },
     "Taken off a token's logit each time that the answer holds it, -2 to 2",
     RequestFlag::Takes::kNumber, "F", "0"},
    {"presence_penalty",
     [](const json& value, Request* request) {
       return ReadFloat("presence_penalty", value,
                        &request->sampling.presence_penalty);
     },
     "Taken off a token's logit if the answer holds it, -2 to 2",
     RequestFlag::Takes::kNumber, "P", "0"},
    {"logit_bias",
     [](const json& value, Request* request) {
       return ReadLogitBias(value, &request->logit_bias);
     }},
    {"logprobs",
     [](const json& value, Request* request) {
       return ReadBool("logprobs", value, &request->logprobs);
     },
     "Report the logprob of each generated token",
     RequestFlag::Takes::kNothing},
    {"top_logprobs",
     [](const json& value, Request* request) {
       return ReadInt("top_logprobs", value, &request->top_logprobs);
     },
     "With logprobs: report those of the N likeliest tokens too, at most 20",
     RequestFlag::Takes::kNumber, "N", "0"},
    {"prompt_logprobs",
     [](const json& value, Request* request) {
       return ReadBool("prompt_logprobs", value, &request->prompt_logprobs);
     },
     "Report the logprobs of the prompt's tokens",
     RequestFlag::Takes::kNothing},
    {"seed", ReadSeed,
     "Equal seeds give equal tokens. Default: another seed each time",
     RequestFlag::Takes::kNumber, "S"},
    {"stop",
     [](const json& value, Request* request) {
       return ReadStrings("stop", value, &request->stop);
     },
     "Text that ends the output and is not part of it; may be given several "
     "times",
     RequestFlag::Takes::kTexts, "STR"},
    {"include_stop",
     [](const json& value, Request* request) {
       return ReadBool("include_stop", value, &request->include_stop);
     },
     "The output holds the text that ended it", RequestFlag::Takes::kNothing},
    {"stop_token_ids",
     [](const json& value, Request* request) {
       return ReadTokens("stop_token_ids", value, &request->stop_token_ids);
     }},
    {"min_tokens",
     [](const json& value, Request* request) {
       return ReadInt("min_tokens", value, &request->min_tokens);
     },
     "Nothing ends the output before it has N tokens",
     RequestFlag::Takes::kNumber, "N", "0"},
    {"add_special_tokens",
     [](const json& value, Request* request) {
       return ReadBool("add_special_tokens", value,
                       &request->add_special_tokens);
     }},
    {"ignore_eos",
     [](const json& value, Request* request) {
       return ReadBool("ignore_eos", value, &request->ignore_eos);
     },
     "Continue after the end-of-text token", RequestFlag::Takes::kNothing},
    {"priority",
     [](const json& value, Request* request) {
       return ReadInt("priority", value, &request->priority);
     },
     "Requests of the same tenant with a higher number go first; 10 s of "
     "waiting are worth one",
     RequestFlag::Takes::kNumber, "N", "0"},
    {"generated",
     [](const json& value, Request* request) {
       return ReadTokens("generated", value, &request->generated);
     }},
};

const Option* FindOption(std::string_view key) {
  for (const Option& option : kOptions) {
    if (key == option.key) return &option;
  }
  return nullptr;
}

// Letters and digits in lower case: "Max-Tokens" and "max_tokens" are one word.
std::string Plain(std::string_view key) {
  std::string plain;
  for (const char c : key) {
    if (absl::ascii_isalnum(c)) plain += absl::ascii_tolower(c);
  }
  return plain;
}

// Levenshtein's: characters to add, drop or change.
int EditDistance(std::string_view a, std::string_view b) {
  std::vector<int> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 0; i < a.size(); ++i) {
    int diagonal = std::exchange(row[0], static_cast<int>(i) + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const int changed = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({changed, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

// The option that `key` is a misspelling of, or null.  Words of one letter
// difference are common among short ones ("step" and "stop").
const Option* MeantBy(std::string_view key) {
  constexpr size_t kShort = 5;  // characters
  const std::string plain = Plain(key);
  for (const Option& option : kOptions) {
    const std::string known = Plain(option.key);
    const int most = known.size() > kShort ? 1 : 0;
    if (EditDistance(plain, known) <= most) return &option;
  }
  return nullptr;
}

absl::Status CheckOther(const std::string& key, bool carried) {
  if (const Option* meant = MeantBy(key)) {
    return Bad("unknown key \"", key, "\"; did you mean ", meant->key, "?");
  }
  if (!carried) {
    return Bad("unknown key \"", key, "\"; known are prompt, tokens, ",
               RequestKeys());
  }
  if (IsResultKey(key)) {
    return Bad("key \"", key, "\" would be carried to the output, which has a ",
               "key of that name; call it something else");
  }
  return absl::OkStatus();
}

// The number that `text` is, or `text` itself for the reader to refuse.
json NumberOf(const std::string& text) {
  int64_t whole = 0;
  uint64_t natural = 0;
  double number = 0;
  if (absl::SimpleAtoi(text, &natural)) return natural;
  if (absl::SimpleAtoi(text, &whole)) return whole;
  if (absl::SimpleAtod(text, &number) && std::isfinite(number)) return number;
  return text;
}

}  // namespace

absl::StatusOr<Request> RequestFromJson(std::string_view text,
                                        const Request& defaults,
                                        std::string* others) {
  H2O_ASSIGN_OR_RETURN(const json object, ParseClientJson(text));
  if (object.contains("prompt") == object.contains("tokens")) {
    return Bad("a request needs either \"prompt\" or \"tokens\"");
  }
  json carried = json::object();
  for (const auto& [key, value] : object.items()) {
    if (FindOption(key) != nullptr) continue;
    H2O_RETURN_IF_ERROR(CheckOther(key, others != nullptr));
    carried[key] = value;
  }
  Request request = defaults;
  for (const Option& option : kOptions) {
    const auto value = object.find(option.key);
    if (value == object.end()) continue;
    H2O_RETURN_IF_ERROR(option.read(*value, &request));
  }
  if (others != nullptr) *others = carried.empty() ? "" : carried.dump();
  return request;
}

std::string RequestKeys() {
  std::vector<std::string> keys;
  for (const Option& option : kOptions) keys.push_back(option.key);
  keys.erase(keys.begin(), keys.begin() + 2);  // prompt and tokens
  return absl::StrJoin(keys, ", ");
}

std::vector<RequestFlag> FlagsOfRequests() {
  std::vector<RequestFlag> flags;
  for (const Option& option : kOptions) {
    if (option.help == nullptr) continue;
    flags.push_back(
        {.key = option.key,
         .flag = "--" + absl::StrReplaceAll(option.key, {{"_", "-"}}),
         .takes = option.takes,
         .placeholder = option.placeholder,
         .shown_default = option.shown_default,
         .help = option.help});
  }
  return flags;
}

absl::Status SetFromFlag(const RequestFlag& flag,
                         absl::Span<const std::string> texts,
                         Request* request) {
  json value = true;
  if (flag.takes == RequestFlag::Takes::kNumber) value = NumberOf(texts.back());
  if (flag.takes == RequestFlag::Takes::kTexts) {
    value = std::vector<std::string>(texts.begin(), texts.end());
  }
  return FindOption(flag.key)->read(value, request);
}

}  // namespace h2o
