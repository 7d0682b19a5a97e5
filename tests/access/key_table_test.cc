// Tests what a key file may say, and which tenant a key belongs to.
#include "access/key_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace h2o {
namespace {

using ::testing::HasSubstr;

std::string Hash(std::string_view key) {
  const Sha256 hash = Sha256Of(key);
  return absl::BytesToHexString(absl::string_view(
      reinterpret_cast<const char*>(hash.data()), hash.size()));
}

std::string Row(absl::string_view name, const std::string& key,
                absl::string_view more = "") {
  return absl::StrCat(R"({"name": ")", name, R"(", "sha256": ")", Hash(key),
                      "\"", more, "}");
}

std::string File(const std::string& rows) {
  return absl::StrCat(R"({"keys": [)", rows, "]}");
}

TEST(KeyTableTest, Sha256IsTheStandards) {
  EXPECT_EQ(Hash("abc"),
            "ba7816bf8f01cfea414140de5dae2223"
            "b00361a396177a9cb410ff61f20015ad");
}

TEST(KeyTableTest, AKeyFindsItsTenantWithAllFields) {
  const auto table = ParseKeyTable(
      File(Row("a", "key of a",
               R"(, "weight": 2.5, "priority": -3, "max_waiting": 100,
             "max_running": 64, "max_kv_share": 0.5,
             "tokens_per_minute": 9000000000, "models": ["m"], "admin": true)") +
           "," + Row("b", "key of b")));
  ASSERT_TRUE(table.ok()) << table.status();
  const TenantRow a = table->Find("key of a");
  ASSERT_NE(a, nullptr);
  const Tenant expected = {.name = "a",
                           .weight = 2.5,
                           .priority = -3,
                           .max_waiting = 100,
                           .max_running = 64,
                           .max_kv_share = 0.5,
                           .tokens_per_minute = 9'000'000'000,
                           .models = {"m"},
                           .admin = true};
  EXPECT_EQ(*a, expected);
  EXPECT_EQ(*table->Find("key of b"), Tenant{.name = "b"});
  EXPECT_EQ(table->Find("key of c"), nullptr);
  EXPECT_EQ(table->Find(""), nullptr);
}

TEST(KeyTableTest, ATenantMayHaveSeveralKeys) {
  const auto table =
      ParseKeyTable(File(Row("a", "old") + "," + Row("a", "new")));
  ASSERT_TRUE(table.ok());
  EXPECT_EQ(*table->Find("old"), *table->Find("new"));
}

TEST(KeyTableTest, BadFilesAreRefusedByName) {
  const std::string good = Row("a", "k");
  const std::pair<std::string, const char*> bad[] = {
      {"", "not JSON"},
      {File(good).substr(0, 40), "not JSON"},
      {"[]", "must be {\"keys\""},
      {R"({"keys": {}})", "must be {\"keys\""},
      {R"({"keys": [], "more": 1})", "must be {\"keys\""},
      {File("1"), "keys[0] must be an object"},
      {File(good + R"(, {"name": "b"})"), "keys[1] has no sha256"},
      {File(absl::StrCat(R"({"sha256": ")", Hash("k"), "\"}")),
       "keys[0] has no name"},
      {File(R"({"name": "a", "sha256": "secret"})"), "64 hexadecimal digits"},
      {File(Row("", "k")), "name is \"\""},
      {File(Row("a", "k", R"(, "weight": 0)")), "weight is 0"},
      {File(Row("a", "k", R"(, "weight": "1")")), "weight is \"1\""},
      {File(Row("a", "k", R"(, "priority": 1.5)")), "priority is 1.5"},
      {File(Row("a", "k", R"(, "max_waiting": -1)")), "max_waiting is -1"},
      {File(Row("a", "k", R"(, "max_running": 3000000000)")),
       "max_running is 3000000000"},
      {File(Row("a", "k", R"(, "max_kv_share": 1.1)")), "max_kv_share is 1.1"},
      {File(Row("a", "k", R"(, "tokens_per_minute": 18446744073709551615)")),
       "tokens_per_minute is 18446744073709551615"},
      {File(Row("a", "k", R"(, "models": "m")")), "models is \"m\""},
      {File(Row("a", "k", R"(, "models": [1])")), "models is [1]"},
      {File(Row("a", "k", R"(, "admin": 1)")), "admin is 1"},
      {File(Row("a", "k", R"(, "max_runing": 1)")), "a field max_runing"},
      {File(good + "," + Row("b", "k")), "are the same"},
      {File(good + "," + Row("a", "l", R"(, "weight": 2)")), "differ in more"},
  };
  for (const auto& [file, says] : bad) {
    const absl::Status status = ParseKeyTable(file).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << file;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says)) << file;
    EXPECT_THAT(std::string(status.message()),
                ::testing::Not(HasSubstr("secret")));
  }
}

TEST(KeyTableTest, ANewKeyIsFoundByItsRow) {
  const std::string key = NewKey();
  EXPECT_NE(key, NewKey());
  EXPECT_GE(key.size(), 43u);
  const Tenant tenant = {.name = "team \"x\"", .admin = true};
  const auto table = ParseKeyTable(File(KeyRowJson(key, tenant)));
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(*table->Find(key), tenant);
}

TEST(KeyTableTest, BearerIsTheOnlyScheme) {
  EXPECT_EQ(KeyOfAuthorization("Bearer abc"), "abc");
  EXPECT_EQ(KeyOfAuthorization("bearer   abc "), "abc");
  for (const char* none :
       {"", "Bearer", "Bearer ", "Bearerabc", "Basic abc", "abc", "Bear"}) {
    EXPECT_EQ(KeyOfAuthorization(none), "") << none;
  }
}

}  // namespace
}  // namespace h2o
