// Adds the flags that several programs share, with their help and their checks,
// to a CLI11 command.
#include "flags/flags.h"

#include <sched.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "api/check_request.h"
#include "api/request_json.h"
#include "base/cgroup.h"
#include "base/device_name.h"
#include "base/kv_page.h"
#include "base/log.h"
#include "flags/access_flags.h"
#include "flags/exit_code.h"
#include "flags/version.h"

namespace h2o {

CLI::Validator Within(double low, double high, const std::string& what) {
  return CLI::Validator(
      [=](std::string& text) -> std::string {
        double value = 0;
        if (CLI::detail::lexical_cast(text, value) && value >= low &&
            value <= high) {
          return "";
        }
        return "'" + text + "' must be " + what;
      },
      "");
}

CLI::Validator AtLeastOne() {
  return Within(1, std::numeric_limits<int32_t>::max(),
                "a whole number, 1 or more");
}

namespace {

const CLI::IsMember& DTypes() {
  static const CLI::IsMember types({"float32", "bf16", "fp16"});
  return types;
}

// An empty value is usually an unset variable of a script, so it is refused,
// except for flags that may be empty.
void RefuseEmptyValues(CLI::App* app) {
  const CLI::Validator given(
      [](std::string& value) {
        return value.empty() ? "a value is needed, and it is empty"
                             : std::string();
      },
      "");
  for (CLI::Option* option : app->get_options()) {
    const std::string name = option->get_name();
    const bool flag = option->get_type_size() == 0;
    if (flag || name == "--prompt" || name == "--cache-dir") continue;
    option->check(given);
  }
  for (CLI::App* command : app->get_subcommands([](CLI::App*) { return true; }))
    RefuseEmptyValues(command);
}

// Adds the options that are keys of a request's JSON form too.
void AddOptionsOfRequests(CLI::App* app, Request* request) {
  using Takes = RequestFlag::Takes;
  for (const RequestFlag& flag : FlagsOfRequests()) {
    const auto set = [flag, request](const std::vector<std::string>& texts) {
      const absl::Status status = SetFromFlag(flag, texts, request);
      if (!status.ok()) {
        throw CLI::ValidationError(flag.flag, std::string(status.message()));
      }
    };
    if (flag.takes == Takes::kNothing) {
      app->add_flag_callback(
          flag.flag, [set] { set({}); }, flag.help);
      continue;
    }
    CLI::Option* option;
    if (flag.takes == Takes::kTexts) {
      // One value each, or a list would swallow what follows it.
      option = app->add_option_function<std::vector<std::string>>(
                      flag.flag, set, flag.help)
                   ->allow_extra_args(false);
    } else {
      option = app->add_option_function<std::string>(
          flag.flag, [set](const std::string& text) { set({text}); },
          flag.help);
    }
    option->type_name(flag.placeholder)->default_str(flag.shown_default);
  }
}

}  // namespace

void AddModelFlags(CLI::App* app, ModelFlags* flags) {
  ModelSpec* spec = &flags->spec;
  app->add_option(
         "--model", spec->model,
         "Hugging Face directory of an OPT model, or with --load-format dummy "
         "the name of a built-in size: opt-125m .. opt-175b")
      ->required()
      ->type_name("DIR");
  app->add_option("--dtype", spec->dtype,
                  "Format of weights and products; float32 leaves 16-bit "
                  "weights in 16 bits. Default: float32 on CPUs, the "
                  "checkpoint's 16-bit format on GPUs")
      ->check(DTypes());
  app->add_option("--weights", spec->weights,
                  "Format of weights alone; fp8, int8 and int4 are for the "
                  "linear layers. Default: auto, as they are stored, or as "
                  "--dtype says")
      ->check(CLI::IsMember({"auto", "bf16", "fp16", "fp8", "int8", "int4"}));
  app->add_option("--weight-group", spec->weight_group,
                  "Inputs that share a scale, with --weights int4")
      ->check(CLI::IsMember({64, 128}))
      ->capture_default_str();
  app->add_option_function<std::string>(
         "--activations",
         [spec](const std::string& text) {
           spec->fp8_activations = text == "fp8";
         },
         "Inputs of products with --weights fp8: 16bit (as --dtype says) or "
         "fp8, which multiplies many rows nearly twice as fast on GPUs and "
         "costs quality: 3.7 % of perplexity on the demo model")
      ->check(CLI::IsMember({"16bit", "fp8"}))
      ->default_str("16bit");
  app->add_option("--kv-dtype", spec->kv_dtype,
                  "Format of cached keys and values. Default: float32 on CPUs, "
                  "--dtype on GPUs")
      ->check(DTypes());
  app->add_option_function<std::string>(
         "--load-format",
         [spec](const std::string& text) { spec->dummy = text == "dummy"; },
         "auto: load the checkpoint; dummy: random weights of the same shapes")
      ->check(CLI::IsMember({"auto", "dummy"}))
      ->default_str("auto");
  // As text: CLI11 takes -1 for the largest number of 64 bits.
  app->add_option_function<std::string>(
         "--dummy-seed",
         [spec](const std::string& text) {
           if (absl::SimpleAtoi(text, &spec->dummy_seed)) return;
           throw CLI::ValidationError(
               "--dummy-seed",
               absl::StrCat("'", text, "' must be a whole number, 0 to ",
                            std::numeric_limits<uint64_t>::max()));
         },
         "Seed of the dummy weights")
      ->type_name("N");
}

void AddPolicyFlags(CLI::App* app, PolicyFlags* flags) {
  app->add_option("--kv-policy", flags->policy,
                  "Tokens that a head keeps: full (all), h2o (most attended "
                  "and newest), recent (newest), sink (first 4 and newest). "
                  "Default: full; for call the server's")
      ->check(CLI::IsMember({"full", "h2o", "recent", "sink"}));
  app->add_option("--kv-budget", flags->budget,
                  "Slots of a head: tokens (205), or a share of the prompt "
                  "(20%), which is at least 32 slots: the page that is paid "
                  "for anyway. Default of h2o, recent and sink: 20%")
      ->type_name("C");
  app->add_option("--kv-heavy", flags->heavy,
                  "h2o: slots for the most attended tokens; with --kv-recent")
      ->check(Within(0, kMaxPositions, absl::StrCat("0 to ", kMaxPositions)))
      ->type_name("N");
  app->add_option("--kv-recent", flags->recent,
                  "h2o: slots for the newest tokens; with --kv-heavy")
      ->check(Within(1, kMaxPositions, absl::StrCat("1 to ", kMaxPositions)))
      ->type_name("N");
  app->add_option_function<std::string>(
         "--kv-prefill",
         [flags](const std::string& text) {
           flags->flexgen_prefill = text == "flexgen";
         },
         "h2o: how slots are chosen after the prompt; flexgen does it like the "
         "paper's throughput code, for comparisons, and needs an odd budget")
      ->check(CLI::IsMember({"exact", "flexgen"}))
      ->default_str("exact");
}

absl::StatusOr<std::optional<KvPolicyRequest>> PolicyFlags::Request() const {
  if (policy.empty() && budget.empty() && !heavy && !recent &&
      !flexgen_prefill) {
    return std::nullopt;
  }
  KvPolicyRequest request;
  if (!policy.empty()) {
    const std::optional<KvPolicyName> name = ParseKvPolicyName(policy);
    if (!name) {
      return absl::InvalidArgumentError(
          absl::StrCat("kv policy '", policy,
                       "' is unknown; it must be full, h2o, recent or sink"));
    }
    request.name = *name;
  }
  if (!budget.empty()) {
    absl::Status status = ParseKvBudget(budget, &request);
    if (!status.ok()) return status;
  }
  request.heavy = heavy;
  request.recent = recent;
  request.flexgen_prefill = flexgen_prefill;
  absl::Status status = ValidateKvPolicyRequest(request);
  if (!status.ok()) return status;
  return request;
}

void AddEngineFlags(CLI::App* app, EngineFlags* flags) {
  EngineOptions* options = &flags->options;
  app->add_option("--max-queue", options->max_queue,
                  "Requests that may wait in the queue; more are refused")
      ->check(AtLeastOne())
      ->type_name("N")
      ->capture_default_str();
  app->add_option("--max-queue-seconds", options->max_queue_seconds,
                  "Longest wait in the queue; requests that wait longer are "
                  "refused; 0: no limit")
      ->check(Within(0, 1e9, "a number of seconds, 0 or more"))
      ->type_name("S")
      ->capture_default_str();
  app->add_option("--max-queue-tokens", options->max_queue_tokens,
                  "Tokens, of prompts and answers, that the requests in the "
                  "queue may ask for; more are refused; 0: no limit")
      ->check(Within(0, 1e15, "a number of tokens, 0 or more"))
      ->type_name("N")
      ->capture_default_str();
  app->add_option("--head-patience", options->head_patience_seconds,
                  "How long a request that does not fit lets others pass; then "
                  "a group is kept free for it")
      ->check(Within(0, 1e9, "a number of seconds, 0 or more"))
      ->type_name("S")
      ->capture_default_str();
  app->add_option("--max-sequences", options->max_sequences,
                  "Sequences that one group runs at once")
      ->check(AtLeastOne())
      ->type_name("N")
      ->capture_default_str();
  app->add_option_function<double>(
         "--stall-target-ms",
         [options](double ms) { options->stall_target_seconds = ms / 1000; },
         "How long a new prompt may hold up running streams at a time")
      ->check(Within(0.001, 1e9, "a number of milliseconds over 0"))
      ->type_name("MS")
      ->default_str(absl::StrCat(options->stall_target_seconds * 1000));
  app->add_option("--max-stop", options->max_stop,
                  "Most stop strings of a request, of up to 256 bytes each")
      ->check(Within(0, kMostStopStrings,
                     absl::StrCat("0 to ", kMostStopStrings, " strings")))
      ->type_name("N")
      ->capture_default_str();
  app->add_option("--kv-budget-cap", options->kv_budget_cap,
                  "Most slots of a head that a request may ask for; 0: no cap")
      ->check(Within(0, kMaxPositions,
                     absl::StrCat("0 to ", kMaxPositions, " slots")))
      ->type_name("N")
      ->capture_default_str();
}

namespace {

const std::map<std::string, ReplayMode>& ReplayModes() {
  static const std::map<std::string, ReplayMode> modes = {
      {"exact", ReplayMode::kExact},
      {"fast", ReplayMode::kFast},
      {"off", ReplayMode::kOff}};
  return modes;
}

void AddReplayFlags(CLI::App* app, EngineOptions* options) {
  options->replay = ReplayMode::kExact;
  app->add_option_function<std::string>(
         "--replay",
         [options](const std::string& mode) {
           options->replay = ReplayModes().at(mode);
         },
         "What becomes of running requests when their group is lost: they run "
         "again and decode the tokens that were streamed once more, they "
         "prefill these with the prompt, or they end with UNAVAILABLE")
      ->check(CLI::IsMember({"exact", "fast", "off"}))
      ->default_str("exact");
  app->add_option("--replay-timeout", options->replay_timeout_seconds,
                  "How long a request waits for a group that can run it after "
                  "its group was lost")
      ->check(Within(0, 1e9, "a number of seconds, 0 or more"))
      ->type_name("S")
      ->capture_default_str();
}

// What HTTP alone has.
void AddHttpFlags(CLI::App* app, CoordinatorFlags* flags) {
  app->add_option("--http", flags->http,
                  "Address of HTTP (OpenAI's API, health, metrics, status); "
                  "port 0 picks a free port; off: none")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  app->add_option("--served-model-name", flags->served_model_name,
                  "Name of the model over HTTP and in metrics. Default: the "
                  "last part of --model")
      ->type_name("NAME");
  app->add_option("--chat-template", flags->chat_template,
                  "Jinja template that makes prompts of chats. Default: the "
                  "model's chat_template.jinja, or what tokenizer_config.json "
                  "has")
      ->type_name("FILE");
  app->add_option("--http-header-timeout", flags->http_header_timeout_seconds,
                  "An HTTP client that has not sent the headers of its request "
                  "within this time is given up")
      ->check(Within(0.1, 1e6, "a number of seconds, 0.1 or more"))
      ->type_name("S")
      ->capture_default_str();
  app->add_option("--slow-client-seconds", flags->slow_client_seconds,
                  "A reader of an HTTP answer that takes nothing for this long "
                  "is cut")
      ->check(Within(0.1, 1e6, "a number of seconds, 0.1 or more"))
      ->type_name("S")
      ->capture_default_str();
  app->add_option("--overload-status", flags->overload_status,
                  "HTTP status of a full queue: 503, or 429 for clients that "
                  "wait only for that")
      ->check(CLI::IsMember({429, 503}))
      ->type_name("CODE")
      ->capture_default_str();
  app->add_flag("--strict-fields", flags->strict_fields,
                "Refuse requests over HTTP that have an unknown field. "
                "Default: unknown fields change nothing");
  app->add_option("--allowed-origins", flags->allowed_origins,
                  "Web pages that may call over HTTP (CORS), with commas "
                  "between: https://example.org; *: all. Default: none")
      ->delimiter(',')
      ->type_name("ORIGIN");
}

}  // namespace

void AddRequestFlags(CLI::App* app, RequestFlags* flags) {
  // std::optional options would not do: CLI11 treats an empty argument as
  // absent, but an empty prompt is valid.
  const auto text = [app](const std::string& name,
                          std::optional<std::string>* out,
                          const std::string& help) {
    return app->add_option_function<std::string>(
        name, [out](const std::string& value) { *out = value; }, help);
  };
  CLI::Option* prompt =
      text("--prompt", &flags->prompt, "Text to continue")->type_name("TEXT");
  CLI::Option* tokens = text("--tokens", &flags->tokens,
                             "Prompt as token ids, used as they are: \"2 5 9\"")
                            ->type_name("IDS");
  CLI::Option* input =
      text("--input", &flags->input,
           "Prompts as JSON lines: {\"prompt\": ..} or {\"tokens\": [..]}, "
           "with any of " +
               RequestKeys() + "; the flags give the defaults")
          ->type_name("FILE.jsonl");
  prompt->excludes(tokens)->excludes(input);
  tokens->excludes(input);
  AddOptionsOfRequests(app, &flags->defaults);
  AddPolicyFlags(app, &flags->policy);
}

std::string DefaultCacheDirectory() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache != 0) return absl::StrCat(cache, "/h2oserve");
  const char* home = std::getenv("HOME");
  if (home != nullptr && *home != 0) {
    return absl::StrCat(home, "/.cache/h2oserve");
  }
  return "";
}

void AddDeviceFlags(CLI::App* app, DeviceFlags* flags) {
  app->add_option("--device", flags->device, "Device: cpu, cuda or cuda:N")
      ->check(CLI::Validator(
          [](std::string& text) -> std::string {
            return std::string(ParseDeviceName(text).status().message());
          },
          ""))
      ->type_name("DEVICE")
      ->capture_default_str();
  app->add_option("--cache-dir", flags->cache_directory,
                  "Folder where the kernels chosen for a GPU and the hashes of "
                  "checkpoints are kept between runs; empty: none")
      ->type_name("DIR")
      ->capture_default_str();
}

void AddShardFlags(CLI::App* app, ShardFlags* flags) {
  AddDeviceFlags(app, flags);
  app->add_option(
         "--threads", flags->threads,
         "CPU threads of a worker, or of all ranks of this process; 0: all "
         "available cores, which serve divides among its workers")
      ->check(Within(0, 4096, "0 to 4096 threads"))
      ->type_name("N")
      ->capture_default_str();
  app->add_option("--kv-pool-bytes", flags->kv_pool_bytes,
                  "Bytes of a rank's KV pool; 0: by --memory-share")
      ->check(Within(0, 1e15, "a number of bytes, 0 or more"))
      ->type_name("N")
      ->capture_default_str();
  app->add_option(
         "--memory-share", flags->memory_share,
         "Share of the memory free after loading that the KV pool may take; "
         "CPU ranks that share a host divide it")
      ->check(Within(0.001, 1, "over 0 and at most 1"))
      ->type_name("F")
      ->default_str("0.5 on CPUs, 0.95 on GPUs");
}

void AddTransportFlag(CLI::App* app, bool* tcp_only) {
  app->add_option_function<std::string>(
         "--transport",
         [tcp_only](const std::string& text) { *tcp_only = text == "tcp"; },
         "Between ranks: auto (shared memory within a host, else TCP) or tcp")
      ->check(CLI::IsMember({"auto", "tcp"}))
      ->default_str("auto");
}

void AddLogFlag(CLI::App* app) {
  app->add_option_function<std::string>(
         "--log-format",
         [](const std::string& text) {
           SetLogFormat(text == "json" ? LogFormat::kJson : LogFormat::kText);
         },
         "Lines on stderr: text, or json with one object a line")
      ->check(CLI::IsMember({"text", "json"}))
      ->default_str("text");
}

void AddCoordinatorFlags(CLI::App* app, CoordinatorFlags* flags) {
  AddModelFlags(app, &flags->model);
  app->add_option("--tp", flags->tp,
                  "Workers (ranks) that share one copy of the model")
      ->check(AtLeastOne())
      ->type_name("N")
      ->capture_default_str();
  app->add_option("--groups", flags->groups,
                  "Copies of the model; each needs --tp workers")
      ->check(AtLeastOne())
      ->type_name("G")
      ->capture_default_str();
  app->add_option("--listen", flags->listen,
                  "Address for clients and workers; port 0 picks a free port")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  AddHttpFlags(app, flags);
  app->add_option_function<std::string>(
         "--metrics-compat",
         [flags](const std::string& names) {
           flags->vllm_metrics = names == "vllm";
         },
         "Metrics beside our own: vllm (the names that routers, autoscalers "
         "and dashboards of vLLM read) or none")
      ->check(CLI::IsMember({"vllm", "none"}))
      ->default_str("vllm");
  AddEngineFlags(app, &flags->engine);
  AddReplayFlags(app, &flags->engine.options);
  app->add_option(
         "--step-deadline-ms", flags->step_deadline_ms,
         "A worker that does not answer a step within this time is lost")
      ->check(AtLeastOne())
      ->type_name("MS")
      ->capture_default_str();
  app->add_option(
         "--formation-timeout", flags->formation_timeout_seconds,
         "While a group forms: a worker that does not answer, or ranks "
         "that do not reach each other, within this time are given up")
      ->check(Within(0.1, 1e6, "a number of seconds, 0.1 or more"))
      ->type_name("S")
      ->capture_default_str();
  app->add_option("--drain-seconds", flags->engine.options.drain_seconds,
                  "When a worker is told to stop, or its group to drain, the "
                  "running requests of the group may finish within this time; "
                  "then they move to another group")
      ->check(Within(0, 1e6, "a number of seconds, 0 or more"))
      ->type_name("S")
      ->capture_default_str();
  app->add_option("--fault-dir", flags->fault_dir,
                  "Folder for a file about each fault, with the last steps of "
                  "its group; the last 64 are kept. Default: no files")
      ->type_name("DIR");
  app->add_option("--grace", flags->grace_seconds,
                  "After SIGTERM, requests may finish within this time")
      ->check(Within(0, 1e6, "a number of seconds, 0 or more"))
      ->type_name("S")
      ->capture_default_str();
  app->add_option("--max-connections", flags->max_connections,
                  "Connections of clients and workers; fewer where ulimit -n "
                  "allows fewer")
      ->check(AtLeastOne())
      ->type_name("N")
      ->capture_default_str();
  app->add_option("--max-request-bytes", flags->max_request_bytes,
                  "Most bytes of a request")
      ->check(Within(1024, 64 << 20, "1024 to 67108864 bytes"))
      ->type_name("N")
      ->capture_default_str();
  app->add_flag("--log-requests", flags->log_requests,
                "Log a line about each request that ends, with its trace id "
                "if it has one");
  app->add_option("--client-timeout", flags->client_timeout_seconds,
                  "A client that neither finishes its request nor reads its "
                  "answer for this long is given up")
      ->check(Within(0.1, 1e6, "a number of seconds, 0.1 or more"))
      ->type_name("S")
      ->capture_default_str();
  app->add_option("--max-handshakes", flags->max_handshakes,
                  "TLS handshakes a second that may begin, of gRPC and of HTTP "
                  "each; more wait")
      ->check(Within(1, 1e6, "a whole number, 1 to 1000000"))
      ->type_name("N")
      ->capture_default_str();
  AddAccessFlags(app, &flags->access);
  AddPolicyFlags(app, &flags->policy);
}

int AvailableCores() {
  cpu_set_t set;
  const int usable =
      sched_getaffinity(0, sizeof(set), &set) == 0
          ? CPU_COUNT(&set)
          : static_cast<int>(std::thread::hardware_concurrency());
  // With more threads than the CPU quota, Linux would stop all of them at once
  // in the middle of a step.
  const double cores = std::min<double>(usable, ReadCgroupLimits().cores);
  return std::max(1, static_cast<int>(cores));
}

std::optional<int> ParseCommandLine(CLI::App* app, int argc, char** argv) {
  app->set_version_flag("--version", Version());
  RefuseEmptyValues(app);
  try {
    app->parse(argc, argv);
  } catch (const CLI::Success& done) {  // --help, --version
    return app->exit(done);
  } catch (const CLI::ParseError& error) {
    std::string line = error.what();
    for (char& c : line) {
      if (c == '\n') c = ' ';
    }
    LogWhyItEnds(absl::StrCat(line, " (see ", app->get_name(), " --help)"));
    return kBadInput;
  }
  return std::nullopt;
}

}  // namespace h2o
