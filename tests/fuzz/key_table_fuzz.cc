// Fuzzes the key file, which operators write by hand and programs replace while
// the server runs.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "access/key_table.h"
#include "base/check.h"

namespace h2o {
namespace {

// What the queue's shares and limits rely on.
void ExpectSound(const Tenant& tenant) {
  H2O_CHECK(!tenant.name.empty());
  H2O_CHECK(std::isfinite(tenant.weight) && tenant.weight > 0) << tenant.weight;
  H2O_CHECK(tenant.max_waiting >= 0 && tenant.max_running >= 0);
  H2O_CHECK(tenant.max_kv_share >= 0 && tenant.max_kv_share <= 1)
      << tenant.max_kv_share;
  H2O_CHECK(tenant.tokens_per_minute >= 0) << tenant.tokens_per_minute;
}

void Run(std::string_view json) {
  const absl::StatusOr<KeyTable> table = ParseKeyTable(json);
  if (!table.ok()) {
    H2O_CHECK(!table.status().message().empty());
    return;
  }
  for (const KeyTable::Row& row : table->rows) {
    H2O_CHECK(row.tenant != nullptr);
    ExpectSound(*row.tenant);
  }
  // Nobody gets in with a key that the file does not have; the hash itself is
  // no key.
  H2O_CHECK(table->Find("") == nullptr);
  for (const KeyTable::Row& row : table->rows) {
    H2O_CHECK(table->Find({reinterpret_cast<const char*>(row.hash.data()),
                           row.hash.size()}) == nullptr);
  }
}

}  // namespace
}  // namespace h2o

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  h2o::Run({reinterpret_cast<const char*>(data), size});
  return 0;
}
