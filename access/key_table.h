// The key file: which key belongs to which tenant.  The file has hashes of keys
// and no keys.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "api/tenant.h"

namespace h2o {

using Sha256 = std::array<uint8_t, 32>;
Sha256 Sha256Of(std::string_view text);

struct KeyTable {
  struct Row {
    Sha256 hash;
    TenantRow tenant;
  };
  std::vector<Row> rows;

  // The tenant of `key`; null if there is no such key.  The time that it takes
  // does not depend on the keys of the table.
  TenantRow Find(std::string_view key) const;
};

// `json`: {"keys": [{"name": "team-a", "sha256": "<64 hex digits>", ..}]}, with
// the fields of Tenant.  Rows of one name are keys of one tenant and must agree
// in all but sha256.
// Errors: INVALID_ARGUMENT naming the row, the field and what would be right.
absl::StatusOr<KeyTable> ParseKeyTable(std::string_view json);

// A key that nobody can guess.
std::string NewKey();

// The row of `key`, one line of JSON.
std::string KeyRowJson(std::string_view key, const Tenant& tenant);

// What a `Bearer` header or metadata carries; empty if it is none.
std::string_view KeyOfAuthorization(std::string_view authorization);

}  // namespace h2o
