// Reads key files, makes keys, and finds the tenant of a key.
#include "access/key_table.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/cut_text.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxNameBytes = 64;
constexpr double kMaxWeight = 1e6;

template <typename... Parts>
absl::Status Bad(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

std::string Shown(const Json& value) {
  return CutText(value.dump(-1, ' ', true, Json::error_handler_t::replace));
}

// One row of the file; `where` names it in errors.
class RowReader {
 public:
  RowReader(const Json& row, std::string where)
      : row_(row), where_(std::move(where)) {}

  absl::StatusOr<KeyTable::Row> Read() {
    if (!row_.is_object()) return Bad(where_, " must be an object");
    auto tenant = std::make_shared<Tenant>();
    KeyTable::Row row;
    for (const auto& [field, value] : row_.items()) {
      H2O_RETURN_IF_ERROR(Take(field, value, tenant.get(), &row.hash));
    }
    for (const char* needed : {"name", "sha256"}) {
      if (!row_.contains(needed)) return Bad(where_, " has no ", needed);
    }
    row.tenant = std::move(tenant);
    return row;
  }

 private:
  absl::Status Wrong(const std::string& field, const Json& value,
                     const char* right) const {
    return Bad(where_, ": ", CutText(field), " is ", Shown(value),
               "; it must be ", right);
  }

  absl::Status Take(const std::string& field, const Json& value, Tenant* tenant,
                    Sha256* hash) const {
    if (field == "name") return TakeName(value, &tenant->name);
    if (field == "sha256") return TakeHash(value, hash);
    if (field == "weight") {
      return TakeNumber(field, value, 1e-6, kMaxWeight, &tenant->weight);
    }
    if (field == "priority") {
      constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
      return TakeWhole(field, value, -kMost, &tenant->priority);
    }
    if (field == "max_waiting") {
      return TakeWhole(field, value, 0, &tenant->max_waiting);
    }
    if (field == "max_running") {
      return TakeWhole(field, value, 0, &tenant->max_running);
    }
    if (field == "max_kv_share") {
      return TakeNumber(field, value, 0, 1, &tenant->max_kv_share);
    }
    if (field == "tokens_per_minute") {
      return TakeWhole(field, value, 0, &tenant->tokens_per_minute);
    }
    if (field == "models") return TakeModels(value, &tenant->models);
    if (field == "admin") {
      if (!value.is_boolean()) return Wrong(field, value, "true or false");
      tenant->admin = value.get<bool>();
      return absl::OkStatus();
    }
    return Bad(where_, " has a field ", CutText(field),
               ", which no key has; fields are name, sha256, weight, priority, "
               "max_waiting, max_running, max_kv_share, tokens_per_minute, "
               "models and admin");
  }

  absl::Status TakeName(const Json& value, std::string* name) const {
    if (value.is_string()) *name = value.get<std::string>();
    const bool plain = value.is_string() && !name->empty() &&
                       name->size() <= kMaxNameBytes &&
                       std::all_of(name->begin(), name->end(),
                                   [](char c) { return c >= ' ' && c <= '~'; });
    if (!plain) return Wrong("name", value, "1 to 64 characters of ASCII");
    return absl::OkStatus();
  }

  absl::Status TakeHash(const Json& value, Sha256* hash) const {
    const std::string hex = value.is_string() ? value.get<std::string>() : "";
    const bool right = hex.size() == 2 * hash->size() &&
                       std::all_of(hex.begin(), hex.end(), [](char c) {
                         return absl::ascii_isxdigit(c);
                       });
    // What stands there may be a key by mistake, so it is not shown.
    if (!right) {
      return Bad(where_,
                 ": sha256 must be 64 hexadecimal digits, the SHA-256 of "
                 "the key");
    }
    const std::string bytes = absl::HexStringToBytes(hex);
    std::copy(bytes.begin(), bytes.end(), hash->begin());
    return absl::OkStatus();
  }

  absl::Status TakeNumber(const std::string& field, const Json& value,
                          double low, double high, double* out) const {
    const double number = value.is_number() ? value.get<double>() : NAN;
    if (!(number >= low && number <= high)) {
      return Wrong(field, value,
                   absl::StrCat("a number from ", low, " to ", high).c_str());
    }
    *out = number;
    return absl::OkStatus();
  }

  template <typename Whole>
  absl::Status TakeWhole(const std::string& field, const Json& value,
                         int64_t low, Whole* out) const {
    constexpr Whole kMost = std::numeric_limits<Whole>::max();
    const bool right =
        value.is_number_integer() &&
        (!value.is_number_unsigned() ||
         value.get<uint64_t>() <= static_cast<uint64_t>(kMost)) &&
        value.get<int64_t>() >= low && value.get<int64_t>() <= kMost;
    if (!right) {
      return Wrong(
          field, value,
          absl::StrCat("a whole number from ", low, " to ", kMost).c_str());
    }
    *out = value.get<Whole>();
    return absl::OkStatus();
  }

  absl::Status TakeModels(const Json& value,
                          std::vector<std::string>* models) const {
    constexpr char kRight[] = "a list of names, or [\"*\"] for all models";
    if (!value.is_array()) return Wrong("models", value, kRight);
    models->clear();
    for (const Json& name : value) {
      if (!name.is_string()) return Wrong("models", value, kRight);
      models->push_back(name.get<std::string>());
    }
    return absl::OkStatus();
  }

  const Json& row_;
  const std::string where_;
};

absl::Status CheckRows(const std::vector<KeyTable::Row>& rows) {
  std::map<Sha256, std::string> hashes;
  std::map<std::string, TenantRow> tenants;
  for (const KeyTable::Row& row : rows) {
    const auto [hash, new_hash] = hashes.emplace(row.hash, row.tenant->name);
    if (!new_hash) {
      return Bad("the keys of ", hash->second, " and ", row.tenant->name,
                 " are the same; each row needs a key of its own");
    }
    const auto [other, new_name] =
        tenants.emplace(row.tenant->name, row.tenant);
    if (!new_name && *other->second != *row.tenant) {
      return Bad(
          "the rows of ", row.tenant->name,
          " differ in more than sha256; keys of one name are one tenant");
    }
  }
  return absl::OkStatus();
}

}  // namespace

Sha256 Sha256Of(std::string_view text) {
  Sha256 hash;
  unsigned int size = 0;
  H2O_CHECK(EVP_Digest(text.data(), text.size(), hash.data(), &size,
                       EVP_sha256(), nullptr) == 1 &&
            size == hash.size());
  return hash;
}

TenantRow KeyTable::Find(std::string_view key) const {
  const Sha256 hash = Sha256Of(key);
  const Row* found = nullptr;
  for (const Row& row : rows) {  // all of them, whichever it is
    if (CRYPTO_memcmp(row.hash.data(), hash.data(), hash.size()) == 0) {
      found = &row;
    }
  }
  return found != nullptr ? found->tenant : nullptr;
}

absl::StatusOr<KeyTable> ParseKeyTable(std::string_view json) {
  const Json file = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (file.is_discarded()) return Bad("it is not JSON, or not all of it");
  if (!file.is_object() || file.size() != 1 || !file.contains("keys") ||
      !file["keys"].is_array()) {
    return Bad("it must be {\"keys\": [..]}");
  }
  KeyTable table;
  for (const Json& row : file["keys"]) {
    H2O_ASSIGN_OR_RETURN(
        table.rows.emplace_back(),
        RowReader(row, absl::StrCat("keys[", table.rows.size(), "]")).Read());
  }
  H2O_RETURN_IF_ERROR(CheckRows(table.rows));
  return table;
}

std::string NewKey() {
  unsigned char bytes[32];
  H2O_CHECK(RAND_bytes(bytes, sizeof(bytes)) == 1);
  std::string text;
  absl::WebSafeBase64Escape(
      absl::string_view(reinterpret_cast<const char*>(bytes), sizeof(bytes)),
      &text);
  return absl::StrCat("h2o-", text);
}

std::string KeyRowJson(std::string_view key, const Tenant& tenant) {
  const Sha256 hash = Sha256Of(key);
  const absl::string_view bytes(reinterpret_cast<const char*>(hash.data()),
                                hash.size());
  const Json row = {{"name", tenant.name},
                    {"sha256", absl::BytesToHexString(bytes)},
                    {"weight", tenant.weight},
                    {"priority", tenant.priority},
                    {"max_waiting", tenant.max_waiting},
                    {"max_running", tenant.max_running},
                    {"max_kv_share", tenant.max_kv_share},
                    {"tokens_per_minute", tenant.tokens_per_minute},
                    {"models", tenant.models},
                    {"admin", tenant.admin}};
  return row.dump();
}

std::string_view KeyOfAuthorization(std::string_view authorization) {
  constexpr absl::string_view kBearer = "Bearer";
  const absl::string_view all(authorization.data(), authorization.size());
  if (!absl::StartsWithIgnoreCase(all, kBearer)) return {};
  absl::string_view key = all.substr(kBearer.size());
  if (!key.empty() && key.front() != ' ') return {};
  key = absl::StripAsciiWhitespace(key);
  return {key.data(), key.size()};
}

}  // namespace h2o
