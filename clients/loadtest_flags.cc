// Adds the flags of `loadtest`, and makes a description of the load of them.
#include "clients/loadtest_flags.h"

#include <CLI/CLI.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "clients/cpp/credentials.h"
#include "flags/flags.h"
#include "loadtest/trace_file.h"

namespace h2o {
namespace {

absl::Status Wrong(const std::string& what) {
  return absl::InvalidArgumentError(what);
}

// An error with the flag's name in front.
template <typename T>
absl::StatusOr<T> Named(const char* flag, absl::StatusOr<T> value) {
  if (value.ok()) return value;
  return absl::Status(
      value.status().code(),
      absl::StrCat(flag, ": ", std::string(value.status().message())));
}

// Which requests come when: one of four flags says so.
absl::Status AddArrivals(const LoadtestFlags& flags, LoadSpec* spec) {
  const int ways = static_cast<int>(!flags.rate.empty()) +
                   static_cast<int>(flags.concurrency.has_value()) +
                   static_cast<int>(flags.find_limit) +
                   static_cast<int>(!flags.trace.empty());
  if (ways != 1) {
    return Wrong("give one of --rate, --concurrency, --trace and --find-limit");
  }
  if (flags.concurrency) {
    spec->arrivals = ArrivalKind::kClosed;
    spec->concurrency = *flags.concurrency;
    return absl::OkStatus();
  }
  if (!flags.trace.empty()) {
    spec->arrivals = ArrivalKind::kTrace;
    return absl::OkStatus();
  }
  H2O_ASSIGN_OR_RETURN(spec->arrivals, ParseArrivals(flags.arrivals));
  if (flags.find_limit) {
    spec->rate = {{0, flags.limit.first_rate}};
    return absl::OkStatus();
  }
  H2O_ASSIGN_OR_RETURN(spec->rate, Named("--rate", ParseRate(flags.rate)));
  return absl::OkStatus();
}

absl::Status AddLengths(const LoadtestFlags& flags, LoadSpec* spec) {
  if (!flags.trace.empty() && !flags.lengths_of.empty()) {
    return Wrong("--lengths-of: requests of --trace have its lengths already");
  }
  const std::string& file =
      flags.trace.empty() ? flags.lengths_of : flags.trace;
  if (!file.empty()) {
    spec->trace_lengths = true;
    H2O_ASSIGN_OR_RETURN(spec->trace,
                         Named(flags.trace.empty() ? "--lengths-of" : "--trace",
                               ReadTrace(file)));
  }
  H2O_ASSIGN_OR_RETURN(spec->lengths,
                       Named("--lengths", ParseLengths(flags.lengths)));
  return absl::OkStatus();
}

absl::Status CheckRest(const LoadtestFlags& flags, const LoadSpec& spec) {
  if (flags.generators > 1 && flags.listen.empty()) {
    return Wrong("--generators goes with --listen, where they join");
  }
  if (!flags.name.empty() && flags.join.empty()) {
    return Wrong("--name goes with --join");
  }
  if (spec.targets.empty()) return Wrong("--target: say which servers to load");
  if (spec.duration_seconds <= 0 && spec.max_requests <= 0 &&
      flags.trace.empty()) {
    return Wrong("give --duration or --requests, or the load never ends");
  }
  if (spec.duration_seconds > 0 &&
      spec.warmup_seconds >= spec.duration_seconds) {
    return Wrong("--warmup must be less than --duration");
  }
  if (spec.max_context == 1) {
    return Wrong("--max-context: a request has at least 2 tokens");
  }
  if (spec.prefix_share > 0 && spec.prefix_tokens == 0) {
    return Wrong("--prefix-share needs --prefix-tokens, how long a prefix is");
  }
  if (flags.find_limit && !flags.Limits().Any()) {
    return Wrong(
        "--find-limit needs a limit: --slo-ttft, --slo-tpot or --slo-e2e");
  }
  if (!nlohmann::json::parse(flags.http_fields, nullptr, false).is_object()) {
    return Wrong(absl::StrCat("--http-fields: '", flags.http_fields,
                              "' is no JSON object"));
  }
  return absl::OkStatus();
}

std::optional<double> Seconds(const std::optional<double>& milliseconds) {
  if (!milliseconds) return std::nullopt;
  return *milliseconds / 1000;
}

void AddLoadFlags(CLI::App* command, LoadtestFlags* flags) {
  LoadSpec* const spec = &flags->spec;
  command
      ->add_option("--target", flags->targets,
                   "Servers, in turn: http://HOST:PORT or https:// (OpenAI's "
                   "API), HOST:PORT (gRPC)")
      ->delimiter(',')
      ->type_name("URL|HOST:PORT");
  command
      ->add_option("--rate", flags->rate,
                   "Requests per second, or points SECOND:RATE between which "
                   "the rate moves in a straight line: 0:1,60:20")
      ->type_name("R");
  command
      ->add_option("--arrivals", flags->arrivals,
                   "Gaps between requests: poisson, gamma (--burstiness) or "
                   "constant")
      ->check(CLI::IsMember({"poisson", "gamma", "constant"}))
      ->type_name("KIND")
      ->capture_default_str();
  command
      ->add_option("--burstiness", spec->burstiness,
                   "Shape of gamma: 1 is poisson, less comes in bursts, more "
                   "is more even")
      ->check(Within(0.001, 1e6, "a number over 0"))
      ->type_name("K")
      ->capture_default_str();
  command
      ->add_option("--concurrency", flags->concurrency,
                   "Instead of a rate: so many clients, each of which asks "
                   "again when it was answered")
      ->check(CLI::Range(1, 100'000))
      ->type_name("C");
  command
      ->add_option("--trace", flags->trace,
                   "Instead of a rate: times and lengths of a CSV file with "
                   "the columns TIMESTAMP,ContextTokens,GeneratedTokens")
      ->type_name("FILE");
  command
      ->add_option("--trace-speed", spec->trace_speed,
                   "How many times faster than recorded")
      ->check(Within(1e-6, 1e6, "a number over 0"))
      ->type_name("X")
      ->capture_default_str();
  command
      ->add_option("--duration", spec->duration_seconds,
                   "Requests begin for so long, in seconds; 0: until "
                   "--requests or the trace's end")
      ->check(Within(0, 1e7, "a number of seconds, 0 or more"))
      ->type_name("S")
      ->capture_default_str();
  command
      ->add_option("--requests", spec->max_requests,
                   "At most so many requests; 0: no limit")
      ->check(Within(0, 1e9, "a number of requests, 0 or more"))
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--warmup", spec->warmup_seconds,
                   "Requests of the first so many seconds do not count")
      ->check(Within(0, 1e6, "a number of seconds, 0 or more"))
      ->type_name("S")
      ->capture_default_str();
  command
      ->add_option("--drain", spec->drain_seconds,
                   "After the last request has begun, those that run get so "
                   "many seconds")
      ->check(Within(0, 1e6, "a number of seconds, 0 or more"))
      ->type_name("S")
      ->capture_default_str();
  command
      ->add_option("--seed", spec->seed,
                   "The same seed makes the same requests, whatever the number "
                   "of generators")
      ->type_name("N")
      ->capture_default_str();
}

void AddRequestShapeFlags(CLI::App* command, LoadtestFlags* flags) {
  LoadSpec* const spec = &flags->spec;
  command
      ->add_option(
          "--lengths", flags->lengths,
          "Tokens as PROMPT,OUTPUT; each a number, uniform:LEAST:MOST, "
          "normal:MEAN:DEVIATION, lognormal:MEDIAN:SIGMA or "
          "exponential:MEAN")
      ->type_name("SPEC")
      ->capture_default_str();
  command
      ->add_option("--lengths-of", flags->lengths_of,
                   "Instead of --lengths: pairs drawn from a file as --trace "
                   "takes")
      ->type_name("FILE");
  command
      ->add_option("--max-context", spec->max_context,
                   "Cut requests to so many tokens, prompt and output "
                   "together; 0: no limit")
      ->check(Within(0, 1e7, "0, or a number of tokens over 1"))
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--vocab-size", spec->vocab_size,
                   "Prompts are random tokens below it")
      ->check(CLI::Range(11, 10'000'000))
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--prefix-share", spec->prefix_share,
                   "Such a share of the prompts begins with a shared prefix")
      ->check(Within(0, 1, "a share, 0 to 1"))
      ->type_name("F")
      ->capture_default_str();
  command
      ->add_option("--prefix-tokens", spec->prefix_tokens,
                   "Length of a shared prefix, in tokens")
      ->check(CLI::Range(0, 10'000'000))
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--prefixes", spec->num_prefixes,
                   "Number of different shared prefixes")
      ->check(CLI::Range(1, 1'000'000))
      ->type_name("N")
      ->capture_default_str();
}

void AddLimitFlags(CLI::App* command, LoadtestFlags* flags) {
  const auto limit = [&](const char* name, std::optional<double>* value,
                         const char* help) {
    command->add_option(name, *value, help)
        ->check(Within(1e-3, 1e9, "a number of milliseconds over 0"))
        ->type_name("MS");
  };
  limit("--slo-ttft", &flags->slo_ttft_ms,
        "A good answer begins within so many milliseconds of its intended "
        "send time");
  limit("--slo-tpot", &flags->slo_tpot_ms,
        "A good answer takes at most so many milliseconds for each further "
        "token");
  limit("--slo-e2e", &flags->slo_e2e_ms,
        "A good answer is whole within so many milliseconds");
  command
      ->add_option("--slo-share", flags->slo_share,
                   "Share of the requests that must be good, for --find-limit")
      ->check(Within(0.001, 1, "a share over 0, at most 1"))
      ->type_name("F")
      ->capture_default_str();
  command->add_flag("--find-limit", flags->find_limit,
                    "Instead of a rate: find the largest one that keeps the "
                    "SLO, by runs of --duration");
  command
      ->add_option("--first-rate", flags->limit.first_rate,
                   "Where --find-limit begins, in requests per second")
      ->check(Within(1e-3, 1e5, "a rate over 0"))
      ->type_name("R")
      ->capture_default_str();
  command
      ->add_option("--repeats", flags->limit.repeats,
                   "Runs of each rate of --find-limit; the majority decides")
      ->check(CLI::Range(1, 99))
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--precision", flags->limit.precision,
                   "--find-limit ends when the gap is such a share of the rate")
      ->check(Within(0.001, 0.9, "a share, 0.001 to 0.9"))
      ->type_name("F")
      ->capture_default_str();
}

void AddServerSideFlags(CLI::App* command, LoadtestFlags* flags) {
  command
      ->add_option("--tenants", flags->tenants,
                   "Lines of {\"name\", \"weight\", \"key\"}: requests are "
                   "shared out by weight, each with its tenant's key")
      ->type_name("FILE");
  AddCredentialFlags(command, "Key, where servers take some",
                     &flags->credentials);
  command
      ->add_option("--served-model", flags->model,
                   "Name of the model in bodies of HTTP; not given: they name "
                   "none")
      ->type_name("NAME");
  command
      ->add_option("--http-fields", flags->http_fields,
                   "JSON object whose fields are added to bodies of HTTP")
      ->type_name("JSON")
      ->capture_default_str();
  command
      ->add_option("--timeout", flags->timeout_seconds,
                   "A request fails after so many seconds (HTTP: of silence)")
      ->check(Within(0.001, 1e6, "a number of seconds over 0"))
      ->type_name("S")
      ->capture_default_str();
  command
      ->add_option("--max-in-flight", flags->spec.max_in_flight,
                   "Of one generator; requests over it wait, which the report "
                   "counts")
      ->check(CLI::Range(1, 1'000'000))
      ->type_name("N")
      ->capture_default_str();
}

void AddGeneratorFlags(CLI::App* command, LoadtestFlags* flags) {
  command
      ->add_option("--listen", flags->listen,
                   "Lead generators that join here, and send nothing itself; "
                   "only for networks that you trust")
      ->type_name("HOST:PORT");
  command
      ->add_option("--generators", flags->generators,
                   "With --listen: begin when so many have joined")
      ->check(CLI::Range(1, 1000))
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--join", flags->join,
                   "Send what the leader at this address says; other flags of "
                   "the load are the leader's")
      ->type_name("HOST:PORT");
  command
      ->add_option("--name", flags->name,
                   "With --join: this generator's name in the report; not "
                   "given: the host's")
      ->type_name("NAME");
}

}  // namespace

absl::StatusOr<LoadSpec> LoadtestFlags::Spec() const {
  LoadSpec made = spec;
  made.targets = targets;
  H2O_RETURN_IF_ERROR(AddArrivals(*this, &made));
  H2O_RETURN_IF_ERROR(AddLengths(*this, &made));
  if (!tenants.empty()) {
    H2O_ASSIGN_OR_RETURN(const std::vector<TenantKey> read,
                         Named("--tenants", ReadTenants(tenants)));
    for (const TenantKey& row : read) made.tenants.push_back(row.tenant);
  }
  H2O_RETURN_IF_ERROR(CheckRest(*this, made));
  return made;
}

Slo LoadtestFlags::Limits() const {
  return {Seconds(slo_ttft_ms), Seconds(slo_tpot_ms), Seconds(slo_e2e_ms),
          slo_share};
}

absl::StatusOr<std::vector<TenantKey>> ReadTenants(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat("no file ", path));
  std::vector<TenantKey> tenants;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const auto json = nlohmann::json::parse(line, nullptr, false);
    const bool good = json.is_object() && json.contains("name") &&
                      json["name"].is_string() &&
                      (!json.contains("weight") ||
                       (json["weight"].is_number() && json["weight"] > 0)) &&
                      (!json.contains("key") ||
                       (json["key"].is_string() && CheckKey(json["key"]).ok()));
    if (!good) {
      return Wrong(absl::StrCat(
          path, ":", number,
          ": a line must be {\"name\": TEXT, \"weight\": NUMBER over 0, "
          "\"key\": TEXT of printable characters without blanks}"));
    }
    tenants.push_back(
        {{json["name"], json.value("weight", 1.0)}, json.value("key", "")});
  }
  if (tenants.empty()) return Wrong(absl::StrCat(path, " has no tenants"));
  return tenants;
}

void AddLoadtestFlags(CLI::App* command, LoadtestFlags* flags) {
  AddLoadFlags(command, flags);
  AddRequestShapeFlags(command, flags);
  AddLimitFlags(command, flags);
  AddServerSideFlags(command, flags);
  AddGeneratorFlags(command, flags);
  command
      ->add_option("--report", flags->report,
                   "Folder for report.html, report.json and requests.jsonl, "
                   "the raw log")
      ->type_name("DIR");
  command->add_flag("--json", flags->json, "Print the report as one object");
}

}  // namespace h2o
