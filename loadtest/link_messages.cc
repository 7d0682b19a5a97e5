// Writes and reads the messages between a leader and its generators.
#include "loadtest/link_messages.h"

#include <iterator>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kStates[] = {"wait", "run", "done"};

template <typename Progress, typename Visit>
void ForEachCount(Progress& progress, const Visit& visit) {
  visit("sent", progress.sent);
  visit("ok", progress.ok);
  visit("refused", progress.refused);
  visit("failed", progress.failed);
  visit("unfinished", progress.unfinished);
  visit("tokens", progress.tokens);
  visit("waited", progress.waited);
}

absl::Status Wrong(const std::exception& fault) {
  return absl::InvalidArgumentError(
      absl::StrCat("this is no message of h2oserve loadtest: ", fault.what()));
}

}  // namespace

std::string ToJson(const NextMessage& message) {
  Json json = {{"state", kStates[static_cast<int>(message.state)]}};
  if (message.state == NextMessage::State::kRun) {
    json["run"] = message.run;
    json["spec"] = message.spec;
    json["part"] = message.part.part;
    json["parts"] = message.part.parts;
    json["start"] = message.start;
  }
  return json.dump();
}

absl::StatusOr<NextMessage> NextFromJson(const std::string& text) {
  NextMessage message;
  try {
    const Json json = Json::parse(text);
    const auto state = json.at("state").get<std::string>();
    for (size_t i = 0; i < std::size(kStates); ++i) {
      if (state == kStates[i]) message.state = NextMessage::State(i);
    }
    if (message.state != NextMessage::State::kRun) return message;
    json.at("run").get_to(message.run);
    json.at("spec").get_to(message.spec);
    json.at("part").get_to(message.part.part);
    json.at("parts").get_to(message.part.parts);
    json.at("start").get_to(message.start);
    if (message.part.part < 0 || message.part.part >= message.part.parts) {
      return absl::InvalidArgumentError(
          absl::StrCat("there is no part ", message.part.part, " of ",
                       message.part.parts, " of a load"));
    }
  } catch (const nlohmann::json::exception& fault) {
    return Wrong(fault);
  }
  return message;
}

std::string ToJson(const ReportMessage& message) {
  Json json = {{"generator", message.generator},
               {"run", message.run},
               {"ended", message.ended},
               {"fault", message.fault},
               {"round_trip_seconds", message.round_trip_seconds},
               {"drift_seconds", message.drift_seconds},
               {"records", Json::array()}};
  ForEachCount(message.progress, [&](const char* key, int64_t count) {
    json["progress"][key] = count;
  });
  for (const RequestRecord& record : message.records) {
    json["records"].push_back(ToJson(record));
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<ReportMessage> ReportFromJson(const std::string& text) {
  ReportMessage message;
  try {
    const Json json = Json::parse(text);
    json.at("generator").get_to(message.generator);
    json.at("run").get_to(message.run);
    json.at("ended").get_to(message.ended);
    json.at("fault").get_to(message.fault);
    json.at("round_trip_seconds").get_to(message.round_trip_seconds);
    json.at("drift_seconds").get_to(message.drift_seconds);
    ForEachCount(message.progress, [&](const char* key, int64_t& count) {
      json.at("progress").at(key).get_to(count);
    });
    for (const Json& record : json.at("records")) {
      H2O_ASSIGN_OR_RETURN(message.records.emplace_back(),
                           RecordFromJson(record.get<std::string>()));
    }
  } catch (const nlohmann::json::exception& fault) {
    return Wrong(fault);
  }
  return message;
}

}  // namespace h2o
