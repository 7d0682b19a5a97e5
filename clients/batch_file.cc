// Reads the lines of a batch, and writes their answers.
#include "clients/batch_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

absl::Status Wrong(const std::string& what) {
  return absl::InvalidArgumentError(what);
}

std::string PlaceOf(const std::string& path, int64_t number) {
  return absl::StrCat(path, ":", number, ": ");
}

std::string TextOf(const ordered_json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_string()) return "";
  return it->get<std::string>();
}

// The answer of a server as JSON; a text that is none, as a text.
ordered_json BodyJson(const std::string& body) {
  ordered_json parsed = ordered_json::parse(body, nullptr, false);
  return parsed.is_discarded() ? ordered_json(body) : parsed;
}

std::string LineOf(const std::string& custom_id, const BatchAnswer& answer) {
  ordered_json line = {{"id", absl::StrCat("batch_req_", custom_id)},
                       {"custom_id", custom_id},
                       {"response", nullptr},
                       {"error", nullptr}};
  if (answer.status > 0) {
    line["response"] = {{"status_code", answer.status},
                        {"request_id", answer.request_id},
                        {"body", BodyJson(answer.body)}};
  } else {
    line["error"] = {{"code", absl::StatusCodeToString(answer.fault.code())},
                     {"message", std::string(answer.fault.message())}};
  }
  return line.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace

absl::StatusOr<BatchLine> ParseBatchLine(std::string_view text) {
  const ordered_json line = ordered_json::parse(text, nullptr, false);
  if (!line.is_object()) return Wrong("it must be a JSON object");
  BatchLine parsed{.custom_id = TextOf(line, "custom_id"),
                   .url = TextOf(line, "url")};
  if (parsed.custom_id.empty()) return Wrong("it must have a \"custom_id\"");
  if (line.contains("method") && line["method"] != "POST") {
    return Wrong("its \"method\" must be \"POST\"");
  }
  if (parsed.url != "/v1/completions" && parsed.url != "/v1/chat/completions") {
    return Wrong(
        "its \"url\" must be \"/v1/completions\" or \"/v1/chat/completions\"");
  }
  const auto body = line.find("body");
  if (body == line.end() || !body->is_object()) {
    return Wrong("it must have a \"body\", the object to post");
  }
  if (body->contains("stream") && (*body)["stream"] != false &&
      !(*body)["stream"].is_null()) {
    return Wrong("a batch is not streamed: leave \"stream\" out");
  }
  parsed.body = body->dump();
  return parsed;
}

absl::StatusOr<BatchInput> BatchInput::Open(const std::string& path) {
  BatchInput input;
  input.path_ = path;
  input.file_.open(path, std::ios::binary);
  if (!input.file_) return absl::NotFoundError(absl::StrCat("no file ", path));
  absl::flat_hash_set<std::string> ids;
  while (true) {
    H2O_ASSIGN_OR_RETURN(const std::optional<BatchLine> line, input.Next());
    if (!line) break;
    if (!ids.insert(line->custom_id).second) {
      return Wrong(absl::StrCat(PlaceOf(path, input.number_),
                                "another line has the custom_id \"",
                                line->custom_id, "\" too"));
    }
    ++input.num_lines_;
  }
  input.number_ = 0;
  input.file_.clear();
  input.file_.seekg(0);
  if (!input.file_) return Wrong(absl::StrCat(path, " must be a plain file"));
  return input;
}

absl::StatusOr<std::optional<BatchLine>> BatchInput::Next() {
  for (std::string text; std::getline(file_, text);) {
    ++number_;
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    absl::StatusOr<BatchLine> line = ParseBatchLine(text);
    if (line.ok()) return *std::move(line);
    return Wrong(
        absl::StrCat(PlaceOf(path_, number_), line.status().message()));
  }
  return std::nullopt;
}

absl::Status BatchOutput::Fault(const char* what) const {
  return absl::DataLossError(
      absl::StrCat("cannot ", what, " ", path_, ": ", std::strerror(errno)));
}

absl::StatusOr<BatchOutput> BatchOutput::Open(const std::string& path) {
  BatchOutput output;
  output.path_ = path;
  H2O_RETURN_IF_ERROR(output.ReadEarlier());
  output.fd_ = UniqueFd(
      open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_APPEND, 0666));
  if (output.fd_.get() >= 0) return output;
  return absl::PermissionDeniedError(
      absl::StrCat("cannot write ", path, ": ", std::strerror(errno)));
}

absl::Status BatchOutput::ReadEarlier() {
  std::ifstream file(path_, std::ios::binary);
  if (!file) return absl::OkStatus();   // there is none, or Open says why
  int64_t whole_bytes = 0, number = 0;  // of lines with their ends
  for (std::string text; std::getline(file, text) && !file.eof();) {
    ++number;
    whole_bytes += static_cast<int64_t>(text.size()) + 1;
    if (text.empty()) continue;
    const ordered_json line = ordered_json::parse(text, nullptr, false);
    const std::string id = line.is_object() && line.contains("response")
                               ? TextOf(line, "custom_id")
                               : "";
    if (id.empty()) {
      return Wrong(absl::StrCat(PlaceOf(path_, number),
                                "this is no answer of a batch; --output takes "
                                "a new file or one that a batch has begun"));
    }
    answered_.insert(id);
  }
  file.close();
  // What is behind them was cut off.
  if (truncate(path_.c_str(), whole_bytes) != 0 && errno != EINVAL) {
    return absl::PermissionDeniedError(
        absl::StrCat("cannot write ", path_, ": ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

absl::Status BatchOutput::Append(const std::string& custom_id,
                                 const BatchAnswer& answer) {
  const std::string line = LineOf(custom_id, answer);
  for (size_t at = 0; at < line.size();) {
    const ssize_t n = write(fd_.get(), line.data() + at, line.size() - at);
    if (n < 0 && errno != EINTR) return Fault("write to");
    if (n > 0) at += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::Status BatchOutput::Close() {
  // A device has nothing to force.
  if (fsync(fd_.get()) != 0 && errno != EINVAL) return Fault("write all of");
  return absl::OkStatus();
}

}  // namespace h2o
