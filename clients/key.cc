// `h2oserve key new`: makes a key and the row of the key file that knows it.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "access/key_table.h"
#include "base/status_macros.h"
#include "clients/commands.h"

namespace h2o {
namespace {

struct KeyFlags {
  Tenant tenant;
  bool json = false;
};

absl::Status Run(const KeyFlags& flags) {
  const std::string key = NewKey();
  const std::string row = KeyRowJson(key, flags.tenant);
  // The reader says whether the name can be one.
  H2O_RETURN_IF_ERROR(
      ParseKeyTable(absl::StrCat("{\"keys\": [", row, "]}")).status());
  if (flags.json) {
    std::printf("{\"key\": \"%s\", \"row\": %s}\n", key.c_str(), row.c_str());
  } else {
    std::printf("%s\n%s\n", key.c_str(), row.c_str());
  }
  return absl::OkStatus();
}

}  // namespace

void AddKeyCommand(CLI::App* app, int* exit_code) {
  CLI::App* command = app->add_subcommand("key", "Keys of a server's clients");
  command->require_subcommand(1);
  auto flags = std::make_shared<KeyFlags>();
  CLI::App* make = command->add_subcommand(
      "new",
      "Prints a new key and, on a second line, its row for the file of "
      "--api-keys, which has the key's hash and not the key");
  make->add_option("name", flags->tenant.name, "Whose key it is")
      ->required()
      ->type_name("NAME");
  make->add_flag("--admin", flags->tenant.admin,
                 "It may also see the status and drain groups");
  make->add_flag("--json", flags->json, "One object: {\"key\", \"row\"}");
  make->callback([flags, exit_code] { *exit_code = ExitCodeOf(Run(*flags)); });
}

}  // namespace h2o
