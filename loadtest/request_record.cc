// Writes and reads records of requests.
#include "loadtest/request_record.h"

#include <iterator>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace h2o {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kOutcomes[] = {"ok", "refused", "failed", "unfinished"};

// Each field once: `visit(key, &field)` writes or reads it.
template <typename Record, typename Visit>
void ForEachField(Record& record, const Visit& visit) {
  visit("index", record.index);
  visit("generator", record.generator);
  visit("target", record.target);
  visit("tenant", record.tenant);
  visit("prefix", record.prefix);
  visit("prompt_tokens", record.prompt_tokens);
  visit("wanted_tokens", record.wanted_tokens);
  visit("intended", record.intended);
  visit("sent", record.sent);
  visit("end", record.end);
  visit("error", record.error);
}

}  // namespace

const char* Name(LoadOutcome outcome) {
  return kOutcomes[static_cast<int>(outcome)];
}

int RequestRecord::OutputTokens() const {
  int all = 0;
  for (const TokenPiece& piece : pieces) all += piece.tokens;
  return all;
}

std::optional<double> RequestRecord::Tpot() const {
  if (pieces.size() < 2) return std::nullopt;
  const int behind_first = OutputTokens() - pieces.front().tokens;
  return (pieces.back().at - pieces.front().at) / behind_first;
}

std::string ToJson(const RequestRecord& record) {
  Json json;
  ForEachField(record,
               [&](const char* key, const auto& value) { json[key] = value; });
  json["outcome"] = Name(record.outcome);
  json["pieces"] = Json::array();
  for (const TokenPiece& piece : record.pieces) {
    json["pieces"].push_back({piece.at, piece.tokens});
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<RequestRecord> RecordFromJson(std::string_view line) {
  RequestRecord record;
  try {
    const Json json = Json::parse(line);
    ForEachField(record, [&](const char* key, auto& value) {
      json.at(key).get_to(value);
    });
    for (const Json& piece : json.at("pieces")) {
      record.pieces.push_back(
          {piece.at(0).get<double>(), piece.at(1).get<int>()});
    }
    const auto outcome = json.at("outcome").get<std::string>();
    for (size_t i = 0; i < std::size(kOutcomes); ++i) {
      if (outcome != kOutcomes[i]) continue;
      record.outcome = static_cast<LoadOutcome>(i);
      return record;
    }
  } catch (const nlohmann::json::exception& fault) {
    return absl::InvalidArgumentError(
        absl::StrCat("this is no record of a request: ", fault.what()));
  }
  return absl::InvalidArgumentError("a record has an unknown outcome");
}

}  // namespace h2o
