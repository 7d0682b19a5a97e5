// Which field of the status has which name.
#include "coordinator/status_page.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

namespace h2o {
namespace {

using Json = nlohmann::ordered_json;

// With three digits behind the point.
double Milliseconds(double seconds) { return std::round(1e6 * seconds) / 1e3; }

Json RankJson(size_t number, const GroupStatus::Rank& rank) {
  const auto percentile = [&](double share) {
    return Milliseconds(Percentile(rank.recent_seconds, share));
  };
  return {{"rank", number},
          {"device", rank.place.device},
          {"address", rank.place.address},
          {"pid", rank.place.pid},
          {"pages_held", rank.slabs_held},
          {"pages_total", rank.slabs_total},
          {"steps", rank.steps.step_seconds.count()},
          {"step_ms_p50", percentile(0.5)},
          {"step_ms_p99", percentile(0.99)},
          {"all_reduce_wait_ms", Milliseconds(rank.steps.sum_wait_seconds)},
          {"skew_ms", Milliseconds(rank.steps.skew_seconds)},
          {"last_step_age_seconds", rank.last_step_age}};
}

Json GroupJson(const GroupStatus& group) {
  Json ranks = Json::array();
  for (size_t rank = 0; rank < group.ranks.size(); ++rank) {
    ranks.push_back(RankJson(rank, group.ranks[rank]));
  }
  return {{"group", group.number},
          {"running", group.running},
          {"draining", !group.leaving.empty()},
          {"leaving", group.leaving},
          {"ranks", std::move(ranks)}};
}

Json TenantJson(const TenantStatus& tenant) {
  return {{"name", tenant.name},
          {"waiting", tenant.waiting},
          {"running", tenant.running},
          {"pages", tenant.pages},
          {"tokens", tenant.tokens}};
}

Json FaultJson(const Fault& fault) {
  return {{"kind", Name(fault.kind)},
          {"group", fault.group},
          {"rank", fault.rank},
          {"device", fault.place.device},
          {"address", fault.place.address},
          {"pid", fault.place.pid},
          {"unix_seconds", fault.unix_seconds},
          {"words", fault.words}};
}

}  // namespace

std::string StatusPage(const StatusSource& source) {
  const EngineCounters& c = source.counters;
  Json groups = Json::array();
  for (const GroupStatus& group : source.groups) {
    groups.push_back(GroupJson(group));
  }
  Json tenants = Json::array();
  for (const TenantStatus& tenant : source.tenants) {
    tenants.push_back(TenantJson(tenant));
  }
  const Json status = {
      {"model", source.model},
      {"build", {{"version", source.version}, {"commit", source.commit}}},
      {"groups", std::move(groups)},
      {"queue",
       {{"waiting", c.queued},
        {"age_seconds", source.queue_age_seconds},
        {"tenants", std::move(tenants)}}},
      {"running", c.running},
      {"finished", c.finished},
      {"refused", c.refused},
      {"prompt_tokens", c.prompt_tokens},
      {"generated_tokens", c.generated_tokens},
      {"replays", c.replays},
      {"quarantined", c.quarantined},
      {"last_fault",
       source.last_fault ? FaultJson(*source.last_fault) : Json()}};
  return status.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace h2o
