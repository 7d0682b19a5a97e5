// Which metric has which name, and where its value comes from.
#include "coordinator/metrics_page.h"

#include <algorithm>
#include <string_view>

#include "base/prometheus_text.h"

namespace h2o {
namespace {

double Number(int64_t value) { return static_cast<double>(value); }

double Ratio(int64_t part, int64_t whole) {
  return whole > 0 ? Number(part) / Number(whole) : 0;
}

// Our own families, h2oserve_*, with the label `model`.
class OwnFamilies {
 public:
  OwnFamilies(const MetricsSource& source, PrometheusText* page)
      : source_(source), c_(source.counters), page_(*page) {}

  void Write() {
    Requests();
    Times();
    Tenants();
    Pages();
    Ranks();
    One("h2oserve_certificate_not_after_seconds", "gauge",
        "When the server's certificate expires, in Unix time; +Inf without TLS",
        source_.certificate_not_after);
    page_.Family("h2oserve_build_info", "gauge", "The program that runs");
    page_.Sample(
        Labels({{"version", source_.version}, {"commit", source_.commit}}), 1);
  }

 private:
  MetricLabels Labels(MetricLabels more = {}) const {
    more.insert(more.begin(), {"model", source_.model});
    return more;
  }
  void One(std::string_view name, std::string_view type, std::string_view help,
           double value) {
    page_.Family(name, type, help);
    page_.Sample(Labels(), value);
  }
  void One(std::string_view name, std::string_view help,
           const Histogram& histogram) {
    page_.Family(name, "histogram", help);
    page_.Sample(Labels(), histogram);
  }

  void Requests() {
    page_.Family("h2oserve_requests_total", "counter",
                 "Requests that ended, by how they ended");
    for (int i = 0; i < kOutcomes; ++i) {
      page_.Sample(Labels({{"outcome", Name(static_cast<Outcome>(i))}}),
                   Number(c_.ended_by[i]));
    }
    page_.Family("h2oserve_refused_total", "counter",
                 "Requests that were refused, by the reason");
    for (int i = 0; i < kRefusals; ++i) {
      page_.Sample(Labels({{"reason", Name(static_cast<Refusal>(i))}}),
                   Number(c_.refused_for[i]));
    }
    One("h2oserve_requests_running", "gauge", "Requests that a group runs",
        Number(c_.running));
    One("h2oserve_requests_waiting", "gauge", "Requests in the queue",
        Number(c_.queued));
    One("h2oserve_queue_age_seconds", "gauge",
        "How long the oldest request in the queue has waited",
        source_.queue_age_seconds);
    One("h2oserve_replays_total", "counter",
        "Requests that ran again after their group was lost",
        Number(c_.replays));
    One("h2oserve_quarantined_total", "counter",
        "Requests that ended because two groups were lost while they ran",
        Number(c_.quarantined));
    One("h2oserve_groups_ready", "gauge",
        "Groups of workers that take requests",
        static_cast<double>(std::count_if(
            source_.groups.begin(), source_.groups.end(),
            [](const GroupStatus& group) { return group.leaving.empty(); })));
  }

  void Times() {
    One("h2oserve_queue_seconds", "From a request's arrival to its start",
        c_.queue_seconds);
    One("h2oserve_time_to_first_token_seconds",
        "From a request's arrival to its first token", c_.first_token_seconds);
    One("h2oserve_time_per_output_token_seconds",
        "Mean time of a token behind the first, of a request",
        c_.token_seconds);
    One("h2oserve_request_seconds", "From a request's arrival to its end",
        c_.request_seconds);
    One("h2oserve_prompt_tokens_total", "counter",
        "Tokens of prompts whose answer has begun", Number(c_.prompt_tokens));
    One("h2oserve_generation_tokens_total", "counter", "Tokens generated",
        Number(c_.generated_tokens));
    One("h2oserve_evicted_tokens_total", "counter",
        "Tokens that a head evicted, of the head that evicted most",
        Number(c_.evicted_tokens));
    One("h2oserve_attention_mass_kept",
        "Share of a request's attention that went to tokens still stored at "
        "its end",
        c_.mass_kept);
  }

  void Tenants() {
    page_.Family("h2oserve_tenant_tokens_total", "counter",
                 "Tokens of prompts and answers of requests that have ended");
    for (const TenantStatus& tenant : source_.tenants) {
      page_.Sample(Labels({{"tenant", tenant.name}}), Number(tenant.tokens));
    }
  }

  void Pages() {
    page_.Family("h2oserve_kv_pages", "gauge",
                 "Pages of the KV pools, over all ranks");
    page_.Sample(Labels({{"state", "held"}}), Number(c_.slabs_held));
    page_.Sample(Labels({{"state", "free"}}),
                 Number(c_.slabs_total - c_.slabs_held));
    One("h2oserve_admission_headroom_sequences", "gauge",
        "How many more requests like the last ones would start at once",
        Number(c_.headroom_sequences));
    One("h2oserve_kv_usage_ratio", "gauge", "Pages held, of all pages",
        Ratio(c_.slabs_held, c_.slabs_total));
  }

  // A family with one series for each rank.
  template <typename ValueOf>
  void OfRanks(std::string_view name, std::string_view type,
               std::string_view help, ValueOf&& value_of) {
    page_.Family(name, type, help);
    for (const GroupStatus& group : source_.groups) {
      for (size_t rank = 0; rank < group.ranks.size(); ++rank) {
        page_.Sample(Labels({{"group", std::to_string(group.number)},
                             {"rank", std::to_string(rank)}}),
                     value_of(group.ranks[rank]));
      }
    }
  }

  void Ranks() {
    using Rank = GroupStatus::Rank;
    OfRanks("h2oserve_step_seconds", "histogram",
            "Time of a step on the rank's device",
            [](const Rank& rank) { return rank.steps.step_seconds; });
    OfRanks("h2oserve_all_reduce_wait_seconds", "gauge",
            "Time of a step in sums over the ranks, on average of the last "
            "ones; 0 on GPUs",
            [](const Rank& rank) { return rank.steps.sum_wait_seconds; });
    OfRanks("h2oserve_rank_skew_seconds", "gauge",
            "Time of a step in the rank's own work, beyond that of its fastest "
            "neighbour, on average of the last ones",
            [](const Rank& rank) { return rank.steps.skew_seconds; });
    OfRanks("h2oserve_rank_last_step_age_seconds", "gauge",
            "Time since the rank answered a step, or was ready",
            [](const Rank& rank) { return rank.last_step_age; });
    page_.Family("h2oserve_faults_total", "counter",
                 "Faults of ranks, by kind; rank \"all\": not of one alone");
    for (const FaultLog::Count& fault : source_.faults) {
      page_.Sample(
          Labels({{"group", std::to_string(fault.group)},
                  {"rank", fault.rank < 0 ? "all" : std::to_string(fault.rank)},
                  {"kind", Name(fault.kind)}}),
          Number(fault.count));
    }
  }

  const MetricsSource& source_;
  const EngineCounters& c_;
  PrometheusText& page_;
};

// The families that routers, autoscalers and dashboards of vLLM read: one
// series each, with its names and labels.
class VllmFamilies {
 public:
  VllmFamilies(const MetricsSource& source, PrometheusText* page)
      : source_(source), c_(source.counters), page_(*page) {}

  void Write() {
    Gauges();
    Totals();
    One("vllm:time_to_first_token_seconds", c_.first_token_seconds);
    One("vllm:request_time_per_output_token_seconds", c_.token_seconds);
    One("vllm:e2e_request_latency_seconds", c_.request_seconds);
    One("vllm:request_queue_time_seconds", c_.queue_seconds);
    One("vllm:request_prefill_time_seconds", c_.prefill_seconds_of);
    One("vllm:request_decode_time_seconds", c_.decode_seconds_of);
    One("vllm:inter_token_latency_seconds", c_.token_gap_seconds);
    One("vllm:request_prompt_tokens", c_.prompt_length_of);
    One("vllm:request_generation_tokens", c_.answer_length_of);
  }

 private:
  MetricLabels Labels(MetricLabels more = {}) const {
    more.insert(more.begin(), {{"model_name", source_.model}, {"engine", "0"}});
    return more;
  }
  void One(std::string_view name, std::string_view type, double value) {
    page_.Family(name, type, "As vLLM's of this name");
    page_.Sample(Labels(), value);
  }
  void One(std::string_view name, const Histogram& histogram) {
    page_.Family(name, "histogram", "As vLLM's of this name");
    page_.Sample(Labels(), histogram);
  }

  void Gauges() {
    One("vllm:num_requests_running", "gauge", Number(c_.running));
    One("vllm:num_requests_waiting", "gauge", Number(c_.queued));
    One("vllm:kv_cache_usage_perc", "gauge",
        Ratio(c_.slabs_held, c_.slabs_total));
    page_.Family("vllm:cache_config_info", "gauge",
                 "block_size x num_gpu_blocks tokens fill the cache");
    int64_t slots_of_a_head = 0;  // over all groups
    for (const GroupStatus& group : source_.groups) {
      slots_of_a_head += group.slots_of_a_head;
    }
    const int64_t blocks =
        source_.page_slots > 0 ? slots_of_a_head / source_.page_slots : 0;
    page_.Sample(Labels({{"block_size", std::to_string(source_.page_slots)},
                         {"num_gpu_blocks", std::to_string(blocks)}}),
                 1);
  }

  void Totals() {
    One("vllm:prompt_tokens_total", "counter", Number(c_.prompt_tokens));
    One("vllm:generation_tokens_total", "counter", Number(c_.generated_tokens));
    One("vllm:num_preemptions_total", "counter", 0);
    One("vllm:prefix_cache_queries_total", "counter", 0);
    One("vllm:prefix_cache_hits_total", "counter", 0);
    page_.Family("vllm:request_success_total", "counter",
                 "As vLLM's of this name");
    const auto ended = [&](Outcome outcome) {
      return Number(c_.ended_by[static_cast<size_t>(outcome)]);
    };
    const std::pair<const char*, double> by_reason[] = {
        {"stop", ended(Outcome::kStop)},
        {"length", ended(Outcome::kLength)},
        {"abort", ended(Outcome::kCancelled) + ended(Outcome::kDeadline)},
        {"error", ended(Outcome::kError)}};
    for (const auto& [reason, count] : by_reason) {
      page_.Sample(Labels({{"finished_reason", reason}}), count);
    }
  }

  const MetricsSource& source_;
  const EngineCounters& c_;
  PrometheusText& page_;
};

}  // namespace

std::string MetricsPage(const MetricsSource& source) {
  PrometheusText page;
  OwnFamilies(source, &page).Write();
  if (source.vllm_names) VllmFamilies(source, &page).Write();
  return page.text();
}

}  // namespace h2o
