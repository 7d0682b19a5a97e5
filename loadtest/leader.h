// The leader of several generators: hands out the load, gathers the records.
//
// Generators ask over HTTP, JSON in and out; the leader never calls them.
//   POST /join    {"name"}                      -> {"generator"}
//   POST /clock   {}                            -> {"now"}
//   POST /next    {"generator"}                 -> {"state": "wait" | "run" |
//       "done"}; of a run the rest of a NextMessage
//   POST /report  a ReportMessage               -> {"go_on"}
//   POST /leave   {"generator"}: it has heard "done", or was stopped
// Times are of the leader's clock; generators convert.  Keys never travel here:
// each generator is given its own.
//
// Threads  one owner; requests come in the HTTP server's threads.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "base/host_port.h"
#include "loadtest/fleet.h"
#include "loadtest/pace.h"

namespace h2o {

class Leader : public Fleet {
 public:
  // Listens; Run waits until `generators` have joined.  `pace` must outlive it.
  // Destroying it lets the generators go.
  // Errors: those of HttpServer::Start.
  static absl::StatusOr<std::unique_ptr<Leader>> Listen(const HostPort& where,
                                                        int generators,
                                                        const Pace* pace);
  virtual const HostPort& address() const = 0;
  virtual int joined() const = 0;
};

}  // namespace h2o
